"""What stands in a setting of a Dataflow job is handed on by make, and never run."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipelines.dataflow.flags import arguments
from pipelines.dataflow.reading import SettingsError, read_settings
from pipelines.dataflow.settings import NAMES
from support.hostile.sources import make_values
from support.project import handed_by_make, telling_environment

TARGETS = ("run-dataflow", "run-dataflow-shards")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose Python tells what it was given."""
    return telling_environment(tmp_path)


def values(planted: Path, turn: int = 0) -> dict[str, str]:
    """A value for every setting, each of which would make a file if it were run."""
    attacks = make_values(planted)
    return {name: attacks[(turn * 7 + i) % len(attacks)] for i, name in enumerate(NAMES)}


def settings_in(handed: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in handed if not word.startswith("-") and "=" in word)


def typed(given: dict[str, str]) -> dict[str, str]:
    """What must arrive; lines are words of a list of files."""
    return {name: value.replace("\n", " ") for name, value in given.items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("turn", range(2))
def test_settings_on_the_command_line_are_not_run(
    tmp_path: Path, venv: Path, target: str, turn: int
) -> None:
    planted = tmp_path / "planted"
    given = values(planted, turn)
    misspelt = [f"PROJEKT{i}={attack}" for i, attack in enumerate(make_values(planted))]
    handed = handed_by_make(venv, target, [*(f"{k}={v}" for k, v in given.items()), *misspelt], {})
    assert not planted.exists()
    assert settings_in(handed) == typed(given)


@pytest.mark.parametrize("target", TARGETS)
def test_settings_of_the_environment_are_not_run(tmp_path: Path, venv: Path, target: str) -> None:
    planted = tmp_path / "planted"
    given = values(planted)
    handed = handed_by_make(venv, target, [], given)
    assert not planted.exists()
    assert settings_in(handed) == typed(given)


@pytest.mark.parametrize("name", ["INPUT", "OUTPUT", "METADATA", "IMAGES", "CHECKPOINT", "SOURCE"])
def test_no_setting_smuggles_in_a_flag(name: str) -> None:
    sound = {
        "PROJECT": "my-project",
        "REGION": "europe-west4",
        "IMAGE": "europe-west4-docker.pkg.dev/p/r/w:1",
        "SOURCE": "mp16",
        "METADATA": "gs://my-bucket/a.csv",
        "OUTPUT": "gs://my-bucket/out",
    }
    for flag in ("--setup_file=/tmp/x", "--runner=DirectRunner"):
        for value in (flag, f"gs://my-bucket/a {flag}"):
            words = [f"{key}={text}" for key, text in (sound | {name: value}).items()]
            with contextlib.suppress(SettingsError):
                job = read_settings("shards", words)
                assert flag not in arguments(job, datetime.now(timezone.utc))
