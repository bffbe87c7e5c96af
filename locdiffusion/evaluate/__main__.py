"""Runs `python -m locdiffusion.evaluate`; the code is in `command`."""

import sys

from locdiffusion.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
