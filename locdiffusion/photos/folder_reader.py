"""Reads the photos of one group of a folder, with the documents about them. Knows no Beam."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.documents import joined, telling
from locdiffusion.photos.folder import FOLLOW, PhotoFile
from locdiffusion.photos.identity import PhotoPlace, last_parts
from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.names import legible
from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from locdiffusion.photos.storage import PAUSES_S, LinkError, open_inside, open_stream, passes
from schemas.geotags import ErrorRow, Stage, Status
from schemas.samples import MAX_IMAGE_BYTES, MAX_METADATA_BYTES


@dataclass
class FolderReader:
    """Yields the photos of one group, each as a Sample or as an ErrorRow with its key.

    Attributes:
        photos: Photos to read.
        problem: Why the folder could not be listed; empty if it could.
        status: State of the group, as of `archive.ShardReader`.
        message: The problem.
        left_out: Empty: what is left out is counted when folders are listed.
        late: Empty: documents are known before the photos are read.
        problems: What is wrong with each document that cannot be read or is not understood.
        read_failed: Whether a photo could not be read, so that another run should try again.
        passing: False: photos that cannot be read for a moment are tried again here.
        kept: Keys of photos that are done: only the documents about them are read.
        sleep: Waits so many seconds before another try.
        keep: Names of fields of documents that are taken along.
    """

    photos: Sequence[PhotoFile]
    problem: str = ""
    status: TarStatus = TarStatus.COMPLETE
    message: str = ""
    left_out: LeftOut = field(default_factory=LeftOut)
    late: dict[str, Sidecar] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    read_failed: bool = False
    passing: bool = False
    kept: Container[str] = ()
    sleep: Callable[[float], None] = time.sleep
    keep: Sequence[str] = ()
    _pauses: list[float] = field(default_factory=lambda: list(PAUSES_S), repr=False)

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        if self.problem:
            self.status, self.message, self.read_failed = TarStatus.UNREADABLE, self.problem, True
            yield ErrorRow(None, Stage.READ, Status.SHARD_UNREADABLE, legible(self.problem))
        for photo in self.photos:
            if photo.key not in self.kept:
                yield self._read(photo)
            else:
                for path in photo.documents:
                    self._document(photo, path)

    def _read(self, photo: PhotoFile) -> Sample | ErrorRow:
        try:
            image = self._image(photo)
        except _TooLarge as error:
            why = f"the photo has {error}; store a smaller file"
            return ErrorRow(photo.key, Stage.READ, Status.TOO_MANY_BYTES, why, path=photo.key)
        except OSError as error:
            why = self._lasting(photo, error)
            if not why:
                self.read_failed = True
                why = f"cannot be read ({error}); check that it is still there, and its rights"
            why = legible(why)
            return ErrorRow(photo.key, Stage.READ, Status.MISSING_IMAGE, why, path=photo.key)
        name = last_parts(photo.url, photo.apart)
        place = PhotoPlace(name=name, path=photo.key)
        read = {path: self._document(photo, path) for path in photo.documents}
        if not read:
            return Sample(photo.key, image, place=place)
        said = {path: sidecar for path, (_, sidecar) in read.items()}
        data, _ = read[telling(photo.documents, said)]
        return Sample(photo.key, image, data, joined(photo.documents, said), place=place)

    def _image(self, photo: PhotoFile) -> bytes:
        """Reads a photo, in several tries unless the photos before it have used them up."""
        while True:
            try:
                image = _content(photo, photo.path, MAX_IMAGE_BYTES)
            except OSError as error:
                if not (passes(error) and self._pauses):
                    raise
                self.sleep(self._pauses.pop(0))
            else:
                self._pauses = list(PAUSES_S)
                return image

    def _lasting(self, photo: PhotoFile, error: OSError) -> str:
        """Returns why there is nothing to read until a person acts; or empty."""
        return _leads_out(photo.url, error) or _no_file(photo.url)

    def _document(self, photo: PhotoFile, path: str) -> tuple[bytes | None, Sidecar]:
        data = None
        try:
            data = _content(photo, path, MAX_METADATA_BYTES)
            sidecar = read_sidecar(legible(path), data, self.keep)
        except (OSError, _TooLarge) as error:
            sidecar = Sidecar(problem=legible(f"{path} cannot be read ({error})"))
        self.problems += filter(None, [sidecar.problem])
        return data, sidecar


class _TooLarge(ValueError):
    pass


def _content(photo: PhotoFile, path: str, limit: int) -> bytes:
    """Reads a photo or a document about it; it may have grown since it was listed."""
    whole = f"{photo.folder}/{path}"
    with open_stream(whole) if photo.follow_links else open_inside(photo.folder, path) as file:
        data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise _TooLarge(f"more than {limit:,} bytes")
    return data


def _leads_out(url: str, error: OSError) -> str:
    """Returns why a photo that lies outside of its folder is not read; empty for other errors."""
    if not isinstance(error, LinkError):
        return ""
    target = f", to {os.readlink(url)!r}" if os.path.islink(url) else ""
    return f"is a link that leads out of the folder{target}; {FOLLOW}"


def _no_file(url: str) -> str:
    """Returns why there is nothing to read under a local name until a person acts; or empty."""
    if "://" in url:
        return ""
    try:
        mode = os.stat(url).st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) or not os.path.islink(url):
            return ""
        place = os.readlink(url)
        return f"is a link to {place!r}, where no file is; put it back, or remove the link"
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return "is a pipe, a socket or a device, wanted a file; remove it, or leave it out: --exclude"
