"""An output tells how it came to be, beside the bytes that two runs have in common."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import pytest

from pipelines.geotag import command, provenance
from pipelines.geotag.output import Output
from pipelines.geotag.provenance import MOST_RUNS, without_secrets
from support.archives import sound_members, write_tar
from support.fake_geotagger import FakeLoader
from support.outputs import tree

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Beam, which would be most of the time."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)


def run(*words: Path | str) -> int:
    return command.main([*map(str, words)], load=FakeLoader())


def runs(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "provenance.json").read_text())["runs"]
    return found


def test_runs_are_noted_and_change_no_other_byte(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", sound_members(3))
    words = (f"{tmp_path}/in/*.tar", "--output")
    for name in ("one", "two"):
        assert run(*words, tmp_path / name, "--seed", "5") == 0
    (one,) = runs(tmp_path / "one")
    assert datetime.fromisoformat(one["started"]) <= datetime.fromisoformat(one["ended"])
    assert one["command"][:2] == ["locdiffusion", "geotag"] and one["command"][-1] == "5"
    assert one["packages"]["numpy"] == numpy.__version__ and one["python"].startswith("3.")
    recorded = json.loads((tmp_path / "one/run.json").read_text())
    assert one["configuration"] == recorded and recorded["seed"] == 5
    assert (one["shards"], one["shards_to_do"], one["photos"], one["predictions"]) == (1, 1, 3, 3)
    (two,) = runs(tmp_path / "two")
    assert two["shard_ids_sha256"] == one["shard_ids_sha256"]
    before, other = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert {n: d for n, d in before.items() if n != "summary.json"} == {
        n: d for n, d in other.items() if n != "summary.json"
    }
    assert run(*words, tmp_path / "one", "--seed", "5") == 0
    assert runs(tmp_path / "one") == [one], "nothing was left to do"
    write_tar(tmp_path / "in/b.tar", sound_members(2, 30))
    assert run(*words, tmp_path / "one", "--seed", "5") == 0
    again = runs(tmp_path / "one")
    assert again[0] == one and (again[1]["shards_to_do"], again[1]["photos"]) == (1, 5)
    assert again[1]["shard_ids_sha256"] != one["shard_ids_sha256"]
    assert run(*words, tmp_path / "one", "--overwrite") == 0
    assert len(runs(tmp_path / "one")) == 1


def test_a_command_is_noted_without_secrets() -> None:
    words = ["https://me:pass@host/a.tar?sig=tok", "--api_key=tok", "--password", "tok", "--seed=7"]
    words += [
        "gs://bucket/a.tar",
        "s3://key:tok@bucket/a.tar",
        "--hf-token",
        "--seed",
        "/x/a b.tar",
    ]
    told = [*without_secrets(words)]
    assert "tok" not in "".join(told).replace("--hf-token", "") and "pass@" not in "".join(told)
    assert told[1:6] == ["--api_key=…", "--password", "…", "--seed=7", "gs://bucket/a.tar"]
    assert told[-3:] == ["--hf-token", "--seed", "/x/a b.tar"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"runs": 7}', b'{"runs": [1]}', b"\xff"])
def test_a_note_that_is_none_is_replaced(tmp_path: Path, data: bytes) -> None:
    write_tar(tmp_path / "a.tar", sound_members(1))
    assert run(tmp_path / "a.tar", "--output", tmp_path / "out") == 0
    (tmp_path / "out/provenance.json").write_bytes(data)
    assert run(tmp_path / "a.tar", "--output", tmp_path / "out") == 0
    assert len(runs(tmp_path / "out")) == 1


def test_the_first_runs_and_the_last_are_kept(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    provenance._write(output, [{"number": number} for number in range(MOST_RUNS + 5)])
    numbers = [one["number"] for one in runs(tmp_path)]
    assert len(numbers) == MOST_RUNS and numbers[:2] == [0, 6] and numbers[-1] == MOST_RUNS + 4
