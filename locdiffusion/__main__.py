"""Runs `python -m locdiffusion`, which is the command `locdiffusion`."""

import sys

from locdiffusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
