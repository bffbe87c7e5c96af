"""Tables and figures of scores: what they say, and that they stand any number of methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locdiffusion.evaluate import plots, tables
from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.evaluate.proximity import Stratum, score_strata
from locdiffusion.evaluate.scores import Scores, score
from support.answers import FEW, made_up


@pytest.fixture(scope="module")
def scores() -> dict[str, Scores]:
    rng = np.random.default_rng(0)
    found = {}
    for name, scale in (("ours", 200.0), ("rival", 400.0)):
        found[name] = score(*made_up(rng.exponential(scale, 200)), FEW)
    return found


@pytest.fixture(scope="module")
def strata() -> dict[str, tuple[Stratum, ...]]:
    rng = np.random.default_rng(1)
    near = rng.exponential(80.0, 300)
    return {
        name: score_strata(*made_up(rng.exponential(scale, 300)), near, bootstrap=FEW)
        for name, scale in (("ours", 200.0), ("rival", 400.0))
    }


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


def test_numbers_with_their_intervals() -> None:
    assert tables.percent(Estimate(0.5416, 0.528, 0.5561)) == "54.2 (52.8-55.6)"
    assert tables.number(Estimate(1234.5, 1200.0, 1300.4)) == "1,234 (1,200-1,300)"
    assert tables.number(Estimate(-0.5, -1.0, 0.25), 2) == "-0.50 (-1.00 to 0.25)"
    assert tables.number(None) == "not stated"


@pytest.mark.parametrize(
    "table", [tables.accuracy_table, tables.calibration_table, tables.reliability_table]
)
def test_tables_are_markdown_with_n_and_units(table: object, scores: dict[str, Scores]) -> None:
    text = table(scores, "method")  # type: ignore[operator]
    rows = cells(text)
    assert len({len(row) for row in rows}) == 1 and rows[0][0] == "method"
    assert len({len(line) for line in text.splitlines()}) == 1  # padded
    assert "n" in rows[0] and rows[2][rows[0].index("n")] == "200"
    assert {row[0] for row in rows[2:]} == {"ours", "rival"}


def test_the_table_of_strata_states_n(strata: dict[str, tuple[Stratum, ...]]) -> None:
    rows = cells(tables.strata_table(strata["ours"]))
    assert rows[2][0].startswith("0-") and rows[-1][0].startswith("over ")
    assert sum(int(row[1]) for row in rows[2:]) == 300


class TestFigures:
    def look(self, path: Path) -> None:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width > 600 and image.height > 200
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
            assert "Software" not in image.info

    def test_reliability(self, scores: dict[str, Scores], tmp_path: Path) -> None:
        plots.plot_reliability(tmp_path / "r.png", scores["ours"].reliability, "ours on val")
        self.look(tmp_path / "r.png")

    def test_coverage(self, scores: dict[str, Scores], tmp_path: Path) -> None:
        plots.plot_coverage(tmp_path / "c.png", scores)
        self.look(tmp_path / "c.png")

    def test_errors_of_more_methods_than_colours(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(2)
        many = {f"method {i}": rng.exponential(50.0 * (i + 1), 60) for i in range(10)}
        plots.plot_errors(tmp_path / "e.png", {**many, "right on": np.zeros(30)}, "all")
        self.look(tmp_path / "e.png")

    def test_by_distance(self, strata: dict[str, tuple[Stratum, ...]], tmp_path: Path) -> None:
        plots.plot_accuracy_by_distance(tmp_path / "d.png", strata, 25)
        self.look(tmp_path / "d.png")
        with pytest.raises(ValueError, match="threshold_km is 30; want one of"):
            plots.plot_accuracy_by_distance(tmp_path / "d.png", strata, 30)

    def test_the_same_scores_give_the_same_bytes(
        self, scores: dict[str, Scores], tmp_path: Path
    ) -> None:
        for name in ("a.png", "b.png"):
            plots.plot_coverage(tmp_path / name, scores)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
