r"""The answer and nothing else: for who wants a place without radii, probabilities, alternatives.

The same point as the decoder's (`locdiffusion.decoding.decoder`: most probability within ρ, nearer
mass counting more), looked for from one place instead of from every promising one: where a density
is broad, from the 3 × 3 nodes of a thin grid that hold most of it; where it is narrow, from its
peak. Of two places that are almost as good it may give the other one; a test says how often.
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

PHOTOS = 64
"""Located together on a CPU."""

NARROW = 0.3
"""The share of the mass around it on one node from which sums over the grid say little."""

ARRIVED = 0.1
"""A step of this part of ρ is the last one: Newton's next would be far smaller."""


class Locator(nn.Module):
    """Where the densities of a decoder have their answers; borrows its tables."""

    log_base: Tensor
    area: Tensor

    def __init__(self, decoder: Decoder, steps: int = 3) -> None:
        """Builds the tables.

        Args:
            decoder: Whose answers are wanted.
            steps: Newton's on the score from the first guess, at most; two are enough for most.

        Raises:
            ValueError: The decoder's base measure excludes places: what it leaves may lie between
                the nodes of the thin grid.
        """
        super().__init__()
        if decoder.base is not None and decoder.base.excludes:
            raise ValueError("A prior that excludes places needs the whole decoder: use decode.")
        self.decoder, self.steps = decoder, steps
        rows = 2 * (decoder.max_degree + 1) + 8
        grid = gauss_legendre_grid(rows, 2 * rows)
        self.spacing = math.pi / rows
        # A disc much smaller than the cells of the grid: its mass is highest where the density is.
        self.sums_tell = decoder.radius > self.spacing / 2.0
        self.thin = ProductTransform(grid, decoder.max_degree)
        base = decoder.base
        log_base = torch.zeros(len(self.thin.nodes)) if base is None else base.on_grid(grid).cpu()
        self.register_buffer("log_base", log_base, persistent=False)
        register_table(self, "area", grid.weights)

    @torch.inference_mode()
    def forward(self, natural: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitude and longitude of the answers, ``(N,)`` each, in degrees.

        Args:
            natural: ``(N, 1, d)`` natural parameters.

        Raises:
            ValueError: Several densities of a photo, which only the decoder mixes.
        """
        if natural.ndim != 3 or natural.shape[1] != 1:
            raise ValueError(
                f"natural has shape {tuple(natural.shape)}; want (photos, 1, coefficients): "
                "densities of several samples need the whole decoder, use decode."
            )
        flat = natural[:, 0].to(self.thin.nodes)
        found = torch.cat([self._located(part) for (part,) in in_cache(PHOTOS, flat)])
        return latitude_longitude(found.double().cpu().numpy())

    def _located(self, flat: Tensor) -> Tensor:
        by_degree = self.decoder.rotation.by_degree(flat)
        place = self._first_guess(flat, by_degree)
        going = torch.arange(len(place), device=place.device)
        for _ in range(self.steps):
            step = self._uphill(by_degree.index_select(1, going), place[going])
            place[going] = walked(place[going], step)
            going = going[step.norm(dim=1) > ARRIVED * self.decoder.radius]
            if not len(going):
                break
        return place

    def _uphill(self, by_degree: Tensor, place: Tensor) -> Tensor:
        """Newton's step on the score ``(B, 2)``; the score's unit does not matter to it."""
        disc = self.decoder.disc
        field = disc(self.decoder.rotation.tilted(by_degree, place)).flatten(1)
        field += self.decoder.log_base_at(disc.around(place))
        step: Tensor = self.decoder.kernel(_relative(field)).step
        return step

    def _first_guess(self, flat: Tensor, by_degree: Tensor) -> Tensor:
        field = self.thin.synthesis(flat).flatten(1).add_(self.log_base)
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
        """Peaks ``(B, 3)`` near nodes ``(B, 1)``, by index."""
        start, reach = self.thin.nodes[peak], 2.0 * self.spacing
        return climb(by_degree, start, height, self.decoder.rotation, reach).vectors[:, 0]


def _relative(field: Tensor) -> Tensor:
    """Exp of fields ``(B, nodes)``, 1 at the highest node; in place."""
    return field.sub_(field.amax(1, keepdim=True)).clamp_(min=FLOOR).exp_()


def _neighbourhoods(mass: Tensor) -> Tensor:
    """Sums of ``(B, rows, columns)`` over 3 × 3 nodes.

    Columns go round; the first and the last row take their neighbour's sums.
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
