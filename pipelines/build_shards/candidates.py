"""Fetches, encodes and writes the photos of a shard, before duplicates are removed."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from locdiffusion.photos.image_formats import image_format
from pipelines.build_shards import fingerprints, tables
from pipelines.build_shards.embedding import BATCH, Embedder
from pipelines.build_shards.encoding import EncodedPhoto, Encoding, encode_isolated
from pipelines.build_shards.equal_area_cells import Cells
from pipelines.build_shards.output import CANDIDATES, PLAN, BuildOutput
from pipelines.build_shards.settings import Settings
from pipelines.build_shards.shard_writer import ShardSample, ShardWriter, hashed_key, member_key
from pipelines.sources.download import FetchSettings
from pipelines.sources.images import is_web, read
from pipelines.sources.record import Drop, DropError, ImageRef, Record
from pipelines.writing.directory import to_json
from schemas import geoparquet
from schemas.training import INDEX_SCHEMA, DropReason, DropRow, drop_table

# Rows of the index, without the columns that follow from the others.
CANDIDATE = pa.schema(
    [
        ("photo", pa.string()),
        ("rank", pa.uint64()),
        *(
            (field.name, field.type)
            for field in INDEX_SCHEMA
            if field.name not in (geoparquet.GEOMETRY, geoparquet.BBOX, "split")
        ),
    ]
)

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class FetchTrouble(RuntimeError):
    """Too many images of a shard could not be fetched."""


@dataclass(frozen=True)
class Workers:
    """Settings of fetching and encoding that do not change what is written.

    Attributes:
        fetch: Limits of downloads, and threads per process.
        device: Torch device of the encoder.
        max_fetch_failures: Fraction of a shard's photos that may fail to be fetched; above it, the
            shard is not written and the job stops.
    """

    fetch: FetchSettings = field(default_factory=FetchSettings)
    device: str = "cpu"
    max_fetch_failures: float = 0.2


def make_candidate(
    shard: str, settings: Settings, output: BuildOutput, workers: Workers
) -> pa.Table:
    """Fetches, encodes and writes the photos of a shard, unless that was done before.

    Returns:
        Fingerprints of the photos: a table with `fingerprints.COLUMNS`.

    Raises:
        FetchTrouble: More than `max_fetch_failures` could not be fetched; nothing is written.
    """
    done = output.read_json(CANDIDATES, f"{shard}.json")
    if done is None or done["config_hash"] != settings.hash:
        _write_candidate(shard, settings, output, workers)
    return output.read_table(CANDIDATES, f"{shard}.parquet", columns=list(fingerprints.COLUMNS))


def _write_candidate(shard: str, settings: Settings, output: BuildOutput, workers: Workers) -> None:
    plan = output.read_table(PLAN, f"{shard}.parquet")
    rows: dict[str, list[Any]] = {name: [] for name in CANDIDATE.names}
    drops: list[DropRow] = []
    key_of = hashed_key if settings.rules.hash_keys else member_key
    embedder = settings.rules.encoder and Embedder(settings.rules.encoder, workers.device)
    with output.writing(CANDIDATES, f"{shard}.tar") as file, ShardWriter(file) as writer:
        photos = encoded_photos(tables.records(plan), settings.rules.encoding, workers.fetch)
        for batch in _batches(zip(plan["photo"].to_pylist(), photos, strict=True), drops):
            jpegs = [encoded.jpeg for _, _, encoded in batch]
            vectors = embedder.embed(jpegs) if embedder else [None] * len(batch)
            for (photo, record, encoded), vector in zip(batch, vectors, strict=True):
                key = key_of(photo)
                writer.add(
                    ShardSample(key, encoded.jpeg, record.latitude, record.longitude, vector)
                )
                _append(rows, photo=photo, key=key, record=record, encoded=encoded)
        _check_failures(shard, len(plan), drops, workers.max_fetch_failures)
    assert len(plan) == len(rows["key"]) + len(drops), f"{shard}: a photo got lost"
    table = _candidate_table(shard, rows, plan, settings.rules.cell_degrees)
    output.write_table(table, CANDIDATES, f"{shard}.parquet")
    output.write_table(drop_table(drops), CANDIDATES, f"{shard}.dropped.parquet")
    document = {"shard": shard, "planned": len(plan), "config_hash": settings.hash}
    output.write(CANDIDATES, f"{shard}.json", data=to_json(document))


Found = tuple[str, Record, EncodedPhoto]


def _batches(
    photos: Iterable[tuple[str, tuple[Record, EncodedPhoto | Drop]]], drops: list[DropRow]
) -> Iterator[list[Found]]:
    """Groups photos for the encoder and collects the drops."""
    batch: list[Found] = []
    for photo, (record, result) in photos:
        if isinstance(result, Drop):
            drops.append(DropRow(result.key, result.reason, result.detail, result.line))
            continue
        batch.append((photo, record, result))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def encoded_photos(
    records: Iterable[Record],
    encoding: Encoding,
    fetch: FetchSettings,
    read_image: Callable[[ImageRef, FetchSettings], bytes] = read,
) -> Iterator[tuple[Record, EncodedPhoto | Drop]]:
    """Fetches and encodes photos, as many at a time as there are connections.

    Args:
        records: Records with images.
        encoding: Settings of the stored photos.
        fetch: Limits of downloads; each connection has a thread.
        read_image: Function that reads an image; tests replace it.

    Yields:
        Each record, in order, with its photo or its drop.
    """

    def one(record: Record) -> EncodedPhoto | Drop:
        assert record.image is not None
        try:
            data = read_image(record.image, fetch)
            if is_web(record.image) and image_format(data) is None:
                why = "what lies at the address is no picture of a format that is read; look there"
                raise DropError(DropReason.BROKEN_IMAGE, why)
            return encode_isolated(data, encoding)
        except DropError as error:
            # Exceptions of the network tell where in memory their objects were.
            return Drop(record.key, error.reason, _ADDRESS.sub("", str(error)))

    pool = ThreadPoolExecutor(fetch.connections, thread_name_prefix="photos")
    waiting: deque[tuple[Record, Future[EncodedPhoto | Drop]]] = deque()
    try:
        for record in records:
            waiting.append((record, pool.submit(one, record)))
            if len(waiting) > 2 * fetch.connections:  # the pool stays busy behind a slow one
                first, photo = waiting.popleft()
                yield first, photo.result()
        while waiting:
            first, photo = waiting.popleft()
            yield first, photo.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check_failures(shard: str, planned: int, drops: Iterable[DropRow], limit: float) -> None:
    failed = [drop for drop in drops if drop.reason is DropReason.FETCH_FAILED]
    if len(failed) > limit * planned:
        causes = Counter(re.sub(r"\d+", "N", drop.detail.rpartition(": ")[2]) for drop in failed)
        raise FetchTrouble(
            f"{len(failed):,} of {planned:,} images of {shard} could not be fetched, above "
            f"--max-fetch-failures {limit:g}; most often: {causes.most_common(1)[0][0][:200]}; one "
            f"of them: {failed[0].detail[:300]}. When that is mended, type the same command again"
        )


def _append(
    rows: dict[str, list[Any]], photo: str, key: str, record: Record, encoded: EncodedPhoto
) -> None:
    for name, value in {**vars(record), **vars(encoded)}.items():
        if name in rows:
            rows[name].append(value)
    rows["photo"].append(photo)
    rows["key"][-1] = key
    rows["source_key"].append(record.key)


def _candidate_table(
    shard: str, rows: dict[str, list[Any]], plan: pa.Table, cell_degrees: float
) -> pa.Table:
    rank = dict(zip(plan["photo"].to_pylist(), plan["rank"].to_pylist(), strict=True))
    cells = Cells(cell_degrees)
    made: dict[str, Any] = {
        **rows,
        "shard": [shard] * len(rows["key"]),
        "rank": [rank[photo] for photo in rows["photo"]],
        "cell": cells.names(cells.index(rows["latitude"], rows["longitude"])),
    }
    return tables.table_of(made, CANDIDATE)
