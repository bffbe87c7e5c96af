r"""Likelihood of places: what photos themselves say about where they were taken.

    log L(y) = a log p(y)/q₀(y) + log m(y)

up to a constant of each photo, with the network's density p over the base measure q₀, and with the
exponent a and the factor m of an appearance map (`locdiffusion.appearance.likelihood`); without a
map a = 1 and m = 1. So q₀ L is the density that the decoders answer with, and likelihoods of
several photos of one place can be multiplied, which densities cannot: q₀ would count several times.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.appearance.likelihood import FEATURES, PhotoTerms
from locdiffusion.cpu import in_cache
from locdiffusion.decoding.fused_decoder import PHOTOS_AT_ONCE, FusedDecoder
from locdiffusion.decoding.fused_density import REACH_KM, FusedDensity
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.log_partition import mixed_log
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

Float = NDArray[np.float64]
Index = NDArray[np.int64]

CODES_AT_ONCE = 256
"""How many places are encoded together."""


@dataclass(frozen=True)
class MapTerms:
    """What the likelihoods of N photos need to know of an appearance map.

    Attributes:
        density: Fused density, which has the map.
        appearance: Discriminants of the photos, ``(N, C)``.
        centre: Unit vectors of the places around which the map is read, ``(N, 3)``.
        photos: Inputs of the map's likelihood besides places.
    """

    density: FusedDensity
    appearance: Tensor
    centre: Tensor
    photos: PhotoTerms

    @classmethod
    @torch.inference_mode()
    def of(
        cls, fused: FusedDecoder, natural: Tensor, appearance: Tensor, trust: Tensor
    ) -> MapTerms:
        """Finds the terms of photos.

        Args:
            fused: Decoder with the map.
            natural: Natural parameters of the photos, ``(N, K, d)``.
            appearance: Discriminants of the photos, ``(N, C)``.
            trust: Share of the map's say that counts, ``(N,)``.
        """
        checked = fused.checked(natural, appearance, trust)
        natural, appearance, trust = checked
        centre = [natural.new_zeros(0, 3)]
        photos = [PhotoTerms(natural.new_zeros(0, len(FEATURES)), trust[:0], trust[:0])]
        for part in in_cache(max(1, PHOTOS_AT_ONCE // natural.shape[1]), *checked):
            if len(part[0]):
                nodes, _ = fused.laid(*part)
                centre.append(nodes.centre)
                photos.append(nodes.photos)
        return cls(fused.density, appearance, torch.cat(centre), PhotoTerms.joined(photos))

    def exponents(self, rows: Tensor) -> Tensor:
        """Computes the exponents a of the network's field, ``(n,)``, of photos ``(n,)``."""
        return self.density.likelihood.exponents(self.photos.take(rows))[0]

    def add_log_factor(self, log: Tensor, rows: Tensor, vectors: Tensor) -> None:
        """Adds log m of photos ``(n,)`` at unit vectors ``(S, 3)`` to logs ``(n, S)``."""
        centre, appearance = self.centre[rows], self.appearance[rows]
        near = centre @ vectors.T > math.cos(REACH_KM / EARTH_RADIUS_KM)
        most = int(near.sum(1).amax())
        if not most:
            return
        # The places within reach come first; those after them get what belongs to no place.
        place = near.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        compared = self.density.lookup.compare(appearance, centre)
        photo = compared, centre, self.photos.take(rows)
        log_m = self.density.log_factor_at(*photo, vectors[place])
        log.scatter_add_(1, place, log_m * near.gather(1, place))


@dataclass(frozen=True)
class PhotoLikelihood:
    """Likelihoods of places for N photos.

    Attributes:
        tables: Tables of the network's densities.
        natural: Natural parameters ``(N, K, d)``; the K densities of a photo are mixed.
        log_z: Logarithms of their normalisers, ``(N, K)``.
        weight: How far each photo is believed, from 0 to 1, ``(N,)``: little if it is unlike those
            that the network was trained on.
        look: What the photos look like, ``(N, C)``: directions that agree for photos of one scene.
        map: Terms of an appearance map; None without one.
    """

    tables: DecoderTables
    natural: Tensor
    log_z: Tensor
    weight: Float
    look: Float
    map: MapTerms | None = None

    @classmethod
    def of(
        cls,
        tables: DecoderTables,
        natural: Tensor,
        look: Float,
        weight: Float | None = None,
        terms: MapTerms | None = None,
    ) -> PhotoLikelihood:
        """Takes densities of photos.

        Args:
            tables: Tables of the densities.
            natural: Natural parameters ``(N, K, d)``.
            look: What the photos look like, ``(N, C)``.
            weight: How far each photo is believed, ``(N,)``; None believes all.
            terms: Terms of an appearance map; None without one.
        """
        natural = tables.checked(natural)
        # Of a single density Z is the constant that does not count.
        one = natural.shape[1] == 1 or not len(natural)
        log_z = torch.zeros_like(natural[..., 0]) if one else tables.log_normaliser(natural)
        weight = np.ones(len(natural)) if weight is None else weight
        return cls(tables, natural, log_z, weight, look, terms)

    def __len__(self) -> int:
        """The number of photos."""
        return len(self.natural)

    def base(self, vectors: Float) -> Float:
        """Evaluates q₀ ``(S,)`` at unit vectors ``(S, 3)``, against the uniform one."""
        found: Float = self.tables.log_q0_at(self._tensor(vectors)).double().exp().cpu().numpy()
        return found

    @torch.inference_mode()
    def at(self, vectors: Float) -> Callable[[Index], Float]:
        """Prepares the evaluation of log L at places.

        Args:
            vectors: Unit vectors of the places, ``(S, 3)``.

        Returns:
            Function from numbers of photos ``(n,)`` to log L ``(n, S)``, less its maximum.
        """
        content = np.ascontiguousarray(vectors, np.float64).tobytes()
        code = torch.from_numpy(_codes(content, self.tables.max_degree)).to(self.natural)
        places = self._tensor(vectors)

        def log_likelihood(rows: Index) -> Float:
            parts = torch.from_numpy(rows).split(PHOTOS_AT_ONCE)
            return np.concatenate([self._evaluated(part, code, places) for part in parts])

        return log_likelihood

    @torch.inference_mode()
    def _evaluated(self, rows: Tensor, code: Tensor, places: Tensor) -> Float:
        field = self.natural[rows] @ code.T - self.log_z[rows, :, None]
        log = mixed_log(field)
        if self.map is not None:
            log = self.map.exponents(rows)[:, None] * log
            self.map.add_log_factor(log, rows, places)
        found: Float = (log - log.amax(1, keepdim=True)).double().cpu().numpy()
        return found

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(values).to(self.natural)


# A lattice that all albums begin with is encoded once: between two uses an album has four others.
@functools.lru_cache(maxsize=8)
def _codes(vectors: bytes, max_degree: int) -> NDArray[np.float32]:
    """Encodes unit vectors ``(S, 3)``, given as the bytes of an array."""
    places = np.frombuffer(vectors).reshape(-1, 3)
    parts = np.array_split(places, max(1, len(places) // CODES_AT_ONCE))
    return np.concatenate([encode_vectors(part, max_degree).astype(np.float32) for part in parts])
