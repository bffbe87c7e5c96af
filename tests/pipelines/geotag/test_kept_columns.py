"""Fields of documents and the best positions are columns, whatever way a row comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet as pq
import pytest

from pipelines.albums import command as albums
from pipelines.geotag import command
from pipelines.geotag.options import parse
from schemas.bigquery import main as bigquery
from support.archives import photo, write_tar
from support.fake_geotagger import FakeLoader
from support.tiff_blocks import berlin, jpeg

pytestmark = pytest.mark.usefixtures("no_pages")

KEEP = ("--keep", "licence,url", "--keep", "event.name,tags")
FIELDS = ["licence", "url", "event.name", "tags"]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Beam, which would be most of the time."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)


def run(*words: Path | str) -> int:
    return command.main([*map(str, words), "--batch-size=2"], load=FakeLoader())


def rows(output: Path, layer: str = "predictions") -> pandas.DataFrame:
    return pandas.read_parquet(output / layer).sort_values("path").set_index("path")


def document(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tar whose documents stand beside their photos, behind them, or nowhere; and a folder."""
    where = {"latitude": 52.5, "longitude": 13.4}
    times = [{"captured_at": f"2024-05-17T1{hour}:00:00+02:00"} for hour in (0, 1)]
    beside = document(
        **times[0],
        licence="CC0",
        event={"name": "fair"},
        tags=[1, where],
        where={"lat": 52.5},
        **where,
    )
    write_tar(
        tmp_path / "in/a.tar",
        [
            *(("1.jpg", photo(1)), ("1.json", beside), ("2.jpg", photo(2)), ("3.jpg", photo(3))),
            *(
                ("no.jpg", b"text"),
                ("2.json", document(**times[1], licence="late", url="u", secret="s")),
            ),
        ],
    )
    folder = tmp_path / "in/photos"
    folder.mkdir()
    (folder / "4.jpg").write_bytes(photo(4))
    (folder / "4.jpg.json").write_bytes(document(url="https://x/4", licence=4))
    return tmp_path / "in"


def test_fields_of_documents_are_columns(archive: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    words = (archive / "a.tar", archive / "photos", "--output", out, *KEEP, "--embeddings")
    assert run(*words) == 0
    found = rows(out)
    assert list(found.columns[-4:]) == FIELDS and "secret" not in found.columns
    values = found[FIELDS].astype(object).where(found[FIELDS].notna(), None)
    assert values.loc["1.jpg"].tolist()[:3] == ["CC0", None, "fair"]
    assert json.loads(values.loc["1.jpg", "tags"])[0] == 1
    assert values.loc["2.jpg"].tolist() == ["late", "u", None, None]
    assert values.loc["3.jpg"].tolist() == [None] * 4
    assert values.loc["4.jpg"].tolist() == ["4", "https://x/4", None, None]
    assert run(*words, "--retry-failed") == 0
    pandas.testing.assert_frame_equal(rows(out), found)
    assert run(out, "--from-embeddings", "--output", again) == 0
    pandas.testing.assert_frame_equal(rows(again), found)
    assert albums.main([str(out), "--anchors-only"]) == 0
    (part,) = (out / "albums").glob("part-*")
    assert pq.read_schema(part).names[-4:] == FIELDS
    placed = rows(out, "albums")
    pandas.testing.assert_frame_equal(placed[FIELDS], found[FIELDS])
    assert placed["photo_id"].tolist() == found["photo_id"].tolist()
    sources = ["document", "album", "model", "model"]
    assert found["best_source"].tolist() == ["document", *["model"] * 3]
    assert placed["best_source"].tolist() == sources
    assert placed.loc["2.jpg", "best_latitude"] == placed.loc["2.jpg", "latitude"]


def test_a_run_without_positions_keeps_no_field_that_tells_one(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (archive / "a.tar", "--output", tmp_path / "out", "--no-positions")
    assert run(*words, "--keep", "licence,place.lat") == 2
    assert "--keep place.lat may tell positions" in capsys.readouterr().err
    assert run(*words, "--keep", "licence,tags") == 0
    assert rows(tmp_path / "out")["tags"].isna().all()
    assert b"13.4" not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.parquet"))
    all_told = (archive / "a.tar", "--output", tmp_path / "told", "--embeddings")
    assert run(*all_told, "--keep", "licence,where.lat,tags") == 0
    assert rows(tmp_path / "told").loc["1.jpg", "where.lat"] == "52.5"
    untold = tmp_path / "untold"
    assert run(tmp_path / "told", "--from-embeddings", "--no-positions", "--output", untold) == 0
    found = rows(untold)
    assert (
        found[["tags", "where.lat"]].isna().all(axis=None)
        and found.loc["1.jpg", "licence"] == "CC0"
    )


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        ("latitude", "would be a second column 'latitude'"),
        ("Album", "would be a second column 'album'"),
        ("a,A", "differ in capitals only"),
        ("a,,b", "a field is called ''"),
        (",".join(f"f{number}" for number in range(65)), "65 fields, limit 64"),
    ],
)
def test_fields_that_cannot_be_columns_are_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, why: str
) -> None:
    assert run(archive / "a.tar", "--output", tmp_path / "out", "--keep", keep) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_embeddings_have_their_fields(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(archive, "--from-embeddings", "--keep", "licence", "--output", "x") == 2
    assert "--keep is about photos" in capsys.readouterr().err
    assert parse([str(archive), "--output", "x", "--keep", "a, b"]).extras.keep == ("a", "b")


def test_bigquery_has_kept_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert bigquery(["predictions", "--keep", "licence,event"]) == 0
    names = [field["name"] for field in json.loads(capsys.readouterr().out)]
    assert names[-2:] == ["licence", "event"]


# The best position


def test_the_best_position_is_the_known_one_or_the_models(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    gps = jpeg(berlin())
    for name, data in {"model": photo(1), "photo": gps, "document": gps}.items():
        (folder / f"{name}.jpg").write_bytes(data)
    (folder / "document.json").write_bytes(document(latitude=-1.5, longitude=2.5))
    assert run(folder, "--output", tmp_path / "out") == 0
    found = rows(tmp_path / "out").set_index("stem")
    assert found["best_source"].to_dict() == {name: name for name in found.index}
    best = found[["best_latitude", "best_longitude"]]
    assert best.loc["model"].tolist() == found.loc["model", ["latitude", "longitude"]].tolist()
    assert best.loc["document"].tolist() == [-1.5, 2.5]
    assert best.loc["photo"].tolist() == [52.5, 13.25]
    assert run(folder, "--output", tmp_path / "without", "--no-positions") == 0
    without = rows(tmp_path / "without")
    assert set(without["best_source"]) == {"model"}
    assert (without["best_latitude"] == without["latitude"]).all()
