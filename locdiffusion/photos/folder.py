"""Reads photos in folders as if they had been packed into shards: same items, same guarantees.

Files are grouped into virtual shards without writing a tar. A group ends where the hash of a key
says so, not after a fixed number, so that a photo that is added, removed or replaced changes the
group it falls into and no other: a run that is resumed does that group again, and only that one.
Knows no Beam.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.names import extension
from locdiffusion.photos.sidecar import read_sidecar
from locdiffusion.photos.storage import open_stream
from locdiffusion.photos.tar import TarStatus
from schemas.geotags import ErrorRow, Stage, Status
from schemas.samples import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_BYTES,
    MAX_METADATA_BYTES,
    METADATA_EXTENSION,
)

GROUP_MEAN, GROUP_MOST = 256, 1024


@dataclass(frozen=True)
class PhotoFile:
    """One photo on disk.

    Attributes:
        key: Path within the folder, with `/` and the extension, so that keys are unique.
        url: Path or URL of the photo.
        size: Size of the photo in bytes.
        metadata: Path or URL of the `.json` of the same name beside the photo, if there is one.
        metadata_size: Size of the `.json` in bytes.
    """

    key: str
    url: str
    size: int
    metadata: str | None = None
    metadata_size: int = 0

    @property
    def bytes(self) -> int:
        """Size of the photo and its metadata in bytes."""
        return self.size + self.metadata_size


def find_photos(files: dict[str, int], root: str) -> tuple[list[PhotoFile], Counter[str]]:
    """Finds the photos among files.

    Args:
        files: Sizes of the files in bytes, by path or URL.
        root: Path or URL that keys are relative to.

    Returns:
        The photos, sorted by key, and the number of other files by extension. Metadata beside a
        photo and hidden files are not counted.
    """
    prefix = root.rstrip("/") + "/"
    shown = {url: size for url, size in files.items() if not _hidden(url.removeprefix(prefix))}
    documents = {
        url.rpartition(".")[0]: url for url in shown if extension(url) == METADATA_EXTENSION
    }
    photos, used = [], set()
    for url in sorted(url for url in shown if extension(url) in IMAGE_EXTENSIONS):
        document = documents.get(url.rpartition(".")[0])
        used |= {url, document}
        photos.append(
            PhotoFile(
                legible(url.removeprefix(prefix)),
                url,
                shown[url],
                document,
                shown[document] if document else 0,
            )
        )
    others = Counter(f".{extension(url)}" for url in shown if url not in used)
    return photos, others


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def group_photos(photos: Sequence[PhotoFile]) -> Iterator[tuple[PhotoFile, ...]]:
    """Cuts a list of photos, sorted by key, into groups of about `GROUP_MEAN`."""
    group: list[PhotoFile] = []
    for photo in photos:
        group.append(photo)
        if _hash(photo.key) % GROUP_MEAN == 0 or len(group) == GROUP_MOST:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def fingerprint(photos: Iterable[PhotoFile]) -> str:
    """Computes fifteen decimal digits that change with any key or size."""
    lines = (f"{photo.key}\0{photo.size}\0{photo.metadata_size}\n" for photo in photos)
    return f"{_hash(''.join(lines)) % 10**15:015d}"


def group_mark(photos: Iterable[PhotoFile]) -> str:
    """Computes ten hexadecimal digits that change with any key, and with nothing else."""
    return f"{_hash(chr(0).join(photo.key for photo in photos)):016x}"[:10]


@dataclass
class FolderReader:
    """Yields the photos of one group, each as a Sample or as an ErrorRow with its key.

    Attributes:
        photos: Photos to read.
        status: State of the group, as of `archive.ShardReader`; a group is always complete.
        message: Empty.
        ignored_members: Zero.
        read_failed: Whether a photo could not be read, so that another run should try again.
    """

    photos: Sequence[PhotoFile]
    status: TarStatus = TarStatus.COMPLETE
    message: str = ""
    ignored_members: int = 0
    read_failed: bool = False

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        for photo in self.photos:
            item = _read(photo)
            if isinstance(item, ErrorRow) and item.status is Status.MISSING_IMAGE:
                self.read_failed = True
            yield item


def _read(photo: PhotoFile) -> Sample | ErrorRow:
    try:
        image = _content(photo.url, MAX_IMAGE_BYTES)
    except _TooLarge as error:
        why = f"the photo has {error}; store a smaller file"
        return ErrorRow(photo.key, Stage.READ, Status.TOO_MANY_BYTES, why)
    except OSError as error:
        why = f"cannot be read ({_reason(error)}); check that it is still there, and its rights"
        return ErrorRow(photo.key, Stage.READ, Status.MISSING_IMAGE, why)
    try:
        document = _content(photo.metadata, MAX_METADATA_BYTES) if photo.metadata else None
    except (OSError, _TooLarge) as error:
        why = f"its .json cannot be read ({_reason(error)}); repair or remove it"
        return ErrorRow(photo.key, Stage.READ, Status.BAD_METADATA, why)
    sidecar = None if document is None else read_sidecar(str(photo.metadata), document)
    return Sample(photo.key, image, document, sidecar)


class _TooLarge(ValueError):
    pass


def _content(url: str, limit: int) -> bytes:
    """Reads a file; it may have grown since it was listed."""
    with open_stream(url) as file:
        data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise _TooLarge(f"more than {limit:,} bytes")
    return data


def _reason(error: Exception) -> str:
    """Returns a reason for a row of errors, which takes UTF-8 only."""
    return legible(f"{type(error).__name__}: {error}")


def legible(name: str) -> str:
    """Replaces bytes of a name that are not UTF-8 by backslashes and hexadecimal digits."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
