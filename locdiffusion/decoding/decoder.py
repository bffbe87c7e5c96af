r"""Decoder: from densities to points, radii, probabilities and alternatives.

The answer is the point y whose neighbourhood of radius ρ holds most probability, nearer mass
counting more (an Epanechnikov kernel on the chord \|z - y\|, c = 2 sin(ρ/2)):

    score(y) = ∫ p(z) · (1 - \|z - y\|²/c²)₊ dΩ(z) / 4π

The paper decodes by mode seeking; this kernel is our choice, because its derivatives are sums over
the same nodes (`locdiffusion.decoding.mode_seeking.ScoreKernel`). ρ → 0 gives the highest peak; a
larger ρ answers "within ρ km" better. Coarse to fine:

1. F is evaluated on a thin product grid, in one batched product. Newton's method on its highest
   nodes gives peaks, and rings around the highest peak give its mass
   (`locdiffusion.decoding.coarse_search`). Only where there is mass beyond these rings, a grid
   twice as fine covers the whole sphere; its mass, convolved with the kernel, is a coarse map of
   the score itself.
2. Around each candidate everything is measured in a frame with that point at the pole (a rotation
   of coefficients), where fixed tables hold rings. They give score, slope and curvature, and
   Newton's method climbs the score from the best candidates.
3. Finer rings around the winner, and the grid where there is one, give the distribution of the
   distance. The same rings say how far the winner is from the top, and it goes there
   (`locdiffusion.decoding.answer_rings`).

A photo may have K densities (samples of the diffusion); they are mixed with equal weight. Peaks
other than the highest that are narrower than half the grid's spacing (a standard deviation of 70 km
at L = 31) are integrated by the grid, to some per cent of their mass.
The tests hold all this against the plain version on a dense grid.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.answer_rings import AnswerRings
from locdiffusion.decoding.answers import LEAST_MODE, GeotagColumns, distinct_modes
from locdiffusion.decoding.area_masses import Partitions
from locdiffusion.decoding.area_points import DensityPoints
from locdiffusion.decoding.coarse_search import Densities, Mixtures
from locdiffusion.decoding.mode_seeking import NewtonStep, ScoreKernel, climb_score, kernel_spectrum
from locdiffusion.decoding.peaks import highest_nodes, neighbourhood_mass, spread_maxima
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.transforms import register_table
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.harmonics import degrees_and_orders

DENSITIES_AT_ONCE, POINTS_AT_ONCE = 256, 256
"""How many densities a CPU decodes together, and how many scores it sums together."""

NARROW = 0.25
"""A density whose spread is below this part of ρ is so narrow that its mean is nearly the
answer."""

UNLIKELY = 1e-3
"""Peaks with less than this share of the most mass around a peak are no candidates."""

PRUNED = 0.5
"""Candidates whose expected score is below this share of the best are kept as they are: they may
be reported as other modes, but are not climbed from."""


MOST_STEPS = 64
"""Most candidates and Newton steps; a checkpoint of a stranger may ask for any."""


@dataclass(frozen=True)
class DecodeConfig:
    """How densities become answers.

    Attributes:
        radius_km: Radius ρ, chosen on validation data.
        modes: How many places are reported at most, the answer included.
        candidates: How many peaks are scored.
        shifts: How many Newton steps are taken at most from the best candidates.
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
        if max(self.modes, self.candidates, self.shifts) > MOST_STEPS:
            raise ValueError(f"modes, candidates and shifts may be {MOST_STEPS} at most: {self}.")


class Decoder(nn.Module):
    """Decodes batches of natural parameters of degree L; holds no learned parameter.

    Attributes:
        config: How densities become answers.
        tables: Tables of the densities, which decoders of other configurations may share.
        radius: Radius ρ in radians.
        kernel: Kernel of the score.
    """

    smoothing: Tensor

    def __init__(
        self,
        max_degree: int,
        config: DecodeConfig | None = None,
        base_measure: BaseMeasure | None = None,
        tables: DecoderTables | None = None,
    ) -> None:
        """Builds the tables, or adds what depends on the configuration to given ones.

        Args:
            max_degree: Degree L of the densities.
            config: How densities become answers.
            base_measure: Base measure q₀ of the densities; None is the uniform measure.
            tables: Tables of this degree and base measure, see `with_config`.
        """
        super().__init__()
        self.config = config or DecodeConfig()
        self.tables = DecoderTables(max_degree, base_measure) if tables is None else tables
        self.radius = self.config.radius_km / EARTH_RADIUS_KM
        self.kernel = ScoreKernel(self.radius, max_degree, self.tables.spacing)
        self.answer_rings = AnswerRings(self.tables, self.radius)
        degree, _ = degrees_and_orders(max_degree)
        width = max(self.radius, 2.0 / (max_degree + 1))
        register_table(self, "smoothing", kernel_spectrum(width, max_degree)[degree])

    def with_config(self, config: DecodeConfig) -> Decoder:
        """Returns a decoder of another configuration on the same tables and device."""
        tables = self.tables
        decoder = Decoder(tables.max_degree, config, tables.base_measure, tables)
        return decoder.to(self.smoothing.device)

    @torch.inference_mode()
    def forward(self, natural: Tensor, areas: Partitions | None = None) -> GeotagColumns:
        """Answers a batch.

        Args:
            natural: Natural parameters ``(N, K, d)``; the K densities of a photo are mixed.
            areas: Areas whose masses are wanted; None wants none.

        Returns:
            Columns of N rows.

        Raises:
            ValueError: The shape does not fit the degree, or a value is not finite.
        """
        natural = self.tables.checked(natural)
        if not len(natural):
            return GeotagColumns.empty()
        parts = in_cache(max(1, DENSITIES_AT_ONCE // natural.shape[1]), natural)
        return GeotagColumns.joined([self._decoded(part, areas) for (part,) in parts])

    def _decoded(self, natural: Tensor, areas: Partitions | None) -> GeotagColumns:
        mixtures, places, reached = self.places(natural)
        around = self.answer_rings(mixtures, places[:, 0])
        places[:, 0], mass = around.answer, reached.mass
        if self.answer_rings.polishes:
            mass = torch.cat([around.mass[:, None], mass[:, 1:]], 1)
        latitude, longitude = latitude_longitude(around.answer.double().cpu().numpy())
        masses = None
        if areas is not None:
            masses = areas.columns(self._area_points(mixtures, around.answer))
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
            areas=masses,
        )

    @functools.cached_property
    def _area_points(self) -> DensityPoints:
        return DensityPoints(self.tables).to(self.smoothing.device)

    def places(
        self, natural: Tensor, climb_settled: bool = True
    ) -> tuple[Mixtures, Tensor, NewtonStep]:
        """Finds the places with most probability.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            climb_settled: Whether to climb also for photos whose mass lies around one peak; the
                mean of that mass is near the answer.

        Returns:
            The densities, the places ``(N, modes + 1, 3)`` with the best one first, and their
            scores.
        """
        densities = self.tables.search(natural, self.config.candidates)
        wide = torch.nonzero(~densities.settled)[:, 0]
        mixtures = self.tables.mixtures(natural, densities, wide)
        candidates, likely = self._candidates(mixtures, densities)
        if not climb_settled:
            likely &= ~densities.settled[:, None]
        return mixtures, *self._climbed(mixtures, candidates, likely)

    def _candidates(self, mixtures: Mixtures, densities: Densities) -> tuple[Tensor, Tensor]:
        """Gathers points at which the score may be highest.

        These are the best peaks of all K densities and, near the best peak of each, the highest
        point of q₀ exp F and the mean; where mass lies far from these, also maxima of the coarse
        score and, under a base measure that excludes places, the centroids with most mass.

        Returns:
            Candidates ``(N, M, 3)``, and which of them are worth a score, ``(N, M)``: none where
            there is but one, with all mass so near that its mean will do.
        """
        n, k = mixtures.log_z.shape
        # Peaks of all K densities, and the mass of all peaks within ρ of each
        pooled = densities.peaks.vectors.reshape(n, -1, 3)
        # A peak of F just off the coast has its mass on the coast: do not count it for nothing.
        log_q0 = self.tables.log_q0_at(pooled).clamp(min=-2.0).view(n * k, -1)
        log_mass = (densities.peaks.log_mass + log_q0).view(n, k, -1)
        share = (log_mass - mixtures.log_z[..., None]).exp().reshape(n, -1)
        gathered = neighbourhood_mass(pooled, share, self.radius)
        best = spread_maxima(pooled, gathered, self.config.candidates, self.radius)
        peaks = pooled.gather(1, best[..., None].expand(-1, -1, 3))
        near = densities.ring_candidates
        apart = (near @ peaks[:, 0, :, None])[..., 0] < math.cos(self.radius / 4.0)
        if k == 1:  # the score of a disc over one peak is highest nearer the mean than the peak
            mean = near[:, 1]
            peaks[:, 0] = torch.where(apart[:, 1:2], peaks[:, 0], mean)
        gathered = gathered.gather(1, best)
        likely = gathered >= UNLIKELY * gathered[:, :1]
        elsewhere = self._elsewhere(mixtures)
        more = peaks.new_zeros(n, elsewhere.shape[1], 3)
        more[mixtures.wide] = elsewhere
        found = torch.cat([peaks, near, more], 1)
        likely = torch.cat([likely, apart, more.any(2)], 1)
        if self.answer_rings.polishes and k == 1:
            narrow = densities.spread[:, 0] < NARROW * self.radius
            likely &= ((likely.sum(1) > 1) | ~narrow)[:, None]
        return found, likely

    def _elsewhere(self, mixtures: Mixtures) -> Tensor:
        """Returns candidates ``(W, M, 3)`` that only the whole sphere shows."""
        mass, tables = mixtures.mass, self.tables
        if not len(mass):
            return mass.new_zeros(0, 0, 3)
        thin = tables.search.thin
        # Every other node of every other row: the map is coarse anyhow, narrow peaks are known.
        some = mass.view(len(mass), tables.grid.rows, -1)[:, ::2, ::2]
        # score = p * K: a product with the kernel's spectrum
        score = thin.analysis(some) * self.smoothing
        found = [thin.nodes[highest_nodes(thin.synthesis(score), 2)[1]]]
        if tables.q0_centroids is not None:
            found.append(tables.q0_centroids[mass.topk(4).indices])
        return torch.cat(found, 1)

    def _newton(self, mixtures: Mixtures, photo: Tensor, points: Tensor) -> NewtonStep:
        """Returns scores at points ``(P, 3)`` of photos, by index, and the steps uphill."""
        if not len(points):
            return NewtonStep(points.new_zeros(0, 5))
        parts = in_cache(POINTS_AT_ONCE, photo, points)
        return NewtonStep(torch.cat([self._uphill(mixtures, *part) for part in parts]))

    def _uphill(self, mixtures: Mixtures, photo: Tensor, points: Tensor) -> Tensor:
        rings = self.kernel.rings
        # log p = log p/q₀ + log q₀ on the rings, then its moments
        (log_p,) = mixtures.around(self.tables.rotation, photo, points, rings)
        log_p = log_p + self.tables.log_q0_at(rings.around(points))
        found: NewtonStep = self.kernel(log_p.clamp_(min=FLOOR).exp_())
        return found.values

    def _climbed(
        self, mixtures: Mixtures, candidates: Tensor, likely: Tensor
    ) -> tuple[Tensor, NewtonStep]:
        """Moves the best candidates to their maxima: ``(N, modes + 1, 3)``, the best one first."""
        index = torch.nonzero(likely, as_tuple=True)
        found = self._newton(mixtures, index[0], candidates[index])
        at = found.scattered(index, likely.shape)
        at.score[:, 0].masked_fill_(~likely.any(1), 1.0)
        # Far from a maximum the expected gain is a guess: count at most half of the score of it.
        expected = at.score + torch.minimum(at.gain, at.score / 2.0)
        chosen = spread_maxima(candidates, expected, self.config.modes, 4.0 * self.radius)
        # And the best of all others, near the answer as it may be: which one climbs higher?
        others = expected.scatter(1, chosen, -1.0).argmax(1, keepdim=True)
        chosen = torch.cat([chosen, others], 1)
        row = torch.arange(len(chosen), device=chosen.device)[:, None]
        places, at = candidates[row, chosen], at.at(row, chosen)
        pruned = expected.gather(1, chosen) < PRUNED * expected.amax(1, keepdim=True)
        pruned &= at.mass < LEAST_MODE / 4.0
        at.gain.masked_fill_(pruned, 0.0)
        newton = functools.partial(self._newton, mixtures)
        places, at = climb_score(places, at, newton, self.config.shifts)
        order = at.score.argsort(1, descending=True)
        return places[row, order], at.at(row, order)
