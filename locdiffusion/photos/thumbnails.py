"""Makes small pictures of a few photos of each shard, for maps."""

from __future__ import annotations

import bisect
import hashlib
import io

from PIL import Image

from locdiffusion.model.preprocessing import as_rgb
from schemas.layers import THUMBNAIL_SIDE, Thumbnail

QUALITY = 75


class Chosen:
    """Keeps the N photos of a shard whose keys have the lowest hashes, in whatever order they come.

    Args:
        count: Number of photos N.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._kept: list[tuple[str, Thumbnail]] = []

    def wants(self, key: str) -> bool:
        """Returns whether a photo is among the N lowest so far."""
        if len(self._kept) < self.count:
            return True
        return self.count > 0 and _rank(key) < self._kept[-1][0]

    def add(self, thumbnail: Thumbnail) -> None:
        """Adds the thumbnail of a photo that was wanted."""
        bisect.insort(self._kept, (_rank(thumbnail.key), thumbnail))
        del self._kept[self.count :]

    def thumbnails(self) -> tuple[Thumbnail, ...]:
        """Returns the thumbnails that are kept, by key."""
        return tuple(sorted(thumbnail for _, thumbnail in self._kept))


def _rank(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def small_jpeg(image: Image.Image) -> bytes | None:
    """Makes a JPEG of at most THUMBNAIL_SIDE pixels a side, without metadata.

    Args:
        image: Upright image of any mode.

    Returns:
        The JPEG, or None where it cannot be made: a thumbnail must cost no photo.
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
