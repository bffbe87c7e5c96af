"""The Parquet files of one shard: predictions, errors and, if asked for, regions and thumbnails.

Rows of the layers with places are in the order of Hilbert's curve over the map, in groups that each
cover a small area: a reader that wants one country skips most of a file. Knows no Beam.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from locdiffusion.geography.countries import country_codes
from locdiffusion.geography.polygons import PolygonIndex, file_identity
from locdiffusion.sphere.hilbert import hilbert_index
from pipelines.geotag.batches import Failure, GalleryPlace, PhotoBatch, ShardRows, shard_rows
from schemas.geotags import HYBRID_COLUMNS, OPTIONAL_COLUMNS, error_table, prediction_table
from schemas.layers import Region, region_table, thumbnail_table

PREDICTIONS, ERRORS, REGIONS, THUMBNAILS = "predictions", "errors", "regions", "thumbnails"
LAYERS = (PREDICTIONS, ERRORS, REGIONS, THUMBNAILS)

FAILED = REGIONS_FAILED, HYBRID_FAILED = ("regions_failed", "hybrid_failed")
"""Fields of a manifest: how many photos got a prediction and not this, by reason."""

ROW_GROUP_ROWS = {PREDICTIONS: 5_000, ERRORS: 5_000, REGIONS: 1_000, THUMBNAILS: 1_000}

WIDE_DEG = 90.0
"""Regions whose box is wider come after all others."""


@dataclass(frozen=True)
class Extras:
    """What a run writes besides points, their uncertainty and their country.

    Attributes:
        regions: Whether to draw credible regions.
        thumbnails: How many photos of each shard get one, at most.
        admin: A file of polygons, path or URL, whose names fill the column `admin`.
        admin_name: Which column of that file holds them; None where it is plain.
        hybrid: Whether the Geotagger has a gallery, whose answers go into HYBRID_COLUMNS.
    """

    regions: bool = False
    thumbnails: int = 0
    admin: str | None = None
    admin_name: str | None = None
    hybrid: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The folders that get a file for each shard."""
        wanted = {REGIONS: self.regions, THUMBNAILS: self.thumbnails > 0}
        return tuple(layer for layer in LAYERS if wanted.get(layer, True))

    def settings(self) -> dict[str, Any]:
        """What a run records of them: nothing of what is not asked for, or known otherwise.

        Raises:
            PolygonError: There is no such file.
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
            PolygonError: The file, or the column, cannot be used.
        """
        return None if self.admin is None else _units(self.admin, self.admin_name)


@functools.lru_cache(maxsize=1)
def _units(path: str, column: str | None) -> PolygonIndex:
    return PolygonIndex.from_file(path, column)


@dataclass(frozen=True)
class ShardTables:
    """What is written of a shard.

    Attributes:
        tables: By layer.
        failed: Those of FAILED that were asked for: photos by reason.
    """

    tables: Mapping[str, pa.Table]
    failed: Mapping[str, Mapping[str, int]]


def shard_tables(model_id: str, batches: Sequence[PhotoBatch], extras: Extras) -> ShardTables:
    """Builds the tables of one shard.

    Args:
        model_id: In every prediction.
        batches: All of one shard, in any order, decoded.
        extras: What is wanted.
    """
    ordered = sorted(batches, key=lambda batch: batch.index)
    shard, ending = ordered[-1].shard.id, ordered[-1].ending
    rows = _in_spatial_order(shard_rows(ordered))
    answers, places, regions = rows.decoded.answers, rows.decoded.places, rows.decoded.regions
    columns: dict[str, Any] = {
        "key": rows.keys,
        **answers.numbers(),
        "modes": answers.modes,
        **dict(zip(OPTIONAL_COLUMNS, rows.positions.T, strict=True)),
        "country_code": country_codes(answers.latitude, answers.longitude),
    }
    if (units := extras.admin_units()) is not None:
        columns["admin"] = units(answers.latitude, answers.longitude)
    failed = {}
    if extras.hybrid:
        columns |= _place_columns(places or [])
        failed[HYBRID_FAILED] = _reasons(places or [])
    tables = {
        PREDICTIONS: prediction_table(shard, model_id, columns),
        ERRORS: error_table(shard, (error for batch in ordered for error in batch.errors)),
    }
    if REGIONS in extras.layers:
        tables[REGIONS] = _region_table(shard, rows.keys, regions or [])
        failed[REGIONS_FAILED] = _reasons(regions or [])
    if THUMBNAILS in extras.layers:
        predicted = set(rows.keys)
        found = ending.thumbnails if ending else ()
        kept = [thumbnail for thumbnail in found if thumbnail.key in predicted]
        tables[THUMBNAILS] = thumbnail_table(shard, kept)
    return ShardTables(tables, failed)


def _reasons(results: Sequence[object]) -> dict[str, int]:
    """How many results failed, by reason."""
    failures = (result.reason for result in results if isinstance(result, Failure))
    return dict(sorted(Counter(failures).items()))


def _place_columns(places: Sequence[GalleryPlace | Failure]) -> dict[str, np.ndarray]:
    """HYBRID_COLUMNS in degrees, NaN where there is no place."""
    nowhere = (np.nan, np.nan)
    degrees = [nowhere if isinstance(place, Failure) else place for place in places]
    table = np.array(degrees, np.float64).reshape(len(places), len(HYBRID_COLUMNS))
    return dict(zip(HYBRID_COLUMNS, table.T, strict=True))


def _region_table(
    shard: str, keys: Sequence[str], regions: Sequence[tuple[Region, ...] | Failure]
) -> pa.Table:
    """Regions in the order of the photos, but those with wide boxes last.

    A box across the map, as at the antimeridian, would widen the box of its whole row group.
    """
    rows = [
        (key, region)
        for key, found in zip(keys, regions, strict=True)
        if not isinstance(found, Failure)
        for region in found
    ]
    rows.sort(key=lambda row: row[1].bounds[2] - row[1].bounds[0] > WIDE_DEG)
    return region_table(shard, rows)


def _in_spatial_order(rows: ShardRows) -> ShardRows:
    """Rows along Hilbert's curve; at one place by key."""
    answers = rows.decoded.answers
    place = hilbert_index(answers.latitude, answers.longitude).tolist()
    order = sorted(range(len(rows)), key=lambda row: (place[row], rows.keys[row]))
    return rows.take(np.array(order, np.int64))


def parquet_bytes(layer: str, table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """A table of a layer as a Parquet file with more metadata."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS[layer], compression="zstd")
    return bytes(buffer.getvalue())
