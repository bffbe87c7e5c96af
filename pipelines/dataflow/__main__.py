"""Runs `python -m pipelines.dataflow`; the code is in `command`."""

import os
import sys

from pipelines.dataflow.command import main

if __name__ == "__main__":
    # A worker asks no hub for weights; so the check of the model here must not, nor find any kept.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": os.devnull}
    sys.exit(main())
