r"""The dense decoder, which scores every node of a 0.25° grid; coarse to fine is compared with it.

It is as fast as we could make it, so that the comparison is fair. The score of *all* nodes comes
from one Fourier transform along longitude, since the kernel of radius ρ is the same along a row:

    score(i, ·) = Σ_r  kernel(i, i + r, ·) ⊛ mass(i + r, ·)      over the rows within ρ

The field comes either from one product with the stored codes of all nodes (4 GB at L = 31), or from
the separable transform of the product, which makes the dense decoder much faster. Both are timed.

The answer is the top of the parabola through the best node and its neighbours. Radii and
probabilities come from the mass of all nodes by distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.density.base_measure import BaseMeasure
from locdiffusion.density.transforms import ProductTransform
from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM, latitude_longitude
from locdiffusion.sphere.grids import shifted_grid
from locdiffusion.sphere.harmonics import degrees_and_orders
from schemas.geotags import THRESHOLDS_KM

_BINS = 1 << 13


@dataclass(frozen=True)
class DenseAnswers:
    """Answers of N photos; units as in `locdiffusion.GeotagColumns`."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    radius_50_km: NDArray[np.float64]
    radius_90_km: NDArray[np.float64]
    probability: NDArray[np.float64]
    information_nats: NDArray[np.float64]


class DenseGridDecoder(nn.Module):
    """Decodes densities of degree L on a grid of even latitudes and longitudes."""

    log_q0: Tensor
    kernel: Tensor

    def __init__(
        self,
        max_degree: int,
        radius_km: float,
        base_measure: BaseMeasure | None = None,
        spacing_deg: float = 0.25,
        separable: bool = True,
    ) -> None:
        """Builds the tables.

        Args:
            max_degree: Degree L.
            radius_km: Decoding radius ρ, at least two spacings, as a disc would be empty otherwise.
            base_measure: Base measure q₀; None is the uniform measure.
            spacing_deg: Spacing of rows and columns in degrees.
            separable: Whether fields come from the separable transform instead of stored codes.
        """
        super().__init__()
        rows = round(180.0 / spacing_deg)
        if math.pi / rows * 2.0 > radius_km / EARTH_RADIUS_KM:
            raise ValueError(
                f"radius_km is {radius_km} and spacing_deg {spacing_deg}; want a radius of at "
                "least two spacings: a finer grid, or a larger radius."
            )
        grid = shifted_grid(rows, 2 * rows, 0.5)
        self.transform = ProductTransform(grid, max_degree)
        self.spacing = math.pi / rows
        self.codes = None if separable else _codes(self.transform)
        nodes = self.transform.nodes
        log_q0 = torch.zeros(len(nodes)) if base_measure is None else base_measure(nodes)
        self.register_buffer("log_q0", log_q0, persistent=False)
        self.log_area = (self.transform.row_weight / (4.0 * math.pi)).log()[:, None]
        self.reach = math.ceil(radius_km / EARTH_RADIUS_KM / self.spacing)
        self.register_buffer("kernel", self._kernel(grid.cos_theta, radius_km), persistent=False)

    def _kernel(self, z: NDArray[np.float64], radius_km: float) -> Tensor:
        """Transforms the kernel along longitude: ``(2·reach + 1, rows, columns/2 + 1)``."""
        rows, columns = len(z), 2 * len(z)
        chord2 = 4.0 * math.sin(radius_km / EARTH_RADIUS_KM / 2.0) ** 2
        cos_longitude = np.cos(2.0 * np.pi * np.arange(columns) / columns)
        spectra = []
        for offset in range(-self.reach, self.reach + 1):
            other = np.full(rows, np.nan)
            kept = slice(max(0, -offset), rows - max(0, offset))
            other[kept] = z[max(0, offset) : rows + min(0, offset)]
            sines = np.sqrt((1.0 - z**2) * (1.0 - other**2))
            distance2 = 2.0 - 2.0 * ((z * other)[:, None] + sines[:, None] * cos_longitude)
            kernel = np.nan_to_num(1.0 - distance2 / chord2).clip(min=0.0)
            spectra.append(torch.fft.rfft(torch.from_numpy(kernel.astype(np.float32))).real)
        return torch.stack(spectra)

    @torch.inference_mode()
    def forward(self, natural: Tensor) -> DenseAnswers:
        """Decodes ``(N, d)``; fields in one batch, the rest photo by photo."""
        if self.codes is None:  # one by one: a grid is as large as a cache
            each = [self._one(self.transform.synthesis(eta[None])[0]) for eta in natural]
        else:
            shape = self.transform.rows, self.transform.columns
            each = [self._one(field.view(shape)) for field in natural @ self.codes]
        columns = [np.stack(column) for column in zip(*each, strict=True)]
        latitude, longitude = latitude_longitude(columns[0])
        return DenseAnswers(latitude, longitude, *columns[1:])

    def _one(self, field: Tensor) -> tuple[NDArray[np.float64] | np.float64, ...]:
        log_p = field + self.log_q0.view(field.shape)
        log_mass = (log_p + self.log_area).flatten()
        mass = torch.softmax(log_mass, 0)
        top = int(mass.argmax())
        log_z = float(log_mass[top] - mass[top].log())
        # Subnormal numbers slow the transforms tenfold.
        mass.masked_fill_(mass < 1e-20, 0.0)
        score = self._score(mass.view(field.shape))
        answer = self._refined(score, int(score.argmax()))
        cumulative = self._by_distance(mass, answer)
        radii = 2.0 * EARTH_RADIUS_KM * np.arcsin(np.linspace(0.0, 1.0, _BINS + 1))
        quantiles = np.interp([0.5, 0.9], cumulative, radii)
        information = np.float64(float(mass @ log_p.flatten()) - log_z)
        probability = np.interp(THRESHOLDS_KM, radii, cumulative)
        return answer, quantiles[0], quantiles[1], probability, information

    def _score(self, mass: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mass)
        rows = len(spectrum)
        total = torch.zeros_like(spectrum)
        for index, offset in enumerate(range(-self.reach, self.reach + 1)):
            kept = slice(max(0, -offset), rows - max(0, offset))
            source = slice(max(0, offset), rows + min(0, offset))
            torch.view_as_real(total[kept]).addcmul_(
                torch.view_as_real(spectrum[source]), self.kernel[index, kept, :, None]
            )
        return torch.fft.irfft(total, n=mass.shape[1])

    def _refined(self, score: Tensor, best: int) -> NDArray[np.float64]:
        """Finds the top of the parabolas through the best node's neighbours, as a unit vector."""
        row, column = divmod(best, score.shape[1])
        middle = float(score[row, column])
        shifts = []
        for step in ((1, 0), (0, 1)):
            below, above = (
                float(
                    score[
                        min(max(row + s * step[0], 0), len(score) - 1),
                        (column + s * step[1]) % score.shape[1],
                    ]
                )
                for s in (-1, 1)
            )
            curvature = below + above - 2.0 * middle
            shifts.append((below - above) / (2.0 * curvature) if curvature < 0 else 0.0)
        theta = (row + 0.5 + shifts[0]) * self.spacing
        phi = (column + shifts[1]) * self.spacing
        return np.array(
            [math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)]
        )

    def _by_distance(self, mass: Tensor, answer: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes cumulative probability at edges of bins even in the chord, ``(bins + 1,)``."""
        centre = torch.from_numpy(answer).to(self.transform.nodes)
        half_chord = ((1.0 - self.transform.nodes @ centre) / 2.0).clamp_(min=0.0).sqrt_()
        index = half_chord.mul_(_BINS).int().clamp_(max=_BINS - 1)
        share = torch.bincount(index, mass, _BINS).double().cumsum(0)
        return np.concatenate([[0.0], share.numpy()])


def _codes(transform: ProductTransform) -> Tensor:
    """Computes the codes of all nodes, ``(d, nodes)``."""
    degree, order = degrees_and_orders(transform.max_degree)
    wave = torch.tensor(order + transform.max_degree)
    by_row = transform.legendre[wave, torch.tensor(degree)]
    along = transform.trigonometric[wave]
    return (by_row[:, :, None] * along[:, None, :]).flatten(1)
