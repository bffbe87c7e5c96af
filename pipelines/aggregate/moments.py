"""Expected numbers of photos in areas, and their variances, from the masses of single photos.

Photo i lies in area a with probability p_i(a). Its number of photos there is 0 or 1, so the number
N(a) of all photos has the expectation Σ_i p_i(a) and, if photos are independent, the variance
Σ_i p_i(a) (1 - p_i(a)).

Photos of a group, such as an album, are not independent: where one of them was taken, there were
the others. As one draw, all n_g photos of group g lie in a with the mean of their probabilities,
S_g(a) / n_g with S_g(a) = Σ_{i in g} p_i(a), or none does. The expectation stays, and the variance
is

    Σ_g n_g² (S_g/n_g) (1 - S_g/n_g)  =  Σ_g S_g (n_g - S_g).

No dependence within the groups gives more: a number between 0 and n with the mean S has at most the
variance S (n - S) (Bhatia and Davis 2000, American Mathematical Monthly 107). A photo alone is a
group of one, and the formula then is the one above. An *owner* below is a photo or a group.

Masses may stand in coarse cells beside finer ones: what a row of a cell holds is spread evenly over
the leaves in it, the cells of the resolution that is asked for. A leaf's mass d of one owner is
then the sum of m/L over the cells around it, with L the number of leaves of each. Squares of sums
do not add up, but their growth from cell to cell does: a cell in which d grows from e to d adds
d² - e² to the sum of squares of each of its leaves. So both moments are sums over rows, by cell,
and only at the end are they pushed down to the leaves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.aggregate.cells import (
    Cells,
    after,
    children,
    depth_first,
    leaf_counts,
    parents,
    resolutions,
)

Float = NDArray[np.float64]
Integer = NDArray[np.int64]


class Masses(NamedTuple):
    """Masses of owners in places, sorted by owner and then by place, each pair once.

    Attributes:
        owner: Number of the owner of each row, ``(N,)``.
        place: Number of the place of each row, ``(N,)``.
        mass: Number of photos of the owner expected there, ``(N,)``.
    """

    owner: Integer
    place: Integer
    mass: Float


class Places(NamedTuple):
    """The places of masses: first cells, each before those that lie in it, then other areas.

    Attributes:
        cells: Cells in the order of `depth_first`, none finer than the leaves, ``(C,)``.
        others: Number of other areas, which hold no place but themselves.
        resolution: Resolution of the leaves.
    """

    cells: Cells
    others: int
    resolution: int

    def __len__(self) -> int:
        """The number of places."""
        return len(self.cells) + self.others

    def leaves(self) -> Float:
        """Number of leaves in each place, ``(len(self),)``."""
        return np.append(leaf_counts(self.cells, self.resolution), np.ones(self.others))


def merged(owner: Integer, place: Integer, mass: Float, places: int) -> Masses:
    """Adds up rows of the same owner and place.

    Args:
        owner: Number of the owner of each row, ``(N,)``.
        place: Number of the place of each row, ``(N,)``.
        mass: Mass of each row, ``(N,)``.
        places: Number of places.
    """
    code = owner * places + place
    if not np.all(code[1:] > code[:-1]):
        order = np.argsort(code, kind="stable")
        code, mass = code[order], mass[order]
        first = np.flatnonzero(np.append(True, code[1:] != code[:-1])[: len(code)])
        mass = np.add.reduceat(mass, first) if len(first) else mass
        code = code[first]
    owner = code // max(places, 1)
    return Masses(owner, code - owner * places, mass)


def variances(masses: Masses, places: Places, photos: Float) -> Float:
    """Computes what each row adds to the variance of each leaf in its place, ``(N,)``.

    Args:
        masses: Masses of owners.
        places: Their places.
        photos: Number of photos of the owner of each row, ``(N,)``.
    """
    per_leaf = masses.mass / places.leaves()[masses.place]
    around = _mass_around(masses, places, per_leaf)
    inside = around + per_leaf
    return photos * per_leaf - (inside**2 - around**2)


def _mass_around(masses: Masses, places: Places, per_leaf: Float) -> Float:
    """Sums up, for each row, the mass per leaf of its owner's rows of the cells around its own."""
    count, cells = len(places), places.cells
    # Depth first, all that lies in a cell follows it, up to the first place that does not.
    order, end = depth_first(cells), np.arange(1, count + 1)
    end[: len(cells)] = np.searchsorted(order, after(cells))
    holds = (end > np.arange(count) + 1)[masses.place]
    if not holds.any():
        return np.zeros(len(per_leaf))
    row = np.flatnonzero(holds)
    code = masses.owner * count + masses.place
    behind = np.searchsorted(code, masses.owner[row] * count + end[masses.place[row]])
    steps = np.zeros(len(per_leaf) + 1)
    steps[row + 1] = per_leaf[row]
    np.subtract.at(steps, behind, per_leaf[row])
    around: Float = np.cumsum(steps[:-1])
    return np.clip(around, 0.0, None)


class CellSums(NamedTuple):
    """Sums by cell.

    Attributes:
        cells: Different cells, ``(C,)``.
        mass: Number of photos expected in each, without what is in finer cells, ``(C,)``.
        variance: What each adds to the variance of each leaf in it, ``(C,)``.
    """

    cells: Cells
    mass: Float
    variance: Float


def pushed_down(sums: CellSums, resolution: int, most_cells: int) -> tuple[CellSums, CellSums]:
    """Spreads the sums of coarse cells evenly over the leaves in them.

    Args:
        sums: Sums of cells that are no finer than the leaves.
        resolution: Resolution of the leaves.
        most_cells: Most leaves. Cells so coarse that there would be more are not spread.

    Returns:
        Sums of the leaves, in the order of their indices, and of the cells that were not spread.
    """
    found = resolutions(sums.cells)
    coarsest = _coarsest_spread(sums.cells, found, resolution, most_cells)
    left, sums = _chosen(sums, found < coarsest), _chosen(sums, found >= coarsest)
    found = found[found >= coarsest]
    per_leaf = sums.mass / leaf_counts(sums.cells, resolution)
    now = CellSums(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0))
    for level in range(coarsest, resolution + 1):
        here = found == level
        finer, parent = children(now.cells)
        now = _added(
            np.concatenate([finer, sums.cells[here]]),
            np.concatenate([now.mass[parent], per_leaf[here]]),
            np.concatenate([now.variance[parent], sums.variance[here]]),
        )
    return now, left


def _coarsest_spread(cells: Cells, found: Integer, resolution: int, most_cells: int) -> int:
    """Chooses the coarsest resolution whose cells can be spread."""
    whole, coarsest = cells[found == resolution], resolution
    for level in reversed(range(resolution)):
        here = cells[found == level]
        whole = np.concatenate([here, whole[~np.isin(parents(whole, level), here)]])
        if leaf_counts(whole, resolution).sum() > most_cells:
            break
        coarsest = level
    return coarsest


def _chosen(sums: CellSums, rows: NDArray[np.bool_]) -> CellSums:
    return CellSums(sums.cells[rows], sums.mass[rows], sums.variance[rows])


def _added(cells: Cells, mass: Float, variance: Float) -> CellSums:
    """Adds up rows of the same cell."""
    different, row = np.unique(cells, return_inverse=True)
    count = len(different)
    return CellSums(
        different,
        np.bincount(row, mass, count).astype(np.float64),
        np.bincount(row, variance, count).astype(np.float64),
    )


def sorted_cells(cells: Cells) -> tuple[Cells, Integer]:
    """Lists different cells depth first, and gives the number of each of N cells among them."""
    different, row = np.unique(cells, return_inverse=True)
    order = np.argsort(depth_first(different))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return different[order], rank[row]
