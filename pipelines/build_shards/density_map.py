"""Draws `density.png`: the number of photos per cell of the globe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from locdiffusion.drawing.canvas import new_figure, png
from locdiffusion.drawing.palette import FAINT, INK
from locdiffusion.drawing.world_map import draw_world, equal_earth
from pipelines.build_shards.equal_area_cells import Cells

CELLS = Cells(1.0)
"""Cells of the map; those of `--cell-cap` would be too small to be seen."""


def draw_density(counts: Mapping[int, int], title: str) -> bytes:
    """Draws photos per cell on a world map.

    Returns:
        PNG, equal for equal counts.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm

    figure = new_figure(12, 6.4)
    axes = figure.add_axes((0.015, 0.02, 0.89, 0.86))
    draw_world(axes)
    index = np.array(sorted(counts), np.int64)
    photos = np.array([counts[number] for number in index.tolist()], np.float64)
    if len(index):
        cells = PolyCollection(
            list(_outlines(index)),
            array=photos,
            cmap="inferno_r",
            norm=LogNorm(1, max(photos.max(), 2)),
            linewidths=0,
            zorder=2,
        )
        axes.add_collection(cells)
        bar = figure.colorbar(cells, cax=figure.add_axes((0.925, 0.15, 0.015, 0.6)))
        bar.set_label("photos per cell of 111 km", color=INK)
    figure.text(0.025, 0.935, title, fontsize=17, weight="bold", color=INK)
    told = f"{int(photos.sum()):,} photos in {len(index):,} cells of {int(CELLS.columns.sum()):,}"
    figure.text(0.025, 0.892, told, fontsize=11, color=FAINT)
    return png(figure)


def _outlines(index: np.ndarray) -> np.ndarray:
    latitude, longitude = CELLS.centres(index)
    band = np.floor((latitude + 90) / 180 * CELLS.bands).astype(np.int64)
    half_height, half_width = 90 / CELLS.bands, 180 / CELLS.columns[band]
    corners = [
        equal_earth(longitude + x * half_width, latitude + y * half_height)
        for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    return np.stack([np.stack(corner, -1) for corner in corners], 1)
