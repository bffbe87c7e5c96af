"""README.md, run: its commands and its Python as they stand, on a small archive."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import geopandas
import pytest

from locdiffusion.cli import main as locdiffusion
from locdiffusion.cli.commands import COMMANDS
from locdiffusion.overhead.command import main as cut_patches
from locdiffusion.photos.labelled_samples import read_samples
from schemas.geotags import PREDICTION_SCHEMA
from support import ROOT

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
TYPED = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
]
OURS = [line for line in TYPED if line.startswith("locdiffusion ")]
NAMED = re.findall(r"`(locdiffusion [^`]+)`", README)
"""Commands that the text names; `--help` and words in capitals are not run."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the README speaks of, and its commands run there in order."""
    root = tmp_path_factory.mktemp("readme")
    assert cut_patches(["--split", "sample", "--count", "6", "--output", str(root / "tars")]) == 0
    (root / "FOLDER").mkdir()
    for shard in (root / "tars").glob("*.tar"):
        for sample, _ in read_samples(str(shard)):
            (root / "FOLDER" / f"{sample.key}.jpg").write_bytes(sample.image)
            (root / "patch.jpg").write_bytes(sample.image)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in [*OURS, *(one for one in NAMED if "patch.jpg" in one)]:
            assert locdiffusion(shlex.split(command)[1:]) == 0, command
    return root


def test_every_line_is_run_here_or_by_ci():
    ci = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert OURS
    for line in TYPED:
        assert line in OURS or line in ci or line == "source .venv/bin/activate", line


def test_commands_in_the_text_exist():
    words = {command.split()[1] for command in NAMED} - {"--help", "help"}
    assert words and words <= set(COMMANDS)


def test_the_commands_leave_what_the_readme_says(workspace):
    out = workspace / "FOLDER-geotags"
    section = README[README.index("## What comes out") :]
    told = re.findall(r"^- `([\w./-]+)`", section, re.MULTILINE)
    assert len(told) == 5 and all((out / name).exists() for name in told)
    geotags = geopandas.read_parquet(out / "predictions")
    assert len(geotags) == 6
    # geopandas keeps the covering column to itself: it is for its own bbox filter.
    assert set(PREDICTION_SCHEMA.names) - {"bbox"} <= set(geotags.columns)
    assert (workspace / "patch-card.png").is_file()


def test_it_is_short():
    assert len(README.splitlines()) <= 110


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_the_python_runs(code, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    exec(compile(code, "README.md", "exec"), {})
