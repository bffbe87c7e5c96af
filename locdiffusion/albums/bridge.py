r"""Bridges: where a photo was taken, given the anchor before and the anchor after.

    p(x | a, b) ∝ K(x | a, t₁) K(b | x, t₂)

Both factors are mixtures of von Mises-Fisher kernels, so the bridge is one, without a grid. The
**left** kernels stand around a and around the places to which the camera may return; the **right**
ones around b. That the camera returned to b from anywhere is a constant of x: it adds to the weight
of the whole sphere. Scales are uncertain: the bridge is a mean over D draws of them, and as all
draws share the kernels, they cost weights only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.motion import LADDER_KAPPA, LawOfMotion
from locdiffusion.albums.von_mises_fisher import (
    chord_squared,
    displaced,
    log_density,
    log_product_weight,
    product,
)
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]


@dataclass(frozen=True)
class End:
    """One end of B bridges: an anchor, or none.

    Attributes:
        centre: Unit vectors of the anchors, ``(B, 3)``.
        error_km: Standard errors of their positions, ``(B,)``.
        known: Whether there is an anchor, ``(B,)``.
        kernels: Weights of the ladder for the step between it and the photo, ``(B, D, 16)``.
        back: Shares of PLACES in that step, ``(B, D)``.
    """

    centre: Float
    error_km: Float
    known: NDArray[np.bool_]
    kernels: Float
    back: Float

    def instead_of(self, other: End) -> End:
        """Takes the place of another end in those bridges in which this one alone is known."""
        taken = self.known & ~other.known
        columns = {
            name: np.where(taken.reshape(-1, *[1] * (ours.ndim - 1)), ours, getattr(other, name))
            for name, ours in vars(self).items()
        }
        return End(**columns)

    def kappa(self) -> Float:
        """Concentrations of the ladder, widened by the error of the anchors, ``(B, 16)``."""
        error = self.error_km[:, None] / EARTH_RADIUS_KM
        return LADDER_KAPPA / (1.0 + LADDER_KAPPA * error**2)

    def weights(self, visited: NDArray[np.bool_]) -> tuple[Float, Float]:
        """Weights ``(B, D, 16)`` and shares of PLACES ``(B, D)``, where places may be missing.

        Args:
            visited: Whether there is any place to return to, ``(B,)``.
        """
        staying = self.kernels / (1.0 - self.back)[..., None]
        kernels = np.where(visited[:, None, None], self.kernels, staying)
        kernels[~self.known] = np.eye(len(LADDER_KAPPA))[-1]
        return kernels, np.where((visited & self.known)[:, None], self.back, 0.0)


@dataclass(frozen=True)
class Bridges:
    """Densities of B photos, each a mixture of products of l left and r right kernels.

    Attributes:
        left_centre: Centres of the left kernels, ``(B, l, 3)``.
        left_kappa: Concentrations of the left kernels, ``(B, l)``.
        left: Weights of the left kernels, ``(B, D, l)``.
        right_centre: Centre of the right kernels, ``(B, 3)``.
        right_kappa: Concentrations of the right kernels, ``(B, r)``.
        right: Weights of the right kernels, ``(B, D, r)``.
    """

    left_centre: Float
    left_kappa: Float
    left: Float
    right_centre: Float
    right_kappa: Float
    right: Float

    @classmethod
    def between(
        cls, a: End, b: End, places: Float, there: NDArray[np.bool_], law: LawOfMotion
    ) -> Bridges:
        """Makes the bridges between two ends.

        Args:
            a: Anchors before the photos.
            b: Anchors after the photos.
            places: Unit vectors of the places to return to, ``(B, P, 3)``.
            there: Which of them are places, ``(B, P)``.
            law: Law of motion.
        """
        # The law is the same backwards. Without an anchor before, a photo was not anywhere on Earth
        # and then returned to the anchor after: it was near that one, or at a place of later.
        a, b = b.instead_of(a), replace(b, known=b.known & a.known)
        rows, visited = len(places), np.any(there, axis=1)
        first, back_first = a.weights(visited)
        second, back_second = b.weights(visited)
        widths = law.place_kappa
        share = np.asarray(law.place_share) / np.maximum(there.sum(1), 1)[:, None]
        each = there[:, :, None] * share[:, None]
        around = back_first[..., None] * each.reshape(rows, 1, -1)
        # K(b | x) through a return to b is the same for every x.
        apart = chord_squared(places, b.centre[:, None])[..., None]
        here = np.exp(log_density(apart, widths))
        second[..., -1] += 4.0 * np.pi * back_second * (here * each).sum((1, 2))[:, None]
        ladder = np.broadcast_to(a.centre[:, None], (rows, len(LADDER_KAPPA), 3))
        return cls(
            np.concatenate([ladder, np.repeat(places, len(widths), 1)], 1),
            np.concatenate([a.kappa(), np.broadcast_to(widths, each.shape).reshape(rows, -1)], 1),
            np.concatenate([first, around], -1),
            b.centre,
            b.kappa(),
            second,
        )

    @cached_property
    def _products(self) -> Float:
        """Weights W of the products of kernels, ``(B, l, r)``."""
        chord2 = chord_squared(self.left_centre, self.right_centre[:, None])
        return np.exp(
            log_product_weight(
                self.left_kappa[:, :, None], self.right_kappa[:, None], chord2[:, :, None]
            )
        )

    @cached_property
    def total(self) -> Float:
        """Density of b, given a, through each photo, ``(B, D)``; per steradian."""
        return np.einsum("bdl,bdl->bd", self.left, self.right @ self._products.swapaxes(1, 2))

    @cached_property
    def weights(self) -> Float:
        """Shares of the products in the density, mean over the draws, ``(B, l, r)``."""
        scaled = self.left / (self.total[:, :, None] * self.left.shape[1])
        return (scaled.swapaxes(1, 2) @ self.right) * self._products

    def log_density(self, points: Float) -> Float:
        """Computes the log density per steradian at unit vectors ``(B, P, 3)``, ``(B, P)``."""
        apart = chord_squared(points[:, :, None], self.left_centre[:, None])
        left = np.exp(log_density(apart, self.left_kappa[:, None]))
        apart = chord_squared(points, self.right_centre[:, None])
        right = np.exp(log_density(apart[..., None], self.right_kappa[:, None]))
        both = (left @ self.left.swapaxes(1, 2)) * (right @ self.right.swapaxes(1, 2))
        return np.log((both / self.total[:, None]).mean(-1))

    def draws(self, shares: Float) -> Float:
        """Maps points of the unit cube to points that are distributed as the densities.

        Args:
            shares: Points of the unit cube ``(B, S, 3)``: kernel, radius, direction.

        Returns:
            Unit vectors ``(B, S, 3)``.
        """
        rows, kernels, others = self.weights.shape
        cumulative = np.cumsum(self.weights.reshape(rows, -1), 1)
        cumulative /= cumulative[:, -1:]
        row = np.arange(rows)[:, None]
        wanted = (row + np.minimum(shares[..., 0], 1.0 - 1e-12)).ravel()
        found = np.searchsorted((row + cumulative).ravel(), wanted, "right")
        chosen = np.minimum(found.reshape(rows, -1), (row + 1) * kernels * others - 1)
        i, j = np.divmod(chosen - row * kernels * others, others)
        kappa, centre = product(
            self.left_kappa[row, i],
            self.left_centre[row, i],
            self.right_kappa[row, j],
            self.right_centre[:, None],
        )
        return displaced(centre, kappa, shares[..., 1], shares[..., 2])


def even_shares(count: int) -> Float:
    """Spreads points evenly over the unit cube, ``(count, 3)`` (Roberts's R₃ sequence, 2018)."""
    # The root of x⁴ = x + 1, as the golden ratio is that of x² = x + 1.
    root = 1.2207440846057596
    return np.mod(0.5 + np.outer(np.arange(1, count + 1), root ** -np.arange(1.0, 4.0)), 1.0)
