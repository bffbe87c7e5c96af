"""The pages of a run: `map.png`, `map.html` to pan and zoom, `report.html` with the accuracy.

A page reads a finished output directory and nothing else. If a run has more rows than a page can
show, the page takes every k-th row in the order of the files, and says so.
"""

from pipelines.geotag.pages.page import write_map_html
from pipelines.geotag.pages.picture import write_map_png
from pipelines.geotag.pages.report import write_report_html

__all__ = ["write_map_html", "write_map_png", "write_report_html"]
