"""Albums with evidence: against plain sums, and what evidence must and must not do."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.album import Album
from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.evidence import Chain, Evidence, messages
from locdiffusion.albums.joint import place_jointly, uniform
from locdiffusion.albums.mesh import COARSEST, FINEST, Mesh
from locdiffusion.albums.motion import LawOfMotion
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.density.shdd import encode
from locdiffusion.sphere.geodesy import great_circle_km, unit_vectors
from locdiffusion.sphere.grids import fibonacci_grid
from schemas.albums import Standing
from support import SEED
from support.albums import START_HOUR, hiding, walk

PARAMETERS = AlbumParameters.load()
LAW = LawOfMotion()
DEGREE = 15


def evidence_at(latitude, longitude, strength=0.3, embeddings=None):
    """Evidence that each photo lies near a place, as sharp as degree 15 allows."""
    natural = strength * encode(np.asarray(latitude), np.asarray(longitude), DEGREE)
    unlike = np.eye(len(natural)) if embeddings is None else embeddings
    return Evidence(np.arange(len(natural)), natural, unlike)


def nowhere(count, hours=0.5):
    """Photos without positions."""
    unknown = np.full(count, np.nan)
    return Album.of(START_HOUR + hours * np.arange(count), unknown, unknown)


def fine_at_home(mesh):
    """All mass in the cell of 48°N 11°E."""
    return (np.arange(len(mesh)) == mesh.cells(unit_vectors(48.0, 11.0))).astype(float)


def test_cells_cover_the_sphere_and_hold_their_points():
    mesh = Mesh.adapted(fine_at_home)
    assert (mesh.level.min(), mesh.level.max()) == (COARSEST, FINEST)
    assert_allclose(mesh.areas.sum(), 4.0 * np.pi)
    cells = np.arange(len(mesh))
    assert np.array_equal(mesh.cells(mesh.centres), cells)
    share = np.random.default_rng(SEED).random((len(mesh), 2))
    assert np.array_equal(mesh.cells(mesh.points(cells, share)), cells)
    counts = np.bincount(mesh.cells(fibonacci_grid(200_000)), minlength=len(mesh))
    assert_allclose(counts / 200_000, mesh.areas / (4.0 * np.pi), atol=2e-4)


@pytest.fixture(name="chain", scope="module")
def small_chain():
    album = walk(6, np.random.default_rng(SEED))
    anchors = Anchors.fitted(album, album.order, LAW)
    return Chain(anchors, Mesh.adapted(fine_at_home), uniform)


def test_messages_are_the_plain_sums_over_all_paths(chain):
    rng = np.random.default_rng(SEED)
    hours = np.array([0.5, 30.0])
    said = rng.random((3, 2, len(chain.mesh))).astype(np.float32)
    found = messages(chain, hours, list(said))
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
    flat = Evidence(np.arange(1, 20, 2), np.zeros((10, (DEGREE + 1) ** 2)), np.eye(10))
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
        asked,
        Evidence(np.array([1]), 0.1 * encode([-30.0], [20.0], DEGREE), np.ones((1, 4))),
        PARAMETERS,
    )
    home = great_circle_km(answers.latitude[1], answers.longitude[1], 48.0, 11.0)
    assert home < 30.0
    assert answers.shares[1, 0] > 0.5


def test_a_photo_twenty_times_over_leaves_its_radius():
    embedding = np.ones((20, 4))
    radii = []
    for count in (1, 20):
        album = nowhere(count, 1e-4)
        evidence = evidence_at(np.full(count, 45.0), np.full(count, 7.0), 0.1, embedding[:count])
        radii.append(place_jointly(album, evidence, PARAMETERS).radius_50_km[0])
    assert_allclose(radii[1], radii[0], rtol=0.05)


def test_evidence_must_fit_its_photos():
    with pytest.raises(ValueError, match="each photo once"):
        Evidence(np.array([1, 1]), np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="natural has 3 rows; want 2"):
        Evidence(np.array([1, 2]), np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="call `place`"):
        place_jointly(
            nowhere(2), Evidence(np.zeros(0, int), np.zeros((0, 4)), np.zeros((0, 4))), PARAMETERS
        )
