"""Runs what a page of documentation shows: its code blocks, and the commands in them."""

from __future__ import annotations

import importlib
import re
import shlex

from locdiffusion.cli import main as locdiffusion
from support import ROOT


def read_page(page: str) -> tuple[str, list[tuple[str, str]]]:
    """The text of a page, and language and code of each of its fenced blocks."""
    text = (ROOT / page).read_text("utf-8")
    return text, re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(code: str) -> list[list[str]]:
    """The commands of a block as words; continued lines are joined and comments left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words: list[str]) -> int:
    """Runs `locdiffusion COMMAND ...` or `python -m MODULE ...`, and returns its status."""
    if words[0] == "locdiffusion":
        return locdiffusion(words[1:])
    assert words[:2] == ["python", "-m"], f"{words}: not a command that a test can run"
    status: int = importlib.import_module(words[2]).main(words[3:])
    return status
