"""The dialect of the docstrings: Google's, four spaces, entries that are sentences."""

import ast
import re
from pathlib import Path

import pytest

from support import ROOT

FILES = sorted(
    path
    for folder in ("schemas", "locdiffusion", "pipelines", "experiments", "tools")
    for path in (ROOT / folder).rglob("*.py")
)
SECTION = re.compile(r"^(Args|Attributes|Raises):$")
ENTRY = re.compile(r"^\*{0,2}\w[\w., *]*(?: \([^)]*\))?: *(?P<text>.*)$", re.DOTALL)


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Line and dedented text of every docstring of a file."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            found.append((getattr(node, "lineno", 1), text))
    return found


def entries(docstring: str) -> list[str]:
    """The entries of the sections that list names, each with its continued lines."""
    found: list[str] = []
    inside = False
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if line and not indent:
            inside = bool(SECTION.match(line))
        elif inside and indent == 4:
            found.append(line.strip())
        elif inside and line:
            assert indent > 4, f"want four spaces before an entry: {line!r}"
            found[-1] += " " + line.strip()
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_entries_are_indented_by_four_and_are_sentences(path):
    for line, docstring in docstrings(path):
        for entry in entries(docstring):
            text = ENTRY.match(entry)
            assert text, f"{path}:{line}: no `name: What it is.`: {entry!r}"
            first, last = text["text"][:1], entry[-1:]
            small = re.match(r"[a-z]{2,}\b(?![\w.(=*])", text["text"])
            assert not small, f"{path}:{line}: begins with a small letter: {entry!r}"
            assert first, f"{path}:{line}: says nothing: {entry!r}"
            assert last in ".!?:", f"{path}:{line}: does not end as a sentence: {entry!r}"
