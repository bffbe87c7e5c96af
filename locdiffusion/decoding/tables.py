"""Tables for densities of degree L over a base measure q₀, and the densities' normalisation.

Everything that evaluates densities of one degree over one base measure shares one `DecoderTables`.
They do not depend on the radius ρ of the answers; `locdiffusion.decoding.decoder.Decoder` adds what
does, which is a small part of the work.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.coarse_search import CoarseSearch, Densities, Mixtures
from locdiffusion.decoding.distance_profile import far_spread, ring_grids
from locdiffusion.density.base_measure import BaseMeasure, LandShare
from locdiffusion.density.log_partition import FLOOR, mixed_log
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    RingTransform,
    register_table,
)
from locdiffusion.sphere.grids import LatLonGrid, gauss_legendre_grid

SPHERES_AT_ONCE = 16
"""How many densities a CPU integrates together over the whole sphere."""


class DecoderTables(nn.Module):
    """Evaluates and normalises densities; holds tables and no learned parameter.

    Attributes:
        max_degree: Degree L of the densities.
        base_measure: Base measure q₀ of the densities; None is the uniform measure.
        grid: Fine product grid over the whole sphere.
        spacing: Spacing of its rows in radians.
        rotation: Rotation of degree L.
        search: Coarse search of the densities.
        inner, middle, outer: Rings around an answer in the zones of `distance_profile.ZONES_KM`.
        land: Share of land at any point.
        land_share: Share of q₀ that is on land in the cell of each node, ``(nodes,)``.
        far_spread: Table of `distance_profile.far_masses` for the fine grid.
        q0_centroids: Centroid of q₀ in the cell of each node, ``(nodes, 3)``; None unless q₀
            excludes places.
    """

    area: Tensor
    log_q0: Tensor
    land_share: Tensor
    far_spread: Tensor
    q0_centroids: Tensor | None

    def __init__(self, max_degree: int, base_measure: BaseMeasure | None = None) -> None:
        """Builds the tables for degree L over a base measure q₀; None is the uniform measure."""
        super().__init__()
        self.max_degree, self.base_measure = max_degree, base_measure
        rows = 4 * (max_degree + 1) + 16
        self.spacing = math.pi / rows
        grid = gauss_legendre_grid(rows, 2 * rows)
        thin = LatLonGrid(grid.cos_theta[::2], grid.longitude[::2], 4.0 * grid.row_weight[::2])
        self.grid = ProductTransform(grid, max_degree)
        self.rotation = PoleRotation(max_degree)
        self.search = CoarseSearch(thin, self.rotation, self.spacing, base_measure)
        self.inner, self.middle, self.outer = (
            RingTransform(rings, max_degree) for rings in ring_grids()
        )
        self.land = LandShare()
        register_table(self, "area", grid.weights / (4.0 * math.pi))
        register_table(self, "land_share", self.land.on_grid(grid, base_measure))
        register_table(self, "far_spread", far_spread(self.spacing))
        log_q0, centroids = torch.zeros(len(self.grid.nodes)), None
        if base_measure is not None:
            log_q0 = base_measure.on_grid(grid).cpu()
            centroids = base_measure.centroids(grid).cpu() if base_measure.excludes else None
        self.register_buffer("log_q0", log_q0, persistent=False)
        self.register_buffer("q0_centroids", centroids, persistent=False)

    def log_q0_at(self, vectors: Tensor) -> Tensor:
        """Looks log q₀ ``(...)`` up at unit vectors ``(..., 3)``."""
        if self.base_measure is None:
            return torch.zeros_like(vectors[..., 0])
        log_q0: Tensor = self.base_measure(vectors)
        return log_q0

    @torch.inference_mode()
    def log_density(self, natural: Tensor) -> Tensor:
        """Evaluates log p of mixtures on the fine grid.

        Args:
            natural: Natural parameters ``(N, K, d)``.

        Returns:
            Nats against the uniform probability of the sphere, ``(N, rows, columns)``. Rows are
            Gauss-Legendre latitudes from north to south, columns start at longitude 0.
        """
        mixtures = self._everywhere(self.checked(natural))
        return mixtures.log_density.view(-1, self.grid.rows, self.grid.columns)

    @torch.inference_mode()
    def log_probability(self, natural: Tensor, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluates log p of one point per photo.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            vectors: Unit vectors of the points, ``(N, 3)``.

        Returns:
            Nats against the uniform probability of the sphere, ``(N,)``.
        """
        natural = self.checked(natural)
        log_z = self._everywhere(natural).log_z
        code = torch.from_numpy(encode_vectors(vectors, self.max_degree)).to(self.grid.nodes)
        # log p = log q₀ + log (1/K) Σ_k exp(F_k - log Z_k)
        field = torch.einsum("nkd,nd->nk", natural, code)
        log_density = mixed_log((field - log_z)[..., None]).squeeze(-1)
        log_density = log_density + self.log_q0_at(torch.from_numpy(vectors).to(self.grid.nodes))
        return log_density.double().cpu().numpy()

    @torch.inference_mode()
    def log_normaliser(self, natural: Tensor) -> Tensor:
        """Returns log Z ``(N, K)`` of densities ``(N, K, d)`` over the base measure."""
        return self._everywhere(self.checked(natural)).log_z

    def checked(self, natural: Tensor) -> Tensor:
        """Returns natural parameters ``(N, K, d)`` on the tables' device, in their precision.

        Raises:
            ValueError: The shape does not fit the degree, or a value is not finite.
        """
        dimension = (self.max_degree + 1) ** 2
        if natural.ndim != 3 or natural.shape[-1] != dimension:
            raise ValueError(
                f"natural has shape {tuple(natural.shape)}; want (photos, samples, {dimension}) "
                f"for L = {self.max_degree}."
            )
        if not torch.isfinite(natural).all():
            raise ValueError("natural holds values that are not finite; is the checkpoint broken?")
        return natural.to(self.grid.nodes)

    def _everywhere(self, natural: Tensor) -> Mixtures:
        everyone = torch.arange(len(natural), device=natural.device)
        return self.mixtures(natural, self.search(natural, 1), everyone)

    def mixtures(self, natural: Tensor, densities: Densities, wide: Tensor) -> Mixtures:
        """Normalises densities.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            densities: What the coarse search found.
            wide: Photos to integrate over the whole sphere, ``(W,)``; the mass of the others lies
                within the rings of the coarse search.
        """
        log_z = densities.log_near.clone()
        log_density = log_z.new_empty(len(wide), len(self.area))
        mass = torch.empty_like(log_density)
        peak = densities.peaks.vectors[:, 0].view(*log_z.shape, 3)
        for part, *out in in_cache(SPHERES_AT_ONCE, wide, log_density, mass):
            log_z[part] = self._sphere(natural[part], log_z[part], peak[part], *out)
        return Mixtures(densities.by_degree, log_z, wide, log_density, mass)

    def _sphere(
        self, natural: Tensor, log_near: Tensor, peak: Tensor, log_density: Tensor, mass: Tensor
    ) -> Tensor:
        """Returns log Z ``(n, K)`` and fills `log_density` and `mass` ``(n, nodes)`` in."""
        n, k, _ = natural.shape
        # log q₀ + F, and q₀ exp F dΩ / 4π over the highest
        field = self.grid.synthesis(natural.flatten(0, 1)).flatten(1).add_(self.log_q0)
        highest = field.amax(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_().mul_(self.area)
        # Z: the rings around the highest peak, the grid beyond them
        outside = (peak.flatten(0, 1) @ self.grid.nodes.T).le_(math.cos(self.search.radius))
        log_far = torch.linalg.vecdot(weight, outside).log() + highest
        log_z = torch.logaddexp(log_near, log_far.view(n, k))
        if k == 1:
            torch.sub(field, log_z, out=log_density)
            torch.mul(weight, (highest[:, None] - log_z).exp(), out=mass)
        else:
            log_density.copy_(mixed_log(field.view(n, k, -1).sub_(log_z[..., None])))
            torch.mul(log_density.clamp(min=FLOOR).exp_(), self.area, out=mass)
        return log_z
