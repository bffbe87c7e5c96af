"""The project's own files: its root, what its Makefile and its setup.py declare."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import setuptools

from pipelines.dataflow.settings import NAMES
from support import ROOT


def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What setup.py hands to setuptools."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def make_targets() -> set[str]:
    """Returns the names of what `make` makes."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("Makefile", "experiments/Makefile")]
    return set(re.findall(r"^([a-z][a-z-]*):", "\n".join(texts), re.MULTILINE))


def telling_environment(folder: Path) -> Path:
    """Makes an environment for the Makefile whose Python tells what it was given."""
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\nimport sys\nprint(repr(sys.argv[1:]))\n")
    python.chmod(0o755)
    (folder / "venv" / ".sample").touch()
    return folder / "venv"


def handed_by_make(
    venv: Path, target: str, words: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Returns the arguments that make hands to the Python of a `telling_environment`."""
    known = {key: value for key, value in os.environ.items() if key not in (*NAMES, "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "-s", target, f"VENV={venv}", *words],
        cwd=ROOT,
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    handed: list[str] = ast.literal_eval(done.stdout)
    return handed
