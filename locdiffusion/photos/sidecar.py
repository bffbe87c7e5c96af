"""Reads the documents beside photos: places and times as other programs export them, and our own.

JSON is understood as Google Takeout, exiftool, Flickr, OpenSfM and servers of photos write it, and
as GeoJSON; XMP as darktable, digiKam and Lightroom write it.

Of Takeout's two positions `geoData` counts: it is what the owner sees and may have corrected, and
begins as a copy of `geoDataExif`, the camera's, which counts where the other is empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from locdiffusion.photos.capture_time import (
    UNKNOWN,
    Camera,
    Capture,
    CaptureTime,
    TimeSource,
    from_timestamp,
    likeliest,
    parse_time,
)
from locdiffusion.photos.coordinates import (
    ESTIMATED_BY,
    NOTHING,
    Angle,
    CoordinateError,
    Reading,
    Source,
    parse_angle,
    place,
)
from locdiffusion.photos.kept_fields import read_fields
from locdiffusion.photos.names import extension
from locdiffusion.photos.xmp import read_xmp, read_xmp_capture
from schemas.samples import MAX_METADATA_BYTES, Truth

_LATITUDES = ("latitude", "lat", "gpslatitude", "maplatitude", "latitudee7")
_LONGITUDES = ("longitude", "lon", "lng", "long", "gpslongitude", "maplongitude", "longitudee7")
_HOLDERS = (
    *("geodata", "geodataexif", "composite", "exif", "gps", "xmp", "xmp-exif", "exifinfo"),
    *("geometry", "location", "geo", "geolocation", "coordinates", "position", "properties"),
    *("features", "photo", "media_metadata", "photo_metadata", "exif_data"),
)
"""Members in which programs keep a position or what holds it, in the order in which they count."""

_TIMES = (
    *("captured_at", "subsecdatetimeoriginal", "datetimeoriginal", "capture_time"),
    *("date_taken", "datetaken", "date_captured"),
)
"""Members with a capture time: our own, of exiftool, OpenSfM, Flickr and COCO."""

_CAMERA = ("make", "model", "serialnumber", "ownername")
"""Members that tell the camera, as exiftool calls them."""

_LEAST_MILLISECONDS = 1e11
"""Least number of a time that counts milliseconds; seconds since 1970 stay below until 5138."""

_TAKEOUT = ("geodata", "geodataexif", "phototakentime")
_OURS = ("model_id", "radius_90_km")
"""Members of a geotag as this project writes it."""

_MICRODEGREES = re.compile(r"-?[0-9]{1,9}\Z").match  # Flickr's export has whole numbers
_TIMESTAMP = re.compile(r"-?[0-9]{1,11}\Z").match
_MAX_DEPTH = 4
_EXAMPLE = '{"latitude": 52.5, "longitude": 13.4}'

_Object = Mapping[str, Any]
"""Object of a document, with names in small letters."""


@dataclass(frozen=True)
class Sidecar(Reading):
    """What a document says about its photo.

    Attributes:
        capture: When the photo was taken, and with which camera, as far as the document tells.
        fields: Fields that are taken along, as of `kept_fields.read_fields`.
    """

    capture: Capture = UNKNOWN
    fields: tuple[tuple[str, str], ...] = ()

    def completed_by(self, other: Sidecar) -> Sidecar:
        """Returns this document with the time and the fields that another alone tells."""
        fields = tuple({**dict(other.fields), **dict(self.fields)}.items())
        return replace(self, capture=self.capture.or_else(other.capture), fields=fields)


def read_sidecar(name: str, data: bytes, keep: Sequence[str] = ()) -> Sidecar:
    """Reads a document; never raises for what is in the bytes.

    Args:
        name: Name of the document, whose ending says how to read it.
        data: Bytes of the document.
        keep: Names of fields that are taken along.

    Returns:
        What the document says; its `problem` is that it cannot be understood, or has a position
        that cannot be. A document of another kind that has no position is no problem.
    """
    sidecar = _read(name, data)
    if keep and extension(name) != "xmp" and len(data) <= MAX_METADATA_BYTES:
        sidecar = replace(sidecar, fields=read_fields(data, keep))
    return sidecar


def _read(name: str, data: bytes) -> Sidecar:
    capture = UNKNOWN
    try:
        if len(data) > MAX_METADATA_BYTES:
            raise CoordinateError(
                f"the document has {len(data):,} bytes, limit {MAX_METADATA_BYTES:,}; keep only "
                "the position in it"
            )
        if extension(name) == "xmp":
            capture = read_xmp_capture(data)
            return Sidecar(*_xmp(data), capture=capture)
        document = _parsed(data)
        objects = list(_objects("", document, _MAX_DEPTH))
        capture = _capture([one for _, one in objects])
        return Sidecar(*_json(document, objects), capture=capture)
    except CoordinateError as error:
        return Sidecar(problem=f"{name}: {error}", capture=capture)
    except RecursionError:
        return Sidecar(problem=f"{name}: the document is nested too deep; write {_EXAMPLE}")


def _xmp(data: bytes) -> tuple[Truth | None, Source | None]:
    if b"<" not in data:
        raise CoordinateError(f"the document is no XMP; it begins with {data[:40]!r}")
    found = read_xmp(data)
    if found.problem:
        raise CoordinateError(found.problem)
    return found.position, found.source


def _parsed(data: bytes) -> _Object:
    try:
        document = json.loads(data, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CoordinateError):
            raise
        raise CoordinateError(
            f"the document is not JSON ({error}); it begins with {data[:40]!r}; write {_EXAMPLE} "
            "or leave it out"
        ) from None
    if isinstance(document, list) and len(document) == 1:  # as exiftool does
        [document] = document
    if not isinstance(document, dict):
        raise CoordinateError(
            f"the document is a JSON {type(document).__name__}, wanted an object such as {_EXAMPLE}"
        )
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object with names in small letters; exiftool's `EXIF:Make` goes into `exif`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        *groups, last = name.lower().split(":")
        holder: Any = found
        inside = next((one for g in reversed(groups) if (one := g.strip("{}")) in _HOLDERS), None)
        if inside:
            holder = found.setdefault(inside, {})
        last = last.strip("{}")
        known = last in _LATITUDES or last in _LONGITUDES or last in _HOLDERS
        if not isinstance(holder, dict):
            continue
        if known and last in holder and holder[last] != value:
            raise CoordinateError(f"{name[:40]!r} stands twice with different values; remove one")
        holder.setdefault(last, value)
    return found


def _json(
    document: _Object, objects: Sequence[tuple[str, _Object]]
) -> tuple[Truth | None, Source | None]:
    source = Source.TAKEOUT if any(name in document for name in _TAKEOUT) else Source.JSON
    method = next(filter(None, (_method(one) for _, one in objects)), "")
    try:
        places = (place(_angles(*one), source, method) for one in objects)
        found = next((one for one in places if one.position), NOTHING)
    except CoordinateError as error:
        both = f"write both latitude and longitude, as in {_EXAMPLE}, or neither"
        raise CoordinateError(f"{error}; {both}") from None
    return found.position, found.source


def _objects(holder: str, value: Any, depth: int) -> Iterator[tuple[str, _Object]]:
    """Yields an object and those that it holds, each with the name of what holds it.

    They come in the order in which their positions count.
    """
    if isinstance(value, list) and len(value) == 1:
        [value] = value
    if isinstance(value, dict):
        yield holder, value
        for name in _HOLDERS if depth else ():
            yield from _objects(name, value.get(name), depth - 1)


def _method(found: _Object) -> str:
    method = found.get("gpsprocessingmethod")
    ours = all(name in found for name in _OURS)
    return ESTIMATED_BY if ours else method if isinstance(method, str) else ""


def _angles(holder: str, found: _Object) -> tuple[Angle | None, Angle | None]:
    point = found.get("coordinates")
    if found.get("type") == "Point" and isinstance(point, list) and len(point) >= 2:
        return _angle(point[1]), _angle(point[0])  # RFC 7946: longitude first
    pair = found.get("gpsposition")  # of exiftool: two angles in one text
    if isinstance(pair, str) and len(both := pair.split("," if "," in pair else None)) == 2:
        return parse_angle(both[0]), parse_angle(both[1])
    latitude, longitude = _value(found, _LATITUDES), _value(found, _LONGITUDES)
    texts = [value for value, _ in (latitude, longitude) if isinstance(value, str)]
    if len(texts) == 2 and all(map(_MICRODEGREES, texts)) and any(len(t) > 4 for t in texts):
        return _angle(int(texts[0]) / 1e6), _angle(int(texts[1]) / 1e6)
    # As EXIF has them, numbers are positive and their hemispheres stand beside them.
    signed = holder not in ("exif", "gps") or "gpslatitude" not in found
    return _angle(*latitude, signed), _angle(*longitude, signed)


def _value(found: _Object, names: Sequence[str]) -> tuple[Any, str]:
    """Returns the first of these members that holds something, and its hemisphere."""
    for name in names:
        if (value := found.get(name)) not in (None, "", []):
            letter = found.get(f"{name}ref")
            if name.endswith("e7") and isinstance(value, int | float):
                value = _number(value) * 1e-7
            return value, letter if isinstance(letter, str) else ""
    return None, ""


def _angle(value: Any, letter: str = "", signed: bool = True) -> Angle | None:
    """Reads a number of degrees, a text, or a list of degrees, minutes and seconds."""
    if value is None:
        return None
    if isinstance(value, str):
        return parse_angle(value, letter)
    if isinstance(value, list):
        return Angle(tuple(map(_number, value)), letter)
    return Angle((_number(value),), letter, signed)


def _number(value: Any) -> float:
    if isinstance(value, list) and len(value) == 2:  # a rational
        numerator, denominator = map(_number, value)
        return numerator / denominator if denominator else math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CoordinateError(
            f"an angle is {str(value)[:40]!r} ({type(value).__name__}), wanted a number of degrees"
        )
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _capture(objects: Sequence[_Object]) -> Capture:
    """Reads time and camera of a document; the first of its objects that tells them counts."""
    camera = (Camera(*(_text(one.get(name)) for name in _CAMERA)).id for one in objects)
    times = (_time(one, name) for one in objects for name in _TIMES)
    takeout = (_takeout_time(one.get("phototakentime")) for one in objects)
    return Capture(likeliest((*times, *takeout)), next(filter(None, camera), ""))


def _time(found: _Object, name: str) -> CaptureTime | None:
    value = found.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = _number(value)
        seconds = number / 1000 if abs(number) >= _LEAST_MILLISECONDS else number
        return from_timestamp(seconds, TimeSource.JSON)
    beside = (_text(found.get(f"{tag}original")) for tag in ("offsettime", "subsectime"))
    exif = name == "datetimeoriginal"
    return parse_time(_text(value), TimeSource.JSON, *(beside if exif else ()))


def _takeout_time(found: Any) -> CaptureTime | None:
    stamp = _text(found.get("timestamp")) if isinstance(found, dict) else ""
    return from_timestamp(int(stamp), TimeSource.TAKEOUT) if _TIMESTAMP(stamp) else None


def _text(value: Any) -> str:
    """Returns a text, or a number as text; empty for anything else."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
