"""The pages of a run: `map.png` for a report, `map.html` to look around in, `report.html` to judge.

All read a finished output directory and nothing else. A run of more rows than a page can show is
thinned evenly (every k-th row in the order of the files), and the page says so.
"""

from pipelines.geotag.pages.page import write_map_html
from pipelines.geotag.pages.picture import write_map_png
from pipelines.geotag.pages.report import write_report_html

__all__ = ["write_map_html", "write_map_png", "write_report_html"]
