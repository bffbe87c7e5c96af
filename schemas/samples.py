"""One photo in a webdataset shard: `<key>.jpg`, optionally `<key>.json` with its true position.

Shards are untrusted input, so every size has a limit that is checked before anything is decoded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp", "heic", "heif", "hif", "avif"),
    *("tif", "tiff", "gif", "bmp", "jp2", "j2k"),
)
METADATA_EXTENSION = "json"
DOCUMENT_EXTENSIONS = (METADATA_EXTENSION, "xmp")
"""Endings of the documents about a photo that may lie beside it."""

MAX_IMAGE_BYTES = 64 * 2**20
MAX_METADATA_BYTES = 2**20
MAX_IMAGE_PIXELS = 120_000_000
"""More than the 108 megapixels of a phone, less than a decompression bomb needs."""


@dataclass(frozen=True)
class Truth:
    """Position at which a photo was taken, in degrees WGS84.

    Raises:
        ValueError: The latitude is outside [-90, 90] or the longitude outside [-180, 180].
    """

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        for name, limit in (("latitude", 90.0), ("longitude", 180.0)):
            value = getattr(self, name)
            if not -limit <= value <= limit:
                raise ValueError(
                    f"{name} is {value}, wanted a number of degrees between -{limit:g} and "
                    f"{limit:g}; check that latitude and longitude are not swapped"
                )


def parse_metadata(data: bytes) -> Truth | None:
    """Reads the true position out of a sample's JSON member.

    Args:
        data: Bytes of the member, UTF-8 JSON.

    Returns:
        The position under `latitude` and `longitude`, or None if both are missing or null.

    Raises:
        ValueError: The bytes are too many or no JSON object, or they hold half a position or one
            that is not on Earth.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise ValueError(
            f"metadata has {len(data):,} bytes, limit {MAX_METADATA_BYTES:,}; keep only latitude "
            "and longitude in the .json member"
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"metadata is not JSON ({error}); it begins with {data[:40]!r}; write "
            '{"latitude": 52.5, "longitude": 13.4} or leave the .json member out'
        ) from None
    if not isinstance(document, dict):
        raise ValueError(
            f"metadata is a JSON {type(document).__name__}, wanted an object such as "
            '{"latitude": 52.5, "longitude": 13.4}'
        )
    values = [document.get("latitude"), document.get("longitude")]
    if values == [None, None]:
        return None
    return Truth(_degrees("latitude", values[0]), _degrees("longitude", values[1]))


def _degrees(name: str, value: object) -> float:
    """Converts a JSON value to a finite float, or raises ValueError with the remedy."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"{name} is {str(value)[:40]!r} ({type(value).__name__}), wanted a number of degrees; "
            "write both latitude and longitude as JSON numbers, or neither"
        )
    try:
        degrees = float(value)
    except OverflowError:
        degrees = math.inf
    if not math.isfinite(degrees):
        raise ValueError(f"{name} is {degrees}, wanted a finite number of degrees")
    return degrees
