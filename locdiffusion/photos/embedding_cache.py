"""Embeds the photos of training shards once, and keeps the embeddings in files.

The image encoder is frozen, so each photo is embedded once. The cache has one Parquet file per
shard (key, latitude, longitude, embedding), named after the shard, the encoder and the shard's size
and time. A sample that brings its embedding (`<key>.npy`) is not decoded at all. If other photos
were embedded, the file also holds the fingerprint of the encoder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from locdiffusion.cli.terminal import progress_bar
from locdiffusion.cpu import torch_threads
from locdiffusion.files import atomic_path
from locdiffusion.model.deferred_encoder import DeferredEncoder
from locdiffusion.model.fingerprint import LEAST_COSINE, cosine
from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.photos.labelled_samples import (
    check_builds,
    pixels_of,
    read_samples,
    shard_version,
)
from locdiffusion.photos.storage import DataError
from locdiffusion.photos.stored_array import MAX_HEADER_BYTES, ArrayError, read_vector
from locdiffusion.sphere.geodesy import unit_vectors

EMBEDDING_EXTENSION = "npy"
PHOTOS_AT_ONCE = 64
FINGERPRINT = b"fingerprint"
"""Key of the encoder's fingerprint in the metadata of a file."""


class EmbeddingRows(Protocol):
    """Embeddings ``(N, E)`` by rows: an array, or files that hold one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (N, E)."""

    def __len__(self) -> int:
        """Number of photos N."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Embeddings ``(n, E)`` of n rows."""


@dataclass(frozen=True)
class EmbeddedPhotos:
    """Embedded photos with their positions.

    Attributes:
        keys: Keys of the N samples.
        embeddings: Embeddings, float32 ``(N, E)``.
        latitude: Latitude in degrees, float64 ``(N,)``.
        longitude: Longitude in degrees, float64 ``(N,)``.
    """

    keys: list[str]
    embeddings: NDArray[np.float32]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of photos N."""
        return len(self.keys)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Unit vectors of the true positions, ``(N, 3)``."""
        return unit_vectors(self.latitude, self.longitude)

    def take(self, rows: NDArray[np.int64]) -> EmbeddedPhotos:
        """Returns some of the photos, by index."""
        return EmbeddedPhotos(
            [self.keys[i] for i in rows],
            self.embeddings[rows],
            self.latitude[rows],
            self.longitude[rows],
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of keys, positions and embeddings; it names the data of a training."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        for array in (self.latitude, self.longitude, self.embeddings):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_photos(
    shards: Sequence[str],
    encoder: ImageEncoder | DeferredEncoder,
    cache: Path,
    workers: int | None = None,
) -> EmbeddedPhotos:
    """Embeds the photos of shards, or reads their embeddings from the cache.

    Args:
        shards: Paths or URLs of tars, or of folders of photos that end with a slash.
        encoder: Frozen image encoder.
        cache: Directory of the embeddings; shards that are found there are not read again.
        workers: Number of shards that are embedded at the same time; None means one per processor.

    Raises:
        DataError: A shard is damaged, or a photo has no position or cannot be decoded.
    """
    return read_embedded(embed_shards(shards, encoder, cache, workers))


def embed_shards(
    shards: Sequence[str],
    encoder: ImageEncoder | DeferredEncoder,
    cache: Path,
    workers: int | None = None,
    part: int = 0,
    parts: int = 1,
) -> list[Path]:
    """Embeds the photos of those shards that are not in the cache.

    Args:
        shards: Paths or URLs of tars, or of folders of photos that end with a slash.
        encoder: Frozen image encoder.
        cache: Directory of the embeddings.
        workers: Number of shards that are embedded at the same time; None means one per processor.
        part: Number of this process, from 0.
        parts: Number of processes; each embeds every `parts`-th shard.

    Returns:
        The files of all shards in order. They are complete when all processes have returned.

    Raises:
        DataError: A shard is damaged, or a photo has no position or cannot be decoded.
    """
    check_builds(shards, encoder.spec.name)
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / _cache_name(shard, encoder.spec.to_dict()) for shard in shards]
    mine = list(zip(shards, files, strict=True))[part::parts]
    missing = [(shard, file) for shard, file in mine if not file.is_file()]
    if missing:
        with torch_threads(1), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            jobs = pool.map(lambda job: _embed_shard(job[0], encoder, job[1]), missing)
            label = f"embedding with {encoder.spec.name}"
            for _ in progress_bar(jobs, total=len(missing), desc=label, unit="shard"):
                pass
    return files


def _embed_shard(shard: str, encoder: ImageEncoder | DeferredEncoder, target: Path) -> None:
    keys, positions, made_here = [], [], False
    rows: list[NDArray[np.floating]] = []
    waiting: dict[int, NDArray[np.uint8]] = {}  # pixels of rows that are still to be embedded

    def embed_waiting() -> None:
        if waiting:
            for row, embedding in zip(
                waiting, encoder.embed(np.stack([*waiting.values()])), strict=True
            ):
                rows[row] = embedding.astype(np.float16)  # as it is stored: half of the memory
            waiting.clear()

    most = 8 * encoder.spec.embedding_dim + 2 * MAX_HEADER_BYTES
    for sample, truth in read_samples(shard, {EMBEDDING_EXTENSION: most}):
        positions.append((truth.latitude, truth.longitude))
        keys.append(sample.key)
        place = f"{sample.key!r} of {shard}"
        if (stored := sample.extras.get(EMBEDDING_EXTENSION)) is not None:
            rows.append(_stored_embedding(stored, encoder, place))
            continue
        assert sample.image is not None
        waiting[len(rows)] = pixels_of(sample.image, encoder, place)
        made_here = True
        rows.append(np.empty(0))
        if len(waiting) == PHOTOS_AT_ONCE:
            embed_waiting()
    embed_waiting()
    if not keys:
        raise DataError(f"{shard} holds no sample.")
    latitude, longitude = np.array(positions).T
    photos = EmbeddedPhotos(keys, np.stack(rows), latitude, longitude)
    write_embedded(target, photos, encoder.fingerprint if made_here else "")


def write_embedded(target: Path, photos: EmbeddedPhotos, fingerprint: str = "") -> None:
    """Writes a file of the cache, with embeddings in half precision."""
    flat = pa.array(photos.embeddings.astype(np.float16).ravel())
    embeddings = pa.FixedSizeListArray.from_arrays(flat, photos.embeddings.shape[1])
    table = pa.table(
        {
            "key": photos.keys,
            "latitude": photos.latitude,
            "longitude": photos.longitude,
            "embedding": embeddings,
        }
    )
    if fingerprint:
        table = table.replace_schema_metadata({FINGERPRINT: fingerprint})
    with atomic_path(target) as temporary:
        # A dictionary of numbers that never repeat makes reading four times slower.
        pq.write_table(table, temporary, compression="zstd", use_dictionary=False)


def _stored_embedding(
    data: bytes, encoder: ImageEncoder | DeferredEncoder, place: str
) -> NDArray[np.floating]:
    try:
        stored = read_vector(data, encoder.spec.embedding_dim)
        with np.errstate(over="ignore"):
            half = stored.astype(np.float16)
        found, sound = "infinite in half precision, or no numbers", bool(np.all(np.isfinite(half)))
    except ArrayError as error:
        found, sound = str(error), False
    if not sound:
        raise DataError(
            f"The stored embedding of sample {place} is unusable ({found[:200]}); want floats of "
            f"half precision and shape ({encoder.spec.embedding_dim},), as {encoder.spec.name} "
            "gives: train with the encoder that the shards were built with (--encoder), or build "
            "them again."
        )
    return half


def _cache_name(shard: str, encoder: dict[str, object]) -> str:
    identity = json.dumps([encoder, *shard_version(shard)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"{Path(shard).stem}-{digest}.parquet"


def read_embedded(files: Sequence[Path]) -> EmbeddedPhotos:
    """Reads the files that `embed_shards` wrote into memory.

    Raises:
        DataError: The embeddings need more memory than this machine has.
    """
    _check_memory(files)
    tables = [pq.read_table(file) for file in files]
    table = pa.concat_tables(tables).combine_chunks()
    return EmbeddedPhotos(
        keys=table["key"].to_pylist(),
        embeddings=embedding_rows(table).astype(np.float32),
        latitude=table["latitude"].to_numpy(),
        longitude=table["longitude"].to_numpy(),
    )


def cached_fingerprint(files: Sequence[Path]) -> str:
    """Returns the fingerprint of the encoder that made the embeddings of files of the cache.

    Returns:
        The fingerprint; empty if no file tells.

    Raises:
        DataError: Different encoders made them, such as two versions of one file of weights.
    """
    found: dict[str, Path] = {}
    for file in files:
        stored = (pq.read_schema(file).metadata or {}).get(FINGERPRINT)
        if stored:
            found.setdefault(stored.decode("ascii"), file)
    for one, file in found.items():
        first, first_file = next(iter(found.items()))
        if not (alike := cosine(first, one)) >= LEAST_COSINE:
            raise DataError(
                f"{first_file} and {file} hold embeddings of different encoders: the cosine of "
                f"their fingerprints is {alike:.4f}, wanted at least {LEAST_COSINE}. Delete those "
                "of them that were made with other weights, and run again."
            )
    return next(iter(found), "")


def embedding_rows(table: pa.Table) -> NDArray[np.float16]:
    """Returns the embeddings ``(N, E)`` of a table of the cache, as they are stored."""
    column = table["embedding"].combine_chunks()
    flat: NDArray[np.float16] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size)


def _check_memory(files: Sequence[Path]) -> None:
    """Refuses embeddings that need too much memory: float16 and float32 are held at once."""
    wanted = 0
    for file in files:
        metadata = pq.read_metadata(file)
        width = metadata.schema.to_arrow_schema().field("embedding").type.list_size
        wanted += 6 * metadata.num_rows * width
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > 0.8 * held:
        raise DataError(
            f"The embeddings take {wanted / 2**30:.1f} GiB and this machine has "
            f"{held / 2**30:.1f} GiB of memory; stream from disk (--set stream=default), or name "
            "fewer shards."
        )
