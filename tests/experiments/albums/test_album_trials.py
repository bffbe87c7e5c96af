"""The trials of albums: they run, score both ways on the same photos, and keep their promises."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.albums.__main__ import main
from experiments.albums.real import left_out, measure
from experiments.albums.simulated import MixtureLikelihood, photos_alone, simulate
from experiments.albums.trips import STEP_KM, draw_trip
from locdiffusion.albums.evidence import EvidenceParameters
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.overhead.mosaics import load_land_mask
from locdiffusion.overhead.splits import Region, in_region
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.grids import fibonacci_grid
from support import SEED
from support.albums import walk

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(name="albums", scope="module")
def two_walks():
    rng = np.random.default_rng(SEED)
    return [walk(60, rng, 3.0), walk(60, rng, 30.0, -20.0, 130.0)]


def test_each_album_is_asked_with_the_parameters_of_the_others(albums):
    parameters = left_out(albums)
    assert [p.card.photos for p in parameters] == [60, 60]
    found = measure(albums, parameters, "photos", 0.5, [0, 1])
    assert set(found.album) == {0, 1}
    assert 90 < len(found) < 150


def test_simulated_photos_alone_have_honest_radii():
    truth = fibonacci_grid(3000)
    rng = np.random.default_rng(SEED)
    likelihood = MixtureLikelihood.drawn(truth, np.arange(3000.0), False, rng)
    half, most = photos_alone(likelihood, truth).coverage()
    assert_allclose([half, most], [50.0, 90.0], atol=4.0)


def test_evidence_of_all_photos_is_better_than_that_of_one(albums):
    joining = EvidenceParameters()
    found = simulate(albums[0], AlbumParameters.load(), joining, 0.9, False, SEED)
    assert len({len(scores) for scores in found.values()}) == 1
    assert found["album"].nats() < found["photo alone"].nats() - 1.0
    assert found["album"].within(200.0) > found["photo alone"].within(200.0) + 20.0


def test_a_trip_stays_in_the_regions_of_validation():
    trip = draw_trip(12, np.random.default_rng(SEED), load_land_mask())
    assert np.all(in_region(Region.VALIDATION, *latitude_longitude(trip)))
    steps = EARTH_RADIUS_KM * np.arccos((trip[1:] * trip[:-1]).sum(1))
    assert 0.4 * STEP_KM < steps.mean() < 2.0 * STEP_KM


def test_a_table_gives_rows_for_all_and_for_albums_of_many_anchors(tmp_path, capsys):
    lines = ["album,captured_at,latitude,longitude"]
    rng = np.random.default_rng(SEED)
    for album in ("a", "b"):
        for day in range(1, 29):
            x, y = 48.0 + rng.normal(size=2) * 0.1
            lines.append(f"{album},2019-05-{day:02d}T10:00:00,{x:.5f},{y:.5f}")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(lines), "utf-8")
    assert main(["real", "--table", str(table), "--draws", "1", "--least", "20"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(", all |") == 5
    assert printed.count("album 1 |") == 5
    with pytest.raises(SystemExit):
        main(["simulated"])
