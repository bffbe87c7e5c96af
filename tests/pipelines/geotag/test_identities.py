"""Rows of all layers have the identity of their photo, which stays whatever else is done."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pandas
import pytest

from pipelines.geotag import command
from support.archives import photo, sound_members, write_tar
from support.fake_geotagger import FakeLoader

pytestmark = pytest.mark.usefixtures("no_pages")

LAYERS = ("predictions", "errors", "regions", "thumbnails", "embeddings")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Beam, which would be most of the time."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)


def run(*words: Path | str) -> int:
    return command.main([*map(str, words), "--batch-size=7"], load=FakeLoader())


def rows(output: Path, layer: str = "predictions") -> pandas.DataFrame:
    table = pandas.read_parquet(output / layer)
    return table.sort_values(["photo_id", "shard"]).reset_index(drop=True)


def ids(output: Path, layer: str = "predictions") -> set[str]:
    found = rows(output, layer)["photo_id"].dropna()
    assert found.is_unique, f"two rows of {layer} share an identity"
    return set(found)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tar with copies and damage, and a folder with a file of the same name."""
    root = tmp_path / "in"
    write_tar(root / "a.tar", [*sound_members(9), ("x/0.jpg", photo(0)), ("no.jpg", b"text")])
    (root / "photos/inner").mkdir(parents=True)
    for name in ("0.jpg", "inner/0.jpg", "inner/1.jpeg"):
        (root / "photos" / name).write_bytes(photo(0))
    (root / "photos/broken.jpg").write_bytes(photo(1)[:300])
    return root


def test_every_layer_has_the_identity_of_its_photo(archive: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    words = (archive / "a.tar", archive / "photos", "--output", out)
    extras = ("--regions", "--thumbnails", "3", "--embeddings", "--sha256")
    assert run(*words, *extras) == 0
    found = rows(out)
    assert len(ids(out)) == len(found) == 13
    assert ids(out, "embeddings") == ids(out)
    assert set(rows(out, "regions")["photo_id"]) == ids(out)
    assert set(rows(out, "thumbnails")["photo_id"]) < ids(out)
    errors = rows(out, "errors")
    assert sorted(errors["path"]) == ["broken.jpg", "no.jpg"]
    assert errors["photo_id"].notna().all() and ids(out).isdisjoint(errors["photo_id"])
    path = {row.path: row for row in found.itertuples()}
    assert {"inner/1.jpeg", "x/0.jpg"} < set(path) and path["inner/1.jpeg"].stem == "1"
    assert path["x/0.jpg"].sha256 == hashlib.sha256(photo(0)).hexdigest()
    assert run(out, "--from-embeddings", "--output", again) == 0
    for layer in ("predictions", "errors"):
        pandas.testing.assert_frame_equal(rows(again, layer), rows(out, layer))


def test_another_machine_and_a_wider_glob_give_the_same(archive: Path, tmp_path: Path) -> None:
    assert run(archive / "a.tar", "--output", tmp_path / "one") == 0
    write_tar(archive / "b.tar", sound_members(3, 70))
    wide = (f"{archive}/*.tar", archive / "photos", "--output")
    assert run(*wide, tmp_path / "one") == 0
    narrow = rows(tmp_path / "one")[lambda table: table["shard"].str.startswith("a-")]
    assert len(ids(tmp_path / "one")) == 16
    moved = shutil.copytree(archive, tmp_path / "machine/renamed")
    assert run(f"{moved}/*.tar", moved / "photos", "--output", tmp_path / "two") == 0
    assert ids(tmp_path / "two") == ids(tmp_path / "one") > set(narrow["photo_id"])
    assert rows(tmp_path / "two")["sha256"].isna().all()


def test_a_twin_does_the_shard_of_the_other_again(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(archive / "a.tar", "--output", out) == 0
    before = ids(out)
    copy = archive / "copies/a.tar"
    copy.parent.mkdir()
    shutil.copy(archive / "a.tar", copy)
    assert run(archive / "a.tar", copy, "--output", out) == 0
    assert len(ids(out)) == 20 and before.isdisjoint(ids(out))
    done = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    assert run(f"{archive}/a.tar", f"{archive}/*/a.tar", "--output", out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == done


def test_photos_that_are_done_again_keep_their_identity(archive: Path, tmp_path: Path) -> None:
    words = (archive / "a.tar", archive / "photos", "--output", tmp_path / "out")
    assert run(*words, "--regions", "--embeddings") == 0
    before = {layer: rows(tmp_path / "out", layer) for layer in ("predictions", "errors")}
    assert run(*words, "--regions", "--embeddings", "--retry-failed") == 0
    for layer, table in before.items():
        pandas.testing.assert_frame_equal(rows(tmp_path / "out", layer), table)


def test_a_place_that_is_named_twice_is_refused(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(archive / "a.tar", archive / "a.tar", "--output", tmp_path / "out") != 0
    assert "is named twice" in capsys.readouterr().err
