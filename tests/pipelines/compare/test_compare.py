"""`locdiffusion compare` finds what was changed, photo by photo, and joins by identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.sphere.geodesy import destination
from pipelines.compare.command import main
from schemas.comparisons import COMPARISON_SCHEMA
from schemas.geotags import ErrorRow, Stage, Status, error_table
from support.outputs import HOSTILE_KEY, write_predictions
from support.packed import page_json

KEYS = [HOSTILE_KEY, *(f"k{i}" for i in range(19))]


def identity(key: str) -> str:
    return f"{KEYS.index(key):020x}" if key in KEYS else f"{hash(key) & 0xFFFFFFFF:020x}"


def write(
    root: Path,
    keys: list[str],
    errors: dict[str, Status],
    shard: str = "s",
    seed: int = 0,
    run: dict[str, Any] | None = None,
    **columns: Any,
) -> Path:
    """An output of one shard; photos of a key have the same answer unless columns say otherwise."""
    rng = np.random.default_rng(seed)
    rows = [KEYS.index(key) for key in keys]
    latitude, longitude = rng.uniform(-60, 60, 20)[rows], rng.uniform(-180, 180, 20)[rows]
    given = {
        "latitude": latitude,
        "longitude": longitude,
        "radius_90_km": np.full(len(rows), 100.0),
    }
    given |= {"radius_50_km": np.full(len(rows), 40.0), "country_code": ["NO"] * len(rows)}
    given |= {"photo_id": [identity(key) for key in keys], **columns}
    write_predictions(root, shard, len(keys), rng, keys=keys, **given)
    (root / "errors").mkdir(exist_ok=True)
    lost = [
        ErrorRow(key, Stage.PHOTO, status, "why", identity(key)) for key, status in errors.items()
    ]
    whole = ErrorRow(None, Stage.READ, Status.SHARD_CORRUPT, "damaged")
    table = error_table(shard, [*lost, whole])
    pq.write_table(table, root / f"errors/part-{shard}.parquet")
    (root / "run.json").write_text(json.dumps({"model_id": "m", **(run or {})}))
    return root


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """k1 moved by 250 km, k2 by 10; k3 is gone, k4 new, k5 answered, k6 failed; k7 changed land."""
    keys = [key for key in KEYS if key not in ("k4", "k5", "k8")]
    errors = {"k5": Status.TOO_SLOW, "k8": Status.BROKEN_IMAGE}
    before = write(tmp_path / "one", keys, errors, run={"settings": {"prior": None, "seed": 0}})
    keys = [key for key in KEYS if key not in ("k3", "k6", "k8")]
    rng = np.random.default_rng(0)
    latitude, longitude = rng.uniform(-60, 60, 20), rng.uniform(-180, 180, 20)
    for key, km in (("k1", 250.0), ("k2", 10.0)):
        i = KEYS.index(key)
        latitude[i], longitude[i] = destination(latitude[i], longitude[i], 77.0, km)
    rows = [KEYS.index(key) for key in keys]
    after = write(
        tmp_path / "two",
        keys,
        {"k6": Status.TOO_LARGE, "k8": Status.BROKEN_IMAGE},
        shard="s",
        run={"settings": {"prior": "land", "seed": 0}},
        latitude=latitude[rows],
        longitude=longitude[rows],
        country_code=["SE" if key == "k7" else "NO" for key in keys],
        radius_90_km=np.array([300.0 if key == "k9" else 100.0 for key in keys]),
    )
    return before, after


def compare(*words: Any) -> dict[str, dict[str, Any]]:
    assert main([*map(str, words)]) == 0
    folder = Path(words[words.index("--output") + 1])
    table = pq.read_table(folder / "compare.parquet")
    assert table.schema.remove_metadata().equals(COMPARISON_SCHEMA)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert len(rows) == len(table)
    return rows


def test_every_change_is_found(
    outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compare(*outputs, "--output", tmp_path / "made")
    changed = {"k3": "gone", "k4": "new", "k5": "answered", "k6": "failed", "k8": "error"}
    assert {key: row["fate"] for key, row in rows.items()} == {
        key: changed.get(key, "kept") for key in KEYS
    }
    assert rows["k1"]["distance_km"] == pytest.approx(250.0)
    assert rows["k1"]["distance_in_radii"] == pytest.approx(2.5)
    assert rows["k2"]["distance_km"] == pytest.approx(10.0)
    assert rows["k9"]["radius_ratio"] == pytest.approx(3.0)
    assert rows["k5"]["status_before"] == "too_slow" and rows["k5"]["status_after"] is None
    assert rows["k4"]["distance_km"] is None and rows["k4"]["latitude_before"] is None
    summary = json.loads((tmp_path / "made/compare_summary.json").read_text())
    told = {name: summary[name] for name in ("moved", "outside_radius_90", "outside_radius_50")}
    assert told == {"moved": 2, "outside_radius_90": 1, "outside_radius_50": 1}
    assert summary["countries"] == [{"before": "NO", "after": "SE", "photos": 1}]
    assert summary["settings"] == {"settings.prior": {"before": None, "after": "land"}}
    assert (summary["radius_grown"], summary["radius_shrunk"]) == (1, 0)
    printed = capsys.readouterr().out
    assert "errors answered now" in printed and "setting settings.prior" in printed
    assert "outside the 90 % radius before  1 (6.7%)" in printed


def test_the_page_shows_the_farthest_and_obeys_no_name(
    outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    compare(*outputs, "--output", tmp_path / "made")
    data = page_json(tmp_path / "made/compare.html")
    assert data["key"] == ["k1", "k2"]
    compare(*reversed(outputs), "--output", tmp_path / "back")
    text = (tmp_path / "made/compare.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in text and "http://" not in text
    assert "alert(1)</script>" not in text


def test_photos_are_joined_by_identity_whatever_the_shards_are_called(
    outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write(tmp_path / "other", KEYS, {}, shard="another-name")
    rows = compare(outputs[0], other, "--output", tmp_path / "made")
    assert {row["fate"] for row in rows.values()} == {"kept", "new", "answered"}
    for name in ("predictions", "errors"):  # as an earlier version wrote them
        part = other / name / "part-another-name.parquet"
        pq.write_table(pq.read_table(part).drop_columns(["photo_id"]), part)
    table = compare_rows(outputs[0], other, tmp_path / "by-names")
    assert set(table["fate"].to_pylist()) == {"gone", "new"}


def compare_rows(before: Path, after: Path, output: Path) -> pa.Table:
    assert main([str(before), str(after), "--output", str(output)]) == 0
    return pq.read_table(output / "compare.parquet")


def test_an_error_without_identity_is_the_photo_of_its_name(
    outputs: tuple[Path, Path], tmp_path: Path
) -> None:
    part = outputs[1] / "errors/part-s.parquet"
    table = pq.read_table(part)
    at = table.column_names.index("photo_id")
    pq.write_table(table.set_column(at, "photo_id", pa.nulls(len(table), pa.string())), part)
    rows = compare(*outputs, "--output", tmp_path / "made")
    assert rows["k6"]["fate"] == "failed" and rows["k8"]["fate"] == "error"


def test_nothing_changed_and_mistakes(
    outputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compare(outputs[0], outputs[0], "--output", tmp_path / "same")
    assert {row["fate"] for row in rows.values()} == {"kept", "error"}
    assert "moved more than 1 km            0 (0.0%)" in capsys.readouterr().out
    for words, told in (
        ([outputs[0]], "1 output, wanted two"),
        ([outputs[0], tmp_path], "holds no run.json"),
        ([*outputs, "--output", tmp_path / "same"], "holds another comparison"),
        ([*outputs, "--output", outputs[0] / "run.json"], "--output"),
    ):
        assert main([*map(str, words)]) == 2
        assert told in capsys.readouterr().err
    table = pq.read_table(outputs[0] / "predictions/part-s.parquet")
    twice = pa.concat_tables([table, table[:1]])
    pq.write_table(twice, outputs[0] / "predictions/part-s.parquet")
    assert main([*map(str, outputs)]) == 2
    assert "has two rows of the photo" in capsys.readouterr().err
