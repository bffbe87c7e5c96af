"""Point only: the answers of a decoder without radii, probabilities and alternatives.

The answer is the decoder's (`locdiffusion.decoding.decoder`: most probability within ρ, nearer mass
counting more), but Newton's method starts from one point instead of from every likely one. Where a
density is broad that is the centre of the 3 × 3 nodes of a thin grid that hold most mass; where it
is narrow, its peak. Of two places that are almost as good it may give the other one; a test says
how often.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from locdiffusion.cpu import in_cache
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.peaks import climb, walked
from locdiffusion.density.log_partition import FLOOR
from locdiffusion.density.transforms import ProductTransform, register_table
from locdiffusion.sphere.geodesy import latitude_longitude
from locdiffusion.sphere.grids import gauss_legendre_grid

PHOTOS_AT_ONCE = 64
"""How many photos a CPU locates together."""

NARROW = 0.3
"""Where one node holds more than this share of the mass around it, sums over nodes say little."""

STEPS = 3
"""How many Newton steps are taken at most; two are enough for most photos."""

ARRIVED = 0.1
"""After a step shorter than this part of ρ the next one would be far smaller and is not taken."""


class Locator(nn.Module):
    """Finds the answers of a decoder, on its tables."""

    log_q0: Tensor
    area: Tensor

    def __init__(self, decoder: Decoder) -> None:
        """Adds a thin grid to the tables of a decoder.

        Raises:
            ValueError: The decoder's base measure excludes places: what it leaves may lie between
                the nodes of the thin grid.
        """
        super().__init__()
        self.decoder, self.tables = decoder, decoder.tables
        base_measure, max_degree = self.tables.base_measure, self.tables.max_degree
        if base_measure is not None and base_measure.excludes:
            raise ValueError("A prior that excludes places needs the whole decoder: use decode.")
        rows = 2 * (max_degree + 1) + 8
        grid = gauss_legendre_grid(rows, 2 * rows)
        self.spacing = math.pi / rows
        # A disc much smaller than the cells of the grid: its mass is highest where the density is.
        self.sums_tell = decoder.radius > self.spacing / 2.0
        self.thin = ProductTransform(grid, max_degree)
        log_q0 = torch.zeros(len(self.thin.nodes))
        if base_measure is not None:
            log_q0 = base_measure.on_grid(grid).cpu()
        self.register_buffer("log_q0", log_q0, persistent=False)
        register_table(self, "area", grid.weights)

    @torch.inference_mode()
    def forward(self, natural: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Finds the answers of photos: latitude and longitude ``(N,)`` in degrees.

        Args:
            natural: Natural parameters ``(N, 1, d)``.

        Raises:
            ValueError: A photo has several densities, which only the decoder mixes.
        """
        if natural.ndim != 3 or natural.shape[1] != 1:
            raise ValueError(
                f"natural has shape {tuple(natural.shape)}; want (photos, 1, coefficients): "
                "densities of several samples need the whole decoder: use decode."
            )
        flat = natural[:, 0].to(self.thin.nodes)
        found = torch.cat([self._located(part) for (part,) in in_cache(PHOTOS_AT_ONCE, flat)])
        return latitude_longitude(found.double().cpu().numpy())

    def _located(self, flat: Tensor) -> Tensor:
        by_degree = self.tables.rotation.by_degree(flat)
        place = self._first_guess(flat, by_degree)
        going = torch.arange(len(place), device=place.device)
        for _ in range(STEPS):
            step = self._uphill(by_degree.index_select(1, going), place[going])
            place[going] = walked(place[going], step)
            going = going[step.norm(dim=1) > ARRIVED * self.decoder.radius]
            if not len(going):
                break
        return place

    def _uphill(self, by_degree: Tensor, place: Tensor) -> Tensor:
        """Returns Newton's steps ``(B, 2)`` on the score; they do not depend on its unit."""
        rings = self.decoder.kernel.rings
        # log p on the rings but for a constant: F + log q₀
        field = rings(self.tables.rotation.tilted(by_degree, place)).flatten(1)
        field += self.tables.log_q0_at(rings.around(place))
        step: Tensor = self.decoder.kernel(_relative(field)).step
        return step

    def _first_guess(self, flat: Tensor, by_degree: Tensor) -> Tensor:
        # F + log q₀ on the thin grid, and its mass in 3 × 3 nodes
        field = self.thin.synthesis(flat).flatten(1).add_(self.log_q0)
        highest, peak = field.max(1, keepdim=True)
        if not self.sums_tell:
            return self._climbed(by_degree, peak, highest)
        mass = _relative(field).mul_(self.area)
        sums = _neighbourhoods(mass.view(-1, self.thin.rows, self.thin.columns)).flatten(1)
        most, centre = sums.max(1)
        guess = self.thin.nodes[centre]
        narrow = torch.nonzero(mass.gather(1, peak)[:, 0] > NARROW * most)[:, 0]
        if len(narrow):
            guess[narrow] = self._climbed(by_degree[:, narrow], peak[narrow], highest[narrow])
        return guess

    def _climbed(self, by_degree: Tensor, peak: Tensor, height: Tensor) -> Tensor:
        """Returns the peaks ``(B, 3)`` of F near nodes ``(B, 1)``, by index."""
        start, reach = self.thin.nodes[peak], 2.0 * self.spacing
        return climb(by_degree, start, height, self.tables.rotation, reach).vectors[:, 0]


def _relative(field: Tensor) -> Tensor:
    """Takes exp of fields ``(B, nodes)`` in place, scaled to 1 at the highest node."""
    return field.sub_(field.amax(1, keepdim=True)).clamp_(min=FLOOR).exp_()


def _neighbourhoods(mass: Tensor) -> Tensor:
    """Sums ``(B, rows, columns)`` over 3 × 3 nodes.

    Columns are periodic; the first and the last row take their neighbour's sums.
    """
    along, total = torch.empty_like(mass), torch.empty_like(mass)
    torch.add(mass[:, :, :-2], mass[:, :, 2:], out=along[:, :, 1:-1])
    torch.add(mass[:, :, -1], mass[:, :, 1], out=along[:, :, 0])
    torch.add(mass[:, :, -2], mass[:, :, 0], out=along[:, :, -1])
    along += mass
    torch.add(along[:, :-2], along[:, 2:], out=total[:, 1:-1])
    total[:, 1:-1] += along[:, 1:-1]
    total[:, [0, -1]] = total[:, [1, -2]]
    return total
