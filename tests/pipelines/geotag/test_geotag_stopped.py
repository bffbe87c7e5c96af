"""Ctrl-C, a request to terminate and a full disk end a run with one line, and nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import python_path
from support.archives import sound_members, write_tar

MODES = {
    "plain": [],
    "beam": [],
    "processes": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for index in range(6):
        write_tar(tmp_path / "in" / f"{index}.tar", sound_members(3, 10 * index))
    return tmp_path / "in"


def command(kind: str, mode: str, archive: Path, output: Path) -> subprocess.Popen:
    """Starts the command as a terminal does: in a group of processes of its own."""
    words = [kind, mode, f"{archive}/*.tar", "--output", str(output), *MODES[mode]]
    return subprocess.Popen(
        [sys.executable, "-m", "support.interrupted", *words],
        env={**os.environ, **python_path(), "OMP_NUM_THREADS": "1", "MARK": f"{output}.mark"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        ("plain", signal.SIGTERM),
        ("beam", signal.SIGINT),
        pytest.param("processes", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on(
    archive: Path, tmp_path: Path, mode: str, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    process = command("wait", mode, archive, output)
    while not Path(f"{output}.mark").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, number)  # Ctrl-C reaches all processes of a terminal
    told = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert told[-1] == "stopped; type the same command again to go on from here"
    assert [line for line in told if " shards" not in line] == told[-1:], "and nothing else"
    assert list((output / "_manifest").iterdir()), "what was finished before is kept"
    assert not list(output.rglob(".*"))


@pytest.mark.parametrize(
    "mode", ["plain", "beam", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_a_full_disk_is_told_in_one_line(archive: Path, tmp_path: Path, mode: str) -> None:
    output = tmp_path / "out"
    process = command("full", mode, archive, output)
    told = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert told[-1].startswith("error: disk full: No space left on device: ")
    assert told[-1].endswith("; make room, then type the same command again")
    assert [line for line in told if " shards" not in line] == told[-1:], "and nothing else"
    files = sorted(path.name for path in output.rglob("*") if path.is_file())
    assert files == ["provenance.json", "run.json"], "nothing is half written"
