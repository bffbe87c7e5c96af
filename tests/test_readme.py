"""README.md, run: its commands and its Python as they stand, on a small archive."""

from __future__ import annotations

import re
from pathlib import Path

import geopandas
import pytest

from locdiffusion.cli.commands import COMMANDS
from locdiffusion.overhead.command import main as cut_patches
from locdiffusion.photos.labelled_samples import read_samples
from schemas.geotags import PREDICTION_SCHEMA
from support import ROOT
from support.pages import commands, read_page, run_command

README, BLOCKS = read_page("README.md")
TYPED = [words for language, block in BLOCKS if not language for words in commands(block)]
OURS = [words for words in TYPED if words[0] == "locdiffusion"]
NAMED = [words.split() for words in re.findall(r"`(locdiffusion [^`]+)`", README)]
"""Commands that the text names."""


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
        for words in [*OURS, *(one for one in NAMED if "patch.jpg" in one)]:
            assert run_command(words) == 0, words
    return root


def test_every_line_is_run_here_or_by_ci():
    ci = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert OURS
    for words in TYPED:
        assert words in OURS or words[0] == "source" or " ".join(words) in ci, words


def test_commands_in_the_text_exist():
    named = {words[1] for words in NAMED} - {"--help", "help"}
    assert named and named <= set(COMMANDS)


def test_the_commands_leave_what_the_readme_says(workspace):
    out = workspace / "FOLDER-geotags"
    section = README[README.index("## What comes out") :]
    told = re.findall(r"^- `([\w./-]+)`", section, re.MULTILINE)
    assert len(told) == 5 and all((out / name).exists() for name in told)
    geotags = geopandas.read_parquet(out / "predictions")
    assert len(geotags) == 6
    assert geotags.crs == "OGC:CRS84"
    # geopandas keeps the covering column to itself: it is for its own bbox filter.
    assert set(PREDICTION_SCHEMA.names) - {"bbox"} <= set(geotags.columns)
    assert (workspace / "patch-card.png").is_file()


def test_it_is_short():
    assert len(README.splitlines()) <= 110


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_the_python_runs(code, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    exec(compile(code, "README.md", "exec"), {})
