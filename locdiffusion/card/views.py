"""Maps about a place: the globe as seen from above the place, or its surroundings to scale.

Both maps are azimuthal: directions from the centre are true, and circles around the centre stay
circles. A distance r appears as R sin(r/R) on the globe (orthographic) and as r on the closer map
(equidistant). Coordinates are km east and north of the centre.
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
"""Share of its peak down to which a density is shown."""
_STEPS_DEG = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0)
SOLID, DASHED = "-", (0, (4, 3))


@dataclass(frozen=True)
class View:
    """An azimuthal map.

    Attributes:
        latitude, longitude: Position of the centre in degrees.
        globe: Whether the map is orthographic (seen from far above) or equidistant (to scale).
    """

    latitude: float
    longitude: float
    globe: bool

    @property
    def opposite(self) -> View:
        """The map of the same kind of the other side of the Earth."""
        return View(-self.latitude, (self.longitude + 360.0) % 360.0 - 180.0, self.globe)

    def radius(self, distance_km: ArrayLike) -> Float:
        """Distance from the centre on the map in km; beyond the horizon that of the horizon."""
        angle = np.minimum(np.asarray(distance_km) / EARTH_RADIUS_KM, np.pi / 2.0)
        return EARTH_RADIUS_KM * (np.sin(angle) if self.globe else angle)

    def distance_deg(self, radius_km: Float) -> Float:
        """Distance on the Earth in degrees, the inverse of `radius`; 90 from the horizon on."""
        drawn = radius_km / EARTH_RADIUS_KM
        return np.degrees(np.arcsin(np.minimum(drawn, 1.0)) if self.globe else drawn)

    def __call__(self, vectors: Float) -> tuple[Float, Float, NDArray[np.bool_]]:
        """Projects unit vectors ``(N, 3)`` to km east and north ``(N,)``, and tests visibility.

        Points beyond 90° are drawn at the horizon in their direction, so that outlines stay closed.
        """
        centre = torch.from_numpy(unit_vectors(self.latitude, self.longitude))
        south, east, up = (vectors @ pole_frame(centre).numpy()).T
        across = np.hypot(south, east)
        distance = EARTH_RADIUS_KM * np.arctan2(across, up)
        scale = self.radius(distance) / np.where(across == 0.0, 1.0, across)
        return scale * east, -scale * south, up > 0.0


def offset_km(centre: tuple[float, float], place: tuple[float, float]) -> tuple[float, float]:
    """Computes km east and north, to scale, of a place within 10,000 km of a centre."""
    (east,), (north,), _ = View(*centre, globe=False)(unit_vectors(*place)[None])
    return float(east), float(north)


def half_width_km(
    radius_90_km: float, error_km: float | None, least_km: float, most_km: float
) -> float:
    """Chooses half the side of a closer map, so that the 90 % radius fits, and a near truth too."""
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
    """Colours of a density: logarithmic down to `FAINTEST` of a peak, and transparent below."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    colours = LinearSegmentedColormap.from_list("density", list(DENSITY))
    return {
        "cmap": colours.with_extremes(under=(1.0, 1.0, 1.0, 0.0)),
        "norm": LogNorm(peak * FAINTEST, peak),
    }


def paint_density(
    axes: Axes, view: View, half_km: float, distance_deg: Float, log_density: Float, peak: float
) -> None:
    """Paints a density that is known on circles about the centre of a map.

    Args:
        axes: Axes on which `draw_base` has drawn.
        view: Projection of the map.
        half_km: Half the side of the map in km.
        distance_deg: Evenly spaced radii of the circles in degrees, ``(T,)``, up to beyond the
            corners of the map, or the horizon.
        log_density: Log density on each circle, from the north clockwise, ``(T, B)``.
        peak: Density of the darkest colour.
    """
    from scipy.ndimage import map_coordinates

    side = (np.arange(PIXELS) + 0.5) / PIXELS * 2.0 * half_km - half_km
    x, y = np.meshgrid(side, side)
    ring = (view.distance_deg(np.hypot(x, y)) - distance_deg[0]) / (
        distance_deg[1] - distance_deg[0]
    )
    bearings = log_density.shape[1]
    place = np.degrees(np.arctan2(x, y)) % 360.0 / 360.0 * bearings
    closed = np.concatenate([log_density, log_density[:, :1]], 1)
    density = np.exp(map_coordinates(closed, [ring, place], order=1, mode="nearest"))
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


def draw_radius(axes: Axes, view: View, radius_km: float, style: Any, colour: str = ANSWER) -> None:
    """Draws the circle of a radius about the centre, unless it lies beyond the horizon."""
    from matplotlib.patches import Circle

    if radius_km < HORIZON_KM:
        drawn = float(view.radius(radius_km))
        line: dict[str, Any] = {"ec": colour, "lw": 1.5, "ls": style}
        axes.add_patch(Circle((0.0, 0.0), drawn, fill=False, zorder=5, **line))


def draw_codes(axes: Axes, view: View, half_km: float) -> None:
    """Writes the codes of countries that fill enough of the map, away from its middle."""
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
        vectors: Points of all rings as unit vectors, ``(N, 3)``.
        first: Number of the first point of each ring.
        codes: Country code of each ring.
        drawn: Whether the edge to the next point is a border, ``(N,)``. Cuts along the antimeridian
            and at the pole are not, nor is the step from ring to ring.
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
    """Projects the countries: rings to fill, and all borders as one line ``(N, 2)`` with gaps."""
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
    """Makes a line of points ``(N, 2)``, with a gap after each that is not joined to the next."""
    used = joined | np.append(False, joined[:-1])
    gaps = np.cumsum(used)[used & ~joined]
    return np.insert(points[used], gaps, np.nan, axis=0)


def _graticule(view: View, half_km: float) -> Float:
    """Projects about six meridians and parallels as one line ``(N, 2)`` with gaps."""
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
