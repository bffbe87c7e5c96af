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

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns# "
_DESCRIPTION = [_RDF + "RDF", _RDF + "Description"]
_LATITUDE, _LONGITUDE, _METHOD = "GPSLatitude", "GPSLongitude", "GPSProcessingMethod"
_REFERENCES = ("GPSLatitudeRef", "GPSLongitudeRef")
_WANTED = {
    f"http://ns.adobe.com/exif/1.0/ {name}": name
    for name in (_LATITUDE, _LONGITUDE, _METHOD, *_REFERENCES)
}
_BEHIND_THE_END = expat.errors.codes[expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT]
_MENTIONS = (b"GPSL", "GPSL".encode("utf-16-le"), "GPSL".encode("utf-16-be"))


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
        found = _properties(packet)
        angles = [
            parse_angle(found[name], found.get(letter, "")) if found.get(name) else None
            for name, letter in zip((_LATITUDE, _LONGITUDE), _REFERENCES, strict=True)
        ]
        return place(angles, Source.XMP, found.get(_METHOD, ""))
    except CoordinateError as error:
        return Reading(problem=f"the XMP has a position that cannot be read: {error}")


def _properties(packet: bytes) -> dict[str, str]:
    """Reads the wanted properties of the picture itself, not those of places that it shows.

    Raises:
        CoordinateError: The packet is too long or no XML, or has a document type.
    """
    if len(packet) > MAX_XMP_BYTES:
        raise CoordinateError(f"it has {len(packet):,} bytes, limit {MAX_XMP_BYTES:,}")
    path: list[str] = []
    values: list[tuple[str, list[str]]] = []

    def described(path: Sequence[str]) -> bool:
        return path[-2:] == _DESCRIPTION and len(path) <= MAX_DEPTH

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if name in _WANTED and described(path):
            values.append((name, []))
        path.append(name)
        if described(path):
            values.extend((name, [value]) for name, value in attributes.items() if name in _WANTED)

    def text(words: str) -> None:
        if path[-1] in _WANTED and described(path[:-1]):
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
    found: dict[str, str] = {}
    for name, words in values:
        value = "".join(words).strip()
        if found.setdefault(_WANTED[name], value) != value:
            raise CoordinateError(f"{_WANTED[name]} stands twice")
    return found
