"""A thousand small JPEGs: every form of GPS block that programs write, and some that none does."""

from __future__ import annotations

import functools
import itertools
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from locdiffusion.photos.archive import Sample
from pipelines.write_exif.fates import Fate, Rules
from support.archives import photo

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7
SRATIONAL, FLOAT, DOUBLE, IFD = 10, 11, 12, 13
_CODES = {SHORT: "H", LONG: "I", RATIONAL: "I", SRATIONAL: "i", FLOAT: "f", DOUBLE: "d", IFD: "I"}
_SIZES = {ASCII: 1, UNDEFINED: 1, 1: 1, SHORT: 2, LONG: 4, RATIONAL: 8, SRATIONAL: 8, FLOAT: 4}
_SIZES |= {DOUBLE: 8, IFD: 4}

Value = tuple[int, bytes | list[float]]
"""Type of a tag, and its bytes, or its numbers (two for a rational)."""

ANGLES: dict[str, tuple[Value, Value]] = {
    "dms": ((RATIONAL, [52, 1, 30, 1, 1234, 100]), (RATIONAL, [13, 1, 24, 1, 5, 1])),
    "dm": ((RATIONAL, [52, 1, 30123, 1000, 0, 1]), (RATIONAL, [13, 1, 24500, 1000, 0, 1])),
    "dm-second-0/0": ((RATIONAL, [52, 1, 30123, 1000, 0, 0]), (RATIONAL, [13, 1, 245, 10, 0, 0])),
    "d": ((RATIONAL, [52512345, 1000000, 0, 1, 0, 1]), (RATIONAL, [13401, 1000, 0, 1, 0, 1])),
    "d-rest-0/0": ((RATIONAL, [52512345, 1000000, 0, 0, 0, 0]), (RATIONAL, [134, 10, 0, 0, 0, 0])),
    "one": ((RATIONAL, [52512345, 1000000]), (RATIONAL, [13401, 1000])),
    "two": ((RATIONAL, [52, 1, 30123, 1000]), (RATIONAL, [13, 1, 24500, 1000])),
    "four": ((RATIONAL, [52, 1, 30, 1, 12, 1, 0, 1]), (RATIONAL, [13, 1, 24, 1, 5, 1, 0, 1])),
    "signed": ((SRATIONAL, [52, 1, 30, 1, 12, 1]), (SRATIONAL, [13, 1, 24, 1, 5, 1])),
    "negative": ((SRATIONAL, [-52512345, 1000000]), (SRATIONAL, [-13401, 1000])),
    "negative-dms": ((SRATIONAL, [-52, 1, 30, 1, 12, 1]), (SRATIONAL, [-13, 1, 24, 1, 5, 1])),
    "double": ((DOUBLE, [52.512345]), (DOUBLE, [13.401])),
    "doubles": ((DOUBLE, [52, 30, 12.34]), (DOUBLE, [13, 24, 5])),
    "float": ((FLOAT, [52.5]), (FLOAT, [13.25])),
    "longs": ((LONG, [52, 30, 12]), (LONG, [13, 24, 5])),
    "shorts": ((SHORT, [52, 30, 12]), (SHORT, [13, 24, 5])),
    "text": ((ASCII, b"52.512345\0"), (ASCII, b"13.401\0")),
    "text-dms": ((ASCII, b"52,30,12.34\0"), (ASCII, b"13,24,5\0")),
    "seconds-75": ((RATIONAL, [52, 1, 30, 1, 75, 1]), (RATIONAL, [13, 1, 24, 1, 75, 1])),
    "degree-0/0": ((RATIONAL, [0, 0, 30, 1, 12, 1]), (RATIONAL, [0, 0, 24, 1, 5, 1])),
    "minute-0/0": ((RATIONAL, [52, 1, 0, 0, 12, 1]), (RATIONAL, [13, 1, 0, 0, 5, 1])),
    "degree-52/0": ((RATIONAL, [52, 0, 30, 1, 12, 1]), (RATIONAL, [13, 0, 24, 1, 5, 1])),
    "second-5/0": ((RATIONAL, [52, 1, 30, 1, 12, 0]), (RATIONAL, [13, 1, 24, 1, 5, 0])),
    "all-0/0": ((RATIONAL, [0] * 6), (RATIONAL, [0] * 6)),
    "zero": ((RATIONAL, [0, 1] * 3), (RATIONAL, [0, 1] * 3)),
    "far": ((RATIONAL, [152, 1, 30, 1, 12, 1]), (RATIONAL, [213, 1, 24, 1, 5, 1])),
    "huge": ((RATIONAL, [2**32 - 1, 1] * 3), (RATIONAL, [2**32 - 1, 1] * 3)),
    "empty": ((RATIONAL, []), (RATIONAL, [])),
    "undefined": ((UNDEFINED, b"52.512345"), (UNDEFINED, b"13.401000")),
    "outside": ((-RATIONAL, [2**31, 0, 0]), (-RATIONAL, [2**31, 0, 0])),
    "type-99": ((-99, [64, 0, 3]), (-99, [64, 0, 3])),
}
"""Latitude and longitude as programs store them; a negative type: offset and count as they are."""

REFERENCES: dict[str, tuple[Value | None, Value | None]] = {
    "N-E": ((ASCII, b"N\0"), (ASCII, b"E\0")),
    "S-W": ((ASCII, b"S\0"), (ASCII, b"W\0")),
    "none": (None, None),
    "only-N": ((ASCII, b"N\0"), None),
    "small": ((ASCII, b"s\0"), (ASCII, b"w\0")),
    "words": ((ASCII, b"North\0"), (ASCII, b"East\0")),
    "words-south": ((ASCII, b"South\0"), (ASCII, b"West\0")),
    "no-nul": ((ASCII, b"N"), (ASCII, b"E")),
    "spaces": ((ASCII, b"N   \0"), (ASCII, b" E\0")),
    "empty": ((ASCII, b"\0\0"), (ASCII, b"\0\0")),
    "wrong": ((ASCII, b"X\0"), (ASCII, b"?\0")),
    "swapped": ((ASCII, b"E\0"), (ASCII, b"N\0")),
    "undefined": ((UNDEFINED, b"N\0"), (UNDEFINED, b"E\0")),
    "bytes": ((1, b"N\0"), (1, b"E\0")),
    "short": ((SHORT, [78]), (SHORT, [69])),
}

STATUS: dict[str, dict[int, Value]] = {
    "": {},
    "active": {
        9: (ASCII, b"A\0"),
        10: (ASCII, b"3\0"),
        11: (RATIONAL, [12, 10]),
        8: (ASCII, b"07\0"),
    },
    "void": {9: (ASCII, b"V\0"), 10: (ASCII, b"2\0"), 11: (RATIONAL, [0, 0])},
}
OTHERS: dict[int, Value] = {
    0: (1, b"\2\3\0\0"),
    5: (1, b"\0"),
    6: (RATIONAL, [345, 10]),
    7: (RATIONAL, [12, 1, 34, 1, 56, 1]),
    16: (ASCII, b"T\0"),
    17: (RATIONAL, [2715, 10]),
    29: (ASCII, b"2001:07:14\0"),
}
"""GPS tags that say nothing of the position."""

PLACES = (
    "first",
    "exif",
    "second",
    "twice",
    "broken",
    "cut",
    "short",
    "ifd",
    "empty",
    "none",
    "no-exif",
)
"""Where the pointer to the GPS directory is, or what is wrong with it."""

XMP: dict[str, str] = {
    "": "",
    "plain": '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:a="b"/>',
    "attribute": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    'exif:GPSLatitude="52,30.0N" exif:GPSLongitude="13,24.5E" exif:GPSStatus="A"/>',
    "element": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/'>"
    "<exif:GPSLatitude>52,30,15S</exif:GPSLatitude>\n<exif:GPSLongitude>13,24,3W"
    "</exif:GPSLongitude></rdf:Description>",
    "prefix": "<rdf:Description rdf:about='' xmlns:e='http://ns.adobe.com/exif/1.0/' "
    "e:GPSLatitude='52,30.0N' e:GPSLongitude='13,24.5E'/>",
    "value": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/'>"
    '<exif:GPSLatitude rdf:value="52,30,15S"/><exif:GPSLongitude rdf:value="13,24,3W"/>'
    "</rdf:Description>",
    "list": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/'>"
    "<exif:GPSLatitude><rdf:Alt><rdf:li xml:lang='x-default'>52,30,15S</rdf:li></rdf:Alt>"
    "</exif:GPSLatitude><exif:GPSLongitude><rdf:Alt><rdf:li xml:lang='x-default'>13,24,3W</rdf:li>"
    "</rdf:Alt></exif:GPSLongitude></rdf:Description>",
    "decimal": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "exif:GPSLatitude='52.5' exif:GPSLongitude='13.4'/>",
    "half": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "exif:GPSLatitude='52,30.0N'/>",
    "odd": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "exif:GPSLatitude='somewhere' exif:GPSLongitude='else'/>",
    "drone": "<rdf:Description xmlns:d='http://www.dji.com/drone-dji/1.0/' d:GpsLatitude='+52.5' "
    "d:GpsLongtitude='+13.4' d:RelativeAltitude='+30'/>",
    "drone-new": "<rdf:Description xmlns:d='http://www.dji.com/drone-dji/1.0/' d:GpsLatitude='52.5'"
    " d:GpsLongitude='13.4'/>",
    "created": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'><i:LocationCreated><rdf:Bag><rdf:li "
    "exif:GPSLatitude='52,30.0N' exif:GPSLongitude='13,24.5E'/></rdf:Bag></i:LocationCreated>"
    "</rdf:Description>",
    "drone-zero": "<rdf:Description xmlns:d='http://www.dji.com/drone-dji/1.0/' "
    "d:GpsLatitude='0.0' d:GpsLongitude='0.0'/>",
    "created-elements": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'><i:LocationCreated><rdf:Bag><rdf:li>"
    "<rdf:Description><exif:GPSLatitude>52,30.0N</exif:GPSLatitude><exif:GPSLongitude>13,24.5E"
    "</exif:GPSLongitude></rdf:Description></rdf:li></rdf:Bag></i:LocationCreated>"
    "</rdf:Description>",
    "altitude": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "exif:GPSAltitude='345/10'/>",
    "shown": "<rdf:Description rdf:about='' xmlns:exif='http://ns.adobe.com/exif/1.0/' "
    "xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/'><i:LocationShown><rdf:Bag><rdf:li "
    "exif:GPSLatitude='52,30.0N' exif:GPSLongitude='13,24.5E'/></rdf:Bag></i:LocationShown>"
    "</rdf:Description>",
}
EXTRAS = ("", "mpf-behind", "mpf-before", "motion", "samsung", "comment", "icc", "late")
"""What else is in the file; the index of a multi-picture file stands behind or before the EXIF."""


@dataclass(frozen=True)
class Form:
    """How one photo tells its position.

    Attributes:
        order: Byte order, `<` or `>`.
        latitude: Key of ANGLES, or "" for no tag.
        longitude: Likewise.
        reference: Key of REFERENCES.
        status: Key of STATUS.
        place: One of PLACES.
        xmp: Key of XMP.
        extra: One of EXTRAS.
    """

    order: str = "<"
    latitude: str = ""
    longitude: str = ""
    reference: str = "N-E"
    status: str = ""
    place: str = "first"
    xmp: str = ""
    extra: str = ""

    @property
    def name(self) -> str:
        """Name of the file: what differs from the usual."""
        angle = (
            self.latitude
            if self.latitude == self.longitude
            else f"{self.latitude}~{self.longitude}"
        )
        parts = (
            "little" if self.order == "<" else "big",
            f"gps-{angle or 'nothing'}",
            f"ref-{self.reference}",
            self.status and f"status-{self.status}",
            self.place != "first" and f"in-{self.place}",
            self.xmp and f"xmp-{self.xmp}",
            self.extra,
        )
        return "_".join(part for part in parts if part).replace("/", "by") + ".jpg"


def forms() -> dict[str, Form]:
    """Returns the forms by the names of their files."""
    orders, extras, xmps = (
        itertools.cycle("<>>"),
        itertools.cycle(EXTRAS),
        itertools.cycle(["", "plain"]),
    )
    made = [
        Form(next(orders), angle, angle, reference, xmp=next(xmps), extra=next(extras))
        for angle, reference in itertools.product(ANGLES, REFERENCES)
    ]
    odd = [angle for angle in ANGLES if angle != "dms"] + [""]
    made += [
        Form(next(orders), *pair, xmp=next(xmps), extra=next(extras))
        for angle in odd
        for pair in (("dms", angle), (angle, "dms"), ("all-0/0", angle), (angle, "zero"))
    ]
    made += [
        Form(next(orders), angle, angle, reference, status, extra=next(extras))
        for angle, reference, status in itertools.product(
            ("", "dms", "one", "all-0/0", "zero", "minute-0/0", "negative", "far"),
            ("N-E", "none", "empty", "words"),
            ("active", "void"),
        )
    ]
    made += [
        Form(order, angle, angle, place=place, xmp=xmp, extra=next(extras))
        for order, angle, place, xmp in itertools.product(
            "<>", ("dms", "one", "all-0/0"), PLACES, ("", "attribute")
        )
    ]
    made += [
        Form(next(orders), angle, angle, place=place, xmp=xmp, extra=extra)
        for angle, place, xmp, extra in itertools.product(
            ("", "dms"), ("first", "none"), XMP, EXTRAS[:5]
        )
    ]
    made += [
        Form(next(orders), angle, angle, xmp=xmp, extra=next(extras))
        for angle, xmp in itertools.product(("all-0/0", "zero", "far", "minute-0/0"), XMP)
    ]
    return {form.name: form for form in made}


FORMS = forms()


def gps_photo(form: Form) -> bytes:
    """Makes the photo of a form."""
    picture = _picture()
    jfif, rest = picture[2:20], picture[20:]
    exif = _segment(0xE1, b"Exif\0\0" + exif_block(form)) if form.place != "no-exif" else b""
    xmp = _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet(form)) if form.xmp else b""
    icc = _segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(200)))
    comment = _segment(0xFE, b"A comment, \xe4 of 2001")
    parts = [jfif, exif, xmp]
    if form.extra == "comment":
        parts = [jfif, comment, xmp, exif]
    elif form.extra == "icc":
        parts = [icc, exif, jfif, xmp]
    elif form.extra == "late":
        scan = rest.index(b"\xff\xda")
        parts, rest = [jfif, xmp, rest[:scan], exif], rest[scan:]
    elif form.extra == "motion":
        rest += b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4
    elif form.extra == "samsung":
        trailer = b"\0\0\1\n\x0e\0\0\0Image_UTC_Data1400000000000"
        rest += trailer + b"SEFH" + struct.pack("<IIHHII", 106, 1, 0, 0xA01, len(trailer), 35)
        rest += struct.pack("<I", 24) + b"SEFT"
    elif form.extra.startswith("mpf"):
        at = 1 if form.extra == "mpf-before" else 3
        parts.insert(at, _pictures_index(0, 0))
        size = 2 + sum(map(len, parts)) + len(rest)
        base = 2 + sum(map(len, parts[:at])) + 8
        parts[at] = _pictures_index(size, size - base)
        rest += _picture(8)
    return b"\xff\xd8" + b"".join(parts) + rest


@functools.cache
def _picture(number: int = 7) -> bytes:
    return photo(number, (16, 16))


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _pictures_index(size: int, offset: int) -> bytes:
    """An APP2 segment of a file with two pictures (CIPA DC-007)."""
    entries = struct.pack(">IIIHH", 0x030000, size, 0, 0, 0)
    entries += struct.pack(">IIIHH", 0, len(_picture(8)), offset, 0, 0)
    tags = (0xB000, 7, 4, b"0100"), (0xB001, 4, 1, b"\0\0\0\2"), (0xB002, 7, 32, b"\0\0\0\x32")
    table = b"".join(struct.pack(">HHI4s", *tag) for tag in tags)
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", 3) + table + bytes(4) + entries
    return _segment(0xE2, b"MPF\0" + block)


def packet(form: Form) -> bytes:
    """Returns the XMP packet of a form."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'{XMP[form.xmp]}</rdf:RDF></x:xmpmeta>{" " * 50}<?xpacket end="w"?>'
    ).encode()


def exif_block(form: Form) -> bytes:
    """Returns the TIFF block of a form: a camera's tags, a maker note, a second directory, GPS."""
    order, place = form.order, form.place
    first: dict[int, Value] = {0x010F: (ASCII, b"Maker\0"), 0x0112: (SHORT, [1])}
    exif: dict[int, Value] = {
        0x9003: (ASCII, b"2001:07:14 12:34:56\0"),
        0x927C: (UNDEFINED, b"MAKER\0NOTE" * 3),
    }
    second: dict[int, Value] = {0x0103: (SHORT, [6]), 0x0132: (ASCII, b"2001:07:14 12:34:56\0")}
    gps = gps_tags(form)
    block = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def append(tags: dict[int, Value], after: int = 0) -> int:
        at = len(block)
        block.extend(_directory(tags, at, after, order))
        return at

    def pointer(at: int) -> Value:
        kind = {"short": SHORT, "ifd": IFD}.get(place, LONG)
        return kind, [at]

    at = append(gps) if place != "empty" else append({})
    if place == "twice":
        other = {**gps, 2: ANGLES["d"][0], 4: ANGLES["two"][1]}
        exif[0x8825] = pointer(append(other))
    if place in ("first", "twice", "short", "ifd", "empty"):
        first[0x8825] = pointer(at)
    elif place == "exif":
        exif[0x8825] = pointer(at)
    elif place == "second":
        second[0x8825] = pointer(at)
    elif place == "broken":
        first[0x8825] = pointer(60_000)
    first[0x8769] = (LONG, [append(exif)])
    after = append(second)
    if place == "cut":  # the directory begins in the last bytes
        size = len(_directory({**first, 0x8825: pointer(0)}, 0, 0, order))
        first[0x8825] = pointer(len(block) + size)
    start = append(first, after)
    if place == "cut":
        block.extend(_directory(gps, len(block), 0, order)[:30])
    struct.pack_into(order + "I", block, 4, start)
    return bytes(block)


def gps_tags(form: Form) -> dict[int, Value]:
    """Returns the GPS tags of a form."""
    north, east = REFERENCES[form.reference]
    found = {
        1: north if form.latitude else None,
        2: ANGLES[form.latitude][0] if form.latitude else None,
        3: east if form.longitude else None,
        4: ANGLES[form.longitude][1] if form.longitude else None,
    }
    return {
        **OTHERS,
        **STATUS[form.status],
        **{tag: value for tag, value in found.items() if value is not None},
    }


def _directory(tags: dict[int, Value], at: int, after: int, order: str) -> bytes:
    table, values = struct.pack(order + "H", len(tags)), b""
    for tag, (kind, value) in sorted(tags.items()):
        if kind < 0:  # an offset that leads nowhere
            table += struct.pack(order + "HHII", tag, -kind, value[2] or 3, value[0])
            continue
        code = _CODES.get(kind, "B")
        data = value if isinstance(value, bytes) else struct.pack(order + code * len(value), *value)
        count = len(data) // _SIZES[kind]
        if len(data) > 4:
            place = at + 2 + 12 * len(tags) + 4 + len(values)
            values += data + b"\0" * (len(data) % 2)
            data = struct.pack(order + "I", place)
        table += struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0")
    return table + struct.pack(order + "I", after) + values


def geotagged(jpeg: bytes, rules: Rules) -> tuple[Fate, str, bytes | None]:
    """Writes a geotag near Sydney into a photo, as the command does by its rules."""
    geotag = {"latitude": -33.8568, "longitude": 151.2153, "radius_90_km": 12.5, "model_id": "t-1"}
    return rules.with_geotag(Sample("key", jpeg), geotag)


if __name__ == "__main__":
    lines = [
        f"{geotagged(gps_photo(form), Rules())[0].value:32}{name}" for name, form in FORMS.items()
    ]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", "utf-8")
