"""The measurement on a GPU, run where there is none: its lines, and that it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.speed.gpu.__main__ import main
from experiments.speed.gpu.model import RandomLoader


@pytest.mark.slow
def test_the_whole_script_runs_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    assert main(["--device", "cpu", "--tiny", "--output", str(file)]) == 0
    lines = {line["line"]: line for line in json.loads(file.read_text())["lines"]}
    steps = ("embed", "sample", "decode", "share of the head", "parity", "pipeline")
    assert tuple(lines) == steps
    assert lines["parity"]["cosine"] == pytest.approx(1) and lines["parity"]["km"] < 1e-3
    assert 0 < lines["share of the head"]["share"] < 1 and lines["pipeline"]["per_s"] > 0
    shown = capsys.readouterr().out
    assert "float32  embed" in shown and "say nothing" in shown


def test_a_missing_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert "sees no GPU" in capsys.readouterr().err


def test_a_model_of_random_weights_is_the_same_each_time() -> None:
    first, second = (RandomLoader("cpu", "float32", tiny=True)() for _ in range(2))
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(
            first.encoder._network.parameters(), second.encoder._network.parameters(), strict=True
        )
    )
