"""The README's own lines, run: its commands on a small archive, its Python as it stands."""

from __future__ import annotations

import importlib
import io
import re
import shlex
from pathlib import Path

import geopandas
import pytest
from PIL import Image

from locdiffusion.overhead.command import main as cut_patches
from locdiffusion.photos.labelled_samples import read_samples
from schemas.geotags import PREDICTION_SCHEMA
from support import ROOT

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.removeprefix(".venv/bin/python -m ")
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith(".venv/bin/python -m ")
]
SHORTER = {"locdiffusion.train": ["--steps", "2", "--batch-size", "8", "--evaluate-every", "1"]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the README speaks of, and its commands run there in order."""
    root = tmp_path_factory.mktemp("readme")
    for split, count, folder in (
        ("sample", 20, "out/sample-archive"),
        ("train", 24, "DATA/train"),
        ("val", 12, "DATA/val"),
        ("seen", 6, "photos"),
    ):
        arguments = ["--split", split, "--count", str(count), "--shard-size", "10"]
        assert cut_patches([*arguments, "--output", str(root / folder)]) == 0
    shard = next(iter(sorted((root / "photos").glob("*.tar"))))
    sample, _ = next(read_samples(str(shard)))
    Image.open(io.BytesIO(sample.image)).save(root / "patch.jpg")
    (root / "FOLDER").mkdir()
    for sample, _ in read_samples(str(shard)):
        (root / "FOLDER" / f"{sample.key}.jpg").write_bytes(sample.image)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in COMMANDS:
            module, *arguments = shlex.split(command)
            main = importlib.import_module(f"{module}.__main__").main
            assert main([*arguments, *SHORTER.get(module, [])]) == 0, command
    return root


def test_the_commands_leave_what_the_readme_says(workspace):
    out = workspace / "out/sample"
    told = {name for name in re.findall(r"`([\w./-]+)`", README) if (out / name).is_file()}
    assert told >= {"summary.json", "map.png", "map.html"}
    geotags = geopandas.read_parquet(out / "predictions")
    assert len(geotags) == 20
    assert geotags.crs is not None and geotags.crs.to_epsg() in (4326, None)
    # geopandas keeps the covering column to itself: it is for its own bbox filter.
    assert set(PREDICTION_SCHEMA.names) - {"bbox"} <= set(geotags.columns)
    assert len(geopandas.read_parquet(workspace / "out/mine/predictions")) == 6


def test_every_column_is_explained():
    explained = README[README.index("| column |") :]
    # "a ... b" stands for all columns between the two.
    named = set(re.findall(r"`(\w+)`", explained[: explained.index("\n\n")]))
    between = {f"prob_{km}km" for km in (25, 200, 750)} | {"exif_longitude", "truth_latitude"}
    assert set(PREDICTION_SCHEMA.names) == named | between


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_the_python_runs(code, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    exec(compile(code, "README.md", "exec"), {})
