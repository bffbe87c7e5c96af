"""Hostile names, and folders whose photos and documents have them."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from support.archives import photo, tar_bytes

NAMES: dict[str, bytes] = {
    "clears the screen": b"\x1b[2Jcleared",
    "sets the title": b"\x1b]0;owned\x07",
    "takes letters back": b"back\x08\x08\x08",
    "forges a line": b"line\nerror: forged",
    "overwrites the line": b"over\rwritten",
    "C1 introducer": "c1\x9b31m".encode(),
    "right to left": "rtl\u202egnp.exe".encode(),
    "isolates": "iso\u2066lated\u2069".encode(),
    "zero width": "zero\u200bwidth\ufeff".encode(),
    "tags": "tag\U000e0041\U000e0042".encode(),
    "paragraph": "para\u2029graph\x85".encode(),
    "tab and delete": b"tab\tdel\x7f",
    "no UTF-8": b"bytes\xff\xfe",
    "formula": b"=cmd|' /C calc'!A0",
    "page": b"</script><script>alert(1)</script>",
    "markup": b"<img src=x onerror=alert(1)>",
    "mathematics": b"$\\frac{",
}
"""Names that do something to who prints, parses or fills them in, by what they do."""


def hostile_folder(folder: Path) -> None:
    """Writes a folder in which photos, documents and sub-folders have NAMES, and an archive.

    Of each name there are a photo that can be geotagged, one that is broken, a document that is
    not understood, a file of another kind and a folder with a photo.
    """
    root = os.fsencode(folder)
    for index, name in enumerate(NAMES.values()):
        name = name.replace(b"/", b"_")
        for path, content in {
            name + b".jpg": photo(index),
            b"broken " + name + b".jpg": b"\xff\xd8 nothing",
            name + b".json": json.dumps({"latitude": os.fsdecode(name), "longitude": 1}).encode(),
            name + b"." + name: b"another kind",
            name + b"/inner.jpg": photo(100 + index),
        }.items():
            place = os.path.join(root, path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as file:
                file.write(content)


def hostile_archive() -> bytes:
    """A tar whose members have NAMES; every other photo is broken."""
    return tar_bytes(
        (os.fsdecode(name) + ".jpg", photo(index) if index % 2 else b"\xff\xd8 nothing")
        for index, name in enumerate(NAMES.values())
    )


KEYS: dict[str, bytes] = {
    "absolute": b"/etc/passwd.jpg",
    "upwards": b"../../../up.jpg",
    "upwards within": b"a/../../../../up.jpg",
    "only dots": b".../...jpg",
    "long component": b"n" * 300 + b"/" + b"m" * 300 + b".jpg",
    "deep": b"d/" * 1500 + b"deep.jpg",
    "file": b"album.jpg",
    "folder of that file": b"album.jpg/inner.jpg",
    "small letters": b"case.jpg",
    "capitals": b"CASE.jpg",
    "composed": "caf\u00e9.jpg".encode(),
    "decomposed": "cafe\u0301.jpg".encode(),
    "sharp s": "stra\u00dfe.jpg".encode(),
    "its list": b"write_exif.json/list.jpg",
    "its list in capitals": b"WRITE_EXIF.JSON/list.jpg",
    "device": b"aux/CON.jpg",
    "drive": b"C:\\windows\\x.jpg",
    "flag": b"-rf.jpg",
    "home": b"~root/x.jpg",
    "URL": b"gs://bucket/x.jpg",
    "chain": b"x.jpg::y.jpg",
    "control": b"\x01\x1b[31m\r\n.jpg",
    "no UTF-8": b"\xff\xfe.jpg",
}
"""Names of members that are meant to end, or to mislead, a program that copies them."""


def archive_of_keys() -> bytes:
    """A tar with a photo of each of KEYS."""
    return tar_bytes((os.fsdecode(name), photo(index)) for index, name in enumerate(KEYS.values()))


def _segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def _with(*segments: bytes) -> bytes:
    jpeg = photo(3)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def many_pointers(count: int = 2000) -> bytes:
    """A JPEG whose EXIF directory points to itself, half as EXIF and half as GPS directory."""
    fields = b"".join(
        struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825) for _ in range(count // 2)
    )
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + fields + bytes(4)
    return _with(_segment(0xE1, b"Exif\0\0" + tiff))


def many_pictures(count: int = 20_000) -> bytes:
    """A JPEG with starts of pictures behind its end, and 64 KB of EXIF."""
    tiff = b"II*\0\x08\0\0\0" + bytes(6) + b"\x07" * 60_000
    return _with(_segment(0xE1, b"Exif\0\0" + tiff)) + b"\xff\xd8\xff" * count


def many_packets(count: int = 2000) -> bytes:
    """A JPEG with thousands of XMP segments, each with a position that is blanked."""
    packet = b"http://ns.adobe.com/xap/1.0/\0<exif:GPSLatitude>1</exif:GPSLatitude>"
    return _with(*[_segment(0xE1, packet)] * count)


def many_indices(count: int = 20) -> bytes:
    """A JPEG with many indices of multi-picture files, each with 4,000 pictures."""
    size = 16 * 4000
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0xB002, 7, size, 26) + bytes(4 + size)
    return _with(*[_segment(0xE2, b"MPF\0" + tiff)] * count)


PICTURES = {
    "many_pointers.jpg": many_pointers,
    "many_pictures.jpg": many_pictures,
    "many_packets.jpg": many_packets,
    "many_indices.jpg": many_indices,
}

SOUND = {"latitude": 10.0, "longitude": 20.0, "radius_90_km": 5.0, "model_id": "m"} | {
    "prob_25km": 0.9,
    "prob_200km": 0.99,
    "truth_latitude": None,
}
"""A row of predictions, without its key."""

BAD_ROWS: dict[str, dict[str, object]] = {
    "NaN": {"latitude": math.nan},
    "infinity": {"longitude": math.inf},
    "behind the pole": {"latitude": 91.0},
    "once around": {"longitude": 540.0},
    "endless radius": {"radius_90_km": 1e300},
    "negative radius": {"radius_90_km": -1.0},
    "radius NaN": {"radius_90_km": math.nan},
    "no number": {"latitude": None},
    "more than certain": {"prob_25km": 7.0},
    "long name": {"model_id": "m" * 100_000},
    "no name": {"model_id": None},
}
"""What is changed in a SOUND row so that it cannot be true."""


def predictions(rows: Iterable[Mapping[str, object]]) -> bytes:
    """A Parquet file with the columns of predictions that write-exif reads."""
    names = ["key", *SOUND]
    kinds = [pa.string() if name in ("key", "model_id") else pa.float64() for name in names]
    listed = list(rows)
    columns = [
        pa.array([row[name] for row in listed], kind)
        for name, kind in zip(names, kinds, strict=True)
    ]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, names), buffer, compression="zstd")
    return bytes(buffer.getvalue())


def repeated_predictions(rows: int = 300_000, letters: int = 2**20) -> bytes:
    """A file of a few kilobytes in which every row has the same key of a million letters."""
    columns = {
        name: pa.DictionaryArray.from_arrays(
            pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))]),
            pa.array([value]),
        )
        for name, value in {**SOUND, "truth_latitude": 0.0, "key": "k" * letters}.items()
    }
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return bytes(buffer.getvalue())


ARCHIVES = {"names.tar": hostile_archive, "keys.tar": archive_of_keys}
