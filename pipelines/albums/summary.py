"""What became of the photos of an albums job, for people. Knows no Beam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from locdiffusion.cli.terminal import printable
from locdiffusion.photos.left_out import number
from pipelines.albums.output import MANIFESTS, AlbumsOutput
from pipelines.writing.progress import duration
from schemas.albums import Standing

MOST_SHOWN = 10
"""Most contradictions that the console names."""

MEANINGS = {
    Standing.ANCHOR: "have a position that is believed",
    Standing.PLACED: "are placed by the others of their album",
    Standing.CONTRADICTS: "have a position that the others contradict",
    Standing.NO_TIME: "have no time, or that of a clock never set",
    Standing.ALONE: "are in an album without any position",
}


def summary_table(summary: Mapping[str, Any]) -> str:
    """The lines of a summary."""
    lines = [
        f"albums       {number(summary['photos'], 'photo')} of {number(summary['albums'], 'album')}"
    ]
    for standing, meaning in MEANINGS.items():
        name = standing.value.replace("_", " ")
        lines.append(f"{name:<12} {summary['standings'][standing.value]:>9,}  {meaning}")
    named = summary["contradictions"]
    for one in named[:MOST_SHOWN]:
        lines.append(
            f"             {one['key']} of {one['album']}: {one['distance_km']:,.0f} km from where "
            "the others put it"
        )
    more = len(named) + summary["unlisted"] - MOST_SHOWN
    if more > 0:
        lines.append(f"             and {more:,} more; see albums/_summary.json")
    alone = summary["standings"][Standing.ALONE.value] and summary["albums"] > 1
    if alone and "camera" in summary["configuration"].get("album_by", ""):
        lines.append(
            "if one person carried all cameras of a folder, --album-by folder lets them place each "
            "other, and --album-by none those of all folders"
        )
    return "\n".join(map(printable, lines))


def progress(output: AlbumsOutput) -> Callable[[float], str]:
    """Returns what makes a line of progress from the seconds since the start."""

    def line(seconds: float) -> str:
        parts = len(output.names(MANIFESTS, output.FOLDERS[MANIFESTS]))
        return f"{duration(seconds):>7}  {number(parts, 'part')} written"

    return line
