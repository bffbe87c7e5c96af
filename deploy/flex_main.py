"""Launches the pipeline of a Flex Template, which the image names in LOCDIFFUSION_PIPELINE.

The launcher passes the template's parameters and where the job is to be described; the pipeline
describes the job there, submits nothing itself and returns.
"""

import importlib
import os
import sys

KNOWN = ("geotag", "build_shards")

if __name__ == "__main__":
    name = os.environ.get("LOCDIFFUSION_PIPELINE", "")
    if name not in KNOWN:
        sys.exit(f"error: LOCDIFFUSION_PIPELINE is {name!r}, wanted one of {KNOWN}; see Dockerfile")
    sys.exit(importlib.import_module(f"pipelines.{name}.command").main())
