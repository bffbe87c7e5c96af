"""A decoder so plain that it can be believed: the reference of `locdiffusion.decoding.decoder`.

Float64 NumPy and `shdd.field`, one photo at a time, no transform, no rotation of coefficients, no
cleverness: the score is tried on every node of a dense grid, the distribution of the distance is a
sort of all nodes. It costs seconds where the product takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from locdiffusion.density import shdd
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, angle_between, latitude_longitude
from locdiffusion.sphere.grids import fibonacci_grid
from schemas.geotags import THRESHOLDS_KM

Float = NDArray[np.float64]
LogDensity = Callable[[Float], Float]


@dataclass(frozen=True)
class DenseAnswer:
    """What the dense decoder says of one photo; units as in `GeotagColumns`."""

    vector: Float
    score: float
    radius_50_km: float
    radius_90_km: float
    probability: Float
    information_nats: float

    @property
    def latitude_longitude(self) -> tuple[float, float]:
        latitude, longitude = latitude_longitude(self.vector)
        return float(latitude), float(longitude)


class DenseDecoder:
    """Decodes mixtures of densities of degree L by brute force."""

    def __init__(self, max_degree: int, nodes: int = 160_000) -> None:
        self.max_degree = max_degree
        self.nodes = fibonacci_grid(nodes)
        self.codes = shdd.encode_vectors(self.nodes, max_degree)
        self.tree = cKDTree(self.nodes)
        self.trials = fibonacci_grid(max(nodes // 8, 1))

    def log_density(self, natural: ArrayLike, temperature: float = 1.0) -> LogDensity:
        """Log p of the equal-weight mixture of ``(K, d)`` natural parameters, at any points."""
        natural = np.asarray(natural, np.float64) / temperature
        log_z = logsumexp(natural @ self.codes.T, axis=1) - np.log(len(self.nodes))

        def evaluate(vectors: Float) -> Float:
            field = shdd.field(natural, vectors)
            return logsumexp(field - log_z[:, None], axis=0) - np.log(len(natural))

        return evaluate

    def decode(self, natural: ArrayLike, radius_km: float, temperature: float = 1.0) -> DenseAnswer:
        """The answer of highest score, and the distribution of the distance from it."""
        density = self.log_density(natural, temperature)
        answer = self._best(density, radius_km)
        distance_km, mass, log_p = self._by_distance(density, answer)
        cumulative = np.cumsum(mass)
        return DenseAnswer(
            vector=answer,
            score=score(density, answer, radius_km),
            radius_50_km=float(np.interp(0.5, cumulative, distance_km)),
            radius_90_km=float(np.interp(0.9, cumulative, distance_km)),
            probability=np.interp(THRESHOLDS_KM, distance_km, cumulative),
            information_nats=float(np.sum(mass * log_p)),
        )

    def _best(self, density: LogDensity, radius_km: float) -> Float:
        """Every trial point by summing nodes, then the best few by a simplex search."""
        chord = 2.0 * np.sin(radius_km / EARTH_RADIUS_KM / 2.0)
        reach = max(chord, 2.5 * np.sqrt(4.0 * np.pi / len(self.nodes)))
        mass = np.exp(density(self.nodes))
        rough = np.array(
            [
                mass[near] @ (1.0 - np.sum((self.nodes[near] - y) ** 2, -1) / reach**2)
                for y, near in zip(
                    self.trials, self.tree.query_ball_point(self.trials, reach), strict=True
                )
            ]
        )
        starts, remaining = [], rough
        while len(starts) < 6 and remaining.max() > 0.7 * rough.max():
            starts.append(self.trials[np.argmax(remaining)])
            apart = np.sum((self.trials - starts[-1]) ** 2, -1) > (reach / 2.0) ** 2
            remaining = np.where(apart, remaining, 0.0)
        scores = np.array([score(density, s, radius_km) for s in starts])
        promising = [s for s, v in zip(starts, scores, strict=True) if v > 0.9 * scores.max()]
        return max(
            (climb(density, s, radius_km) for s in promising),
            key=lambda y: score(density, y, radius_km),
        )

    def _by_distance(self, density: LogDensity, centre: Float) -> tuple[Float, Float, Float]:
        """Distance, mass and log p of dense nodes, nearest first; the mass sums to one."""
        zones_km = (0.0, 30.0, 150.0, 1500.0)
        east, north = tangents(centre)
        parts, areas = [], []
        for low, high in pairwise(zones_km):
            ring = _ring(low / EARTH_RADIUS_KM, high / EARTH_RADIUS_KM, 12_000)
            parts.append(ring @ np.stack([east, north, centre]))
            area = 2 * np.pi * np.diff(np.cos([high / EARTH_RADIUS_KM, low / EARTH_RADIUS_KM]))
            areas.append(np.full(len(ring), area[0] / len(ring)))
        far = self.nodes[angle_between(self.nodes, centre) > zones_km[-1] / EARTH_RADIUS_KM]
        rest = 2 * np.pi * (1 + np.cos(zones_km[-1] / EARTH_RADIUS_KM))
        vectors = np.concatenate([*parts, far])
        log_p = density(vectors)
        mass = np.exp(log_p) * np.concatenate([*areas, np.full(len(far), rest / len(far))])
        distance_km = EARTH_RADIUS_KM * angle_between(vectors, centre)
        order = np.argsort(distance_km)
        return distance_km[order], mass[order] / mass.sum(), log_p[order]


def score(density: LogDensity, point: Float, radius_km: float) -> float:
    """∫ p(z) (1 - |z - y|²/c²)₊ dΩ / 4π around one point, in polar coordinates about it."""
    chord = 2.0 * np.sin(radius_km / EARTH_RADIUS_KM / 2.0)
    x, w = np.polynomial.legendre.leggauss(16)
    angle = radius_km / EARTH_RADIUS_KM * (x + 1.0) / 2.0
    azimuth = 2.0 * np.pi * np.arange(48) / 48
    east, north = tangents(point)
    heading = np.outer(np.cos(azimuth), north) + np.outer(np.sin(azimuth), east)
    z = np.cos(angle)[:, None, None] * point + np.sin(angle)[:, None, None] * heading
    area = w * np.sin(angle) * (radius_km / EARTH_RADIUS_KM / 2.0) * (2.0 * np.pi / 48)
    kernel = 1.0 - 4.0 * np.sin(angle / 2.0) ** 2 / chord**2
    p = np.exp(density(z.reshape(-1, 3)).reshape(len(angle), -1))
    return float(np.sum((area * kernel)[:, None] * p) / (4.0 * np.pi))


def climb(density: LogDensity, start: Float, radius_km: float) -> Float:
    """The nearby point of highest score, by a simplex search in the tangent plane."""
    east, north = tangents(start)
    unit = radius_km / EARTH_RADIUS_KM

    def point(offset: Sequence[float] | Float) -> Float:
        v = start + unit * (offset[0] * east + offset[1] * north)
        return v / np.linalg.norm(v)

    best = minimize(
        lambda offset: -score(density, point(offset), radius_km),
        [0.0, 0.0],
        method="Nelder-Mead",
        options={
            "initial_simplex": [[0.0, 0.0], [0.3, 0.0], [0.0, 0.3]],
            "xatol": 2e-4,
            "fatol": 1e-12,
            "maxiter": 200,
        },
    )
    return point(best.x)


def tangents(point: Float) -> tuple[Float, Float]:
    """East and north at a point; at a pole any two directions."""
    reference = np.eye(3)[2] if abs(point[2]) < 0.99 else np.eye(3)[0]
    east = np.cross(reference, point)
    east /= np.linalg.norm(east)
    return east, np.cross(point, east)


def _ring(inner: float, outer: float, count: int) -> Float:
    """Equal-area spiral between two colatitudes."""
    i = np.arange(count) + 0.5
    z = np.cos(inner) - (np.cos(inner) - np.cos(outer)) * i / count
    phi = np.pi * (1.0 + np.sqrt(5.0)) * i
    s = np.sqrt((1.0 - z) * (1.0 + z))
    return np.stack([s * np.cos(phi), s * np.sin(phi), z], -1)
