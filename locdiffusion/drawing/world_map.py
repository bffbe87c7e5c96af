"""The world map: outlines of the countries, and their drawing in the Equal Earth projection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from locdiffusion.drawing.palette import BORDER, FRAME, LAND, SEA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Polygon

OUTLINES = Path(__file__).parents[1] / "assets" / "world.geojson"


@dataclass(frozen=True)
class Country:
    """A country to draw.

    Attributes:
        name: English name.
        rings: Outer and inner rings, ``(n, 2)`` each: longitude and latitude in degrees.
    """

    name: str
    rings: tuple[NDArray[np.float64], ...]


def read_countries() -> list[Country]:
    """Reads the countries of the world map."""
    features = json.loads(OUTLINES.read_text(encoding="utf-8"))["features"]
    return [
        Country(
            feature["properties"]["name"],
            tuple(
                np.asarray(ring, np.float64)
                for polygon in feature["geometry"]["coordinates"]
                for ring in polygon
            ),
        )
        for feature in features
    ]


def equal_earth(longitude: NDArray, latitude: NDArray) -> tuple[NDArray, NDArray]:
    """Projects degrees to the plane by Equal Earth, on a sphere of radius 1.

    Šavrič, Patterson and Jenny 2018, Int. J. of Geographical Information Science 33, eq. 8-10.
    """
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    m = np.sqrt(3) / 2
    theta = np.arcsin(m * np.sin(np.radians(latitude)))
    derivative = 9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1
    x = np.radians(longitude) * np.cos(theta) / (m * derivative)
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return x, y


def draw_world(axes: Axes) -> Polygon:
    """Draws sea and countries, and returns the rim of the map."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Polygon

    edge = np.linspace(-90, 90, 181)
    rim = np.column_stack(
        equal_earth(np.repeat([-180.0, 180.0], 181), np.concatenate([edge, edge[::-1]]))
    )
    sea = Polygon(rim, facecolor=SEA, edgecolor=FRAME, linewidth=0.8, zorder=0)
    axes.add_patch(sea)
    outlines = [ring for country in read_countries() for ring in country.rings]
    rings = [np.column_stack(equal_earth(*ring.T)) for ring in outlines]
    axes.add_collection(
        PolyCollection(rings, facecolors=LAND, edgecolors=BORDER, linewidths=0.35, zorder=1)
    )
    axes.set_xlim(rim[:, 0].min() * 1.005, rim[:, 0].max() * 1.005)
    axes.set_ylim(rim[:, 1].min() * 1.01, rim[:, 1].max() * 1.01)
    axes.set_aspect("equal")
    axes.axis("off")
    return sea
