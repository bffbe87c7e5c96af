"""Runs `python -m locdiffusion.albums`; the code is in `command`."""

import sys

from locdiffusion.albums.command import main

if __name__ == "__main__":
    sys.exit(main())
