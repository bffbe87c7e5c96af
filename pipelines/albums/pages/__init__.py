"""The pages of an albums job: `albums.html`, a map with a time line, and `albums_report.html`.

Both are made of the rows of `albums/` alone, so a job that geotagged nothing has them too.
"""

from pipelines.albums.pages.writing import write_album_pages

__all__ = ["write_album_pages"]
