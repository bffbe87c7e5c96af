"""Geotags in EXIF: read back by Pillow and by the pipeline, all else in the file untouched."""

import errno
import io
import json
import os
import struct
import tarfile
import zipfile
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from locdiffusion.photos.coordinates import Source, estimation_method
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.positions import own_position
from locdiffusion.photos.tiff import TiffError
from pipelines.geotag import command as geotag
from pipelines.write_exif import command as write_exif
from pipelines.write_exif.exif import Position, with_position
from pipelines.write_exif.jpeg import JpegError, UnsafeError
from support.archives import photo, write_tar
from support.fake_geotagger import FakeLoader
from support.gps_photos import Form, packet
from support.outputs import plain

pytestmark = pytest.mark.usefixtures("no_pages", "plain_loop")

HERE = Position(-33.8568, 151.2153, 12.5, "LocDiffusion test-1, estimated", "within 12 km")


def with_exif(order: str = "<", maker_note: bytes = b"MAKER\0NOTE" * 9, gps: bool = False) -> bytes:
    """A JPEG whose EXIF has a maker note, a thumbnail directory and, if wanted, a GPS time."""
    image = Image.new("RGB", (40, 30), (90, 120, 30))
    exif = image.getexif()
    exif.endian = order
    exif[0x010F], exif[0x0112] = "Maker", 1
    exif.get_ifd(0x8769)[0x927C] = maker_note
    if gps:
        exif.get_ifd(0x8825)[29] = "2020:01:02"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def after_metadata(jpeg: bytes) -> bytes:
    """Everything behind the EXIF segment, or behind the start where there is none."""
    at = jpeg.find(b"Exif\0\0")
    if at < 0:
        return jpeg[2:]
    (length,) = struct.unpack(">H", jpeg[at - 2 : at])
    return jpeg[at - 2 + length :]


def tiff_block(jpeg: bytes) -> bytes:
    at = jpeg.find(b"Exif\0\0")
    (length,) = struct.unpack(">H", jpeg[at - 2 : at])
    return jpeg[at + 6 : at - 2 + length]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("gps", [False, True])
def test_position_is_read_back_and_the_rest_untouched(order, gps):
    before = with_exif(order, gps=gps)
    after = with_position(before, HERE)
    assert after_metadata(after) == after_metadata(before)
    picture, found = open_image(after)
    position = found.position
    assert (position.latitude, position.longitude) == pytest.approx((-33.8568, 151.2153), abs=1e-7)
    assert picture.tobytes() == open_image(before)[0].tobytes()
    exif = picture.getexif()
    tags = exif.get_ifd(0x8825)
    assert exif[0x010F] == "Maker" and exif.get_ifd(0x8769)[0x927C] == b"MAKER\0NOTE" * 9
    assert tags[31] == pytest.approx(12_500) and b"test-1" in tags[27] and b"12 km" in tags[28]
    assert tags.get(29) == ("2020:01:02" if gps else None)
    # The old block is still there to the byte, so offsets inside maker notes hold.
    assert tiff_block(before)[8:] in after


def test_file_without_exif_and_second_writing():
    bare = photo(1)
    once = with_position(bare, HERE)
    assert once.startswith(b"\xff\xd8\xff\xe0") and bare[20:] in once  # JFIF stays first
    there = Position(51.0, -0.5, 1.0, "again", "")
    position = open_image(with_position(once, there))[1].position
    assert (position.latitude, position.longitude) == pytest.approx((51.0, -0.5))


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_any_position_survives(latitude, longitude):
    found = open_image(with_position(photo(2), Position(latitude, longitude, 1.0, "m", "n")))[
        1
    ].position
    if found is None:  # cameras write (0, 0) when they have no fix
        assert abs(latitude) < 1e-7 and abs(longitude) < 1e-7
    else:
        assert found.latitude == pytest.approx(latitude, abs=2e-8)
        assert found.longitude == pytest.approx(longitude, abs=2e-8)


@given(st.data())
def test_broken_metadata_is_refused_or_left_readable(data):
    jpeg = bytearray(with_exif())
    start = jpeg.find(b"Exif\0\0") + 6
    for _ in range(data.draw(st.integers(1, 6))):
        jpeg[start + data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    try:
        after = with_position(bytes(jpeg), HERE)
    except (TiffError, UnsafeError):
        return
    assert after_metadata(after) == after_metadata(bytes(jpeg))


def test_no_room_is_told():
    with pytest.raises(UnsafeError, match="limit 65,533"):
        with_position(with_exif(maker_note=bytes(65_300)), HERE)
    with pytest.raises(JpegError, match="no JPEG"):
        with_position(photo(1, kind="PNG"), HERE)


def geotagged(tmp_path: Path, count: int = 12) -> tuple[Path, Path]:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for index in range(count):
        path = photos / ("deep" if index % 2 else "") / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(index))
    (photos / "other.png").write_bytes(photo(50, kind="PNG"))
    (photos / "broken.jpg").write_bytes(b"nothing")
    (photos / "own.jpg").write_bytes(with_position(photo(51), HERE))
    assert geotag.main(["--input", str(photos), "--output", str(out)], FakeLoader()) == 0
    return photos, out


def test_copies_above_a_certainty(tmp_path, capsys):
    photos, out = geotagged(tmp_path)
    originals = {path: path.read_bytes() for path in photos.rglob("*.*g")}
    rows = {row["key"]: row for row in pq.read_table(out / "predictions").to_pylist()}
    limit = sorted(row["radius_90_km"] for row in rows.values())[7]
    copies = tmp_path / "copies"
    arguments = ["--input", str(photos), "--predictions", str(out), "--output", str(copies)]
    assert write_exif.main([*arguments, "--max-radius-90-km", str(limit)]) == 0
    wanted = {
        key
        for key, row in rows.items()
        if row["radius_90_km"] <= limit and key.endswith("jpg") and key != "own.jpg"
    }
    assert wanted == {str(path.relative_to(copies)) for path in copies.rglob("*.jpg")}
    for key in wanted:
        position = open_image((copies / key).read_bytes())[1].position
        assert position.latitude == pytest.approx(rows[key]["latitude"], abs=1e-7)
    assert originals == {path: path.read_bytes() for path in photos.rglob("*.*g")}
    told = json.loads((copies / "write_exif.json").read_text())
    assert told["photos"] == 15 == len(told["fates"])
    assert told["written"] == len(wanted) and told["has no prediction"] == 1
    assert "written" in capsys.readouterr().out


def test_tars_and_other_limits(tmp_path):
    write_tar(tmp_path / "t.tar", [("a/x.jpg", photo(1)), ("../y.jpg", photo(2))])
    out, copies = tmp_path / "out", tmp_path / "copies"
    tar = str(tmp_path / "t.tar")
    assert geotag.main(["--input", tar, "--output", str(out)], FakeLoader()) == 0
    arguments = ["--input", tar, "--predictions", str(out)]
    arguments += ["--output", str(copies), "--min-prob_200km", "0"]
    assert write_exif.main([*arguments, "--dry-run"]) == 0 and not copies.exists()
    assert write_exif.main(arguments) == 0
    assert sorted(plain(str(p.relative_to(copies))) for p in copies.rglob("*.jpg")) == [
        "t/a/x.jpg",
        "t/y.jpg",  # no member is written outside the folder, whatever its name says
    ]
    assert write_exif.main([*arguments[:-1], "1"]) == 1  # nothing was certain enough


def test_mistakes(tmp_path, capsys):
    photos, out = geotagged(tmp_path, 1)
    base = ["--input", str(photos), "--predictions", str(out), "--output"]
    assert write_exif.main([*base, str(tmp_path / "c")]) == 2
    assert "how certain" in capsys.readouterr().err
    for inside in (photos, photos / "copies", tmp_path):
        assert write_exif.main([*base, str(inside), "--min-prob_25km", "0"]) == 2
        assert "folder of their own" in capsys.readouterr().err
    wrong = ["--input", str(photos), "--predictions", str(photos), "--output", str(tmp_path / "c")]
    assert write_exif.main([*wrong, "--min-prob_25km", "0"]) == 2
    assert "run.json" in capsys.readouterr().err


def fates_in(copies: Path) -> dict[str, str]:
    told = json.loads((copies / "write_exif.json").read_text())
    assert told["photos"] == sum(n for key, n in told.items() if key not in ("photos", "fates"))
    return {line.get("key", line.get("copy")): line["fate"] for line in told["fates"]}


def test_the_list_tells_the_fate_of_every_photo(tmp_path, capsys):
    photos, out = geotagged(tmp_path, 3)
    (photos / "beside.jpg").write_bytes(photo(60))
    (photos / "beside.json").write_text('{"latitude": 52.5, "longitude": 13.4}')
    assert geotag.main(["--input", str(photos), "--output", str(out)], FakeLoader()) == 0
    copies = tmp_path / "copies"
    arguments = ["--input", str(photos), "--predictions", str(out), "--output", str(copies)]
    arguments += ["--min-prob-25km", "0"]
    os.utime(photos / "0.jpg", ns=(1, 994_000_000_000_000_000))
    (photos / "2.jpg").chmod(0o600)
    capsys.readouterr()
    assert write_exif.main(arguments) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"7 photos: 3 have a geotag in {copies}; 4 have none: 1 has a position of its own, "
        "1 has an earlier estimate, 1 has no prediction, 1 is no JPEG"
    )
    assert fates_in(copies) == {
        "0.jpg": "written",
        "2.jpg": "written",
        "deep/1.jpg": "written",
        "beside.jpg": "has a position of its own",
        "own.jpg": "has an earlier estimate",
        "broken.jpg": "has no prediction",
        "other.png": "is no JPEG",
    }
    assert (copies / "0.jpg").stat().st_mtime_ns == 994_000_000_000_000_000
    assert (copies / "2.jpg").stat().st_mode & 0o777 == 0o600

    # The same again finds its own copies; with others it replaces them, but nothing that was
    # changed since.
    assert write_exif.main(arguments) == 0
    changed = (copies / "0.jpg").read_bytes() + b"a caption"
    (copies / "0.jpg").write_bytes(changed)
    (copies / "deep" / "1.jpg").unlink()
    assert write_exif.main(arguments) == 1
    assert (copies / "0.jpg").read_bytes() == changed
    assert fates_in(copies)["0.jpg"] == "another file is in the place of its copy"
    assert fates_in(copies)["deep/1.jpg"] == "written"
    assert write_exif.main([*arguments[:-1], "1"]) == 1  # nothing is certain enough now
    assert fates_in(copies)["deep/1.jpg"] == "copy of an earlier run"


def test_estimates_are_replaced_when_asked(tmp_path, capsys):
    photos, out = geotagged(tmp_path, 2)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    flags = ["--predictions", str(out), "--min-prob-25km", "0", "--output"]
    assert write_exif.main([str(photos), *flags, str(first)]) == 0
    assert geotag.main([str(first), "--output", str(tmp_path / "out2")], FakeLoader()) == 0
    flags[1] = str(tmp_path / "out2")
    assert write_exif.main([str(first), *flags, str(second)]) == 1
    assert set(fates_in(second).values()) == {"has an earlier estimate"}
    assert write_exif.main([str(first), "--replace-estimates", *flags, str(third)]) == 0
    assert set(fates_in(third).values()) == {"written"}
    assert "(2 in place of another position)" in capsys.readouterr().out
    told = json.loads((third / "write_exif.json").read_text())["fates"][0]
    assert told["replaced"] == "has an earlier estimate"


def test_a_position_that_a_person_moved_is_his_own():
    """Editors move the position and leave the tags that name the model."""
    for latitude, source in (
        (51.0, Source.ESTIMATE),
        (51.00005, Source.ESTIMATE),
        (51.1, Source.EXIF),
    ):
        method = estimation_method("tiny-1", 51.0, -0.5)
        moved = with_position(photo(1), Position(latitude, -0.5, 1.0, method, ""))
        assert own_position(moved).source is source


def test_copies_from_tars_and_zips_keep_name_and_time(tmp_path):
    tar, packed = tmp_path / "t.tar", tmp_path / "z.zip"
    with tarfile.open(tar, "w") as archive:
        for name, index in (("2019.07.14.JPG", 1), ("a/IMG.jpeg", 2), ("../IMG.jpeg", 3)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(photo(index)), 994_000_000
            archive.addfile(info, io.BytesIO(photo(index)))
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("b/IMG.jpg", (2001, 7, 14, 12, 34, 56)), photo(4))
    out, copies = str(tmp_path / "out"), tmp_path / "copies"
    assert geotag.main([str(tar), str(packed), "--output", out], FakeLoader()) == 0
    flags = ["--predictions", out, "--output", str(copies), "--min-prob-25km", "0"]
    assert write_exif.main([str(tar), str(packed), *flags]) == 0
    found = {plain(str(path.relative_to(copies))): path for path in copies.rglob("*.j*g")}
    found |= {plain(str(path.relative_to(copies))): path for path in copies.rglob("*.JPG")}
    assert set(found) == {"t/2019.07.14.JPG", "t/a/IMG.jpeg", "t/IMG.jpeg", "z/b/IMG.jpg"}
    times = {name: path.stat().st_mtime for name, path in found.items()}
    assert times.pop("z/b/IMG.jpg") == datetime(2001, 7, 14, 12, 34, 56).timestamp()
    assert set(times.values()) == {994_000_000}


def test_photos_of_two_folders_with_equal_names_are_both_kept(tmp_path):
    for name, index in (("a/x", 1), ("b/x", 2), ("c", 3)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(photo(index))
    folders = [str(tmp_path / name) for name in ("a/x", "b/x", "c")]
    out, copies = str(tmp_path / "out"), tmp_path / "copies"
    assert geotag.main([*folders, "--output", out], FakeLoader()) == 0
    flags = ["--predictions", out, "--output", str(copies), "--min-prob-25km", "0"]
    assert write_exif.main([*folders, *flags]) == 0
    assert sorted(path.parent.name for path in copies.rglob("*.jpg")) == ["c", "x", "x"]
    assert len({path.read_bytes() for path in copies.rglob("*.jpg")}) == 3


@pytest.mark.parametrize("packing", ["tar", "folder"])
def test_a_position_in_a_document_is_the_photo_s_own(tmp_path, packing):
    """Whether the document is beside the photo, or comes late as in Google Takeout."""
    takeout = json.dumps({"title": "a.jpg", "geoData": {"latitude": 52.5, "longitude": 13.4}})
    xmp = packet(Form(xmp="attribute"))
    broken = b'{"latitude": '
    members = [(f"{name}.jpg", photo(ord(name))) for name in "dabc"]
    members += [("c.json", broken), ("a.jpg.json", takeout.encode()), ("b.xmp", xmp)]
    source = str(write_tar(tmp_path / "t.tar", members))
    if packing == "folder":
        source = str(tmp_path / "folder")
        for name, content in members:
            Path(source).mkdir(exist_ok=True)
            Path(source, name).write_bytes(content)
    out, copies = str(tmp_path / "out"), tmp_path / "copies"
    assert geotag.main([source, "--output", out], FakeLoader()) == 0
    flags = ["--predictions", out, "--output", str(copies), "--min-prob-25km", "0"]
    assert write_exif.main([source, *flags]) == 0
    assert [fate for _, fate in sorted(fates_in(copies).items())] == [
        "has a position of its own",
        "has a position of its own",
        "has a document that is not understood",
        "written",
    ]
    lines = json.loads((copies / "write_exif.json").read_text())["fates"]
    assert ["c.json" in line.get("reason", "") for line in lines].count(True) == 1
    assert write_exif.main([source, "--replace-own-position", *flags]) == 0
    assert set(fates_in(copies).values()) == {"written"}


def test_exit_status_tells_of_damage(tmp_path, capsys):
    tar = write_tar(tmp_path / "t.tar", [("a.jpg", photo(1)), ("b.jpg", photo(2))])
    out, copies = tmp_path / "out", tmp_path / "copies"
    assert geotag.main([str(tar), "--output", str(out)], FakeLoader()) == 0
    flags = ["--predictions", str(out), "--output", str(copies), "--min-prob-25km", "0"]
    tar.write_bytes(tar.read_bytes()[:1600])
    for more in (["--dry-run"], []):
        assert write_exif.main([str(tar), *flags, *more]) == 1
        told = capsys.readouterr()
        assert f"not read whole: {tar}: truncated" in told.err
        assert told.out.endswith("; not read whole: 1 (see above)\n")
    [damage] = json.loads((copies / "write_exif.json").read_text())["not read whole"]
    assert str(tar) in damage
    other = write_tar(tmp_path / "other.tar", [("a.jpg", photo(1))])
    assert write_exif.main([str(other), *flags]) == 1
    assert "run `locdiffusion geotag` first" in capsys.readouterr().err


def test_the_list_is_written_when_the_command_is_stopped(tmp_path, monkeypatch):
    photos, out = geotagged(tmp_path, 4)
    copies = tmp_path / "copies"
    write = write_exif.Copies.write

    def stopped(self, place, *rest):
        if len(self.written) == 2:
            raise KeyboardInterrupt
        return write(self, place, *rest)

    monkeypatch.setattr(write_exif.Copies, "write", stopped)
    flags = ["--predictions", str(out), "--output", str(copies), "--min-prob-25km", "0"]
    assert write_exif.main([str(photos), *flags]) == 130
    assert sum(fate == "written" for fate in fates_in(copies).values()) == 2
    assert len(list(copies.rglob("*.jpg"))) == 2


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    photos, out = geotagged(tmp_path, 2)
    flags = ["--predictions", str(out), "--output", str(tmp_path / "c"), "--min-prob-25km", "0"]
    for number, told in ((errno.ENOSPC, "disk full"), (errno.EROFS, "may be written")):

        def refused(*_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "replace", refused)
        capsys.readouterr()
        assert write_exif.main([str(photos), *flags]) == 1
        assert told in capsys.readouterr().err


def test_what_geotag_left_out_is_left_out(tmp_path, capsys):
    photos, out = tmp_path / "photos", str(tmp_path / "out")
    for name in ("1.jpg", "2.jpg", "Trash/3.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(photo(int(name[-5])))
    excluded = [str(photos), "--exclude", "Trash", "--output"]
    assert geotag.main([*excluded, out], FakeLoader()) == 0
    copies = tmp_path / "copies"
    flags = [str(copies), "--predictions", out, "--min-prob-25km", "0"]
    assert write_exif.main([*excluded, *flags]) == 0
    assert fates_in(copies) == {"1.jpg": "written", "2.jpg": "written"}
    (photos / "1.jpg").write_bytes(photo(9))
    assert write_exif.main([*excluded, *flags]) == 0
    assert "was changed since it was geotagged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_is_damage(tmp_path, monkeypatch, capsys):
    photos, out = geotagged(tmp_path, 3)
    flags = ["--output", str(tmp_path / "copies"), "--predictions", str(out)]
    scandir = os.scandir

    def refusing(place):
        if os.fspath(place).endswith("deep"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    assert write_exif.main([str(photos), *flags, "--min-prob-25km", "0"]) == 1
    assert "deep" in capsys.readouterr().err


def test_pixels_are_not_decoded(tmp_path, monkeypatch):
    photos, out = geotagged(tmp_path, 2)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    flags = ["--predictions", str(out), "--output", str(tmp_path / "c"), "--min-prob-25km", "0"]
    assert write_exif.main([str(photos), *flags]) == 0
