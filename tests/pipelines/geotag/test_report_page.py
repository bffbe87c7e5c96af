"""`report.html`: its numbers are those of the evaluation, its words follow them."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from locdiffusion.evaluate.bootstrap import Estimate
from locdiffusion.sphere.geodesy import destination
from pipelines.geotag.pages import scoring, write_report_html
from pipelines.geotag.pages.charts import accuracy_chart, coverage_chart
from pipelines.geotag.pages.report import report_page
from pipelines.geotag.pages.rows import MapRows
from schemas.geotags import THRESHOLDS_KM
from support.outputs import digest_of, rows_of, summary_of, write_predictions


def exponential_run(
    directory: Path, n: int, rng: np.random.Generator, too_sure: float = 1.0, **columns: Any
) -> None:
    """Photos whose errors are as stated, or so many times larger than stated."""
    scale = np.exp(rng.normal(5.5, 0.7, n))
    latitude, longitude = rng.uniform(-60, 70, n), rng.uniform(-180, 180, n)
    error = np.minimum(rng.exponential(scale) * too_sure, 19_000)
    truth = destination(latitude, longitude, rng.uniform(0, 360, n), error)
    columns = {
        "latitude": latitude,
        "longitude": longitude,
        "radius_50_km": scale * np.log(2),
        "radius_90_km": scale * np.log(10),
        "probability": 1 - np.exp(-np.array(THRESHOLDS_KM) / scale[:, None]),
        "truth_latitude": truth[0],
        "truth_longitude": truth[1],
    } | columns
    write_predictions(directory, "a-0", n, rng, **columns)


def words(page: str) -> str:
    """The text of a page."""
    body = page[page.index("<main>") : page.index("</main>")]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def known_rows(directory: Path) -> MapRows:
    return rows_of(directory, 10_000, known_only=True)


def test_the_same_run_gives_the_same_page_without_times(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    exponential_run(tmp_path, 120, rng)
    for name in "ab":
        sample = digest_of(tmp_path).sample
        write_report_html(sample, summary_of(120, seed=7), str(tmp_path / name))
    page = (tmp_path / "a").read_text("utf-8")
    assert page == (tmp_path / "b").read_text("utf-8")
    assert "12345" not in page and str(tmp_path) not in page


def test_every_svg_is_well_formed_and_has_a_name(tmp_path: Path, rng: np.random.Generator) -> None:
    exponential_run(tmp_path, 120, rng)
    page = report_page(known_rows(tmp_path), summary_of(120))
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img" and root.get("aria-label")


@pytest.mark.parametrize(
    ("too_sure", "told"), [(1.0, "as good as their word"), (2.5, "too small"), (0.3, "too large")]
)
def test_the_verdict_on_the_radii(
    tmp_path: Path, rng: np.random.Generator, too_sure: float, told: str
) -> None:
    exponential_run(tmp_path, 600, rng, too_sure)
    text = words(report_page(known_rows(tmp_path), summary_of(600)))
    assert told in text
    command = "locdiffusion calibrate PHOTOS --predictions OUT"
    assert (command in text) == (too_sure != 1.0)


def test_no_fit_is_proposed_where_the_answers_are_no_better_than_chance(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    exponential_run(tmp_path, 600, rng, 2.5)
    rows = known_rows(tmp_path)
    other = rng.permutation(len(rows))
    mixed = {name: rows.numbers[name][other] for name in ("latitude", "longitude")}
    text = words(report_page(replace(rows, numbers=rows.numbers | mixed), summary_of(600)))
    assert "too small" in text and "no better than chance" in text
    assert "calibrate" not in text


def test_answers_of_one_city_are_better_than_chance(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    where = 1e-3 * rng.normal(size=(2, 600))
    exponential_run(tmp_path, 600, rng, 2.5)
    rows = known_rows(tmp_path)
    near = {"latitude": where[0], "longitude": where[1]}
    near |= {"truth_latitude": where[0, ::-1], "truth_longitude": where[1, ::-1]}
    assert scoring.better_than_chance(replace(rows, numbers=rows.numbers | near))


def test_photos_of_another_kind_are_told_and_no_fit_is_proposed(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    exponential_run(tmp_path, 600, rng, 2.5, familiarity=[0.0] * 580 + [0.5] * 20)
    told = {"purpose": "maps of <Mars>", "unlike": "ask --checkpoint earth", "unfamiliar": 0.02}
    rows = rows_of(tmp_path, 10_000, known_only=True, told=told)
    assert rows.unfamiliar.sum() == 580
    page = report_page(rows, summary_of(600, **told) | {"unfamiliar": 580})
    assert "locdiffusion calibrate tries it" in words(page)
    familiar = replace(rows, numbers=rows.numbers | {"familiarity": np.ones(len(rows))})
    few = report_page(familiar, summary_of(600, **told) | {"unfamiliar": 3})
    assert "locdiffusion calibrate tries it" not in words(few), "no position of theirs is known"
    text = words(page)
    assert "580 photos unlike those that the checkpoint is for (maps of <Mars>)" in text
    assert "ask --checkpoint earth" in text and "<Mars>" not in page
    assert "locdiffusion calibrate PHOTOS" not in text and "too few photos are of the kind" in text


def test_few_photos_are_no_ground_for_a_verdict(tmp_path: Path, rng: np.random.Generator) -> None:
    exponential_run(tmp_path, 30, rng, too_sure=5)
    text = words(report_page(known_rows(tmp_path), summary_of(30)))
    assert "too few" in text
    assert "calibrate" not in text


def test_without_truth_it_says_how_to_give_some(tmp_path: Path, rng: np.random.Generator) -> None:
    write_predictions(tmp_path, "a-0", 5, rng, truth=False)
    text = words(report_page(known_rows(tmp_path), summary_of(5)))
    assert "No photo of this run has a known position" in text
    assert '{"latitude": 52.5, "longitude": 13.4}' in text
    assert "complete 1" in text


def test_damage_and_what_was_left_out_are_told(tmp_path: Path, rng: np.random.Generator) -> None:
    write_predictions(tmp_path, "a-0", 5, rng, truth=False)
    told = {"shard": "a-0", "source": "/archive/a.tar", "status": "corrupt"}
    kinds = {".txt": 3, ".mov": 1200, ".cr3": 7}
    summary = summary_of(5) | {
        "errors_by_status": {"broken_image": 2, "shard_corrupt": 1},
        "damaged": [{**told, "message": "corrupt at byte <512>"}],
        "left_out": {"total": 1210, "by_kind": kinds, "named": ["d/backup.tgz"]},
    }
    text = words(report_page(known_rows(tmp_path), summary))
    assert "Damaged shards /archive/a.tar corrupt at byte <512>" in text
    assert "files left out 1,210 .cr3 7 .mov 1,200 .txt 3" in text, "pictures first"
    assert "Left out, by name d/backup.tgz" in text and "broken_image 2" in text
    assert "shard_corrupt" not in text, "errors of shards are told apart from those of photos"


def test_exif_positions_are_scored_too(tmp_path: Path, rng: np.random.Generator) -> None:
    exponential_run(tmp_path, 100, rng)
    truth = known_rows(tmp_path)
    nowhere = np.full(100, np.nan)
    moved: dict[str, Any] = {
        "exif_latitude": truth.known.latitude,
        "exif_longitude": truth.known.longitude,
        "truth_latitude": nowhere,
        "truth_longitude": nowhere,
    }
    exponential_run(tmp_path, 100, np.random.default_rng(0), **moved)
    found = scoring.score_rows(known_rows(tmp_path))
    assert found is not None and found.by_kind == {"truth": 0, "exif": 100}
    assert "(100 from the EXIF or XMP of photos)" in words(
        report_page(known_rows(tmp_path), summary_of(100))
    )


def test_groups_hold_every_photo_once(tmp_path: Path, rng: np.random.Generator) -> None:
    exponential_run(tmp_path, 400, rng)
    found = scoring.score_rows(known_rows(tmp_path))
    assert found is not None
    assert len(found.by_country) <= scoring.MOST_GROUPS
    for groups in (found.by_country, found.by_certainty, found.by_shards):
        assert sum(group.scores["n"] for group in groups) == 400
        within = sum(group.scores["n"] * group.scores["within"]["200"] for group in groups)
        np.testing.assert_allclose(within / 400, found.overall.within[2].value)
    classes = [group.scores["median_km"] for group in found.by_certainty]
    assert len(classes) == scoring.CLASSES
    assert classes[0] < classes[-1]


def test_countries_are_those_of_the_truth(tmp_path: Path, rng: np.random.Generator) -> None:
    at = {
        "truth_latitude": np.array([52.5, 52.5, 48.8, 0.0]),
        "country_code": ["DE", "PL", "FR", None],
    }
    at["truth_longitude"] = np.array([13.4, 13.4, 2.3, -30.0])
    write_predictions(tmp_path, "a-0", 4, rng, **at)
    groups = scoring.score_rows(known_rows(tmp_path)).by_country
    found = {group.name: (group.scores["n"], group.country_right) for group in groups}
    assert found == {"DE": (2, 0.5), "FR": (1, 1.0), scoring.SEA: (1, 1.0)}


def test_many_countries_end_in_others(tmp_path: Path, rng: np.random.Generator) -> None:
    exponential_run(tmp_path, 900, rng, country_code=["DE"] * 900)
    groups = scoring.score_rows(known_rows(tmp_path)).by_country
    assert len(groups) == scoring.MOST_GROUPS
    assert groups[-1].name == scoring.OTHERS
    right = sum(group.scores["n"] * (group.country_right or 0) for group in groups)
    truth = scoring.country_codes(
        *(getattr(known_rows(tmp_path).known, a) for a in ("latitude", "longitude"))
    )
    assert round(right) == truth.count("DE")


@pytest.mark.parametrize(
    ("found", "off"),
    [
        ((0.88, 0.85, 0.91), 0),
        ((0.86, 0.85, 0.87), 0),
        ((0.7, 0.6, 0.95), 0),
        ((0.7, 0.6, 0.8), -0.2),
    ],
)
def test_a_coverage_is_off_only_if_far_and_beyond_chance(
    found: tuple[float, float, float], off: float
) -> None:
    assert scoring.miss(0.9, Estimate(*found)) == pytest.approx(off)


def test_the_accuracy_curve_is_the_share_within() -> None:
    chart = ElementTree.fromstring(accuracy_chart(np.array([5.0, 50, 500, 5000]), [0.1] * 5))
    lines = [line for line in chart.iter("polyline") if line.get("stroke-width") == "2.5"]
    points = np.array([p.split(",") for p in str(lines[0].get("points")).split()], float)
    heights = (points[0, 1] - points[:, 1]) / (points[0, 1] - points[-1, 1])
    assert sorted(set(np.round(heights, 2))) == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(
        np.mean(heights >= 0.74), 1 - np.log(500) / np.log(20_000), atol=0.01
    )


def test_names_are_escaped_in_charts() -> None:
    chart = coverage_chart([('<b>"&', 0.5, Estimate(0.5, 0.4, 0.6))])
    assert "<b>" not in chart
    ElementTree.fromstring(chart)
