"""Real orthonormal spherical harmonics Y_lm, their index, and rotations of coefficients.

Conventions are stated once, in `locdiffusion.sphere`. The associated Legendre functions are
normalised while they are built (Holmes & Featherstone 2002, J. Geodesy 76, eq. 11-13), so nothing
overflows at any degree; near the poles high orders underflow to zero, as they should.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.sphere.grids import gauss_legendre_grid

Float = NDArray[np.float64]


def coefficient_count(max_degree: int) -> int:
    """Returns the number of harmonics up to degree L, d = (L + 1)²."""
    if max_degree < 0:
        raise ValueError(f"max_degree is {max_degree}; a degree is 0 or more.")
    return (max_degree + 1) ** 2


@lru_cache(maxsize=8)
def degrees_and_orders(max_degree: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns degree l and order m of each flat index ``l·l + l + m``, read-only, ``(d,)`` each."""
    index = np.arange(coefficient_count(max_degree))
    degree = np.floor(np.sqrt(index + 0.5)).astype(np.int64)
    order = index - degree * degree - degree
    degree.setflags(write=False)
    order.setflags(write=False)
    return degree, order


def associated_legendre(cos_theta: ArrayLike, max_degree: int) -> Float:
    """Computes P̄_lm(cos θ) for 0 ≤ m ≤ l ≤ L, normalised so that ∫_{-1}^{1} P̄_lm² dx = 1 / 2π.

    Args:
        cos_theta: Values ``(...)`` in [-1, 1].
        max_degree: Degree L.

    Returns:
        Values ``(..., L + 1, L + 1)`` indexed ``[l, m]``; zero where m > l.
    """
    x = np.asarray(cos_theta, np.float64)
    if np.any(np.abs(x) > 1.0):
        raise ValueError(f"cos_theta reaches {np.max(np.abs(x))}; it must lie in [-1, 1].")
    values = _legendre(x, np.sqrt((1.0 - x) * (1.0 + x)), max_degree)
    return np.ascontiguousarray(np.moveaxis(values, (0, 1), (-2, -1)))


def _legendre(cos_theta: Float, sin_theta: Float, max_degree: int) -> Float:
    """Values ``(L + 1, L + 1, ...)``, points last, so that each step walks along memory."""
    n = max_degree + 1
    p = np.zeros((n, n, *cos_theta.shape))
    p[0, 0] = np.sqrt(1.0 / (4.0 * np.pi))
    for k in range(1, n):
        p[k, k] = np.sqrt((2 * k + 1) / (2 * k)) * sin_theta * p[k - 1, k - 1]
    for l in range(1, n):  # noqa: E741  (l is the degree everywhere in this field)
        m = np.arange(l).reshape(-1, *[1] * cos_theta.ndim)
        a = np.sqrt((4.0 * l * l - 1.0) / (l * l - m * m))
        np.multiply(a * cos_theta, p[l - 1, :l], out=p[l, :l])
        if l > 1:
            b = np.sqrt(((l - 1.0) ** 2 - m * m) * (2 * l + 1) / ((2 * l - 3) * (l * l - m * m)))
            p[l, :l] -= b * p[l - 2, :l]
    return p


def real_harmonics(vectors: ArrayLike, max_degree: int) -> Float:
    """Computes all Y_lm at points.

    Args:
        vectors: Unit vectors of the points, ``(..., 3)``.
        max_degree: Degree L.

    Returns:
        Values ``(..., d)`` with flat index ``l·l + l + m``.
    """
    v = np.asarray(vectors, np.float64)
    # sin θ from x and y, not from 1 - z²: keeps relative accuracy next to the poles.
    legendre = _legendre(np.clip(v[..., 2], -1.0, 1.0), np.hypot(v[..., 0], v[..., 1]), max_degree)
    degree, order = degrees_and_orders(max_degree)
    waves = np.moveaxis(trigonometric(np.arctan2(v[..., 1], v[..., 0]), max_degree), -1, 0)
    values = legendre[degree, np.abs(order)]
    values *= waves[max_degree + order]
    return np.ascontiguousarray(np.moveaxis(values, 0, -1))


def trigonometric(longitude_rad: ArrayLike, max_degree: int) -> Float:
    """Computes the azimuthal factors √2 sin(-mφ), 1, √2 cos(mφ) for m = -L..L.

    Args:
        longitude_rad: Longitude φ in radians, ``(...)``.
        max_degree: Degree L.

    Returns:
        Factors ``(..., 2L + 1)``, order m at L + m.
    """
    phi = np.asarray(longitude_rad, np.float64)[..., None]
    multiples = phi * np.arange(1, max_degree + 1)
    sine, cosine = np.sqrt(2.0) * np.sin(multiples), np.sqrt(2.0) * np.cos(multiples)
    return np.concatenate([sine[..., ::-1], np.ones_like(phi), cosine], axis=-1)


@lru_cache(maxsize=4)
def axis_swap(max_degree: int) -> Float:
    """Computes the matrix J of f(x, y, z) -> f(x, z, y) (Pinchon & Hoggan 2007, J. Phys. A 40).

    J is block diagonal in the degree, orthogonal and its own inverse. It turns rotations about z
    (free: they mix only m and -m) into rotations about y.

    Returns:
        Read-only matrices ``(L + 1, 2L + 1, 2L + 1)``: block l in rows and columns ``L - l ..
        L + l``, with order m at L + m, and zero elsewhere.
    """
    grid = gauss_legendre_grid(max_degree + 1, 2 * max_degree + 2)
    swapped = real_harmonics(grid.vectors[:, [0, 2, 1]], max_degree).reshape(*grid.shape, -1)
    # ∫ Y_lm(x, y, z) Y_lm'(x, z, y) dΩ on a product grid: first along the rows, then across them.
    waves = np.matmul(trigonometric(grid.longitude, max_degree).T, swapped)
    legendre = associated_legendre(grid.cos_theta, max_degree) * grid.row_weight[:, None, None]
    blocks = np.zeros((max_degree + 1, 2 * max_degree + 1, 2 * max_degree + 1))
    for l in range(max_degree + 1):  # noqa: E741
        flat = slice(l * l, (l + 1) ** 2)
        padded = slice(max_degree - l, max_degree + l + 1)
        by_order = legendre[:, l, np.abs(np.arange(-l, l + 1))]
        blocks[l, padded, padded] = np.einsum("im,imn->mn", by_order, waves[:, padded, flat])
    blocks.setflags(write=False)
    return blocks
