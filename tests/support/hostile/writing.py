"""Hostile names, and folders whose photos and documents have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

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


ARCHIVES = {"names.tar": hostile_archive}
