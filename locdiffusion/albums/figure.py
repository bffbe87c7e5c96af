"""Draws what a check of albums found: coverage by nominal level, and errors by gap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.check import GAPS, HiddenPhotos
from locdiffusion.drawing.canvas import new_axes, new_figure, png
from locdiffusion.drawing.palette import FAINT, INK, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float = NDArray[np.float64]

FEWEST = 10
"""Photos of which a curve or a point is drawn at least."""

STEPS_PER_DECADE = 2
"""Classes of gaps for each factor of ten."""

NEAREST_KM = 1e-3
"""Errors below this are drawn here: positions are known no better."""


def check_png(rows: HiddenPhotos) -> bytes:
    """Draws two panels as a PNG: coverage by nominal level, and errors by gap.

    Args:
        rows: Hidden photos of a check.
    """
    figure = new_figure(13, 5.4)
    photos, albums = f"{len(rows):,} hidden photos", f"{len(np.unique(rows.album)):,} albums"
    coverage = new_axes(figure, 121, f"Are the radii honest? {photos} of {albums}")
    _draw_coverage(coverage, rows)
    _draw_errors(new_axes(figure, 122, "Median error by the gap to the nearest anchor"), rows)
    return png(figure, bbox_inches="tight")


def by_gap(rows: HiddenPhotos) -> Iterator[tuple[str, HiddenPhotos]]:
    """Yields the photos of each class of GAPS that has enough of them, with its name."""
    low = -1.0
    for name, high in GAPS.items():
        part = rows.take((rows.gap_hours > low) & (rows.gap_hours <= high))
        low = high
        if len(part) >= FEWEST:
            yield (f"gap up to {name}" if np.isfinite(high) else "longer gaps"), part


def _draw_coverage(axes: Axes, rows: HiddenPhotos) -> None:
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.0, dashes=(4, 3), label="honest")
    for colour, (name, part) in zip(SERIES, by_gap(rows), strict=False):
        label = f"{name} (n = {len(part):,})"
        axes.plot(*_curve(part.level), color=colour, linewidth=1.4, label=label)
    axes.plot(*_curve(rows.level), color=INK, linewidth=2.4, label=f"all (n = {len(rows):,})")
    for nominal, radius_km in ((50, rows.radius_50_km), (90, rows.radius_90_km)):
        inside = 100.0 * np.mean(rows.error_km <= radius_km)
        axes.plot(nominal, inside, color=INK, marker="o", markersize=7)
        text = f"{nominal} % radius: {inside:.0f} %"
        style: dict[str, Any] = {"ha": "right", "fontsize": 10, "color": INK}
        axes.annotate(text, (nominal, inside), (-9, 7), textcoords="offset points", **style)
    axes.set(xlim=(0, 100), ylim=(0, 101))
    axes.set(xlabel="stated probability (%)", ylabel="truths inside the radius (%)")
    _legend_below(axes)


def _curve(level: Float) -> tuple[Float, Float]:
    """The share of levels ``(n,)`` below each probability, both in percent."""
    stated = np.linspace(0.0, 100.0, 201)
    return stated, 100.0 * np.searchsorted(np.sort(level), stated / 100.0, "right") / len(level)


def _draw_errors(axes: Axes, rows: HiddenPhotos) -> None:
    step = np.floor(STEPS_PER_DECADE * np.log10(np.maximum(rows.gap_hours, 1.0 / 60.0)))
    parts = [rows.take(step == one) for one in np.unique(step)]
    parts = [part for part in parts if len(part) >= FEWEST] or [rows]
    hours = [max(1.0 / 60.0, float(np.median(part.gap_hours))) for part in parts]
    half = _medians([part.radius_50_km for part in parts])
    most = _medians([part.radius_90_km for part in parts])
    axes.fill_between(
        hours, half, most, color=SERIES[0], alpha=0.15, label="from 50 % to 90 % radius"
    )
    # Thinner on thicker lines: where people stay, album and nearest anchor are the same.
    for name, column, colour, marker, width in (
        ("great circle", "interpolated_km", SERIES[4], "^", 1.8),
        ("nearest anchor", "nearest_km", SERIES[1], "s", 4.0),
        ("album", "error_km", SERIES[0], "o", 1.8),
    ):
        middle = _medians([getattr(part, column) for part in parts])
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": width + 3.7}
        axes.plot(hours, middle, label=name, linewidth=width, **style)
    for x, part in zip(hours, parts, strict=True):
        above = axes.get_xaxis_transform()
        axes.text(
            x, 1.015, f"{len(part):,}", transform=above, ha="center", color=FAINT, fontsize=8.5
        )
    axes.set(xscale="log", yscale="log")
    ticks = {1 / 60: "1 min", 1 / 6: "10 min", 1: "1 h", 6: "6 h", 24: "1 day", 168: "1 week"}
    left, right = axes.get_xlim()
    shown = {hour: name for hour, name in ticks.items() if left <= hour <= right}
    axes.set_xticks([*shown], [*shown.values()])
    axes.xaxis.minorticks_off()
    axes.set(xlabel="gap in time (log scale)", ylabel="km (log scale)")
    axes.yaxis.set_major_formatter("{x:g}")
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    """Puts the legend below the axes, where there are no curves."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.12)}
    axes.legend(ncols=2, frameon=False, fontsize=9.5, **place)


def _medians(columns: list[Float]) -> Float:
    return np.maximum([float(np.median(column)) for column in columns], NEAREST_KM)
