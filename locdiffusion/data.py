"""Training data: shards of photos with truth, turned once into embeddings.

The image encoder is frozen, so each photo is embedded once and the result cached: one Parquet
file per shard (key, latitude, longitude, embedding), named after the shard, the encoder and the
shard's size and time. Training then never touches pixels.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from braceexpand import braceexpand
from numpy.typing import NDArray
from PIL import Image, ImageOps

from locdiffusion.model.image_encoder import ImageEncoder
from locdiffusion.sphere.geodesy import unit_vectors
from locdiffusion.threads import torch_threads
from schemas.samples import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_PIXELS,
    METADATA_EXTENSION,
    parse_metadata,
)

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")


class DataError(ValueError):
    """Training data is missing or unusable."""


@dataclass(frozen=True)
class EmbeddedPhotos:
    """Photos as training sees them.

    Attributes:
      keys: N sample keys.
      embeddings: ``(N, E)`` float32.
      latitude, longitude: ``(N,)`` float64 degrees.
    """

    keys: list[str]
    embeddings: NDArray[np.float32]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def __len__(self) -> int:
        """N."""
        return len(self.keys)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """``(N, 3)`` unit vectors of the true points."""
        return unit_vectors(self.latitude, self.longitude)

    def take(self, rows: NDArray[np.int64]) -> EmbeddedPhotos:
        """Some of the photos, by index."""
        return EmbeddedPhotos(
            [self.keys[i] for i in rows],
            self.embeddings[rows],
            self.latitude[rows],
            self.longitude[rows],
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over keys, positions and embeddings: which data a model was trained on."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        for array in (self.latitude, self.longitude, self.embeddings):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def expand_shards(patterns: Iterable[str]) -> list[str]:
    """Files that globs and braces name, sorted, each once.

    Raises:
      DataError: a pattern matches nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        matches = [m for p in braceexpand(pattern) for m in sorted(glob.glob(p))]
        if not matches:
            raise DataError(
                f"No shard matches {pattern!r}. Want webdataset tars; quote the pattern, as in "
                "'DIR/*.tar'."
            )
        found += matches
    return list(dict.fromkeys(found))


def load_photos(
    shards: Sequence[str], encoder: ImageEncoder, cache: Path, workers: int | None = None
) -> EmbeddedPhotos:
    """Embeds the photos of shards, or reads their embeddings from the cache.

    Args:
      shards: paths of webdataset tars whose samples carry truth.
      encoder: frozen image encoder.
      cache: directory of the embeddings; shards found there are not read again.
      workers: shards embedded at the same time; default one per processor.

    Raises:
      DataError: a photo has no truth or cannot be decoded.
    """
    from tqdm import tqdm

    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / _cache_name(shard, encoder.spec.to_dict()) for shard in shards]
    missing = [(s, f) for s, f in zip(shards, files, strict=True) if not f.is_file()]
    if missing:
        with torch_threads(1), ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
            jobs = pool.map(lambda job: _embed_shard(job[0], encoder, job[1]), missing)
            label = f"embedding with {encoder.spec.name}"
            for _ in tqdm(jobs, total=len(missing), desc=label, unit="shard", file=sys.stderr):
                pass
    return _concatenate(files)


def read_samples(shard: str) -> Iterator[tuple[str, bytes, float, float]]:
    """Key, image bytes, latitude and longitude of each sample, by webdataset's own reader.

    Raises:
      DataError: a sample lacks an image or its truth, or the shard is no sound tar.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        # Opened here: webdataset itself runs what a file named "pipe:..." says.
        with open(shard, "rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": shard, "stream": stream}])):
                yield _checked(sample, shard)
    except DataError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = next((a for a in error.args if isinstance(a, str)), error)
        raise DataError(
            f"{shard} cannot be read ({reason}); want a webdataset tar, complete and with each "
            "member once: write it again."
        ) from error


def _checked(sample: Mapping[str, Any], shard: str) -> tuple[str, bytes, float, float]:
    key = sample["__key__"]
    image = next((sample[e] for e in IMAGE_EXTENSIONS if e in sample), None)
    try:
        truth = parse_metadata(sample.get(METADATA_EXTENSION, b"{}"))
    except ValueError as error:
        raise DataError(f"{key}.{METADATA_EXTENSION} of {shard}: {error}.") from error
    if image is None or truth is None:
        raise DataError(
            f"Sample {key!r} of {shard} lacks {'an image' if image is None else 'its truth'}; "
            f"training wants {key}.jpg and {key}.json with latitude and longitude."
        )
    return key, image, truth.latitude, truth.longitude


def _embed_shard(shard: str, encoder: ImageEncoder, target: Path) -> None:
    keys, latitude, longitude, blocks, pixels = [], [], [], [], []
    for key, image, lat, lon in read_samples(shard):
        pixels.append(_pixels(image, encoder, f"{key!r} of {shard}"))
        keys.append(key)
        latitude.append(lat)
        longitude.append(lon)
        if len(pixels) == 64:
            blocks.append(encoder.embed(np.stack(pixels)))
            pixels.clear()
    if pixels:
        blocks.append(encoder.embed(np.stack(pixels)))
    if not keys:
        raise DataError(f"{shard} holds no sample.")
    flat = pa.array(np.concatenate(blocks).astype(np.float16).ravel())
    embeddings = pa.FixedSizeListArray.from_arrays(flat, encoder.spec.embedding_dim)
    table = pa.table(
        {"key": keys, "latitude": latitude, "longitude": longitude, "embedding": embeddings}
    )
    temporary = target.with_suffix(".part")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, target)


def _pixels(image: bytes, encoder: ImageEncoder, place: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(image), formats=IMAGE_FORMATS) as opened:
            if opened.width * opened.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{opened.size} pixels, limit {MAX_IMAGE_PIXELS:,}")
            return encoder.preprocess(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's parsers raise almost anything on broken bytes
        raise DataError(
            f"The image of sample {place} cannot be decoded ({type(error).__name__}: {error}); "
            "replace it, or leave the sample out of the shard."
        ) from error


def _cache_name(shard: str, encoder: dict[str, object]) -> str:
    status = os.stat(shard)
    identity = json.dumps(
        [encoder, os.path.abspath(shard), status.st_size, status.st_mtime_ns], sort_keys=True
    )
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"{Path(shard).stem}-{digest}.parquet"


def _concatenate(files: Sequence[Path]) -> EmbeddedPhotos:
    tables = [pq.read_table(file) for file in files]
    table = pa.concat_tables(tables).combine_chunks()
    column = table["embedding"].combine_chunks()
    width = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return EmbeddedPhotos(
        keys=table["key"].to_pylist(),
        embeddings=flat.astype(np.float32).reshape(-1, width),
        latitude=table["latitude"].to_numpy(),
        longitude=table["longitude"].to_numpy(),
    )
