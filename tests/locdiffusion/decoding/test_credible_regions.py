"""Credible regions hold what they say, by somebody else's quadrature, and are valid polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
import torch
from scipy.interpolate import CubicSpline
from scipy.special import eval_legendre

from locdiffusion.decoding.adaptive_mesh import Mesh
from locdiffusion.decoding.credible_regions import CredibleRegion, RegionFinder, area_km2
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import BaseMeasure, land_measure, polygon_measure
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid

pytestmark = pytest.mark.usefixtures("one_thread")

L, WAVE_L = 31, 6
D = (L + 1) ** 2
SPHERE_KM2 = 4.0 * np.pi * EARTH_RADIUS_KM**2


# ----------------------------------------------- an independent view: zonal peaks, fine local grids


@dataclass(frozen=True)
class Peak:
    """η = height/d · code(place): a bump of standard deviation about 2/√(height·d) radians."""

    latitude: float
    longitude: float
    height: float

    @property
    def vector(self) -> np.ndarray:
        return unit_vectors(self.latitude, self.longitude)

    @property
    def width(self) -> float:
        return 2.0 / np.sqrt(self.height * D)


@dataclass(frozen=True)
class Density:
    """A mixture of exponentials of sums of peaks, over a low wave: peaks of low degree, summed."""

    samples: tuple[tuple[Peak, ...], ...]
    wave: tuple[Peak, ...] = ()

    @property
    def natural(self) -> np.ndarray:
        """``(K, d)``, as a network would give them."""
        natural = np.zeros((len(self.samples), D))
        for row, peaks in zip(natural, self.samples, strict=True):
            for degree, bumps in ((L, peaks), (WAVE_L, self.wave)):
                for p in bumps:
                    d = (degree + 1) ** 2
                    row[:d] += p.height / d * shdd.encode(p.latitude, p.longitude, degree)
        return natural

    def fields(self, vectors: np.ndarray) -> np.ndarray:
        """F of each sample by the addition theorem, without harmonics."""
        wave = sum((zonal(p, vectors, WAVE) for p in self.wave), np.zeros(len(vectors)))
        return np.stack([sum((zonal(p, vectors, ZONAL) for p in s), wave) for s in self.samples])


def zonal_table(degree: int) -> np.ndarray:
    """code(x)·code(y)/d over the chord between x and y, in steps of 6 m."""
    coarse = np.linspace(0.0, 2.0, 20_001)
    legendre = eval_legendre(np.arange(degree + 1), 1.0 - coarse[:, None] ** 2 / 2.0)
    values = legendre @ (2.0 * np.arange(degree + 1) + 1) / (degree + 1) ** 2
    return CubicSpline(coarse, values)(np.linspace(0.0, 2.0, CHORDS + 1))


CHORDS = 2_000_000
ZONAL, WAVE = zonal_table(L), zonal_table(WAVE_L)


def zonal(peak: Peak, vectors: np.ndarray, table: np.ndarray) -> np.ndarray:
    chord = np.sqrt((2.0 - 2.0 * vectors @ peak.vector).clip(0.0, 4.0))
    return peak.height * table[np.rint(chord * (CHORDS / 2.0)).astype(int)]


GLOBAL = fibonacci_grid(100_000)
MOST_ON_A_NODE = 2e-3
"""A peak in a cap of its own has less: at most 81/60,000."""


def fine_grid(
    density: Density, more: list[tuple[np.ndarray, float]], local: int = 30_000
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and their areas (of 1): dense around every peak and in `more` caps, 71 km apart else.

    A cap is a unit vector and a radius in radians.
    """
    caps = [(p.vector, min(9.0 * p.width, 0.5)) for s in density.samples for p in s]
    nodes, areas, before = [], [], []
    for centre, radius in sorted([*caps, *more], key=lambda cap: cap[1]):
        cap = spiral(centre, radius, local)
        free = np.ones(len(cap), bool)
        for other, cos in before:
            free &= cap @ other < cos
        nodes.append(cap[free])
        areas.append(np.full(free.sum(), np.sin(radius / 2.0) ** 2 / local))
        before.append((centre, np.cos(radius)))
    free = np.ones(len(GLOBAL), bool)
    for centre, cos in before:
        free &= GLOBAL @ centre < cos
    nodes.append(GLOBAL[free])
    areas.append(np.full(free.sum(), 1.0 / len(GLOBAL)))
    return np.concatenate(nodes), np.concatenate(areas)


def spiral(centre: np.ndarray, radius: float, count: int) -> np.ndarray:
    """Nodes of equal area within a cap."""
    i = np.arange(count) + 0.5
    drop = (1.0 - np.cos(radius)) * i / count
    phi = np.pi * (1.0 + np.sqrt(5.0)) * i
    ring = np.sqrt(drop * (2.0 - drop))
    reference = np.eye(3)[2] if abs(centre[2]) < 0.9 else np.eye(3)[0]
    east = np.cross(reference, centre)
    east /= np.linalg.norm(east)
    local = np.stack([ring * np.cos(phi), ring * np.sin(phi), 1.0 - drop], -1)
    return local @ np.stack([east, np.cross(centre, east), centre])


@dataclass(frozen=True)
class Measured:
    """A density on its fine grid."""

    latitude: np.ndarray
    longitude: np.ndarray
    area: np.ndarray
    mass: np.ndarray

    def inside(self, geometry: shapely.Geometry) -> np.ndarray:
        shapely.prepare(geometry)
        return np.asarray(shapely.contains_xy(geometry, self.longitude, self.latitude))

    def smallest_area_km2(self, level: float) -> float:
        """Of any set of nodes that holds the level."""
        order = np.argsort(-self.mass / self.area)
        within = np.cumsum(self.mass[order]) <= level
        return float(self.area[order][within].sum() * SPHERE_KM2)


def measured(density: Density, base: BaseMeasure | None) -> Measured:
    """On the fine grid; finer still where a sum of peaks is highest, far from each of them."""
    more: list[tuple[np.ndarray, float]] = []
    for _ in range(20):
        nodes, found = on_fine_grid(density, base, more)
        heaviest = int(np.argmax(found.mass))
        if found.mass[heaviest] < MOST_ON_A_NODE:
            return found
        more.append((nodes[heaviest], 5.0 * np.sqrt(4.0 * np.pi * found.area[heaviest])))
    raise AssertionError(f"no grid is fine enough for {density}")


def on_fine_grid(
    density: Density, base: BaseMeasure | None, more: list[tuple[np.ndarray, float]]
) -> tuple[np.ndarray, Measured]:
    nodes, area = fine_grid(density, more)
    field = density.fields(nodes)
    if base is not None:
        field = field + base(torch.from_numpy(nodes)).double().numpy()
    p = np.exp(field - field.max(1, keepdims=True)) * area
    mass = (p / p.sum(1, keepdims=True)).mean(0)
    latitude, longitude = latitude_longitude(nodes)
    return nodes, Measured(latitude, longitude, area, mass)


def random_density(rng: np.random.Generator) -> Density:
    """From nearly uniform to peaks of 12 km; on poles and the antimeridian too."""
    size = 10.0 ** rng.uniform(-3, 0.2)
    wave = tuple(Peak(*anywhere(rng), float(size * rng.normal())) for _ in range(8))
    samples = []
    for _ in range(rng.choice([1, 1, 1, 3])):
        peaks = []
        for _ in range(rng.integers(0, 5)):
            latitude, longitude = anywhere(rng)
            latitude = rng.choice([latitude, latitude, latitude, 90.0, -89.9, 89.0, -90.0, -70.0])
            longitude = rng.choice([longitude, longitude, 180.0, -179.99, 179.5])
            peaks.append(Peak(float(latitude), float(longitude), float(D ** rng.uniform(0.15, 1))))
        samples.append(tuple(peaks))
    return Density(tuple(samples), wave)


def anywhere(rng: np.random.Generator) -> tuple[float, float]:
    return float(np.degrees(np.arcsin(rng.uniform(-1, 1)))), float(rng.uniform(-180, 180))


def find(finder: RegionFinder, density: Density) -> tuple[CredibleRegion, ...]:
    return finder(torch.from_numpy(density.natural)[None])[0]


FINDERS = {"uniform": None, "land": land_measure()}


@pytest.fixture(scope="module")
def finders() -> dict[str, RegionFinder]:
    return {name: RegionFinder(L, base) for name, base in FINDERS.items()}


def check(finder: RegionFinder, base: BaseMeasure | None, density: Density) -> None:
    truth = measured(density, base)
    regions = find(finder, density)
    assert [region.level for region in regions] == [0.5, 0.9]
    for region in regions:
        geometry = region.geometry
        assert geometry.geom_type in ("Polygon", "MultiPolygon") and not geometry.is_empty
        assert geometry.is_valid, shapely.is_valid_reason(geometry)
        west, south, east, north = geometry.bounds
        assert west >= -180 and east <= 180 and south >= -90 and north <= 90
        inside = truth.inside(geometry)
        mass = truth.mass[inside].sum()
        assert mass == pytest.approx(region.level, abs=0.01), (density, region.probability)
        assert region.probability == pytest.approx(mass, abs=0.01)
        by_nodes = truth.area[inside].sum() * SPHERE_KM2
        assert region.area_km2 == pytest.approx(by_nodes, rel=0.05, abs=1e-4 * SPHERE_KM2)
        smallest = truth.smallest_area_km2(region.level)
        assert region.area_km2 < 1.1 * smallest + 1e-4 * SPHERE_KM2


@pytest.mark.parametrize("name", FINDERS)
def test_random_densities(finders, name, rng):
    for _ in range(50):
        check(finders[name], FINDERS[name], random_density(rng))


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDERS)
def test_a_thousand_random_densities(finders, name):
    rng = np.random.default_rng(1)
    for _ in range(500):
        check(finders[name], FINDERS[name], random_density(rng))


# ------------------------------------------------------------------------------- known shapes


def one_peak(latitude, longitude, height=60.0):
    return Density(((Peak(latitude, longitude, height),),))


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_over_a_pole_the_region_is_one_strip_of_all_longitudes(finders, pole):
    for region in find(finders["uniform"], one_peak(pole, 0.0)):
        west, south, east, north = region.geometry.bounds
        assert region.geometry.geom_type == "Polygon"
        assert (west, east) == (-180, 180) and pole in (south, north)
        assert region.geometry.covers(shapely.Point(77.0, pole))
    around = find(finders["uniform"], one_peak(np.sign(pole) * 89.9, 40.0))[1].geometry
    assert around.covers(shapely.Point(-140.0, pole)) and around.is_valid


def test_on_the_antimeridian_the_region_has_two_sides(finders):
    for region in find(finders["uniform"], one_peak(-17.0, 180.0)):
        west, east = sorted(shapely.get_parts(region.geometry), key=lambda p: p.bounds[0])
        assert west.bounds[0] == -180.0 and west.bounds[2] < -170.0
        assert east.bounds[2] == 180.0 and east.bounds[0] > 170.0
        assert area_km2(west) == pytest.approx(area_km2(east), rel=0.05)


def test_a_round_peak_has_a_round_region(finders):
    """Of a plane Gaussian, within σ √(-2 ln(1 - level)); the same on every meridian."""
    width_km = Peak(0, 0, 300.0).width * EARTH_RADIUS_KM
    for latitude, longitude in ((0.0, 0.0), (52.0, 13.0), (-75.0, -179.9), (90.0, 0.0)):
        for region in find(finders["uniform"], one_peak(latitude, longitude, 300.0)):
            radius_km = width_km * np.sqrt(-2.0 * np.log(1.0 - region.level))
            assert region.area_km2 == pytest.approx(np.pi * radius_km**2, rel=0.05)


def test_where_nothing_is_known_any_half_of_the_earth_is_as_good(finders):
    flat = Density(((),))
    for region in find(finders["uniform"], flat):
        assert region.area_km2 == pytest.approx(region.level * SPHERE_KM2, rel=0.005)
    for region in find(finders["land"], flat):
        assert region.probability == pytest.approx(region.level, abs=0.005)


def test_a_photo_does_not_depend_on_those_beside_it(finders, rng):
    natural = torch.from_numpy(np.stack([one_peak(10.0 * i, 20.0 * i).natural for i in range(3)]))
    together = finders["land"](natural)
    for i in range(3):
        alone = finders["land"](natural[i : i + 1])[0]
        assert [r.geometry for r in alone] == [r.geometry for r in together[i]]


def test_within_a_prior_that_excludes_the_rest():
    prior = shapely.Polygon([(-10, 36), (3, 42), (-2, 44), (-9, 43)])
    finder = RegionFinder(L, polygon_measure(prior))
    for place in ((40.0, -4.0), (48.0, 8.0), (-20.0, 100.0)):
        for region in find(finder, one_peak(*place, 30.0)):
            assert prior.buffer(0.25).covers(region.geometry)
            assert region.probability == pytest.approx(region.level, abs=0.01)


def test_a_small_prior_between_the_nodes_is_found():
    prior = shapely.Point(100.55, 13.72).buffer(0.3)
    finder = RegionFinder(L, polygon_measure(prior))
    region = find(finder, one_peak(-20.0, -50.0, 30.0))[1]
    assert prior.buffer(0.25).covers(region.geometry) and not region.geometry.is_empty


def test_the_smaller_region_lies_within_the_larger_one(finders, rng):
    for name in FINDERS:
        for _ in range(10):
            half, most = find(finders[name], random_density(rng))
            beyond = half.geometry.difference(most.geometry).area
            assert beyond <= 1e-9 * half.geometry.area


@pytest.mark.parametrize(
    "density",
    [
        one_peak(47.0, 8.0, 1000.0),
        one_peak(10.0, 20.0, 3.0),
        one_peak(90.0, 0.0, 300.0),
        one_peak(-89.0, 50.0, 700.0),
        one_peak(0.0, 180.0, 100.0),
        Density(((Peak(50.0, 10.0, 200.0),), (Peak(-30.0, -60.0, 20.0),))),
        Density(
            tuple((Peak(10.0 + 0.3 * i, 40.0 - 0.5 * i, 100.0 + 20.0 * i),) for i in range(16))
        ),
    ],
    ids=["sharp", "wide", "pole", "near-pole", "antimeridian", "two-lobed", "sixteen"],
)
def test_what_is_stated_is_inside_within_a_fifth_of_a_point(finders, density):
    """By sums of zonal functions on nodes of our own; areas are the least within 1 %."""
    truth = measured(density, None)
    for region in find(finders["uniform"], density):
        mass = truth.mass[truth.inside(region.geometry)].sum()
        assert region.probability == pytest.approx(mass, abs=0.002)
        assert region.probability == pytest.approx(region.level, abs=0.001)
        smallest = truth.smallest_area_km2(region.level)
        assert region.area_km2 == pytest.approx(smallest, rel=0.01)


def test_a_peak_outside_a_prior_leaves_the_nearest_corner():
    """Its density falls by hundreds of nats from one side of the prior to the other."""
    prior = shapely.box(5.0, 45.0, 10.0, 50.0)
    finder = RegionFinder(L, polygon_measure(prior))
    for region in find(finder, one_peak(42.0, 2.0, 1000.0)):
        assert region.probability == pytest.approx(region.level, abs=0.01)
        assert prior.buffer(0.25).covers(region.geometry)
        assert region.geometry.distance(shapely.Point(5.0, 45.0)) < 0.25
        assert region.area_km2 < 1000.0


@pytest.mark.parametrize("name", FINDERS)
def test_a_mesh_has_the_density_of_the_field_and_its_mass(name, rng):
    """At corners by the addition theorem; cells hold 1 together and follow the density."""
    base = FINDERS[name]
    mesh = Mesh(L, base)
    for _ in range(5):
        density = random_density(rng)
        found = mesh.measure(torch.from_numpy(density.natural))
        assert found.mass.sum() == pytest.approx(1.0) and found.mass.min() >= 0.0
        assert (np.diff(found.longitude) > 0.0).all() and (np.diff(found.latitude) > 0.0).all()
        assert found.longitude[[0, -1]].tolist() == [-180.0, 180.0]
        assert found.latitude[[0, -1]].tolist() == [-90.0, 90.0]
        truth = measured(density, base)
        row = np.searchsorted(found.latitude, truth.latitude) - 1
        column = np.searchsorted(found.longitude, truth.longitude) - 1
        by_nodes = np.zeros_like(found.mass)
        np.add.at(by_nodes, (row.clip(0), column.clip(0)), truth.mass)
        for axis in (0, 1):
            one, other = (np.cumsum(m.sum(axis)) for m in (found.mass, by_nodes))
            assert one == pytest.approx(other, abs=0.01)


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        (shapely.box(-180, -90, 180, 90), 1.0),
        (shapely.box(0, 0, 90, 90), 0.125),
        (shapely.box(-180, 30, 180, 90), 0.25),
        (shapely.box(-180, -90, 180, 90) - shapely.box(0, 0, 90, 90), 0.875),
        (
            shapely.MultiPolygon([shapely.box(170, -90, 180, 0), shapely.box(-180, -90, -170, 0)]),
            1 / 36,
        ),
    ],
)
def test_areas_on_the_sphere(shape, share):
    assert area_km2(shape) == pytest.approx(share * SPHERE_KM2, rel=1e-12)


def test_area_of_slanted_edges():
    shape = shapely.Polygon([(-30, -60), (50, 10), (10, 80)])
    fine = shapely.segmentize(shape, 0.05)
    lon, lat = np.radians(np.array(fine.exterior.coords)).T
    by_strips = abs(np.sum(np.diff(lon) * np.sin((lat[1:] + lat[:-1]) / 2)))
    assert area_km2(shape) == pytest.approx(by_strips * EARTH_RADIUS_KM**2, rel=1e-5)
