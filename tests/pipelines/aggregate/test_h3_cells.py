"""The arithmetic of H3 cells agrees with the library of H3, and its polygons tile the Earth."""

from __future__ import annotations

import h3
import numpy as np
import pyarrow as pa
import pytest
import shapely
from numpy.testing import assert_allclose

from pipelines.aggregate import cells as c


def some(resolution: int, count: int = 60) -> list[str]:
    rng = np.random.default_rng(resolution)
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    longitude = rng.uniform(-180, 180, count)
    found = {h3.latlng_to_cell(y, x, resolution) for y, x in zip(latitude, longitude, strict=True)}
    return sorted({*found, *h3.get_pentagons(resolution)})


@pytest.mark.parametrize("resolution", [0, 1, 4, 7, 15])
def test_parents_children_and_leaves_are_those_of_the_library(resolution: int) -> None:
    texts = some(resolution)
    cells = c.parse_cells(pa.array(texts))
    assert c.cell_texts(cells) == texts
    assert set(c.resolutions(cells)) == {resolution}
    assert c.pentagons(cells).tolist() == [h3.is_pentagon(text) for text in texts]
    for coarse in range(resolution + 1):
        parents = [h3.cell_to_parent(text, coarse) for text in texts]
        assert c.cell_texts(c.parents(cells, coarse)) == parents
    if resolution == 15:
        return
    finer = resolution + 1
    children, row = c.children(cells)
    wanted = [(i, one) for i, t in enumerate(texts) for one in h3.cell_to_children(t, finer)]
    assert sorted(zip(row, c.cell_texts(children), strict=True)) == sorted(wanted)
    counts = [h3.cell_to_children_size(text, finer) for text in texts]
    assert c.leaf_counts(cells, finer).tolist() == counts


def test_depth_first_a_cell_stands_before_all_that_lie_in_it() -> None:
    texts = [text for resolution in range(5) for text in some(resolution, 20)]
    texts += [h3.cell_to_parent(text, 2) for text in texts if h3.get_resolution(text) > 2]
    cells = np.unique(c.parse_cells(pa.array(texts)))
    cells = cells[np.argsort(c.depth_first(cells))]
    order = c.depth_first(cells)
    end = np.searchsorted(order, c.after(cells))
    for i, cell in enumerate(c.cell_texts(cells)):
        level = h3.get_resolution(cell)
        inside = [
            h3.get_resolution(other) >= level and h3.cell_to_parent(other, level) == cell
            for other in c.cell_texts(cells)
        ]
        assert np.flatnonzero(inside).tolist() == list(range(i, end[i]))


def test_polygons_tile_the_plane_of_degrees_with_poles_and_antimeridian() -> None:
    every = c.parse_cells(
        pa.array([one for base in h3.get_res0_cells() for one in h3.cell_to_children(base, 2)])
    )
    shapes = c.cell_polygons(every)
    assert shapely.is_valid(shapes).all()
    assert_allclose(shapely.area(shapes).sum(), 360 * 180)
    assert_allclose(shapely.area(shapely.union_all(shapes)), 360 * 180)
    assert_allclose(c.cell_areas_km2(every).sum(), 5.101e8, rtol=1e-3)


@pytest.mark.parametrize("text", ["", "x" * 15, "0" * 15, "8" * 15, "84098bfffffffff0", "NO"])
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no H3 cell in 15 hexadecimal digits"):
        c.parse_cells(pa.array(["8009fffffffffff", text]))
