"""A gallery's density on the grid of credible regions, with lines drawn close around its places.

The grid of `locdiffusion.decoding.adaptive_mesh` is as close as the network's density wants it. The
kernels of a gallery are narrower: around the likeliest places lines are added, and the kernels of
these places are evaluated at the corners. The other places, each with little weight, are counted in
the cells that they lie in.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from locdiffusion.decoding.adaptive_mesh import AdaptiveDensity
from locdiffusion.gallery.place_mixture import PlaceMixture, PlaceWeights
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

Float = NDArray[np.float64]

CLOSE, COARSE = 16, 24
"""Likeliest places around which lines are close, and those after them."""

CLOSE_KM = np.array([0.0, 0.6, 1.3, 2.2, 4.0, 7.0, 12.0, 20.0, 35.0, 60.0, 110.0, 220.0])
COARSE_KM = np.array([30.0, 120.0])
"""Distances of lines from a place, to both sides."""

REACH_KM = 450.0
"""Kernels count up to this distance from their places."""

ROWS_AT_ONCE = 64
"""Rows of corners that are evaluated together."""


def mixed(
    density: AdaptiveDensity, mixture: PlaceMixture, weights: PlaceWeights
) -> AdaptiveDensity:
    """Mixes a density with a gallery.

    Args:
        density: Density p of the network.
        mixture: Places of the gallery.
        weights: Their weights for this photo alone.

    Returns:
        p' = β p_G + (1 - β) p on a closer grid.
    """
    share, rest = (float(part.exp()) for part in (weights.log_share, weights.log_rest))
    places = mixture.places[weights.index[0].numpy()]
    x = _with_lines(density.longitude, places[:, 1], places[:, 0], 180.0)
    y = _with_lines(density.latitude, places[:, 0], np.zeros(len(places)), 90.0)
    area = np.outer(np.diff(np.sin(np.radians(y))), np.diff(x)) / 720.0
    alone = np.exp(_interpolated(density, x, y))
    alone_mass = _cell_means(alone) * area
    near = _kernels(mixture, weights, x, y)
    near_mass = _cell_means(near) * area
    weight = weights.log_weight[0].double().exp().numpy()
    # Each part has the mass that it has by its formula, whatever the quadrature makes of it.
    known = weight[: CLOSE + COARSE].sum()
    near, near_mass = (part * (known / max(near_mass.sum(), 1e-300)) for part in (near, near_mass))
    far_mass = _counted(places[CLOSE + COARSE :], weight[CLOSE + COARSE :], x, y)
    far = _to_corners(far_mass / area)
    scale = rest / alone_mass.sum()
    p = scale * alone + share * (near + far)
    mass = scale * alone_mass + share * (near_mass + far_mass)
    return AdaptiveDensity(x, y, np.log(p.clip(np.finfo(float).tiny)), mass / mass.sum())


def _with_lines(at: Float, centre: Float, latitude: Float, end: float) -> Float:
    """Adds lines around places to a grid's lines, within ± `end` degrees."""
    degrees = np.degrees(1.0 / EARTH_RADIUS_KM) / np.cos(np.radians(latitude)).clip(min=0.02)
    lines = [at]
    for first, last, km in ((0, CLOSE, CLOSE_KM), (CLOSE, CLOSE + COARSE, COARSE_KM)):
        steps = degrees[first:last, None] * np.concatenate([-km, km])
        lines.append((centre[first:last, None] + steps).ravel())
    found = np.unique(np.concatenate(lines).clip(at[0], at[-1]))
    # Lines a few metres apart come from places that lie nearly on one meridian or parallel.
    return found[np.append(np.diff(found) > 1e-6 * end, True)]


def _interpolated(density: AdaptiveDensity, x: Float, y: Float) -> Float:
    """Interpolates log p at the corners of a closer grid, linearly in both directions."""
    x_of, y_of = density.longitude, density.latitude
    row, column = (np.interp(new, old, np.arange(len(old))) for new, old in ((y, y_of), (x, x_of)))
    i, j = row.astype(int).clip(max=len(y_of) - 2), column.astype(int).clip(max=len(x_of) - 2)
    south, west = (row - i)[:, None], column - j
    rows = density.log_density[i] * (1.0 - south) + density.log_density[i + 1] * south
    found: Float = rows[:, j] * (1.0 - west) + rows[:, j + 1] * west
    return found


def _kernels(mixture: PlaceMixture, weights: PlaceWeights, x: Float, y: Float) -> Float:
    """Evaluates the kernels of the likeliest places at corners, against the uniform sphere."""
    found = np.zeros((len(y), len(x)))
    count = CLOSE + COARSE
    few = PlaceWeights(
        weights.index[:, :count], weights.log_weight[:, :count], weights.log_share, weights.log_rest
    )
    vectors = mixture.vectors[few.index[0]].numpy()
    for first in range(0, len(y), ROWS_AT_ONCE):
        latitude, longitude = np.meshgrid(y[first : first + ROWS_AT_ONCE], x, indexing="ij")
        points = unit_vectors(latitude.ravel(), longitude.ravel())
        chord = np.sqrt((2.0 - 2.0 * (points @ vectors.T).max(1)).clip(min=0.0))
        near = np.flatnonzero(chord * EARTH_RADIUS_KM < REACH_KM)
        if len(near):
            log_p = mixture.log_density(few, torch.from_numpy(points[near])[None])[0]
            found[first : first + ROWS_AT_ONCE].reshape(-1)[near] = log_p.exp().numpy()
    return found


def _counted(places: Float, weight: Float, x: Float, y: Float) -> Float:
    """Sums the weights of places ``(P, 2)`` in the cells that they lie in, ``(Y, X)``."""
    row, column = (
        np.searchsorted(at, degrees, side="right").clip(1, len(at) - 1) - 1
        for at, degrees in ((y, places[:, 0]), (x, places[:, 1]))
    )
    shape = len(y) - 1, len(x) - 1
    flat = np.bincount(row * shape[1] + column, weight, shape[0] * shape[1])
    summed: Float = flat.astype(np.float64).reshape(shape)
    return summed


def _cell_means(corner: Float) -> Float:
    two = corner[1:] + corner[:-1]
    means: Float = 0.25 * (two[:, 1:] + two[:, :-1])
    return means


def _to_corners(cell: Float) -> Float:
    """Takes the mean of the cells around each corner, ``(Y + 1, X + 1)``."""
    padded = np.pad(cell, 1, mode="edge")
    return _cell_means(padded)
