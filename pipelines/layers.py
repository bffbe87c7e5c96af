"""The Parquet files of one shard: predictions, errors and, if asked for, regions and thumbnails.

Rows of the layers with places are in the order of Hilbert's curve over the map, in groups that each
cover a small area: a reader that wants one country skips most of a file. Knows no Beam.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.countries import country_codes
from locdiffusion.polygons import PolygonIndex, file_identity
from locdiffusion.sphere.hilbert import hilbert_index
from pipelines.batches import REGIONS as REGION_COLUMN
from pipelines.batches import Columns, PhotoBatch, shard_columns
from schemas.geotags import error_table, prediction_table
from schemas.layers import Region, region_table, thumbnail_table

PREDICTIONS, ERRORS, REGIONS, THUMBNAILS = "predictions", "errors", "regions", "thumbnails"
LAYERS = (PREDICTIONS, ERRORS, REGIONS, THUMBNAILS)

ROW_GROUP_ROWS = {PREDICTIONS: 5_000, ERRORS: 5_000, REGIONS: 1_000, THUMBNAILS: 1_000}

WIDE_DEG = 90.0
"""Regions whose box is wider come after all others."""


@dataclass(frozen=True)
class Extras:
    """What a run writes besides points, their uncertainty and their country.

    Attributes:
        regions: whether to draw credible regions.
        thumbnails: how many photos of each shard get one, at most.
        admin: a file of polygons, path or URL, whose names fill the column `admin`.
        admin_name: which column of that file holds them; None where it is plain.
    """

    regions: bool = False
    thumbnails: int = 0
    admin: str | None = None
    admin_name: str | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The folders that get a file for each shard."""
        wanted = {REGIONS: self.regions, THUMBNAILS: self.thumbnails > 0}
        return tuple(layer for layer in LAYERS if wanted.get(layer, True))

    def settings(self) -> dict[str, Any]:
        """What a run records of them: nothing of what is not asked for.

        Raises:
            PolygonError: there is no such file.
        """
        told: dict[str, Any] = {}
        if self.regions:
            told["regions"] = True
        if self.thumbnails:
            told["thumbnails"] = self.thumbnails
        if self.admin is not None:
            told["admin"] = file_identity(self.admin)
        if self.admin_name is not None:
            told["admin_name"] = self.admin_name
        return told

    def admin_units(self) -> PolygonIndex | None:
        """The polygons of `admin`; read once per process.

        Raises:
            PolygonError: the file, or the column, cannot be used.
        """
        return None if self.admin is None else _units(self.admin, self.admin_name)


@functools.lru_cache(maxsize=1)
def _units(path: str, column: str | None) -> PolygonIndex:
    return PolygonIndex.from_file(path, column)


@dataclass(frozen=True)
class ShardTables:
    """What is written of a shard.

    Attributes:
        tables: by layer.
        regions_failed: how many photos got a prediction but no regions, by reason.
    """

    tables: Mapping[str, pa.Table]
    regions_failed: Mapping[str, int]


def shard_tables(model_id: str, batches: Sequence[PhotoBatch], extras: Extras) -> ShardTables:
    """Builds the tables of one shard.

    Args:
        model_id: in every prediction.
        batches: all of one shard, in any order, decoded.
        extras: what is wanted.
    """
    ordered = sorted(batches, key=lambda batch: batch.index)
    shard = ordered[-1].shard.id
    columns = _in_spatial_order(shard_columns(ordered))
    columns |= _names_of_places(columns, extras)
    keys = columns["key"].tolist()
    tables = {
        PREDICTIONS: prediction_table(shard, model_id, columns),
        ERRORS: error_table(shard, (error for batch in ordered for error in batch.errors)),
    }
    failed: dict[str, int] = {}
    if REGIONS in extras.layers:
        rows: list[tuple[str, Region]] = []
        for key, regions in zip(keys, columns.get(REGION_COLUMN, ()), strict=True):
            if isinstance(regions, str):
                failed[regions] = failed.get(regions, 0) + 1
            else:
                rows += [(key, region) for region in regions]
        # Boxes across the map, as at the antimeridian, must not widen every group: they come last.
        rows.sort(key=lambda row: row[1].bounds[2] - row[1].bounds[0] > WIDE_DEG)
        tables[REGIONS] = region_table(shard, rows)
    if THUMBNAILS in extras.layers:
        ending = ordered[-1].ending
        found = ending.thumbnails if ending else ()
        predicted = set(keys)
        kept = [thumbnail for thumbnail in found if thumbnail.key in predicted]
        tables[THUMBNAILS] = thumbnail_table(shard, kept)
    return ShardTables(tables, dict(sorted(failed.items())))


def _in_spatial_order(columns: Columns) -> Columns:
    """Rows along Hilbert's curve; at one place by key."""
    place = hilbert_index(columns["latitude"], columns["longitude"]).tolist()
    keys = columns["key"].tolist()
    order = np.array(sorted(range(len(keys)), key=lambda row: (place[row], keys[row])), np.int64)
    return {name: column[order] for name, column in columns.items()}


def _names_of_places(columns: Columns, extras: Extras) -> Columns:
    """Country and administrative unit of each point, None where it has none."""
    points = columns["latitude"], columns["longitude"]
    units = extras.admin_units()
    named = {"country_code": country_codes(*points)}
    if units is not None:
        named["admin"] = units(*points)
    return {name: np.array(values, dtype=object) for name, values in named.items()}


def parquet_bytes(layer: str, table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """A table of a layer as a Parquet file with more metadata."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS[layer], compression="zstd")
    return bytes(buffer.getvalue())
