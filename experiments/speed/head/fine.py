"""Refines the dense answer on a fine grid; the decoder's answers must agree with it.

Around the dense decoder's answer the field is evaluated on latitudes and longitudes 2.5 km apart.
The score of a trial point is a plain sum over them in float64. Trial points are first 8 km apart,
then 2 km, each time with a paraboloid through the best one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude, unit_vectors
from locdiffusion.sphere.grids import LatLonGrid

NODES_KM, TRIALS_KM, REACH_KM = 2.5, 8.0, 48.0


def fine_answers(
    natural: Tensor,
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    radius_km: float,
    base_measure: BaseMeasure | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finds the points of best score near given points.

    Args:
        natural: Natural parameters, shape ``(N, d)``.
        latitude: Latitudes in degrees, shape ``(N,)``; the best point must be within `REACH_KM`.
        longitude: Longitudes in degrees, shape ``(N,)``.
        radius_km: Decoding radius ρ in kilometres.
        base_measure: Base measure q₀; None is the uniform measure.

    Returns:
        Latitudes and longitudes in degrees, each of shape ``(N,)``.
    """
    found = [
        _fine(eta[None], float(lat), float(lon), radius_km, base_measure)
        for eta, lat, lon in zip(natural, latitude, longitude, strict=True)
    ]
    return latitude_longitude(np.stack(found))


def _fine(
    natural: Tensor,
    latitude: float,
    longitude: float,
    radius_km: float,
    base_measure: BaseMeasure | None,
) -> NDArray[np.float64]:
    nodes, log_p, area = _patch(
        natural, latitude, longitude, radius_km + REACH_KM + 10.0, base_measure
    )
    mass = np.exp(log_p - log_p.max()) * area
    chord2 = 4.0 * math.sin(radius_km / EARTH_RADIUS_KM / 2.0) ** 2

    def score(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (1.0 - (2.0 - 2.0 * points @ nodes.T) / chord2).clip(min=0.0) @ mass

    answer = unit_vectors(latitude, longitude)
    for reach_km, spacing_km in ((REACH_KM, TRIALS_KM), (TRIALS_KM, TRIALS_KM / 4.0)):
        centre = latitude_longitude(answer)
        trials = _square(float(centre[0]), float(centre[1]), reach_km, spacing_km)
        side = len(trials)
        answer = _top(trials, score(trials.reshape(-1, 3)).reshape(side, side))
    return answer


def _top(points: NDArray[np.float64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Finds the top of the paraboloid through the best of ``(n, n, 3)`` points."""
    inner = score[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(inner), inner.shape)
    near, around = (a[row : row + 3, column : column + 3] for a in (score, points))
    gradient = np.array([near[2, 1] - near[0, 1], near[1, 2] - near[1, 0]]) / 2.0
    down2, right2 = (near[2, 1] + near[0, 1], near[1, 2] + near[1, 0])
    mixed = (near[2, 2] - near[2, 0] - near[0, 2] + near[0, 0]) / 4.0
    hessian = np.array([[down2, mixed], [mixed, right2]]) - 2.0 * near[1, 1] * np.eye(2)
    down, right = np.clip(-np.linalg.solve(hessian, gradient), -1.0, 1.0)
    best = around[1, 1] + down * (around[2, 1] - around[0, 1]) / 2.0
    best = best + right * (around[1, 2] - around[1, 0]) / 2.0
    unit: NDArray[np.float64] = best / np.linalg.norm(best)
    return unit


def _axes(
    latitude: float, longitude: float, reach_km: float, spacing_km: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Makes latitudes from north to south, and longitudes, in degrees."""
    count = math.ceil(reach_km / spacing_km)
    steps = np.degrees(np.arange(-count, count + 1) * spacing_km / EARTH_RADIUS_KM)
    narrow = max(0.05, math.cos(math.radians(latitude)))
    return np.clip(latitude - steps, -89.9999, 89.9999), longitude + steps / narrow


def _square(
    latitude: float, longitude: float, reach_km: float, spacing_km: float
) -> NDArray[np.float64]:
    rows, columns = _axes(latitude, longitude, reach_km, spacing_km)
    return unit_vectors(rows[:, None], columns[None])


def _patch(
    natural: Tensor,
    latitude: float,
    longitude: float,
    reach_km: float,
    base_measure: BaseMeasure | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Makes nodes ``(n, 3)`` with the log of the unnormalised density and the relative area."""
    rows, columns = _axes(latitude, longitude, reach_km, NODES_KM)
    # In degrees of longitude the patch is as wide as its most polar row needs.
    area = np.cos(np.radians(rows))
    grid = LatLonGrid(np.sin(np.radians(rows)), np.radians(columns), area)
    transform = ProductTransform(grid, math.isqrt(natural.shape[-1]) - 1)
    log_p = transform.synthesis(natural).flatten().double()
    if base_measure is not None:
        log_p = log_p + base_measure(transform.nodes)
    return grid.vectors, log_p.numpy(), grid.weights
