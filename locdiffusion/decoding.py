r"""Mode seeking: from densities to points, radii, probabilities and alternatives.

The answer is the point y whose neighbourhood of radius ρ holds most probability, nearer mass
counting more (an Epanechnikov kernel on the chord \|z - y\|, c = 2 sin(ρ/2)):

    score(y) = ∫ p(z) · (1 - \|z - y\|²/c²)₊ dΩ(z)

The paper decodes by mode seeking; this kernel is our choice, because gradient ascent on it is the
mean shift y ← normalise(∫_{\|z-y\|<c} p z dΩ), which never overshoots (Cheng 1995, IEEE PAMI 17).
ρ → 0 gives the highest peak; a larger ρ answers "within ρ km" better. Coarse to fine:

1. fields on a product grid, one batched product; their peaks (`locdiffusion.peaks`);
2. around a point, everything is measured in a frame with that point at the pole (a rotation of
   coefficients), where one fixed table holds rings of every radius: log Z around the highest
   peak, the score of each candidate, mean shift from the best one;
3. the winner's rings, and the grid beyond them, give the distribution of the distance.

A photo may have K densities (samples of the diffusion); they are mixed with equal weight.
The tests hold all this against the plain version on a dense grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.density import GeotagColumns, Mode
from locdiffusion.peaks import find_peaks, neighbourhood_mass, spread_maxima
from locdiffusion.radial import NEAR_EDGES_KM, RadialProfile
from locdiffusion.shdd import encode_vectors
from locdiffusion.spectral import PoleRotation, ProductTransform, pole_frame
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.grids import gauss_legendre_grid, polar_grid
from locdiffusion.sphere.harmonics import degrees_and_orders
from schemas.geotags import THRESHOLDS_KM

CAP_KM = NEAR_EDGES_KM[-1]


@dataclass(frozen=True)
class DecodeConfig:
    """How densities become answers.

    Attributes:
      radius_km: ρ, chosen on validation data.
      temperature: τ of p ∝ exp(F/τ), fitted on validation data; 1 leaves the density as trained.
      modes: how many places are reported at most, the answer included.
      candidates: how many maxima are scored.
      shifts: mean-shift steps from the best candidate.
    """

    radius_km: float = 100.0
    temperature: float = 1.0
    modes: int = 3
    candidates: int = 6
    shifts: int = 8

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 1.0 <= self.radius_km <= 5000.0:
            raise ValueError(f"radius_km is {self.radius_km}; want 1 to 5000 km.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; want a positive number.")
        if min(self.modes, self.candidates, self.shifts) < 1:
            raise ValueError(f"modes, candidates and shifts must be at least 1: {self}.")


@dataclass(frozen=True)
class _Mixture:
    """Normalised log densities of a batch: ``natural`` (N, K, d), ``log_z`` (N, K)."""

    natural: Tensor
    log_z: Tensor
    grid_log_density: Tensor  # (N, nodes), mixed


class Decoder(nn.Module):
    """Decodes batches of natural parameters of degree L; holds tables, no learned parameter."""

    nodes: Tensor
    smoothing: Tensor
    disc_kernel: Tensor
    disc_nodes: Tensor

    def __init__(self, max_degree: int, config: DecodeConfig | None = None) -> None:
        super().__init__()
        self.config = config or DecodeConfig()
        self.max_degree = max_degree
        rows = 4 * (max_degree + 1) + 16
        grid = gauss_legendre_grid(rows, 2 * rows)
        self.grid = ProductTransform(grid, max_degree)
        self._table("nodes", grid.vectors)
        self.rotation = PoleRotation(max_degree)
        near = polar_grid(np.array(NEAR_EDGES_KM) / EARTH_RADIUS_KM, 2, 96)
        self.rings = ProductTransform(near, max_degree)
        rho = self.config.radius_km / EARTH_RADIUS_KM
        disc = polar_grid(rho * np.linspace(0, 1, 6) ** 1.5, 4, 48)
        self.disc = ProductTransform(disc, max_degree)
        self._table("disc_nodes", disc.vectors)
        chord2 = 2.0 * (1.0 - disc.cos_theta) / (4.0 * math.sin(rho / 2.0) ** 2)
        self._table("disc_kernel", np.repeat(1.0 - chord2, disc.shape[1]))
        degree, _ = degrees_and_orders(max_degree)
        width = max(rho, 1.0 / (max_degree + 1))
        self._table("smoothing", np.exp(-0.25 * degree * (degree + 1) * width**2))

    def _table(self, name: str, value: np.ndarray) -> None:
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
            return GeotagColumns(none, none, none, none, share, nats, [])
        mixture, candidates = self._coarse(natural)
        score, mass, centroid = self._disc(mixture, candidates)
        best = score.argmax(1)
        answer = candidates[torch.arange(len(best)), best]
        answer_mass = mass[torch.arange(len(best)), best]
        shifted = centroid[torch.arange(len(best)), best]
        for _ in range(self.config.shifts):
            answer = shifted
            _, ball, step = self._disc(mixture, answer[:, None])
            answer_mass, shifted = ball[:, 0], step[:, 0]
        profile = self._profile(mixture, answer)
        return self._columns(answer, answer_mass, candidates, mass, profile)

    def log_density(self, natural: Tensor) -> Tensor:
        """Log density of the mixture on the decoder's own grid.

        Args:
          natural: ``(N, K, d)``.

        Returns:
          ``(N, rows, columns)`` log p against the uniform probability of the sphere; rows are
          Gauss-Legendre latitudes from north to south, columns start at longitude 0.
        """
        mixture, _ = self._coarse(self._checked(natural))
        return mixture.grid_log_density.view(-1, self.grid.rows, self.grid.columns)

    @torch.inference_mode()
    def log_probability(self, natural: Tensor, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log density of one point per photo.

        Args:
          natural: ``(N, K, d)``.
          vectors: ``(N, 3)`` unit vectors.

        Returns:
          ``(N,)`` nats against the uniform probability of the sphere.
        """
        mixture, _ = self._coarse(self._checked(natural))
        code = torch.from_numpy(encode_vectors(vectors, self.max_degree)).to(self.nodes)
        field = torch.einsum("nkd,nd->nk", mixture.natural, code)
        return _mix((field - mixture.log_z)[..., None]).squeeze(-1).double().cpu().numpy()

    def _checked(self, natural: Tensor) -> Tensor:
        dimension = (self.max_degree + 1) ** 2
        if natural.ndim != 3 or natural.shape[-1] != dimension:
            raise ValueError(
                f"natural has shape {tuple(natural.shape)}; want (photos, samples, {dimension}) "
                f"for L = {self.max_degree}."
            )
        if not torch.isfinite(natural).all():
            raise ValueError("natural holds values that are not finite; is the checkpoint broken?")
        return natural.to(self.nodes) / self.config.temperature

    def _coarse(self, natural: Tensor) -> tuple[_Mixture, Tensor]:
        n, k, d = natural.shape
        field = self.grid.synthesis(natural.reshape(n * k, d))
        peaks = find_peaks(field, self.nodes, self.config.candidates)
        top = peaks.vectors[:, 0]
        log_z = self._log_z(natural.reshape(n * k, d), field, top).view(n, k)
        log_density = field.view(n, k, -1) - log_z[..., None]
        mixed = _mix(log_density)
        candidates = self._candidates(peaks.vectors, peaks.log_mass, log_z, mixed)
        return _Mixture(natural, log_z, mixed), candidates

    def _log_z(self, natural: Tensor, field: Tensor, centre: Tensor) -> Tensor:
        """Rings around the highest peak, the grid beyond them; ``(B,)``."""
        near = self.rings.synthesis(self.rotation(natural, centre))
        near = (near + self.rings.row_weight.log()[:, None]).flatten(1).logsumexp(1)
        far = (field + self.grid.row_weight.log()[:, None]).flatten(1)
        inside = centre @ self.nodes.T > math.cos(CAP_KM / EARTH_RADIUS_KM)
        far = far.masked_fill(inside, -torch.inf).logsumexp(1)
        return torch.logaddexp(near, far) - math.log(4.0 * math.pi)

    def _candidates(
        self, vectors: Tensor, log_mass: Tensor, log_z: Tensor, mixed: Tensor
    ) -> Tensor:
        """``(N, M, 3)``: the best peaks of all K densities, and maxima of the smoothed mass."""
        n, k = log_z.shape
        pooled = vectors.reshape(n, -1, 3)
        mass = (log_mass.view(n, k, -1) - log_z[..., None]).exp().reshape(n, -1)
        gathered = neighbourhood_mass(pooled, mass, self.config.radius_km / EARTH_RADIUS_KM)
        count = min(self.config.candidates, gathered.shape[1])
        chosen = spread_maxima(pooled, gathered, count, self.config.radius_km / EARTH_RADIUS_KM)
        weight = self.grid.row_weight[:, None]
        node_mass = mixed.view(n, self.grid.rows, self.grid.columns).exp() * weight
        smooth = self.grid.synthesis(self.grid.analysis(node_mass) * self.smoothing)
        broad = self.nodes[smooth.flatten(1).argmax(1)]
        return torch.cat([chosen, broad[:, None]], 1)

    def _around(self, mixture: _Mixture, centre: Tensor, rings: ProductTransform) -> Tensor:
        """Mixed log density on rings around points ``(N, M, 3)``: ``(N, M, nodes)``."""
        n, k, d = mixture.natural.shape
        m = centre.shape[1]
        natural = mixture.natural[:, None].expand(n, m, k, d).reshape(-1, d)
        at_pole = self.rotation(natural, centre[:, :, None].expand(n, m, k, 3).reshape(-1, 3))
        field = rings.synthesis(at_pole).flatten(1).view(n, m, k, -1)
        return _mix(field - mixture.log_z[:, None, :, None])

    def _disc(self, mixture: _Mixture, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score (N, M), mass within ρ (N, M) and mean-shift target (N, M, 3) of points."""
        log_density = self._around(mixture, centre, self.disc)
        area = self.disc.row_weight.repeat_interleave(self.disc.columns) / (4.0 * math.pi)
        mass = log_density.exp() * area
        local = mass @ self.disc_nodes
        frame = pole_frame(centre.reshape(-1, 3)).view(*centre.shape, 3)
        target = (frame @ local[..., None]).squeeze(-1)
        # Where no mass lies within ρ the direction is meaningless: stay.
        empty = target.norm(dim=-1, keepdim=True) < 1e-30
        target = torch.where(empty, centre, nn.functional.normalize(target, dim=-1, eps=1e-30))
        return mass @ self.disc_kernel, mass.sum(-1), target

    def _profile(self, mixture: _Mixture, answer: Tensor) -> RadialProfile:
        near = self._around(mixture, answer[:, None], self.rings)[:, 0]
        ring_area = self.rings.row_weight.repeat_interleave(self.rings.columns)
        grid_area = self.grid.row_weight.repeat_interleave(self.grid.columns)
        cos_distance = (answer @ self.nodes.T).clamp(-1.0, 1.0)
        return RadialProfile.from_nodes(
            near_log_density=near.view(len(near), len(NEAR_EDGES_KM) - 1, -1),
            near_area=ring_area.view(len(NEAR_EDGES_KM) - 1, -1),
            far_log_density=mixture.grid_log_density,
            far_area=grid_area,
            far_distance_km=torch.arccos(cos_distance) * EARTH_RADIUS_KM,
        )

    def _columns(
        self,
        answer: Tensor,
        mass: Tensor,
        others: Tensor,
        other_mass: Tensor,
        profile: RadialProfile,
    ) -> GeotagColumns:
        latitude, longitude = latitude_longitude(answer.double().cpu().numpy())
        places = np.concatenate([answer[:, None].cpu().numpy(), others.cpu().numpy()], 1)
        probability = torch.cat([mass[:, None], other_mass], 1).double().cpu().numpy()
        probability = np.clip(probability, 0.0, 1.0)
        return GeotagColumns(
            latitude=latitude,
            longitude=longitude,
            radius_50_km=profile.quantile_km(0.5),
            radius_90_km=profile.quantile_km(0.9),
            probability=profile.threshold_probability(),
            information_nats=profile.information_nats,
            modes=[self._modes(p, w) for p, w in zip(places, probability, strict=True)],
        )

    def _modes(self, places: np.ndarray, probability: np.ndarray) -> tuple[Mode, ...]:
        """The answer first, then what lies more than 2ρ from all chosen before, likeliest first."""
        apart = math.cos(min(math.pi, 2.0 * self.config.radius_km / EARTH_RADIUS_KM))
        order = [0, *(1 + np.argsort(-probability[1:], kind="stable"))]
        chosen: list[int] = []
        for i in order:
            far = all(float(places[i] @ places[j]) < apart for j in chosen)
            if len(chosen) < self.config.modes and (not chosen or (far and probability[i] >= 0.01)):
                chosen.append(i)
        latitude, longitude = latitude_longitude(places[chosen])
        return tuple(
            Mode(float(a), float(b), float(probability[i]), self.config.radius_km)
            for a, b, i in zip(latitude, longitude, chosen, strict=True)
        )


def _mix(log_density: Tensor) -> Tensor:
    """Equal-weight mixture over the last but one axis."""
    samples = log_density.shape[-2]
    if samples == 1:
        return log_density.squeeze(-2)
    return log_density.logsumexp(-2) - math.log(samples)
