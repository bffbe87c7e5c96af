r"""A gallery's places as a density over the Earth, to be mixed with the density of the network.

A photo's embedding q is compared with the embeddings of the places. Its density over places is

    p_G(y) = Σ_g w_g K(y; g),    w = softmax( s t^r ⟨q, g⟩ + a log p(g) )

over the `MOST_SIMILAR` places, where p is the density of the network and t the largest similarity:
noise makes all similarities smaller, and their differences too. The kernel K is a mixture of
Gaussians on the sphere of `KERNELS_KM`. Its weights depend on the distance δ_g of place g from its
`NEIGHBOUR`-th nearest: a place that stands alone represents more of the Earth. Where density and
gallery are both believed in part (our choice), the answer is that of

    p'(y) = β p_G(y) + (1 - β) p(y),    logit β = b + ⟨v, x⟩,

with the features x of `GATE_FEATURES`. A gallery that has no place where the density has its mass
agrees with it nowhere: then β is small, and the density is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, unit_vectors

MOST_SIMILAR = 1024
"""Places that have a weight; the softmax over all of them has its tail elsewhere, in p."""

NEIGHBOUR = 5
LEAST_SPACING_KM, MIDDLE_SPACING_KM = 0.3, 20.0
"""Least distance δ_g, and the one at which the kernels have the weights of `kernel_weights`."""

KERNELS_KM = (1.0, 5.0, 25.0, 100.0)
"""Standard deviations of the kernels along each axis."""

GATE_FEATURES = ("agreement", "information", "log_spacing")
"""Features of the gate: log Σ_g w_g p(g), how far density and gallery agree; the information of the
density against the uniform one in nats; and the mean of log δ under the density, where δ is the
distance of any place from the gallery's."""

LEAST_SIMILARITY = 0.05
"""A photo that is less similar to all places counts as if it were so similar."""

LEAST_LOG_DENSITY = -15.0
"""A place where the density is lower counts as if it were so low."""


@dataclass(frozen=True)
class MixtureConfig:
    """How a gallery is mixed with a density; `experiments.distillation.gallery_fit` fits it.

    Attributes:
        scale: Factor s that makes log odds of a similarity.
        scale_power: Power r of the largest similarity in that factor.
        density_power: Power a of the network's density among the places.
        kernel_weights: Logits of the kernels' weights where δ_g is `MIDDLE_SPACING_KM`.
        kernel_slopes: Change of these logits for each nat of log δ_g.
        gate_bias: Logit b of the gallery's share where all features have the value 0.
        gate_weights: Weights v of the features `GATE_FEATURES`.
    """

    scale: float
    scale_power: float
    density_power: float
    kernel_weights: tuple[float, ...]
    kernel_slopes: tuple[float, ...]
    gate_bias: float
    gate_weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the numbers."""
        wanted = {"kernel_weights": KERNELS_KM, "kernel_slopes": KERNELS_KM}
        for name, of in {**wanted, "gate_weights": GATE_FEATURES}.items():
            if len(getattr(self, name)) != len(of):
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers; want {len(of)}.")
        numbers = [self.scale, self.scale_power, self.density_power, self.gate_bias]
        numbers += [*self.kernel_weights, *self.kernel_slopes, *self.gate_weights]
        if not (np.isfinite(numbers).all() and self.scale > 0.0):
            raise ValueError(f"want finite numbers and a scale above 0: {self}.")


@dataclass(frozen=True)
class PlaceWeights:
    """Weighed places of N photos, C for each.

    Attributes:
        index: Numbers of the places in the gallery, ``(N, C)``, those with most weight first.
        log_weight: Logarithm of w, ``(N, C)``.
        log_share: Logarithm of β, ``(N,)``.
        log_rest: Logarithm of 1 - β, ``(N,)``.
    """

    index: Tensor
    log_weight: Tensor
    log_share: Tensor
    log_rest: Tensor


class PlaceMixture:
    """Places with embeddings that an image embedding can be compared with.

    Args:
        places: Latitude and longitude in degrees, ``(G, 2)``.
        embeddings: Embeddings of the places, unit vectors ``(G, E)``.
        config: How the gallery is mixed with the density.

    Raises:
        ValueError: There are not as many embeddings as places, or none.
    """

    def __init__(
        self, places: NDArray[np.float64], embeddings: Tensor, config: MixtureConfig
    ) -> None:
        if len(places) != len(embeddings) or not len(places):
            raise ValueError(
                f"{len(places)} places for {len(embeddings)} embeddings; want as many, not none."
            )
        self.places, self.embeddings, self.config = places, embeddings, config
        self.vectors = torch.from_numpy(unit_vectors(places[:, 0], places[:, 1]))
        self.log_spacing = self.log_spacing_at(self.vectors, itself=True)
        slopes = (self.log_spacing - math.log(MIDDLE_SPACING_KM))[:, None]
        logits = torch.tensor(config.kernel_weights) + slopes * torch.tensor(config.kernel_slopes)
        self.log_kernel = torch.log_softmax(logits, 1)

    def log_spacing_at(self, points: Tensor, itself: bool = False) -> Tensor:
        """Computes log δ ``(P,)`` of points ``(P, 3)``, see `spacing_km`."""
        km = spacing_km(self.vectors.numpy(), points.double().numpy(), itself)
        return torch.from_numpy(np.log(km)).float()

    def weighed(
        self, queries: Tensor, log_density_at: Callable[[Tensor], Tensor], of_density: Tensor
    ) -> PlaceWeights:
        """Weighs the places for N photos.

        Args:
            queries: Image embeddings, unit vectors ``(N, E)``.
            log_density_at: Function that gives log p ``(N, C)`` at places by their numbers
                ``(N, C)``, in nats against the uniform sphere; -inf where no answer may be.
            of_density: The last two features of the densities, ``(N, 2)``.
        """
        config = self.config
        similarity = queries @ self.embeddings.T
        similar, index = similarity.topk(min(MOST_SIMILAR, similarity.shape[1]))
        here = log_density_at(index)
        near = here.clamp(min=LEAST_LOG_DENSITY)
        scale = config.scale * similar[:, :1].clamp(min=LEAST_SIMILARITY) ** config.scale_power
        logit = scale * similar + config.density_power * near
        allowed = here > -math.inf
        logit = logit.masked_fill(~allowed & allowed.any(1, keepdim=True), -math.inf)
        log_weight, order = torch.log_softmax(logit, 1).sort(1, descending=True)
        index, near = index.gather(1, order), near.gather(1, order)
        agreement = torch.logsumexp(log_weight + near, 1, keepdim=True)
        features = torch.cat([agreement, of_density], 1)
        logits = features @ torch.tensor(config.gate_weights) + config.gate_bias
        logits = logits.masked_fill(~allowed.any(1), -math.inf)
        share, rest = (torch.nn.functional.logsigmoid(x) for x in (logits, -logits))
        return PlaceWeights(index, log_weight, share, rest)

    def log_density(
        self,
        weights: PlaceWeights,
        points: Tensor,
        offset_km: float = 0.0,
        places: int | None = None,
    ) -> Tensor:
        """Computes log p_G at points, in nats against the uniform sphere.

        Args:
            weights: Weighed places of N photos.
            points: Unit vectors in float64, ``(N, P, 3)``.
            offset_km: Distance from the points, in a direction that leads to no other place.
            places: How many places, those with most weight, are added up; None adds up all.

        Returns:
            Log densities in float64, ``(N, P)``.
        """
        index, log_weight = weights.index[:, :places], weights.log_weight[:, :places]
        # |y - g|² of chords, from vectors that are relative to a point nearby
        origin = points[:, :1]
        near, points = self.vectors[index] - origin, points - origin
        square = points.square().sum(-1)[..., None] + near.square().sum(-1)[:, None]
        square = torch.baddbmm(square, points, near.transpose(1, 2), alpha=-2.0).clamp_(min=0.0)
        square = square + (offset_km / EARTH_RADIUS_KM) ** 2
        log_p = torch.full_like(square, -math.inf)
        for kernel, km in enumerate(KERNELS_KM):
            variance = (km / EARTH_RADIUS_KM) ** 2
            # 1 / (2πσ²) against 1 / 4π
            height = self.log_kernel[index, kernel] + math.log(2.0 / variance)
            log_p = torch.logaddexp(log_p, height[:, None] - square / (2.0 * variance))
        return torch.logsumexp(log_p + log_weight[:, None], 2)


def spacing_km(
    vectors: NDArray[np.float64], points: NDArray[np.float64], itself: bool
) -> NDArray[np.float64]:
    """Measures the distance δ ``(P,)`` of points from their `NEIGHBOUR`-th nearest place.

    In a gallery with fewer places it is the distance from the farthest one.

    Args:
        vectors: Unit vectors of the places, ``(G, 3)``.
        points: Unit vectors of the points, ``(P, 3)``.
        itself: Whether the points are the places; a place is not near itself.
    """
    rank = min(NEIGHBOUR + itself, len(vectors))
    chord = cKDTree(vectors).query(points, [rank])[0][:, 0]
    km: NDArray[np.float64] = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2.0, 1.0))
    return np.where(rank > itself, km, math.pi * EARTH_RADIUS_KM).clip(min=LEAST_SPACING_KM)
