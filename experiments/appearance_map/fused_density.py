r"""The fused density: the network's density times what the appearance map says about the photo.

p'(y) = q₀ exp(a F) m(y) / Z of `likelihood` is no band-limited field, so it is integrated here on
nodes of its own. log m fades out between `FADE_KM` and `REACH_KM` from the answer of the density,
for nodes and for truths alike; beyond, m is 1. With a window ψ that falls from 1 to 0 on the way,

    Z = ∫ q₀ exp(a F) (m - 1 + ψ) + ∫ q₀ exp(a F) (1 - ψ)

1. The second integral has no map in it and leaves out the answer: the thin grid of the whole sphere
   is enough.
2. *Wide* rings around the answer of the density reach as far as the map counts.
3. *Near* rings around the highest node are fine enough for the narrowest peaks. Another
   window, χ, from 1 at the highest node to 0 at the rim of the near rings, joins both.

Each integrand is smooth, so no set of nodes sees an edge of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from experiments.appearance_map.photos import LocatedPhotos
from locdiffusion.appearance.appearance_map import AppearanceMap
from locdiffusion.appearance.cell_grid import CellTaps
from locdiffusion.appearance.likelihood import AppearanceLikelihood, PhotoTerms, Places
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.transforms import RingTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import polar_grid

WIDE_KM = (0.0, 70.0, 160.0, 270.0, 400.0, 550.0, 800.0)
NEAR_KM = (0.0, 12.0, 35.0, 75.0, 135.0, 220.0)
"""Edges of the panels of both sets of rings."""

WINDOW_KM, FADE_KM, REACH_KM = 200.0, 600.0, WIDE_KM[-1]
WIDE_AZIMUTHS, NEAR_AZIMUTHS, NODES_PER_PANEL = 36, 24, 3

RECENTRED = 2
"""How often the near rings are laid. Once is not enough for peaks narrower than the wide nodes."""

_NOTHING = 1e-30

PHOTOS_AT_ONCE = 16
"""How many photos a CPU works on together."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of N photos, with constants as they are.

    Attributes:
        photos: Inputs of the gates.
        wide, near: Fields on both sets of rings.
        peak: Unit vectors of the centres of the near rings, ``(N, 3)``.
        a, b: Exponents of the density and of the map, ``(N,)``.
    """

    photos: PhotoTerms
    wide: Places
    near: Places
    peak: Tensor
    a: Tensor
    b: Tensor


class MapLookup(nn.Module):
    """Compares photos with every cell of an appearance map, and interpolates between cells."""

    comparison: Tensor
    log_v: Tensor
    slot: Tensor

    def __init__(self, appearance_map: AppearanceMap) -> None:
        """Builds the tables of a map."""
        super().__init__()
        appearance = torch.from_numpy(appearance_map.appearance)
        grid = appearance_map.grid
        # ⟨z, ẑ⟩ - |ẑ|²/2: one product with the whole map gives all distances.
        offset = -0.5 * appearance.square().sum(1, keepdim=True)
        self.register_buffer("comparison", torch.cat([appearance, offset], 1).T.contiguous())
        log_v = torch.from_numpy(appearance_map.variance).log()
        # One more entry for places without a map: nothing is known there.
        self.register_buffer("log_v", torch.cat([log_v, torch.zeros(1)]))
        self.register_buffer("slot", torch.from_numpy(_slots(appearance_map)))
        self.taps = CellTaps(grid)

    def residuals(self, appearance: Tensor) -> Tensor:
        """Computes squared distances ``(B, M + 1)`` to all cells of photos ``(B, C)``.

        The last column is that of places without a map, whose appearance is 0.
        """
        norm = appearance.square().sum(1, keepdim=True)
        products = nn.functional.pad(appearance, (0, 1), value=1.0) @ self.comparison
        return torch.cat([products.mul_(-2.0).add_(norm), norm], 1)

    def at(self, residuals: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolates at places ``(B, n, 3)``.

        Returns:
            Squared distances and logarithms of the variance, ``(B, n)`` each.
        """
        cell, weight = self.taps(vectors)
        slot = self.slot[cell.flatten()].view(len(vectors), -1)
        taken = residuals.gather(1, slot).view(cell.shape)
        log_v = self.log_v[slot].view(cell.shape)
        return (taken * weight).sum(-1).clamp_(min=0.0), (log_v * weight).sum(-1).clamp_(max=0.0)

    def log_v_here(self, vectors: Tensor) -> Tensor:
        """Looks the logarithm of the variance ``(B,)`` up at places ``(B, 3)``."""
        cell, weight = self.taps(vectors)
        return (self.log_v[self.slot[cell]] * weight).sum(-1).clamp_(max=0.0)


def _slots(appearance_map: AppearanceMap) -> np.ndarray:
    """Finds the entry of the map that stands for each cell ``(cells,)`` of the grid.

    A cell without an entry takes that of the nearest cell if that is a neighbour, and M otherwise.
    """
    grid, held = appearance_map.grid, appearance_map.held
    slot = np.full(len(grid), len(held), np.int64)
    slot[held] = np.arange(len(held))
    missing = np.flatnonzero(slot == len(held))
    centres = grid.centres
    reach = 1.8 * math.pi / grid.rows
    tree = cKDTree(centres[held])
    slot[missing] = tree.query(centres[missing], distance_upper_bound=reach)[1]
    return slot


class FusedDensity(nn.Module):
    """Evaluates, normalises and decodes fused densities."""

    def __init__(
        self,
        tables: DecoderTables,
        appearance_map: AppearanceMap,
        likelihood: AppearanceLikelihood | None = None,
    ) -> None:
        """Builds the nodes.

        Args:
            tables: Tables of the network's densities.
            appearance_map: Map of the discriminants.
            likelihood: Fitted constants and gates; None begins with a guess.
        """
        super().__init__()
        self.tables = tables
        self.map = MapLookup(appearance_map)
        self.likelihood = likelihood or AppearanceLikelihood(appearance_map.values.shape[1])
        self.wide, self.near = (
            RingTransform(
                polar_grid(np.array(edges) / EARTH_RADIUS_KM, NODES_PER_PANEL, azimuths),
                tables.max_degree,
            )
            for edges, azimuths in ((WIDE_KM, WIDE_AZIMUTHS), (NEAR_KM, NEAR_AZIMUTHS))
        )
        thin = tables.search.thin
        log_q0 = tables.log_q0.view(tables.grid.rows, tables.grid.columns)[::2, ::2]
        log_area = (thin.row_weight / (4.0 * math.pi)).log()[:, None].expand(-1, thin.columns)
        self.register_buffer("thin_log_mass", (log_q0 + log_area).flatten(), persistent=False)
        for name, rings in (("wide", self.wide), ("near", self.near)):
            area = (rings.row_weight / (4.0 * math.pi)).log().repeat_interleave(rings.columns)
            self.register_buffer(f"{name}_log_area", area, persistent=False)

    wide_log_area: Tensor
    near_log_area: Tensor
    thin_log_mass: Tensor

    @torch.no_grad()
    def nodes_of(self, photos: LocatedPhotos) -> Nodes:
        """Lays both sets of rings and evaluates the fields on them."""
        residuals = self.map.residuals(photos.appearance)
        natural, answer = photos.natural, photos.answer
        wide = self.around(self.wide, natural, residuals, answer, answer)
        terms = self.photo_terms(photos, wide)
        a, b = self.likelihood.exponents(terms)
        # The highest wide node is near the peak; the highest node around that one is at it.
        peak, near = answer, wide
        for _ in range(RECENTRED):
            log_density, _ = self.likelihood.log_density(near, terms, a, b)
            peak = near.vectors[torch.arange(len(peak)), log_density.argmax(1)]
            near = self.around(self.near, natural, residuals, peak, answer)
        return Nodes(terms, wide, near, peak, a, b)

    def around(
        self,
        rings: RingTransform,
        natural: Tensor,
        residuals: Tensor,
        centre: Tensor,
        answer: Tensor,
    ) -> Places:
        """Evaluates all fields on rings.

        Args:
            rings: The rings.
            natural: Natural parameters ``(B, d)``.
            residuals: Squared distances to all cells of the map, ``(B, M + 1)``.
            centre: Unit vectors of the centres of the rings, ``(B, 3)``.
            answer: Unit vectors of the answers of the densities, ``(B, 3)``.
        """
        rotation = self.tables.rotation
        field = rings(rotation.tilted(rotation.by_degree(natural), centre)).flatten(1)
        return self._places(field, residuals, rings.around(centre), answer)

    def points(self, natural: Tensor, residuals: Tensor, vectors: Tensor, answer: Tensor) -> Places:
        """Evaluates all fields at one point of each photo, ``(B, 3)``."""
        rotation = self.tables.rotation
        field = rotation.jet(rotation.by_degree(natural), vectors)[:, :1]
        return self._places(field, residuals, vectors[:, None], answer)

    def _places(self, field: Tensor, residuals: Tensor, vectors: Tensor, answer: Tensor) -> Places:
        residual, log_v = self.map.at(residuals, vectors)
        km = _km((vectors @ answer[:, :, None])[..., 0])
        fade = _falling(km, FADE_KM, REACH_KM)
        log_q0 = self.tables.log_q0_at(vectors)
        window = _falling(km, WINDOW_KM, REACH_KM)
        return Places(vectors, field, log_q0, residual, log_v, fade, window)

    def photo_terms(self, photos: LocatedPhotos, wide: Places) -> PhotoTerms:
        """Computes the inputs of the gates from photos and their fields on the wide rings."""
        least = (wide.residual.amin(1) / self.likelihood.components).clamp(min=1e-3).log()
        columns = [
            photos.log_temperature,
            (photos.radius_50_km + 5.0).log(),
            self.map.log_v_here(photos.answer),
            least,
        ]
        return PhotoTerms(torch.stack(columns, 1), photos.appearance.square().sum(1))

    def beyond(self, natural: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates what the second integral needs at the nodes of the thin grid.

        Returns:
            F, and log(q₀ (1 - ψ) dΩ/4π), ``(B, nodes)`` each.
        """
        thin = self.tables.search.thin
        field = thin.synthesis(natural).flatten(1)
        rest = 1.0 - _falling(_km(answer @ thin.nodes.T), WINDOW_KM, REACH_KM)
        return field, self.thin_log_mass + rest.clamp_(min=_NOTHING).log_()

    def log_areas(self, wide: Places, near: Places, peak: Tensor) -> tuple[Tensor, Tensor]:
        """Computes log((1 - χ) dΩ/4π) of the wide nodes and log(χ dΩ/4π) of the near ones.

        Args:
            wide: Fields on the wide rings.
            near: Fields on the near rings.
            peak: Unit vectors of the centres of the near rings, ``(B, 3)``.
        """
        rim = NEAR_KM[-1]
        chi, other = (
            _falling(_km((places.vectors @ peak[:, :, None])[..., 0]), rim / 2.0, rim)
            for places in (near, wide)
        )
        rest = (1.0 - other).clamp_(min=_NOTHING).log_()
        return self.wide_log_area + rest, self.near_log_area + chi.clamp_(min=_NOTHING).log_()


def _km(cosine: Tensor) -> Tensor:
    return EARTH_RADIUS_KM * torch.acos(cosine.clamp(-1.0, 1.0))


def _falling(km: Tensor, one: float, zero: float) -> Tensor:
    """Falls smoothly from 1 at a distance to 0 at another."""
    t = ((km - one) / (zero - one)).clamp(0.0, 1.0)
    return 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))
