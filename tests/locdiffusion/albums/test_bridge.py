"""Bridges against a dense grid, and places and scales that are not there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from locdiffusion.albums.anchors import Anchors
from locdiffusion.albums.bridge import even_shares
from locdiffusion.albums.motion import LADDER_KAPPA, LawOfMotion, MotionTable
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, unit_vectors
from locdiffusion.sphere.grids import polar_grid
from support import SEED
from support.albums import hiding, walk

LAW = LawOfMotion()


def kernel(points, centre, kappa):
    """Densities of kernels ``(K,)`` at points, computed in the plainest way, ``(P, K)``."""
    cosine_less_one = -0.5 * ((points - centre) ** 2).sum(-1)[:, None]
    normaliser = np.full(len(kappa), 1.0 / (4.0 * np.pi))
    wide = kappa > 0.0
    normaliser[wide] = kappa[wide] / (2.0 * np.pi * (1.0 - np.exp(-2.0 * kappa[wide])))
    return normaliser * np.exp(kappa * cosine_less_one)


def grid_around(album, photo, widest=np.pi):
    """Nodes and areas that are fine around a photo of an album."""
    edges = np.append(0.0, np.geomspace(1e-5, widest, 40))
    grid = polar_grid(edges, 3, 48)
    centre = album.vectors[photo]
    east = np.cross([0.0, 0.0, 1.0], centre) / np.linalg.norm(np.cross([0.0, 0.0, 1.0], centre))
    return grid.vectors @ np.stack([east, np.cross(centre, east), centre]), grid.weights


def brute_force(album, anchors, photo, points, scales):
    """The bridge of a photo on nodes, not normalised: one draw and one place after the other."""
    before, after = (side[0] for side in anchors.neighbours(np.array([photo])))
    places = [
        anchors.visits.vectors[v]
        for v in range(len(anchors.visits.vectors))
        if not anchors.visits.visit[before] <= v <= anchors.visits.visit[after]
    ]
    total = np.zeros(len(points))
    for draw in scales:
        sides = []
        for end in (before, after):
            anchor = anchors.photos[end]
            hours = album.step_hours(anchor, photo, LAW.clock_seconds)
            weights, back = (x[0] for x in MotionTable(LAW, [draw])(np.array([hours])))
            error = album.error_km[anchor] / EARTH_RADIUS_KM
            kappa = LADDER_KAPPA / (1.0 + LADDER_KAPPA * error**2)
            sides.append((album.vectors[anchor], kappa, weights[0], back[0]))
        widths = (EARTH_RADIUS_KM / np.array(LAW.place_km)) ** 2

        def returning(x, widths=widths):
            share = np.array(LAW.place_share)
            return np.mean([kernel(x, p, widths) @ share for p in places], axis=0)

        (a, kappa_a, weights_a, back_a), (b, kappa_b, weights_b, back_b) = sides
        left = kernel(points, a, kappa_a) @ weights_a + back_a * returning(points)
        right = kernel(points, b, kappa_b) @ weights_b + back_b * returning(b[None])
        total += left * right / draw_total(anchors, photo, draw)
    return total / len(scales)


def draw_total(anchors, photo, draw):
    """The normaliser that gives every draw of the scales the same weight."""
    single = Anchors(anchors.album, anchors.photos, LAW, MotionTable(LAW, [draw]))
    rows = np.array([photo])
    return single.bridges(rows, *single.neighbours(rows)).total[0, 0]


@pytest.fixture(name="anchors", scope="module")
def some_anchors():
    album = walk(14, np.random.default_rng(SEED), speed_kmh=6.0)
    asked = hiding(album, np.array([4, 8, 9]))
    wide = asked.error_km + 0.1  # so that the grid resolves the narrowest kernel
    asked = type(asked)(
        asked.hours, asked.latitude, asked.longitude, asked.camera, asked.clock_hours, wide
    )
    rng = np.random.default_rng(1)
    scales = np.add(LAW.scale_mean, 0.5 * rng.normal(size=(3, 5)))
    photos = asked.order[asked.anchored[asked.order]]
    return Anchors(asked, photos, LAW, MotionTable(LAW, scales)), scales


@pytest.mark.parametrize("photo", [4, 8])
def test_a_bridge_is_that_of_a_dense_grid(anchors, photo):
    anchors, scales = anchors
    album, rows = anchors.album, np.array([photo])
    bridges = anchors.bridges(rows, *anchors.neighbours(rows))
    before = anchors.photos[anchors.neighbours(rows)[0][0]]
    points, areas = grid_around(album, before)
    plain = brute_force(album, anchors, photo, points, scales)
    # The grid is fine around one anchor only.
    assert_allclose((plain * areas).sum(), 1.0, rtol=0.05)
    ours = bridges.log_density(points[None])[0]
    assert_allclose(ours, np.log(plain), atol=1e-8)


def test_draws_are_distributed_as_the_density(anchors):
    anchors, scales = anchors
    rows = np.array([4])
    bridges = anchors.bridges(rows, *anchors.neighbours(rows))
    points, areas = grid_around(anchors.album, 3)
    mass = brute_force(anchors.album, anchors, 4, points, scales) * areas
    draws = bridges.draws(even_shares(4096)[None])[0]
    for kilometres in (0.3, 1.0, 5.0, 100.0):
        far = kilometres / EARTH_RADIUS_KM
        wanted = mass[angle_between(points, anchors.album.vectors[3]) <= far].sum() / mass.sum()
        share = np.mean(angle_between(draws, anchors.album.vectors[3]) <= far)
        assert_allclose(share, wanted, atol=0.03)


@pytest.mark.parametrize(("latitude", "longitude"), [(90.0, 0.0), (-89.99, 30.0), (10.0, 180.0)])
def test_poles_and_the_date_line_are_places_like_others(latitude, longitude):
    shares = even_shares(512)[None]
    radii = []
    for place in ((latitude, longitude), (40.0, 7.0)):
        album = walk(3, np.random.default_rng(SEED), 1e-9, *place)
        asked = hiding(album, np.array([1]))
        anchors = Anchors.fitted(asked, np.array([0, 2]), LAW)
        rows = np.array([1])
        bridges = anchors.bridges(rows, *anchors.neighbours(rows))
        apart = angle_between(bridges.draws(shares)[0], unit_vectors(*place))
        radii.append(np.quantile(apart, [0.3, 0.6]))
    assert_allclose(radii[0], radii[1], rtol=0.05)
