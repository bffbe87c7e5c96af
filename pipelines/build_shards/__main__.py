"""Runs `python -m pipelines.build_shards`; the code is in `command`."""

import sys

from pipelines.build_shards.command import main

if __name__ == "__main__":
    sys.exit(main())
