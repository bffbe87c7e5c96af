"""TIFF blocks byte by byte, with values that no library would write."""

from __future__ import annotations

import struct

from locdiffusion.photos.tiff import ASCII, EXIF_IFD, GPS_IFD, LONG, RATIONAL, UNDEFINED
from support.archives import photo

Field = tuple[int, int, int, bytes]


def block(order: str, *fields: Field, after: int = 0, start: int = 8) -> bytes:
    """A block with one directory, whose long values follow it; without a header behind byte 8."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    table = struct.pack(order + "H", len(fields))
    values, at = b"", start + 2 + 12 * len(fields) + 4
    for tag, kind, count, value in fields:
        raw = value.ljust(4, b"\0")
        if len(value) > 4:
            raw, values = struct.pack(order + "I", at + len(values)), values + value
        table += struct.pack(order + "HHI4s", tag, kind, count, raw)
    directory = table + struct.pack(order + "I", after) + values
    return head + directory if start == 8 else directory


def gps_block(*fields: Field, order: str = "<", through: int | None = None) -> bytes:
    """A block with a GPS directory, to which the first directory points, or one through it."""
    tags = [GPS_IFD] if through is None else [through, GPS_IFD]
    data = b""
    for tag in tags:
        here = 8 + len(data[8:])
        pointer = (tag, LONG, 1, struct.pack(order + "I", here + 18))
        data += block(order, pointer, start=here)
    return data + block(order, *sorted(fields), start=len(data))


def exif_texts(*inside: tuple[int, bytes], first: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    """A block with texts in the directory of EXIF, and others in the first one."""
    fields = [(tag, *text(words)) for tag, words in sorted(inside)]
    above = [(tag, *text(words)) for tag, words in sorted(first)]
    size = len(block("<", *above, (EXIF_IFD, LONG, 1, bytes(4))))
    pointer = (EXIF_IFD, LONG, 1, struct.pack("<I", size))
    return block("<", *above, pointer) + block("<", *fields, start=size)


def rationals(*values: tuple[int, int], order: str = "<") -> tuple[int, int, bytes]:
    """Type, number and bytes of rationals."""
    return RATIONAL, len(values), b"".join(struct.pack(order + "II", *pair) for pair in values)


def text(words: bytes) -> tuple[int, int, bytes]:
    """Type, number and bytes of a text."""
    return ASCII, len(words), words


def berlin(method: bytes = b"") -> bytes:
    """An EXIF block with 52.5° N, 13.25° E, and perhaps how that was found."""
    fields = [
        (1, *text(b"N\0")),
        (2, *rationals((52, 1), (30, 1), (0, 1))),
        (3, *text(b"E\0")),
        (4, *rationals((13, 1), (15, 1), (0, 1))),
    ]
    if method:
        fields.append((27, UNDEFINED, 8 + len(method), b"ASCII\0\0\0" + method))
    return gps_block(*fields)


def xmp_packet(latitude: str, longitude: str, more: str = "") -> bytes:
    """An XMP packet with a position as attributes."""
    return (
        '<?xpacket begin="" id="x"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        f"exif:GPSLatitude='{latitude}' exif:GPSLongitude='{longitude}' {more}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def jpeg(*blocks: bytes) -> bytes:
    """A JPEG with EXIF blocks and XMP packets in this order."""
    heads = {True: b"http://ns.adobe.com/xap/1.0/\0", False: b"Exif\0\0"}
    data = photo(1)
    bodies = (heads[block[:1] == b"<"] + block for block in blocks)
    segments = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    return data[:2] + b"".join(segments) + data[2:]
