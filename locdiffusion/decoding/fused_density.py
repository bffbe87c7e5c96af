r"""Fused density: the network's density times what an appearance map says about the photo.

p'(y) = q₀ exp(a u) m / Z of `locdiffusion.appearance.likelihood`, with u = log p/q₀, is no
band-limited field, so it is integrated on nodes of its own. log m fades out between `FADE_KM` and
`REACH_KM` from the centre of the density, for nodes and for truths alike; beyond, m is 1. With a
window ψ that falls from 1 to 0 between `WINDOW_KM` and the rim of the wide rings,

    Z = ∫ q₀ exp(a u) (m - 1 + ψ) + ∫ q₀ exp(a u) (1 - ψ)

1. *Wide* rings around the centre hold the first integral.
2. *Near* rings around the highest node are fine enough for the narrowest peaks. Another window, χ,
   falls from 1 at the highest node to 0 at the rim of the near rings and joins both.
3. The second integral has no map in it and leaves out the centre: a grid of the whole sphere is
   enough. For most photos nothing lies beyond the wide rings; then ψ is 1 everywhere.

Each integrand is smooth, so no set of nodes sees an edge of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.appearance.likelihood import AppearanceLikelihood, PhotoTerms, Places
from locdiffusion.appearance.lookup import Comparison, MapLookup
from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.decoding.coarse_search import Mixtures
from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.log_partition import log_sum_exp, mixed_log
from locdiffusion.density.transforms import RingTransform, register_table
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM
from locdiffusion.sphere.grids import polar_grid

WIDE_KM = (0.0, 80.0, 200.0, 350.0, 550.0, 800.0, 1150.0)
NEAR_KM = (0.0, 12.0, 35.0, 75.0, 135.0, 220.0)
"""Edges of the panels of both sets of rings."""

FADE_KM, REACH_KM, WINDOW_KM, RIM_KM = 600.0, 800.0, 500.0, WIDE_KM[-1]
WIDE_AZIMUTHS, NEAR_AZIMUTHS, NODES_PER_PANEL = 32, 24, 3

SEARCH_KM, SEARCH_AZIMUTHS = NEAR_KM[:4], 16
"""Rings around the highest wide node, which find peaks that are narrower than the wide nodes."""

FLATTENED = 0.5
"""Where the exponent a is smaller, mass that p has not may lie beyond the wide rings."""

_NOTHING = 1e-30


@dataclass(frozen=True)
class Nodes:
    """The nodes of N photos.

    Attributes:
        mixtures: The network's densities.
        photos: Inputs of the likelihood besides places.
        compared: The photos compared with the cells around their centres.
        centre: Unit vectors of the centres of the wide rings, ``(N, 3)``.
        whole: Whether the wide rings hold all mass, ``(N,)``.
        wide, near: Fields on both sets of rings.
        peak: Unit vectors of the centres of the near rings, ``(N, 3)``.
        far: Photos with mass beyond the wide rings, ``(F,)``.
        far_field: u of these photos at the nodes of a grid, ``(F, nodes)``.
        far_log_area: log(q₀ (1 - ψ) dΩ/4π) at these nodes, ``(F, nodes)``.
    """

    mixtures: Mixtures
    photos: PhotoTerms
    compared: Comparison
    centre: Tensor
    whole: Tensor
    wide: Places
    near: Places
    peak: Tensor
    far: Tensor
    far_field: Tensor
    far_log_area: Tensor


class FusedDensity(nn.Module):
    """Lays nodes, and evaluates and normalises fused densities on them."""

    wide_log_area: Tensor
    near_log_area: Tensor
    radius_km: Tensor
    grid_log_area: Tensor
    grid_radius_km: Tensor
    grid_nodes: Tensor
    grid_log_q0: Tensor

    def __init__(self, tables: DecoderTables, model: AppearanceModel) -> None:
        """Builds the nodes.

        Args:
            tables: Tables of the network's densities.
            model: Appearance map and likelihood.
        """
        super().__init__()
        self.tables = tables
        self.lookup = MapLookup(model.map, REACH_KM)
        self.likelihood: AppearanceLikelihood = model.likelihood
        self.wide, self.search, self.near = (
            RingTransform(
                polar_grid(np.array(edges) / EARTH_RADIUS_KM, NODES_PER_PANEL, azimuths),
                tables.max_degree,
            )
            for edges, azimuths in (
                (WIDE_KM, WIDE_AZIMUTHS),
                (SEARCH_KM, SEARCH_AZIMUTHS),
                (NEAR_KM, NEAR_AZIMUTHS),
            )
        )
        radii = []
        for name, rings in (("wide", self.wide), ("near", self.near)):
            area = (rings.row_weight.double() / (4.0 * math.pi)).repeat_interleave(rings.columns)
            register_table(self, f"{name}_log_area", area.log().numpy())
            radii.append(_disc_km(area.numpy()))
        register_table(self, "radius_km", np.concatenate(radii)[None])
        base = tables.base_measure
        # Where places are excluded, the thin grid would miss small ones.
        self.stride = 1 if base is not None and base.excludes else 2
        cell = self._thinned(tables.area[None])[0].double().numpy() * self.stride**2
        register_table(self, "grid_log_area", np.log(cell))
        register_table(self, "grid_radius_km", _disc_km(cell)[None])
        self.register_buffer(
            "grid_nodes", self._thinned(tables.grid.nodes.T).T.contiguous(), persistent=False
        )
        self.register_buffer("grid_log_q0", self._thinned(tables.log_q0[None])[0], persistent=False)
        self.settles = tables.search.radius * EARTH_RADIUS_KM <= RIM_KM

    def _thinned(self, values: Tensor) -> Tensor:
        """Takes the values of every other node of every other row, if the grid is thinned."""
        grid = self.tables.grid
        by_row = values.view(len(values), grid.rows, grid.columns)
        return by_row[:, :: self.stride, :: self.stride].flatten(1)

    def nodes(
        self,
        natural: Tensor,
        mixtures: Mixtures,
        centre: Tensor,
        appearance: Tensor,
        trust: Tensor,
        whole_sphere: bool = False,
    ) -> Nodes:
        """Lays the nodes of photos and evaluates the fields on them.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            mixtures: The normalised densities.
            centre: Unit vectors around which the densities lie, ``(N, 3)``.
            appearance: Discriminants of the photos, ``(N, C)``.
            trust: Share of the map's say that counts, ``(N,)``.
            whole_sphere: Whether all photos count as having mass beyond the wide rings.
        """
        compared = self.lookup.compare(appearance, centre)
        whole = torch.full_like(trust, self.settles and not whole_sphere, dtype=torch.bool)
        whole[mixtures.wide] = False
        laid = mixtures, compared, centre
        wide = self._around(self.wide, *laid, centre, whole)
        photos = self._terms(appearance, trust, wide, compared, centre)
        a, b = self.likelihood.exponents(photos)
        flattened = whole & (a < FLATTENED)
        if flattened.any():
            whole = whole & ~flattened
            wide = self._around(self.wide, *laid, centre, whole)
        # The highest wide node is near the peak; the highest node around that one is at it.
        near, peak = wide, centre
        for rings in (self.search, self.near):
            log_density, _ = self.likelihood.log_density(near, photos, a, b)
            peak = near.vectors[torch.arange(len(centre)), log_density.argmax(1)]
            near = self._around(rings, *laid, peak, whole)
        far = torch.nonzero(~whole)[:, 0]
        field = self._far_field(natural, mixtures, far)
        rest = 1.0 - falling(km_of_chord(centre[far], self.grid_nodes), WINDOW_KM, RIM_KM)
        log_area = self.grid_log_q0 + self.grid_log_area + rest.clamp_(min=_NOTHING).log_()
        return Nodes(
            mixtures, photos, compared, centre, whole, wide, near, peak, far, field, log_area
        )

    def _far_field(self, natural: Tensor, mixtures: Mixtures, far: Tensor) -> Tensor:
        """Takes u ``(F, nodes)`` of photos on the grid of the whole sphere."""
        found = far.new_full((len(natural),), -1)
        found[mixtures.wide] = torch.arange(len(mixtures.wide), device=far.device)
        log_density = far.new_empty((len(far), len(self.grid_nodes)), dtype=natural.dtype)
        known = found[far] >= 0
        if known.any():
            log_density[known] = self._thinned(mixtures.log_density)[found[far[known]]]
        if (~known).any():
            log_density[~known] = self._thinned(
                self.tables.log_density(natural[far[~known]]).flatten(1)
            )
        return log_density - self.grid_log_q0

    def around(self, rings: RingTransform, nodes: Nodes, pole: Tensor) -> Places:
        """Evaluates all fields of photos on other rings, around poles ``(N, 3)``."""
        laid = nodes.mixtures, nodes.compared, nodes.centre
        return self._around(rings, *laid, pole, nodes.whole)

    def _around(
        self,
        rings: RingTransform,
        mixtures: Mixtures,
        compared: Comparison,
        centre: Tensor,
        pole: Tensor,
        whole: Tensor,
    ) -> Places:
        """Evaluates all fields on rings around poles ``(N, 3)``."""
        everyone = torch.arange(len(pole), device=pole.device)
        (field,) = mixtures.around(self.tables.rotation, everyone, pole, rings)
        return self._places(field, rings.around(pole), compared, centre, whole)

    def _places(
        self, field: Tensor, vectors: Tensor, compared: Comparison, centre: Tensor, whole: Tensor
    ) -> Places:
        residual, log_v = self.lookup.at(compared, vectors)
        km = km_of_chord(centre[:, None], vectors)
        window = torch.where(whole[:, None], 1.0, falling(km, WINDOW_KM, RIM_KM))
        log_q0 = self.tables.log_q0_at(vectors)
        return Places(
            vectors, field, log_q0, residual, log_v, falling(km, FADE_KM, REACH_KM), window
        )

    def points(self, nodes: Nodes, vectors: Tensor) -> Places:
        """Evaluates all fields at points ``(N, P, 3)``."""
        n, p, _ = vectors.shape
        k = nodes.mixtures.log_z.shape[1]
        by_degree = nodes.mixtures.by_degree.repeat_interleave(p, 1)
        # One point of all K densities after the other
        at = vectors[:, None].expand(-1, k, -1, -1).reshape(-1, 3)
        value = self.tables.rotation.jet(by_degree, at)[:, 0].view(n, k, p)
        field = mixed_log(value - nodes.mixtures.log_z[..., None])
        return self._places(field, vectors, nodes.compared, nodes.centre, nodes.whole)

    def log_factor_at(
        self, compared: Comparison, centre: Tensor, photos: PhotoTerms, vectors: Tensor
    ) -> Tensor:
        """Evaluates log m ``(N, P)`` at places within reach of the centres.

        Args:
            compared: The photos compared with the cells around their centres.
            centre: Unit vectors of the centres, ``(N, 3)``.
            photos: Inputs of the likelihood besides places.
            vectors: Unit vectors of the places, ``(N, P, 3)``.
        """
        residual, log_v = self.lookup.at(compared, vectors)
        fade = falling(km_of_chord(centre[:, None], vectors), FADE_KM, REACH_KM)
        nothing = torch.zeros_like(fade)
        places = Places(vectors, nothing, nothing, residual, log_v, fade, nothing)
        _, b = self.likelihood.exponents(photos)
        return self.likelihood.log_factor(places, photos, b)

    def _terms(
        self, appearance: Tensor, trust: Tensor, wide: Places, compared: Comparison, centre: Tensor
    ) -> PhotoTerms:
        """Computes the inputs of the gates."""
        least = (wide.residual.amin(1) / self.lookup.components).clamp(min=1e-3).log()
        _, log_v = self.lookup.at(compared, centre[:, None])
        columns = [(self._radius_50_km(wide) + 5.0).log(), log_v[:, 0], least]
        return PhotoTerms(torch.stack(columns, 1), appearance.square().sum(1), trust)

    def _radius_50_km(self, wide: Places) -> Tensor:
        """Computes the 50 % radii ``(N,)`` of the network's densities, at most that of the rim."""
        mass = (wide.field + wide.log_q0 + self.wide_log_area).exp()
        below = mass.view(len(mass), self.wide.rows, -1).sum(2).cumsum(1)
        km = EARTH_RADIUS_KM * self.wide.nodes[:: self.wide.columns, 2].acos()
        upper = (below < 0.5).sum(1).clamp(max=len(km) - 1)
        row, lower = torch.arange(len(mass), device=mass.device), (upper - 1).clamp(min=0)
        low, high = below[row, lower], below[row, upper]
        share = ((0.5 - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
        return km[lower] + share * (km[upper] - km[lower])

    def log_areas(self, nodes: Nodes) -> Tensor:
        """Computes log((1 - χ) dΩ/4π) of the wide nodes and log(χ dΩ/4π) of the near ones."""
        chi, other = (
            falling(
                km_of_chord(nodes.peak[:, None], places.vectors), NEAR_KM[-1] / 2.0, NEAR_KM[-1]
            )
            for places in (nodes.near, nodes.wide)
        )
        wide = self.wide_log_area + (1.0 - other).clamp_(min=_NOTHING).log_()
        return torch.cat([wide, self.near_log_area + chi.clamp_(min=_NOTHING).log_()], 1)

    def normalised(self, nodes: Nodes) -> tuple[NodeMasses, NodeMasses, Tensor]:
        """Normalises densities.

        Returns:
            The nodes on the rings of all N photos; those on the grid of the photos that are far,
            whose masses complete theirs to 1; and log Z ``(N,)``.
        """
        a, b = self.likelihood.exponents(nodes.photos)
        parts = [
            self.likelihood.log_density(places, nodes.photos, a, b)
            for places in (nodes.wide, nodes.near)
        ]
        log_p, inside = (torch.cat(pair, 1) for pair in zip(*parts, strict=True))
        inside = inside + self.log_areas(nodes)
        log_z, far = log_sum_exp(inside), nodes.far
        log_far = a[far, None] * nodes.far_field + nodes.far_log_area
        if len(far):
            log_z[far] = torch.logaddexp(log_z[far], log_sum_exp(log_far))
        vectors = torch.cat([nodes.wide.vectors, nodes.near.vectors], 1)
        rings = NodeMasses(
            vectors, (inside - log_z[:, None]).exp(), log_p - log_z[:, None], self.radius_km
        )
        beyond = NodeMasses(
            self.grid_nodes.expand(len(far), -1, -1),
            log_far.sub_(log_z[far, None]).exp(),
            a[far, None] * nodes.far_field + self.grid_log_q0 - log_z[far, None],
            self.grid_radius_km,
        )
        return rings, beyond, log_z

    def log_density_at(self, nodes: Nodes, log_z: Tensor, vectors: Tensor) -> Tensor:
        """Evaluates log p' at points ``(N, P, 3)``, in nats against the uniform sphere."""
        a, b = self.likelihood.exponents(nodes.photos)
        places = self.points(nodes, vectors)
        return self.likelihood.log_density(places, nodes.photos, a, b)[0] - log_z[:, None]


def km_of_chord(one: Tensor, other: Tensor) -> Tensor:
    """Computes distances in km of unit vectors that broadcast, from their chords.

    To 1,200 km they are exact to 10 m; farther ones are too short.
    """
    if one.ndim == 2 and other.ndim == 2:
        square = (2.0 - 2.0 * (one @ other.T)).clamp(min=0.0)
    else:
        square = (one - other).square().sum(-1)
    # 2 asin(c/2) = c (1 + c²/24 + 3c⁴/640 + …)
    return square.sqrt() * (
        EARTH_RADIUS_KM * (1.0 + square * (1.0 / 24.0 + square * (3.0 / 640.0)))
    )


def falling(km: Tensor, one: float, zero: float) -> Tensor:
    """Falls smoothly from 1 at a distance to 0 at another."""
    t = ((km - one) / (zero - one)).clamp(0.0, 1.0)
    return 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))


def _disc_km(area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the radii in km of discs with shares of the sphere."""
    radius: NDArray[np.float64] = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(area))
    return radius
