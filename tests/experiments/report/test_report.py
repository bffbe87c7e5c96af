"""The report: its numbers come from its JSON files, its verdicts from its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.baselines import Budget
from experiments.baselines.registry import Fitted, fit
from experiments.report import __main__ as command
from experiments.report import (
    ablation_tables,
    answers,
    figures,
    forms,
    page,
    posterior_maps,
    rival_files,
    sections,
)
from experiments.report import table as report_table
from experiments.report.answers import Answered
from experiments.report.comparison import Verdict, compare
from experiments.report.naming import title
from experiments.report.record import (
    OURS,
    Duel,
    MainTable,
    MethodRow,
    Nearness,
    PoolStrata,
    Role,
    SplitData,
    SplitScores,
)
from experiments.report.verdicts import Outcome, both_at_bound, measures, outcomes, tally
from locdiffusion import checkpoint
from locdiffusion.calibrate import fitting
from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap, Estimate
from locdiffusion.evaluate.proximity import score_strata
from locdiffusion.evaluate.scores import score
from locdiffusion.model import image_encoder
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import destination, great_circle_km
from support import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTOS, SPLITS = 60, ("val", "val_regions")
BOOTSTRAP = Bootstrap(resamples=50)


def predicted(photos: EmbeddedPhotos, error_km: float, seed: int) -> Predictions:
    """Answers about `error_km` from the truth."""
    rng = np.random.default_rng(seed)
    n = len(photos)
    distance = error_km * rng.uniform(0.5, 1.5, n)
    bearing = rng.uniform(0.0, 360.0, n)
    latitude, longitude = destination(photos.latitude, photos.longitude, bearing, distance)
    radius = np.full(n, error_km)
    return Predictions(
        latitude,
        longitude,
        radius,
        1.4 * radius,
        rng.uniform(0.0, 1.0, (n, 5)),
        -np.log(error_km**2) + rng.normal(size=n),
    )


def made_table(errors: dict[str, float]) -> MainTable:
    """A table of methods with these errors; the first is ours."""
    photos = {split: tiny.learnable_photos(PHOTOS, i) for i, split in enumerate(SPLITS)}
    said = {
        (name, split): predicted(photos[split], error, 7 * i + j)
        for i, (name, error) in enumerate(errors.items())
        for j, split in enumerate(SPLITS)
    }

    def truth(split: str) -> tuple[Any, Any]:
        return photos[split].latitude, photos[split].longitude

    def row(name: str) -> MethodRow:
        scored = [
            SplitScores(s, score(said[name, s], *truth(s), bootstrap=BOOTSTRAP)) for s in SPLITS
        ]
        return MethodRow(name, 1234567, {"train_seconds": 12.0}, tuple(scored))

    duels = [
        Duel(split, name, compare(said[OURS, split], said[name, split], *truth(split), BOOTSTRAP))
        for split in SPLITS
        for name in errors
        if name != OURS
    ]
    distance = np.geomspace(5.0, 500.0, PHOTOS)
    strata = [
        PoolStrata("validation", name, score_strata(said[name, "val"], *truth("val"), distance))
        for name in errors
    ]
    made = {"split": "val", "seed": 3, "count": 60, "mosaics": [], "augmentation": None}
    made["mosaics"] = [{"name": "july", "file": "j.jpg", "sha256": "ab12", "weight": 1.0}]
    return MainTable(
        model="tiny-0123456789ab",
        model_sha256="0123456789abcdef",
        checkpoint={
            "model": {"max_degree": 7},
            "decode": {"radius_km": 123.0},
            "recipe": {"steps": 4321, "batch_size": 99},
            "data": {"train": {"photos": 8765, "sha256": "feed"}},
        },
        budget={"steps": 4321},
        environment="Python 3.x, somewhere",
        bootstrap=BOOTSTRAP,
        data=(SplitData("train", 8765, "feed", [made]), SplitData("val", PHOTOS, "beef")),
        methods=tuple(row(name) for name in errors),
        duels=tuple(duels),
        strata=tuple(strata),
    )


@pytest.fixture(scope="module")
def ahead(one_thread: None) -> MainTable:
    return made_table({OURS: 100.0, "nearest_neighbour": 260.0, "flow_matching": 900.0})


@pytest.fixture(scope="module")
def behind(one_thread: None) -> MainTable:
    return made_table({OURS: 260.0, "nearest_neighbour": 100.0, "flow_matching": 900.0})


def ablation(name: str, group: str, answers_of: tuple[str, ...], **setting: Any) -> dict[str, Any]:
    """A made-up record whose numbers follow from its name."""
    base = sum(map(ord, name)) % 97 + 1

    def summary(k: int) -> dict[str, Any]:
        within = {"1": 0.0, "25": base / 1000, "200": base / 200, "750": base / 100, "2500": 1.0}
        found = {"n": 50, "median_km": float(1000 * k + base), "within": within}
        return found | ({"nll_km2": 10 + base / 100} if answers_of == ("density",) else {})

    usual = {
        "encoding": "SHDD",
        "loss": "KL",
        "base": "mixture",
        "network": "CS-UNet",
        "noise": "re-centred",
        "max_degree": 23,
        "bayes_skip": True,
        "image_first": True,
    }
    return {
        "name": name,
        "group": group,
        "settings": usual | setting,
        "budget": {"steps": 400, "batch_size": 256, "seed": 0, "measured": 1000},
        "data": {"train": {"photos": 30000}},
        "parameters": 1000000 + base,
        "environment": "somewhere",
        "seconds": {"all": 60.0},
        "results": {s: {a: summary(i + 1) for a in answers_of} for i, s in enumerate(SPLITS)},
    }


@pytest.fixture
def records() -> dict[str, dict[str, Any]]:
    made = [
        ablation("full", "design", ("density",)),
        ablation("degrees", "design", ("mean", "vote"), encoding="lat/lon", loss="L2", base=None),
        ablation("degree-15", "degree", ("density",), max_degree=15),
        ablation("noise-standard", "noise", ("density",), noise="standard"),
        ablation("no-bayes-skip", "structure", ("density",), bayes_skip=False),
        ablation("foot", "smoothing", ("density",), smoothing_km=75.0, broad_share=0.3),
    ]
    within = {"1": 0.01, "25": 0.1234, "200": 0.5, "750": 0.75, "2500": 0.9}
    made[0]["radii"] = {
        "val": [
            {"radius_km": r, "n": 50, "median_km": 10 * r, "within": within} for r in (25.0, 2000.0)
        ]
    }
    for record in (made[0], made[3]):
        record["sweep"] = {
            "val_regions": [
                {"schedule": s, "steps": n, "calls": n, "n": 9, "median_km": 77.0, "within": within}
                for s in ("re-centred", "standard")
                for n in (1, 250)
            ]
        }
    return {record["name"]: record for record in made}


SAMPLING = {
    "study": {"photos": 77, "samples": 3, "checkpoint": "tiny-0", "seed": 0},
    "density": {
        "calls_per_photo": 1,
        "median_km": 61.0,
        "within": {"1": 0.0, "25": 0.251, "200": 0.501, "750": 0.751, "2500": 1.0},
        "nats_per_km2": 12.34,
        "seconds_per_photo": 0.002,
    },
    "settings": {},
}
SAMPLING["settings"] = {
    f"ddim-{placing}-{steps}": {
        **SAMPLING["density"],  # type: ignore[dict-item]
        "sampler": "ddim",
        "placing": placing,
        "steps": steps,
        "single": SAMPLING["density"],
        "median_km": 60.0 + steps,
    }
    for placing in ("recentred", "standard")
    for steps in (1, 250)
}
BENCHMARK = {
    "about": {"processor": "a slow one", "threads": 1},
    "lines": [
        {
            "name": "decode",
            "photos": 32,
            "budget": "at least 50",
            "measured": "87.6 times",
            "met": True,
        },
        {"name": "head", "photos": 1, "budget": "15 %", "measured": "16 %", "met": False},
    ],
}


class TestRecord:
    def test_it_comes_back(self, ahead: MainTable, tmp_path: Path) -> None:
        ahead.write(tmp_path / "main_table.json")
        assert MainTable.read(tmp_path / "main_table.json") == ahead

    def test_roles_come_back(self, ahead: MainTable, tmp_path: Path) -> None:
        replace(ahead, roles={"val": Role.CALIBRATION}).write(tmp_path / "main_table.json")
        back = MainTable.read(tmp_path / "main_table.json")
        assert back.role("val") is Role.CALIBRATION and back.role("val_regions") is Role.TEST

    def test_another_version_is_refused(self, ahead: MainTable) -> None:
        with pytest.raises(ValueError, match="this version reads 2"):
            replace(ahead, format=1)

    def test_answers_come_back(self, tmp_path: Path) -> None:
        photos = tiny.learnable_photos(9, 0)
        said = predicted(photos, 50.0, 1)
        path = answers.path_of(tmp_path, "someone", "val")
        answers.write(path, photos, said)
        back = answers.read(path)
        assert back.keys == photos.keys
        for name, column in vars(said).items():
            np.testing.assert_array_equal(getattr(back.predictions, name), column)
        wanted = great_circle_km(said.latitude, said.longitude, photos.latitude, photos.longitude)
        np.testing.assert_array_equal(back.errors_km, wanted)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("name", "difference", "text"),
        [
            ("200 km", Estimate(0.021, 0.01, 0.032), "better (+2.1 points, +1.0 to +3.2)"),
            ("200 km", Estimate(-0.021, -0.04, 0.001), "level (−2.1 points, −4.0 to +0.1)"),
            ("200 km", Estimate(-0.021, -0.04, -0.01), "behind by 2.1 points, 1.0 to 4.0"),
            ("200 km", Estimate(-0.0001, -0.01, 0.01), "level (+0.0 points, −1.0 to +1.0)"),
            ("median km", Estimate(-30.0, -40.0, -20.0), "better (−30 km, −40 to −20)"),
            ("median km", Estimate(1030.0, 20.0, 2040.0), "behind by 1,030 km, 20 to 2,040"),
            ("nats/km²", Estimate(0.5, 0.25, 0.75), "behind by 0.50, 0.25 to 0.75"),
        ],
    )
    def test_the_words_follow_the_interval(
        self, ahead: MainTable, name: str, difference: Estimate, text: str
    ) -> None:
        measure = next(m for m in measures(ahead) if m.name == name)
        said = report_verdict(measure, difference)
        outcome = Outcome("val", measure, "someone", difference, said)
        assert outcome.text == text
        assert (outcome.verdict is Verdict.WORSE) == ("behind" in text)

    def test_the_best_rival_is_chosen_for_each_split_and_measure(self, ahead: MainTable) -> None:
        found = outcomes(ahead)
        assert len(found) == len(SPLITS) * len(measures(ahead))
        assert {o.rival for o in found if o.measure.name == "750 km"} == {"nearest_neighbour"}
        assert {o.verdict for o in found if o.measure.name == "200 km"} == {Verdict.BETTER}

    @pytest.mark.parametrize(
        ("first", "second", "at_bound"),
        [
            (1.0, 1.0, True),
            (1.0, 0.996, True),
            (1.0, 0.994, False),
            (0.0, 0.0049, True),
            (0.0, 0.01, False),
            (0.0, 1.0, False),
            (0.5, 0.5, False),
        ],
    )
    def test_two_at_a_bound_cannot_differ(
        self, first: float, second: float, at_bound: bool
    ) -> None:
        assert both_at_bound(first, second) == both_at_bound(second, first) == at_bound

    def test_comparisons_at_a_bound_are_not_counted(self, ahead: MainTable) -> None:
        """All are 100 km off: nobody is within 1 km, everybody within 2,500."""
        found = {(o.split, o.measure.name): o for o in outcomes(ahead)}
        assert not found["val", "1 km"].counts and found["val", "1 km"].at_bound
        assert not found["val", "2500 km"].counts
        assert found["val", "200 km"].counts and found["val", "median km"].counts

    def test_a_tally_adds_up(self, behind: MainTable) -> None:
        found = [o for o in outcomes(behind) if o.measure.name in ("200 km", "GeoScore")]
        assert tally(found) == "ahead in 0, level in 0 and behind in 4 of 4"
        assert tally([]) == "ahead in 0, level in 0 and behind in 0 of 0"

    def test_they_turn_when_the_numbers_turn(self, behind: MainTable) -> None:
        found = [o for o in outcomes(behind) if o.measure.name in ("200 km", "median km")]
        assert {o.verdict for o in found} == {Verdict.WORSE}


def report_verdict(measure: Any, difference: Estimate) -> Verdict:
    from experiments.report.comparison import verdict

    return verdict(difference, higher_is_better=measure.higher_is_better)


class TestPage:
    def test_every_number_of_the_main_table_is_on_it(self, ahead: MainTable) -> None:
        text = page.render(page.Inputs(ahead), {})
        for row in ahead.methods:
            assert title(row.name) in text
            for split in SPLITS:
                scores = row.on(split)
                assert f"{scores.median_km.value:,.0f} ({scores.median_km.low:,.0f}" in text
                assert f"{100 * scores.within[2].value:.1f} (" in text
                assert scores.nats_per_km2 and f"{scores.nats_per_km2.value:.2f} (" in text
        for number in ("4321", "8,765", "1,234,567", "123 km", "0123456789abcdef", "ab12"):
            assert number in text

    def test_the_verdicts_follow_the_numbers(self, ahead: MainTable, behind: MainTable) -> None:
        good, bad = (page.render(page.Inputs(table), {}) for table in (ahead, behind))
        assert "behind in 0 of" in good and "behind by" not in good
        worse = [o for o in outcomes(behind) if o.verdict is Verdict.WORSE]
        shares = [o for o in worse if o.is_share]
        counted = [o for o in outcomes(behind) if o.is_share and o.counts]
        assert f"behind in {len(shares)} of {len(counted)} comparisons" in bad and shares
        for outcome in worse:
            assert outcome.text in bad
        for outcome in shares:
            said = f"- `{outcome.split}`, within {outcome.measure.name}: {outcome.text} (1-NN)"
            assert said in bad

    def test_what_calibration_has_seen_is_shown_and_not_counted(self, behind: MainTable) -> None:
        roles = {"val": Role.CALIBRATION, "val_regions": Role.PART}
        seen = page.render(page.Inputs(replace(behind, roles=roles)), {})
        assert "ahead in 0, level in 0 and behind in 0 of 0 comparisons" in seen
        assert "all on `val` (seen by calibration)" in seen
        assert "all on `val_regions` (part of another split)" in seen
        assert "### `val`, seen by calibration (60 photos)" in seen
        assert not any(line.startswith("- `val") and "within" in line for line in seen.split("\n"))

    def test_a_form_of_ours_is_no_rival(self, ahead: MainTable) -> None:
        methods = (*ahead.methods[:1], replace(ahead.methods[1], is_rival=False), ahead.methods[2])
        table = replace(ahead, methods=methods)
        assert [row.name for row in table.forms] == ["nearest_neighbour"]
        assert {o.rival for o in outcomes(table)} == {"flow_matching"}
        text = page.render(page.Inputs(table), {})
        part = text[text.index("## What each part is worth") :]
        gain = table.duel("val", "nearest_neighbour").within[2]
        assert f"{100 * gain.value:.1f} (" in part.split("\n## ")[0]

    def test_the_distance_to_training_is_shown(self, ahead: MainTable) -> None:
        near = Nearness("val", 60, (1.0, 2.0, 345.0, 4.0, 5.0, 6789.0), over_km=400.0)
        text = page.render(page.Inputs(replace(ahead, nearness=(near,))), {})
        assert "345" in text and "6,789" in text and "`val`, over 400 km" in text

    def test_the_three_voices_stand_apart_before_anything_else(self, ahead: MainTable) -> None:
        text = page.render(page.Inputs(ahead), {})
        heads = [line for line in text.splitlines() if line.startswith("## ")]
        assert heads[:3] == ["## What the paper says", "## What we chose", "## What we found"]
        assert "not available to us" in text and "no reproduction" in text
        assert "satellite" in text and "EfficientNet-Lite0" in text

    def test_other_photos_are_admitted(self, ahead: MainTable) -> None:
        other = replace(ahead, data=(SplitData("train", 5, "other"),), budget={"steps": 17})
        same, differs = ("\n".join(sections.main_tables(t)) for t in (ahead, other))
        assert "the same training photos in as many steps" in same
        assert "**other training photos than ours** in 17 steps (ours 4321)" in differs

    def test_photos_that_were_embedded_again_are_the_same(self, ahead: MainTable) -> None:
        """The fingerprint holds embeddings, whose last digits are those of a processor."""
        made = [{"split": "train", "seed": 0, "count": 5}]
        ours = {**ahead.checkpoint, "data": {"train": {"sha256": "ours", "made": made}}}
        again, other = (
            replace(ahead, checkpoint=ours, data=(SplitData("train", 5, "theirs", how),))
            for how in (made, [{**made[0], "seed": 1}])
        )
        assert "same training photos (cut and embedded again" in sections.main_tables(again)[0]
        assert "**other training photos than ours**" in sections.main_tables(other)[0]

    def test_what_is_absent_is_said_to_be(self) -> None:
        text = page.render(page.Inputs(), {})
        sections_of = text.split("\n## ")[3:-1]
        assert len(sections_of) == 13
        for section in sections_of:
            assert sections.NOT_MEASURED in section

    def test_findings_are_taken_without_comments(self, ahead: MainTable) -> None:
        findings = "<!-- not\nthis -->\nWe found it."
        text = page.render(page.Inputs(ahead, findings=findings), {})
        assert "We found it." in text and "not\nthis" not in text

    def test_figures_stand_in_their_sections(self, ahead: MainTable) -> None:
        names = ("coverage", "reliability-val", "distance-validation", "radius", "noise", "steps")
        text = page.render(page.Inputs(ahead), {n: f"report/{n}.png" for n in names})
        positions = [text.index(f"(report/{name}.png)") for name in names]
        assert positions == sorted(positions)

    def test_the_other_studies(self, records: dict[str, Any]) -> None:
        inputs = page.Inputs(
            ablations=records,
            sampling=SAMPLING,
            benchmark=BENCHMARK,
            log_z={"mean_nats": 0.0123, "densities": 200},
        )
        text = page.render(inputs, {})
        for number in ("310", "12.34", "87.6 times", "**not met**", "0.0123", "a slow one"):
            assert number in text
        for record in records.values():
            assert f"{record['parameters']:,}" in text
            for by_answer in record["results"].values():
                for found in by_answer.values():
                    assert f"{found['median_km']:,.0f}" in text
        assert "20,000" in text and "12.3" in text  # of the radii

    def test_networks_are_shown_over_seeds(self) -> None:
        made = []
        for seed, median in enumerate((100.0, 130.0)):
            record = ablation("unet", "networks", ("density",), max_degree=31, trunk_blocks=2)
            record["budget"] |= {"widths": [320, 160], "condition_dim": 640, "seed": seed}
            for split in record["results"].values():
                split["density"] |= {"median_km": median, "tempered_nll_km2": 11.0 + seed}
            made.append(record)
        text = "\n".join(ablation_tables.networks({str(i): r for i, r in enumerate(made)}))
        assert "115 (100-130)" in text and "11.50 (11.00-12.00)" in text
        assert "CS-UNet, trunk of 2 blocks" in text and "widths 320/160" in text

    @pytest.mark.parametrize(
        ("nats", "said"), [(0.1, "does not earn its cost"), (0.3, "is worth its cost")]
    )
    def test_sampling_is_judged_by_its_gain(self, nats: float, said: str) -> None:
        gain = {
            "nats": {"mean": nats, "standard_error": 0.05},
            "within_25": {"mean": -0.025, "standard_error": 0.01},
        }
        settings = {name: {**e, "gain": gain} for name, e in SAMPLING["settings"].items()}
        sentence = sections.sampling_verdict({**SAMPLING, "settings": settings})
        assert said in sentence and "77 validation photos" in sentence
        assert f"+{nats:.2f} ± 0.05 nats" in sentence and "−2.5 ± 1.0 points" in sentence

    def test_smoothing_is_named_by_its_kernel(self, records: dict[str, Any]) -> None:
        lines = ablation_tables.ablations(records)
        table = lines[lines.index("### Smoothing of places") + 2]
        assert "| none " in table and "| 75 km, 30 % over 500 km " in table

    def test_lat_lon_has_a_dash_for_kl(self, records: dict[str, Any]) -> None:
        unet = ablation("flat", "design", ("mean",), encoding="lat/lon", loss="L2", base=None)
        text = "\n".join(ablation_tables.ablations(records | {"flat": unet}))
        dashed = [line for line in text.splitlines() if line.startswith("| lat/lon")][-1]
        assert "KL" in dashed and set(dashed.split("KL")[1]) == set(" |–")


class TestFigures:
    def test_all_are_drawn(self, ahead: MainTable, records: dict[str, Any], tmp_path: Path) -> None:
        drawn = figures.draw_all(tmp_path, ahead, records, SAMPLING)
        wanted = {"coverage", "reliability-val", "reliability-val_regions", "distance-validation"}
        assert {path.stem for path in drawn} == wanted | {"radius", "noise", "steps"}
        for path in drawn:
            with Image.open(path) as image:
                assert image.width > 300

    def test_nothing_is_drawn_from_nothing(self, tmp_path: Path) -> None:
        assert figures.draw_all(tmp_path, None, {}, None) == []

    def test_the_best_rivals_come_first(self, ahead: MainTable) -> None:
        assert figures.best_rivals(ahead) == ["nearest_neighbour", "flow_matching"]


class TestMaps:
    def test_photos_are_picked_by_quantile(self) -> None:
        photos = tiny.learnable_photos(100, 0)
        latitude, longitude = destination(
            photos.latitude, photos.longitude, 0.0, np.arange(100) + 0.5
        )
        said = replace(predicted(photos, 9.0, 0), latitude=latitude, longitude=longitude)
        answered = Answered(photos.keys, photos.latitude, photos.longitude, said)
        picks = posterior_maps.pick({"val": answered, "unseen": answered}, 8)
        assert [p.split for p in picks] == ["val"] * 4 + ["unseen"] * 4
        assert [p.error_km for p in picks[:4]] == pytest.approx([12.5, 37.5, 62.5, 87.5])

    @settings(max_examples=20, deadline=None)
    @given(st.floats(-80, 80), st.floats(-180, 179), st.floats(0, 360), st.floats(1.0, 5000.0))
    def test_offsets_invert_destinations(
        self, latitude: float, longitude: float, bearing: float, distance: float
    ) -> None:
        there = destination(latitude, longitude, bearing, distance)
        east, north = posterior_maps.offset_km(
            (latitude, longitude), (float(there[0]), float(there[1]))
        )
        angle = np.radians(bearing)
        wanted = distance * np.sin(angle), distance * np.cos(angle)
        assert (east, north) == pytest.approx(wanted, abs=1e-3)

    def test_land_is_where_it_is(self) -> None:
        places = np.array([[25.0, 10.0], [0.0, -150.0], [60.0, 100.0], [-30.0, 135.0]])
        vectors = posterior_maps.unit_vectors(*places.T)
        np.testing.assert_array_equal(posterior_maps.land_share(vectors), [1.0, 0.0, 1.0, 1.0])

    def test_the_window_holds_the_radius_and_a_near_truth(self) -> None:
        assert posterior_maps.half_width_km(10.0, 5.0, 400.0, 4e3) == 400.0
        assert posterior_maps.half_width_km(1000.0, 2000.0, 400.0, 4e3) >= 2000.0
        assert posterior_maps.half_width_km(9e3, 1.0, 400.0, 4e3) == 4e3

    def test_densities_are_the_decoders(self, tmp_path: Path) -> None:
        path = tiny.write_checkpoint(tmp_path / "c", tiny.TinyEncoder().spec)
        posteriors = posterior_maps.Posteriors(checkpoint.load(str(path)))
        embedding = tiny.learnable_photos(1, 0).embeddings[0]
        vectors = tiny.random_points(6, 3)
        network = posteriors.checkpoint.denoiser
        natural = posterior_maps.natural_parameters(network, embedding[None]).expand(6, -1)
        photo = torch.from_numpy(embedding[None]).expand(6, -1)
        wanted = posteriors.answerer.log_probability(natural[:, None], vectors, photo)
        found = posteriors.log_density(embedding, vectors) + posterior_maps.LOG_SPHERE_AREA_KM2
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    def test_a_photo_that_is_not_there(self, tmp_path: Path) -> None:
        shard = tiny.write_coloured_shard(tmp_path / "a.tar", 2, seed=0)
        assert set(posterior_maps.find_images([str(shard)], {"a-001"})) == {"a-001"}
        with pytest.raises(ValueError, match="'other' is in none of 1 shards"):
            posterior_maps.find_images([str(shard)], {"other"})


class TestFarRows:
    def test_the_farthest_photos_remain(self) -> None:
        distance = np.arange(1000.0)
        over_km, rows = report_table.far_rows(distance) or (0.0, np.zeros(0))
        assert over_km == 800.0
        np.testing.assert_array_equal(rows, np.arange(800, 1000))

    @given(st.lists(st.floats(0.0, 3000.0), min_size=200, max_size=400))
    @settings(max_examples=20, deadline=None)
    def test_there_are_enough_and_no_step_more_would_do(self, distance: list[float]) -> None:
        found = report_table.far_rows(np.array(distance))
        if found is None:
            assert np.sum(np.array(distance) >= 50.0) < 200
        else:
            assert len(found[1]) >= 200 and found[0] % 50.0 == 0.0
            assert np.min(np.array(distance)[found[1]]) >= found[0]
            assert np.sum(np.array(distance) >= found[0] + 50.0) < 200

    def test_too_few_photos_or_none_far_make_no_split(self) -> None:
        assert report_table.far_rows(np.full(199, 900.0)) is None
        assert report_table.far_rows(np.full(500, 49.0)) is None


class TestRivalFiles:
    def test_a_rival_is_trained_and_asked_once(self, tmp_path: Path) -> None:
        train, val, test = (tiny.learnable_photos(n, s) for n, s in ((80, 0), (20, 1), (9, 2)))
        folder, made = tmp_path / "rivals" / "nearest_neighbour", []

        def make() -> Fitted:
            made.append(len(made))
            return fit("nearest_neighbour", train, [val], Budget())

        first = rival_files.trained(folder, {"steps": 1}, make)
        said = rival_files.asked(folder, {"val": val})
        files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert rival_files.trained(folder, {"steps": 1}, make) == first
        more = rival_files.asked(folder, {"val": val, "test": test})
        assert made == [0] and len(more["test"].logits) == 9
        np.testing.assert_array_equal(more["val"].points, said["val"].points)
        assert all(path.stat().st_mtime_ns == then for path, then in files.items())
        # Photos of the same name that are others are asked about anew.
        assert len(rival_files.asked(folder, {"val": test})["val"].logits) == 9

    def test_another_training_removes_what_was_said(self, tmp_path: Path) -> None:
        folder, photos = tmp_path / "rival", tiny.learnable_photos(20, 0)
        fitted = fit("nearest_neighbour", photos, [photos], Budget())
        rival_files.trained(folder, {"steps": 1}, lambda: fitted)
        rival_files.asked(folder, {"val": photos})
        rival_files.trained(folder, {"steps": 2}, lambda: fitted)
        assert sorted(path.name for path in folder.iterdir()) == ["rival.json", "rival.pt"]


class TestCommand:
    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Shards, a checkpoint, and rivals that count how often they are fitted."""
        load: Callable[..., Any] = lambda name, device="cpu": tiny.TinyEncoder(name)  # noqa: E731
        monkeypatch.setattr(image_encoder, "load_image_encoder", load)
        monkeypatch.setattr(posterior_maps, "SIZE", 31)
        for i, name in enumerate(("train", *SPLITS)):
            tiny.write_coloured_shard(tmp_path / name / f"{name}-000.tar", 30, seed=i)
        tiny.write_checkpoint(tmp_path / "checkpoint", tiny.TinyEncoder().spec)
        return tmp_path

    @staticmethod
    def table(data: Path, *more: str) -> list[str]:
        return [
            *("table", "--train", str(data / "train" / "*.tar"), "--output", str(data / "out")),
            *("--calibration", str(data / "val" / "*.tar"), "--embeddings", str(data / "emb")),
            *("--checkpoint", str(data / "checkpoint"), "--threads", "1", "--resamples", "20"),
            *("--test", *(f"{name}={data / name / '*.tar'}" for name in SPLITS), *more),
        ]

    def test_from_shards_to_the_page(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fitting, "FIT_STEPS", (0,))
        monkeypatch.setattr(forms, "LOG_TEMPERATURES", [0.0, 1.0])
        fitted = []
        real = report_table.fit

        def fit(name: str, *rest: Any) -> Any:
            fitted.append(name)
            return real(name, *rest)

        monkeypatch.setattr(report_table, "fit", fit)
        flags = ("--rivals", "nearest_neighbour", "--steps", "2")
        assert command.main(self.table(data, *flags)) == 0
        first = (data / "out" / "main_table.json").read_text()
        assert command.main(self.table(data, *flags)) == 0
        assert fitted == ["nearest_neighbour"]
        assert (data / "out" / "main_table.json").read_text() == first
        content = json.loads(first)
        ours = [OURS, forms.ONE_TEMPERATURE, forms.SMALL_MLP, forms.WITHOUT_MAP]
        assert [m["name"] for m in content["methods"]] == [*ours, "nearest_neighbour"]
        assert [m["is_rival"] for m in content["methods"]] == [False] * 4 + [True]
        assert content["roles"] == {"val": "seen by calibration", "val_regions": "test"}
        assert str(data) not in first

        shared = ["--output", str(data / "out")]
        maps = [f"{name}={data / name / '*.tar'}" for name in SPLITS]
        more = ["--embeddings", str(data / "emb"), "--checkpoint", str(data / "checkpoint")]
        assert command.main(["figures", *shared, *more, "--photos", "2", "--maps", *maps]) == 0
        target = data / "docs" / "REPORT.md"
        target.parent.mkdir()
        assert command.main(["render", *shared, "--page", str(target)]) == 0
        text = target.read_text()
        assert "(report/posteriors.png)" in text
        assert (data / "docs" / "report" / "posteriors.png").is_file()
        assert text.count(sections.NOT_MEASURED) == 7

        # Another checkpoint of ours: the rival is asked, and not trained again.
        (data / "out" / "methods" / "nearest_neighbour.json").unlink()
        assert command.main(self.table(data, *flags)) == 0
        assert fitted == ["nearest_neighbour"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (["--rivals", "someone"], "No rival is named 'someone'"),
            (["--test", "val"], "want NAME=GLOB"),
        ],
    )
    def test_mistakes_are_told(
        self, data: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(self.table(data, *change)) == 2
        assert message in capsys.readouterr().err

    def test_maps_without_answers(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--embeddings", str(data / "emb"), "--checkpoint", str(data / "checkpoint")]
        maps = ["--maps", f"val={data / 'val' / '*.tar'}"]
        assert command.main(["figures", "--output", str(data / "out"), *flags, *maps]) == 2
        assert "has no answers on val" in capsys.readouterr().err

    def test_the_rivals_get_our_own_budget(self, data: Path) -> None:
        loaded = checkpoint.load(str(data / "checkpoint"))
        recipe = {"steps": 77, "batch_size": 5, "learning_rate": 0.5, "seed": 3, "name": "x"}
        config = replace(loaded.config, record={"recipe": recipe})
        budget = report_table.budget_like(replace(loaded, config=config))
        assert (budget.steps, budget.batch_size, budget.learning_rate) == (77, 5, 0.5)
        assert budget.parameters == sum(p.numel() for p in loaded.network.parameters())
        assert report_table.budget_like(replace(loaded, config=config), 9).steps == 9
