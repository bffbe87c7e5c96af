"""Reads place, time and camera out of an XMP packet, without entities or whatever could grow.

XMP specification, part 2, section 3.3 (the Exif schema); part 1, chapter 7 (RDF).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from xml.parsers import expat

from locdiffusion.photos.capture_time import (
    UNKNOWN,
    Camera,
    Capture,
    TimeSource,
    likeliest,
    parse_time,
)
from locdiffusion.photos.coordinates import (
    NOTHING,
    Angle,
    CoordinateError,
    Reading,
    Source,
    parse_angle,
    place,
)

MAX_XMP_BYTES = 2**24
"""Most bytes of a packet that is read."""

MAX_DEPTH = 3
"""Most elements around a property: `xmpmeta`, `RDF` and `Description`."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_DESCRIPTION = [_RDF + "RDF", _RDF + "Description"]
_EXIF = "http://ns.adobe.com/exif/1.0/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ "
_CREATED = _IPTC + "LocationCreated"
_OF_OTHERS = {_IPTC + "LocationShown", "http://ns.adobe.com/xap/1.0/mm/ Pantry"}
"""What holds places in the picture, and the XMP of pictures out of which it was made."""

_LATITUDE, _LONGITUDE, _METHOD = "gpslatitude", "gpslongitude", "gpsprocessingmethod"
_REFERENCES = ("gpslatituderef", "gpslongituderef")
_WANTED = (_LATITUDE, _LONGITUDE, _METHOD, *_REFERENCES)
_TIMES = ("datetimeoriginal", "datecreated", "createdate")
_CAMERA = (
    *(("make",), ("model",)),
    *(("bodyserialnumber", "serialnumber"), ("cameraownername", "ownername")),
)
"""Properties of the schemas tiff, exif, exifEX, aux, photoshop, xmp; of each the first counts."""

_ANGLES = tuple(" " + name for name in (_LATITUDE, _LONGITUDE, "gpslongtitude"))
_DEEP = 100
_LONGEST_NAMESPACE = 1000
_MOST_ELEMENTS = 200_000
_SPELLINGS = {"gpslongtitude": _LONGITUDE}  # of the first drones

_MENTIONS = tuple(map("gpsl".encode, ("ascii", "utf-16-le", "utf-16-be")))
_BEHIND_THE_END = expat.errors.codes[expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT]


def read_xmp(packet: bytes) -> Reading:
    """Reads the position of the photo that a packet describes.

    Args:
        packet: Bytes of the packet, with or without its wrapper.

    Returns:
        The position; or a problem where the packet has one that cannot be read; or neither.
    """
    small = packet.lower()
    if not any(word in small for word in _MENTIONS):
        return NOTHING
    try:
        told, elsewhere = _properties(packet, _WANTED)
        for holder in sorted(told, key=lambda name: (name == _CREATED, name != _EXIF)):
            found = told[holder]
            angles = [
                _angle(found[name], found.get(letter, "")) if found.get(name) else None
                for name, letter in zip((_LATITUDE, _LONGITUDE), _REFERENCES, strict=True)
            ]
            result = place(angles, Source.XMP, found.get(_METHOD, ""))
            if result.position is not None:
                return result
        if elsewhere:
            raise CoordinateError(f"it stands in {elsewhere!r}, wanted a property of the photo")
    except CoordinateError as error:
        return Reading(problem=f"the XMP has a position that cannot be read: {error}")
    return NOTHING


def read_xmp_capture(packet: bytes) -> Capture:
    """Reads when the photo that a packet describes was taken, and with which camera.

    Args:
        packet: Bytes of the packet, with or without its wrapper.
    """
    wanted = (*_TIMES, *(name for names in _CAMERA for name in names))
    try:
        told, _ = _properties(packet, wanted)
    except CoordinateError:
        return UNKNOWN
    found: dict[str, str] = {}
    for properties in told.values():
        found = {name: value for name, value in properties.items() if value} | found
    camera = [next((found[one] for one in names if one in found), "") for names in _CAMERA]
    times = (parse_time(found.get(name, ""), TimeSource.XMP) for name in _TIMES)
    return Capture(likeliest(times), Camera(*camera).id)


def _angle(text: str, letter: str) -> Angle:
    """Reads an angle, whose letter stands in its text; one beside it may not say otherwise."""
    angle = parse_angle(text)
    if not angle.letter and letter[:1].upper() in ("S", "W"):
        raise CoordinateError(f"{text[:40]!r} lacks the hemisphere that stands beside it")
    return angle


def _property(path: Sequence[str], name: str, wanted: Collection[str]) -> tuple[str, str] | None:
    """Returns who tells a property of the photo, a namespace or `_CREATED`, and its name.

    Args:
        path: Names of the elements around it.
        name: Namespace and name of the property; None if it is not wanted, or of another place.
        wanted: Names of the wanted properties, in small letters.
    """
    namespace, _, word = name.rpartition(" ")
    word = _SPELLINGS.get(word.lower(), word.lower())
    if word not in wanted:
        return None
    if path[-2:] == _DESCRIPTION and len(path) <= MAX_DEPTH:
        return namespace, word
    return (_CREATED, word) if _CREATED in path[: MAX_DEPTH + 1] else None


def _properties(packet: bytes, wanted: Collection[str]) -> tuple[dict[str, dict[str, str]], str]:
    """Reads the wanted properties of the photo itself, not those of places that it shows.

    Args:
        packet: Bytes of the packet.
        wanted: Names of the wanted properties, in small letters.

    Returns:
        The properties by name, for each that tells them; and what holds a latitude or longitude
        that may be the photo's without being its property, empty if nothing does.

    Raises:
        CoordinateError: The packet is too long or no XML, or has a document type.
    """
    if len(packet) > MAX_XMP_BYTES:
        raise CoordinateError(f"it has {len(packet):,} bytes, limit {MAX_XMP_BYTES:,}")
    path: list[str] = []
    values: list[tuple[tuple[str, str], list[str]]] = []
    open_at, inside, elsewhere = 0, [""], ""
    elements = 0

    def note(name: str, words: list[str]) -> bool:
        nonlocal inside, elsewhere
        if known := _property(path, name, wanted):
            values.append((known, words))
            inside = words
        elif name.lower().endswith(_ANGLES) and _OF_OTHERS.isdisjoint(path):
            elsewhere = elsewhere or "".join(path[-1:]).rpartition(" ")[2] or name
        return known is not None

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal open_at, elements
        elements += 1 + len(attributes)
        if elements > _MOST_ELEMENTS:
            found = f"more than {_MOST_ELEMENTS:,} elements and attributes"
            raise CoordinateError(f"it has {found}")
        if note(name, []):
            open_at = len(path) + 1
        path.append(name)
        if len(path) > _DEEP:
            raise CoordinateError(f"more than {_DEEP} elements lie in one another")
        for attribute, value in attributes.items():
            if open_at and attribute == _RDF + "value":
                inside.append(value)
            elif value.strip():
                note(attribute, [value])

    def text(words: str) -> None:
        if open_at:
            inside.append(words)

    def end(_: str) -> None:
        nonlocal open_at
        path.pop()
        open_at = open_at if len(path) >= open_at else 0

    def refuse(*_: object) -> None:
        raise CoordinateError("it has a document type, wanted plain XMP")

    def declare(_: str | None, namespace: str | None) -> None:  # which stands in every name
        if namespace and len(namespace) > _LONGEST_NAMESPACE:
            raise CoordinateError(f"a namespace has {len(namespace):,} characters")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler, parser.buffer_text = end, True
    parser.StartDoctypeDeclHandler, parser.StartNamespaceDeclHandler = refuse, declare
    try:
        wide = b"\0" in packet[:4]  # UTF-16, of which a NUL is half a letter
        parser.Parse(packet if wide else packet.strip(b"\0 \t\r\n"), True)
    except expat.ExpatError as error:
        if error.code != _BEHIND_THE_END:
            raise CoordinateError(f"it is no XML ({error})") from None
    found: dict[str, dict[str, str]] = {}
    for (holder, name), words in values:
        value = "".join(words).strip()
        if found.setdefault(holder, {}).setdefault(name, value) != value:
            raise CoordinateError(f"{name} stands twice")
    return found, elsewhere
