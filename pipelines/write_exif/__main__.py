"""Runs `python -m pipelines.write_exif`; the code is in `command`."""

import sys

from pipelines.write_exif.command import main

if __name__ == "__main__":
    sys.exit(main())
