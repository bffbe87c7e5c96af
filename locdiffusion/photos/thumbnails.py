"""Small pictures of a few photos of each shard, for maps to show. Knows no Beam."""

from __future__ import annotations

import bisect
import hashlib
import io

from PIL import Image

from locdiffusion.model.preprocessing import as_rgb
from schemas.layers import THUMBNAIL_SIDE, Thumbnail

QUALITY = 75


class Chosen:
    """The N photos of a shard whose keys have the lowest hashes: whatever order they come in."""

    def __init__(self, count: int) -> None:
        """Takes N."""
        self.count = count
        self._kept: list[tuple[str, Thumbnail]] = []

    def wants(self, key: str) -> bool:
        """Whether a photo is among the N of those that were met by now."""
        if len(self._kept) < self.count:
            return True
        return self.count > 0 and _rank(key) < self._kept[-1][0]

    def add(self, thumbnail: Thumbnail) -> None:
        """Keeps the thumbnail of a photo that was wanted."""
        bisect.insort(self._kept, (_rank(thumbnail.key), thumbnail))
        del self._kept[self.count :]

    def thumbnails(self) -> tuple[Thumbnail, ...]:
        """Those that are kept, by key."""
        return tuple(sorted(thumbnail for _, thumbnail in self._kept))


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def small_jpeg(image: Image.Image) -> bytes | None:
    """An upright image of any mode as a JPEG of at most THUMBNAIL_SIDE pixels, without metadata.

    Returns:
        None where it cannot be made: it is for the eye only, and must cost no photo.
    """
    try:
        scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = as_rgb(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        small.info = {}  # comments and profiles would be saved along
        file = io.BytesIO()
        small.save(file, "JPEG", quality=QUALITY)
    except Exception:
        return None
    return file.getvalue()
