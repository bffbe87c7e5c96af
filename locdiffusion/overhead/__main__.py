"""Runs `python -m locdiffusion.overhead`; the code is in `command`."""

import sys

from locdiffusion.overhead.command import main

if __name__ == "__main__":
    sys.exit(main())
