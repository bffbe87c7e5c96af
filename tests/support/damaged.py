"""Archives damaged in every way, each with what may be expected of a reader: an independent judge.

A `Shard` knows where each of its files lies, so that a test can say which of them a damage met. The
promise that `broken_promises` holds a reader to, in full:

1. What comes out is whole. A sample's photo is, byte for byte, what the sound archive holds under
   the name that its key stands for, and its metadata is the first `.json` beside it. Three things a
   tar cannot notice, and they alone are let through: bytes flipped inside a payload (the sample
   then holds them as they stand in the file), bytes flipped inside a stored long name (no checksum
   covers it: the members that carry it may land under other keys; still, what comes out is whole
   payloads), and, in a gzip that does not end well, wrong bytes before the place that is named.
2. Nothing is lost in silence. Every photo is a sample, or a row of errors with its key, or begins
   behind the byte that the status names, or that the message names as the end of an archive that
   nothing closes.
3. The shard's own row is there exactly when the status is not `complete`.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_iterator

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.blocks import TarStatus
from schemas.geotags import ErrorRow
from schemas.samples import IMAGE_EXTENSIONS
from support.archives import Members, photo, tar_bytes, truth

Generator = np.random.Generator
BLOCK = 512
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
POOL = [photo(i, kind=kind) for i, kind in enumerate(("JPEG", "PNG", "WEBP") * 3)]


@dataclass(frozen=True)
class File:
    """One file of an archive: its payload and where in the archive it lies.

    Attributes:
        name: as it is stored.
        stem, extension: around the last dot, the extension in lower case; no stem for what is
            hidden or webdataset's own.
        data: payload as it stands in the archive.
        start: of its first header, an extended one if it has one.
        header: of its own header.
        payload: of its payload.
        name_bytes: payloads of its extended headers in the sound archive.
        renamed: whether a flipped byte may have changed its name unnoticed.
    """

    name: str
    stem: str | None
    extension: str
    data: bytes
    start: int
    header: int
    payload: int
    name_bytes: frozenset[int] = frozenset()
    renamed: bool = False


@dataclass(frozen=True)
class Shard:
    """An archive, sound or damaged, and what is known about it.

    Attributes:
        data: the file.
        files: what the sound archive held, lying where the damage has moved it.
        untrusted: whether any byte may differ, as after a flip inside a gzip.
    """

    data: bytes
    files: tuple[File, ...]
    untrusted: bool = False

    def runs(self) -> list[list[File]]:
        """Files with a stem, in groups of neighbours that are parts of the first's sample."""
        runs: list[list[File]] = []
        for file in self.files:
            if file.stem is not None and file.extension:
                folder, slash, base = file.name.rpartition("/")
                keys = (file.stem, folder + slash + base.partition(".")[0])
                if not runs or runs[-1][0].stem not in keys:
                    runs.append([])
                runs[-1].append(file)
        return runs

    def photos(self) -> dict[str, tuple[File, list[File]]]:
        """Each photo and its run, by the key that it must have."""
        found: dict[str, tuple[File, list[File]]] = {}
        names = set()
        for run in self.runs():
            for file in run:
                if file.extension in IMAGE_EXTENSIONS:
                    spellings = [] if file.name in names else [str(file.stem)]
                    spellings += [file.name, *(f"{file.name}#{n}" for n in range(2, 99))]
                    names.add(file.name)
                    found[next(key for key in spellings if key not in found)] = file, run
        return found


def webdataset_samples(data: bytes) -> dict[str, dict[str, Any]]:
    """What webdataset's own reader makes of an archive."""
    members = [{**member, "__url__": ""} for member in tar_file_iterator(io.BytesIO(data))]
    return {sample["__key__"]: sample for sample in group_by_keys(members)}


def sound(data: bytes) -> Shard:
    """A sound archive and its layout, as the standard library sees it; plain or gzipped."""
    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    files = []
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        for info in tar:
            if not info.isreg():
                continue
            base = info.name.rpartition("/")[2]
            extension = base.rpartition(".")[2] if "." in base else ""
            stem: str | None = info.name[: len(info.name) - len(extension) - ("." in base)]
            if re.match(r"__[^/]*__($|/)|(.*/)?[.][^./]", info.name):
                stem = None
            payload = info.offset_data
            stored = plain[payload : payload + info.size]
            header = payload - BLOCK
            names = frozenset(_name_bytes(plain, info.offset, header))
            place = (info.offset, header, payload, names)
            files.append(File(info.name, stem, extension.lower(), stored, *place))
    return Shard(data, tuple(files))


def _name_bytes(data: bytes, at: int, header: int) -> Iterator[int]:
    """The payloads of the extended headers that begin at a byte."""
    while at < header:
        size = int(data[at + 124 : at + 135], 8)
        yield from range(at + BLOCK, at + BLOCK + size)
        at += BLOCK + -(-size // BLOCK) * BLOCK


def random_members(rng: Generator, count: int | None = None) -> Members:
    """Samples of every kind: with and without truth, with several photos, with none; long names."""
    members: Members = []
    for index in range(int(rng.integers(2, 8)) if count is None else count):
        folder = ["", "dir/", "d.1/é/", "long/" * 25][rng.integers(4)]
        name = f"{folder}{index:03d}{'ß' * int(rng.choice([0, 0, 70]))}"
        extensions = [
            ["jpg"],
            ["jpg", "json"],
            ["json", "PNG"],
            ["cls.txt", "webp", "json"],
            ["jpeg", "png", "json"],
            ["txt"],
        ][rng.choice(6, p=[0.25, 0.35, 0.15, 0.1, 0.1, 0.05])]
        for extension in extensions:
            members.append((f"{name}.{extension}", _payload(rng, extension.lower())))
    odd = [("__meta__/info.json", b"{}"), (".hidden.jpg", b"x"), ("README", b"y" * 700)]
    for member in odd:
        if rng.random() < 0.2:
            members.insert(int(rng.integers(len(members) + 1)), member)
    return members


def _payload(rng: Generator, extension: str) -> bytes:
    if extension == "json":
        return truth(float(rng.uniform(-90, 90)), float(rng.uniform(-180, 180)))
    if extension in IMAGE_EXTENSIONS and rng.random() < 0.6:
        return POOL[rng.integers(len(POOL))]
    return rng.bytes(int(rng.choice([0, 1, 511, 512, 513, 1024, rng.integers(2000)])))


def random_sound(rng: Generator, members: Members | None = None) -> Shard:
    """A sound archive in one of the formats; ustar cannot hold long names and gets short ones."""
    members = random_members(rng) if members is None else members
    kind = FORMATS[rng.integers(3)]
    if kind == tarfile.USTAR_FORMAT:
        members = [(name.replace("long/" * 25, "").replace("ß" * 70, ""), d) for name, d in members]
    return sound(tar_bytes(members, format=kind))


# Damages


def cut(rng: Generator, shard: Shard) -> Shard:
    return replace(shard, data=shard.data[: rng.integers(len(shard.data))])


def flip_at(rng: Generator, shard: Shard, at: int) -> Shard:
    """Changes one byte, and notes whose payload or name it belongs to."""
    value = shard.data[at] ^ int(rng.integers(1, 256))
    data = shard.data[:at] + bytes([value]) + shard.data[at + 1 :]
    files = []
    for file in shard.files:
        end = file.payload + len(file.data)
        if file.payload <= at < end:
            file = replace(file, data=data[file.payload : end])
        elif at in file.name_bytes:
            file = replace(file, renamed=True)
        files.append(file)
    return replace(shard, data=data, files=tuple(files))


def flip_anywhere(rng: Generator, shard: Shard) -> Shard:
    return flip_at(rng, shard, int(rng.integers(len(shard.data))))


def flip_header(rng: Generator, shard: Shard) -> Shard:
    file = shard.files[rng.integers(len(shard.files))]
    return flip_at(rng, shard, int(rng.integers(file.start, file.payload)))


def flip_payload(rng: Generator, shard: Shard) -> Shard:
    filled = [file for file in shard.files if file.data]
    if not filled:
        return flip_anywhere(rng, shard)
    file = filled[rng.integers(len(filled))]
    return flip_at(rng, shard, int(rng.integers(file.payload, file.payload + len(file.data))))


def flip_padding(rng: Generator, shard: Shard) -> Shard:
    """Between a payload and the next header, or in the zeros at the end."""
    last = shard.files[-1]
    ends = [file.payload + len(file.data) for file in shard.files]
    gaps = [(end, -(-end // BLOCK) * BLOCK) for end in ends if end % BLOCK]
    tail = -(-(last.payload + len(last.data)) // BLOCK) * BLOCK
    start, stop = [*gaps, (tail, len(shard.data))][rng.integers(len(gaps) + 1)]
    return flip_at(rng, shard, int(rng.integers(start, stop)))


def insert(shard: Shard, at: int, garbage: bytes) -> Shard:
    """Puts bytes into the file; what begins at or behind them moves."""

    def moved(place: int) -> int:
        return place + len(garbage) * (place >= at)

    files = (
        replace(f, start=moved(f.start), header=moved(f.header), payload=moved(f.payload))
        for f in shard.files
    )
    data = shard.data[:at] + garbage + shard.data[at:]
    return replace(shard, data=data, files=tuple(files))


def garbage_of_odd_size(rng: Generator, shard: Shard) -> Shard:
    size = int(rng.integers(1, 3000))
    at = int(rng.integers(len(shard.data)))
    return insert(shard, at, b"\xaa" + rng.bytes(size - (size % BLOCK == 0)))


def garbage_between_members(rng: Generator, shard: Shard) -> Shard:
    at = shard.files[rng.integers(len(shard.files))].start
    return insert(shard, at, rng.bytes(BLOCK * int(rng.integers(1, 6))))


def garbage_of_whole_blocks(rng: Generator, shard: Shard) -> Shard:
    at = int(rng.integers(len(shard.data)))
    return insert(shard, at, rng.bytes(BLOCK * int(rng.integers(1, 6))))


def zeros_between_members(rng: Generator, shard: Shard) -> Shard:
    at = shard.files[rng.integers(len(shard.files))].start
    return insert(shard, at, bytes(BLOCK * int(rng.integers(1, 6))))


def missing_bytes(rng: Generator, shard: Shard) -> Shard:
    """Not whole blocks: whole members could go without a trace."""
    at, size = int(rng.integers(len(shard.data))), int(rng.integers(1, BLOCK))
    return replace(shard, data=shard.data[:at] + shard.data[at + size :])


def reordered(rng: Generator, shard: Shard) -> Shard:
    members = _members(shard)
    return random_sound(rng, [members[i] for i in rng.permutation(len(members))])


def repeated(rng: Generator, shard: Shard) -> Shard:
    members = _members(shard)
    for _ in range(int(rng.integers(1, 4))):
        again = members[rng.integers(len(members))]
        members.insert(int(rng.integers(len(members) + 1)), again)
    return random_sound(rng, members)


def _members(shard: Shard) -> Members:
    return [(file.name, file.data) for file in shard.files if file.stem is not None]


def gzipped(rng: Generator, shard: Shard) -> Shard:
    return replace(shard, data=gzip.compress(shard.data, int(rng.integers(1, 10)), mtime=0))


def gzip_cut(rng: Generator, shard: Shard) -> Shard:
    return cut(rng, gzipped(rng, shard))


def gzip_flip(rng: Generator, shard: Shard) -> Shard:
    data = bytearray(gzipped(rng, shard).data)
    data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    return replace(shard, data=bytes(data), untrusted=True)


def gzip_and_garbage(rng: Generator, shard: Shard) -> Shard:
    """Behind the end of the gzip, not inside it."""
    packed = gzipped(rng, shard)
    return replace(packed, data=packed.data + b"\xaa" + rng.bytes(int(rng.integers(600))))


def joined(rng: Generator, shard: Shard) -> Shard:
    """Two tars with `cat`, or their gzips, which gunzip takes for one."""
    other = random_sound(rng)
    behind = insert(Shard(b"", other.files), 0, bytes(len(shard.data)))
    if rng.random() < 0.3:
        data = gzipped(rng, shard).data + gzipped(rng, other).data
    else:
        data = shard.data + other.data
    return Shard(data, shard.files + behind.files)


def no_tar(rng: Generator, shard: Shard) -> Shard:
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n"
    data = [b"", page, page * 50, rng.bytes(int(rng.integers(1, 5000))), POOL[0]]
    return Shard(data[rng.integers(len(data))], ())


def several(rng: Generator, shard: Shard) -> Shard:
    """Flips, then garbage, then a cut, then gzip; each perhaps."""
    for _ in range(int(rng.integers(3))):
        shard = flip_anywhere(rng, shard)
    if rng.random() < 0.6:
        shard = (garbage_of_odd_size, garbage_of_whole_blocks)[rng.integers(2)](rng, shard)
    if rng.random() < 0.6:
        shard = cut(rng, shard)
    return (gzipped, gzip_cut, lambda _, same: same)[rng.integers(3)](rng, shard)


KINDS: dict[str, Callable[[Generator, Shard], Shard]] = {
    damage.__name__: damage
    for damage in (
        cut,
        flip_anywhere,
        flip_header,
        flip_payload,
        flip_padding,
        garbage_of_odd_size,
        garbage_between_members,
        garbage_of_whole_blocks,
        zeros_between_members,
        missing_bytes,
        reordered,
        repeated,
        gzipped,
        gzip_cut,
        gzip_flip,
        gzip_and_garbage,
        joined,
        no_tar,
        several,
    )
}
SOUND_KINDS = ("reordered", "repeated", "gzipped")
"""The tar itself is sound: the reader must call it complete."""

NOTICED_KINDS = (
    "garbage_of_odd_size",
    "garbage_between_members",
    "garbage_of_whole_blocks",
    "zeros_between_members",
    "gzip_cut",
    "gzip_and_garbage",
    "joined",
    "no_tar",
)
"""The reader must not call it complete, wherever the damage lies."""


def random_damage(kind: str, seed: int) -> Shard:
    """The archive that a kind of damage and a seed make; the same one every time."""
    rng = np.random.default_rng([seed, *kind.encode()])
    return KINDS[kind](rng, random_sound(rng))


# The judge


def broken_promises(
    shard: Shard, items: Iterable[Sample | ErrorRow], status: TarStatus, message: str
) -> list[str]:
    """A sentence for each promise that a reader broke on this archive; see the module's top."""
    items = list(items)
    samples = [item for item in items if isinstance(item, Sample)]
    errors = [item for item in items if isinstance(item, ErrorRow)]
    told = Counter(row.key for row in errors)
    broken = []
    if told[None] != (status is not TarStatus.COMPLETE):
        broken.append(f"{told[None]} rows of the shard, status {status.value}")
    keys = [sample.key for sample in samples]
    if len(set(keys)) != len(keys):
        broken.append(f"a key comes out twice: {sorted(keys)}")
    named = re.search(r"at byte (\d+)", message)
    if (named is None) != (status is TarStatus.COMPLETE):
        broken.append(f"status {status.value} without its byte, or the reverse: {message!r}")
    if shard.untrusted and named:
        return broken
    ended = named or re.search(r"archive of ([\d,]+) bytes", message)
    offset = int(ended[1].replace(",", "")) if ended else None
    return broken + _wrong(shard, samples) + _lost(shard, samples, told, offset)


def _wrong(shard: Shard, samples: Sequence[Sample]) -> list[str]:
    """Samples that hold anything but what stands together under their key."""
    photos = shard.photos()
    renamed = any(file.renamed for file in shard.files)
    payloads = {None, *(file.data for file in shard.files)}
    broken = []
    for sample in samples:
        file, run = photos.get(sample.key, (None, []))
        document = next((one.data for one in run if one.extension == "json"), None)
        parts = {
            "photo": (sample.image, file and file.data),
            "metadata": (sample.metadata, document),
        }
        for part, (found, wanted) in parts.items():
            if found != wanted and not (renamed and found in payloads):
                broken.append(f"the {part} of {sample.key!r} is not what the archive holds")
    return broken


def _lost(
    shard: Shard, samples: Sequence[Sample], told: Counter[str | None], offset: int | None
) -> list[str]:
    """Photos that are neither a sample, nor a row, nor behind the named byte."""
    accounted = {*told, *(sample.key for sample in samples)}
    if any(file.renamed for file in shard.files):
        return []
    return [
        f"{key!r} at byte {file.start} is lost in silence"
        for key, (file, _) in shard.photos().items()
        if key not in accounted and (offset is None or file.payload <= offset)
    ]
