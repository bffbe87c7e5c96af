"""A run over every hostile file: ordinary photos beside them are geotagged, at a bounded cost."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from support import ROOT
from support.hostile import whole_run
from support.hostile.whole_run import Measured

pytestmark = [pytest.mark.slow, pytest.mark.ci]

MOST_MORE_BYTES = 1536 * 2**20
"""Memory that the hostile files may take beyond what ordinary photos take."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    whole_run.write_hostile(folder)
    return folder


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ordinary") / "in"
    whole_run.write_ordinary(folder / "photos")
    return folder


def arguments(folder: Path) -> list[str]:
    archives = sorted(str(file) for file in folder.iterdir() if file.is_file())
    return [str(folder / "photos"), *archives, "--thumbnails", "20"]


@pytest.fixture(scope="module")
def over_hostile(hostile: Path) -> Measured:
    return whole_run.run(hostile.parent / "out", *arguments(hostile))


@pytest.fixture(scope="module")
def over_ordinary(ordinary: Path) -> Measured:
    return whole_run.run(ordinary.parent / "out", *arguments(ordinary))


def test_the_ordinary_photos_are_geotagged(over_hostile: Measured) -> None:
    names = {key for key in over_hostile.located if "-ordinary" in key}
    assert len(names) == whole_run.ORDINARY, over_hostile.console[-2000:]
    assert over_hostile.status in (0, 1)
    assert "Traceback" not in over_hostile.console


def test_every_hostile_picture_has_one_row(over_hostile: Measured) -> None:
    rows = [*over_hostile.located, *over_hostile.failed]
    assert len(rows) == len(set(rows))
    assert set(whole_run.files("PICTURES")) <= set(rows)


def test_memory_is_bounded(over_hostile: Measured, over_ordinary: Measured) -> None:
    assert min(over_ordinary.memory) > 0
    assert sum(over_hostile.memory) < sum(over_ordinary.memory) + MOST_MORE_BYTES


OPENED = re.compile(r'(?:openat|open|creat)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)".*\) = \d')
CONNECTED = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_(INET6?)")


def opened(trace: Path, *apart: Path) -> set[str]:
    """Files that the processes of a trace opened, without those below some folders.

    Numbers of processes are replaced, and so are the names of temporary files.
    """
    found = set()
    for path in OPENED.findall(trace.read_text("utf-8", "replace")):
        if not any(path.startswith(f"{folder}/") or path == str(folder) for folder in apart):
            found.add(re.sub(r"/proc/\d+|/tmp/[^/]*\w{6,}", "/…", path))
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_no_file_of_others_is_opened_and_nobody_is_called(
    hostile: Path, ordinary: Path, tmp_path: Path
) -> None:
    traces = []
    for folder in (ordinary, hostile):
        trace = tmp_path / f"{folder.parent.name}.trace"
        whole_run.run(tmp_path / folder.parent.name, *arguments(folder), trace=trace)
        assert not CONNECTED.findall(trace.read_text("utf-8", "replace"))
        traces.append(opened(trace, folder, tmp_path))
    before, after = traces
    assert before, "strace saw nothing"
    ours = (str(ROOT), sys.prefix, sys.base_prefix, "/usr/lib", "/lib")
    assert {path for path in after - before if not path.startswith(ours)} == set()
