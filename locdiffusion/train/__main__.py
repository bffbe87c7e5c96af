"""Runs `python -m locdiffusion.train`; the code is in `command`."""

import sys

from locdiffusion.train.command import main

if __name__ == "__main__":
    sys.exit(main())
