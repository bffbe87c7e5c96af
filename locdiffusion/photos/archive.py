"""Reads the samples of a tar shard strictly; knows neither Beam nor pixels.

Samples are grouped by webdataset's rule: the key is the path up to the first dot of the base name,
directories kept; the rest, in lower case, is the extension; members of a sample are adjacent.
A sample that damage cuts in two, or whose end cannot be seen, is reported and never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from locdiffusion.photos.sidecar import Sidecar, read_sidecar
from locdiffusion.photos.storage import open_stream
from locdiffusion.photos.tar import ArchiveDamage, Member, TarStatus, read_members
from schemas.geotags import ErrorRow, Stage, Status
from schemas.samples import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_BYTES,
    MAX_METADATA_BYTES,
    METADATA_EXTENSION,
)

LIMITS = {extension: MAX_IMAGE_BYTES for extension in IMAGE_EXTENSIONS} | {
    METADATA_EXTENSION: MAX_METADATA_BYTES
}

RUN_AGAIN = "type the same command again: it reads the shard anew"

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)\Z", re.DOTALL)
_META = re.compile(r"__[^/]*__(\Z|/)")  # webdataset's own members, for example __meta__/info.json


@dataclass
class Sample:
    """Adjacent members with one key.

    Attributes:
        key: Name of the members up to the first dot.
        image: Bytes of the first photo.
        metadata: Bytes of the nearest document about the photo.
        sidecar: What that document says.
        problem: Status and message of a sample that cannot be used.
        images: Extensions of the photos under the key.
        documents: Number of `.json` members under the key.
        image_offset: Byte at which the photo begins in a plain tar.
        extras: Bytes of other members that the reader was asked for, by extension.
    """

    key: str
    image: bytes | None = None
    metadata: bytes | None = None
    sidecar: Sidecar | None = None
    problem: tuple[Status, str] | None = None
    images: tuple[str, ...] = ()
    documents: int = 0
    image_offset: int | None = field(default=None, compare=False)
    extras: dict[str, bytes] = field(default_factory=dict, compare=False)


def split_name(name: str) -> tuple[str, str] | None:
    """Splits a member's name into key and lower-case extension; None if it is of no sample."""
    match = None if _META.match(name) else _KEY.match(name)
    return (match[1], match[2].lower()) if match else None


@dataclass
class ShardReader:
    """Yields the samples of one shard; afterwards `status` says how the shard ended.

    Every sample becomes exactly one item: a Sample, or an ErrorRow with its key. Each further photo
    under the same key is an ErrorRow of its own. A damaged shard adds one ErrorRow without a key.

    Attributes:
        url: Path of the tar, or a URL that fsspec opens.
        extras: Other extensions to read, with the most bytes that such a member may have.
        status: State of the shard, valid once the iteration is over.
        message: What is wrong with the shard, empty if it is complete.
        ignored_members: Number of files that by webdataset's rule belong to no sample (hidden
            files, `__meta__`).
        read_failed: Whether reading failed before the end, so that another run should try again.
    """

    url: str
    extras: Mapping[str, int] = field(default_factory=dict)
    status: TarStatus = TarStatus.COMPLETE
    message: str = ""
    ignored_members: int = 0
    read_failed: bool = False
    _seen: set[str] = field(default_factory=set, repr=False)

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        try:
            file = open_stream(self.url)
        except OSError as error:
            self.read_failed = True
            self._end(TarStatus.UNREADABLE, _why_unopened(self.url, error))
        else:
            with file:
                yield from self._samples(file)
        if self.status is not TarStatus.COMPLETE:
            status = Status(f"shard_{self.status.value}")
            again = "copy or pack the shard again"
            told = self.status in (TarStatus.TRUNCATED, TarStatus.CORRUPT)
            message = f"{self.message}; {again}" if told else self.message
            yield ErrorRow(None, Stage.READ, status, message)

    def _end(self, status: TarStatus, message: str) -> None:
        self.status, self.message = status, message

    def _samples(self, file: BinaryIO) -> Iterator[Sample | ErrorRow]:
        sample: Sample | None = None
        try:
            for member in read_members(file, self._limit):
                parts = split_name(member.name)
                if parts is None:
                    self.ignored_members += 1
                    continue
                if sample is None or sample.key != parts[0]:
                    if sample is not None:
                        yield from self._finish(sample)
                    sample = Sample(parts[0])
                self._add_member(sample, parts[1], member)
        except ArchiveDamage as damage:
            self.read_failed = damage.status is TarStatus.UNREADABLE
            if self.read_failed:
                self._end(damage.status, f"{damage}; {RUN_AGAIN}")
            elif damage.offset == 0 and not damage.member:
                self._end(TarStatus.UNREADABLE, _why_unread(file, damage))
            else:
                self._end(damage.status, str(damage))
            yield from self._at_damage(sample, damage)
        else:
            if sample is not None:
                yield from self._finish(sample)

    def _limit(self, name: str) -> int | None:
        parts = split_name(name)
        return {**LIMITS, **self.extras}.get(parts[1]) if parts else None

    def _add_member(self, sample: Sample, extension: str, member: Member) -> None:
        """Puts a member into its sample; only the first of a kind counts."""
        if extension in IMAGE_EXTENSIONS:
            sample.images += (extension,)
            if len(sample.images) == 1:
                sample.image, sample.image_offset = member.data, member.offset
                sample.problem = sample.problem or member.problem
        elif extension == METADATA_EXTENSION:
            sample.documents += 1
            if sample.documents == 1:
                sample.metadata = member.data
                if member.data is not None:
                    sample.sidecar = read_sidecar(member.name, member.data)
                sample.problem = sample.problem or member.problem
        elif extension in self.extras:
            sample.problem = sample.problem or member.problem
            if member.data is not None:
                sample.extras.setdefault(extension, member.data)

    def _at_damage(
        self, sample: Sample | None, damage: ArchiveDamage
    ) -> Iterator[Sample | ErrorRow]:
        """Passes on the sample before the damage if it is whole, and reports one that is cut."""
        cut = split_name(damage.member) if damage.member else None
        if sample is not None and cut and cut[0] != sample.key:
            yield from self._finish(sample)
            sample = None
        key = sample.key if sample is not None else cut[0] if cut else None
        if key is not None:
            half = Sample(key, images=sample.images if sample is not None else ())
            again = RUN_AGAIN if self.read_failed else "copy the shard again"
            why = f"the shard is {damage}; the sample is not known to be whole; {again}"
            half.problem = (Status.TRUNCATED, why)
            yield from self._finish(half)

    def _finish(self, sample: Sample) -> Iterator[Sample | ErrorRow]:
        again = "rename or remove one: only the first photo under a key is geotagged"
        if sample.key in self._seen:
            why = f"the key {sample.key!r} was used before in this shard; {again}"
            sample.problem = (Status.DUPLICATE_KEY, why)
        elif sample.image is None and not sample.extras and sample.problem is None:
            wanted = "|".join(IMAGE_EXTENSIONS)
            why = f"the sample {sample.key!r} has no photo, wanted {sample.key}.{wanted}; add it"
            sample.problem = (Status.MISSING_IMAGE, why)
        elif sample.documents > max(1, len(sample.images)) and sample.problem is None:
            why = f"the sample has {sample.documents} .json members, wanted one; remove the rest"
            sample.problem = (Status.BAD_METADATA, why)
        self._seen.add(sample.key)
        if sample.problem is None:
            yield sample
        else:
            yield ErrorRow(sample.key, Stage.READ, *sample.problem)
        for _ in sample.images[1:]:
            why = f"the sample {sample.key!r} holds {len(sample.images)} photos; {again}"
            yield ErrorRow(sample.key, Stage.READ, Status.DUPLICATE_KEY, why)


def _why_unopened(url: str, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return f"{url} is a directory, wanted a tar; pass {url.rstrip('/')}/*.tar"
    return (
        f"{url} cannot be opened ({type(error).__name__}: {error}); check the path and its rights"
    )


def _why_unread(file: BinaryIO, damage: ArchiveDamage) -> str:
    file.seek(0)
    head = file.read(40)
    where = f"{TarStatus.UNREADABLE.value} at byte 0"
    if not head:
        return f"{where}: the file is empty, wanted a tar; copy or download the shard again"
    page = " (a web page: did the download fail?)" if head.lstrip()[:1] == b"<" else ""
    return (
        f"{where}: not a tar, the file begins with {head!r}{page} and {damage.why}; "
        "wanted .tar, .tar.gz, .tar.bz2 or .tar.xz"
    )
