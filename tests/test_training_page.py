"""docs/TRAINING.md, run: its `bash` blocks in their order, on a few satellite patches."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from locdiffusion import recipes
from locdiffusion.overhead.command import main as cut_patches
from support.pages import commands, read_page, run_command

PAGE, BLOCKS = read_page("docs/TRAINING.md")
SHORTER = {
    "train": [f"--set={value}" for value in ("steps=2", "batch_size=8", "model.max_degree=7")]
}
PHOTOS = (("train", 24, "DATA/train"), ("val", 12, "DATA/val"), ("seen", 60, "photos"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the page speaks of, and its commands run there in order."""
    root = tmp_path_factory.mktemp("training")
    for split, count, folder in PHOTOS:
        arguments = ["--split", split, "--count", str(count), "--output", str(root / folder)]
        assert cut_patches(arguments) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for code in (code for language, code in BLOCKS if language == "bash"):
            for words in commands(code):
                assert run_command([*words, *SHORTER.get(words[1], [])]) == 0, words
    return root


def test_the_commands_leave_what_the_page_says(workspace):
    run = workspace / "RUN"
    for name in ("checkpoint/model.safetensors", "checkpoint/MODEL_CARD.md", "embeddings"):
        assert (run / name).exists()
    assert (run / "training_state.safetensors").is_file()
    assert (workspace / "MINE/config.json").is_file()
    assert {"scores.json", "scores.md"} <= {p.name for p in (workspace / "scores").iterdir()}


def test_every_recipe_is_in_the_table():
    for name in recipes.shipped():
        assert f"| `{name}` |" in PAGE


def test_settings_of_the_table_exist():
    table = PAGE[PAGE.index("| setting |") : PAGE.index("| recipe |")]
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    names = [name.strip("` ") for row in rows for name in row.split(",")]
    fields = importlib.import_module("locdiffusion.train.trainer").TrainConfig()
    for name in names:
        value = fields
        for part in name.split("."):
            assert hasattr(value, part), name
            value = getattr(value, part)
