"""The two pictures of a run: `map.png` for a report, `map.html` to look around in.

Both read the predictions of a finished output directory and nothing else. A run of more rows than
a picture can show is thinned evenly (every k-th row in the order of the files), and says so.
"""

from pipelines.maps.page import write_map_html
from pipelines.maps.picture import write_map_png

__all__ = ["write_map_html", "write_map_png"]
