"""The pages of a run: `map.png`, `map.html` to pan and zoom, `report.html` with the accuracy.

A page is made of the digest of a run alone. If a run has more rows than a page can show, the page
shows an even sample, and says so.
"""

from pipelines.geotag.pages.page import write_map_html
from pipelines.geotag.pages.picture import write_map_png
from pipelines.geotag.pages.report import write_report_html

__all__ = ["write_map_html", "write_map_png", "write_report_html"]
