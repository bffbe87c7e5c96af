r"""Mode seeking: from densities to points, radii, probabilities and alternatives.

The answer is the point y whose neighbourhood of radius ρ holds most probability, nearer mass
counting more (an Epanechnikov kernel on the chord \|z - y\|, c = 2 sin(ρ/2)):

    score(y) = ∫ p(z) · (1 - \|z - y\|²/c²)₊ dΩ(z) / 4π

The paper decodes by mode seeking; this kernel is our choice, because its derivatives are sums over
the same nodes (`locdiffusion.peaks.ScoreKernel`). ρ → 0 gives the highest peak; a larger ρ answers
"within ρ km" better. Coarse to fine:

1. fields on a product grid, one batched product; Newton's method on their highest nodes gives
   peaks, and the grid's mass, convolved with the kernel, a coarse map of the score itself;
2. around a point, everything is measured in a frame with that point at the pole (a rotation of
   coefficients), where fixed tables hold rings: log Z around the highest peak, score, slope and
   curvature of each candidate, Newton's method on the score from the best one;
3. the winner's rings, and the grid beyond them, give the distribution of the distance.

A photo may have K densities (samples of the diffusion); they are mixed with equal weight. Peaks
other than the highest that are narrower than half the grid's spacing (a standard deviation of 70 km
at L = 31) are integrated by the grid, to some per cent of their mass.
The tests hold all this against the plain version on a dense grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.density import FLOOR, GeotagColumns, distinct_modes, log_sum_exp, mixed_log
from locdiffusion.peaks import (
    Ascent,
    Peaks,
    ScoreKernel,
    climb,
    highest_nodes,
    kernel_spectrum,
    neighbourhood_mass,
    panel_edges,
    spread_maxima,
    walked,
)
from locdiffusion.prior import BaseMeasure, LandShare
from locdiffusion.radial import CAP_KM, RadialProfile, far_spread, ring_grids
from locdiffusion.shdd import encode_vectors
from locdiffusion.spectral import PoleRotation, ProductTransform, pole_frame
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.grids import LatLonGrid, gauss_legendre_grid, polar_grid
from locdiffusion.sphere.harmonics import degrees_and_orders
from schemas.geotags import THRESHOLDS_KM

CPU_BATCH = 32
"""Photos decoded together on a CPU: more no longer fit its caches and take longer each."""

CONVERGED = 3e-7
"""The share of the score that a step must promise to be tried; float32 sees no less."""


@dataclass(frozen=True)
class DecodeConfig:
    """How densities become answers.

    Attributes:
      radius_km: ρ, chosen on validation data.
      modes: how many places are reported at most, the answer included.
      candidates: how many peaks are scored.
      shifts: Newton steps from the best candidates, at most.
    """

    radius_km: float = 100.0
    modes: int = 3
    candidates: int = 6
    shifts: int = 8

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 1.0 <= self.radius_km <= 5000.0:
            raise ValueError(f"radius_km is {self.radius_km}; want 1 to 5000 km.")
        if min(self.modes, self.candidates, self.shifts) < 1:
            raise ValueError(f"modes, candidates and shifts must be at least 1: {self}.")


@dataclass(frozen=True)
class _Densities:
    """The densities of N photos.

    Attributes:
      natural: ``(N, K, d)``.
      log_z: ``(N, K)``.
    """

    natural: Tensor
    log_z: Tensor

    def of(self, photo: Tensor) -> _Densities:
        """Those of some photos, by index."""
        return _Densities(self.natural[photo], self.log_z[photo])


@dataclass(frozen=True)
class _Mixture(_Densities):
    """The same, and their mixtures on the decoder's grid.

    Attributes:
      log_density: ``(N, nodes)`` of the mixture, on the decoder's grid.
      mass: ``(N, nodes)`` probability of each node.
    """

    log_density: Tensor
    mass: Tensor


class Decoder(nn.Module):
    """Decodes batches of natural parameters of degree L; holds tables, no learned parameter."""

    area: Tensor
    smoothing: Tensor
    far_spread: Tensor
    log_base: Tensor
    land_share: Tensor
    footholds: Tensor | None

    def __init__(
        self,
        max_degree: int,
        config: DecodeConfig | None = None,
        base: BaseMeasure | None = None,
    ) -> None:
        """Builds the tables.

        Args:
          max_degree: L.
          config: how densities become answers.
          base: q₀ of the densities; None is the uniform measure.
        """
        super().__init__()
        self.config = config or DecodeConfig()
        self.max_degree = max_degree
        self.radius = self.config.radius_km / EARTH_RADIUS_KM
        rows = 4 * (max_degree + 1) + 16
        grid = gauss_legendre_grid(rows, 2 * rows)
        thin = LatLonGrid(grid.cos_theta[::2], grid.longitude[::2], 4.0 * grid.row_weight[::2])
        self.grid = ProductTransform(grid, max_degree)
        self.thin = ProductTransform(thin, max_degree)
        self.base = base
        log_base = torch.zeros(len(self.grid.nodes)) if base is None else base.on_grid(grid).cpu()
        self.register_buffer("log_base", log_base, persistent=False)
        footholds = None if base is None or not base.excludes else base.footholds(grid).cpu()
        self.register_buffer("footholds", footholds, persistent=False)
        self.land = LandShare()
        self._table("land_share", self.land.on_grid(grid, base))
        self._table("area", grid.weights / (4.0 * math.pi))
        self.rotation = PoleRotation(max_degree)
        # No density of this degree is narrower than that of an exact code, 2/d radians.
        finest, self.spacing = 6.0 / (max_degree + 1) ** 2, math.pi / rows
        self.kernel = ScoreKernel(self.radius, finest, self.spacing)
        self.disc = ProductTransform(self.kernel.grid, max_degree)
        self.cap = 8.0 * self.spacing
        around_peak = polar_grid(panel_edges(self.cap, finest, 4.0 * self.spacing), 4, 48)
        self.peak_rings = ProductTransform(around_peak, max_degree)
        inner, outer = ring_grids()
        self.inner = ProductTransform(inner, max_degree)
        self.outer = ProductTransform(outer, max_degree)
        self._table("far_spread", far_spread(self.spacing))
        degree, _ = degrees_and_orders(max_degree)
        width = max(self.radius, 2.0 / (max_degree + 1))
        self._table("smoothing", kernel_spectrum(width, max_degree)[degree])

    def _table(self, name: str, value: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    @torch.inference_mode()
    def forward(self, natural: Tensor) -> GeotagColumns:
        """Answers for a batch.

        Args:
          natural: ``(N, K, d)`` natural parameters; the K densities of a photo are mixed.

        Returns:
          Columns of N rows.

        Raises:
          ValueError: the shape does not fit the degree, or a value is not finite.
        """
        natural = self._checked(natural)
        if not len(natural):
            none = np.zeros(0)
            share, nats = np.zeros((0, len(THRESHOLDS_KM)), np.float32), np.zeros(0, np.float32)
            return GeotagColumns(none, none, none, none, share, nats, nats, [])
        size = CPU_BATCH if natural.device.type == "cpu" else len(natural)
        return GeotagColumns.joined([self._decoded(part) for part in natural.split(size)])

    def _decoded(self, natural: Tensor) -> GeotagColumns:
        mixture, peaks = self._mixture(natural)
        candidates = self._candidates(mixture, peaks)
        ascent = self._ascent(mixture, candidates)
        places, ascent = self._climbed(mixture, candidates, ascent)
        profile, information, on_land = self._profile(mixture, places[:, 0])
        latitude, longitude = latitude_longitude(places[:, 0].double().cpu().numpy())
        mass = ascent.mass.double().cpu().numpy().clip(0.0, 1.0)
        return GeotagColumns(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=profile.quantile_km(0.5),
            radius_90_km=profile.quantile_km(0.9),
            probability=profile.threshold_probability(),
            information_nats=information,
            land_probability=on_land,
            modes=[
                distinct_modes(*row, self.config.radius_km, self.config.modes)
                for row in zip(places.double().cpu().numpy(), mass, strict=True)
            ],
        )

    @torch.inference_mode()
    def log_density(self, natural: Tensor) -> Tensor:
        """Log density of the mixture on the decoder's own grid.

        Args:
          natural: ``(N, K, d)``.

        Returns:
          ``(N, rows, columns)`` log p against the uniform probability of the sphere; rows are
          Gauss-Legendre latitudes from north to south, columns start at longitude 0.
        """
        mixture, _ = self._mixture(self._checked(natural))
        return mixture.log_density.view(-1, self.grid.rows, self.grid.columns)

    @torch.inference_mode()
    def log_probability(self, natural: Tensor, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log density of one point per photo.

        Args:
          natural: ``(N, K, d)``.
          vectors: ``(N, 3)`` unit vectors.

        Returns:
          ``(N,)`` nats against the uniform probability of the sphere.
        """
        mixture, _ = self._mixture(self._checked(natural))
        code = torch.from_numpy(encode_vectors(vectors, self.max_degree)).to(self.grid.nodes)
        field = torch.einsum("nkd,nd->nk", mixture.natural, code)
        log_density = mixed_log((field - mixture.log_z)[..., None]).squeeze(-1)
        log_density = log_density + self.log_base_at(torch.from_numpy(vectors).to(self.grid.nodes))
        return log_density.double().cpu().numpy()

    def _checked(self, natural: Tensor) -> Tensor:
        dimension = (self.max_degree + 1) ** 2
        if natural.ndim != 3 or natural.shape[-1] != dimension:
            raise ValueError(
                f"natural has shape {tuple(natural.shape)}; want (photos, samples, {dimension}) "
                f"for L = {self.max_degree}."
            )
        if not torch.isfinite(natural).all():
            raise ValueError("natural holds values that are not finite; is the checkpoint broken?")
        return natural.to(self.grid.nodes)

    def _mixture(self, natural: Tensor) -> tuple[_Mixture, Peaks]:
        """The mixture, and the peaks of its N·K densities."""
        n, k, _ = natural.shape
        flat = natural.flatten(0, 1)
        field = self.grid.synthesis(flat)
        value, index = highest_nodes(field[:, ::2, ::2], self.config.candidates)
        peaks = climb(flat, self.thin.nodes[index], value, self.rotation, 2.0 * self.spacing)
        log_z = self._log_z(flat, field.flatten(1), peaks.vectors[:, 0]).view(n, k)
        log_density = mixed_log(field.view(n, k, -1) - log_z[..., None]) + self.log_base
        mass = log_density.clamp(min=FLOOR).exp() * self.area
        return _Mixture(natural, log_z, log_density, mass), peaks

    def _candidates(self, mixture: _Mixture, peaks: Peaks) -> Tensor:
        """``(N, M, 3)``: the best peaks of all K densities, and maxima of the coarse score.

        And where a prior that excludes most places has most, between the nodes as it may be.
        """
        n, k = mixture.log_z.shape
        pooled = peaks.vectors.reshape(n, -1, 3)
        # A peak of F just off the coast has its mass on the coast: do not count it for nothing.
        log_mass = peaks.log_mass + self.log_base_at(peaks.vectors).clamp(min=-2.0)
        share = (log_mass.view(n, k, -1) - mixture.log_z[..., None]).exp().reshape(n, -1)
        gathered = neighbourhood_mass(pooled, share, self.radius)
        best = spread_maxima(pooled, gathered, self.config.candidates, self.radius)
        chosen = pooled.gather(1, best[..., None].expand(-1, -1, 3))
        score = self.grid.analysis(mixture.mass.view(n, self.grid.rows, -1)) * self.smoothing
        _, broad = highest_nodes(self.thin.synthesis(score), 2)
        found = [chosen, self.thin.nodes[broad]]
        if self.footholds is not None:
            found.append(self.footholds[mixture.mass.topk(4).indices])
        return torch.cat(found, 1)

    def _log_z(self, natural: Tensor, field: Tensor, peak: Tensor) -> Tensor:
        """Rings around the highest peak, the grid beyond; ``(B,)``."""
        near = self.peak_rings.synthesis(self.rotation(natural, peak))
        near = (near + self.peak_rings.row_weight.log()[:, None]).flatten(1)
        near = log_sum_exp(near + self._log_base(peak, self.peak_rings))
        outside = peak @ self.grid.nodes.T <= math.cos(self.cap)
        field = field + self.log_base
        unit = field.amax(1)
        far = ((field - unit[:, None]).clamp_(min=FLOOR).exp_() * outside) @ self.area
        return torch.logaddexp(near - math.log(4.0 * math.pi), far.log() + unit)

    def log_base_at(self, vectors: Tensor) -> Tensor:
        """Log q₀ ``(...)`` at unit vectors ``(..., 3)``."""
        if self.base is None:
            return torch.zeros_like(vectors[..., 0])
        log_base: Tensor = self.base(vectors)
        return log_base

    def _log_base(self, centre: Tensor, rings: ProductTransform) -> Tensor | float:
        """Log q₀ ``(..., nodes)`` on rings around the pole, carried to centres ``(..., 3)``."""
        if self.base is None:
            return 0.0
        return self.log_base_at(_turned(rings, centre))

    def _around(
        self, densities: _Densities, centre: Tensor, *grids: ProductTransform
    ) -> list[Tensor]:
        """Density of the mixture on rings around points ``(N, M, 3)``: ``(N, M, nodes)`` each."""
        n, k, d = densities.natural.shape
        m = centre.shape[1]
        natural = densities.natural[:, None].expand(n, m, k, d).reshape(-1, d)
        at_pole = self.rotation(natural, centre[:, :, None].expand(n, m, k, 3).reshape(-1, 3))
        around = []
        for grid in grids:
            field = grid.synthesis(at_pole).view(n, m, k, -1)
            mixed = mixed_log(field - densities.log_z[:, None, :, None])
            around.append((mixed + self._log_base(centre, grid)).clamp(min=FLOOR).exp())
        return around

    def _ascent(self, densities: _Densities, centre: Tensor) -> Ascent:
        """Score, mass and uphill step of points ``(N, M, 3)``."""
        ascent: Ascent = self.kernel(*self._around(densities, centre, self.disc))
        return ascent

    def _climbed(
        self, mixture: _Mixture, candidates: Tensor, ascent: Ascent
    ) -> tuple[Tensor, Ascent]:
        """The best candidates moved to their maxima: ``(N, modes, 3)``, the best of all first."""
        # Far from a maximum the promise is a guess: count at most half of the score of it.
        promise = ascent.score + torch.minimum(ascent.gain, ascent.score / 2.0)
        chosen = spread_maxima(candidates, promise, self.config.modes, 4.0 * self.radius)
        row = torch.arange(len(chosen), device=chosen.device)[:, None]
        places, at = candidates[row, chosen], ascent.at(row, chosen)
        for _ in range(self.config.shifts):
            photo, mode = torch.nonzero(at.gain > CONVERGED * at.score, as_tuple=True)
            if not len(photo):
                break
            here, place = at.at(photo, mode), places[photo, mode]
            trial = walked(place, here.step)
            there = self._ascent(mixture.of(photo), trial[:, None]).at(slice(None), 0)
            better = there.score >= here.score * (1.0 - CONVERGED)
            places[photo, mode] = torch.where(better[:, None], trial, place)
            at.put(photo, mode, there.where(better, here.shortened()))
        # A last step on trust: the slope is known better than float32 can confirm by the score.
        small = at.gain <= CONVERGED * at.score
        places = torch.where(small[..., None], walked(places, at.step), places)
        order = at.score.argsort(1, descending=True)
        return places[row, order], at.at(row, order)

    def _profile(
        self, mixture: _Mixture, answer: Tensor
    ) -> tuple[RadialProfile, NDArray[np.float32], NDArray[np.float32]]:
        """Distribution of the distance from the answer, information in nats, mass on land."""
        mass = []
        knowledge, on_land = answer.new_zeros(2, len(answer))
        rings_of = (self.inner, self.outer)
        around = self._around(mixture, answer[:, None], *rings_of)
        for rings, density in zip(rings_of, around, strict=True):
            p = density.view(len(answer), -1, rings.columns)
            weight = rings.row_weight / (4.0 * math.pi)
            mass.append(p.sum(-1) * weight)
            knowledge += torch.xlogy(p, p).sum(-1) @ weight
            land = self.land(_turned(rings, answer)).view_as(p)
            on_land += (p * land).sum(-1) @ weight
        cos_distance = answer @ self.grid.nodes.T
        far = mixture.mass * (cos_distance < math.cos(CAP_KM / EARTH_RADIUS_KM))
        knowledge += (far * mixture.log_density).sum(1)
        on_land += far @ self.land_share
        near = torch.cat(mass, 1)
        # p was normalised around its peak; these nodes differ a little: make it sum to 1.
        total = near.sum(1) + far.sum(1)
        information = (knowledge / total - total.log()).clamp(min=0.0)
        profile = RadialProfile.from_masses(near, far, cos_distance, self.far_spread)
        return profile, information.float().cpu().numpy(), (on_land / total).float().cpu().numpy()


def _turned(rings: ProductTransform, centre: Tensor) -> Tensor:
    """Nodes on rings around the pole carried to centres ``(..., 3)``: ``(..., nodes, 3)``."""
    return rings.nodes @ pole_frame(centre).transpose(-1, -2)
