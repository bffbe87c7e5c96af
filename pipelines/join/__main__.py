"""Runs `python -m pipelines.join`; the code is in `command`."""

import sys

from pipelines.join.command import main

if __name__ == "__main__":
    sys.exit(main())
