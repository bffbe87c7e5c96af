"""The project's own files: its root, what its Makefile and its setup.py declare."""

from __future__ import annotations

import re
import runpy

import pytest
import setuptools

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
