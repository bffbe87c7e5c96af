"""A catalogue is joined with an output by what their photos have in common; nothing is guessed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.geotag import command as geotag
from pipelines.join import command
from support.archives import photo, write_tar
from support.fake_geotagger import FakeLoader
from support.outputs import part

NAMES = ("2020/a.jpg", "2020/b.jpg", "2021/a.jpg", "2021/c.JPEG", "é.jpg")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of several shards with a repeated stem and a photo in errors."""
    root = tmp_path_factory.mktemp("join")
    for number, names in enumerate((NAMES[:2], NAMES[2:])):
        members = [(name, photo(10 * number + row)) for row, name in enumerate(names)]
        write_tar(root / f"in/{number}.tar", [*members, (f"broken{number}.jpg", b"text")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geotag, "find_spec", lambda name: None)
        patch.setattr(geotag, "draw_pages", lambda *_: True)
        words = [str(root / "in"), "--output", str(root / "out"), "--sha256", "--keep", "licence"]
        assert geotag.main(words, load=FakeLoader()) == 0
    return root / "out"


def write(path: Path, /, **columns: list[Any]) -> Path:
    """Writes a catalogue as its ending says."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    else:
        pq.write_table(pa.table(columns), path)
    return path


def join(*words: Path | str) -> int:
    return command.main([*map(str, words)])


def joined(path: Path) -> pandas.DataFrame:
    read = pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet
    return read(path, **({"dtype": {"country_code": str}} if path.suffix == ".csv" else {}))


def predictions(out: Path) -> pandas.DataFrame:
    return pandas.read_parquet(out / "predictions").set_index("path")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_row_stays_and_says_what_became_of_it(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    stems = ["c", "x/b.jpg", "a", "broken1", "gone", "", "c", "é.JPG"]
    catalogue = write(tmp_path / f"in.{ending}", stem=stems, title=[*map(str, range(8))])
    target = tmp_path / f"joined.{ending}"
    assert join(catalogue, out, "--output", target) == 0
    told = capsys.readouterr().out
    for line in (
        "matched      4 rows; 1 photo named by several rows",
        "ambiguous    1 row of several photos: 'a'; --all joins them",
        "error        1 row of a photo without an answer: 'broken1'",
        "unmatched    2 rows of the catalogue, 1 of them empty: 'gone', ''",
    ):
        assert line in told
    assert ": 2020/a.jpg; 1-" in told, "both photos are named"
    found = joined(target)
    states = ["matched", "matched", "ambiguous", "error", "unmatched", "unmatched", "matched"]
    assert found["match"].tolist() == [*states, "matched"]
    assert [*map(int, found["title"])] == list(range(8))
    photos = predictions(out)
    for row, path in ((0, "2021/c.JPEG"), (1, "2020/b.jpg"), (6, "2021/c.JPEG"), (7, "é.jpg")):
        one = found.loc[row]
        assert (one["path"], one["photo_id"]) == (path, photos.loc[path, "photo_id"])
        assert one["best_latitude"] == pytest.approx(photos.loc[path, "best_latitude"])
        assert one["radius_90_km"] == pytest.approx(photos.loc[path, "radius_90_km"])
    assert found.loc[2:5, "photo_id"].isna().all()


def test_with_all_a_row_comes_for_each_photo(out: Path, tmp_path: Path) -> None:
    catalogue = write(tmp_path / "in.csv", stem=["gone", "a", "b"], path=["mine", "x", "y"])
    assert join(catalogue, out, "--all", "--output", tmp_path / "o.parquet") == 0
    found = joined(tmp_path / "o.parquet")
    assert found["stem"].tolist() == ["gone", "a", "a", "b"]
    assert found["path"].tolist() == ["mine", "x", "x", "y"], "columns of the catalogue stay"
    assert found["geotag_path"].tolist()[1:] == ["2020/a.jpg", "2021/a.jpg", "2020/b.jpg"]
    assert found["match"].tolist() == ["unmatched", "ambiguous", "ambiguous", "matched"]


@pytest.mark.parametrize("key", ["path", "key", "photo_id", "sha256", "name"])
def test_each_key_finds_its_photos(out: Path, tmp_path: Path, key: str) -> None:
    photos = predictions(out).reset_index()
    photos["name"] = photos["path"].str.rpartition("/")[2]
    catalogue = write(tmp_path / "in.parquet", of=photos[key].tolist(), row=[*range(5)])
    target = tmp_path / "o.parquet"
    assert join(catalogue, out, "--on", key, "--column", "OF", "--output", target) == 0
    found = joined(target)
    twice = key == "name"
    assert (found["match"] == "matched").sum() == (3 if twice else 5)
    some = found[found["match"] == "matched"]
    assert some["photo_id"].tolist() == photos.loc[some["row"], "photo_id"].tolist()


def test_numbers_are_keys_too(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write(tmp_path / "in.parquet", id=[1, None, 3])
    assert join(catalogue, out, "--column", "id") == 0
    assert "3 rows of the catalogue, 1 of them empty: '1', '', '3'" in capsys.readouterr().out


def test_where_nothing_matches_both_sides_are_shown(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write(tmp_path / "in.csv", photo=["2020/a", "2020/b", "A"])
    assert join(catalogue, out, "--column", "photo", "--on", "path") == 0
    told = capsys.readouterr().out
    assert "matched      0 rows" in told and "'2020/a', '2020/b', 'A'" in told
    assert "5 photos of the output: '20" in told
    assert "--on key would match 2 rows" in told
    assert join(write(tmp_path / "no.csv", stem=["B", "C"]), out) == 0
    assert "no other key matches" in capsys.readouterr().out
    assert join(tmp_path / "no.csv", out, "--ignore-case") == 0
    assert "matched      2 rows" in capsys.readouterr().out


def test_what_is_there_is_not_replaced_unasked(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write(tmp_path / "in.csv", stem=["b"])
    target = tmp_path / "o.csv"
    target.write_text("mine")
    assert join(catalogue, out, "--output", target) == 2
    assert "is there already" in capsys.readouterr().err and target.read_text() == "mine"
    assert join(catalogue, out, "--output", target, "--overwrite") == 0
    assert joined(target)["match"].tolist() == ["matched"]
    assert join(catalogue, out, "--output", tmp_path / "o.xlsx") == 2
    assert "want .csv or .parquet" in capsys.readouterr().err


DAMAGED = {
    "no such file": (None, "cannot be read"),
    "empty": (b"", "empty"),
    "no column": (b"title,year\nx,1\n", "has no column 'stem'; it has 'title', 'year'"),
    "twice": (b"stem,x,x\na,1,2\n", "two columns 'x'"),
    "ragged": (b"stem,x\na,1\nb,2,3\n", "line 3"),
    "no text": (b"stem\n\xff\xfe\n", "UTF-8"),
}


@pytest.mark.parametrize(("data", "why"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_catalogue_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes | None, why: str
) -> None:
    path = tmp_path / "in.csv"
    if data is not None:
        path.write_bytes(data)
    assert join(path, out, "--output", tmp_path / "o.csv") == 2
    assert why in capsys.readouterr().err and not (tmp_path / "o.csv").exists()


def test_a_damaged_parquet_catalogue_and_output_are_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and nothing else")
    assert join(tmp_path / "in.parquet", out) == 2
    assert "cannot be read" in capsys.readouterr().err
    catalogue = write(tmp_path / "in.csv", stem=["a"])
    assert join(catalogue, tmp_path) == 2
    assert "is no output of `locdiffusion geotag`" in capsys.readouterr().err
    found = part(out, "predictions/part-1.parquet")
    sound = found.read_bytes()
    try:
        found.write_bytes(sound[:100])
        assert join(catalogue, out) == 2
        assert "geotag the photos of its shard again" in capsys.readouterr().err
    finally:
        found.write_bytes(sound)
