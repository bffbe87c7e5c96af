"""Every count that a run tells is the count of what lies on disk, and a file that lies is named."""

from __future__ import annotations

import gzip
import json
import math
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from locdiffusion.photos.listing import shard_id
from pipelines.geotag import command as geotag
from pipelines.geotag.digest import RunDigest
from pipelines.geotag.output import Output
from schemas.geotags import THRESHOLDS_KM, Status
from schemas.samples import IMAGE_EXTENSIONS, MAX_IMAGE_BYTES, MAX_METADATA_BYTES
from support.archives import bad_members, photo, sound_members, tar_bytes, write_tar
from support.damaged import sound
from support.fake_geotagger import FakeLoader
from support.outputs import manifest_of, part, plain, tree

Row = dict[str, Any]


pytestmark = pytest.mark.usefixtures("no_pages")


def run(archive: Path, output: Path, *flags: str, shards: str = "*.tar*") -> int:
    arguments = ["--input", f"{archive}/{shards}", "--output", str(output), "--batch_size=5"]
    arguments.append("--accept-damaged")
    return geotag.main([*arguments, *flags], load=FakeLoader())


def with_position(index: int) -> bytes:
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = "S", "E"
    gps[ExifTags.GPS.GPSLatitude] = (float(index), 30.0, 0.0)
    gps[ExifTags.GPS.GPSLongitude] = (10.0, 0.0, float(index))
    return photo(index, exif=exif)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound shards of three groups, every kind of error, every kind of damage."""
    root = tmp_path_factory.mktemp("archive")
    for index in range(3):
        write_tar(root / f"val-{index:03d}.tar", sound_members(11 + index, 20 * index))
    positions = [(f"exif-{index}.jpg", with_position(index)) for index in range(1, 6)]
    beside = [
        ("__meta__/x.json", b"{}"),
        (".hidden.jpg", b"x"),
        ("README", b"y"),
        ("d/LICENSE", b""),
    ]
    (root / "exif-0.tar.gz").write_bytes(gzip.compress(tar_bytes([*positions, *beside])))
    large = [("large_json.jpg", photo(9)), ("large_json.json", bytes(MAX_METADATA_BYTES + 1))]
    bad = [member for members, _ in bad_members().values() for member in members]
    write_tar(root / "bad-0.tar", [*bad, *large])
    write_tar(root / "large-0.tar.gz", [("large.jpg", bytes(MAX_IMAGE_BYTES + 1))], "w:gz")
    with tarfile.open(root / "pipe-0.tar", "w") as tar:
        pipe = tarfile.TarInfo("pipe.jpg")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    data = tar_bytes(sound_members(12, 100))
    (root / "cut-0.tar").write_bytes(data[:9000])
    at = sound(data).files[9].start
    (root / "garbage-0.tar").write_bytes(data[:at] + b"\xaa" * 1024 + data[at:])
    (root / "page-0.tar").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    write_tar(root / "empty-0.tar", [])
    return root


@pytest.fixture(scope="module")
def output(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results") / "out"
    assert run(archive, output) == 0
    return output


def shard_files(archive: Path) -> dict[str, Path]:
    return {shard_id(path.name, str(path)): path for path in archive.iterdir()}


def rows_of(output: Path, folder: str, shard: str) -> list[Row]:
    return pq.read_table(part(output, f"{folder}/part-{plain(shard)}.parquet")).to_pylist()


def document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def haversine_km(row: Row, kind: str) -> float:
    """Written out anew, so as not to believe the code that it checks."""
    names = ("latitude", "longitude", f"{kind}_latitude", f"{kind}_longitude")
    lat, lon, known_lat, known_lon = (math.radians(row[name]) for name in names)
    half = (
        math.sin((lat - known_lat) / 2) ** 2
        + math.cos(lat) * math.cos(known_lat) * math.sin((lon - known_lon) / 2) ** 2
    )
    return 2 * 6371.0088 * math.asin(math.sqrt(half))


# Manifests


def test_every_count_of_every_manifest(archive: Path, output: Path) -> None:
    shards = shard_files(archive)
    assert Output(str(output)).manifest_names() == sorted(shards)
    for shard, path in shards.items():
        manifest = document(manifest_of(output, shard))
        predictions = rows_of(output, "predictions", shard)
        errors = rows_of(output, "errors", shard)
        of_photos = [row for row in errors if row["key"] is not None]
        of_shard = [row for row in errors if row["key"] is None]
        assert manifest["shard"] == shard and manifest["source"] == str(path)
        assert manifest["predictions"] == len(predictions)
        assert manifest["photo_errors"] == len(of_photos)
        assert manifest["shard_errors"] == len(of_shard)
        assert manifest["photos"] == len(predictions) + len(of_photos)
        assert manifest["errors_by_status"] == Counter(row["status"] for row in errors)
        assert all(row["shard"] == shard for row in [*predictions, *errors])
        complete = manifest["tar_status"] == "complete"
        assert manifest["tar_message"] == "" if complete else manifest["tar_message"]
        expected = [] if complete else [f"shard_{manifest['tar_status']}"]
        assert [row["status"] for row in of_shard] == expected
        for row in of_shard:
            assert row["message"].startswith(manifest["tar_message"])


def test_the_manifests_count_the_bytes_of_the_tars(archive: Path, output: Path) -> None:
    """Photos and ignored files of the sound shards, found by the standard library."""
    for shard, path in shard_files(archive).items():
        manifest = document(manifest_of(output, shard))
        if manifest["tar_status"] != "complete":
            continue
        stored = sound(path.read_bytes())
        photos = [file for file, _ in stored.photos().values()]
        documents = [file for run in stored.runs() for file in run if file.extension == "json"]
        others = len(stored.files) - len(photos) - len(documents)
        assert manifest["photos"] == len(photos) + (plain(shard) == "pipe-0")
        assert manifest["left_out"]["total"] == others
    statuses = {plain(s): document(manifest_of(output, s)) for s in shard_files(archive)}
    assert statuses["empty-0"]["photos"] == statuses["page-0"]["photos"] == 0
    damaged = {s: m["tar_status"] for s, m in statuses.items() if m["tar_status"] != "complete"}
    assert damaged == {"cut-0": "truncated", "garbage-0": "corrupt", "page-0": "unreadable"}
    whole = sound(tar_bytes(sound_members(12, 100)))
    (header,) = [file.header for file in whole.files if file.header < 9000 < file.payload]
    assert f"truncated at byte {header}:" in statuses["cut-0"]["tar_message"]
    garbage = whole.files[9].start
    assert f"corrupt at byte {garbage}:" in statuses["garbage-0"]["tar_message"]
    # What a cut shard still counts: the photos whose headers stand before the cut.
    before = [f for f in whole.files if f.payload <= 9000 and f.extension in IMAGE_EXTENSIONS]
    assert statuses["cut-0"]["photos"] == len(before)


# The summary


def test_every_count_of_the_summary(archive: Path, output: Path) -> None:
    summary = document(output / "summary.json")
    shards = shard_files(archive)
    predictions = [row for shard in shards for row in rows_of(output, "predictions", shard)]
    errors = [row for shard in shards for row in rows_of(output, "errors", shard)]
    by_status = Counter(row["status"] for row in errors)
    elsewhere = {"bad_metadata", "broken_image", "no_reader", "name_too_long"}
    elsewhere |= {"too_slow", "too_large", "bad_prior"}
    assert set(by_status) | elsewhere == {status.value for status in Status}
    assert summary["errors_by_status"] == by_status
    assert summary["predictions"] == len(predictions) > 40
    assert summary["photo_errors"] == sum(row["key"] is not None for row in errors)
    assert summary["shard_errors"] == sum(row["key"] is None for row in errors) == 3
    assert summary["photos"] == summary["predictions"] + summary["photo_errors"]
    manifests = [document(path) for path in (output / "_manifest").iterdir()]
    assert summary["shards"] == Counter(manifest["tar_status"] for manifest in manifests)
    assert sum(summary["shards"].values()) == len(shards)
    assert summary["mismatches"] == [] and summary["read_again"] == []
    assert summary["configuration"] == document(output / "run.json")


@pytest.mark.parametrize("kind", ["truth", "exif"])
def test_the_accuracy_of_the_summary(archive: Path, output: Path, kind: str) -> None:
    table = document(output / "summary.json")["accuracy" if kind == "truth" else "accuracy_exif"]
    groups: dict[str, list[Row]] = {}
    for shard in shard_files(archive):
        for row in rows_of(output, "predictions", shard):
            if row[f"{kind}_latitude"] is not None:
                groups.setdefault(plain(shard).rpartition("-")[0], []).append(row)
                groups.setdefault("all", []).append(row)
    assert set(table) == set(groups) and len(groups) > 1
    for group, rows in groups.items():
        distance = np.array([haversine_km(row, kind) for row in rows])
        found = table[group]
        assert found["n"] == len(rows)
        assert found["median_km"] == pytest.approx(np.median(distance), rel=1e-6)
        assert found["within"] == {str(km): np.mean(distance <= km) for km in THRESHOLDS_KM}
        for level in ("50", "90"):
            inside = distance <= np.array([row[f"radius_{level}_km"] for row in rows])
            assert found[f"coverage_{level}"] == np.mean(inside)


def test_truth_in_the_rows_is_that_of_the_tar(archive: Path, output: Path) -> None:
    for shard in ("val-000", "val-001", "val-002"):
        photos = sound((archive / f"{shard}.tar").read_bytes()).photos()
        rows = rows_of(output, "predictions", shard)
        assert len(rows) == len(photos)
        for row in rows:
            stored = [json.loads(f.data) for f in photos[row["key"]][1] if f.extension == "json"]
            wanted = stored[0] if stored else {"latitude": None, "longitude": None}
            assert row["truth_latitude"] == wanted["latitude"]
            assert row["truth_longitude"] == wanted["longitude"]


def test_images_per_second_are_those_of_this_run(archive: Path, tmp_path: Path) -> None:
    """Not of the photos that an earlier run has done, but of those that are done again."""
    mine = tmp_path / "archive"
    mine.mkdir()
    for name in ("val-000.tar", "val-001.tar"):
        shutil.copy(archive / name, mine / name)
    assert run(mine, tmp_path / "out", shards="val-000.tar") == 0
    assert photos_by_rate(tmp_path / "out") == 11
    assert run(mine, tmp_path / "out") == 0
    assert photos_by_rate(tmp_path / "out") == 12
    write_tar(mine / "val-000.tar", sound_members(7))
    assert run(mine, tmp_path / "out") == 0
    summary = document(tmp_path / "out/summary.json")
    assert photos_by_rate(tmp_path / "out") == 7 and summary["photos"] == 19
    assert run(mine, tmp_path / "out") == 0  # nothing left to do
    assert document(tmp_path / "out/summary.json") == summary


def photos_by_rate(output: Path) -> int:
    summary = document(output / "summary.json")
    return round(summary["images_per_second"] * summary["seconds"])


@pytest.mark.usefixtures("plain_loop")
def test_the_table_prints_the_counts_of_the_file(
    archive: Path, output: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(archive, output) == 0
    told, summary = capsys.readouterr().out, document(output / "summary.json")
    for name, key in (("photos", "photos"), ("predictions",) * 2, ("errors", "photo_errors")):
        assert re.search(rf"^{name} +{summary[key]:,}$", told, re.MULTILINE)
    listed = dict(re.findall(r"^  (\w+) +([\d,]+)$", told.partition("\nshards")[0], re.MULTILINE))
    assert sum(int(count) for count in listed.values()) == summary["photo_errors"]
    shards = ("shard_corrupt", "shard_truncated", "shard_unreadable")
    of_photos = {n: f"{c:,}" for n, c in summary["errors_by_status"].items() if n not in shards}
    assert listed == of_photos, "errors of shards are told apart"
    assert re.search(r"^shards +8 complete, 1 corrupt, 1 truncated, 1 unreadable$", told, re.M)


# Files that lie


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def replaced(table: pa.Table, column: str, values: list) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(column), pa.array(values, pa.string()))


def edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**document(path), **fields}))


def swap_status(table: pa.Table) -> pa.Table:
    statuses = table["status"].to_pylist()
    at = statuses.index("duplicate_key")
    return replaced(table, "status", [*statuses[:at], "broken_image", *statuses[at + 1 :]])


PREDICTIONS = "predictions/part-val-000.parquet"
ERRORS = "errors/part-bad-0.parquet"
VAL, BAD, CUT = (f"_manifest/{name}.json" for name in ("val-000", "bad-0", "cut-0"))

LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a prediction removed": (
        lambda out: rewrite(part(out, PREDICTIONS), lambda table: table[1:]),
        f"{PREDICTIONS} holds 10 rows, the manifest says 11 rows",
    ),
    "a prediction doubled": (
        lambda out: rewrite(part(out, PREDICTIONS), lambda t: pa.concat_tables([t, t[:1]])),
        f"{PREDICTIONS} holds 12 rows, the manifest says 11 rows",
    ),
    "an error removed": (
        lambda out: rewrite(part(out, ERRORS), lambda table: table[:-1]),
        ERRORS + " holds {less} rows, {less} of photos, the manifest says {n} rows, {n} of photos",
    ),
    "an error of another status": (
        lambda out: rewrite(part(out, ERRORS), swap_status),
        "the manifest says 1 duplicate_key, 1 empty_file",
    ),
    "an error without its key": (
        lambda out: rewrite(
            part(out, ERRORS), lambda t: replaced(t, "key", [None, *t["key"].to_pylist()[1:]])
        ),
        "holds {n} rows, {less} of photos, the manifest says {n} rows, {n} of photos",
    ),
    "an error of a shard removed": (
        lambda out: rewrite(
            part(out, "errors/part-cut-0.parquet"), lambda t: t.filter(pc.is_valid(t["key"]))
        ),
        "errors/part-cut-0.parquet holds 1 rows, 1 of photos, the manifest says 2 rows",
    ),
    "predictions deleted": (lambda out: part(out, PREDICTIONS).unlink(), "cannot be read"),
    "errors deleted": (lambda out: part(out, ERRORS).unlink(), "cannot be read"),
    "predictions cut": (
        lambda out: part(out, PREDICTIONS).write_bytes(part(out, PREDICTIONS).read_bytes()[:-20]),
        "cannot be read",
    ),
    "errors emptied": (lambda out: part(out, ERRORS).write_bytes(b""), "cannot be read"),
    "more photos": (
        lambda out: edited(part(out, VAL), photos=12),
        "12 photos are not 11 predictions",
    ),
    "more predictions": (
        lambda out: edited(part(out, VAL), photos=12, predictions=12),
        "holds 11 rows, the manifest says 12 rows",
    ),
    "fewer errors": (
        lambda out: edited(
            part(out, BAD),
            **{name: document(part(out, BAD))[name] - 1 for name in ("photos", "photo_errors")},
        ),
        "holds {n} rows, {n} of photos, the manifest says {less} rows, {less} of photos",
    ),
    "errors of another kind": (
        lambda out: edited(part(out, BAD), errors_by_status={"broken_image": 7}),
        "the manifest says 7 broken_image",
    ),
    "a cut tar called complete": (
        lambda out: edited(part(out, CUT), tar_status="complete"),
        "holds of the shard 1 shard_truncated, the manifest says of the shard none",
    ),
    "a manifest with a field less": (
        lambda out: edited(part(out, VAL), photos=None),
        f"{VAL} is not what was written there",
    ),
    "a manifest of another shard": (
        lambda out: shutil.copy(part(out, BAD), part(out, VAL)),
        f"{VAL} is not what was written there",
    ),
    "a manifest that is no JSON": (
        lambda out: part(out, VAL).write_bytes(part(out, VAL).read_bytes()[:-9]),
        f"{VAL} is not what was written there",
    ),
    "a manifest deleted": (lambda out: part(out, VAL).unlink(), f"{PREDICTIONS} has no manifest"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_named(
    archive: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture, lie: str
) -> None:
    mine = tmp_path / "out"
    shutil.copytree(output, mine)
    tell, message = LIES[lie]
    bad = document(part(output, BAD))["photo_errors"]
    message = message.format(n=bad, less=bad - 1)
    tell(mine)
    assert geotag.main(["--summarise", "--output", str(mine)], load=FakeLoader()) == 1
    told = capsys.readouterr()
    assert "COUNT MISMATCH: " in told.out and message in plain(told.out)
    assert "the counts do not add up" in told.err
    assert any(message in plain(said) for said in document(mine / "summary.json")["mismatches"])


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize("lie", [lie for lie in LIES if "deleted" in lie or "a manifest" in lie])
def test_what_is_missing_is_done_again(
    archive: Path, output: Path, tmp_path: Path, lie: str
) -> None:
    mine = tmp_path / "out"
    shutil.copytree(output, mine)
    LIES[lie][0](mine)
    if "deleted" not in lie:  # which no listing tells: the summary does, and what to do
        assert run(archive, mine) == 1
        part(mine, VAL).unlink()
    assert run(archive, mine) == 0
    before, now = tree(output), tree(mine)
    assert sorted(before) == sorted(now)
    assert all(now[name] == data for name, data in before.items() if name != "summary.json")


@pytest.mark.usefixtures("plain_loop")
def test_a_shard_of_another_run_keeps_its_files_whatever_its_manifest_says(
    archive: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine = tmp_path / "out"
    shutil.copytree(output, mine)
    LIES["a manifest that is no JSON"][0](mine)
    assert run(archive, mine, shards="bad-*.tar") == 1
    assert f"{VAL} is not what was written there" in plain(capsys.readouterr().out)
    assert part(mine, PREDICTIONS).read_bytes() == part(output, PREDICTIONS).read_bytes()


@pytest.mark.usefixtures("plain_loop")
def test_what_lies_is_named_by_the_same_command_too(
    archive: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine = tmp_path / "out"
    shutil.copytree(output, mine)
    for lie in ("a prediction removed", "an error of another status"):
        LIES[lie][0](mine)
    assert run(archive, mine) == 1
    told = capsys.readouterr()
    assert told.out.count("COUNT MISMATCH: ") == 2 and "the counts do not add up" in told.err


@pytest.mark.usefixtures("plain_loop")
def test_a_part_that_goes_while_the_job_runs(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = geotag.run_digest

    def run_digest(output: Output) -> RunDigest:
        part(tmp_path / "out", PREDICTIONS).unlink()
        return real(output)

    monkeypatch.setattr(geotag, "run_digest", run_digest)
    assert run(archive, tmp_path / "out", shards="val-*.tar") == 1
    assert f"{PREDICTIONS} cannot be read" in plain(capsys.readouterr().out)
