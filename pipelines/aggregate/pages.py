"""The maps of an aggregate: `aggregate.png`, and `aggregate.html` to pan and zoom in a browser."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from locdiffusion.drawing.canvas import new_figure, png
from locdiffusion.drawing.palette import CERTAINTY, COAST, FAINT, INK, PAGE
from locdiffusion.drawing.world_map import draw_world, equal_earth, read_countries
from locdiffusion.photos.left_out import number
from pipelines.aggregate.result import Aggregate
from pipelines.geotag.pages.filling import fill, script_json
from pipelines.geotag.pages.page import compact_country, packed
from pipelines.geotag.pages.rows import DATA

TEMPLATE, SCRIPTS = DATA / "aggregate.html", (DATA / "earth.js", DATA / "aggregate.js")
MOST_AREAS, MOST_CLASSES = 30_000, 40
"""Most areas, and most classes of photos, that a page shows."""
MOST_CORNERS = 1_000_000
"""Most corners of all areas of a page; beyond, borders are simplified."""
SCALE = tuple(reversed(CERTAINTY))
"""Colours of few and of many photos."""
DECADES = 4
"""Powers of ten that the scale of colours spans, at most."""
PER_KM2 = 1_000.0
"""Area in km² for which densities are told."""
_SIMPLER_DEG = 0.02


def title_of(aggregate: Aggregate, settings: Mapping[str, Any]) -> str:
    """What was counted: photos and areas."""
    return f"{number(aggregate.total, 'photo')} by {settings['areas']}"


def subtitle_of(aggregate: Aggregate, shown: Aggregate, settings: Mapping[str, Any]) -> str:
    """What the standard errors assume, what lies in no area, and what is not shown."""
    assumes = "standard errors take photos as independent"
    if settings.get("group"):
        assumes = f"photos of one {settings['group']} count as one draw in the standard errors"
    parts = [assumes]
    rests = aggregate.rows.filter(aggregate.rows["rest"].is_valid())
    sums = rests.group_by("rest").aggregate([("photos_expected", "sum")]).to_pydict()
    for rest, photos in sorted(zip(sums["rest"], sums["photos_expected_sum"], strict=True)):
        parts.append(f"{rest}: {photos:,.1f}")
    if len(shown.areas) < len(aggregate.areas):
        held = shown.all_classes()[0].sum()
        parts.append(
            f"the {len(shown.areas):,} fullest of {len(aggregate.areas):,} areas are drawn, with "
            f"{held:,.0f} photos"
        )
    return "; ".join(parts)


def colour_range(density: NDArray[np.float64]) -> tuple[float, float]:
    """Chooses the ends of the colour scale: powers of ten up to the largest density."""
    largest = density[np.isfinite(density)].max(initial=0.0)
    if largest <= 0.0:
        return 1.0, 10.0
    high = 10.0 ** np.ceil(np.log10(largest))
    least = density[np.isfinite(density) & (density > 0)].min()
    return max(10.0 ** np.floor(np.log10(least)), high / 10.0**DECADES, high * 1e-12), high


def draw_map(aggregate: Aggregate, settings: Mapping[str, Any]) -> bytes:
    """Draws `aggregate.png`: each area in the colour of its number of photos per area."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    shown = aggregate.chosen(MOST_AREAS)
    density = shown.all_classes()[0] / shown.area_km2 * PER_KM2
    figure = new_figure(12, 6.4)
    axes = figure.add_axes((0.015, 0.02, 0.89, 0.86))
    draw_world(axes)
    low, high = colour_range(density)
    scale = LinearSegmentedColormap.from_list("many", list(SCALE))
    colours = ScalarMappable(LogNorm(low, high, clip=True), scale)
    rgba = colours.to_rgba(density)
    # As in the page: what holds next to nothing is hardly seen
    rgba[:, 3] = 0.1 + 0.75 * np.sqrt(np.ma.filled(colours.norm(density), 0.0))
    parts, owner = shapely.get_parts(_drawn(shown), return_index=True)
    shells = [shapely.get_coordinates(part.exterior) for part in parts]
    axes.add_collection(
        PolyCollection(
            [np.column_stack(equal_earth(*shell.T)) for shell in shells],
            facecolors=rgba[owner],
            linewidths=0.0,
            zorder=2,
        )
    )
    outlines = [ring for country in read_countries() for ring in country.rings]
    coasts = [np.column_stack(equal_earth(*ring.T)) for ring in outlines]
    axes.add_collection(
        PolyCollection(coasts, facecolors="none", edgecolors=COAST, linewidths=0.35, zorder=3)
    )
    bar = figure.colorbar(colours, cax=figure.add_axes((0.925, 0.2, 0.014, 0.5)), extend="min")
    bar.set_label(f"photos expected per {PER_KM2:,.0f} km²", color=INK, fontsize=9)
    bar.ax.tick_params(labelsize=9, colors=INK)
    bar.outline.set_visible(False)
    figure.text(0.025, 0.935, title_of(aggregate, settings), fontsize=17, weight="bold", color=INK)
    told = textwrap.wrap(subtitle_of(aggregate, shown, settings), 150)
    figure.text(0.025, 0.915, "\n".join(told[:2]), fontsize=10, color=FAINT, va="top")
    return png(figure)


def map_page(aggregate: Aggregate, settings: Mapping[str, Any]) -> str:
    """Fills `aggregate.html`. It makes no request, and equal numbers give equal bytes."""
    script = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return fill(TEMPLATE, {"MAP_DATA": script_json(page_data(aggregate, settings))}, script)


def page_data(aggregate: Aggregate, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Collects what the page draws, with numbers as in `packed`."""
    shown = aggregate.chosen(MOST_AREAS)
    expected, error = shown.all_classes()
    classes, by_class = shown.by_class("photos_expected")
    _, errors = shown.by_class("standard_error")
    shapes = _drawn(shown)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    places = shapely.get_coordinates(rings)
    density = expected / shown.area_km2 * PER_KM2
    names = [f"no {settings['by']}" if by is None else by for by in classes[:MOST_CLASSES]]
    apart = settings.get("by") is not None
    return {
        "title": title_of(aggregate, settings),
        "subtitle": subtitle_of(aggregate, shown, settings),
        "palette": SCALE,
        "colours": PAGE,
        "range_km": (1.0, 10.0),
        "range": colour_range(density),
        "per_km2": PER_KM2,
        "world": [compact_country(country) for country in read_countries()],
        "areas": shown.areas,
        "by": settings.get("by"),
        "classes": names if apart else [],
        "photos": [aggregate.photos[by] for by in classes[:MOST_CLASSES]] if apart else [],
        "columns": {
            "ring_area": packed(owner[part], np.uint32),
            "ring_length": packed(shapely.get_num_coordinates(rings), np.uint32),
            "longitude": packed(places[:, 0], np.float32),
            "latitude": packed(places[:, 1], np.float32),
            "area_km2": packed(shown.area_km2, np.float32),
            "expected": packed(expected, np.float32),
            "error": packed(np.nan_to_num(error), np.float32),
            "class_expected": packed(by_class[:MOST_CLASSES].ravel() * apart, np.float32),
            "class_error": packed(np.nan_to_num(errors[:MOST_CLASSES]).ravel(), np.float32),
        },
    }


def _drawn(shown: Aggregate) -> NDArray[np.object_]:
    """The polygons of areas, simplified if there are too many corners."""
    if shapely.get_num_coordinates(shown.shapes).sum() <= MOST_CORNERS:
        return shown.shapes
    simple: NDArray[np.object_] = shapely.simplify(shown.shapes, _SIMPLER_DEG)
    return simple
