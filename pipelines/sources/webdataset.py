"""Reads existing shards as a source: a sample of a tar is a record, its image a range of bytes.

A sample's `.json` holds `latitude` and `longitude`, and may hold `author` and `licence` (or
`license`). Shards are read by the strict reader: what it refuses is a drop, and so is a second
photo with the same document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from locdiffusion.photos.archive import Sample, ShardReader, late_documents
from locdiffusion.photos.coordinates import Source
from locdiffusion.photos.names import extension, stem
from locdiffusion.photos.positions import PhotoPositions, own_position
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.storage import ReadError
from pipelines.sources.record import (
    Drop,
    ImageRef,
    Record,
    RowError,
    checked_author,
    licence_text,
    shown,
)
from schemas.geotags import ErrorRow, Status
from schemas.samples import METADATA_EXTENSION
from schemas.training import DropReason

SOURCE = "webdataset"

_REASONS = {
    Status.MISSING_IMAGE: DropReason.NO_IMAGE,
    Status.DUPLICATE_KEY: DropReason.DUPLICATE_ID,
    Status.NAME_TOO_LONG: DropReason.UNUSABLE_SHARD,
    Status.TRUNCATED: DropReason.BROKEN_IMAGE,
    Status.TOO_MANY_BYTES: DropReason.TOO_LARGE,
    Status.BROKEN_IMAGE: DropReason.BROKEN_IMAGE,
    Status.SHARD_TRUNCATED: DropReason.UNUSABLE_SHARD,
    Status.SHARD_CORRUPT: DropReason.UNUSABLE_SHARD,
    Status.SHARD_UNREADABLE: DropReason.UNUSABLE_SHARD,
}


def read_shard(url: str) -> Iterator[Record | Drop]:
    """Yields one item for each sample of a shard, and a Drop without a key if it is damaged.

    Images are found again by their range of bytes. A compressed shard has no such ranges, so each
    of its samples is a drop.

    Args:
        url: Path of the tar, or a URL that fsspec opens; it goes into each ImageRef as it is.

    Raises:
        ReadError: The shard cannot be read now; its content is not known.
    """
    reader = ShardReader(url)
    taken = ""
    late: dict[str, Sidecar] | None = None
    for item in reader:
        if reader.read_failed:
            raise ReadError(f"{url}: {reader.message}")
        if isinstance(item, ErrorRow):
            yield Drop(item.key, _REASONS[item.status], item.message, url)
        elif item.document and item.document == taken:
            why = f"an earlier photo of the sample uses {taken}, wanted one photo of each sample"
            yield Drop(item.key, DropReason.DUPLICATE_ID, why, shown(item.metadata or b""))
        else:
            taken = item.document
            if item.sidecar is None:
                late = late_documents(url) if late is None else late
                item.sidecar = late.get(item.key)
            yield _record(item, url)
    for document in reader.documents.alone:
        why = f"{document} is about no photo of the shard, wanted {stem(document)}.jpg; add it"
        yield Drop(stem(document), DropReason.NO_IMAGE, why, url)


def _record(sample: Sample, url: str) -> Record | Drop:
    line = shown(sample.metadata or b"")
    if sample.image_offset is None:
        why = f"{url} is compressed, and its images have no place to be read from; unpack it first"
        return Drop(sample.key, DropReason.UNUSABLE_SHARD, why, line)
    assert sample.image is not None
    image = ImageRef("tar", url, sample.image_offset, len(sample.image))
    try:
        return _with_metadata(sample, image)
    except RowError as error:
        return Drop(sample.key, error.reason, str(error), line)


def _with_metadata(sample: Sample, image: ImageRef) -> Record:
    if sample.sidecar is None:
        why = f"the sample has no .json, wanted {sample.key}.json with latitude and longitude"
        raise RowError(DropReason.NO_COORDINATES, why)
    is_json = extension(sample.document) == METADATA_EXTENSION
    document = _document(sample.metadata or b"") if is_json else {}
    if sample.sidecar.problem:
        raise RowError(DropReason.BAD_COORDINATES, sample.sidecar.problem)
    assert sample.image is not None
    known = PhotoPositions(own_position(sample.image), sample.sidecar)
    truth = known.truth
    if truth is None:
        ours = known.truth_source is Source.ESTIMATE
        if document.get("latitude") == document.get("longitude") == 0:
            raise RowError(DropReason.ZERO_COORDINATES, "(0, 0) stands for an unknown position")
        found = "a position that LocDiffusion estimated" if ours else "no latitude and longitude"
        why = f"its document has {found}, wanted a known position"
        raise RowError(DropReason.NO_COORDINATES, why)
    author = _text(document, "author")
    licence = _text(document, "licence") or _text(document, "license")
    return Record(
        key=sample.key,
        author=checked_author(author, sample.key) if author else "",
        latitude=truth.latitude,
        longitude=truth.longitude,
        source=SOURCE,
        image=image,
        licence=licence_text(licence),
    )


def _document(metadata: bytes) -> dict[str, object]:
    try:
        document = json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise RowError(DropReason.MALFORMED_ROW, f"the .json is not JSON ({error})") from None
    if not isinstance(document, dict):
        why = f"the .json is a JSON {type(document).__name__}, wanted an object"
        raise RowError(DropReason.MALFORMED_ROW, why)
    return document


def _text(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        why = f"{name} is a JSON {type(value).__name__}, wanted text"
        raise RowError(DropReason.MALFORMED_ROW, why)
    try:
        value.encode()
    except UnicodeEncodeError:  # "\ud800", which JSON can say and UTF-8 cannot
        raise RowError(DropReason.MALFORMED_ROW, f"{name} is not Unicode text") from None
    return value
