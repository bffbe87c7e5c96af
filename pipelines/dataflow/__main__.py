"""Runs `python -m pipelines.dataflow`; the code is in `command`."""

import sys

from pipelines.dataflow.command import main

if __name__ == "__main__":
    sys.exit(main())
