"""Reads the samples of a shard, a tar or a zip, strictly; knows neither Beam nor pixels.

Every member whose last ending is that of a photo is a photo and becomes one item; `names` has the
rule. Members that stand side by side and differ only in their endings are one sample: a photo, its
document, its embedding. Documents that stand elsewhere are matched once the shard is read.
A sample that damage cuts in two, or whose end cannot be seen, is reported and never passed on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import BinaryIO

from locdiffusion.photos.archive_formats import read_archive, why_unopened, why_unread
from locdiffusion.photos.blocks import ArchiveDamage, ArchiveLimit, TarStatus
from locdiffusion.photos.documents import Documents, joined, telling
from locdiffusion.photos.identity import Holder, PhotoPlace, archive_name
from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.names import (
    EXCLUDED,
    NameKind,
    brief,
    excluded,
    extension,
    first_dot_key,
    junk,
    kind_of,
    match_documents,
    photo_key,
    stem,
)
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.storage import open_stream, passes, version
from locdiffusion.photos.tar import Member, plain_path
from schemas.geotags import ErrorRow, Stage, Status
from schemas.samples import MAX_IMAGE_BYTES, MAX_METADATA_BYTES

LIMITS = {NameKind.PHOTO: MAX_IMAGE_BYTES, NameKind.DOCUMENT: MAX_METADATA_BYTES}
"""Most bytes of a member by its kind; others are not read."""

MOST_HELD = 16
"""Most photos, and most documents, of one sample that are held at once."""

MOST_LINKS = 40
"""Most links from one to the next until a photo is found."""

MOST_LINKS_TO_ONE = 100
"""Most links to one photo that are followed, each of which is a photo to geotag: backups by links
keep some dozens of states."""

DEREFERENCE = (
    "pack the photo itself: tar --dereference --hard-dereference, or zip without --symlinks"
)
RUN_AGAIN = "type the same command again: it reads the shard anew"


@dataclass
class Sample:
    """A photo, and what belongs to it.

    Attributes:
        key: Name of the photo without its ending, or whole if another photo has that key.
        image: Bytes of the photo.
        metadata: Bytes of the document about the photo.
        sidecar: What that document says.
        document: Name of that document.
        image_offset: Byte at which the photo begins in a plain tar.
        extras: Bytes of other members that the reader was asked for, by extension.
        member: The photo as the archive holds it.
        prior: Where this photo may come from, if it has a prior of its own.
        place: Where the photo lies.
    """

    key: str
    image: bytes | None = None
    metadata: bytes | None = None
    sidecar: Sidecar | None = None
    document: str = ""
    image_offset: int | None = field(default=None, compare=False)
    extras: dict[str, bytes] = field(default_factory=dict, compare=False)
    member: Member | None = field(default=None, compare=False)
    prior: str | None = None
    place: PhotoPlace = field(default_factory=PhotoPlace, compare=False)


@dataclass
class _Group:
    """Adjacent members with one stem."""

    stem: str
    photos: list[Member] = field(default_factory=list)
    documents: dict[str, bytes | None] = field(default_factory=dict)
    extras: dict[str, Member] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """Whether a member is part of the sample: also `0001.mask.png` of `0001`."""
        return self.stem in (stem(name), first_dot_key(name))

    @property
    def full(self) -> bool:
        held = sum(len(photo.data or b"") for photo in self.photos)
        return held > MAX_IMAGE_BYTES or max(map(len, (self.photos, self.documents))) >= MOST_HELD


@dataclass
class ShardReader:
    """Yields the samples of one shard; afterwards `status` says how the shard ended.

    Every photo becomes exactly one item: a Sample, or an ErrorRow with its key. A damaged shard
    adds one ErrorRow without a key.

    Attributes:
        url: Path of a tar or zip, or a URL that fsspec opens.
        extras: Other extensions to read, with the most bytes that such a member may have. A sample
            that has one needs no photo.
        siblings: Other parts of the same export, in which documents about these photos may lie.
        photos: Whether photos are read; without, samples come without images.
        exclude: Patterns of members that are left out, as of `names.excluded`.
        apart: Number of folders that tell the archive from its `twins`.
        keep: Names of fields of documents that are taken along.
        status: State of the shard, valid once the iteration is over.
        message: What is wrong with the shard, or unusual at the end of one that is complete.
        left_out: Members that are no photos and belong to none.
        documents: Documents about the photos, valid once the iteration is over.
        read_failed: Whether reading failed before the end, so that another run should try again.
        passing: Whether it failed for a reason that may be gone in a moment.
    """

    url: str
    extras: Mapping[str, int] = field(default_factory=dict)
    siblings: tuple[str, ...] = ()
    photos: bool = True
    exclude: tuple[str, ...] = ()
    apart: int = 0
    keep: tuple[str, ...] = ()
    status: TarStatus = TarStatus.COMPLETE
    message: str = ""
    left_out: LeftOut = field(default_factory=LeftOut)
    documents: Documents = field(default_factory=Documents)
    read_failed: bool = False
    passing: bool = False
    _keys: dict[str, str] = field(default_factory=dict, repr=False)  # of photos, by name
    _used: set[str] = field(default_factory=set, repr=False)  # keys
    _lacking: list[str] = field(default_factory=list, repr=False)  # photos without a position
    _links: list[tuple[str, str]] = field(default_factory=list, repr=False)
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)  # tried, by name

    def __iter__(self) -> Iterator[Sample | ErrorRow]:
        self.documents.keep = self.keep
        try:
            file = open_stream(self.url)
        except OSError as error:
            self.read_failed, self.passing = True, passes(error)
            self._end(TarStatus.UNREADABLE, why_unopened(self.url, error))
        else:
            with file:
                yield from self._samples(file)
                if self._links:
                    yield from self._linked(file)
            load = partial(_documents_of, keep=self.keep)
            self.documents.match(self._keys, self._lacking, self.siblings, load)
            for name in () if self.siblings else self.documents.unused:
                self.left_out.add(name)
        if self.status is not TarStatus.COMPLETE:
            status = Status(f"shard_{self.status.value}")
            again = "copy or pack the shard again"
            told = self.status in (TarStatus.TRUNCATED, TarStatus.CORRUPT)
            message = f"{self.message}; {again}" if told else self.message
            yield ErrorRow(None, Stage.READ, status, message)

    def _end(self, status: TarStatus, message: str) -> None:
        self.status, self.message = status, message

    def _samples(self, file: BinaryIO) -> Iterator[Sample | ErrorRow]:
        group: _Group | None = None
        complete_with = partial(self._end, TarStatus.COMPLETE)
        try:
            for member in read_archive(file, self._limit, complete_with):
                if excluded(member.name, self.exclude):
                    self.left_out.add(member.name, EXCLUDED)
                elif member.link is not None:
                    self._links.append((member.name, member.link))
                elif not _of_sample(member.name):
                    self.left_out.add(member.name)
                else:
                    if group is not None and (group.full or not group.holds(member.name)):
                        yield from self._finish(group)
                        group = None
                    group = group or _Group(stem(member.name))
                    self._add_member(group, member)
        except ArchiveDamage as damage:
            self._damaged(file, damage)
            yield from self._at_damage(group, damage)
        else:
            if group is not None:
                yield from self._finish(group)

    def _damaged(self, file: BinaryIO, damage: ArchiveDamage) -> None:
        self.read_failed = damage.status is TarStatus.UNREADABLE
        if self.read_failed:
            self.passing = passes(damage.__cause__)
            self._end(damage.status, f"{damage}; {RUN_AGAIN}")
        elif damage.offset == 0 and not damage.member:
            self._end(TarStatus.UNREADABLE, why_unread(file, damage))
        else:
            self._end(damage.status, str(damage))

    def _limit(self, name: str) -> int | None:
        kind = kind_of(name)
        if excluded(name, self.exclude) or (kind is NameKind.PHOTO and not self.photos):
            return None
        return LIMITS.get(kind, self.extras.get(_part(name)))

    def _add_member(self, group: _Group, member: Member) -> None:
        """Puts a member into its group; of several with one name only the first counts."""
        name, kind = member.name, kind_of(member.name)
        if kind is NameKind.PHOTO:
            group.photos.append(member)
        elif kind is NameKind.DOCUMENT:
            group.documents.setdefault(name, member.data)
            self.documents.add(member)
        elif _part(name) in self.extras:
            group.extras.setdefault(_part(name), member)
        else:
            self.left_out.add(name)

    def _at_damage(
        self, group: _Group | None, damage: ArchiveDamage
    ) -> Iterator[ErrorRow | Sample]:
        """Passes on the group before the damage if it is whole, and reports one that is cut."""
        cut = damage.member
        limit = isinstance(damage, ArchiveLimit)
        if group is not None and (limit or (_of_sample(cut) and not group.holds(cut))):
            yield from self._finish(group)
            group = None
        lost = [photo.name for photo in group.photos] if group is not None else []
        if kind_of(cut) is NameKind.PHOTO and not excluded(cut, self.exclude):
            lost.append(cut)
        again = RUN_AGAIN if self.read_failed else "copy the shard again"
        for name in lost:
            key, twice = self._key(name)
            why = f"the shard is {damage}; the sample is not known to be whole; {again}"
            yield twice or ErrorRow(key, Stage.READ, Status.TRUNCATED, why, path=name)

    def _key(self, name: str) -> tuple[str, ErrorRow | None]:
        """Gives a photo its key, and the row that it becomes if its name is stored twice."""
        twice = name in self._keys
        key = None if twice else photo_key(name, self._used.__contains__)
        while key is None or key in self._used:
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
            key = name if number == 1 else f"{name}#{number}"
        self._used.add(key)
        if not twice:
            self._keys[name] = key
            return key, None
        why = f"{brief(name)} is stored twice in this shard, and the first one is geotagged; "
        why += "remove one"
        return key, ErrorRow(key, Stage.READ, Status.DUPLICATE_KEY, why, path=name)

    def _finish(self, group: _Group) -> Iterator[Sample | ErrorRow]:
        problem = next((extra.problem for extra in group.extras.values() if extra.problem), None)
        extras = {
            name: extra.data for name, extra in group.extras.items() if extra.data is not None
        }
        photos = group.photos
        if group.extras and not photos:  # a sample of an embedding and a position
            photos = [Member(f"{group.stem}.{next(iter(group.extras))}", problem=problem)]
        matched = match_documents([photo.name for photo in photos], group.documents)
        for photo in photos:
            key, twice = self._key(photo.name)
            documents = matched.get(photo.name, ())
            self.documents.beside.update(documents)
            if twice:
                yield twice
            elif wrong := photo.problem or problem:
                yield ErrorRow(key, Stage.READ, *wrong, path=photo.name)
            else:
                sample = Sample(key, photo.data, image_offset=photo.offset, extras=extras)
                sample.member, place = photo, archive_name(self.url, self.apart)
                sample.place = PhotoPlace(Holder.ARCHIVE, place, photo.name, photo.name)
                if documents:
                    name = telling(documents, self.documents.said)
                    sample.document, sample.metadata = name, group.documents[name]
                    sample.sidecar = joined(documents, self.documents.said)
                if sample.sidecar is None or sample.sidecar.known is None:
                    self._lacking.append(photo.name)
                yield sample
            problem, extras = None, {}

    def _linked(self, file: BinaryIO) -> Iterator[Sample | ErrorRow]:
        """Reads the shard again for the photos that links point to."""
        wanted: dict[str, list[str]] = defaultdict(list)
        beyond: dict[str, list[str]] = defaultdict(list)
        links = {plain_path(name): target for name, target in self._links}
        documents = {plain_path(name): sidecar for name, sidecar in self.documents.said.items()}
        for name, target in self._links:
            for _ in range(MOST_LINKS):
                target = links.get(target, target)
            kind = kind_of(name)
            if kind is NameKind.PHOTO:
                many = len(wanted[target]) >= MOST_LINKS_TO_ONE
                (beyond if many else wanted)[target].append(name)
            elif kind is NameKind.DOCUMENT and target in documents:
                self.documents.said[name] = documents[target]
            else:
                self.left_out.add(name, "links")
        yield from self._targets(file, wanted)
        for target, names in (*wanted.items(), *beyond.items()):
            for name in names:
                key, twice = self._key(name)
                place = brief(target) if target else "a place outside"
                why = f"{brief(name)} is a link to {place}, wanted one to a photo of this archive"
                if names is beyond.get(target):
                    why += f", and no more than {MOST_LINKS_TO_ONE} to one"
                why = f"{why}; {DEREFERENCE}"
                row = ErrorRow(key, Stage.READ, Status.MISSING_IMAGE, why, path=name)
                yield twice or row

    def _targets(self, file: BinaryIO, wanted: dict[str, list[str]]) -> Iterator[Sample | ErrorRow]:
        def limit(name: str) -> int | None:
            return MAX_IMAGE_BYTES if plain_path(name) in wanted else None

        try:
            for member in read_archive(file, limit, lambda note: None) if wanted else ():
                if member.link is None and (names := wanted.pop(plain_path(member.name), None)):
                    for name in names:
                        group = _Group(stem(name), [replace(member, name=name)])
                        yield from self._finish(group)
                if not wanted:
                    return
        except ArchiveDamage as damage:
            if self.status is TarStatus.COMPLETE:
                self._damaged(file, damage)

    @property
    def late(self) -> dict[str, Sidecar]:
        """What documents say that did not stand beside their photo, by the photo's key."""
        return self.documents.late

    @property
    def problems(self) -> list[str]:
        """What is wrong with each document about a photo that is not understood."""
        return self.documents.problems


def late_documents(url: str, siblings: tuple[str, ...] = ()) -> dict[str, Sidecar]:
    """Returns what documents say that do not stand beside their photo, by the photo's key.

    Args:
        url: Path of a tar or zip, or a URL; its photos are passed over.
        siblings: Other parts of the same export.
    """
    reader = ShardReader(url, siblings=siblings, photos=False)
    for _ in reader:
        pass
    return reader.late


def _documents_of(url: str, keep: tuple[str, ...]) -> Mapping[str, Sidecar]:
    """All documents of another part; none of one that cannot be read, which its own run tells."""
    try:
        return _documents_as_of(url, str(version(url)), keep)
    except OSError:
        return {}


@lru_cache(maxsize=32)
def _documents_as_of(url: str, version: str, keep: tuple[str, ...]) -> Mapping[str, Sidecar]:
    reader = ShardReader(url, photos=False, keep=keep)
    for _ in reader:
        pass
    return reader.documents.said


def _of_sample(name: str) -> bool:
    return bool(extension(name)) and not junk(name)


def _part(name: str) -> str:
    """Returns what webdataset calls a part of a sample: all endings of a base name, lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()
