"""docs/ANALYST.md, run: every block in its order, on an output of shards whose keys repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator

import geopandas
import pandas
import pytest

from support import without_beam
from support.pages import read_page
from support.recipes import RUNNERS, Recipes, lay_out

PAGE, BLOCKS = read_page("docs/ANALYST.md")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    root = tmp_path_factory.mktemp("analysis")
    lay_out(root)
    ran = Recipes(root, {}, {}, [], {})
    with pytest.MonkeyPatch.context() as patch, without_beam():
        patch.chdir(root)
        for number, (language, code) in enumerate(BLOCKS):
            try:
                RUNNERS[language](code, ran)
            except (Exception, SystemExit) as error:
                ran.failures[number] = error
    yield ran


@pytest.mark.parametrize(
    "number", range(len(BLOCKS)), ids=[f"{n}-{language}" for n, (language, _) in enumerate(BLOCKS)]
)
def test_every_block_of_the_page_runs(number: int, analysis: Recipes) -> None:
    if number in analysis.failures:
        raise AssertionError(BLOCKS[number][1]) from analysis.failures[number]


def test_sums_of_the_page_are_those_of_the_command(analysis: Recipes) -> None:
    [table] = [table for code, table in analysis.answers.items() if "standard_error" in code]
    command = geopandas.read_parquet(analysis.root / "by-country" / "aggregate.parquet")
    command = command.dropna(subset="area").set_index("area")
    for row in table.itertuples():
        assert row.photos == pytest.approx(command.photos_expected[row.country], abs=0.06)
        assert row.standard_error == pytest.approx(command.standard_error[row.country], abs=0.06)


def test_each_photo_counts_once_however_it_is_divided(analysis: Recipes) -> None:
    photos = len(pandas.read_parquet(analysis.root / "geotags" / "predictions"))
    for folder in ("by-country", "by-cell", "by-district"):
        table = pandas.read_parquet(analysis.root / folder / "aggregate.parquet")
        assert table.photos_expected.sum() == pytest.approx(photos, abs=0.01 * photos)


def test_hints_change_the_photos_that_have_one_and_no_other(analysis: Recipes) -> None:
    before, after = (
        pandas.read_parquet(analysis.root / name / "predictions").set_index("photo_id").sort_index()
        for name in ("geotags", "hinted")
    )
    assert list(before.index) == list(after.index) and after.index.is_unique
    named = set(pandas.read_csv(analysis.root / "hints.csv").photo_id)
    told = after.prior_mass.notna()
    assert set(after.index[told]) == named and 0 < len(named) < len(after)
    assert after.prior_mass[told].between(0.0, 1.0).all()
    same = ["latitude", "longitude", "radius_90_km", "country_probability"]
    pandas.testing.assert_frame_equal(before[same][~told], after[same][~told], rtol=2e-3)
    # Patches from anywhere on land do not come from Bergen, and the pictures know it.
    assert (after.prior_mass[told] < 0.5).mean() > 0.8
    moved = (before.latitude - after.latitude).abs() + (before.longitude - after.longitude).abs()
    assert math.isfinite(moved.max())
