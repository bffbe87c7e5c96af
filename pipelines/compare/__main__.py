"""Runs `python -m pipelines.compare`; the code is in `command`."""

import sys

from pipelines.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
