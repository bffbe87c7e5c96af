"""A run over every hostile file: ordinary photos beside them are geotagged, at a bounded cost."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from support import ROOT
from support.hostile import whole_run
from support.hostile.archives import ARCHIVES
from support.hostile.whole_run import Measured

pytestmark = [pytest.mark.slow, pytest.mark.ci]

MOST_MORE_BYTES = 1536 * 2**20
"""Memory that the hostile files may take beyond what ordinary photos take."""
MOST_CPU_S = 30.0
"""CPU seconds of one photo. The limit is 20, in whatever time a shared machine gives them."""

STRACE = shutil.which("strace") is not None
OPENED = re.compile(r'(?:openat|open|creat)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)".*\) = \d')
CONNECTED = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_INET")


def run_over(folder: Path) -> Measured:
    """Geotags the folders and archives in a folder, and lets strace watch."""
    inputs = sorted(str(place) for place in folder.iterdir())
    trace = folder.parent / "trace" if STRACE else None
    return whole_run.run(folder.parent / "out", *inputs, "--thumbnails", "20", trace=trace)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    whole_run.write_hostile(folder)
    return run_over(folder)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("ordinary") / "in"
    whole_run.write_ordinary(folder / "photos")
    return run_over(folder)


def test_the_ordinary_photos_are_geotagged(hostile: Measured) -> None:
    keys = [key for _, key in hostile.located]
    assert sum("-ordinary" in key for key in keys) == whole_run.ORDINARY, hostile.console[-2000:]
    for name in ("ordinary/1", "ordinary/2"):
        assert keys.count(name) == len(ARCHIVES), f"{name} of {sorted(hostile.located)}"
    assert hostile.status in (0, 1)
    assert "Traceback" not in hostile.console


def test_every_photo_has_one_row(hostile: Measured) -> None:
    rows = [*hostile.located, *hostile.failed]
    assert len(rows) == len(set(rows))
    assert set(whole_run.files("PICTURES")) <= {key for _, key in rows}


def test_memory_and_cpu_time_are_bounded(hostile: Measured, ordinary: Measured) -> None:
    assert min(ordinary.memory) > 0
    assert sum(hostile.memory) < sum(ordinary.memory) + MOST_MORE_BYTES
    assert 0 < hostile.call_s < MOST_CPU_S


def opened(run: Measured) -> set[str]:
    """Files that the processes of a run opened, apart from its input and output.

    Numbers of processes are replaced, and so are the names of temporary files.
    """
    found = set()
    ours = tuple(f"{run.output.parent / name}" for name in ("in", "out"))
    for path in OPENED.findall((run.output.parent / "trace").read_text("utf-8", "replace")):
        if not path.startswith(ours):
            found.add(re.sub(r"/proc/\d+|/tmp/[^/]*\w{6,}", "/…", path))
    return found


@pytest.mark.skipif(not STRACE, reason="there is no strace")
def test_no_file_of_others_is_opened_and_nobody_is_called(
    hostile: Measured, ordinary: Measured
) -> None:
    for run in (hostile, ordinary):
        assert not CONNECTED.findall((run.output.parent / "trace").read_text("utf-8", "replace"))
    before, after = opened(ordinary), opened(hostile)
    assert before, "strace saw nothing"
    # A process that starts another lists the files that it has open itself.
    program = (str(ROOT), sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/proc/self/fd")
    assert {path for path in after - before if not path.startswith(program)} == set()
