"""Draws the figures of an evaluation as PNG, for any number of methods or splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from locdiffusion.drawing.canvas import new_axes, new_figure, png
from locdiffusion.drawing.palette import FAINT, SERIES
from locdiffusion.evaluate.proximity import Stratum
from locdiffusion.evaluate.reliability import HISTOGRAM_BINS, Reliability
from locdiffusion.evaluate.scores import Scores
from locdiffusion.files import write_atomically
from schemas.geotags import THRESHOLDS_KM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
RELIABILITY_KM = (25.0, 200.0, 750.0)
_FARTHEST_KM = 20_038.0


def plot_reliability(
    path: Path,
    reliability: Sequence[Reliability],
    title: str = "",
    thresholds_km: Sequence[float] = RELIABILITY_KM,
) -> None:
    """Draws the share of true events over the stated probability, and the number of photos.

    Args:
        path: File of the PNG.
        reliability: Reliability of one method on one split.
        title: Title above the figure.
        thresholds_km: Distances that are shown.
    """
    shown = [r for r in reliability if r.threshold_km in thresholds_km]
    figure = new_figure(6.4, 6.9)
    grid = figure.add_gridspec(2, 1, height_ratios=(3.4, 1.0), hspace=0.08)
    curve = new_axes(figure, grid[0], title)
    counts = new_axes(figure, grid[1])
    diagonal: dict[str, Any] = {"color": FAINT, "linewidth": 1.0, "dashes": (4, 3), "zorder": 1}
    curve.plot([0, 1], [0, 1], **diagonal, label="perfectly calibrated")
    edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
    for i, r in enumerate(shown):
        x = [b.probability for b in r.bins]
        y = np.array([b.frequency.value for b in r.bins])
        low, high = (np.array([getattr(b.frequency, e) for b in r.bins]) for e in ("low", "high"))
        label = f"within {r.threshold_km:,g} km: ECE {r.ece.value:.3f}"
        whiskers = np.maximum(0.0, [y - low, high - y])
        curve.errorbar(x, y, whiskers, label=label, **_style(i), elinewidth=0.9)
        # Lines get thinner, so that none hides another.
        heights = np.array(r.histogram)
        counts.stairs(heights, edges, color=SERIES[i], linewidth=max(1.2, 3.4 - 1.1 * i))
    photos = sum(shown[0].histogram) if shown else 0
    curve.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that came true")
    curve.tick_params(labelbottom=False)
    curve.legend(loc="upper left", frameon=False)
    counts.set_yscale("symlog", linthresh=10)
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.set(xlim=(-0.02, 1.02), xlabel=f"stated probability (n = {photos:,} photos)")
    counts.set_ylabel("photos (log)")
    counts.set_ylim(0, None)
    _save(figure, path)


def plot_coverage(path: Path, rows: Mapping[str, Scores], title: str = "") -> None:
    """Draws the shares of truths inside the stated 50 % and 90 % radii, with intervals.

    Args:
        path: File of the PNG.
        rows: Scores by the name of the split or method. Rows without radii are left out.
        title: Title above the figure.
    """
    stated = {name: s for name, s in rows.items() if s.coverage_50 and s.coverage_90}
    figure = new_figure(7.2, 1.5 + 0.42 * max(1, len(stated)))
    axes = new_axes(figure, 111, title)
    kinds = ((50, "coverage_50", 0), (90, "coverage_90", 1))
    for nominal, name, i in kinds:
        found = [getattr(s, name) for s in stated.values()]
        x = np.array([100 * e.value for e in found])
        whiskers = [x - [100 * e.low for e in found], [100 * e.high for e in found] - x]
        axes.axvline(nominal, color=SERIES[i], linewidth=1.0, dashes=(4, 3), zorder=1)
        style = {**_style(i), "linestyle": "none", "markersize": 7}
        axes.errorbar(
            x,
            range(len(x)),
            xerr=np.maximum(0.0, whiskers),
            label=f"inside radius_{nominal} (want {nominal} %)",
            elinewidth=1.6,
            **style,
        )
    names = [f"{name} (n = {s.n:,})" for name, s in stated.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel="truths inside the radius (%)")
    axes.grid(False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    _save(figure, path)


def plot_errors(path: Path, distances: Mapping[str, ArrayLike], title: str = "") -> None:
    """Draws the cumulative distribution of the error.

    Args:
        path: File of the PNG.
        distances: Errors in km, ``(n,)``, by the name of the split or method.
        title: Title above the figure.
    """
    figure = new_figure(7.2, 4.6)
    axes = new_axes(figure, 111, title)
    for i, (name, values) in enumerate(distances.items()):
        distance = np.sort(np.asarray(values, np.float64))
        share = 100 * np.arange(1, len(distance) + 1) / len(distance)
        style = {**_style(i), "marker": "None", "linestyle": DASHES[i % len(DASHES)]}
        label = f"{name}: {np.median(distance):,.0f} km (n = {len(distance):,})"
        axes.plot([1e-3, *distance, 4e4], [0, *share, 100], **style, label=label, drawstyle="steps")
    axes.set_xscale("log")
    axes.set_xticks(THRESHOLDS_KM, [f"{km:,}" for km in THRESHOLDS_KM])
    axes.minorticks_off()
    axes.set(xlim=(0.9, _FARTHEST_KM), ylim=(0, 102))
    axes.set(xlabel="error (km, log scale)", ylabel="photos with at most this error (%)")
    _legend_below(axes, len(distances), "median error and number of photos")
    _save(figure, path)


def plot_accuracy_by_distance(
    path: Path, strata: Mapping[str, Sequence[Stratum]], threshold_km: float = 200, title: str = ""
) -> None:
    """Draws accuracy over distance to the nearest training photo, with bootstrap bands.

    Args:
        path: File of the PNG.
        strata: Strata by the name of the method or split. A point is drawn at the median distance.
        threshold_km: One of `schemas.geotags.THRESHOLDS_KM`.
        title: Title above the figure.
    """
    if threshold_km not in THRESHOLDS_KM:
        raise ValueError(f"threshold_km is {threshold_km:g}; want one of {THRESHOLDS_KM}.")
    index = THRESHOLDS_KM.index(int(threshold_km))
    figure = new_figure(7.2, 4.6)
    axes = new_axes(figure, 111, title)
    for i, (name, parts) in enumerate(strata.items()):
        x = [max(1.0, s.median_km_to_training) for s in parts]
        shares = [s.scores.within[index] for s in parts]
        low, high = ([100 * getattr(e, end) for e in shares] for end in ("low", "high"))
        label = f"{name} (n = {sum(s.scores.n for s in parts):,})"
        axes.plot(x, [100 * e.value for e in shares], label=label, **_style(i))
        axes.fill_between(x, low, high, color=SERIES[i % len(SERIES)], alpha=0.15, linewidth=0)
    _number_of_photos(axes, list(strata.values()))
    axes.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
    left, right = axes.get_xlim()
    inside = [tick for tick in ticks if left <= tick <= right]
    axes.set_xticks(inside, [f"{tick:,}" for tick in inside])
    axes.minorticks_off()
    axes.set_ylim(0, 103)
    axes.set_xlabel("distance to the nearest training photo (km, log scale)")
    axes.set_ylabel(f"photos within {threshold_km:g} km (%)")
    _legend_below(axes, len(strata))
    _save(figure, path)


def _number_of_photos(axes: Axes, series: Sequence[Sequence[Stratum]]) -> None:
    """Writes n above each stratum, if all series have the same strata."""
    places = [[(s.median_km_to_training, s.scores.n) for s in parts] for parts in series]
    if not places or any(other != places[0] for other in places[1:]):
        return
    for x, n in places[0]:
        above = axes.get_xaxis_transform()
        axes.text(
            max(1.0, x), 1.015, f"{n:,}", transform=above, ha="center", color=FAINT, fontsize=8.5
        )
    axes.text(-0.01, 1.015, "n =", transform=axes.transAxes, ha="right", color=FAINT, fontsize=8.5)


def _legend_below(axes: Axes, entries: int, title: str = "") -> None:
    """Puts the legend below the axes, where there are no curves."""
    columns = 1 if entries < 3 else 2
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.14),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        title=title or None,
        alignment="left",
    )


def _style(i: int) -> dict[str, Any]:
    colour = SERIES[i % len(SERIES)]
    marker = MARKERS[i % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 5.5, "linewidth": 1.8, "zorder": 3}


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, png(figure, bbox_inches="tight"))
