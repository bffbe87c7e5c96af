"""Writes the pages of an albums job."""

from __future__ import annotations

from pipelines.albums.output import ALBUMS_HTML, ALBUMS_REPORT_HTML
from pipelines.albums.pages.counts import AlbumCounts
from pipelines.albums.pages.page import album_page
from pipelines.albums.pages.parts import parts_of
from pipelines.albums.pages.report import album_report_page
from pipelines.albums.pages.rows import album_rows
from pipelines.geotag.output import MAP_HTML
from pipelines.writing.directory import OutputDirectory


def write_album_pages(output: str) -> None:
    """Writes the map and the report of an albums job into its output directory.

    Both are made of `albums/part-*.parquet`, which may hold any number of rows: they are read part
    by part, twice. The map shows the albums with the most photos placed, and says what is left out.
    Equal parts give equal pages.

    Args:
        output: Output directory of the job, a path or a URL that fsspec opens.

    Raises:
        OSError: A part cannot be read.
        ValueError: A part is not of `schemas.albums`.
    """
    directory = OutputDirectory(output)
    parts = parts_of(directory)
    counts = AlbumCounts.of(parts)
    rows = album_rows(parts, counts)
    directory.write(ALBUMS_HTML, data=album_page(rows, counts, directory.exists(MAP_HTML)).encode())
    directory.write(ALBUMS_REPORT_HTML, data=album_report_page(counts).encode())
