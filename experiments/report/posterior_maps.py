"""Draws posterior maps: each photo beside its density, with truth and answer.

A rule chooses the photos: those at evenly spaced quantiles of the errors of their split.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from experiments.report.answers import Answered
from locdiffusion.card.views import density_style, half_width_km, offset_km
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.density.base_measure import LAND
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.drawing.palette import ANSWER, COAST, DENSITY, FRAME, INK, PALE_LAND, SEA, TRUTH
from locdiffusion.inference import Answerer, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.sphere.geodesy import destination, unit_vectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 121
MIN_HALF_KM, MAX_HALF_KM = 400.0, 4000.0
VISIBLE_KM = 20.0
"""Size of a pixel above which each place is painted three pixels wide, to be visible."""


@dataclass(frozen=True)
class Pick:
    """One photo of the figure.

    Attributes:
        split, key: Split and key of the photo.
        quantile: Quantile of the split's errors at which it was chosen.
        row: Row of the photo in the split's answers.
        answered: Answers of the split.
    """

    split: str
    key: str
    quantile: float
    row: int
    answered: Answered

    @property
    def truth(self) -> tuple[float, float]:
        """True latitude and longitude in degrees."""
        return float(self.answered.latitude[self.row]), float(self.answered.longitude[self.row])

    @property
    def answer(self) -> tuple[float, float]:
        """Answered latitude and longitude in degrees."""
        said = self.answered.predictions
        return float(said.latitude[self.row]), float(said.longitude[self.row])

    @property
    def error_km(self) -> float:
        """Distance between truth and answer in kilometres."""
        return float(self.answered.errors_km[self.row])

    @property
    def title(self) -> str:
        """Title: split, key and error of the answer."""
        where = f"{self.split}, {100 * self.quantile:.0f} % quantile of the error"
        return f"{where}: {self.error_km:,.0f} km"

    @property
    def radii_km(self) -> tuple[float, float]:
        """Stated 50 % and 90 % radii in kilometres."""
        said = self.answered.predictions
        return float(said.radius_50_km[self.row]), float(said.radius_90_km[self.row])


def pick(answered: Mapping[str, Answered], count: int) -> list[Pick]:
    """Picks about `count` photos, the same number per split, at even quantiles of its errors.

    Args:
        answered: Answers of our model by split.
        count: Number of photos in all.
    """
    each = max(1, count // max(1, len(answered)))
    picks = []
    for split, part in answered.items():
        order = np.argsort(part.errors_km, kind="stable")
        for i in range(min(each, len(order))):
            quantile = (i + 0.5) / each
            row = int(order[min(len(order) - 1, int(quantile * len(order)))])
            picks.append(Pick(split, part.keys[row], quantile, row, part))
    return picks


def find_images(shards: Sequence[str], keys: set[str]) -> dict[str, Image.Image]:
    """Reads photos by their keys from shards.

    Raises:
        ValueError: A key is in none of the shards.
    """
    found: dict[str, Image.Image] = {}
    for shard in shards:
        if keys <= set(found):
            break
        for sample, _ in read_samples(shard):
            if sample.key in keys and sample.image is not None:
                with Image.open(io.BytesIO(sample.image)) as opened:
                    found[sample.key] = opened.convert("RGB")
    missing = sorted(keys - set(found))
    if missing:
        raise ValueError(f"Photo {missing[0]!r} is in none of {len(shards)} shards; want its own.")
    return found


class Posteriors:
    """Computes log densities of photos at any places, as the product does."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.answerer = checkpoint, Answerer.of_checkpoint(checkpoint)

    def log_density(
        self, embedding: NDArray[np.float32], vectors: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Computes the log density in nats per km² at ``(M, 3)`` for one embedding ``(E,)``."""
        natural = natural_parameters(self.checkpoint.denoiser, embedding[None])
        photo = natural[:, None], vectors, torch.from_numpy(embedding[None])
        return self.answerer.log_density_at(*photo) - LOG_SPHERE_AREA_KM2


def draw(
    path: Path,
    picks: Sequence[Pick],
    photos: Mapping[str, EmbeddedPhotos],
    images: Mapping[str, Image.Image],
    checkpoint: Checkpoint,
) -> None:
    """Draws photo, density around the answer, and density over the world, two photos a row.

    Args:
        path: PNG file to write.
        picks: Photos to draw.
        photos: Embeddings by split.
        images: Images by key.
        checkpoint: Checkpoint that answers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    posteriors = Posteriors(checkpoint)
    rows = (len(picks) + 1) // 2
    height = 0.5 + 2.35 * rows
    figure = Figure(figsize=(15.2, height), facecolor="white")
    FigureCanvasAgg(figure)
    edges = {"left": 0.01, "right": 0.99, "bottom": 0.006, "top": 1 - 0.75 / height}
    widths = (1, 1, 2, 0.1, 1, 1, 2)
    grid = figure.add_gridspec(rows, 7, width_ratios=widths, hspace=0.2, wspace=0.04, **edges)
    for i, chosen in enumerate(picks):
        photo, near, world = (
            figure.add_subplot(grid[i // 2, 4 * (i % 2) + column]) for column in range(3)
        )
        embedding = photos[chosen.split].embeddings[photos[chosen.split].keys.index(chosen.key)]
        photo.imshow(images[chosen.key])
        photo.set_axis_off()
        photo.set_title(chosen.title, loc="left", fontsize=9.5, color=INK, pad=4)
        _draw_near(near, chosen, posteriors, embedding)
        _draw_world(world, chosen, posteriors, embedding)
    _legend(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=TRUTH, marker="o", mfc="none", mew=1.8, ls="none"),
        Line2D([], [], color=ANSWER, marker="x", mew=2.0, ls="none"),
        Line2D([], [], color=ANSWER, lw=1.4),
        Line2D([], [], color=ANSWER, lw=1.4, ls=(0, (4, 3))),
        Line2D([], [], color=DENSITY[-1][:7], marker="s", ls="none"),
    ]
    labels = ["truth", "answer", "50 % radius", "90 % radius", "probability density"]
    figure.legend(marks, labels, loc="upper left", ncols=5, frameon=False, fontsize=10)


def _draw_near(
    axes: Axes, chosen: Pick, posteriors: Posteriors, embedding: NDArray[np.float32]
) -> None:
    """Draws a window in azimuthal equidistant projection, where circles stay circles."""
    from scipy.ndimage import maximum_filter

    half = half_width_km(chosen.radii_km[1], chosen.error_km, MIN_HALF_KM, MAX_HALF_KM)
    side = np.linspace(-half, half, SIZE)
    x, y = np.meshgrid(side, side)
    latitude, longitude = destination(*chosen.answer, np.degrees(np.arctan2(x, y)), np.hypot(x, y))
    vectors = unit_vectors(latitude, longitude).reshape(-1, 3)
    density = np.exp(posteriors.log_density(embedding, vectors)).reshape(x.shape)
    if 2.0 * half / SIZE > VISIBLE_KM:
        density = maximum_filter(density, 3)
    _paint(axes, x, y, land_share(vectors).reshape(x.shape), density)
    for radius, style in zip(chosen.radii_km, ("-", (0, (4, 3))), strict=True):
        turn = np.linspace(0, 2 * np.pi, 181)
        axes.plot(radius * np.sin(turn), radius * np.cos(turn), color=ANSWER, lw=1.2, ls=style)
    axes.plot(0, 0, "x", color=ANSWER, ms=7, mew=1.8)
    east, north = offset_km(chosen.answer, chosen.truth)
    axes.plot(east, north, "o", color=TRUTH, mfc="none", ms=8, mew=1.8)
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[], yticks=[])
    axes.text(0.03, 0.03, f"{2 * half:,.0f} km", transform=axes.transAxes, fontsize=8, color=INK)


def _draw_world(
    axes: Axes, chosen: Pick, posteriors: Posteriors, embedding: NDArray[np.float32]
) -> None:
    from scipy.ndimage import maximum_filter

    x, y = np.meshgrid(np.arange(-179.0, 180.0, 2.0), np.arange(-89.0, 90.0, 2.0))
    vectors = unit_vectors(y, x).reshape(-1, 3)
    density = np.exp(posteriors.log_density(embedding, vectors)).reshape(x.shape)
    _paint(axes, x, y, land_share(vectors).reshape(x.shape), maximum_filter(density, 3))
    axes.plot(*chosen.answer[::-1], "x", color=ANSWER, ms=4.5, mew=1.1)
    axes.plot(*chosen.truth[::-1], "o", color=TRUTH, mfc="none", ms=8, mew=1.3)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal", xticks=[], yticks=[])


def _paint(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    land: NDArray[np.float64],
    density: NDArray[np.float64],
) -> None:
    """Paints land, density down to a thousandth of its peak, and coast."""
    from matplotlib.colors import ListedColormap

    ground = ListedColormap([SEA, PALE_LAND])
    axes.pcolormesh(x, y, land > 0.5, cmap=ground, vmin=0, vmax=1, rasterized=True)
    style = density_style(float(density.max()))
    axes.pcolormesh(x, y, density, rasterized=True, zorder=2, **style)
    if land.min() < 0.5 < land.max():
        axes.contour(x, y, land, [0.5], colors=COAST, linewidths=0.6, zorder=3)
    axes.spines[:].set_color(FRAME)


def land_share(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolates the land raster at unit vectors ``(M, 3)``: share of land ``(M,)``."""
    with Image.open(LAND) as image:
        raster = np.asarray(image, np.float64) / 255.0
    rows, columns = raster.shape
    row = (1.0 - vectors[:, 2]) * rows / 2.0 - 0.5
    column = (np.arctan2(vectors[:, 1], vectors[:, 0]) + np.pi) * columns / (2.0 * np.pi) - 0.5
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = row - top, column - left
    above, below = top.clip(0, rows - 1), (top + 1).clip(0, rows - 1)
    west, east = left % columns, (left + 1) % columns
    upper = raster[above, west] * (1 - right) + raster[above, east] * right
    lower = raster[below, west] * (1 - right) + raster[below, east] * right
    share: NDArray[np.float64] = upper * (1 - down) + lower * down
    return share
