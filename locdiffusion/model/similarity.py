"""Compares image embeddings: axes along which places differ, search for the most similar ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import cKDTree
from torch import Tensor

_SAME_PLACE, _RIDGE = 3, 0.05
"""Number of neighbours that count as the same place, and the ridge as a share of the mean spread
within places."""

_GROUP = 32
"""Values in a group of `largest`."""


def discriminants(
    standard: NDArray[np.float32], vectors: NDArray[np.float64], components: int
) -> NDArray[np.float64]:
    """Finds the axes along which places differ most, relative to photos of the same place.

    This is linear discriminant analysis with neighbours for classes: photos that were taken next to
    each other differ in season, light and camera. Principal components capture mostly those
    differences, so that a known place in a new month looks unknown.

    Args:
        standard: Standardised embeddings, ``(N, E)``.
        vectors: Unit vectors of their positions, ``(N, 3)``.
        components: Number C of axes.

    Returns:
        Axes ``(E, C)``, those with the largest ratio first.
    """
    dim = standard.shape[1]
    # S_w: covariance of the differences between neighbours
    within = np.zeros((dim, dim))
    neighbours = min(_SAME_PLACE, len(standard) - 1)
    nearest = cKDTree(vectors).query(vectors, k=neighbours + 1)[1].reshape(len(vectors), -1)
    for k in range(1, neighbours + 1):
        apart = (standard - standard[nearest[:, k]]).astype(np.float64)
        within += apart.T @ apart / (2.0 * neighbours * len(apart))
    within += max(_RIDGE * np.trace(within) / dim, 1e-6) * np.eye(dim)
    # S_t a = λ S_w a
    _, axes = eigh(np.cov(standard.T, bias=True).reshape(dim, dim), within)
    found: NDArray[np.float64] = axes[:, ::-1][:, :components]
    return found


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Finds the largest values along the last axis; three times faster than `topk` for P > 10,000.

    The largest values lie in the groups whose maxima are largest.

    Args:
        values: ``(B, P)``.
        count: Number of values.

    Returns:
        Values and indices, ``(B, count)`` each.
    """
    groups = values.shape[1] // _GROUP
    if groups <= count:
        best = values.topk(count, dim=1)
        return best.values, best.indices
    # Group g is g, g + groups, g + 2·groups …: maxima of whole rows, not within them.
    whole = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
    of_group = whole.amax(1).topk(count, dim=1).indices
    steps = groups * torch.arange(_GROUP, device=values.device)
    rest = torch.arange(groups * _GROUP, values.shape[1], device=values.device)
    among = (of_group[..., None] + steps).flatten(1)
    among = torch.cat([among, rest.expand(len(values), -1)], 1)
    best = values.gather(1, among).topk(count, dim=1)
    return best.values, among.gather(1, best.indices)
