r"""SHDD: a point of the sphere as the spherical-harmonic coefficients of its Dirac delta.

    code(x₀) = √4π · (Y_lm(x₀)),  0 ≤ l ≤ L, -l ≤ m ≤ l,   d = (L + 1)² numbers     (paper §3)

The factor √4π is ours: it gives each coefficient unit root-mean-square, so that noise of standard
deviation σ means the same at every L. Identities that follow from the addition theorem:

    code(x)·code(y) = Σ_l (2l + 1) P_l(cos γ),   |code(x)|² = d   at every point, poles included.

A vector c in the same space is a field F(y) = ⟨c, code(y)⟩; of a code it is highest at the point
itself. `locdiffusion.density.log_partition` reads the same vector as the natural parameters of a
density. Encoder and decoder have no parameters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors
from locdiffusion.sphere.harmonics import coefficient_count, degrees_and_orders, real_harmonics

Float = NDArray[np.float64]


def encode(latitude_deg: ArrayLike, longitude_deg: ArrayLike, max_degree: int) -> Float:
    """Encodes points.

    Args:
        latitude_deg: Latitudes ``(...)`` in [-90, 90].
        longitude_deg: Longitudes ``(...)``, any finite values.
        max_degree: Degree L.

    Returns:
        Codes ``(..., d)`` of unit root-mean-square.

    Raises:
        ValueError: A coordinate is not finite or a latitude lies outside [-90, 90].
    """
    latitude, longitude = np.asarray(latitude_deg, float), np.asarray(longitude_deg, float)
    if not (np.all(np.isfinite(latitude)) and np.all(np.isfinite(longitude))):
        raise ValueError("A coordinate is not finite; drop rows without coordinates first.")
    if np.any(np.abs(latitude) > 90.0):
        raise ValueError(
            f"A latitude is {latitude.flat[np.argmax(np.abs(latitude))]}; want [-90, 90]. "
            "Are latitude and longitude swapped?"
        )
    return encode_vectors(unit_vectors(latitude, longitude), max_degree)


def encode_vectors(vectors: ArrayLike, max_degree: int) -> Float:
    """Encodes unit vectors ``(..., 3)``: codes ``(..., d)``."""
    return np.sqrt(4.0 * np.pi) * real_harmonics(vectors, max_degree)


def heat_flow(max_degree: int, smoothing_km: float) -> Float:
    """Returns the factor exp(-l(l + 1)σ²/2) that heat flow leaves of each coefficient, ``(d,)``.

    A code times these is the mean code of points scattered around it with a standard deviation of
    `smoothing_km` in each direction, as a Gaussian is scattered on the sphere (Roberts and Ursell
    1960).
    """
    degree, _ = degrees_and_orders(max_degree)
    return np.exp(-0.5 * degree * (degree + 1) * (smoothing_km / EARTH_RADIUS_KM) ** 2)


def field(coefficients: ArrayLike, vectors: ArrayLike) -> Float:
    """Sums F(y) = ⟨c, code(y)⟩ directly: the plain reference of every fast transform.

    Args:
        coefficients: Coefficients c, ``(..., d)``.
        vectors: Unit vectors y, ``(nodes, 3)``.

    Returns:
        Values of F, ``(..., nodes)``.
    """
    c = np.asarray(coefficients, np.float64)
    return c @ encode_vectors(vectors, max_degree_of(c.shape[-1])).T


def max_degree_of(dimension: int) -> int:
    """Returns L of a vector of d = (L + 1)² coefficients.

    Raises:
        ValueError: The dimension is no square.
    """
    max_degree = round(np.sqrt(dimension)) - 1
    if dimension < 1 or coefficient_count(max_degree) != dimension:
        raise ValueError(
            f"{dimension} is no number of SHDD coefficients; want (L + 1)², such as 576 (L = 23), "
            "1024 (L = 31) or 2304 (L = 47)."
        )
    return max_degree
