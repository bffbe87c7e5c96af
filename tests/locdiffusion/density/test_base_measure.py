"""Base measures: lookups hit the right place, and every integral takes them into account."""

import io
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import shapely
import torch
from PIL import Image
from scipy.special import logsumexp

from experiments.standard_diffusion import mean_denoiser
from locdiffusion.checkpoint import load
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import (
    COLUMNS,
    EXCLUDED,
    FINER,
    ROWS,
    BaseConfig,
    BaseKind,
    BaseMeasure,
    base_measure_identity,
    land_measure,
    land_share,
    load_base_measure,
    polygon_measure,
    positions_measure,
    uniform_measure,
)
from locdiffusion.density.log_partition import LogPartition
from locdiffusion.density.raster import interpolated_grid, raster_centres
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.geography.areas import SEA_WEIGHT
from locdiffusion.geography.countries import COUNTRIES, country_codes
from locdiffusion.geography.polygons import PolygonError, raster_share
from locdiffusion.geotagger import Geotagger
from locdiffusion.settings import GeotaggerSettings
from locdiffusion.sphere.geodesy import (
    EARTH_RADIUS_KM,
    angle_between,
    great_circle_km,
    unit_vectors,
)
from locdiffusion.sphere.grids import fibonacci_grid, gauss_legendre_grid
from support.tiny import random_points

pytestmark = pytest.mark.usefixtures("one_thread")
L = 11


def log_at(base, latitude, longitude):
    return base(torch.from_numpy(unit_vectors(latitude, longitude)).float()).numpy()


def test_land_is_where_land_is():
    places = {(48.85, 2.35): 1, (-15.8, -47.9): 1, (64.9, -18.6): 1, (-85.0, 100.0): 1}
    places |= {(0.0, -150.0): 0, (30.0, -45.0): 0, (85.0, 10.0): 0, (-60.0, 179.9): 0}
    for (latitude, longitude), is_land in places.items():
        assert (log_at(land_measure(), latitude, longitude) > 0) == is_land, (latitude, longitude)


@pytest.mark.parametrize("base", [uniform_measure(), land_measure(), land_measure(0.5)])
def test_the_mean_over_the_sphere_is_one(base):
    mean = base(torch.from_numpy(fibonacci_grid(200_000)).float()).double().exp().mean()
    assert float(mean) == pytest.approx(1.0, abs=5e-3)


def test_interpolation_at_centres_poles_and_antimeridian():
    weight = 1.0 + np.random.default_rng(7).random((ROWS, COLUMNS))
    base = BaseMeasure(weight)
    z, longitude = raster_centres(ROWS, COLUMNS)
    latitude, longitude = np.degrees(np.arcsin(z)), np.degrees(longitude)
    at_centres = log_at(base, latitude[:, None], longitude)
    np.testing.assert_allclose(at_centres, base.log_weight.numpy(), atol=2e-3)
    own = base.log_weight.double().exp().numpy()
    middle = ROWS // 2
    between = np.log((own[middle, 0] + own[middle, -1]) / 2.0)
    for side in (-180.0, 180.0, 179.9999, -179.9999):
        assert log_at(base, latitude[middle], side) == pytest.approx(between, abs=1e-3)
    for pole, row in ((90.0, 0), (-90.0, -1)):
        meridian = np.log(own[row, COLUMNS // 2 - 1 : COLUMNS // 2 + 1].mean())
        assert log_at(base, pole, 0.0) == pytest.approx(meridian, abs=1e-3)
    quarter = (3.0 * longitude[100] + longitude[101]) / 4.0
    row_of_both = (3.0 * own[80, 100] + own[80, 101]) / 4.0
    assert log_at(base, latitude[80], quarter) == pytest.approx(np.log(row_of_both), abs=1e-3)


def test_what_excludes_places_ends_where_its_raster_does():
    weight = np.zeros((ROWS, COLUMNS))
    weight[:, COLUMNS // 2] = 1.0
    base = BaseMeasure(weight, excluding=True)
    inside, outside = log_at(base, 10.0, [0.01, 0.74]), log_at(base, 10.0, [-0.01, 0.76])
    assert (inside == float(base.log_weight.max())).all() and (outside == EXCLUDED).all()


def test_positions_are_smoothed_to_the_stated_width():
    base = positions_measure(unit_vectors([10.0], [20.0]), 300.0, 0.001)
    nodes = fibonacci_grid(100_000)
    weight = base(torch.from_numpy(nodes).float()).double().exp().numpy() - 0.001
    chord2 = np.sum((nodes - unit_vectors(10.0, 20.0)) ** 2, -1)
    nodes, weight, chord2 = (a[chord2 < 0.1] for a in (nodes, weight, chord2))
    # A plane Gaussian of standard deviation s has mean squared distance 2 s².
    width = np.sqrt(np.sum(weight * chord2) / np.sum(weight) / 2.0) * EARTH_RADIUS_KM
    assert width == pytest.approx(300.0, rel=0.05)


def test_errors_teach():
    with pytest.raises(ValueError, match="uniform measure"):
        BaseMeasure(np.zeros((4, 8)))
    with pytest.raises(ValueError, match="50 km"):
        BaseConfig(smoothing_km=10.0)
    with pytest.raises(ValueError, match="uniform_share"):
        land_measure(0.0)


def test_each_kind_is_built():
    vectors = unit_vectors([0.0, 10.0], [0.0, 10.0])
    built = {kind: BaseConfig().build(kind, vectors) for kind in BaseKind}
    assert torch.all(built[BaseKind.UNIFORM].log_weight == 0)
    assert log_at(built[BaseKind.POSITIONS], 10.0, 10.0) > log_at(built[BaseKind.LAND], 10.0, 10.0)


@pytest.fixture(scope="module")
def coast():
    """A density on the coast of Portugal with a rival in Brazil; half of each is sea."""
    natural = 8.0 / (L + 1) ** 2 * shdd.encode([38.7, -12.9], [-9.3, -38.4], L).sum(0)
    nodes = fibonacci_grid(400_000)
    base = land_measure()
    log_base = base(torch.from_numpy(nodes).float()).double().numpy()
    log_p = shdd.field(natural, nodes) + log_base
    return natural, nodes, base, log_p - (logsumexp(log_p) - np.log(len(nodes)))


def test_log_z_includes_it(coast):
    natural, nodes, base, log_p = coast
    truth = unit_vectors(38.7, -9.0)
    wanted = (shdd.field(natural, nodes[:1]) + log_at_nodes(base, nodes[:1]) - log_p[:1])[0]
    partition = LogPartition(L, base_measure=base)
    generator = torch.Generator().manual_seed(0)
    eta, x0 = torch.from_numpy(natural[None]).float(), torch.from_numpy(truth[None]).float()
    found = [float(partition(eta, x0, generator)) for _ in range(16)]
    error = np.std(found) / np.sqrt(len(found))
    # Coastlines cross the nodes: each value is off by some per mille, their mean by less.
    assert np.mean(found) == pytest.approx(wanted, abs=4 * error + 2e-3)


def log_at_nodes(base, nodes):
    return base(torch.from_numpy(nodes).float()).double().numpy()


@pytest.mark.parametrize("radius_km", [200.0, 750.0])
def test_the_decoder_includes_it(coast, radius_km):
    natural, nodes, base, log_p = coast
    decoder = Decoder(L, DecodeConfig(radius_km=radius_km), base)
    eta = torch.from_numpy(natural[None, None]).float()
    columns = decoder(eta)
    mass = np.exp(log_p) / len(nodes)
    answer = unit_vectors(columns.latitude[0], columns.longitude[0])
    distance_km = EARTH_RADIUS_KM * angle_between(nodes, answer)
    for share, radius in ((0.5, columns.radius_50_km[0]), (0.9, columns.radius_90_km[0])):
        assert mass[distance_km <= radius].sum() == pytest.approx(share, abs=0.01)
    for km, stated in zip((25, 200, 750, 2500), columns.probability[0, 1:], strict=True):
        assert mass[distance_km <= km].sum() == pytest.approx(stated, abs=0.01)
    # Far from the answer q₀ is averaged over the grid's cells; that loses some information.
    assert columns.information_nats[0] == pytest.approx(np.sum(mass * log_p), abs=0.1)
    chord2 = 4.0 * np.sin(radius_km / EARTH_RADIUS_KM / 2.0) ** 2

    def score(point):
        return mass @ np.clip(1.0 - np.sum((nodes - point) ** 2, -1) / chord2, 0.0, None)

    ours = score(answer)
    for trial in nodes[np.argsort(-log_p)[::4000][:40]]:
        assert score(trial) <= ours * 1.01
    probe = nodes[::100_001]
    stated = decoder.tables.log_probability(eta.expand(len(probe), -1, -1), probe)
    np.testing.assert_allclose(stated, log_p[::100_001], atol=0.03)


def test_swapping_it_moves_the_answer_ashore(coast):
    base = coast[2]
    natural = 8.0 / (L + 1) ** 2 * shdd.encode(38.7, -9.3, L)
    eta = torch.from_numpy(natural[None, None]).float()
    at_sea = Decoder(L, DecodeConfig(radius_km=100.0))(eta)
    ashore = Decoder(L, DecodeConfig(radius_km=100.0), base)(eta)
    assert great_circle_km(38.7, -9.3, at_sea.latitude[0], at_sea.longitude[0]) < 150
    assert ashore.longitude[0] > at_sea.longitude[0]
    assert ashore.radius_50_km[0] < at_sea.radius_50_km[0]


def test_the_sampler_mean_includes_it(coast):
    natural, nodes, base, log_p = coast
    grid = gauss_legendre_grid(120, 240)
    log_base = base.on_grid(grid).view(grid.shape)
    denoise = mean_denoiser(
        lambda x, sigma, condition: torch.from_numpy(natural[None]).float(),
        torch.zeros(1, 1),
        ProductTransform(grid, L),
        log_base,
    )
    mean = denoise(torch.zeros(1, len(natural)), torch.ones(1))[0].numpy()
    mass = np.exp(log_p) / len(nodes)
    parts = zip(np.split(mass, 20), np.split(nodes, 20), strict=True)
    wanted = sum(part @ shdd.encode_vectors(where, L) for part, where in parts)
    np.testing.assert_allclose(mean, wanted, atol=0.02)


# -------------------------------------------------------------------------------------- on land


def test_land_probability_is_that_of_a_fine_grid(coast):
    natural, nodes, base, log_p = coast
    land = land_share()[raster_index(nodes)]
    decoder = Decoder(L, DecodeConfig(radius_km=200.0), base)
    columns = decoder(torch.from_numpy(natural[None, None]).float())
    wanted = np.sum(np.exp(log_p) * land) / len(nodes)
    assert 0.3 < wanted < 0.95
    assert columns.land_probability[0] == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize(("place", "least", "most"), [((47.0, 2.0), 0.999, 1), ((0, -30), 0, 1e-3)])
def test_inland_and_at_sea(place, least, most):
    natural = 40.0 / 24**2 * shdd.encode(*place, 23)
    columns = Decoder(23)(torch.from_numpy(natural[None, None]).float())
    assert least <= columns.land_probability[0] <= most


def test_no_knowledge_gives_the_share_of_land():
    columns = Decoder(L)(torch.zeros(1, 1, (L + 1) ** 2))
    assert columns.land_probability[0] == pytest.approx(land_share().mean(), abs=3e-3)


def raster_index(vectors, rows=FINER * ROWS, columns=FINER * COLUMNS):
    row = ((1.0 - vectors[:, 2]) * rows / 2).astype(int).clip(0, rows - 1)
    longitude = np.arctan2(vectors[:, 1], vectors[:, 0])
    column = ((longitude + np.pi) * columns / (2 * np.pi)).astype(int).clip(0, columns - 1)
    return row, column


# ------------------------------------------------------------------------------------- polygons

SHAPES = {
    "triangle": shapely.Polygon([(-10, -20), (40, 5), (3, 55)]),
    "hole": shapely.box(-60, -30, -20, 30) - shapely.Point(-40, 0).buffer(15),
    "both sides of the antimeridian": shapely.MultiPolygon(
        [shapely.box(165, 50, 180, 70), shapely.box(-180, 50, -170, 70)]
    ),
    "around a pole": shapely.box(-180, -90, 180, -70),
    "the world": shapely.box(-180, -90, 180, 90),
    "turned": shapely.Polygon([(-10, -20), (3, 55), (40, 5)]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_raster_share_is_that_of_many_points(name):
    rows, columns, parts = 36, 72, 12
    z = 1 - 2 * (np.arange(rows * parts) + 0.5) / (rows * parts)
    longitude = -180 + 360 * (np.arange(columns * parts) + 0.5) / (columns * parts)
    x, y = np.meshgrid(longitude, np.degrees(np.arcsin(z)))
    shapely.prepare(SHAPES[name])
    inside = shapely.contains_xy(SHAPES[name], x, y)
    wanted = inside.reshape(rows, parts, columns, parts).mean((1, 3))
    found = raster_share(SHAPES[name], rows, columns, lines=parts)
    np.testing.assert_allclose(found, wanted, atol=0.6 / parts)
    assert found.mean() == pytest.approx(wanted.mean(), abs=3e-4)


def test_nothing_is_outside_a_polygon():
    base = polygon_measure(SHAPES["triangle"])
    assert log_at(base, 10.0, 5.0) > 2.0
    assert log_at(base, 10.0, -60.0) == EXCLUDED
    nodes = torch.from_numpy(fibonacci_grid(100_000)).float()
    assert float(base(nodes).double().exp().mean()) == pytest.approx(1.0, abs=0.02)


def test_weights_are_shares_whatever_the_area():
    large, small = shapely.box(0, 0, 40, 40), shapely.box(-100, 0, -99, 1)
    base = polygon_measure([large, small], [1.0, 3.0])
    weight = base.log_weight.double().exp().numpy()
    west = weight[:, : FINER * COLUMNS // 2].sum() / weight.sum()
    assert west == pytest.approx(0.75, abs=1e-2)
    by_area = polygon_measure([large, small]).log_weight.double().exp().numpy()
    assert by_area[:, : FINER * COLUMNS // 2].sum() / by_area.sum() < 0.001


def test_overlapping_polygons_count_once():
    twice = polygon_measure([shapely.box(0, 0, 20, 20), shapely.box(0, 0, 20, 20)])
    once = polygon_measure([shapely.box(0, 0, 20, 20)])
    assert torch.equal(twice.log_weight, once.log_weight)


def test_a_garden_is_found():
    base = polygon_measure(shapely.box(13.4, 52.5, 13.4001, 52.5001))
    assert log_at(base, 52.50005, 13.40005) > 10.0


def test_weights_that_make_no_sense():
    boxes = [shapely.box(0, 0, 20, 20), shapely.box(30, 0, 50, 20)]
    for weights in ([1.0, -1.0], [0.0, 0.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="want numbers of at least 0"):
            polygon_measure(boxes, weights)


def polygon_file(path, shapes, **columns):
    table = geopandas.GeoDataFrame(columns, geometry=list(shapes), crs="OGC:CRS84")
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path, driver="GeoJSON")
    return str(path)


@pytest.mark.parametrize("name", ["prior.geojson", "prior.parquet"])
def test_priors_by_name_and_by_file(tmp_path, name):
    own = land_measure(0.5)
    assert load_base_measure(None, own) is own and load_base_measure("checkpoint", own) is own
    assert torch.equal(load_base_measure("land", own).log_weight, land_measure().log_weight)
    assert torch.all(load_base_measure("uniform", own).log_weight == 0)
    boxes = [shapely.box(0, 0, 20, 20), shapely.box(30, 0, 50, 20)]
    path = polygon_file(tmp_path / name, boxes, weight=[3, 1])
    base = load_base_measure(path, own)
    assert log_at(base, 10, 10) - log_at(base, 10, 40) == pytest.approx(np.log(3), abs=0.01)
    path = polygon_file(tmp_path / f"bare-{name}", boxes)
    bare = load_base_measure(path, own)
    assert log_at(bare, 10, 10) == log_at(bare, 10, 40)
    off_ghana, ghana = (2, 2), (8, 1)
    assert log_at(base, *ghana) == log_at(base, *off_ghana)  # the weights say it
    little = log_at(bare, *ghana) - log_at(bare, *off_ghana)
    assert little == pytest.approx(-np.log(SEA_WEIGHT), abs=0.01)
    at_sea = load_base_measure(f"{path};sea", own)
    assert log_at(at_sea, *ghana) == log_at(at_sea, *off_ghana)
    assert base_measure_identity(f"{path};sea") == f"{base_measure_identity(path)};sea"


def test_priors_that_cannot_be_used(tmp_path):
    with pytest.raises(PolygonError, match="cannot be read"):
        load_base_measure(str(tmp_path / "nowhere.geojson"), uniform_measure())
    box = [shapely.box(0, 0, 20, 20)]
    for weight in (["much"], [-1.0]):
        path = polygon_file(tmp_path / "prior.geojson", box, weight=weight)
        with pytest.raises(PolygonError, match="is no prior"):
            load_base_measure(path, uniform_measure())


def test_identities_follow_the_bytes_and_not_the_place(tmp_path):
    box = [shapely.box(0, 0, 20, 20)]
    (tmp_path / "a").mkdir()
    here = polygon_file(tmp_path / "prior.geojson", box)
    there = polygon_file(tmp_path / "a" / "prior.geojson", box)
    assert base_measure_identity(here) == base_measure_identity(there) != "prior.geojson"
    polygon_file(tmp_path / "prior.geojson", [shapely.box(0, 0, 20, 21)])
    assert base_measure_identity(here) != base_measure_identity(there)
    assert [base_measure_identity(p) for p in (None, "land")] == ["checkpoint", "land"]
    spellings = ("country:se; 1,2,3km;country:NO", "country:NO;country:SE;1.0,2.0,3KM;")
    assert {base_measure_identity(p) for p in spellings} == {"country:NO;country:SE;1,2,3km"}


# One that no node of the grid sees, and a large one.
PRIORS = {"Luxembourg": shapely.Point(6.1, 49.8).buffer(0.4), "Iberia": shapely.box(-9, 36, 3, 44)}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_answers_towards_land_are_a_geometric_mean(share: float) -> None:
    vectors = random_points(50, seed=2)
    config = BaseConfig(land_exponent=share)
    own, land = config.build(BaseKind.POSITIONS, vectors), config.build(BaseKind.LAND, vectors)
    wanted = (1.0 - share) * own.log_weight + share * land.log_weight
    found = config.for_answers(vectors).log_weight
    torch.testing.assert_close(found - found[0, 0], wanted - wanted[0, 0], atol=0.02, rtol=0.0)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_land_has_bounds(share: float) -> None:
    with pytest.raises(ValueError, match=f"land_exponent is {share}; want 0 to 1"):
        BaseConfig(land_exponent=share)


@pytest.fixture(scope="module")
def prior_decoders():
    config = DecodeConfig(radius_km=100.0)
    return {name: Decoder(23, config, polygon_measure(shape)) for name, shape in PRIORS.items()}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("place", [(40.0, -3.7), (-15.0, -50.0), (49.7, 6.1)])
def test_decoder_answers_within_a_polygon(prior_decoders, place, name):
    """For photos from there and for photos from elsewhere, of which it may be as sure."""
    polygon, decoder = PRIORS[name], prior_decoders[name]
    nodes = spread_over(polygon)
    for height in (0.0, 8.0, 40.0):
        natural = height / 24**2 * shdd.encode(*place, 23)
        columns = decoder(torch.from_numpy(natural[None, None]).float())
        assert polygon.distance(shapely.Point(columns.longitude[0], columns.latitude[0])) < 0.3
        log_p = shdd.field(natural, nodes) + log_at_nodes(decoder.tables.base_measure, nodes)
        mass = np.exp(log_p - logsumexp(log_p))
        answer = unit_vectors(columns.latitude[0], columns.longitude[0])
        distance_km = EARTH_RADIUS_KM * angle_between(nodes, answer)
        assert mass[distance_km <= columns.radius_90_km[0]].sum() == pytest.approx(0.9, abs=0.06)


def test_small_polygons_between_the_nodes_are_found(rng):
    natural = torch.from_numpy(40.0 / 24**2 * shdd.encode(-15.0, -50.0, 23)[None, None]).float()
    for latitude, longitude in rng.uniform((-70, -180), (70, 180), (8, 2)):
        polygon = shapely.Point(longitude, latitude).buffer(0.2)
        decoder = Decoder(23, DecodeConfig(radius_km=50.0), polygon_measure(polygon))
        columns = decoder(natural)
        assert polygon.distance(shapely.Point(columns.longitude[0], columns.latitude[0])) < 0.4


@pytest.mark.parametrize(
    ("prior", "within_km"), [("-20,130,1km", 12.5), ("51.5,-0.1,1km", 13.5), ("0,179.9,50km", 62.0)]
)
def test_no_answer_lies_outside_a_disc_but_in_the_cells_that_it_touches(rng, prior, within_km):
    """For any density; half the diagonal of a cell is 12.5 km at the equator."""
    scattered = 0.3 * rng.normal(size=(8, 1, 32**2))
    latitude, longitude, _ = map(float, prior.removesuffix("km").split(","))
    decoder = Decoder(
        31, DecodeConfig(radius_km=750.0), load_base_measure(prior, uniform_measure())
    )
    columns = decoder(torch.from_numpy(scattered).float())
    away = great_circle_km(columns.latitude, columns.longitude, latitude, longitude)
    assert np.all(away < within_km)
    assert np.all(columns.radius_90_km < 2.0 * within_km)


def spread_over(polygon, count=8_000):
    """Nodes of equal area over a polygon's box and a little more."""
    west, south, east, north = polygon.buffer(0.3).bounds
    i = np.arange(count) + 0.5
    low, high = np.sin(np.radians([south, north]))
    latitude = np.degrees(np.arcsin(low + (high - low) * i / count))
    longitude = west + (east - west) * np.mod(i * (np.sqrt(5) - 1) / 2, 1.0)
    return unit_vectors(latitude, longitude)


# ---------------------------------------------------- the shipped checkpoint and overhead patches


class NoEncoder:
    device = "cpu"


def test_a_prior_takes_the_place_of_the_base_and_of_nothing_else(tmp_path):
    path = polygon_file(tmp_path / "prior.geojson", [shapely.box(-9, 36, 3, 44)])
    own, swapped = Geotagger.load(), Geotagger.load(prior=path)
    assert swapped.checkpoint.base_measure.excludes and not own.checkpoint.base_measure.excludes
    assert swapped.model_id == own.model_id and swapped.checkpoint_hash == own.checkpoint_hash
    embeddings = np.random.default_rng(0).normal(size=(3, own.encoder_spec.embedding_dim))
    embeddings = embeddings.astype(np.float32)
    natural = own.sample(embeddings, ["a", "b", "c"])
    np.testing.assert_array_equal(natural, swapped.sample(embeddings, ["a", "b", "c"]))
    columns = swapped.decode(natural)
    assert np.all((columns.longitude > -9.3) & (columns.longitude < 3.3))
    for regions in swapped.regions(natural):
        assert all(shapely.box(-9.3, 35.7, 3.3, 44.3).covers(r.geometry) for r in regions)


@pytest.fixture(scope="module")
def country_patches():
    """Embeddings of patches of Brazil and Australia in regions the checkpoint never saw."""
    from locdiffusion.overhead.dataset import OverheadConfig, PatchMaker
    from locdiffusion.overhead.splits import STREAMS, Split, draw_centre

    config = OverheadConfig(Split.UNSEEN, 3000)
    maker, stream = PatchMaker(config), STREAMS[Split.UNSEEN][0]
    centres = [
        draw_centre(0, stream, i, maker._land, config.geometry, config.rule) for i in range(3000)
    ]
    codes = np.array(country_codes(*np.array(centres).T))
    geotagger = Geotagger.load()
    patches = {}
    for code in ("BR", "AU"):
        found = [maker.make(stream, int(i)) for i in np.flatnonzero(codes == code)[:150]]
        images = [Image.open(io.BytesIO(patch.jpeg)) for patch in found]
        pixels = np.stack([geotagger.preprocess(image) for image in images])
        parts = [geotagger.embed(pixels[i : i + 25]) for i in range(0, len(pixels), 25)]
        places = np.array([(patch.latitude, patch.longitude) for patch in found]).T
        patches[code] = np.concatenate(parts), *places
    return patches


@pytest.mark.slow
@pytest.mark.parametrize("code", ["BR", pytest.param("AU", marks=pytest.mark.ci)])
def test_the_true_country_as_prior_gives_better_answers(country_patches, code, tmp_path):
    shape = geopandas.read_parquet(COUNTRIES).set_index("code").geometry[code]
    path = polygon_file(tmp_path / "country.geojson", [shape])
    embeddings, latitude, longitude = country_patches[code]
    checkpoint = load()
    errors = {}
    for prior in (None, path):
        base = load_base_measure(prior, checkpoint.base_measure)
        geotagger = Geotagger(replace(checkpoint, base_measure=base), NoEncoder())
        natural = geotagger.sample(embeddings, [""] * len(embeddings))
        columns = geotagger.decode(natural, embeddings)
        km = great_circle_km(columns.latitude, columns.longitude, latitude, longitude)
        # Of the few of another kind the prior is all that is said.
        familiar = columns.familiarity >= checkpoint.config.temperature.unfamiliar
        assert np.mean(familiar) > 0.9
        errors[prior] = km[familiar]
    for km in (200, 750, 2500):
        shares = [np.mean(errors[prior] <= km) for prior in (None, path)]
        print(f"{code}: within {km} km {100 * shares[0]:.1f} %, with prior {100 * shares[1]:.1f} %")
        # Of those beyond 750 km, most of them in another country, half are brought home.
        # At the other distances a photo or two may move over the edge.
        assert shares[1] >= shares[0] + (0.5 * (1.0 - shares[0]) if km == 750 else -0.02)
    assert np.mean(errors[path]) < 0.7 * np.mean(errors[None])
    # Inside the country it says nothing, but at the coasts; whichever way those go.
    assert np.median(errors[path]) < 1.1 * np.median(errors[None])
    # The prior's raster has cells of 13 by 21 km at the equator, longer ones further north.
    around = shapely.simplify(shape, 0.01).buffer(0.3)
    for regions in geotagger.regions(natural[:60]):
        assert all(around.covers(region.geometry) for region in regions)


@pytest.mark.slow
def test_sampling_keeps_to_the_prior_too(country_patches):
    embeddings = country_patches["BR"][0][:6]
    chile = geopandas.read_parquet(COUNTRIES).set_index("code").geometry["CL"]
    checkpoint = replace(load(), base_measure=polygon_measure(chile))
    geotagger = Geotagger(
        checkpoint, NoEncoder(), GeotaggerSettings(mode="sampling", samples=4, steps=4)
    )
    natural = geotagger.sample(embeddings, list("abcdef"))
    columns = geotagger.decode(natural)
    points = shapely.points(columns.longitude, columns.latitude)
    assert np.all(shapely.distance(points, chile) < 0.3)
    for regions in geotagger.regions(natural):
        assert all(shapely.simplify(chile, 0.01).buffer(0.5).covers(r.geometry) for r in regions)


def test_a_grid_is_interpolated_as_its_points_are():
    """Beyond the outermost centres too; places are float32 in one of the two."""
    base = land_measure()
    row, column = np.linspace(0.0, ROWS, 101), np.linspace(0.0, COLUMNS, 203)
    grid = interpolated_grid(base.surface.double().numpy(), row, column)
    points = base.at(torch.from_numpy(row)[:, None], torch.from_numpy(column)).exp().numpy()
    np.testing.assert_allclose(grid, points, atol=1e-3)
