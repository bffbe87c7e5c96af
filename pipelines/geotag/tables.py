"""The Parquet files of one shard: predictions, errors and the layers that are asked for.

Rows with places follow Hilbert's curve over the map, so that each row group covers a small area and
a reader that wants one country skips most of a file. Knows no Beam.
"""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.decoding.answers import area_columns
from locdiffusion.evaluate.known_positions import KINDS, known_positions
from locdiffusion.geography.borders import read_units
from locdiffusion.geography.countries import find_countries
from locdiffusion.geography.polygons import file_identity
from locdiffusion.geography.regions import find_regions
from locdiffusion.geography.units import Units
from locdiffusion.photos.capture_time import Capture
from locdiffusion.photos.kept_fields import without_places
from locdiffusion.photos.positions import PhotoPositions
from pipelines.geotag.area_rows import admin_columns, area_rows, kind_of, wanted_partitions
from pipelines.geotag.batches import PhotoBatch, ShardRows, shard_rows
from pipelines.geotag.hints import HintsOf, read_hints
from pipelines.geotag.kept_rows import (
    joined_areas,
    joined_predictions,
    joined_regions,
    spatial_order,
    wide,
)
from pipelines.geotag.late_results import Failure
from schemas.geotags import (
    BEST_COLUMNS,
    CAPTURE_COLUMNS,
    FAMILIARITY,
    HINTS_RIGHT,
    IDENTITY_COLUMNS,
    OPTIONAL_COLUMNS,
    PRIOR_MASS,
    BestSource,
    error_table,
    prediction_table,
)
from schemas.layers import Region, area_table, embedding_table, region_table, thumbnail_table

if TYPE_CHECKING:
    from locdiffusion.decoding.area_masses import Partitions

PREDICTIONS, ERRORS, REGIONS, THUMBNAILS = "predictions", "errors", "regions", "thumbnails"
AREAS, EMBEDDINGS = "areas", "embeddings"
LAYERS = (PREDICTIONS, ERRORS, REGIONS, AREAS, THUMBNAILS, EMBEDDINGS)

FAILED = (REGIONS_FAILED,) = ("regions_failed",)
"""Fields of a manifest: number of photos with a prediction whose extra failed, by reason."""

UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError, ArithmeticError, LookupError)
UNREADABLE += (TypeError, AttributeError, EOFError, RecursionError, zlib.error, pa.ArrowException)
"""What reading a file of ours may raise that is damaged or made up."""

ROW_GROUP_ROWS = {PREDICTIONS: 5_000, ERRORS: 5_000, REGIONS: 1_000, THUMBNAILS: 1_000}
ROW_GROUP_ROWS |= {AREAS: 50_000, EMBEDDINGS: 5_000}


_BEST_OF = {"truth": BestSource.DOCUMENT, "exif": BestSource.PHOTO}
_SOURCES = (BestSource.MODEL.value, *(_BEST_OF[kind].value for kind in KINDS))
"""Sources of best positions, by the number of a `known_positions` kind."""


@dataclass(frozen=True)
class Extras:
    """What a run writes besides points, their uncertainty and their country.

    Attributes:
        regions: Whether to draw credible regions.
        thumbnails: Most photos of each shard that get a thumbnail.
        admin: Path or URL of polygons whose names fill the column `admin`.
        admin_name: Column of that file with the names; None to find it.
        admin_code: Column of that file with the codes; None to take one if there is one.
        salvage: Whether pictures that break off are geotagged from the rows that are there.
        no_positions: Whether known positions, of EXIF and of documents, are left out, and with them
            the zones of times.
        embeddings: Whether embeddings are kept, in half precision, from which the run goes on.
        sha256: Whether the SHA-256 of each photo's bytes is kept.
        areas: Kinds of areas whose probabilities are written, see `schemas.layers.AreaKind`; H3
            with its finest resolution, as in `h3:4`.
        keep: Names of fields of documents that become columns.
        hints: Path or URL of a table of hints, see `pipelines.geotag.hints`.
        hints_right: Probability that a hint is right where the table does not say it.
    """

    regions: bool = False
    thumbnails: int = 0
    admin: str | None = None
    admin_name: str | None = None
    admin_code: str | None = None
    salvage: bool = False
    no_positions: bool = False
    embeddings: bool = False
    sha256: bool = False
    areas: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    hints: str | None = None
    hints_right: float = HINTS_RIGHT

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of which each shard gets a file."""
        wanted = {REGIONS: self.regions, THUMBNAILS: self.thumbnails > 0}
        wanted |= {AREAS: bool(self.areas), EMBEDDINGS: self.embeddings}
        return tuple(layer for layer in LAYERS if wanted.get(layer, True))

    def settings(self) -> dict[str, Any]:
        """What a run records of its extras: only those that are asked for.

        Raises:
            PolygonError: The file of `admin` cannot be read.
        """
        record = {
            "regions": self.regions,
            "thumbnails": self.thumbnails,
            "admin": self.admin and file_identity(self.admin),
            "admin_name": self.admin_name,
            "admin_code": self.admin_code,
            "salvage": self.salvage,
            "no_positions": self.no_positions,
            "embeddings": self.embeddings,
            "sha256": self.sha256,
            "areas": [*self.areas],
            "keep": list(self.keep),
            "hints": self.hints and file_identity(self.hints),
            "hints_right": self.hints and self.hints_right,
        }
        return {name: value for name, value in record.items() if value}

    def partitions(self) -> Partitions:
        """Builds the areas whose masses are wanted, once per process."""
        return wanted_partitions(self.admin_units(), self.areas)

    def decoding(self) -> tuple[Partitions, HintsOf | None]:
        """What is decoded besides points: masses of areas, and hints where there are any.

        Raises:
            DataError: The table of hints cannot be used.
        """
        if self.hints is None:
            return self.partitions(), None
        return self.partitions(), HintsOf(read_hints(self.hints), self.hints_right)

    def admin_units(self) -> Units | None:
        """Reads the polygons of `admin`, once per process.

        Raises:
            PolygonError: The file, or a column, cannot be used.
        """
        return None if self.admin is None else _units(self.admin, self.admin_name, self.admin_code)


@functools.lru_cache(maxsize=1)
def _units(path: str, column: str | None, code_column: str | None) -> Units:
    return read_units(path, column, code_column)


@dataclass(frozen=True)
class ShardTables:
    """What is written of a shard.

    Attributes:
        tables: Table of each layer.
        failed: Number of photos by reason, for those of FAILED that were asked for.
    """

    tables: Mapping[str, pa.Table]
    failed: Mapping[str, Mapping[str, int]]

    @property
    def estimates(self) -> int:
        """Number of photos with a position that this project wrote into them."""
        columns = (self.tables[PREDICTIONS][name] for name in ("exif_source", "truth_source"))
        pairs = zip(*(column.to_pylist() for column in columns), strict=True)
        return sum("estimate" in pair for pair in pairs)

    def unfamiliar(self, below: float | None) -> int:
        """Number of photos whose familiarity is below a share; None is no share."""
        familiarity = self.tables[PREDICTIONS][FAMILIARITY].drop_null().to_numpy()
        return 0 if below is None else int(np.sum(familiarity < below))


def shard_tables(model_id: str, batches: Sequence[PhotoBatch], extras: Extras) -> ShardTables:
    """Builds the tables of one shard from all its decoded batches, in any order."""
    ordered = sorted(batches, key=lambda batch: batch.index)
    shard, ending = ordered[-1].shard.id, ordered[-1].ending
    rows = _in_spatial_order(shard_rows(ordered))
    answers, regions = rows.decoded.answers, rows.decoded.regions
    places = answers.latitude, answers.longitude
    countries = find_countries(*places)
    columns: dict[str, Any] = {
        "key": rows.keys,
        **answers.numbers(),
        "modes": answers.modes,
        FAMILIARITY: [None] * len(rows) if answers.familiarity is None else answers.familiarity,
        PRIOR_MASS: answers.prior_mass or [None] * len(rows),
        **_identity_columns(rows.known),
        **_kept_columns(rows.known, extras),
        **(known := _known_columns(rows.known, extras.no_positions)),
        **_best_columns(known, answers.latitude, answers.longitude),
        "country_code": countries.codes,
        "country_found_by": countries.found_by,
        **area_columns(answers.areas, countries.codes, find_regions(*places, countries.codes)),
    }
    if (units := extras.admin_units()) is not None:
        columns |= admin_columns(answers.areas, units, *places)
    failed: dict[str, dict[str, int]] = {}
    tables = {
        PREDICTIONS: prediction_table(shard, model_id, columns, extras.keep),
        ERRORS: error_table(shard, (error for batch in ordered for error in batch.errors)),
    }
    if REGIONS in extras.layers:
        tables[REGIONS] = _region_table(shard, rows, regions or [])
        failed[REGIONS_FAILED] = _reasons(regions or [])
    if AREAS in extras.layers:
        tables[AREAS] = _area_table(shard, rows, extras)
    if kept := ending.kept if ending else None:
        failed = {name: _summed(failed[name], (kept.failed or {}).get(name, {})) for name in failed}
        tables[PREDICTIONS] = joined_predictions(kept.predictions, tables[PREDICTIONS])
    keys = tables[PREDICTIONS]["key"].to_pylist() if kept else rows.keys
    if kept and kept.regions is not None and REGIONS in tables:
        tables[REGIONS] = joined_regions(kept.regions, tables[REGIONS], keys)
    if kept and kept.areas is not None and AREAS in tables:
        tables[AREAS] = joined_areas(kept.areas, tables[AREAS], keys)
    if THUMBNAILS in extras.layers:
        photo_ids = dict(zip(keys, tables[PREDICTIONS]["photo_id"].to_pylist(), strict=True))
        found = ending.thumbnails if ending else ()
        pictures = [thumbnail for thumbnail in found if thumbnail.key in photo_ids]
        tables[THUMBNAILS] = thumbnail_table(shard, pictures, photo_ids)
    if EMBEDDINGS in extras.layers:
        before = kept.embeddings if kept else None
        tables[EMBEDDINGS] = _embedding_table(ordered, before, extras)
    return ShardTables(tables, failed)


def _embedding_table(
    batches: Sequence[PhotoBatch], before: pa.Table | None, extras: Extras
) -> pa.Table:
    """Embeddings in the order of their keys; also of photos that failed in a later step."""
    shard, ending = batches[-1].shard.id, batches[-1].ending
    late = ending.late if ending else {}
    parts = [batch.embedded for batch in batches if batch.embedded is not None]
    keys = [key for part in parts for key in part.keys]
    known = [
        one.with_late(late.get(key))
        for p in parts
        for key, one in zip(p.keys, p.known, strict=True)
    ]
    values = np.concatenate([part.values for part in parts]) if parts else np.zeros((0, 0), "e")
    columns = _identity_columns(known) | _known_columns(known, extras.no_positions)
    columns |= _kept_columns(known, extras)
    priors = [prior for part in parts for prior in part.priors]
    columns |= {"key": keys, "prior": priors}
    table = embedding_table(shard, values, columns, extras.keep)
    if before is not None and before.num_rows:
        table = pa.concat_tables([before, table] if table.num_rows else [before]).combine_chunks()
    return table.sort_by("key")


def _reasons(results: Sequence[object]) -> dict[str, int]:
    """How many results failed, by reason."""
    failures = (result.reason for result in results if isinstance(result, Failure))
    return dict(sorted(Counter(failures).items()))


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted((Counter(one) + Counter(other)).items()))


def _identity_columns(known: Sequence[PhotoPositions]) -> dict[str, list[str | None]]:
    """Returns IDENTITY_COLUMNS."""
    return {name: [getattr(one.identity, name) for one in known] for name in IDENTITY_COLUMNS}


def _kept_columns(known: Sequence[PhotoPositions], extras: Extras) -> dict[str, list[str | None]]:
    """Returns a column for each field that is taken along; without positions, none that has one."""
    kept = without_places if extras.no_positions else dict
    found = [kept(one.fields) for one in known] if extras.keep else []
    return {name: [fields.get(name) for fields in found] for name in extras.keep}


def _known_columns(known: Sequence[PhotoPositions], no_positions: bool) -> dict[str, Any]:
    """Returns the known positions in degrees, NaN where unknown, where they were read, and times.

    Args:
        known: What is known of N photos.
        no_positions: Whether positions and zones are left out.
    """
    captures = _capture_columns([one.capture for one in known], no_positions)
    known = [PhotoPositions()] * len(known) if no_positions else known
    nowhere = (np.nan, np.nan)
    pairs = [[astuple(p) if p else nowhere for p in (one.exif, one.truth)] for one in known]
    degrees = np.array(pairs, np.float64).reshape(len(known), len(OPTIONAL_COLUMNS))
    sources = ("exif_source", "truth_source")
    return (
        dict(zip(OPTIONAL_COLUMNS, degrees.T, strict=True))
        | {
            name: [source and source.value for source in (getattr(one, name) for one in known)]
            for name in sources
        }
        | captures
    )


def _best_columns(
    known: Mapping[str, Any], latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> dict[str, Any]:
    """Returns BEST_COLUMNS: the known position of each photo, or else the model's answer.

    Args:
        known: Columns of known positions of N photos.
        latitude: Latitudes of the answers in degrees, ``(N,)``.
        longitude: Longitudes of the answers.
    """
    found = known_positions(known)
    source = [_SOURCES[kind] for kind in found.kind]
    place = (
        np.where(found.known, *pair)
        for pair in ((found.latitude, latitude), (found.longitude, longitude))
    )
    return dict(zip(BEST_COLUMNS, (*place, source), strict=True))


def _capture_columns(captures: Sequence[Capture], no_positions: bool) -> dict[str, list[Any]]:
    """Returns CAPTURE_COLUMNS; a zone tells a part of the Earth, and goes with the positions."""
    times = [capture.time for capture in captures]
    columns = (
        [time and time.local for time in times],
        [None if time is None or no_positions else time.offset_min for time in times],
        [time and time.source.value for time in times],
        [capture.camera or None for capture in captures],
    )
    return dict(zip(CAPTURE_COLUMNS, columns, strict=True))


def _region_table(
    shard: str, photos: ShardRows, regions: Sequence[tuple[Region, ...] | Failure]
) -> pa.Table:
    """Regions in the order of the photos, but those with wide boxes last.

    A box across the map, as at the antimeridian, would widen the box of its whole row group.
    """
    rows = [
        (key, region)
        for key, found in zip(photos.keys, regions, strict=True)
        if not isinstance(found, Failure)
        for region in found
    ]
    rows.sort(key=lambda row: wide(row[1].bounds))
    ids = (known.identity.photo_id for known in photos.known)
    return region_table(shard, rows, dict(zip(photos.keys, ids, strict=True)))


def _area_table(shard: str, photos: ShardRows, extras: Extras) -> pa.Table:
    kinds, areas = [kind_of(kind) for kind in extras.areas], photos.decoded.answers.areas
    labels = units.labels if (units := extras.admin_units()) else ()
    ids = [known.identity.photo_id for known in photos.known]
    rows = [
        (photo_id, key, one)
        for row, (photo_id, key) in enumerate(zip(ids, photos.keys, strict=True))
        if areas is not None
        for one in area_rows(areas, row, kinds, labels)
    ]
    return area_table(shard, rows)


def _in_spatial_order(rows: ShardRows) -> ShardRows:
    """Sorts rows along Hilbert's curve, and at one place by key."""
    answers = rows.decoded.answers
    return rows.take(spatial_order(answers.latitude, answers.longitude, rows.keys))


def parquet_bytes(layer: str, table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """Encodes the table of a layer as a Parquet file, with further metadata."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS[layer], compression="zstd")
    return bytes(buffer.getvalue())
