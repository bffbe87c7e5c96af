"""Capture times and cameras reach the rows from photos, documents and tables."""

from __future__ import annotations

import json
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from locdiffusion.photos.capture_time import Camera
from pipelines.geotag import command
from pipelines.geotag.pages.rows import map_rows
from pipelines.geotag.sample import Sample, rows_of_shard
from schemas.geotags import CAPTURE_COLUMNS
from support.archives import write_tar
from support.fake_geotagger import FakeLoader
from support.tiff_blocks import exif_texts, jpeg

NOON = datetime(2024, 5, 17, 12, 30, 5)
WHEN = b"2024:05:17 12:30:05\0"
ZONED = exif_texts((0x9003, WHEN), (0x9011, b"+05:45\0"), first=((0x0110, b"X\0"),))
UTC = NOON - timedelta(hours=2)
TAKEOUT = {"title": "late.jpg", "photoTakenTime": {"timestamp": "1715941805"}}
MEMBERS = [
    ("zoned.jpg", jpeg(ZONED)),
    ("local.jpg", jpeg(exif_texts((0x9003, WHEN)))),
    ("late.jpg", jpeg()),
    ("unset.jpg", jpeg(exif_texts((0x9003, b"1980:01:01 00:00:23\0")))),
    ("corrected.jpg", jpeg(ZONED)),
    # Documents behind all photos, as in an export.
    ("corrected.json", b'{"captured_at": "2024-05-18T12:30:05Z"}'),
    ("late.jpg.supplemental-metadata.json", json.dumps(TAKEOUT).encode()),
]
CAMERA = Camera(model="X").id
WANTED = {
    "zoned": (NOON, 345, "exif_original", CAMERA),
    "local": (NOON, None, "exif_original", None),
    "late": (UTC, 0, "takeout", None),
    "unset": (None, None, None, None),
    "corrected": (NOON + timedelta(days=1), 0, "json", CAMERA),
}


def found(output: Path, layer: str = "predictions") -> dict[str, tuple[Any, ...]]:
    rows = pq.read_table(output / layer).to_pylist()
    return {
        row["key"].removesuffix(".jpg"): tuple(row[name] for name in CAPTURE_COLUMNS)
        for row in rows
    }


def geotag(source: Path, output: Path, *flags: str) -> Path:
    options = ["--input", str(source), "--output", str(output), *flags]
    assert command.main(options, load=FakeLoader()) == 0
    return output


@pytest.mark.parametrize("kind", ["tar", "zip", "folder"])
def test_the_same_times_from_tar_zip_and_folder(kind: str, tmp_path: Path, no_pages: None) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    source = {"tar": photos / "s.tar", "zip": photos / "s.zip", "folder": photos}[kind]
    if kind == "folder":
        for name, data in MEMBERS:
            (photos / name).write_bytes(data)
    elif kind == "tar":
        write_tar(source, MEMBERS)
    else:
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in MEMBERS:
                archive.writestr(name, data)
    assert found(geotag(source, tmp_path / "out")) == WANTED


def test_embeddings_keep_the_times_and_no_positions_the_zones(
    tmp_path: Path, no_pages: None
) -> None:
    source = write_tar(tmp_path / "s.tar", MEMBERS)
    first = geotag(source, tmp_path / "first", "--embeddings")
    assert found(first, "embeddings") == WANTED
    assert found(geotag(first, tmp_path / "second", "--from-embeddings")) == WANTED
    without = geotag(source, tmp_path / "third", "--embeddings", "--no-positions")
    for layer in ("predictions", "embeddings"):
        rows = found(without, layer)
        assert all(row[1] is None for row in rows.values())
        assert rows["zoned"] == (NOON, None, "exif_original", CAMERA)


def test_a_table_tells_the_time(tmp_path: Path, no_pages: None) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(jpeg(ZONED))
    table = tmp_path / "t.csv"
    table.write_text("path,captured_at\na.jpg,2024-05-18T12:30:05\nb.jpg,\nc.jpg,1980-01-01\n")
    rows = found(geotag(table, tmp_path / "out"))
    assert rows["a"] == (NOON + timedelta(days=1), None, "table", CAMERA)
    assert rows["b"] == rows["c"] == WANTED["zoned"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["not_understood"] == 1


def test_pages_have_the_clock_and_older_files_none(tmp_path: Path, no_pages: None) -> None:
    output = geotag(write_tar(tmp_path / "s.tar", MEMBERS), tmp_path / "out")
    table = pq.read_table(next((output / "predictions").iterdir()))
    for rows, known in ((table, 4), (table.drop_columns(list(CAPTURE_COLUMNS)), 0)):
        sample = Sample()
        sample.add({"s": rows_of_shard(rows)})
        numbers = map_rows(sample, 9).numbers
        assert sum(numbers["captured_at"] == numbers["captured_at"]) == known
        assert sum(numbers["captured_utc_offset_min"] >= 0) == (3 if known else 0)
    clocks = dict(zip(table["key"].to_pylist(), table["captured_at"].to_pylist(), strict=True))
    assert clocks["local"] == NOON
