"""Runs `python -m locdiffusion.calibrate`; the code is in `command`."""

import sys

from locdiffusion.calibrate.command import main

if __name__ == "__main__":
    sys.exit(main())
