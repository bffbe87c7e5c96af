"""Writes `albums_report.html`: how photos stand in their albums, and how sure the albums are."""

from __future__ import annotations

import math

import numpy as np

from locdiffusion.albums.contradictions import NULL_ISLAND_DEG
from locdiffusion.decoding.geotag import place_text
from locdiffusion.evaluate.reliability import wilson
from locdiffusion.photos.left_out import number
from pipelines.albums.pages.counts import GAP_ENDS, AlbumCounts, Contradiction
from pipelines.geotag.pages.charts import coverage_chart, percent, radius_chart
from pipelines.geotag.pages.filling import escaped, fill
from pipelines.geotag.pages.report import TEMPLATE
from pipelines.geotag.pages.sections import figure, section, table, tiles
from schemas.albums import Standing

MOST_ALBUMS = 50
"""Albums that have a line of their own."""

NAMES = {
    Standing.ANCHOR: ("anchors", "their own position is believed"),
    Standing.PLACED: ("placed", "by the others of their album"),
    Standing.CONTRADICTS: ("contradict", "their own position is not believed"),
    Standing.ALONE: ("alone", "no other photo says where"),
    Standing.NO_TIME: ("without a time", "so the album says nothing"),
}
NO_TRUTH = (
    "No photo that is placed has a known position, so nothing can be said about it here. "
    "<code>locdiffusion albums check TABLE</code> hides known positions and looks."
)
NO_ALBUM = "There is no row of albums here."


def album_report_page(counts: AlbumCounts) -> str:
    """Fills the page. It shows no times of the run, so that the same rows give the same page."""
    photos, albums = counts.total(), len(counts.standing)
    body = f"<p>{NO_ALBUM}</p>"
    if photos:
        body = "".join(
            [
                _standings(counts),
                _radii(counts) if counts.radius_90.n else "",
                _truth(counts),
                _contradictions(counts),
                _albums(counts),
            ]
        )
    return fill(
        TEMPLATE,
        {
            "TITLE": "Albums report",
            "HEADING": "What do the albums say?",
            "SUBTITLE": escaped(f"{number(photos, 'photo')} of {number(albums, 'album')}"),
            "MAP": "albums.html",
            "BODY": body,
        },
    )


def length_text(km: float) -> str:
    """A length in words: metres below one kilometre, else three digits."""
    if km < 1:
        return f"{1000 * km:,.0f} m"
    return f"{km:.3g} km" if km < 100 else f"{float(f'{km:.3g}'):,.0f} km"


def span_text(hours: float) -> str:
    """A time in words: 12 minutes, 3.5 hours, 20 days."""
    for least, name in ((48.0, "days"), (1.5, "hours")):
        if hours >= least:
            return f"{hours / {'days': 24.0, 'hours': 1.0}[name]:,.3g} {name}"
    return number(max(1, round(60.0 * hours)), "minute")


def _standings(counts: AlbumCounts) -> str:
    boxes = [(name, f"{counts.total(one):,}", small) for one, (name, small) in NAMES.items()]
    return section("How photos stand", tiles(boxes))


def _radii(counts: AlbumCounts) -> str:
    """How far the album is sure, by the time to the nearest anchor, and what a photo says alone."""
    ends = np.asarray(GAP_ENDS)
    hours = [ends[0] / 10**0.25, *(ends[1:] / 10**0.25), ends[-1] * 10**0.25]
    alone = counts.compared[1]
    curves = [
        ("90 % radius", counts.radius_90.by_gap(0.5)),
        ("50 % radius", counts.radius_50.by_gap(0.5)),
    ]
    words = "The farther in time the nearest anchor, the wider the radius. Lines are medians; the "
    words += "band holds eight of ten radii of 90 %."
    middle = length_text(counts.radius_90.quantile(0.5))
    body = f"<p>The median 90 % radius of the photos placed is <strong>{middle}</strong>.</p>"
    if alone.n:
        curves.append(("90 % radius, the photo alone", alone.by_gap(0.5)))
        middles = [f"<strong>{length_text(one.quantile(0.5))}</strong>" for one in counts.compared]
        body += (
            f"<p>{number(alone.n, 'photo')} of these have an answer of their own, too. Their "
            f"median 90 % radius is {middles[0]} with the album and {middles[1]} alone.</p>"
        )
    band = counts.radius_90.by_gap(0.1), counts.radius_90.by_gap(0.9)
    chart = radius_chart([float(hour) for hour in hours], curves, band)
    return section("How sure is the album?", body + figure(chart, words))


def _truth(counts: AlbumCounts) -> str:
    """Coverage of the radii of photos that are placed and whose position is known all the same."""
    heading = "Can the radii be believed?"
    n, inside = counts.inside["n"], counts.inside
    if not n:
        return section(heading, f"<p>{NO_TRUTH}</p>")
    coverages = [
        (f"{name} radius", wanted, wilson(inside[column], n, 0.95))
        for name, wanted, column in (("50 %", 0.5, "radius_50_km"), ("90 %", 0.9, "radius_90_km"))
    ]
    rows = [_accuracy(counts, "with the album", "")]
    if inside["alone_n"]:
        rows.append(_accuracy(counts, "alone", "alone_"))
    caption = "Share of known positions inside the radii of the album, and what it should be. The "
    caption += "bar is what chance allows if photos are wrong one by one; photos of one outing are "
    caption += "wrong together."
    heads = ["answer", "photos", "median error", "in 50 % radius", "in 90 % radius"]
    about = f"<p>{number(n, 'photo')} placed whose position is known and was not used.</p>"
    return section(heading, about + figure(coverage_chart(coverages), caption) + table(heads, rows))


def _accuracy(counts: AlbumCounts, name: str, prefix: str) -> tuple[str, list[str]]:
    n = counts.inside[f"{prefix}n"]
    error = counts.alone_error_km if prefix else counts.error_km
    shares = [counts.inside[f"{prefix}radius_{level}_km"] / n for level in (50, 90)]
    return name, [f"{n:,}", length_text(error.quantile(0.5)), *(percent(s, 0) for s in shares)]


def _contradictions(counts: AlbumCounts) -> str:
    """The photos whose own position is not believed, each with the reason."""
    total = counts.total(Standing.CONTRADICTS)
    if not total:
        return ""
    about = (
        "<p>These positions cannot be reached from the others in the time between, and none of "
        "the other photos is placed by them. The photo is placed by its album; its own position "
        "stays in its columns.</p>"
    )
    lines = []
    for one in counts.contradictions:
        taken = f", {one.taken:%Y-%m-%d %H:%M}" if one.taken else ""
        text = f"({one.album}{taken}): {why(one)}"
        lines.append(f"<li><strong>{escaped(one.key or '(no name)')}</strong> {escaped(text)}</li>")
    if total > len(lines):
        lines.append(f"<li>and {total - len(lines):,} more</li>")
    return section(
        f"{number(total, 'photo')} that contradict{'s' * (total == 1)} the rest",
        f"{about}<ul>{''.join(lines)}</ul>",
    )


def why(one: Contradiction) -> str:
    """Why a position is not believed, in words."""
    if math.isnan(one.latitude):
        return "its own position is not in the table"
    said = place_text(one.latitude, one.longitude)
    if math.hypot(one.latitude, one.longitude) < NULL_ISLAND_DEG:
        return f"{said}, which software writes for no position"
    if math.isnan(one.off_km):
        return f"{said}; the album does not place it"
    said += f", {length_text(one.off_km)} from where the album places it"
    if math.isnan(one.gap_hours):
        return said
    said += f", {span_text(one.gap_hours)} from the nearest anchor"
    if one.gap_hours * 60.0 < 1.0:
        return said
    return f"{said}: {float(f'{one.off_km / one.gap_hours:.3g}'):,.0f} km/h"


def _albums(counts: AlbumCounts) -> str:
    """A table with a line for each of the largest albums."""
    order = sorted(counts.standing, key=lambda name: (-counts.standing[name].sum(), name))
    names = [name for name, _ in NAMES.values()]
    column = [[*Standing].index(one) for one in NAMES]
    rows = [
        (name, [f"{count:,}" for count in (found.sum(), *found[column])])
        for name in order[:MOST_ALBUMS]
        for found in (counts.standing[name],)
    ]
    more = len(order) - len(rows)
    about = f"<p>The {MOST_ALBUMS} largest; {number(more, 'album')} more.</p>" if more else ""
    return section("The albums", about + table(["album", "photos", *names], rows))
