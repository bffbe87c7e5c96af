"""Draws `map.png`: a run's predictions on a world map and, if the truth is known, its accuracy."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from locdiffusion.drawing.canvas import new_figure, png
from locdiffusion.drawing.palette import CERTAINTY, FAINT, GRID, INK, SERIES, STRANGE
from locdiffusion.drawing.world_map import draw_world, equal_earth
from locdiffusion.files import write_atomically
from pipelines.geotag.pages.rows import ROUND_KM, MapRows, map_rows
from pipelines.geotag.sample import ROWS, Sample
from pipelines.geotag.shard_files import shard_group
from schemas.geotags import THRESHOLDS_KM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.figure import Figure

MAX_TRUTH_LINES = 300
LINE_INCHES = 0.19
"""Height of a line under the title."""

GROUP_COLOURS = SERIES[:6]


def write_map_png(sample: Sample, path: str, told: Mapping[str, Any] | None = None) -> None:
    """Draws a run's predictions on a world map, with its accuracy where the truth is known.

    The file is local, or a URL that fsspec opens; `told` is what the checkpoint says it is for.
    """
    write_atomically(str(path), png(draw_figure(map_rows(sample, ROWS, told))))


def draw_figure(rows: MapRows) -> Figure:
    """Draws the figure of `map.png`: a map and, if any row has a known position, two panels."""
    with_truth = bool(np.isfinite(rows.error_km).any())
    inches = 10.2 if with_truth else 6.4
    figure = new_figure(12, inches)
    lines = [*filter(None, [rows.subtitle()]), *textwrap.wrap(rows.warning(), 150)]
    top, height = (0.395, 0.525) if with_truth else (0.02, 0.86)
    height -= max(0, len(lines) - 1) * LINE_INCHES / inches
    world = figure.add_axes((0.015, top, 0.89, height))
    _draw_predictions(figure, world, rows)
    if with_truth:
        _draw_truth_lines(figure.add_axes((0.015, 0.03, 0.5, 0.32)), rows)
        _draw_accuracy(figure.add_axes((0.575, 0.075, 0.4, 0.255)), rows)
    title, subtitle = (0.962, 0.935) if with_truth else (0.935, 0.892)
    figure.text(0.025, title, rows.title(), fontsize=17, weight="bold", color=INK)
    subtitle += 0.12 / inches
    figure.text(0.025, subtitle, "\n".join(lines), fontsize=11, color=FAINT, va="top")
    return figure


def _colours(rows: MapRows) -> tuple[LinearSegmentedColormap, LogNorm]:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    low, high = rows.colour_range_km
    return LinearSegmentedColormap.from_list("certainty", list(CERTAINTY)), LogNorm(
        low, high, clip=True
    )


def _draw_predictions(figure: Figure, axes: Axes, rows: MapRows) -> None:
    draw_world(axes)
    colours, norm = _colours(rows)
    radius_km = rows.numbers["radius_90_km"]
    order = np.argsort(-radius_km, kind="stable")  # the most certain on top
    x, y = equal_earth(rows.numbers["longitude"], rows.numbers["latitude"])
    size = float(np.clip(16_000 / max(len(rows), 1), 1.5, 26))
    strange = rows.unfamiliar
    if strange.any():
        axes.scatter(x[strange], y[strange], s=size, c=STRANGE, linewidths=0, zorder=3)
    order = order[~strange[order]]
    points = axes.scatter(
        x[order],
        y[order],
        s=size,
        c=radius_km[order],
        cmap=colours,
        norm=norm,
        linewidths=0,
        alpha=0.85,
        zorder=3,
    )
    bar = figure.colorbar(points, cax=figure.add_axes((0.925, 0.5, 0.014, 0.33)), extend="both")
    bar.set_label("radius that holds 90 % of the probability, km", color=INK, fontsize=9)
    low, high = rows.colour_range_km
    ticks = [km for km in ROUND_KM if low <= km <= high]
    bar.set_ticks(ticks, labels=[f"{km:,g}" for km in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=9, colors=INK)
    bar.outline.set_visible(False)


def _draw_truth_lines(axes: Axes, rows: MapRows) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    rim = draw_world(axes)
    known = np.flatnonzero(np.isfinite(rows.error_km))
    chosen = known[:: max(1, math.ceil(len(known) / MAX_TRUTH_LINES))]
    n = rows.numbers
    # Lines go the short way round; the rim of the map cuts those that leave it.
    true_longitude, true_latitude = rows.known.longitude[chosen], rows.known.latitude[chosen]
    step = (n["longitude"][chosen] - true_longitude + 180) % 360 - 180
    start = equal_earth(true_longitude, true_latitude)
    end = equal_earth(true_longitude + step, n["latitude"][chosen])
    lines = np.stack([np.column_stack(start), np.column_stack(end)], axis=1)
    scale, norm = _colours(rows)
    colours = scale(norm(n["radius_90_km"][chosen]))
    colours[rows.unfamiliar[chosen]] = to_rgba(STRANGE)
    drawn = LineCollection(list(lines), colors=colours, linewidths=0.8, zorder=2)
    drawn.set_clip_path(rim)
    axes.add_collection(drawn)
    axes.scatter(*start, s=7, c="white", edgecolors=INK, linewidths=0.5, zorder=3)
    axes.set_title(
        f"From the known position (circle) to the prediction, {len(chosen)} photos",
        fontsize=10,
        color=INK,
    )


def accuracy_groups(rows: MapRows) -> dict[str, NDArray[np.float64]]:
    """Collects sorted errors in km by group of shards; the smallest groups join as `others`."""
    groups: dict[str, list[float]] = defaultdict(list)
    for shard, error_km in zip(rows.text["shard"], rows.error_km, strict=True):
        if math.isfinite(error_km):
            groups[shard_group(shard)].append(error_km)
    largest = sorted(groups, key=lambda name: (-len(groups[name]), name))
    kept = largest if len(largest) <= len(GROUP_COLOURS) else largest[: len(GROUP_COLOURS) - 1]
    merged = {name: groups[name] for name in kept}
    if len(kept) < len(largest):
        merged["others"] = [e for name in largest[len(kept) :] for e in groups[name]]
    return {name: np.sort(errors) for name, errors in merged.items()}


def _draw_accuracy(axes: Axes, rows: MapRows) -> None:
    for (name, error_km), colour in zip(accuracy_groups(rows).items(), GROUP_COLOURS, strict=False):
        share = np.arange(1, len(error_km) + 1) / len(error_km)
        label = f"{name} ({len(error_km):,}): median {np.median(error_km):,.0f} km"
        axes.step(
            np.concatenate([[1e-3], error_km, [30_000]]),
            100 * np.concatenate([[0], share, [1]]),
            where="post",
            color=colour,
            linewidth=2,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlim(3, 20_000)
    axes.set_ylim(0, 101)
    shown = [km for km in THRESHOLDS_KM if km > 3]
    axes.set_xticks(shown, [f"{km:,}" for km in shown])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    axes.grid(color=GRID, linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_title(
        "Share of photos within this many km of the known position", fontsize=10, color=INK
    )
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
