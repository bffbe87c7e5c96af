"""Runs `python -m pipelines.aggregate`; the code is in `command`."""

import sys

from pipelines.aggregate.command import main

if __name__ == "__main__":
    sys.exit(main())
