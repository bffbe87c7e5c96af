"""One photo in a webdataset shard: `<key>.jpg`, optionally `<key>.json` with its true position.

Shards are untrusted input, so every size has a limit that is checked before anything is decoded.
"""

from __future__ import annotations

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
