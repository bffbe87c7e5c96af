"""What flows between the steps of the pipeline, and each step as an ordinary function. No Beam.

A batch is columns of equal length. Errors travel with the batch in which they happened, and the
last batch of a shard says how the shard ended, so that counts can be checked where it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.folder import FolderReader
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from locdiffusion.photos.tar import TarStatus
from locdiffusion.photos.thumbnails import Chosen
from pipelines.geotag.model_cache import GeotaggerLike
from schemas import geoparquet
from schemas.geotags import OPTIONAL_COLUMNS, ErrorRow, Stage, Status
from schemas.layers import Region, Thumbnail

DECODED_COLUMNS = (
    "latitude",
    "longitude",
    "radius_50_km",
    "radius_90_km",
    "probability",
    "information_nats",
    "land_probability",
)
REGIONS = "regions"
"""The column of a decoded batch that holds, for each photo, its regions or why it has none."""

HYBRID = "hybrid"
"""The same for latitude and longitude of its place in the gallery, NaN where none is near."""

Columns = dict[str, np.ndarray]
PhotoDecoder = Callable[[Sample, Callable[[Any], np.ndarray], bool], PhotoRecord | ErrorRow]


@dataclass(frozen=True)
class ShardEnding:
    """How a shard ended; travels with its last batch.

    Attributes:
        batches: Number of batches of the shard.
        photos: Samples and photos too many that the reader met, each of which must become a row.
        tar_status: What the reader says about the shard.
        tar_message: Empty when complete.
        ignored_members: Files that belong to no sample.
        source_bytes: Size of the shard's file, if it has one.
        read_failed: Whether some of it could not be had, so that another run should try again.
        thumbnails: Of the photos of the shard that were chosen to have one.
    """

    batches: int
    photos: int
    tar_status: TarStatus
    tar_message: str
    ignored_members: int
    source_bytes: int | None
    read_failed: bool = False
    thumbnails: tuple[Thumbnail, ...] = ()


@dataclass(frozen=True)
class PhotoBatch:
    """N photos of one shard at one step.

    Attributes:
        shard: Where they come from.
        index: Position of the batch in its shard, from 0.
        keys: N keys.
        positions: OPTIONAL_COLUMNS, float64 (N,) degrees, NaN where unknown.
        payload: Pixels, then embeddings, then natural parameters (arrays of N rows), then columns.
        errors: Photos, and perhaps the shard, that were lost on the way.
        ending: On the last batch only.
        embeddings: N rows, from sampling to decoding, where a gallery is asked about them.
    """

    shard: Shard
    index: int
    keys: tuple[str, ...]
    positions: Columns
    payload: Any
    errors: tuple[ErrorRow, ...] = ()
    ending: ShardEnding | None = None
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.keys)


def read_batches(
    shard: Shard,
    preprocess: Callable[[Any], np.ndarray],
    batch_size: int,
    decode: PhotoDecoder = decode_photo,
    thumbnails: int = 0,
) -> Iterator[PhotoBatch]:
    """Reads and decodes a shard.

    Args:
        shard: To read.
        preprocess: From a PIL image to uint8 (S, S, 3).
        batch_size: Most photos per batch; the last one may be smaller, or empty.
        decode: Stands in for `decode_photo`, for those who watch it.
        thumbnails: How many photos get one, at most.

    Yields:
        Batches with pixels as payload; the last one, and only it, has an `ending`.
    """
    reader = FolderReader(shard.photos) if shard.photos else ShardReader(shard.url)
    photos: list[PhotoRecord] = []
    errors: list[ErrorRow] = []
    chosen = Chosen(thumbnails)
    index = seen = 0
    for item in reader:
        if max(len(photos), len(errors)) >= batch_size:
            yield _batch(shard, index, photos, errors)
            index, photos, errors = index + 1, [], []
        result: PhotoRecord | ErrorRow
        if isinstance(item, Sample):
            result = decode(item, preprocess, chosen.wants(item.key))
        else:
            result = item
        seen += result.key is not None
        if isinstance(result, PhotoRecord):
            if result.thumbnail is not None:
                chosen.add(Thumbnail(result.key, result.thumbnail))
            photos.append(result)
        else:
            errors.append(result)
    ending = ShardEnding(
        batches=index + 1,
        photos=seen,
        tar_status=reader.status,
        tar_message=reader.message,
        ignored_members=reader.ignored_members,
        source_bytes=None if reader.read_failed else shard.bytes,
        read_failed=reader.read_failed,
        thumbnails=chosen.thumbnails(),
    )
    yield replace(_batch(shard, index, photos, errors), ending=ending)


def _batch(
    shard: Shard, index: int, photos: Sequence[PhotoRecord], errors: Sequence[ErrorRow]
) -> PhotoBatch:
    nowhere = (np.nan, np.nan)
    rows = [
        (
            *((photo.exif.latitude, photo.exif.longitude) if photo.exif else nowhere),
            *((photo.truth.latitude, photo.truth.longitude) if photo.truth else nowhere),
        )
        for photo in photos
    ]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(OPTIONAL_COLUMNS))
    return PhotoBatch(
        shard=shard,
        index=index,
        keys=tuple(photo.key for photo in photos),
        positions=dict(zip(OPTIONAL_COLUMNS, table.T, strict=True)),
        payload=np.stack([photo.pixels for photo in photos]) if photos else None,
        errors=tuple(errors),
    )


def run_stage(
    batch: PhotoBatch,
    stage: Stage,
    geotagger: GeotaggerLike,
    regions: bool = False,
    hybrid: bool = False,
) -> PhotoBatch:
    """Takes a batch one step further: embed, sample or decode.

    A batch that fails is halved until the photo that fails stands alone (this also gets a batch
    that is too large for the memory through), and that photo becomes an error row. So does one
    whose result is not finite. Regions and a gallery that fail cost the photo nothing else.

    Args:
        batch: To take on.
        stage: The step.
        geotagger: That does it.
        regions: Whether to draw credible regions when decoding.
        hybrid: Whether to ask the gallery when decoding; then for all three stages.
    """
    if not len(batch):
        return batch
    step: Callable[[slice], Any] = {
        Stage.EMBED: lambda some: geotagger.embed(batch.payload[some]),
        Stage.SAMPLE: lambda some: geotagger.sample(batch.payload[some], batch.keys[some]),
        Stage.DECODE: lambda some: _decoded(geotagger, batch, some, regions, hybrid),
    }[stage]
    pieces: list[tuple[np.ndarray, Any]] = []
    failures: dict[int, str] = {}
    _attempt(step, 0, len(batch), pieces, failures)
    errors = [
        ErrorRow(batch.keys[row], stage, Status.INFERENCE_FAILED, why)
        for row, why in sorted(failures.items())
    ]
    rows = np.concatenate([rows for rows, _ in pieces]) if pieces else np.empty(0, int)
    payload = _join([piece for _, piece in pieces]) if len(rows) else None
    embeddings = None
    if hybrid and stage is not Stage.DECODE:
        embeddings = payload if stage is Stage.EMBED else _rows(batch.embeddings, rows)
    return replace(
        batch,
        keys=tuple(batch.keys[row] for row in rows),
        positions={name: column[rows] for name, column in batch.positions.items()},
        payload=payload,
        embeddings=embeddings,
        errors=batch.errors + tuple(errors),
    )


def _attempt(
    step: Callable[[slice], Any],
    start: int,
    stop: int,
    pieces: list[tuple[np.ndarray, Any]],
    failures: dict[int, str],
) -> None:
    """Runs rows start..stop, halving on failure; appends to `pieces` in row order."""
    try:
        result = step(slice(start, stop))
        finite = _finite_rows(result, stop - start)
    except Exception as error:  # whatever a model raises, it must cost one photo and not the job
        if stop - start == 1:
            failures[start] = f"{type(error).__name__}: {error}"
            return
        middle = (start + stop) // 2
        _attempt(step, start, middle, pieces, failures)
        _attempt(step, middle, stop, pieces, failures)
        return
    for row in np.flatnonzero(~finite):
        failures[start + int(row)] = "the result holds numbers that are not finite"
    if finite.any():
        pieces.append((start + np.flatnonzero(finite), _take(result, finite)))


def _decoded(
    geotagger: GeotaggerLike, batch: PhotoBatch, some: slice, regions: bool, hybrid: bool
) -> Columns:
    """GeotagColumns as a dictionary of arrays, so that it can be sliced and joined like one."""
    natural = batch.payload[some]
    decoded = geotagger.decode(natural)
    columns = {name: np.asarray(getattr(decoded, name)) for name in DECODED_COLUMNS}
    columns["modes"] = np.empty(len(decoded), dtype=object)
    for row, modes in enumerate(decoded.modes):
        columns["modes"][row] = modes
    if regions:
        columns[REGIONS] = np.empty(len(decoded), dtype=object)
        for row in range(len(decoded)):
            columns[REGIONS][row] = _regions(geotagger, natural[row : row + 1])
    if hybrid:
        columns[HYBRID] = np.empty(len(decoded), dtype=object)
        embeddings = _rows(batch.embeddings, some)
        answers = [columns[name] for name in ("latitude", "longitude", "radius_50_km")]
        for row in range(len(decoded)):
            one = [array[row : row + 1] for array in (embeddings, natural, *answers)]
            columns[HYBRID][row] = _hybrid(geotagger, *one)
    return columns


def _rows(embeddings: np.ndarray | None, rows: Any) -> np.ndarray:
    assert embeddings is not None, "every stage must know that a gallery will be asked"
    some: np.ndarray = embeddings[rows]
    return some


def _hybrid(geotagger: GeotaggerLike, *one: np.ndarray) -> tuple[float, float] | str:
    """The place of one photo in the gallery, or why it is not known: the answer stands without."""
    try:
        (latitude,), (longitude,) = geotagger.hybrid(*one)
        return float(latitude), float(longitude)
    except Exception as error:  # as with the model itself
        return f"{type(error).__name__}: {error}"


def _regions(geotagger: GeotaggerLike, natural: np.ndarray) -> tuple[Region, ...] | str:
    """The regions of one photo, or why there are none: the rest of the answer stands without."""
    try:
        (found,) = geotagger.regions(natural)
        return tuple(_region(one) for one in found)
    except Exception as error:  # as with the model itself
        return f"{type(error).__name__}: {error}"


def _region(found: Any) -> Region:
    """A CredibleRegion as it is written."""
    if found.geometry.geom_type not in geoparquet.POLYGONS:
        raise ValueError(f"the {found.level:.0%} region is a {found.geometry.geom_type}")
    bounds = found.geometry.bounds
    if not np.isfinite([*bounds, found.area_km2, found.probability]).all():
        raise ValueError(f"the {found.level:.0%} region is empty, or its numbers are not finite")
    wkb = shapely.to_wkb(found.geometry, byte_order=1)
    return Region(found.level, wkb, bounds, found.area_km2, found.probability)


def _finite_rows(result: Any, count: int) -> np.ndarray:
    """Bool (count,): which rows hold only finite numbers. ValueError if rows are missing."""
    arrays = [result] if isinstance(result, np.ndarray) else list(result.values())
    finite = np.ones(count, dtype=bool)
    for array in arrays:
        if len(array) != count:
            raise ValueError(f"the model gave {len(array)} rows for {count} photos")
        if array.dtype != object:
            finite &= np.isfinite(array).reshape(count, -1).all(axis=1)
    return finite


def _take(result: Any, rows: np.ndarray) -> Any:
    if isinstance(result, np.ndarray):
        return result[rows]
    return {name: column[rows] for name, column in result.items()}


def _join(pieces: list[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate(pieces)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def shard_columns(batches: Sequence[PhotoBatch]) -> Columns:
    """All decoded batches of a shard as the columns that `schemas.geotags` writes.

    Args:
        batches: In any order, with columns as payload where they are not empty.

    Returns:
        `key`, OPTIONAL_COLUMNS, DECODED_COLUMNS, `modes` and, if they were asked for, REGIONS and
        HYBRID, each of N rows.
    """
    filled = sorted((batch for batch in batches if len(batch)), key=lambda batch: batch.index)
    if not filled:
        names = ("key", *OPTIONAL_COLUMNS, *DECODED_COLUMNS, "modes")
        return {name: np.empty(0) for name in names}
    keys = np.array([key for batch in filled for key in batch.keys], dtype=object)
    return {
        "key": keys,
        **_join([batch.positions for batch in filled]),
        **_join([batch.payload for batch in filled]),
    }
