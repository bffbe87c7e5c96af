"""Runs `python -m locdiffusion.card`; the code is in `command`."""

import sys

from locdiffusion.card.command import main

if __name__ == "__main__":
    sys.exit(main())
