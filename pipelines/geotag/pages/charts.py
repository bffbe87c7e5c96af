"""Draws the charts of `report.html` as SVG; equal numbers give equal bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from locdiffusion.drawing.palette import BORDER, FAINT, GRID, INK, SERIES
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.reliability import Reliability
from pipelines.geotag.pages.filling import escaped
from schemas.geotags import THRESHOLDS_KM

Point = tuple[float, float]

NEAREST_KM, FARTHEST_KM = 1.0, 20_000.0
CURVE_POINTS = 240
GAP_HOURS = (1 / 240, 10_000.0)
GAP_NAMES = {1 / 60: "1 min", 1 / 6: "10 min", 1: "1 h", 6: "6 h", 24: "1 day"}
GAP_NAMES |= {168: "1 week", 8766: "1 year"}
LENGTHS_KM = (0.001, 20_038.0)
LENGTH_NAMES = {0.001: "1 m", 0.01: "10 m", 0.1: "100 m", 1: "1 km", 10: "10 km"}
LENGTH_NAMES |= {100: "100 km", 1000: "1,000 km", 10_000: "10,000 km"}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Frame:
    """Size and margins of a chart in pixels; coordinates inside go from 0 to 1, y upwards."""

    width: int = 460
    height: int = 300
    left: int = 50
    right: int = 26
    top: int = 12
    bottom: int = 44

    def at(self, x: float, y: float) -> Point:
        """Converts coordinates to pixels."""
        across = self.width - self.left - self.right
        down = self.height - self.top - self.bottom
        return self.left + x * across, self.height - self.bottom - y * down


def accuracy_chart(error_km: NDArray[np.float64], stated: Sequence[float]) -> str:
    """Draws the share of photos within each distance, and the stated one at `THRESHOLDS_KM`.

    The errors ``(n,)`` are in rising order.
    """
    frame = Frame()
    kilometres = np.geomspace(NEAREST_KM, FARTHEST_KM, CURVE_POINTS)
    share = np.searchsorted(error_km, kilometres, "right") / len(error_km)
    curve = [(_log(km), y) for km, y in zip(kilometres.tolist(), share.tolist(), strict=True)]
    stated_curve = [(_log(km), y) for km, y in zip(THRESHOLDS_KM, stated, strict=True)]
    dots = [
        _dot(frame, place, SERIES[1], f"stated within {km:,} km: {percent(place[1])}")
        for km, place in zip(THRESHOLDS_KM, stated_curve, strict=True)
    ]
    ticks = [(_log(km), f"{km:,g}") for km in (1, 10, 25, 100, 200, 750, 2500, 10_000)]
    return _chart(
        frame,
        "Share of photos within a distance of the known position",
        _axes(frame, ticks, "km from the known position (log)", "share of photos"),
        _line(frame, curve, SERIES[0], 2.5),
        _line(frame, stated_curve, SERIES[1], 1.5, dashes="5 4"),
        *dots,
        _legend(frame, [("as it is", SERIES[0]), ("as stated", SERIES[1])]),
    )


def reliability_chart(reliabilities: Sequence[Reliability]) -> str:
    """Draws stated probabilities against the share of cases that came true."""
    frame = Frame()
    parts = [_line(frame, [(0, 0), (1, 1)], FAINT, 1, dashes="3 4")]
    legend = []
    for colour, curve in zip(SERIES, reliabilities, strict=False):
        name = f"within {curve.threshold_km:,g} km"
        legend.append((name, colour))
        places = [(b.probability, b.frequency.value) for b in curve.bins]
        parts.append(_line(frame, places, colour, 1.5))
        for b in curve.bins:
            ends = [(b.probability, b.frequency.low), (b.probability, b.frequency.high)]
            tooltip = f"{name}: stated {percent(b.probability)}, found {percent(b.frequency.value)}"
            parts.append(_line(frame, ends, colour, 1))
            place = (b.probability, b.frequency.value)
            parts.append(_dot(frame, place, colour, f"{tooltip} of {b.n:,}"))
    ticks = [(share, percent(share, 0)) for share in SHARES]
    return _chart(
        frame,
        "Stated probability against what came true",
        _axes(frame, ticks, "stated probability", "share that came true"),
        *parts,
        _legend(frame, legend),
    )


def coverage_chart(coverages: Sequence[tuple[str, float, Estimate]]) -> str:
    """Draws for each radius its name, the share of truths it should hold, and the one it holds."""
    frame = Frame(height=46 * len(coverages) + 56, left=96)
    ticks = [(share, percent(share, 0)) for share in SHARES]
    parts = []
    for row, (name, wanted, found) in enumerate(coverages):
        y = 1 - (row + 0.5) / len(coverages)
        reach = 0.32 / len(coverages)
        x_text, y_text = frame.at(0, y)
        parts.append(_text(x_text - 10, y_text + 4, name, "end"))
        parts.append(_line(frame, [(wanted, y - reach), (wanted, y + reach)], INK, 2))
        parts.append(_line(frame, [(found.low, y), (found.high, y)], SERIES[0], 3))
        parts.append(_dot(frame, (found.value, y), SERIES[0], f"{name}: {percent(found.value)}", 6))
    return _chart(
        frame,
        "Share of known positions inside the stated radii",
        _axes(frame, ticks, "share inside (dot), and what it should be (mark)", ""),
        *parts,
    )


def radius_chart(
    hours: Sequence[float],
    curves: Sequence[tuple[str, NDArray[np.float64]]],
    band: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> str:
    """Draws lengths in km over gaps in time, both on logarithmic scales.

    Args:
        hours: Middles of the classes of gaps, G of them.
        curves: Name and lengths ``(G,)`` of each curve; NaN where there is none.
        band: Lengths ``(G,)`` at the lower and the upper rim of the band.
    """
    frame = Frame(left=78)
    x = [_log(hour, *GAP_HOURS) for hour in hours]
    rims = [_places(x, km) for km in band]
    parts = [_area(frame, [*rims[0], *reversed(rims[1])], SERIES[0])]
    ticks = [(_log(hour, *GAP_HOURS), name) for hour, name in GAP_NAMES.items()]
    axes = _axes(frame, ticks, "time to the nearest anchor (log)", "")
    for length, name in LENGTH_NAMES.items():
        y = _log(length, *LENGTHS_KM)
        axes += _line(frame, [(0, y), (1, y)], GRID, 1)
        axes += _text(frame.at(0, y)[0] - 6, frame.at(0, y)[1] + 4, name, "end")
    for (name, km), colour in zip(curves, SERIES, strict=False):
        places = _places(x, km)
        parts.append(_line(frame, places, colour, 2))
        for place, value in zip(places, km[np.isfinite(km)].tolist(), strict=True):
            parts.append(_dot(frame, place, colour, f"{name}: {value:,.3g} km"))
    names = [(name, colour) for (name, _), colour in zip(curves, SERIES, strict=False)]
    title = "Radii by the time to the nearest anchor"
    low = frame.height - frame.bottom - 17 * len(names) - 16
    return _chart(frame, title, axes, *parts, _legend(frame, names, frame.width - 236, low))


def _places(x: Sequence[float], km: NDArray[np.float64]) -> list[Point]:
    """Places of lengths that are known, in the coordinates of a frame."""
    return [
        (at, _log(float(np.clip(length, *LENGTHS_KM)), *LENGTHS_KM))
        for at, length in zip(x, km.tolist(), strict=True)
        if np.isfinite(length)
    ]


def percent(share: float, digits: int = 1) -> str:
    """Formats a share in percent."""
    return f"{100 * share:.{digits}f} %"


def _log(value: float, low: float = NEAREST_KM, high: float = FARTHEST_KM) -> float:
    return math.log(value / low) / math.log(high / low)


def _chart(frame: Frame, title: str, *parts: str) -> str:
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escaped(title)}"><title>{escaped(title)}</title>{"".join(parts)}</svg>'
    )


def _axes(frame: Frame, ticks: Sequence[tuple[float, str]], x_name: str, y_name: str) -> str:
    """Draws grid and numbers; the y axis, a share from 0 to 1, only if it has a name."""
    parts = []
    low, base = frame.height - frame.bottom + 16, frame.height - 8
    for x, label in ticks:
        parts.append(_line(frame, [(x, 0), (x, 1)], GRID, 1))
        parts.append(_text(frame.at(x, 0)[0], low, label, "middle"))
    middle = frame.at(0.5, 0.5)
    parts.append(_text(middle[0], base, x_name, "middle", FAINT))
    if y_name:
        for share in SHARES:
            parts.append(_line(frame, [(0, share), (1, share)], GRID, 1))
            x, y = frame.at(0, share)
            parts.append(_text(x - 6, y + 4, f"{100 * share:.0f} %", "end"))
    return "".join(parts)


def _legend(
    frame: Frame,
    entries: Sequence[tuple[str, str]],
    left: float | None = None,
    top: float | None = None,
) -> str:
    """Names colours; in the upper left, unless its place in pixels is given."""
    parts = []
    for row, (name, colour) in enumerate(entries):
        x = frame.left + 12 if left is None else left
        y = (frame.top if top is None else top) + 16 + 17 * row
        parts.append(f'<rect x="{x}" y="{y - 8}" width="14" height="4" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 20, y - 2, name, "start"))
    return "".join(parts)


def _line(
    frame: Frame, places: Sequence[Point], colour: str, width: float, dashes: str = ""
) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*place) for place in places))
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
        f"{dashed}/>"
    )


def _area(frame: Frame, places: Sequence[Point], colour: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*place) for place in places))
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="0.13"/>'


def _dot(frame: Frame, place: Point, colour: str, tooltip: str, radius: float = 4) -> str:
    x, y = frame.at(*place)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" stroke="{BORDER}">'
        f"<title>{escaped(tooltip)}</title></circle>"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escaped(text)}</text>"
    )
