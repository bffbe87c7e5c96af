"""Reads the lists of the field's benchmarks: a file of positions, and a folder of photos.

| list | id | position |
|---|---|---|
| Im2GPS3k, YFCC26k (`*_places365.csv`) | `IMG_ID` | `LAT`, `LON` |
| OSV-5M (`test.csv`) | `id` | `latitude`, `longitude` |
| GWS15k, and any other | a name of `PHOTO_ID` | names of `LATITUDE` and `LONGITUDE` |

A photo is looked for by its id: as a path below the folder, then by its name anywhere below it,
with or without an extension.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from locdiffusion.cli.terminal import progress_bar, tell
from locdiffusion.photos.embedding_cache import EmbeddedPhotos, read_embedded, write_embedded
from locdiffusion.photos.folder import FolderContent
from locdiffusion.photos.lists import LATITUDE, LONGITUDE, read_list
from locdiffusion.photos.photo_process import isolated
from locdiffusion.photos.picture import PhotoError, read_picture
from locdiffusion.photos.storage import DataError, path_inside
from schemas.samples import IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from locdiffusion.model.image_encoder import ImageEncoder

CHUNK = 512


@dataclass(frozen=True)
class TruthList:
    """Photos of a list and their true positions.

    Attributes:
        ids: Ids of N photos, each once.
        latitude, longitude: True positions in degrees, ``(N,)``.
    """

    ids: list[str]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]

    def __len__(self) -> int:
        """Number N of photos."""
        return len(self.ids)


def read_truth(path: Path) -> TruthList:
    """Reads a list of photos with their positions.

    Args:
        path: File that `locdiffusion.photos.lists` reads.

    Raises:
        DataError: The list cannot be read, has no photo, or has two positions for one id.
    """
    rows = read_list(str(path))
    latitude = rows.degrees(LATITUDE, -90.0, 90.0)
    longitude = rows.degrees(LONGITUDE, -180.0, 180.0)
    first: dict[str, int] = {}
    for row, key in enumerate(rows.ids()):
        same = first.setdefault(key, row)
        if (latitude[row], longitude[row]) != (latitude[same], longitude[same]):
            raise DataError(
                f"{rows.place(row)}: a second position of {key!r}; want a line per photo, each "
                "with an id of its own."
            )
    if not first:
        raise DataError(f"{path} lists no photo; want a line for each below the header.")
    kept = list(first.values())
    return TruthList(list(first), latitude[kept], longitude[kept])


def find_photos(ids: Sequence[str], folder: Path) -> dict[str, Path]:
    """Finds the files of those photos that are in the folder, as geotagging finds them.

    A link that leads out of the folder is none of them.

    Raises:
        DataError: The folder holds no photo, or two files answer to one id.
    """
    root = os.path.abspath(folder)
    files = [
        folder / photo.path
        for photo in FolderContent.walk(root, (), set()).photos
        if path_inside(root, photo.path) is not None
    ]
    if not files:
        raise DataError(f"--input {folder} holds no photo ({', '.join(IMAGE_EXTENSIONS)}).")
    by_path = {str(PurePosixPath(file.relative_to(folder))): file for file in sorted(files)}
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in by_path:
        for name in {PurePosixPath(path).name, PurePosixPath(path).stem}:
            by_name[name].append(path)
    found = {}
    for key in ids:
        paths = [key] if key in by_path else _named(key, by_name)
        if len(paths) > 1:
            raise DataError(f"{paths[0]!r} and {paths[1]!r} may both be photo {key!r}; remove one.")
        if paths:
            found[key] = by_path[paths[0]]
    return found


def _named(key: str, by_name: Mapping[str, list[str]]) -> list[str]:
    """Finds files by name; of several, those whose folders match the id."""
    name = PurePosixPath(key).name
    stem, dot, extension = name.rpartition(".")
    bare = stem if dot and extension.lower() in IMAGE_EXTENSIONS else name
    paths = by_name.get(name) or by_name.get(bare) or []
    whole = str(PurePosixPath(key).with_name(bare))
    fitting = [path for path in paths if f"/{path.rpartition('.')[0]}".endswith(f"/{whole}")]
    return fitting or paths


def embed_list(
    truth: TruthList, files: Mapping[str, Path], encoder: ImageEncoder, cache: Path
) -> EmbeddedPhotos:
    """Embeds the photos of a list, or reads their embeddings from the cache.

    Args:
        truth: The list.
        files: Files of its photos. One that cannot be decoded is left out and named on stderr.
        encoder: Frozen image encoder.
        cache: Directory of the embeddings; embeddings that it holds are not computed again.

    Raises:
        DataError: No photo is left.
    """
    rows = [row for row, key in enumerate(truth.ids) if key in files]
    cached = []
    with progress_bar(total=len(rows), desc="embedding", unit="photo") as bar:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            paths = [files[truth.ids[row]] for row in chunk]
            cached.append(cache / _cache_name(truth, chunk, paths, encoder.spec.to_dict()))
            if not cached[-1].is_file():
                write_embedded(cached[-1], _embedded(truth, chunk, paths, encoder))
            bar.update(len(chunk))
    photos = read_embedded(cached) if cached else None
    if not photos:
        raise DataError(
            f"None of the {len(truth):,} photos of the list can be had, for example "
            f"{truth.ids[0]!r}; want files of these names below --input."
        )
    return photos


def _embedded(
    truth: TruthList, rows: Sequence[int], paths: Sequence[Path], encoder: ImageEncoder
) -> EmbeddedPhotos:
    def pixels_of(path: Path) -> NDArray[np.uint8] | str:
        try:
            return isolated(read_picture(path), encoder.spec.preprocess).pixels
        except PhotoError as error:
            return f"{path} cannot be decoded: {error}."

    side = encoder.spec.image_size
    pixels, kept = [np.zeros((0, side, side, 3), np.uint8)], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, found in zip(rows, pool.map(pixels_of, paths), strict=True):
            if isinstance(found, str):
                tell(f"left out: {found}")
            else:
                pixels.append(found[None])
                kept.append(row)
    return EmbeddedPhotos(
        [truth.ids[row] for row in kept],
        encoder.embed(np.concatenate(pixels)),
        truth.latitude[kept],
        truth.longitude[kept],
    )


def _cache_name(
    truth: TruthList, rows: Sequence[int], paths: Sequence[Path], encoder: Mapping[str, object]
) -> str:
    places = [(truth.ids[row], truth.latitude[row], truth.longitude[row]) for row in rows]
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    identity = json.dumps([encoder, places, stamps], sort_keys=True)
    return f"list-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.parquet"
