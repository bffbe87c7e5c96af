"""Runs `python -m pipelines.geotag`; the code is in `command`."""

import sys

from pipelines.geotag.command import main

if __name__ == "__main__":
    sys.exit(main())
