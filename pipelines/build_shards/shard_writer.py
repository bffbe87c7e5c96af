"""Writes and copies training shards; equal samples give equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

MOST_KEY_CHARACTERS = 80
_MARK = 12


@dataclass(frozen=True)
class ShardSample:
    """One photo for a shard.

    Attributes:
        key: Key of the sample, from `member_key` or `hashed_key`.
        jpeg: Bytes of the JPEG.
        latitude: Latitude in degrees.
        longitude: Longitude in degrees.
        embedding: Embedding, float16 ``(E,)``, or None.
    """

    key: str
    jpeg: bytes
    latitude: float
    longitude: float
    embedding: NDArray[np.float16] | None = None


def member_key(photo: str) -> str:
    """Makes a unique key without dots and slashes, at which readers would cut it."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", photo)
    # A name may be written so that it equals the key that another photo gets.
    marked = re.search(rf"-[0-9a-f]{{{_MARK}}}\Z", photo)
    if clean == photo and len(photo) <= MOST_KEY_CHARACTERS and not marked:
        return photo
    return f"{clean[:MOST_KEY_CHARACTERS]}-{hashed_key(photo)[:_MARK]}"


def hashed_key(photo: str) -> str:
    """Makes a key that tells nothing of the name: 128 bits of its SHA-256, without a salt.

    The same photo has the same key in every build. Who has the name can compute the key.
    """
    return hashlib.sha256(photo.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class ShardWriter:
    """Writes samples to a tar that tells nothing of the time, the machine or the user."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._tar.close()

    def add(self, sample: ShardSample) -> None:
        """Appends `<key>.jpg`, `<key>.json` and, with an embedding, `<key>.npy`."""
        position = {"latitude": sample.latitude, "longitude": sample.longitude}
        self.add_member(f"{sample.key}.jpg", sample.jpeg)
        self.add_member(f"{sample.key}.json", json.dumps(position).encode())
        if sample.embedding is not None:
            buffer = io.BytesIO()
            np.save(buffer, sample.embedding)
            self.add_member(f"{sample.key}.npy", buffer.getvalue())

    def add_member(self, name: str, data: bytes) -> None:
        """Appends one file."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))


def copy_without(source: BinaryIO, target: BinaryIO, keys: Collection[str]) -> None:
    """Copies a shard without some samples; the bytes equal those of writing the rest alone."""
    with tarfile.open(fileobj=source, mode="r|") as tar, ShardWriter(target) as writer:
        for info in tar:
            if info.name.partition(".")[0] not in keys:
                member = tar.extractfile(info)
                assert member is not None
                writer.add_member(info.name, member.read())
