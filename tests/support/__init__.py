"""What tests share. Test modules import from here and never from each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = 20251


def python_path() -> dict[str, str]:
    """Returns an environment whose Python finds the product and this package."""
    paths = (ROOT, ROOT / "tests")
    # Beam's worker pool starts what is called `python`, not the Python it runs in.
    programs = (Path(sys.executable).parent, os.environ.get("PATH", ""))
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, programs)),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def without_pages() -> Iterator[None]:
    """Lets runs of the geotag command leave out the maps and the report."""
    from pipelines.geotag import command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "draw_pages", lambda *run: False)
        yield


@contextmanager
def without_beam() -> Iterator[None]:
    """Lets runs of the geotag command on this machine take the plain loop, as without Beam.

    It writes the same bytes, which tests of the command and of the runners hold, in a fraction of
    the time.
    """
    from pipelines.geotag import command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "find_spec", lambda name: None)
        yield
