"""The albums command with a bucket that says when it is reached, and then waits to be stopped."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from pipelines.albums import output, photos
from pipelines.albums.command import main

BUCKETS = iter(range(1000))
WORK = output.bucket_rows


def waiting(*arguments: Any) -> Any:
    """Leaves a mark at the third bucket, and waits for ever."""
    if next(BUCKETS) == 2:
        Path(os.environ["MARK"]).touch()
        while True:
            time.sleep(0.01)
    return WORK(*arguments)


if __name__ == "__main__":
    photos.PHOTOS_OF_BUCKET = 10
    output.bucket_rows = waiting
    sys.exit(main(sys.argv[1:]))
