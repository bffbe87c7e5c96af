"""Runs `python -m pipelines.albums`; the code is in `command`."""

import sys

from pipelines.albums.command import main

if __name__ == "__main__":
    sys.exit(main())
