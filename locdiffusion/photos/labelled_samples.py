"""Samples with a known position, as training, calibration and evaluation read them.

Shards go through the strict reader that geotagging uses, so both agree on what is damaged and at
which byte. Geotagging puts a row into its errors and goes on; training refuses the shard, because
a model that was trained on less than what was named would not tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from locdiffusion.cli.terminal import tell
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.model.weights import may_be_same
from locdiffusion.photos.archive import Sample, ShardReader, late_documents
from locdiffusion.photos.coordinates import NOTHING, Source
from locdiffusion.photos.folder import PhotoFile, fingerprint
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.listing import photos_in
from locdiffusion.photos.names import first_dot_key
from locdiffusion.photos.photo_process import isolated
from locdiffusion.photos.picture import PhotoError
from locdiffusion.photos.positions import PhotoPositions, own_position
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.storage import DataError, open_stream, version
from schemas.geotags import ErrorRow
from schemas.samples import MAX_METADATA_BYTES, METADATA_EXTENSION, Truth

BUILD_RECORD = "run.json"  # of pipelines.build_shards, in the folder above train/ and val/


def read_samples(
    shard: str, extras: Mapping[str, int] | None = None
) -> Iterator[tuple[Sample, Truth]]:
    """Yields the samples of a shard with their positions.

    Args:
        shard: Path or URL of a tar; or of a folder of photos, ending with a slash.
        extras: Other extensions to read from a tar, and the most bytes that such a member may have.
            A sample that has one needs no image.

    Raises:
        DataError: The shard is damaged, or a sample lacks an image or its position.
    """
    late: dict[str, Sidecar] | None = None
    reader = _reader(shard, extras or {})
    for item in _first_photos(reader):
        if isinstance(item, ErrorRow):
            raise DataError(_message(shard, item))
        sidecar = item.sidecar
        if (sidecar is None or sidecar.known is None) and not shard.endswith("/"):
            late = late_documents(shard) if late is None else late
            sidecar = late.get(item.key, sidecar)
        yield item, _truth(item, sidecar, shard)
    if reader.message:
        tell(f"{shard}: {reader.message}")
    if isinstance(reader, ShardReader) and (alone := reader.documents.alone):
        raise DataError(
            f"{alone[0]} in {shard} has a position and belongs to no photo; add the photo, or "
            "leave the document out of the shard, too."
        )


def read_images(shard: str, photos: Sequence[PhotoFile] = ()) -> Iterator[tuple[str, bytes]]:
    """Yields key and image bytes of the samples of a shard that can be read.

    Args:
        shard: Path or URL of a tar; or of a folder of photos, ending with a slash.
        photos: Photos of a group of a folder, which are then read instead.

    Raises:
        DataError: The shard is damaged.
    """
    for item in _first_photos(FolderReader(photos) if photos else _reader(shard, {})):
        if isinstance(item, Sample):
            assert item.image is not None
            yield item.key, item.image
        elif item.status.of_shard:
            raise DataError(_message(shard, item))


def shard_version(shard: str) -> list[object]:
    """Returns where a shard lies, and what changes when it is written again."""
    if shard.endswith("/"):
        return [shard, fingerprint(_photos(shard))]
    return version(shard)


def pixels_of(
    image: bytes, encoder: ImageEncoder | DeferredEncoder, place: str
) -> NDArray[np.uint8]:
    """Decodes an image as geotagging does, in a child process, to pixels ``(S, S, 3)``.

    Args:
        image: Bytes of the image's file.
        encoder: Image encoder whose preprocessing is applied.
        place: Name of the sample and its shard, for messages.

    Raises:
        DataError: The image cannot be decoded.
    """
    try:
        return isolated(image, encoder.spec.preprocess).pixels
    except PhotoError as error:
        raise DataError(
            f"The image of sample {place} cannot be decoded: {error}. Replace it, or leave the "
            "sample out of the shard."
        ) from error


def check_builds(shards: Sequence[str], encoder: str) -> None:
    """Refuses shards that were built with the embeddings of another encoder.

    Args:
        shards: Paths or URLs of shards.
        encoder: Name of the encoder to train with.

    Raises:
        DataError: The record of their build names another encoder.
    """
    places = [shard if "://" in shard else os.path.abspath(shard) for shard in shards]
    for folder in dict.fromkeys(place.rsplit("/", 2)[0] for place in places):
        try:
            with open_stream(f"{folder}/{BUILD_RECORD}") as stream:
                record = json.loads(stream.read(MAX_METADATA_BYTES))
        except (
            OSError,
            ValueError,
            RecursionError,
        ):  # other shards than those of pipelines.build_shards
            continue
        stored = record.get("encoder") if isinstance(record, dict) else None
        if isinstance(stored, str) and not (
            may_be_same(stored, encoder) or may_be_same(encoder, stored)
        ):
            raise DataError(
                f"The shards below {folder} hold embeddings of {stored!r}, and the encoder is "
                f"{encoder!r}; train with --encoder {stored}, or build the shards again with "
                f"--embed {encoder}."
            )


def _reader(shard: str, extras: Mapping[str, int]) -> FolderReader | ShardReader:
    return FolderReader(_photos(shard)) if shard.endswith("/") else ShardReader(shard, extras)


def _first_photos(reader: Iterable[Sample | ErrorRow]) -> Iterator[Sample | ErrorRow]:
    """Yields samples and faults; of several photos of one sample the first is taken.

    Photos of one sample stand side by side and share a document, or are parts of it by
    webdataset's rule, such as `0001.mask.png` beside `0001.jpg`.
    """
    taken = Sample("")
    for item, after in pairwise(chain(reader, (None,))):
        if isinstance(item, Sample):
            beside = taken.key, after and after.key
            part = first_dot_key(item.key) != item.key and first_dot_key(item.key) in beside
            if part or (item.document and item.document == taken.document):
                continue
            taken = item
        if item is not None:
            yield item


def _photos(folder: str) -> list[PhotoFile]:
    return photos_in(folder.rstrip("/"), tell=tell)


def _message(shard: str, row: ErrorRow) -> str:
    if row.key is None:
        return f"{shard} cannot be read ({row.message})."
    return f"Sample {row.key!r} of {shard} cannot be read ({row.message})."


def _truth(sample: Sample, sidecar: Sidecar | None, shard: str) -> Truth:
    if sidecar and sidecar.problem:
        raise DataError(f"{sidecar.problem} (in {shard}).")
    key, image = sample.key, sample.image
    known = PhotoPositions(NOTHING if image is None else own_position(image), sidecar)
    if known.truth_source is Source.ESTIMATE:
        raise DataError(
            f"The position of sample {key!r} of {shard} was estimated by LocDiffusion, which must "
            "not learn from itself; leave the sample out."
        )
    truth = known.truth
    if truth is None:
        raise DataError(
            f"Sample {key!r} of {shard} lacks its position; write "
            f'{{"latitude": ..., "longitude": ...}} into {key}.{METADATA_EXTENSION}.'
        )
    return truth
