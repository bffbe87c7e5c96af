"""Known positions reach the rows from EXIF, XMP and documents, wherever those stand."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.geotag import command
from support.archives import write_tar
from support.fake_geotagger import FakeLoader
from support.tiff_blocks import berlin, gps_block, jpeg, rationals, xmp_packet

NO_SIGN = gps_block((2, *rationals((33, 1), (30, 1))), (4, *rationals((151, 1), (0, 1))))
HERE = {"latitude": 52.5, "longitude": 13.25}
MEMBERS = [
    ("exif.jpg", jpeg(berlin())),
    ("xmp.jpg", jpeg(xmp_packet("52,30N", "13,15E"))),
    ("ours.jpg", jpeg(berlin(b"LocDiffusion m, estimated from the picture"))),
    ("no_sign.jpg", jpeg(NO_SIGN)),
    ("nothing.jpg", jpeg()),
    # Documents behind all photos, as in an export.
    ("ours.jpg.json", json.dumps({"geoData": HERE}).encode()),
    (
        "nothing.jpg.supplemental-metadata.json",
        json.dumps({"geoData": {"latitude": 0.0, "longitude": 0.0}, "geoDataExif": HERE}).encode(),
    ),
    ("exif.json", b"[1, 2]"),
    ("xmp.xmp", xmp_packet("1,0N", "2,0E")),
]
WANTED = {
    "exif": (52.5, "exif", None, None),
    "xmp": (52.5, "xmp", 1.0, "xmp"),
    "ours": (None, "estimate", None, "estimate"),
    "no_sign": (None, None, None, None),
    "nothing": (None, None, 52.5, "takeout"),
}
COLUMNS = ("exif_latitude", "exif_source", "truth_latitude", "truth_source")


@pytest.mark.parametrize("packed", [True, False])
def test_the_same_rows_from_a_tar_and_a_folder(
    packed: bool, tmp_path: Path, no_pages: None
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    if packed:
        write_tar(photos / "s.tar", MEMBERS)
    else:
        for name, data in MEMBERS:
            (photos / name).write_bytes(data)
    source, output = photos / "s.tar" if packed else photos, tmp_path / "out"
    assert command.main(["--input", str(source), "--output", str(output)], load=FakeLoader()) == 0
    rows = pq.read_table(output / "predictions").to_pylist()
    found = {row["key"].removesuffix(".jpg"): tuple(row[c] for c in COLUMNS) for row in rows}
    assert found == WANTED
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["estimates"], summary["not_understood"]) == (1, 1)
    (told,) = summary["documents"]
    assert told["source"] == str(source) and told["message"].startswith("exif.json: ")
