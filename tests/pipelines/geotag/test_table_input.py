"""`--input TABLE`: photos of a table end as rows, under their own priors, and resume by groups."""

import contextlib
import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from locdiffusion.photos import table as photo_table
from locdiffusion.photos.listing import list_shards
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command
from pipelines.geotag.output import Output
from pipelines.geotag.shard_lists import read_list, write_lists
from support import without_pages
from support.fake_geotagger import FakeLoader
from support.plain_run import Outcome, geotagged

COUNT = 40


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of one colour each."""
    folder = tmp_path_factory.mktemp("archive")
    generator = np.random.default_rng(4)
    for number in range(COUNT):
        path = folder / f"{number % 3}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        colour = tuple(generator.integers(30, 220, 3).tolist())
        Image.new("RGB", (24, 20), colour).save(path)
    return folder


def names_of(archive: Path) -> list[str]:
    return sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*.jpg"))


def write_table(path: Path, /, **columns: list) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=16)
        return path
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def answers(outcome: Outcome, key: str = "key") -> dict[str, tuple]:
    names = ("latitude", "longitude", "radius_90_km", "information_nats", "country_code")
    return {row[key]: tuple(row[name] for name in names) for row in outcome.predictions}


@pytest.mark.parametrize("name", ["photos.csv", "photos.parquet"])
def test_a_table_gives_the_rows_of_the_folder(archive, tmp_path, name):
    table = write_table(archive / name, path=names_of(archive))
    try:
        listed = geotagged(tmp_path / "table", table)
        folder = geotagged(tmp_path / "folder", archive)
    finally:
        table.unlink()
    assert listed.status == folder.status == 0, listed.console
    assert answers(listed) == answers(folder) and len(answers(folder)) == COUNT
    assert listed.summary["photos"] == COUNT and not listed.errors


def test_each_photo_is_answered_under_its_own_prior(archive, tmp_path):
    priors = ["", "country:NO", "land", "1,2,3km"]
    own = [priors[number % 4] for number in range(COUNT)]
    table = write_table(tmp_path / "t.csv", path=names_of(archive), prior=own)
    listed = geotagged(tmp_path / "out", write_in(archive, table))
    assert listed.status == 0, listed.console
    plain = geotagged(tmp_path / "plain", archive)
    for key, prior in zip(names_of(archive), own, strict=True):
        wanted, found = answers(plain)[key], answers(listed)[key]
        # The fake model adds the length of the prior to the radius.
        assert found[2] == pytest.approx(wanted[2] + len(prior)) and found[:2] == wanted[:2]


def write_in(archive: Path, table: Path) -> Path:
    """Moves a table into the archive for the time of a test, under a name of its own."""
    target = archive / f"{table.parent.name}-{table.name}"
    return table.rename(target)


@pytest.fixture(autouse=True)
def tidy(archive):
    yield
    for path in [*archive.glob("*.csv"), *archive.glob("*.parquet")]:
        path.unlink()


def test_every_row_is_one_row_and_the_summary_adds_up(archive, tmp_path):
    names = names_of(archive)
    path = [*names, names[0], "gone.jpg", "../../etc/passwd", "", names[1]]
    key = [*(f"k{number}" for number in range(COUNT)), "k0", "lost", "escape", "empty", "bad"]
    prior = [""] * (COUNT + 4) + ["country:NORWAY"]
    nowhere = [""] * (COUNT + 3)
    table = write_table(
        archive / "t.csv",
        path=path,
        key=key,
        prior=prior,
        lat=["52.5", "95", *nowhere],
        lon=["13.4", "0", *nowhere],
    )
    found = geotagged(tmp_path / "out", table)
    assert found.status == 0, found.console
    assert found.statuses == {
        "k0#2": "duplicate_key",
        "lost": "missing_image",
        "escape": "missing_image",
        "empty": "missing_image",
        "bad": "bad_prior",
    }
    assert len(found.keys) == len(set(found.keys)) == len(path) == found.summary["photos"]
    assert found.summary["predictions"] == COUNT and found.summary["photo_errors"] == 5
    sources = {row["key"]: row["truth_source"] for row in found.predictions}
    assert sources.pop("k0") == "table" and not any(sources.values())
    assert found.truths["k0"] == (52.5, 13.4) and found.truths["k1"] is None
    assert found.summary["not_understood"] == 1
    again = geotagged(tmp_path / "out", table)
    assert again.predictions == found.predictions and again.errors == found.errors


def test_only_changed_groups_are_done_again_and_rows_that_are_gone_go(
    archive, tmp_path, monkeypatch
):
    monkeypatch.setattr(photo_table, "GROUP_MEAN", 4)
    names = names_of(archive)
    key = [f"k{name}" for name in names]
    prior = [""] * COUNT
    table = write_table(archive / "t.parquet", path=names, key=key, prior=prior)
    first = geotagged(tmp_path / "out", table)
    assert first.status == 0 and len(first.keys) == COUNT
    folder = tmp_path / "out" / "predictions"
    parts = {part: part.stat().st_mtime_ns for part in folder.iterdir()}
    assert len(parts) >= 5
    prior[1] = "land"
    write_table(table, path=names[:-1], key=key[:-1], prior=prior[:-1])
    second = geotagged(tmp_path / "out", table)
    assert second.status == 0 and len(second.keys) == COUNT - 1
    kept = sum(part.exists() and part.stat().st_mtime_ns == was for part, was in parts.items())
    assert kept == len(parts) - 2
    was, now = answers(first), answers(second)
    assert now[key[1]][2] == pytest.approx(was[key[1]][2] + len("land"))
    del was[key[1]], was[key[-1]], now[key[1]]
    assert now == was
    assert answers(geotagged(tmp_path / "whole", table)) == answers(second)


def test_retry_failed_does_only_the_rows_in_errors(archive, tmp_path):
    names = names_of(archive)[:6]
    own = ["country:NO", "", "1,2,3km", "", "", ""]
    table = write_table(archive / "t.csv", path=[*names[:5], "late.jpg"], prior=own)
    assert geotagged(tmp_path / "out", table).statuses == {"late.jpg": "missing_image"}
    late = archive / "late.jpg"
    late.write_bytes((archive / names[5]).read_bytes())
    try:
        again = geotagged(tmp_path / "out", table, flags=("--retry-failed",))
        assert answers(again) == answers(geotagged(tmp_path / "whole", table))
    finally:
        late.unlink()
    assert len(again.keys) == 6 and not again.errors


def test_beam_and_the_plain_loop_write_the_same_bytes(archive, tmp_path):
    own = ["", "country:NO", "1,2,3km", "country:XX"] * (COUNT // 4)
    table = write_table(archive / "t.csv", path=names_of(archive), prior=own)
    plain = geotagged(tmp_path / "plain", table, flags=("--regions",))
    with without_pages(), contextlib.redirect_stdout(io.StringIO()):
        words = [str(table), "--output", str(tmp_path / "beam"), "--regions"]
        assert command.main(words, load=FakeLoader()) == plain.status == 0
    for layer in ("predictions", "errors", "regions"):
        (one,), (other,) = ((tmp_path / run / layer).iterdir() for run in ("plain", "beam"))
        assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_groups_of_a_table_are_told_to_workers_in_lists(archive, tmp_path):
    table = write_table(archive / "t.csv", path=names_of(archive))
    shards = list_shards([str(table)], tables=True, follow_links=True)
    output = Output(str(tmp_path / "out"))
    found = [shard for file in write_lists(output, shards) for shard in read_list(file, output)]
    assert found == shards and found[0].table == shards[0].table is not None


def test_a_table_beside_a_folder_and_an_archive(archive, tmp_path):
    table = write_table(archive / "t.csv", path=names_of(archive)[:5], key=list("abcde"))
    found = geotagged(tmp_path / "out", table, archive / "0", archive / "1")
    assert found.status == 0, found.console
    others = [name for name in names_of(archive) if name[0] in "01"]
    assert found.keys == sorted([*"abcde", *(name[2:] for name in others)])


def test_a_table_without_photos_is_refused_before_the_job(archive, tmp_path):
    table = write_table(archive / "t.csv", a=["x"], b=["y"])
    found = geotagged(tmp_path / "out", table)
    assert found.status == 2 and "none of which is known as the place of the photo" in found.console
    assert not (tmp_path / "out").exists()


def test_exclude_is_refused_with_a_table(archive: Path) -> None:
    table = write_table(archive / "excluded.csv", path=names_of(archive))
    with pytest.raises(DataError, match="take their rows out of the table"):
        list_shards([str(table)], tables=True, exclude=["*.jpg"])
