"""Archives that want to cost memory, time or photos, each with two ordinary photos in it.

The ordinary photos are `ordinary/1.jpg` and `ordinary/2.jpg`: before and behind the attack, or both
before it where reading ends there.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable

from support.archives import photo

MIB = 2**20
END = bytes(2 * tarfile.BLOCKSIZE)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8")[-tarfile.BLOCKSIZE :]


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + padded(data)


def ordinary(number: int) -> bytes:
    return member(f"ordinary/{number}.jpg", photo(number))


def framed(attack: bytes) -> bytes:
    """A tar with one ordinary photo before and one behind."""
    return ordinary(1) + attack + ordinary(2) + END


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", records, kind)


def record(name: bytes, value: bytes) -> bytes:
    """A pax record, which begins with its own length."""
    length = len(name) + len(value) + 3
    while len(str(length)) + len(name) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, name, value)


def gz(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def gz_repeated(before: bytes, block: bytes, times: int) -> bytes:
    """A gzip of `before`, and then of a block so many times; made in the time of one."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + packed * times


# Headers


def pax_records(count: int = 170_000) -> bytes:
    """One pax header of very many records, 20 seconds when each copied the rest."""
    return gz(framed(pax(b"6 a=b\n" * count) + member("a.jpg", photo(3))))


def pax_header_chain() -> bytes:
    return gz(ordinary(1) + ordinary(2) + pax(record(b"path", b"a.jpg")) * 20_000)


def global_header_chain() -> bytes:
    chain = pax(record(b"comment", b"x" * (MIB // 2)), tarfile.XGLTYPE)
    return gz(ordinary(1) + ordinary(2) + chain * 40)


def long_name_chain() -> bytes:
    names = [member("././@LongLink", b"n" * 100_000, kind) for kind in (b"L", b"K")]
    return gz(ordinary(1) + ordinary(2) + b"".join(names) * 200)


def sparse_map_chain() -> bytes:
    """A member with holes whose map goes on and on."""
    block = bytearray(tarfile.BLOCKSIZE)
    block[504] = 1
    first = bytearray(header("a.bin", kind=tarfile.GNUTYPE_SPARSE))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return gz_repeated(ordinary(1) + ordinary(2) + bytes(first), bytes(block) * 2048, 2000)


def pax_numbers() -> bytes:
    """Lengths, sizes and times that are no numbers of bytes or seconds."""
    late = header("late.jpg", len(photo(3)), mtime=2**80) + padded(photo(3))
    size = pax(record(b"mtime", b"9" * 9000) + record(b"path", b"named.jpg"))
    lengths = pax(b"9" * 9000 + b" size=1\n")
    return ordinary(1) + ordinary(2) + late + size + member("x", photo(4)) + lengths


# Names


def long_names_of_a_tar(count: int = 90) -> bytes:
    """Photos, documents and links with names of a megabyte; 300 of them took 0.97 GB."""
    attacks = []
    for index in range(count):
        name = f"{index}/".encode() + b"n" * (MIB - 60)
        data = (photo(3), b"{}", b"")[index % 3]
        kind = tarfile.SYMTYPE if index % 3 == 2 else tarfile.REGTYPE
        ending = (b".jpg", b".json", b".png")[index % 3]
        attacks.append(pax(record(b"path", name + ending)) + member("x", data, kind))
    target = pax(record(b"linkpath", b"t/" * (MIB // 2 - 60)))
    attacks.append(target + header("link.jpg", kind=tarfile.SYMTYPE))
    return gz(framed(b"".join(attacks)))


def long_names_of_a_zip(count: int = 60) -> bytes:
    names = [f"{index}/{'n' * 65_000}.jpg" for index in range(count)]
    return zipped([(name, photo(3)) for name in names])


def slow_names() -> bytes:
    """Names on which patterns of folders, endings, copies and cut names try again and again."""
    names = [
        "a" + ".photo" * 650 + "library/x.jpg",
        "a/" * 900 + "a" + ".photo" * 300 + "library/" * 30 + "x.jpg",
        "thumbs/" + "-" * 3900 + "x.jpg",
        "IMG" + "(1)" * 1200 + ".jpg",
        "IMG" + "(1" * 1800 + ".jpg",
        "x." + "e" * 3900 + "!",
        *(f"{index:04}" + "c" * 3900 + ".jpg" for index in range(40)),
        *(f"{index:04}" + "c" * 60 + ".json" for index in range(40)),
    ]
    parts = (
        pax(record(b"path", name.encode())) + member("x", b"" if "!" in name else photo(3))
        for name in names
    )
    return framed(b"".join(parts))


def one_name_many_times(count: int = 20_000) -> bytes:
    return gz(ordinary(1) + ordinary(2) + header("a.jpg") * count + END)


def documents_of_one_folder(count: int = 2_000) -> bytes:
    """Photos and documents with one long beginning, as no program writes them."""
    start = "f/" + "IMG(1)" * 10
    photos = (member(f"{start}({index}).jpg", b"") for index in range(count))
    documents = (member(f"{start}.jpg({index}).json", b"{}") for index in range(count))
    return gz(framed(b"".join((*photos, *documents))))


# Links


def links(count: int = 3_000) -> bytes:
    """Thousands of links to one photo, a chain of links, a circle, and one that leads outside."""
    one = (
        header(f"l/{index}.jpg", kind=tarfile.LNKTYPE, linkname="ordinary/1.jpg")
        for index in range(count)
    )
    chain = (
        header(f"c/{index}.jpg", kind=tarfile.SYMTYPE, linkname=f"{index + 1}.jpg")
        for index in range(100)
    )
    circle = [
        header(f"o/{name}.jpg", kind=tarfile.SYMTYPE, linkname=f"{to}.jpg")
        for name, to in ("ab", "ba")
    ]
    outside = header("etc.jpg", kind=tarfile.SYMTYPE, linkname="../../../etc/passwd")
    return gz(framed(b"".join((*one, *chain, *circle, outside))))


# What unpacks to very much


def zeros_skipped(size: int = 3 * 2**30) -> bytes:
    """A member that is no photo and is all zeros."""
    before = ordinary(1) + ordinary(2) + header("disk.img", 8 * 2**40)
    return gz_repeated(before, bytes(MIB), size // MIB)


def zeros_behind_the_end(size: int = 3 * 2**30) -> bytes:
    return gz_repeated(ordinary(1) + ordinary(2) + END, bytes(MIB), size // MIB)


def zeros_in_photos(size: int = 3 * 2**30) -> bytes:
    block = header("zeros.jpg", 16 * MIB - 512) + bytes(16 * MIB - 512)
    return gz_repeated(ordinary(1) + ordinary(2), block, size // len(block))


def documents_of_zeros(size: int = 2**30) -> bytes:
    """Documents that are large, cheap to pack and slow to parse."""
    text = b'{"lat":1,%s"a":1}' % (b'"a":1,' * 170_000)
    return gz_repeated(ordinary(1) + ordinary(2), member("a.json", text), size // MIB)


def empty_photos(count: int = 4_000_000) -> bytes:
    """Millions of photos without bytes."""
    return gz_repeated(ordinary(1) + ordinary(2), header("a.jpg") * 2048, count // 2048)


def empty_folders(count: int = 4_000_000) -> bytes:
    block = header("a", kind=tarfile.DIRTYPE) * 2048
    return gz_repeated(ordinary(1) + ordinary(2), block, count // 2048)


def xz_window() -> bytes:
    """An xz that wants a window of 1.5 GiB, behind a stream that does not."""
    first = lzma.compress(ordinary(1) + ordinary(2))
    second = bytearray(lzma.compress(bytes(MIB)))
    length = 4 * (second[12] + 1)
    at = second.index(b"\x21\x01", 12) + 2
    second[at] = 37
    second[12 + length - 4 : 12 + length] = struct.pack(
        "<I", zlib.crc32(second[12 : 12 + length - 4])
    )
    return first + bytes(second)


# Zips


def zipped(members: Iterable[tuple[str, bytes]], extra: bytes = b"") -> bytes:
    """A zip with an ordinary photo before and one behind; members have an extra field."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ordinary/1.jpg", photo(1))
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.extra, info.compress_type = extra, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
        archive.writestr("ordinary/2.jpg", photo(2))
    return file.getvalue()


def entries(data: bytes) -> tuple[bytes, list[bytes], int]:
    """What stands before the directory of a zip, its entries, and where it begins."""
    at = start = int.from_bytes(data[data.rindex(b"PK\x05\x06") :][16:20], "little")
    found = []
    while data.startswith(b"PK\x01\x02", at):
        length = 46 + sum(struct.unpack_from("<3H", data, at + 28))
        found.append(data[at : at + length])
        at += length
    return data[:start], found, start


def with_entries(front: bytes, found: list[bytes]) -> bytes:
    directory = b"".join(found)
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, len(found), len(found), len(directory), len(front), 0
    )
    return front + directory + end


def same_bytes(count: int = 1_000) -> bytes:
    """Thousands of names for one photo of zeros."""
    front, found, _ = entries(zipped([("0000.jpg", bytes(MIB))]))
    many = [found[1].replace(b"0000", b"%04d" % index) for index in range(count)]
    return with_entries(front, [found[0], *many, found[2]])


def quoted_headers(count: int = 1_000) -> bytes:
    """Each member's extra field reaches over the headers of all others, to one photo of zeros."""
    packer = zlib.compressobj(9, wbits=-15)
    kernel = packer.compress(bytes(MIB)) + packer.flush()
    crc, step = zlib.crc32(bytes(MIB)), 38
    front, found, start = entries(zipped([]))
    local, directory = b"", []
    for index in range(count):
        skip = (count - index - 1) * step
        name = b"%04d.jpg" % index
        common = struct.pack("<5H3I", 20, 0, 8, 0, 33, crc, len(kernel), MIB)
        local += b"PK\3\4" + common + struct.pack("<2H", len(name), min(skip, 65_000)) + name
        tail = struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, start + index * step)
        directory.append(b"PK\1\2" + struct.pack("<H", 20) + common + tail + name)
    return with_entries(front + local + kernel, [found[0], *directory, found[1]])


def extra_fields(count: int = 40) -> bytes:
    """Extra fields of 16,000 empty ones each, which `zipfile` copies one by one."""
    names = ((f"{index}.jpg", photo(3)) for index in range(count))
    return zipped(names, struct.pack("<2H", 0x7777, 0) * 16_000)


def far_offsets() -> bytes:
    """Entries whose zip64 fields place them at the end of the universe."""
    front, found, _ = entries(zipped([("far.jpg", photo(3))]))
    entry = bytearray(found[1])
    entry[42:46] = b"\xff" * 4
    extra = struct.pack("<2HQ", 1, 8, 2**64 - 1)
    entry[30:32] = struct.pack("<H", len(extra))
    return with_entries(front, [found[0], bytes(entry) + extra, found[2]])


def unreadable_entries() -> bytes:
    """Entries of a version of the future, and with extra fields that are broken."""
    name_crc = struct.pack("<BI", 1, zlib.crc32(b"name.jpg"))
    fields = {
        "longer.jpg": struct.pack("<2H", 0x7777, 500),
        "short.jpg": struct.pack("<2H", 1, 2) + bytes(2),
        "letters.jpg": struct.pack("<2H", 0x7075, 1) + b"\1",
        "name.jpg": struct.pack("<2H", 0x7075, 7) + name_crc + b"\xff\xfe",
        "version.jpg": b"",
    }
    front, found, _ = entries(zipped((name, photo(3)) for name in fields))
    changed = [bytearray(entry) for entry in found]
    for entry, extra in zip(changed[1:-1], fields.values(), strict=True):
        entry[30:32] = struct.pack("<H", len(extra))
        entry += extra
    changed[2][24:28] = b"\xff" * 4  # the size stands in a field that is too short for it
    changed[-2][6:8] = b"\xff\xff"
    return with_entries(front, [bytes(entry) for entry in changed])


def zip_of_zeros(count: int = 100) -> bytes:
    """Photos of zeros, each of a size that is allowed."""
    return zipped((f"{index}.jpg", bytes(16 * MIB)) for index in range(count))


# Documents


def _deep(depth: int) -> bytes:
    return b"[" * depth + b"1" + b",1]" * depth


DOCUMENTS: dict[str, bytes] = {
    "deep.json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "angle.json": b'{"latitude": %s, "longitude": 1}' % _deep(900),
    "angles.json": b'{"latitude": [%s], "longitude": 1}' % _deep(480),
    "digits.json": b'{"latitude": %s, "longitude": 1}' % (b"1" * 900_000),
    "fraction.json": b'{"latitude": 1.%s, "longitude": 1}' % (b"1" * 900_000),
    "exponent.json": b'{"latitude": 1e999, "longitude": NaN}',
    "infinity.json": b'{"latitude": -Infinity, "longitude": 1e-999}',
    "surrogates.json": b'{"latitude": "\\ud800\\udfff\\ud800", "longitude": "\\udc00"}',
    "repeated.json": b"{%s}" % b",".join([b'"lat":1'] * 100_000),
    "colons.json": b'{"%s": 1}' % (b":" * 900_000),
    "text.json": json.dumps({"latitude": "1 " * 450_000, "longitude": "N" * 9}).encode(),
    "time.json": b'{"photoTakenTime": {"timestamp": %s}}' % (b"9" * 4_200),
    "spaces.json": json.dumps({"gpsposition": " 1," * 300_000}).encode(),
    "namespace.xmp": b"<x xmlns='%s'>%s gpsl</x>" % (b"n" * 500_000, b"<a/>" * 130_000),
    "entities.xmp": b"<!DOCTYPE x [<!ENTITY a 'gpsl'>]><x>&a;</x>",
    "depth.xmp": b"<x>gpsl" * 100_000,
}
"""Documents that each stand beside a photo of their name."""


def documents() -> bytes:
    """Photos beside documents that are deep, long, repeated or no numbers."""
    parts = []
    for index, (name, data) in enumerate(DOCUMENTS.items()):
        parts += [member(name.rpartition(".")[0] + ".jpg", photo(index)), member(name, data)]
    return gz(framed(b"".join(parts)))


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "pax_records.tar.gz": pax_records,
    "pax_header_chain.tar.gz": pax_header_chain,
    "global_header_chain.tar.gz": global_header_chain,
    "long_name_chain.tar.gz": long_name_chain,
    "sparse_map_chain.tar.gz": sparse_map_chain,
    "pax_numbers.tar": pax_numbers,
    "long_names.tar.gz": long_names_of_a_tar,
    "long_names.zip": long_names_of_a_zip,
    "slow_names.tar": slow_names,
    "one_name_many_times.tar.gz": one_name_many_times,
    "documents_of_one_folder.tar.gz": documents_of_one_folder,
    "links.tar.gz": links,
    "zeros_skipped.tar.gz": zeros_skipped,
    "documents_of_zeros.tar.gz": documents_of_zeros,
    "empty_photos.tar.gz": empty_photos,
    "empty_folders.tar.gz": empty_folders,
    "xz_window.tar.xz": xz_window,
    "same_bytes.zip": same_bytes,
    "quoted_headers.zip": quoted_headers,
    "extra_fields.zip": extra_fields,
    "far_offsets.zip": far_offsets,
    "unreadable_entries.zip": unreadable_entries,
    "documents.tar.gz": documents,
}
"""Archives by file name; of each, `ordinary/1` and `ordinary/2` must be geotagged."""
