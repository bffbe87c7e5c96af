"""Fused decoder: answers of densities that an appearance map has sharpened.

The plain decoder says where a density lies: around its highest peak for most photos; where there is
mass elsewhere, around the place that it would answer with. There the map is read
(`locdiffusion.decoding.fused_density`), and the answer is decided from the nodes
(`locdiffusion.decoding.node_masses`): it is the place that is expected to meet most of the reported
thresholds. On validation photos that rule is as good as the plain decoder's, and it suits galleries
too (`experiments/appearance_map/findings.md`).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.cpu import in_cache
from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.area_masses import Partitions
from locdiffusion.decoding.credible_regions import LEVELS, CredibleRegion, RegionFinder
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.fused_density import FusedDensity, Nodes
from locdiffusion.decoding.fused_mesh import FusedMesh
from locdiffusion.decoding.fused_points import FusedPoints
from locdiffusion.decoding.node_masses import NodeMasses

PHOTOS_AT_ONCE = 32
"""How many photos a CPU works on together."""

POINTS_AT_ONCE = 256
"""How many points of photos a CPU evaluates together."""

CANDIDATES, THINNED = 12, 4
"""How many of the densest nodes may become the answer: each fourth, since neighbours are alike."""

NEGLIGIBLE = 1e-4
"""Mass beyond the rings that shows in no answer."""


class FusedDecoder(nn.Module):
    """Decodes batches of natural parameters and discriminants.

    Attributes:
        decoder: Decoder of the network's densities, with the configuration of the answers.
        density: Nodes of the fused density, with the map's likelihood.
    """

    def __init__(self, decoder: Decoder, model: AppearanceModel) -> None:
        """Builds the tables.

        Args:
            decoder: Decoder of the network's densities.
            model: Appearance map and likelihood.
        """
        super().__init__()
        self.decoder = decoder
        self.density = FusedDensity(decoder.tables, model)

    @torch.inference_mode()
    def forward(
        self, natural: Tensor, appearance: Tensor, trust: Tensor, areas: Partitions | None = None
    ) -> GeotagColumns:
        """Answers a batch.

        Args:
            natural: Natural parameters ``(N, K, d)``; the K densities of a photo are mixed.
            appearance: Discriminants of the photos, ``(N, C)``.
            trust: Share of the map's say that counts, from 0 to 1, ``(N,)``. With 0 the answer is
                that of the density alone.
            areas: Areas whose masses are wanted; None wants none.

        Returns:
            Columns of N rows.

        Raises:
            ValueError: A shape does not fit, or a value is not finite.
        """
        checked = self.checked(natural, appearance, trust)
        if not len(natural):
            return GeotagColumns.empty()
        return GeotagColumns.joined([self._decoded(areas, *part) for part in self._parts(*checked)])

    @torch.inference_mode()
    def log_probability(
        self, natural: Tensor, appearance: Tensor, trust: Tensor, vectors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Evaluates log p' of one point per photo.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            appearance: Discriminants of the photos, ``(N, C)``.
            trust: Share of the map's say that counts, ``(N,)``.
            vectors: Unit vectors of the points, ``(N, 3)``.

        Returns:
            Nats against the uniform probability of the sphere, ``(N,)``.
        """
        at = torch.from_numpy(vectors)[:, None]
        log_p = self.log_density_at(natural, appearance, trust, at)[:, 0]
        found: NDArray[np.float64] = log_p.double().cpu().numpy()
        return found

    @torch.inference_mode()
    def log_density_at(
        self, natural: Tensor, appearance: Tensor, trust: Tensor, vectors: Tensor
    ) -> Tensor:
        """Evaluates log p' ``(N, P)`` at points ``(N, P, 3)``, in nats against the uniform one."""
        checked = self.checked(natural, appearance, trust)
        found = [checked[0].new_zeros(0, vectors.shape[1])]
        for one, look, weight, at in self._parts(*checked, vectors.to(checked[0])):
            nodes, _ = self.laid(one, look, weight)
            *_, log_z = self.density.normalised(nodes)
            some = at.split(max(1, POINTS_AT_ONCE // len(at)), 1)
            parts = [self.density.log_density_at(nodes, log_z, part) for part in some]
            found.append(torch.cat(parts, 1))
        return torch.cat(found)

    @torch.inference_mode()
    def regions(
        self, natural: Tensor, appearance: Tensor, trust: Tensor
    ) -> list[tuple[CredibleRegion, ...]]:
        """Draws the 50 % and 90 % credible regions of photos.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            appearance: Discriminants of the photos, ``(N, C)``.
            trust: Share of the map's say that counts, ``(N,)``.
        """
        found = []
        for part in self._parts(*self.checked(natural, appearance, trust)):
            nodes, _ = self.laid(*part)
            for row, radii in enumerate(self._radii_km(nodes)):
                density = self._mesh.measure(part[0][row], nodes, row, radii)
                found.append(self._finder.regions(density))
        return found

    def _radii_km(self, nodes: Nodes) -> NDArray[np.float64]:
        """Finds the 50 % and 90 % radii around the highest nodes of photos, ``(N, 2)``."""
        rings, beyond, _ = self.density.normalised(nodes)

        def radii(some: NodeMasses, peak: Tensor) -> NDArray[np.float64]:
            return some.quantiles_km(some.km_from(peak[:, None])[:, 0], LEVELS)

        found, far = radii(rings, nodes.peak), nodes.far
        if len(far):
            found[far.cpu().numpy()] = radii(rings.take(far).joined(beyond), nodes.peak[far])
        return found

    @functools.cached_property
    def _finder(self) -> RegionFinder:
        tables = self.decoder.tables
        return RegionFinder(tables.max_degree, tables.base_measure)

    @functools.cached_property
    def _mesh(self) -> FusedMesh:
        return FusedMesh(self._finder.mesh, self.density)

    def laid(
        self, natural: Tensor, appearance: Tensor, trust: Tensor, *, whole_sphere: bool = False
    ) -> tuple[Nodes, Tensor]:
        """Lays the nodes of photos, see `FusedDensity.nodes`.

        Returns:
            The nodes, and the places of the network's density, the likeliest first, ``(N, M, 3)``.
        """
        mixtures, places, _ = self.decoder.places(natural, climb_settled=False)
        nodes = self.density.nodes(natural, mixtures, places[:, 0], appearance, trust, whole_sphere)
        return nodes, places

    def checked(
        self, natural: Tensor, appearance: Tensor, trust: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the inputs on the tables' device, in their precision.

        Raises:
            ValueError: A shape does not fit, or a value is not finite or out of range.
        """
        natural = self.decoder.tables.checked(natural)
        n, components = len(natural), self.density.lookup.components
        if appearance.shape != (n, components) or trust.shape != (n,):
            raise ValueError(
                f"appearance has shape {tuple(appearance.shape)} and trust {tuple(trust.shape)}; "
                f"want ({n}, {components}) and ({n},): the discriminants of the same photos."
            )
        if not torch.isfinite(appearance).all():
            raise ValueError("appearance holds values that are not finite; are the embeddings?")
        if not ((trust >= 0.0) & (trust <= 1.0)).all():
            raise ValueError(f"trust goes from {trust.min()} to {trust.max()}; want 0 to 1.")
        return natural, appearance.to(natural), trust.to(natural)

    @staticmethod
    def _parts(natural: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
        at_once = max(1, PHOTOS_AT_ONCE // natural.shape[1])
        return list(in_cache(at_once, natural, *others))

    def _decoded(
        self, areas: Partitions | None, natural: Tensor, appearance: Tensor, trust: Tensor
    ) -> GeotagColumns:
        nodes, places = self.laid(natural, appearance, trust)
        rings, beyond, log_z = self.density.normalised(nodes)
        answer, others = self.answer(rings, nodes), places[:, 1:]
        here = self.density.log_density_at(nodes, log_z, answer[:, None])[:, 0]
        config, land = self.decoder.config, self.decoder.tables.land

        def columns(some: NodeMasses, row: Tensor) -> GeotagColumns:
            return some.columns(
                answer[row], others[row], land, config.radius_km, config.modes, here[row]
            )

        # Most photos have no mass beyond the rings, and need none of the grid's nodes.
        much = beyond.mass.sum(1) > NEGLIGIBLE
        far = nodes.far[much]
        near = torch.ones(len(natural), dtype=torch.bool, device=natural.device)
        near[far] = False
        rows = torch.nonzero(near)[:, 0]
        parts = []
        if len(rows):
            parts.append(columns(rings.take(rows), rows))
        if len(far):
            parts.append(columns(rings.take(far).joined(beyond.take(much)), far))
        order = torch.cat([rows, far]).argsort().cpu().numpy()
        found = GeotagColumns.joined(parts).take(order)
        if areas is None:
            return found
        points = self._area_points(nodes, answer, beyond, log_z)
        return replace(found, areas=areas.columns(points))

    @functools.cached_property
    def _area_points(self) -> FusedPoints:
        return FusedPoints(self.density).to(self.density.radius_km.device)

    def answer(self, rings: NodeMasses, nodes: Nodes) -> Tensor:
        """Decides the answers ``(N, 3)`` by the rule of expected thresholds."""
        ball = rings.most_within(nodes.peak, self.decoder.config.radius_km)
        top = rings.log_density.topk(CANDIDATES * THINNED, 1).indices[:, ::THINNED]
        densest = rings.vectors.gather(1, top[..., None].expand(-1, -1, 3))
        points = torch.cat([ball[:, None], densest], 1)
        best = rings.most_thresholds(points)
        return points[torch.arange(len(best), device=best.device), best]
