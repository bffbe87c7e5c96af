"""The numbers of an aggregate: areas with their borders, and how many photos each holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from locdiffusion.geography.polygons import value_raster
from pipelines.aggregate.borders import Borders
from pipelines.aggregate.cells import cell_areas_km2, cell_polygons, cell_texts
from pipelines.aggregate.moments import CellSums, pushed_down
from pipelines.aggregate.partial_sums import SUMS, PartialSums
from schemas.aggregates import REST_COARSER, aggregate_table

MOST_CELLS = 3_000_000
"""Most cells of a class; coarse cells whose spreading would make more are a rest."""


@dataclass(frozen=True)
class Aggregate:
    """The rows of an aggregate.

    Attributes:
        areas: Names of the areas, A of them.
        shapes: Their polygons, ``(A,)``; None where the borders are not known.
        area_km2: Their areas, ``(A,)``; NaN without borders.
        rows: Table with the columns `area`, `rest`, `by`, `photos_expected`, `standard_error` and
            `at`, the number of the area; rests come last.
        photos: Number of photos of each class; None is the name of photos without one, and of all
            where there are no classes.
    """

    areas: list[str]
    shapes: NDArray[np.object_]
    area_km2: NDArray[np.float64]
    rows: pa.Table
    photos: dict[str | None, int]

    @property
    def total(self) -> int:
        """Number of photos."""
        return sum(self.photos.values())

    def missing(self) -> float:
        """How many photos the numbers of a class add up to too many or too few, at most."""
        sums = self.rows.group_by("by").aggregate([("photos_expected", "sum")]).to_pydict()
        found = dict(zip(sums["by"], sums["photos_expected_sum"], strict=True))
        return max((abs(found.get(by, 0.0) - n) for by, n in self.photos.items()), default=0.0)

    def by_class(self, name: str) -> tuple[list[str | None], NDArray[np.float64]]:
        """Spreads a column of the rows of areas out by class.

        Args:
            name: The column.

        Returns:
            The classes, those with the most photos first, and the values ``(classes, A)``.
        """
        classes = sorted(self.photos, key=lambda by: (-self.photos[by], by is None, by or ""))
        number = {by: i for i, by in enumerate(classes)}
        values = np.zeros((len(classes), len(self.areas)))
        inside = self.rows.filter(pc.field("at") >= 0)
        row = [number[by] for by in inside["by"].to_pylist()]
        values[row, np.asarray(inside["at"])] = np.asarray(inside[name])
        return classes, values

    def all_classes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Adds up classes: expected number and standard error of each area, ``(A,)`` each."""
        _, expected = self.by_class("photos_expected")
        _, error = self.by_class("standard_error")
        return expected.sum(axis=0), np.sqrt((error**2).sum(axis=0))

    def table(self) -> pa.Table:
        """Builds the table of `schemas.aggregates`."""
        at = np.asarray(self.rows["at"])
        drawn = np.array([shape is not None for shape in self.shapes], bool)
        wkb = np.full(len(self.areas) + 1, None, object)
        wkb[:-1][drawn] = shapely.to_wkb(self.shapes[drawn], byte_order=1, flavor="iso")
        boxes: list[Any] = [None] * (len(self.areas) + 1)
        for row, box in zip(np.flatnonzero(drawn), shapely.bounds(self.shapes[drawn]), strict=True):
            boxes[row] = box
        km2 = np.append(self.area_km2, math.nan)[at]
        expected = np.asarray(self.rows["photos_expected"])
        columns = {
            **{name: self.rows[name] for name in self.rows.column_names if name != "at"},
            "area_km2": km2,
            "photos_per_km2": expected / km2,
        }
        columns = {
            name: one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one
            for name, one in columns.items()
        }
        return aggregate_table(columns, wkb[at].tolist(), [boxes[i] for i in at.tolist()])

    def raster(self, pixel_deg: float) -> NDArray[np.float64]:
        """Rasters how many photos are expected per km², of all classes.

        Args:
            pixel_deg: Size of a pixel in degrees, of which a whole number makes 180.

        Returns:
            Densities, ``(180 / pixel_deg, 360 / pixel_deg)``.
        """
        rows = round(180.0 / pixel_deg)
        expected, _ = self.all_classes()
        shown = np.isfinite(self.area_km2) & (expected > 0)
        density = expected[shown] / self.area_km2[shown]
        return value_raster(self.shapes[shown], density, rows, 2 * rows)

    def chosen(self, most: int) -> Aggregate:
        """Keeps the areas with borders in which the most photos are expected."""
        expected, _ = self.all_classes()
        drawn = np.array([shape is not None for shape in self.shapes], bool)
        order = np.argsort(-np.where(drawn, expected, -1.0), kind="stable")
        kept = np.sort(order[: min(most, int(drawn.sum()))])
        new = np.full(len(self.areas) + 1, -1)
        new[kept] = np.arange(len(kept))
        at = new[np.asarray(self.rows["at"])]
        rows = self.rows.set_column(self.rows.column_names.index("at"), "at", pa.array(at))
        return dataclasses.replace(
            self,
            areas=[self.areas[i] for i in kept.tolist()],
            shapes=self.shapes[kept],
            area_km2=self.area_km2[kept],
            rows=rows,
        )


def aggregate_of(sums: PartialSums, resolution: int | None, borders: Borders) -> Aggregate:
    """Makes an aggregate of sums over all photos.

    Args:
        sums: The sums, with those of groups in them.
        resolution: Resolution of the cells that are asked for; None where areas have names.
        borders: The polygons of areas with names.
    """
    table = sums.sums
    if resolution is not None:
        table = pa.concat_tables([SUMS.empty_table(), *_leaves(table, resolution)])
    table = table.sort_by([(name, "ascending") for name in ("cell", "area", "rest", "by")])
    cells = table["cell"].drop_null().unique()
    indices = np.asarray(cells, np.uint64)
    names = [name for name in table["area"].unique().to_pylist() if name is not None]
    at = pc.fill_null(
        pc.coalesce(
            pc.index_in(table["cell"], value_set=cells),
            pc.add(pc.index_in(table["area"], value_set=pa.array(names, pa.string())), len(cells)),
        ),
        -1,
    ).cast(pa.int64())
    texts = pa.array(cell_texts(indices), pa.string())
    area = pc.coalesce(
        texts.take(pc.index_in(table["cell"], value_set=cells).combine_chunks()), table["area"]
    )
    shapes, km2 = borders.of(names)
    variance = np.clip(np.asarray(table["variance"]), 0.0, None)
    rows = pa.table(
        {
            "area": area,
            "rest": table["rest"],
            "by": table["by"],
            "photos_expected": table["mass"],
            "standard_error": np.sqrt(variance),
            "at": at,
        }
    )
    counts = sums.counts.to_pydict()
    return Aggregate(
        areas=[*texts.to_pylist(), *names],
        shapes=np.concatenate([cell_polygons(indices), shapes]),
        area_km2=np.concatenate([cell_areas_km2(indices), km2]),
        rows=rows,
        photos=dict(zip(counts["by"], counts["photos"], strict=True)),
    )


def _leaves(table: pa.Table, resolution: int) -> Sequence[pa.Table]:
    """Pushes the sums of cells down to leaves, class by class; other rows stay."""
    parts = [table.filter(pc.is_null(table["cell"]))]
    within = table.filter(pc.is_valid(table["cell"]))
    classes = within["by"].unique()
    number = np.asarray(pc.index_in(within["by"], value_set=classes, skip_nulls=False))
    for i, by in enumerate(classes):
        rows = within.filter(pa.array(number == i))
        sums = CellSums(*(np.asarray(rows[name]) for name in ("cell", "mass", "variance")))
        leaves, left = pushed_down(sums, resolution, MOST_CELLS)
        parts.append(_rows(by, leaves.cells, leaves.mass, leaves.variance))
        if len(left.cells):
            # Its standard error is not known: owners are no longer kept apart.
            mass = np.array([left.mass.sum()])
            parts.append(_rows(by, None, mass, np.full(1, math.nan)))
    return parts


def _rows(
    by: pa.Scalar,
    cells: NDArray[np.uint64] | None,
    mass: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> pa.Table:
    nothing = pa.nulls(len(mass), pa.string())
    return pa.table(
        [
            pa.repeat(by, len(mass)),
            pa.nulls(len(mass), pa.uint64()) if cells is None else pa.array(cells, pa.uint64()),
            nothing,
            nothing if cells is not None else pa.repeat(REST_COARSER, len(mass)),
            mass,
            variance,
        ],
        schema=SUMS,
    )
