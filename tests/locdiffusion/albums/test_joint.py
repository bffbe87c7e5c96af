"""Albums with evidence: against plain sums, and what evidence must and must not do."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.evidence import (
    FROM_ABOVE,
    Chain,
    EvidenceParameters,
    messages,
    parameters_of,
)
from locdiffusion.albums.joint import JointAlbum, place_jointly
from locdiffusion.albums.mesh import COARSEST, FINEST, Mesh
from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.albums.scales import fit_scales
from locdiffusion.sphere.geodesy import great_circle_km, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid
from schemas.albums import Standing
from support import SEED
from support.albums import START_HOUR, evidence_at, hiding, walk

PARAMETERS = AlbumParameters.load()
LAW = LawOfMotion()
FINE = 8


def nowhere(count, hours=0.5):
    """Photos without positions."""
    unknown = np.full(count, np.nan)
    return Album.of(START_HOUR + hours * np.arange(count), unknown, unknown)


def fine_at_home():
    """A mesh of all mass at 48°N 11°E."""
    return Mesh.adapted(
        lambda mesh: np.zeros((0, len(mesh))), unit_vectors([48.0], [11.0]), FINE, 0.01
    )


def test_cells_cover_the_sphere_and_hold_their_points():
    mesh = fine_at_home()
    assert (mesh.level.min(), mesh.level.max()) == (COARSEST, FINE)
    assert_allclose(mesh.areas.sum(), 4.0 * np.pi)
    cells = np.arange(len(mesh))
    assert np.array_equal(mesh.cells(mesh.centres), cells)
    share = np.random.default_rng(SEED).random((len(mesh), 2))
    points = mesh.points(cells, share)
    assert np.array_equal(mesh.cells(points), cells)
    parts = mesh.quarters()
    assert_allclose(parts.areas.reshape(-1, 4).sum(1), mesh.areas)
    assert np.array_equal(mesh.quarters_of(parts.centres), np.arange(len(parts)))
    coarse = mesh.level < FINE
    assert np.array_equal(mesh.quarters_of(points)[coarse], parts.cells(points)[coarse])
    counts = np.bincount(mesh.cells(fibonacci_grid(200_000)), minlength=len(mesh))
    assert_allclose(counts / 200_000, mesh.areas / (4.0 * np.pi), atol=2e-4)


@pytest.fixture(name="chain", scope="module")
def small_chain():
    album = walk(6, np.random.default_rng(SEED))
    anchors = Anchors.fitted(album, album.order, LAW)
    return Chain(anchors, fine_at_home(), lambda vectors: np.ones(len(vectors)))


def test_messages_are_the_plain_sums_over_all_paths(chain):
    rng = np.random.default_rng(SEED)
    hours = np.array([0.5, 30.0])
    said = rng.random((3, 2, len(chain.mesh))).astype(np.float32)
    found = messages(chain, hours, said)
    first, second = chain.step(0.5), chain.step(30.0)
    for row in range(2):
        a, b, c = said[:, row]
        s = chain.start
        paths = {0: "a,ab,b,bc,c->a", 1: "a,ab,b,bc,c->b", 2: "a,ab,b,bc,c->c"}
        for photo, path in paths.items():
            parts = [s, first, np.ones_like(s), second, np.ones_like(s)]
            for i, like in enumerate((a, b, c)):
                if i != photo:
                    parts[2 * i] = parts[2 * i] * like
            wanted = np.einsum(path, *parts, optimize=True)
            assert_allclose(found[photo, row], wanted / wanted.sum(), rtol=2e-3, atol=1e-9)


def test_steps_keep_the_mass_and_spread_as_the_law_says(chain):
    for hours in (0.01, 3.0, 1e4):
        assert_allclose(chain.step(hours).sum(1), 1.0, rtol=1e-5)
    home = chain.mesh.cells(unit_vectors(48.0, 11.0))
    assert chain.step(0.01)[home, home] > 0.99
    assert chain.step(1e4)[home, home] < 0.9


def test_flat_evidence_changes_no_answer():
    asked = hiding(walk(20, np.random.default_rng(SEED), 40.0), np.arange(1, 20, 2))
    flat = evidence_at(np.zeros(10), np.zeros(10), 0.0, photos=np.arange(1, 20, 2))
    alone, joined = place(asked, PARAMETERS), place_jointly(asked, flat, PARAMETERS)
    assert_allclose(joined.latitude, alone.latitude, atol=1e-9)
    # The levels of the album are fitted for anchors alone.
    assert_allclose(np.log(joined.radius_50_km / alone.radius_50_km), 0.0, atol=0.5)


def test_neighbours_correct_a_photo_that_is_wrong():
    latitude, longitude = np.full(9, 45.0), np.full(9, 7.0)
    latitude[4], longitude[4] = -20.0, 130.0
    evidence = evidence_at(latitude, longitude, 0.1)
    answers = place_jointly(nowhere(9, 5.0), evidence, PARAMETERS)
    assert answers.standing == [Standing.PLACED] * 9
    apart = great_circle_km(answers.latitude, answers.longitude, 45.0, 7.0)
    assert np.all(apart < 700.0)
    assert answers.shares[4, 1] > 0.5


def test_an_anchor_beside_a_photo_outweighs_its_evidence():
    album = walk(3, np.random.default_rng(SEED))
    asked = hiding(album, np.array([1]))
    answers = place_jointly(
        asked, evidence_at([-30.0], [20.0], 0.1, photos=np.array([1])), PARAMETERS
    )
    home = great_circle_km(answers.latitude[1], answers.longitude[1], 48.0, 11.0)
    assert home < 30.0
    assert answers.shares[1, 0] > 0.5


@pytest.mark.parametrize("anchors", [0, 2], ids=["alone", "between anchors"])
def test_a_photo_twenty_times_over_leaves_its_radius(anchors):
    radii = []
    for count in (1, 20):
        hours = START_HOUR + np.concatenate([1e-4 * np.arange(count), [-30.0, 30.0][:anchors]])
        latitude = np.concatenate([np.full(count, np.nan), [44.0, 47.0][:anchors]])
        album = Album.of(hours, latitude, np.where(np.isnan(latitude), np.nan, 7.0))
        evidence = evidence_at(np.full(count, 45.0), np.full(count, 7.0), 0.1, np.ones((count, 4)))
        answers = place_jointly(album, evidence, PARAMETERS)
        radii.append((answers.radius_50_km[0], answers.radius_90_km[0]))
    assert_allclose(radii[1], radii[0], rtol=0.05)


def test_a_photo_that_is_not_believed_changes_nothing():
    place = np.full(2, 45.0), np.array([7.0, 60.0])
    album = nowhere(2, 5.0)
    unbelieved = evidence_at(*place, 0.1, weight=np.array([1.0, 0.0]))
    first = evidence_at([45.0], [7.0], 0.1)
    found, wanted = (place_jointly(album, x, PARAMETERS) for x in (unbelieved, first))
    for name in ("latitude", "longitude", "radius_50_km"):
        assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0.01)


def test_densities_are_normalised():
    walked = walk(12, np.random.default_rng(SEED), 60.0)
    asked = hiding(replace(walked, error_km=np.full(12, 40.0)), np.arange(1, 11))
    evidence = evidence_at(np.full(10, 48.5), np.full(10, 12.0), 0.05, photos=np.arange(1, 11))
    anchors = Anchors.fitted(asked, np.array([0, 11]), LAW)
    (found,) = JointAlbum(anchors, evidence).densities(np.arange(3, 6))
    grid = fibonacci_grid(400_000)
    near = grid[grid @ unit_vectors(48.3, 11.5) > np.cos(0.25)]
    logs = found.at(np.broadcast_to(near, (3, *near.shape)))
    mass = np.exp(logs).sum(1) * 4.0 * np.pi / len(grid)
    assert_allclose(mass, 1.0, atol=0.07)


def test_evidence_must_fit_its_photos():
    with pytest.raises(ValueError, match="each photo once"):
        evidence_at([0.0, 0.0], [0.0, 0.0], photos=np.array([1, 1]))
    with pytest.raises(ValueError, match="of 2 photos; want 3"):
        evidence_at([0.0, 0.0], [0.0, 0.0], photos=np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="call `place`"):
        place_jointly(nowhere(2), evidence_at([], [], photos=np.zeros(0, int)), PARAMETERS)


def test_scales_are_learned_from_what_photos_show(chain):
    """Photos that jump 900 km a day make the camera fast, those of one place make it slow."""
    cells = chain.mesh.cells(
        unit_vectors([48.0, 50.0, 48.0, 50.0, 48.0], [11.0, 23.0] * 2 + [11.0])
    )
    hours = np.full(4, 24.0)
    jumping = np.eye(len(chain.mesh), dtype=np.float32)[cells]
    staying = jumping[[0, 0, 0, 0, 0]]
    fast, slow = (fit_scales(chain.pairs(hours, x), LAW).mode for x in (jumping, staying))
    assert fast[0] > slow[0] + 0.5


def test_pictures_from_above_believe_their_neighbours_more_than_an_anchor():
    """Where nobody stays, photos that show a place 400 km off are likelier to be there."""
    hours = START_HOUR + 24.0 * np.arange(7)
    latitude = np.append(45.0, np.full(6, np.nan))
    album = Album.of(hours, latitude, np.where(np.isnan(latitude), np.nan, 7.0))
    seen = evidence_at(np.full(6, 45.0), np.full(6, 12.0), 0.1, photos=np.arange(1, 7))
    above = replace(seen, parameters=parameters_of("overhead-1234abcd"))
    assert above.parameters == FROM_ABOVE
    assert parameters_of("geoclip-distilled-1234abcd") == seen.parameters
    anchors, there = Anchors.fitted(album, np.array([0]), LAW), unit_vectors([[45.0]], [[12.0]])
    stayed, moved = (
        next(JointAlbum(anchors, x).densities(np.array([3]))).at(there) for x in (seen, above)
    )
    assert moved > stayed + 0.01


def test_finer_cells_hold_what_is_sharper():
    album = nowhere(4, 5.0)
    seen = evidence_at(np.full(4, 45.0), np.full(4, 7.0), 0.5)
    fine = replace(seen, parameters=EvidenceParameters(own=1.0, blur_km=5.0, finest=FINEST))
    coarse, sharp = (place_jointly(album, x, PARAMETERS) for x in (seen, fine))
    assert np.all(sharp.radius_50_km < coarse.radius_50_km)
