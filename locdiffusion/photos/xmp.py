"""Reads the position out of an XMP packet, without entities or anything else that could grow.

XMP specification, part 2, section 3.3 (the Exif schema); part 1, chapter 7 (RDF).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.parsers import expat

from locdiffusion.photos.coordinates import (
    NOTHING,
    CoordinateError,
    Reading,
    Source,
    parse_angle,
    place,
)

MAX_XMP_BYTES = 2**24

MAX_DEPTH = 3
"""Most elements around a property: `xmpmeta`, `RDF` and `Description`."""

MAX_DEPTH_CREATED = 8
"""Most elements from `xmpmeta` to a property of the place where the photo was taken."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_DESCRIPTION = [_RDF + "RDF", _RDF + "Description"]
_CREATED = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ LocationCreated"
_LATITUDE, _LONGITUDE, _METHOD = "GPSLatitude", "GPSLongitude", "GPSProcessingMethod"
_REFERENCES = ("GPSLatitudeRef", "GPSLongitudeRef")
_WANTED = {
    f"http://ns.adobe.com/exif/1.0/ {name}": name
    for name in (_LATITUDE, _LONGITUDE, _METHOD, *_REFERENCES)
}
_OF_DRONES = {
    f"http://www.dji.com/drone-dji/1.0/ {name}": known
    for name, known in (
        ("GpsLatitude", _LATITUDE),
        ("GpsLongitude", _LONGITUDE),
        ("GpsLongtitude", _LONGITUDE),  # as their first programs spell it
    )
}
_PHOTO, _DRONE = "photo", "drone"
_HOLDERS = (_PHOTO, _DRONE, _CREATED)
"""Positions of the photo that a packet may tell, in the order in which they count."""
_BEHIND_THE_END = expat.errors.codes[expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT]
_MENTIONS = tuple(
    word.encode(encoding)
    for word in ("GPSL", "GpsL")
    for encoding in ("ascii", "utf-16-le", "utf-16-be")
)


def read_xmp(packet: bytes) -> Reading:
    """Reads the position of the photo that a packet describes.

    Args:
        packet: Bytes of the packet, with or without its wrapper.

    Returns:
        The position; or a problem where the packet has one that cannot be read; or neither.
    """
    if not any(word in packet for word in _MENTIONS):
        return NOTHING
    try:
        told = _properties(packet)
        for found in (told.get(holder, {}) for holder in _HOLDERS):
            angles = [
                parse_angle(found[name], found.get(letter, "")) if found.get(name) else None
                for name, letter in zip((_LATITUDE, _LONGITUDE), _REFERENCES, strict=True)
            ]
            there = place(angles, Source.XMP, found.get(_METHOD, ""))
            if there.position is not None:
                return there
        return NOTHING
    except CoordinateError as error:
        return Reading(problem=f"the XMP has a position that cannot be read: {error}")


def _property(path: Sequence[str], name: str) -> tuple[str, str] | None:
    """Returns what a property tells: which of the positions, and what of it; None for others.

    Args:
        path: Names of the elements around it.
        name: Its own name.
    """
    if path[-2:] == _DESCRIPTION and len(path) <= MAX_DEPTH:
        if name in _OF_DRONES:
            return _DRONE, _OF_DRONES[name]
        return (_PHOTO, _WANTED[name]) if name in _WANTED else None
    created = name in _WANTED and len(path) < MAX_DEPTH_CREATED and _CREATED in path
    return (_CREATED, _WANTED[name]) if created else None


def _properties(packet: bytes) -> dict[str, dict[str, str]]:
    """Reads the wanted properties of the picture itself, not those of places that it shows.

    Raises:
        CoordinateError: The packet is too long or no XML, or has a document type.
    """
    if len(packet) > MAX_XMP_BYTES:
        raise CoordinateError(f"it has {len(packet):,} bytes, limit {MAX_XMP_BYTES:,}")
    path: list[str] = []
    values: list[tuple[tuple[str, str], list[str]]] = []

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if known := _property(path, name):
            values.append((known, []))
        path.append(name)
        for attribute, value in attributes.items():
            if known := _property(path, attribute):
                values.append((known, [value]))

    def text(words: str) -> None:
        if len(path) <= MAX_DEPTH_CREATED and _property(path[:-1], path[-1]):
            values[-1][1].append(words)

    def refuse(*_: object) -> None:
        raise CoordinateError("it has a document type, wanted plain XMP")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: path.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.strip(b"\0 \t\r\n"), True)
    except expat.ExpatError as error:
        if error.code != _BEHIND_THE_END:
            raise CoordinateError(f"it is no XML ({error})") from None
    found: dict[str, dict[str, str]] = {}
    for (holder, name), words in values:
        value = "".join(words).strip()
        if found.setdefault(holder, {}).setdefault(name, value) != value:
            raise CoordinateError(f"{name} stands twice")
    return found
