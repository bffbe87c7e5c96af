"""Maps about a place: the globe as seen from above it, or its surroundings true to scale.

Both are azimuthal: directions from the centre are true, and circles around it stay circles. On the
globe (orthographic) a distance r appears as R sin(r/R); in the closer map (equidistant) as r.
Coordinates are km, east and north of the centre.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch
from numpy.typing import ArrayLike, NDArray

from locdiffusion.density.transforms import pole_frame
from locdiffusion.drawing.palette import ANSWER, COAST, DENSITY, FRAME, GRID, PALE_LAND, SEA
from locdiffusion.geography.countries import countries
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float = NDArray[np.float64]

PIXELS = 560
HORIZON_KM = EARTH_RADIUS_KM * np.pi / 2.0
FAINTEST = 1e-3
"""Density is shown down to this share of its peak."""
_STEPS_DEG = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0)
SOLID, DASHED = "-", (0, (4, 3))


@dataclass(frozen=True)
class View:
    """An azimuthal map.

    Attributes:
        latitude, longitude: Of its centre, in degrees.
        globe: Whether as seen from far above (orthographic), or true to scale (equidistant).
    """

    latitude: float
    longitude: float
    globe: bool

    @property
    def opposite(self) -> View:
        """The same kind of map of the other side of the Earth."""
        return View(-self.latitude, (self.longitude + 360.0) % 360.0 - 180.0, self.globe)

    def radius(self, distance_km: ArrayLike) -> Float:
        """How far from the centre a distance from it is drawn, km; at most as the horizon."""
        angle = np.minimum(np.asarray(distance_km) / EARTH_RADIUS_KM, np.pi / 2.0)
        return EARTH_RADIUS_KM * (np.sin(angle) if self.globe else angle)

    def distance_deg(self, radius_km: Float) -> Float:
        """The inverse of `radius`, in degrees; 90 from the horizon on."""
        drawn = radius_km / EARTH_RADIUS_KM
        return np.degrees(np.arcsin(np.minimum(drawn, 1.0)) if self.globe else drawn)

    def __call__(self, vectors: Float) -> tuple[Float, Float, NDArray[np.bool_]]:
        """East and north ``(N,)`` of unit vectors ``(N, 3)``, and which are this side of 90°.

        The others are drawn at the horizon, in their direction: outlines stay closed.
        """
        centre = torch.from_numpy(unit_vectors(self.latitude, self.longitude))
        south, east, up = (vectors @ pole_frame(centre).numpy()).T
        across = np.hypot(south, east)
        distance = EARTH_RADIUS_KM * np.arctan2(across, up)
        scale = self.radius(distance) / np.where(across == 0.0, 1.0, across)
        return scale * east, -scale * south, up > 0.0


def offset_km(centre: tuple[float, float], place: tuple[float, float]) -> tuple[float, float]:
    """East and north km, true to scale, of a place within 10,000 km of a centre, in degrees."""
    (east,), (north,), _ = View(*centre, globe=False)(unit_vectors(*place)[None])
    return float(east), float(north)


def half_width_km(
    radius_90_km: float, error_km: float | None, least_km: float, most_km: float
) -> float:
    """Half the side of a closer map: the 90 % radius fits, and the truth if that costs little."""
    half = 1.35 * radius_90_km
    if error_km is not None and error_km < 2.5 * radius_90_km:
        half = max(half, 1.2 * error_km)
    return float(np.clip(half, least_km, most_km))


def draw_base(axes: Axes, view: View, half_km: float) -> None:
    """Draws sea, land, borders and graticule, and sets the axes to a square (a disc if a globe)."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Circle, Rectangle

    rings, borders = _land(view, half_km)
    frame: Any = Rectangle((-half_km, -half_km), 2 * half_km, 2 * half_km, fc=SEA, ec="none")
    if view.globe:
        frame = Circle((0.0, 0.0), half_km, fc=SEA, ec="none")
    axes.add_patch(frame)
    land = PolyCollection(
        rings, facecolors=PALE_LAND, edgecolors=PALE_LAND, linewidths=0.3, zorder=1
    )
    axes.add_collection(land, autolim=False)
    [coast] = axes.plot(*borders.T, color=COAST, lw=0.5, zorder=3)
    [grid] = axes.plot(*_graticule(view, half_km).T, color=GRID, lw=0.6, zorder=1.5)
    for artist in (land, coast, grid):
        artist.set_clip_path(frame)
    axes.set(xlim=(-half_km, half_km), ylim=(-half_km, half_km), aspect="equal")
    axes.set(xticks=[], yticks=[])
    if view.globe:
        axes.axis("off")
        rim = Circle((0.0, 0.0), half_km, fill=False, ec=FRAME, lw=1.0, zorder=6)
        rim.set_clip_on(False)
        axes.add_patch(rim)
    axes.spines[:].set_color(FRAME)


def density_style(peak: float) -> dict[str, Any]:
    """How densities are coloured: logarithmic, down to `FAINTEST` of a peak, below not at all."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    colours = LinearSegmentedColormap.from_list("density", list(DENSITY))
    return {
        "cmap": colours.with_extremes(under="#ffffff00"),
        "norm": LogNorm(peak * FAINTEST, peak),
    }


def paint_density(
    axes: Axes, view: View, half_km: float, distance_deg: Float, log_density: Float, peak: float
) -> None:
    """Paints a density that is known on circles about the centre of a map.

    Args:
        axes: Of `draw_base`.
        view: The map.
        half_km: Half of its side.
        distance_deg: ``(T,)`` even radii of the circles, to beyond the corners (the horizon).
        log_density: ``(T, B)`` on each from the north clockwise.
        peak: The density that is coloured strongest.
    """
    from scipy.ndimage import map_coordinates

    side = (np.arange(PIXELS) + 0.5) / PIXELS * 2.0 * half_km - half_km
    x, y = np.meshgrid(side, side)
    ring = (view.distance_deg(np.hypot(x, y)) - distance_deg[0]) / (
        distance_deg[1] - distance_deg[0]
    )
    bearings = log_density.shape[1]
    place = np.degrees(np.arctan2(x, y)) % 360.0 / 360.0 * bearings
    around = np.concatenate([log_density, log_density[:, :1]], 1)
    density = np.exp(map_coordinates(around, [ring, place], order=1, mode="nearest"))
    image = axes.imshow(
        density,
        extent=(-half_km, half_km, -half_km, half_km),
        origin="lower",
        interpolation="bilinear",
        zorder=2,
        **density_style(peak),
    )
    if view.globe:
        from matplotlib.patches import Circle

        image.set_clip_path(Circle((0.0, 0.0), half_km, transform=axes.transData))


def draw_radius(axes: Axes, view: View, radius_km: float, style: Any) -> None:
    """Draws the circle of a radius about the centre; none where it is beyond the horizon."""
    from matplotlib.patches import Circle

    if radius_km < HORIZON_KM:
        drawn = float(view.radius(radius_km))
        line: dict[str, Any] = {"ec": ANSWER, "lw": 1.5, "ls": style}
        axes.add_patch(Circle((0.0, 0.0), drawn, fill=False, zorder=5, **line))


def draw_codes(axes: Axes, view: View, half_km: float) -> None:
    """Writes the codes of countries where enough of them is in a window, away from its middle."""
    window = shapely.box(-half_km, -half_km, half_km, half_km)
    window = window.difference(shapely.Point(0.0, 0.0).buffer(0.5 * half_km))
    outlines = _outlines()
    x, y, visible = view(outlines.vectors)
    points = np.column_stack([x, y])
    biggest: dict[str, tuple[float, Any]] = {}
    ends = [*outlines.first[1:], len(points)]
    for code, start, end in zip(outlines.codes, outlines.first, ends, strict=True):
        ring = points[start:end]
        outside = (ring.min(0) > half_km).any() or (ring.max(0) < -half_km).any()
        if code is None or outside or not visible[start:end].any():
            continue
        inside = shapely.intersection(shapely.make_valid(shapely.Polygon(ring)), window)
        if inside.area > max(0.012 * window.area, biggest.get(code, (0.0,))[0]):
            biggest[code] = inside.area, shapely.maximum_inscribed_circle(inside)
    for code, (_, radius) in biggest.items():
        x, y = radius.coords[0]
        axes.text(x, y, code, ha="center", va="center", fontsize=10, color=COAST, zorder=4)


@dataclass(frozen=True)
class _Outlines:
    """Rings of countries.

    Attributes:
        vectors: ``(N, 3)`` their points, one ring after the other.
        first: Index of each ring's first point.
        codes: Country of each ring.
        drawn: ``(N,)`` whether the edge to the next point is a border; along the antimeridian and
            at the pole polygons are only cut, and from ring to ring there is none.
    """

    vectors: Float
    first: NDArray[np.int64]
    codes: Sequence[str | None]
    drawn: NDArray[np.bool_]


@functools.lru_cache(maxsize=1)
def _outlines() -> _Outlines:
    index = countries()
    rings = shapely.segmentize(shapely.get_exterior_ring(index.parts), 1.0)
    degrees, ring = shapely.get_coordinates(rings, return_index=True)
    first = np.flatnonzero(np.append(True, ring[1:] != ring[:-1]))
    longitude, latitude = degrees.T
    following = np.append(degrees[1:], degrees[-1:], axis=0)
    cut = (np.abs(longitude) > 179.999) & (np.abs(following[:, 0]) > 179.999)
    cut |= (np.abs(latitude) > 89.999) & (np.abs(following[:, 1]) > 89.999)
    joined = np.append(ring[1:] == ring[:-1], False)
    return _Outlines(unit_vectors(latitude, longitude), first, index.part_names, joined & ~cut)


def _land(view: View, half_km: float) -> tuple[list[Float], Float]:
    """What a map shows of countries: their rings to fill, and one line ``(N, 2)`` with gaps."""
    outlines = _outlines()
    x, y, visible = view(outlines.vectors)
    points = np.column_stack([x, y])
    last = np.append(outlines.first[1:], len(points))
    low, high = (f.reduceat(points, outlines.first) for f in (np.minimum, np.maximum))
    shown = np.logical_or.reduceat(visible, outlines.first)
    shown &= ((low < half_km) & (high > -half_km)).all(1)
    rings = [points[a:b] for a, b in zip(outlines.first[shown], last[shown], strict=True)]
    seen = visible & (np.abs(points).max(1) < 2.0 * half_km)
    return rings, _with_gaps(points, outlines.drawn & seen & np.append(seen[1:], False))


def _with_gaps(points: Float, joined: NDArray[np.bool_]) -> Float:
    """A line through points ``(N, 2)``, interrupted after each that is not joined to the next."""
    used = joined | np.append(False, joined[:-1])
    gaps = np.cumsum(used)[used & ~joined]
    return np.insert(points[used], gaps, np.nan, axis=0)


def _graticule(view: View, half_km: float) -> Float:
    """Meridians and parallels, about six across the map, as one line ``(N, 2)`` with gaps."""
    wanted = 2.0 * half_km / EARTH_RADIUS_KM * 180.0 / np.pi / 5.0
    step = 30.0 if view.globe else min((s for s in _STEPS_DEG if s >= wanted), default=30.0)
    along = np.arange(-180.0, 180.5, 1.0)
    across = np.arange(-90.0, 90.5, 1.0)
    lines = [unit_vectors(parallel, along) for parallel in np.arange(step - 90.0, 90.0, step)]
    lines += [unit_vectors(across, meridian) for meridian in np.arange(-180.0, 180.0, step)]
    x, y, visible = view(np.concatenate(lines))
    joined = visible & np.append(visible[1:], False)
    joined[np.cumsum([len(line) for line in lines]) - 1] = False
    return _with_gaps(np.column_stack([x, y]), joined)
