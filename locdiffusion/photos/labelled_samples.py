"""Samples with a known position, as training, calibration and evaluation read them.

Shards go through the strict reader that geotagging uses, so both agree on what is damaged and at
which byte. Geotagging puts a row into its errors and goes on; training refuses the shard, because
a model that was trained on less than what was named would not tell.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.model.weights import may_move, split_name
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.folder import FolderReader, PhotoFile, fingerprint
from locdiffusion.photos.listing import photos_in
from locdiffusion.photos.photo import open_image, preprocessed
from locdiffusion.photos.picture import PhotoError
from locdiffusion.photos.storage import DataError, open_stream, version
from schemas.geotags import ErrorRow, Status
from schemas.samples import METADATA_EXTENSION, Truth

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
    for item in _reader(shard, extras or {}):
        if isinstance(item, ErrorRow):
            raise DataError(_message(shard, item))
        yield item, _truth(item, shard)


def read_images(shard: str, photos: Sequence[PhotoFile] = ()) -> Iterator[tuple[str, bytes]]:
    """Yields key and image bytes of the samples of a shard that have an image.

    Args:
        shard: Path or URL of a tar; or of a folder of photos, ending with a slash.
        photos: Photos of a group of a folder, which are then read instead.

    Raises:
        DataError: The shard is damaged.
    """
    for item in FolderReader(photos) if photos else _reader(shard, {}):
        if isinstance(item, Sample):
            assert item.image is not None
            yield item.key, item.image
        elif item.status is not Status.MISSING_IMAGE:
            raise DataError(_message(shard, item))


def shard_version(shard: str) -> list[object]:
    """Returns where a shard lies, and what changes when it is written again."""
    if shard.endswith("/"):
        return [shard, fingerprint(_photos(shard))]
    return version(shard)


def pixels_of(
    image: bytes, encoder: ImageEncoder | DeferredEncoder, place: str
) -> NDArray[np.uint8]:
    """Decodes an image as geotagging does, to the encoder's pixels ``(S, S, 3)``.

    Args:
        image: Bytes of the image's file.
        encoder: Image encoder whose preprocessing is applied.
        place: Name of the sample and its shard, for messages.

    Raises:
        DataError: The image cannot be decoded.
    """
    try:
        return preprocessed(open_image(image)[0], encoder.preprocess)
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
                record = json.loads(stream.read())
        except (OSError, ValueError):  # other shards than those of pipelines.build_shards
            continue
        stored = record.get("encoder") if isinstance(record, dict) else None
        names = (str(stored), encoder)
        moved = any(map(may_move, names)) and len({split_name(name)[0] for name in names}) == 1
        if stored not in (None, encoder) and not moved:
            raise DataError(
                f"The shards below {folder} hold embeddings of {stored!r}, and the encoder is "
                f"{encoder!r}; train with --encoder {stored}, or build the shards again with "
                f"--embed {encoder}."
            )


def _reader(shard: str, extras: Mapping[str, int]) -> Iterator[Sample | ErrorRow]:
    """Yields samples and faults; of pictures of a sample in several formats the first is taken."""
    last: Sample | None = None
    reader = FolderReader(_photos(shard)) if shard.endswith("/") else ShardReader(shard, extras)
    for item in reader:
        if isinstance(item, Sample):
            last = item
        elif last and item.key == last.key and 1 < len(last.images) == len({*last.images}):
            continue
        yield item


def _photos(folder: str) -> list[PhotoFile]:
    return photos_in(folder.rstrip("/"), tell=lambda note: print(note, file=sys.stderr))


def _message(shard: str, row: ErrorRow) -> str:
    if row.key is None:
        return f"{shard} cannot be read ({row.message})."
    return f"Sample {row.key!r} of {shard} cannot be read ({row.message})."


def _truth(sample: Sample, shard: str) -> Truth:
    if sample.sidecar and sample.sidecar.problem:
        raise DataError(f"{sample.sidecar.problem} (in {shard}).")
    truth = sample.sidecar.position if sample.sidecar else None
    if truth is None:
        raise DataError(
            f"Sample {sample.key!r} of {shard} lacks its position; write "
            '{"latitude": ..., "longitude": ...} into '
            f"{sample.key}.{METADATA_EXTENSION}."
        )
    return truth
