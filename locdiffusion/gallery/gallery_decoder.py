r"""Answers from a density and a gallery together: one p', one point, one set of radii.

p' = β p_G + (1 - β) p (`locdiffusion.gallery.place_mixture`) has parts of a kilometre and parts of
a continent, so it is laid out on nodes (`locdiffusion.decoding.node_masses`): each place with discs
that stand for its kernels, the likeliest nodes of the decoder's fine grid, and what is left of the
grid in blocks. The answer is the point that is expected to meet most of the thresholds of
`schemas.geotags.THRESHOLDS_KM`, of the likeliest places, of the highest nodes of the density, and
of the means around them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.area_masses import GridCells, Partitions, PointBlock, WeightedPoints
from locdiffusion.decoding.area_points import at_answers
from locdiffusion.decoding.credible_regions import CredibleRegion, RegionFinder
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.node_masses import NodeMasses
from locdiffusion.decoding.peaks import spread_maxima
from locdiffusion.density.base_measure import EXCLUDED, LandShare
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.gallery.gallery_regions import mixed
from locdiffusion.gallery.place_mixture import KERNELS_KM, PlaceMixture, PlaceWeights
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

PHOTOS_AT_ONCE = 16
"""Photos whose nodes are in memory together."""

NODES, BLOCK = 768, 4
"""Nodes of the fine grid that stand alone; the others are joined in blocks of 4 x 4."""

DISCS = (1.386, 2.322)
"""Radii of the discs that stand for a Gaussian of deviation 1, half of its mass each: it is a
mixture of discs whose R²/2 has the Gamma(2) distribution, here at the quartiles."""

TYPICAL = 1.414
"""Distance at which the log density of a Gaussian of deviation 1 has its mean."""

CROWD = 32
"""Places whose densities add up where they are near each other, for the information."""

PEAKS, PLACES = 4, 24
"""Peaks of the density and places that are candidates."""

REPORTED = 8
"""Likeliest places that may be reported as other modes."""

AROUND_KM = (25.0, 200.0, 750.0)
"""The means of the mass within these distances of a candidate are candidates too."""

DECIDING = 2048
"""Heaviest nodes, from which the best candidate is chosen."""

TINY = 1e-300
"""Mass of a node that has none, where its logarithm is taken."""


class GalleryDecoder:
    """Decodes densities of degree L together with a gallery; all but the densities is on the CPU.

    Args:
        decoder: Decoder of the density alone.
        mixture: Places of the gallery, and how they are mixed with the density.
    """

    def __init__(self, decoder: Decoder, mixture: PlaceMixture) -> None:
        self.decoder, self.mixture = decoder, mixture
        tables = decoder.tables
        rows = tables.grid.rows
        self._nodes, self._area = tables.grid.nodes.cpu().double(), tables.area.cpu().double()
        self._log_area, self._land = self._area.float().log(), LandShare()
        self._land_share = tables.land_share.cpu()
        blocks = _blocked((self._area[:, None] * self._nodes).T, rows).T
        self._block_nodes = torch.nn.functional.normalize(blocks, dim=1)
        self._block_area = _blocked(self._area[None], rows)[0]
        self._log_spacing = mixture.log_spacing_at(self._nodes)
        self._node = torch.from_numpy(
            cKDTree(self._nodes.numpy()).query(mixture.vectors.numpy())[1]
        )
        allowed = tables.log_q0_at(mixture.vectors.to(tables.area)).cpu() > EXCLUDED
        self._log_allowed = torch.where(allowed, 0.0, -math.inf)

    @torch.inference_mode()
    def __call__(
        self, natural: Tensor, queries: Tensor, areas: Partitions | None = None
    ) -> GeotagColumns:
        """Answers a batch.

        Args:
            natural: Natural parameters ``(N, K, d)``; the K densities of a photo are mixed.
            queries: Image embeddings, unit vectors ``(N, E)``.
            areas: Areas whose masses are wanted; None wants none.

        Raises:
            ValueError: The shape does not fit the degree, or a value is not finite.
        """
        natural = self.decoder.tables.checked(natural)
        if not len(natural):
            return GeotagColumns.empty()
        starts = range(0, len(natural), PHOTOS_AT_ONCE)
        rows = [slice(start, start + PHOTOS_AT_ONCE) for start in starts]
        parts = [self._decoded(natural[r], queries[r].cpu(), areas) for r in rows]
        return GeotagColumns.joined(parts)

    @torch.inference_mode()
    def log_probability(
        self, natural: Tensor, queries: Tensor, vectors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Evaluates log p' of one point per photo.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            queries: Image embeddings, unit vectors ``(N, E)``.
            vectors: Unit vectors of the points, ``(N, 3)``.

        Returns:
            Nats against the uniform probability of the sphere, ``(N,)``.
        """
        weights = self.weighed(natural, queries)
        alone = torch.from_numpy(self.decoder.tables.log_probability(natural, vectors))
        of_places = self.mixture.log_density(weights, torch.from_numpy(vectors)[:, None])[:, 0]
        both = torch.logaddexp(weights.log_share + of_places, weights.log_rest + alone)
        return both.numpy()

    @torch.inference_mode()
    def mixed(self, log_p: Tensor, natural: Tensor, query: Tensor, places: Tensor) -> Tensor:
        """Computes log p' of one photo where log p is known.

        Args:
            log_p: Log p at the points, ``(P,)``.
            natural: Natural parameters of the photo, ``(K, d)``.
            query: Image embedding of the photo, a unit vector ``(E,)``.
            places: Unit vectors of the points in float64, ``(P, 3)``.
        """
        weights = self.weighed(natural[None], query[None])
        of_places = self.mixture.log_density(weights, places[None])[0]
        return torch.logaddexp(weights.log_share + of_places, weights.log_rest + log_p.cpu())

    @torch.inference_mode()
    def regions(
        self, finder: RegionFinder, natural: Tensor, queries: Tensor
    ) -> list[tuple[CredibleRegion, ...]]:
        """Draws the credible regions of N photos.

        Args:
            finder: Finder of regions over the same base measure.
            natural: Natural parameters ``(N, K, d)``.
            queries: Image embeddings, unit vectors ``(N, E)``.
        """
        found = []
        for i, one in enumerate(natural.float().cpu()):
            weights = self.weighed(natural[i : i + 1], queries[i : i + 1])
            found.append(finder.regions(mixed(finder.mesh.measure(one), self.mixture, weights)))
        return found

    def weighed(self, natural: Tensor, queries: Tensor) -> PlaceWeights:
        """Weighs the places for densities ``(N, K, d)`` and image embeddings ``(N, E)``."""
        return self.mixture.weighed(queries.cpu(), *self._compared(self._log_density(natural)))

    @torch.inference_mode()
    def seen(self, natural: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Returns what `PlaceMixture.weighed` takes of densities ``(N, K, d)``."""
        return self._compared(self._log_density(self.decoder.tables.checked(natural)))

    def _decoded(self, natural: Tensor, queries: Tensor, areas: Partitions | None) -> GeotagColumns:
        log_p = self._log_density(natural)
        weights = self.mixture.weighed(queries, *self._compared(log_p))
        density = self._density_nodes(log_p, weights)
        places = self._place_nodes(weights)
        nodes = places.joined(density)
        heaviest = _heaviest(nodes, DECIDING)
        candidates = self._candidates(weights, heaviest, density)
        best = heaviest.most_thresholds(candidates)
        answer = candidates[torch.arange(len(best)), best]
        config = self.decoder.config
        others = candidates[:, : PEAKS + REPORTED]
        columns = nodes.columns(answer, others, self._land, config.radius_km, config.modes)
        columns = columns.with_totals(*self._totals(log_p, weights, places))
        if areas is None:
            return columns
        points = self._area_points(log_p, weights, places, answer)
        return replace(columns, areas=areas.columns(points))

    def _area_points(
        self, log_p: Tensor, weights: PlaceWeights, places: NodeMasses, answer: Tensor
    ) -> WeightedPoints:
        """Lays the discs of the places out as points, and (1 - β) p on all cells of the grid."""
        everyone = torch.arange(len(answer))
        vectors, mass = places.points()
        radius = places.radius_km.expand_as(places.mass) / (2.0 * EARTH_RADIUS_KM)
        count = mass.shape[1] // places.mass.shape[1]
        share = (radius.square() / count).repeat_interleave(count, 1)
        blocks = [at_answers(answer), PointBlock(everyone, vectors, mass, share)]
        on_grid = (log_p + self._log_area + weights.log_rest[:, None]).exp()
        return WeightedPoints(len(answer), blocks, everyone, on_grid, self._cells)

    @functools.cached_property
    def _cells(self) -> GridCells:
        tables = self.decoder.tables
        return GridCells(tables.grid, tables.base_measure)

    def _totals(
        self, log_p: Tensor, weights: PlaceWeights, places: NodeMasses
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sums up information and land, of the density on all nodes of the grid."""
        rest = weights.log_rest.exp()
        mass = (log_p + self._log_area).exp() * rest[:, None]
        information = torch.linalg.vecdot(
            mass, log_p.clamp(min=FLOOR)
        ) + rest * weights.log_rest.clamp(min=FLOOR)
        information = information + torch.linalg.vecdot(places.mass, places.log_density)
        on_land = torch.linalg.vecdot(places.mass, self._land(places.vectors).double())
        on_land = on_land + mass @ self._land_share
        nats = information.clamp(min=0.0).float().numpy()
        return nats, on_land.clamp(0.0, 1.0).float().numpy()

    def _log_density(self, natural: Tensor) -> Tensor:
        """Computes log p ``(N, nodes)`` on the fine grid, where its masses sum to 1."""
        log_p = self.decoder.tables.log_density(natural).flatten(1).cpu()
        return log_p - torch.logsumexp(log_p + self._log_area, 1, keepdim=True)

    def _compared(self, log_p: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Returns what `PlaceMixture.weighed` takes of log densities on the grid."""
        mass = (log_p + self._log_area).exp()
        information = torch.linalg.vecdot(mass, log_p.clamp(min=FLOOR))

        def at_places(index: Tensor) -> Tensor:
            return log_p.gather(1, self._node[index]) + self._log_allowed[index]

        return at_places, torch.stack([information, mass @ self._log_spacing], 1)

    def _place_nodes(self, weights: PlaceWeights) -> NodeMasses:
        """Lays β p_G out: discs around each place for each kernel."""
        radius = torch.tensor([disc * km for km in KERNELS_KM for disc in DISCS]).double()
        log_kernel = self.mixture.log_kernel[weights.index].double() - math.log(len(DISCS))
        log_kernel = log_kernel.repeat_interleave(len(DISCS), 2)
        log_mass = (weights.log_weight + weights.log_share[:, None]).double()[
            ..., None
        ] + log_kernel
        log_density = log_mass - torch.log((radius / (2.0 * EARTH_RADIUS_KM)) ** 2)
        vectors = self.mixture.vectors[weights.index]
        near = vectors[:, :CROWD]
        crowded = [
            self.mixture.log_density(weights, near, TYPICAL * km, CROWD) for km in KERNELS_KM
        ]
        together = torch.stack(crowded, 2) + weights.log_share[:, None, None]
        log_density[:, :CROWD] = together.repeat_interleave(len(DISCS), 2)
        count, places, discs = log_mass.shape
        return NodeMasses(
            vectors[:, :, None].expand(-1, -1, discs, -1).reshape(count, places * discs, 3),
            log_mass.exp().flatten(1),
            log_density.flatten(1),
            radius.repeat(places)[None],
        )

    def _density_nodes(self, log_p: Tensor, weights: PlaceWeights) -> NodeMasses:
        """Lays (1 - β) p out: the likeliest nodes of the fine grid, then blocks of the others."""
        mass = (log_p + self._log_area + weights.log_rest[:, None]).double().exp()
        alone, node = mass.topk(NODES)
        left = _blocked(mass.scatter(1, node, 0.0), self.decoder.tables.grid.rows)
        count = len(left)
        area = torch.cat([self._area[node], self._block_area.expand(count, -1)], 1)
        vectors = torch.cat([self._nodes[node], self._block_nodes.expand(count, -1, -1)], 1)
        mass = torch.cat([alone, left], 1)
        log_density = (mass.clamp(min=TINY) / area).log()
        return NodeMasses(vectors, mass, log_density, 2.0 * EARTH_RADIUS_KM * area.sqrt())

    def _candidates(self, weights: PlaceWeights, nodes: NodeMasses, density: NodeMasses) -> Tensor:
        """Gathers points ``(N, M, 3)`` that may meet most of the thresholds."""
        places = self.mixture.vectors[weights.index[:, :PLACES]]
        likely = density.vectors[:, :NODES]
        apart = AROUND_KM[-1] / EARTH_RADIUS_KM
        chosen = spread_maxima(likely, density.mass[:, :NODES], PEAKS, apart)
        peaks = likely.gather(1, chosen[..., None].expand(-1, -1, 3))
        starts = [places[:, 0], peaks[:, 0]]
        means = [nodes.most_within(start, km) for start in starts for km in AROUND_KM]
        return torch.cat([peaks, places, torch.stack(means, 1)], 1)


def _heaviest(nodes: NodeMasses, count: int) -> NodeMasses:
    """Keeps the `count` nodes of each photo that have most mass."""
    mass, node = nodes.mass.topk(min(count, nodes.mass.shape[1]))
    radius = nodes.radius_km.expand_as(nodes.mass)
    log_density, radius = (part.gather(1, node) for part in (nodes.log_density, radius))
    vectors = nodes.vectors.gather(1, node[..., None].expand(-1, -1, 3))
    return NodeMasses(vectors, mass, log_density, radius)


def _blocked(values: Tensor, rows: int) -> Tensor:
    """Sums values ``(N, nodes)`` of a grid with so many rows in blocks, ``(N, blocks)``."""
    columns = values.shape[1] // rows
    blocks = values.view(len(values), rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return blocks.sum((2, 4)).flatten(1)
