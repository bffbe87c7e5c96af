"""Where the photos of a job come from. Knows no Beam."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa


class PhotoSource(Protocol):
    """A part of the photos of a job, which a worker reads as a whole."""

    def read(self) -> pa.Table:
        """Reads the photos, a table of `pipelines.albums.photos.PHOTOS`."""
