r"""Mode seeking: from densities to points, radii, probabilities and alternatives.

The answer is the point y whose neighbourhood of radius ρ holds most probability, nearer mass
counting more (an Epanechnikov kernel on the chord \|z - y\|, c = 2 sin(ρ/2)):

    score(y) = ∫ p(z) · (1 - \|z - y\|²/c²)₊ dΩ(z) / 4π

The paper decodes by mode seeking; this kernel is our choice, because its derivatives are sums over
the same nodes (`locdiffusion.decoding.mode_seeking.ScoreKernel`). ρ → 0 gives the highest peak; a
larger ρ answers "within ρ km" better. Coarse to fine:

1. fields on a thin product grid, one batched product; Newton's method on their highest nodes gives
   peaks, and rings around the highest one its mass (`locdiffusion.decoding.coarse_search`). Only
   where there is mass beyond these rings a grid twice as fine is laid over the whole sphere; its
   mass, convolved with the kernel, is a coarse map of the score itself;
2. around a point, everything is measured in a frame with that point at the pole (a rotation of
   coefficients), where fixed tables hold rings: score, slope and curvature of each candidate,
   Newton's method on the score from the best ones;
3. finer rings around the winner, and the grid where there is one, give the distribution of the
   distance; the same rings say how far it is from the top, and it goes there
   (`locdiffusion.decoding.answer_rings`).

A photo may have K densities (samples of the diffusion); they are mixed with equal weight. Peaks
other than the highest that are narrower than half the grid's spacing (a standard deviation of 70 km
at L = 31) are integrated by the grid, to some per cent of their mass.
The tests hold all this against the plain version on a dense grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.answer_rings import SPHERES, VicinityRings
from locdiffusion.decoding.answers import LEAST_MODE, GeotagColumns, distinct_modes
from locdiffusion.decoding.coarse_search import Densities, Mixtures, Survey
from locdiffusion.decoding.mode_seeking import Ascent, ScoreKernel, climb_score, kernel_spectrum
from locdiffusion.decoding.peaks import (
    finest_panel,
    highest_nodes,
    neighbourhood_mass,
    spread_maxima,
)
from locdiffusion.density.base_measure import BaseMeasure, LandShare
from locdiffusion.density.log_partition import FLOOR, mixed_log
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.density.transforms import (
    PoleRotation,
    ProductTransform,
    RingTransform,
    register_table,
)
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.grids import LatLonGrid, gauss_legendre_grid
from locdiffusion.sphere.harmonics import degrees_and_orders

DENSITIES, POINTS = 256, 256
"""Decoded together on a CPU, and places whose surroundings are summed together."""

NARROW = 0.25
"""The part of ρ below which a density is so narrow that its mean is the answer, nearly."""

UNLIKELY = 1e-3
"""The share of the most mass around a peak below which another peak is not looked at."""

HOPELESS = 0.5
"""The share of the best promise below which a place is climbed from only as another mode."""


@dataclass(frozen=True)
class DecodeConfig:
    """How densities become answers.

    Attributes:
        radius_km: ρ, chosen on validation data.
        modes: How many places are reported at most, the answer included.
        candidates: How many peaks are scored.
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


class Decoder(nn.Module):
    """Decodes batches of natural parameters of degree L; holds tables, no learned parameter."""

    area: Tensor
    smoothing: Tensor
    log_base: Tensor
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
            config: How densities become answers.
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
        self.base = base
        log_base = torch.zeros(len(self.grid.nodes)) if base is None else base.on_grid(grid).cpu()
        self.register_buffer("log_base", log_base, persistent=False)
        footholds = None if base is None or not base.excludes else base.footholds(grid).cpu()
        self.register_buffer("footholds", footholds, persistent=False)
        register_table(self, "area", grid.weights / (4.0 * math.pi))
        self.rotation = PoleRotation(max_degree)
        spacing = math.pi / rows
        self.survey = Survey(thin, self.rotation, spacing, base)
        self.kernel = ScoreKernel(self.radius, finest_panel(max_degree), spacing)
        self.disc = RingTransform(self.kernel.grid, max_degree)
        land_share = LandShare().on_grid(grid, base)
        self.vicinity = VicinityRings(self.radius, self.rotation, self.grid, land_share, base)
        degree, _ = degrees_and_orders(max_degree)
        width = max(self.radius, 2.0 / (max_degree + 1))
        register_table(self, "smoothing", kernel_spectrum(width, max_degree)[degree])

    @torch.inference_mode()
    def forward(self, natural: Tensor) -> GeotagColumns:
        """Answers for a batch.

        Args:
            natural: ``(N, K, d)`` natural parameters; the K densities of a photo are mixed.

        Returns:
            Columns of N rows.

        Raises:
            ValueError: The shape does not fit the degree, or a value is not finite.
        """
        natural = self._checked(natural)
        if not len(natural):
            return GeotagColumns.empty()
        parts = in_cache(max(1, DENSITIES // natural.shape[1]), natural)
        return GeotagColumns.joined([self._decoded(part) for (part,) in parts])

    def _decoded(self, natural: Tensor) -> GeotagColumns:
        densities = self.survey(natural, self.config.candidates)
        mixtures = self._mixtures(natural, densities, torch.nonzero(~densities.settled)[:, 0])
        places, ascent = self._climbed(mixtures, *self._candidates(mixtures, densities))
        around = self.vicinity(mixtures, places[:, 0])
        places[:, 0], mass = around.answer, ascent.mass
        if self.vicinity.polishes:
            mass = torch.cat([around.mass[:, None], mass[:, 1:]], 1)
        latitude, longitude = latitude_longitude(around.answer.double().cpu().numpy())
        return GeotagColumns(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=around.profile.quantile_km(0.5),
            radius_90_km=around.profile.quantile_km(0.9),
            probability=around.profile.threshold_probability(),
            information_nats=around.information,
            land_probability=around.on_land,
            modes=distinct_modes(
                places.double().cpu().numpy(),
                mass.double().cpu().numpy().clip(0.0, 1.0),
                self.config.radius_km,
                self.config.modes,
            ),
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
        mixtures = self._everywhere(self._checked(natural))
        return mixtures.log_density.view(-1, self.grid.rows, self.grid.columns)

    @torch.inference_mode()
    def log_probability(self, natural: Tensor, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log density of one point per photo.

        Args:
            natural: ``(N, K, d)``.
            vectors: ``(N, 3)`` unit vectors.

        Returns:
            ``(N,)`` nats against the uniform probability of the sphere.
        """
        log_z = self._everywhere(natural := self._checked(natural)).log_z
        code = torch.from_numpy(encode_vectors(vectors, self.max_degree)).to(self.grid.nodes)
        field = torch.einsum("nkd,nd->nk", natural, code)
        log_density = mixed_log((field - log_z)[..., None]).squeeze(-1)
        log_density = log_density + self.log_base_at(torch.from_numpy(vectors).to(self.grid.nodes))
        return log_density.double().cpu().numpy()

    @torch.inference_mode()
    def log_normaliser(self, natural: Tensor) -> Tensor:
        """Log Z ``(N, K)`` of densities ``(N, K, d)``, with the base measure."""
        return self._everywhere(self._checked(natural)).log_z

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

    def _everywhere(self, natural: Tensor) -> Mixtures:
        everyone = torch.arange(len(natural), device=natural.device)
        return self._mixtures(natural, self.survey(natural, 1), everyone)

    def _mixtures(self, natural: Tensor, densities: Densities, wide: Tensor) -> Mixtures:
        log_z = densities.log_near.clone()
        log_density = log_z.new_empty(len(wide), len(self.area))
        mass = torch.empty_like(log_density)
        peak = densities.peaks.vectors[:, 0].view(*log_z.shape, 3)
        for part, *out in in_cache(SPHERES, wide, log_density, mass):
            log_z[part] = self._sphere(natural[part], log_z[part], peak[part], *out)
        return Mixtures(densities.by_degree, log_z, wide, log_density, mass)

    def _sphere(
        self, natural: Tensor, log_near: Tensor, peak: Tensor, log_density: Tensor, mass: Tensor
    ) -> Tensor:
        """Log Z: the rings around the highest peak, the grid beyond. Fills the last two in."""
        n, k, _ = natural.shape
        field = self.grid.synthesis(natural.flatten(0, 1)).flatten(1).add_(self.log_base)
        highest = field.amax(1)
        weight = (field - highest[:, None]).clamp_(min=FLOOR).exp_().mul_(self.area)
        outside = (peak.flatten(0, 1) @ self.grid.nodes.T).le_(math.cos(self.survey.radius))
        log_far = torch.linalg.vecdot(weight, outside).log() + highest
        log_z = torch.logaddexp(log_near, log_far.view(n, k))
        if k == 1:
            torch.sub(field, log_z, out=log_density)
            torch.mul(weight, (highest[:, None] - log_z).exp(), out=mass)
        else:
            log_density.copy_(mixed_log(field.view(n, k, -1).sub_(log_z[..., None])))
            torch.mul(log_density.clamp(min=FLOOR).exp_(), self.area, out=mass)
        return log_z

    def _candidates(self, mixtures: Mixtures, densities: Densities) -> tuple[Tensor, Tensor]:
        """``(N, M, 3)``: the best peaks of all K densities, and marks near the best of each.

        Where mass is far from it, also maxima of the coarse score, and where a prior that excludes
        most places has most, between the nodes as it may be. And which of them are worth a closer
        look, ``(N, M)``: none where there is but one, with all mass so near that its mean will do.
        """
        n, k = mixtures.log_z.shape
        pooled = densities.peaks.vectors.reshape(n, -1, 3)
        # A peak of F just off the coast has its mass on the coast: do not count it for nothing.
        log_base = self.log_base_at(pooled).clamp(min=-2.0).view(n * k, -1)
        log_mass = (densities.peaks.log_mass + log_base).view(n, k, -1)
        share = (log_mass - mixtures.log_z[..., None]).exp().reshape(n, -1)
        gathered = neighbourhood_mass(pooled, share, self.radius)
        best = spread_maxima(pooled, gathered, self.config.candidates, self.radius)
        peaks = pooled.gather(1, best[..., None].expand(-1, -1, 3))
        apart = (densities.marks @ peaks[:, 0, :, None])[..., 0] < math.cos(self.radius / 4.0)
        if k == 1:  # the top of a disc over one peak lies nearer its mean than its crest
            mean = densities.marks[:, 1]
            peaks[:, 0] = torch.where(apart[:, 1:2], peaks[:, 0], mean)
        gathered = gathered.gather(1, best)
        likely = gathered >= UNLIKELY * gathered[:, :1]
        elsewhere = self._elsewhere(mixtures)
        more = peaks.new_zeros(n, elsewhere.shape[1], 3)
        more[mixtures.wide] = elsewhere
        found = torch.cat([peaks, densities.marks, more], 1)
        likely = torch.cat([likely, apart, more.any(2)], 1)
        if self.vicinity.polishes and k == 1:
            narrow = densities.spread[:, 0] < NARROW * self.radius
            likely &= ((likely.sum(1) > 1) | ~narrow)[:, None]
        return found, likely

    def _elsewhere(self, mixtures: Mixtures) -> Tensor:
        """Candidates ``(W, M, 3)`` that only the whole sphere shows."""
        mass = mixtures.mass
        if not len(mass):
            return mass.new_zeros(0, 0, 3)
        thin = self.survey.thin
        # Every other node of every other row: the map is coarse anyhow, narrow peaks are known.
        some = mass.view(len(mass), self.grid.rows, -1)[:, ::2, ::2]
        score = thin.analysis(some) * self.smoothing
        found = [thin.nodes[highest_nodes(thin.synthesis(score), 2)[1]]]
        if self.footholds is not None:
            found.append(self.footholds[mass.topk(4).indices])
        return torch.cat(found, 1)

    def log_base_at(self, vectors: Tensor) -> Tensor:
        """Log q₀ ``(...)`` at unit vectors ``(..., 3)``."""
        if self.base is None:
            return torch.zeros_like(vectors[..., 0])
        log_base: Tensor = self.base(vectors)
        return log_base

    def _ascent(self, mixtures: Mixtures, photo: Tensor, points: Tensor) -> Ascent:
        """Score, mass and uphill step of points ``(P, 3)``."""
        if not len(points):
            return Ascent(points.new_zeros(0, 5))
        parts = in_cache(POINTS, photo, points)
        return Ascent(torch.cat([self._uphill(mixtures, *part) for part in parts]))

    def _uphill(self, mixtures: Mixtures, photo: Tensor, points: Tensor) -> Tensor:
        (log_p,) = mixtures.around(self.rotation, photo, points, self.disc)
        log_p = log_p + self.log_base_at(self.disc.around(points))
        found: Ascent = self.kernel(log_p.clamp_(min=FLOOR).exp_())
        return found.values

    def _climbed(
        self, mixtures: Mixtures, candidates: Tensor, likely: Tensor
    ) -> tuple[Tensor, Ascent]:
        """The best candidates moved to their maxima: ``(N, modes + 1, 3)``, the best one first."""
        index = torch.nonzero(likely, as_tuple=True)
        found = self._ascent(mixtures, index[0], candidates[index])
        ascent = found.spread(index, likely.shape)
        ascent.score[:, 0].masked_fill_(~likely.any(1), 1.0)
        # Far from a maximum the promise is a guess: count at most half of the score of it.
        promise = ascent.score + torch.minimum(ascent.gain, ascent.score / 2.0)
        chosen = spread_maxima(candidates, promise, self.config.modes, 4.0 * self.radius)
        # And the best of all others, near the answer as it may be: which one climbs higher?
        others = promise.scatter(1, chosen, -1.0).argmax(1, keepdim=True)
        chosen = torch.cat([chosen, others], 1)
        row = torch.arange(len(chosen), device=chosen.device)[:, None]
        places, at = candidates[row, chosen], ascent.at(row, chosen)
        hopeless = promise.gather(1, chosen) < HOPELESS * promise.amax(1, keepdim=True)
        hopeless &= at.mass < LEAST_MODE / 4.0
        at.gain.masked_fill_(hopeless, 0.0)
        places, at = climb_score(places, at, partial(self._ascent, mixtures), self.config.shifts)
        order = at.score.argsort(1, descending=True)
        return places[row, order], at.at(row, order)
