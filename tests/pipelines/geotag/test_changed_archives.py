"""What changed between two runs is done again, and exactly that; what is damaged is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from support.archives import photo, tar_bytes, truth
from support.outputs import tree
from support.plain_run import Outcome, geotagged
from support.user_files import File, Kind, number_of, photo_number, write_folder, write_zip


def with_gps(degrees: float, index: int = 1) -> bytes:
    """A photo with a position of the camera, of the same size for every position."""
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLongitudeRef] = "N", "E"
    gps[ExifTags.GPS.GPSLatitude] = (degrees, 30.0, 0.0)
    gps[ExifTags.GPS.GPSLongitude] = (10.0, 0.0, 0.0)
    return photo(index, exif=exif)


def latitudes(outcome: Outcome) -> dict[str, tuple[float | None, float | None]]:
    return {
        row["key"].partition(".")[0]: (row["exif_latitude"], row["truth_latitude"])
        for row in outcome.predictions
    }


def replaced(path: Path, data: bytes) -> None:
    """Writes other content of the same size, a moment later, as an editor does."""
    before = path.stat()
    assert len(data) == before.st_size, "else the size tells"
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def as_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        place = path / name
        if not place.exists():
            write_folder(path, [File(name, Kind.PHOTO, data=data)])
        elif place.read_bytes() != data:
            replaced(place, data)
    return path


def as_tar(path: Path, members: dict[str, bytes]) -> Path:
    tar, data = path.with_suffix(".tar"), tar_bytes(members.items())
    replaced(tar, data) if tar.exists() else tar.write_bytes(data)
    return tar


def as_zip(path: Path, members: dict[str, bytes]) -> Path:
    archive = path.with_suffix(".zip")
    before = archive.stat() if archive.exists() else None
    write_zip(archive, [File(name, Kind.PHOTO, data=data) for name, data in members.items()])
    if before:
        os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    return archive


CHANGES = {
    "position of the camera": ("a.jpg", with_gps(50.0), with_gps(51.0)),
    "document": ("a.json", truth(10.0), truth(11.0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pack", [as_folder, as_tar, as_zip])
def test_a_correction_that_keeps_the_size_is_seen(
    change: str, pack: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    """A position corrected in place: the file is as large as before, a tar as many records."""
    name, before, after = CHANGES[change]
    members = {"a.jpg": with_gps(50.0), "a.json": truth(10.0), "b.jpg": photo(2)}
    source = pack(tmp_path / "in", members | {name: before})
    first = geotagged(tmp_path / "out", source)
    assert latitudes(first) == {"a": (50.5, 10.0), "b": (None, None)}
    files = tree(tmp_path / "out")
    unchanged = geotagged(tmp_path / "out", source)
    assert "1 shard kept from before" in unchanged.console
    parts = {name: data for name, data in files.items() if "part-" in name}
    assert parts.items() <= tree(tmp_path / "out").items()
    pack(tmp_path / "in", members | {name: after})
    second = geotagged(tmp_path / "out", source)
    wanted = (51.5, 10.0) if name == "a.jpg" else (50.5, 11.0)
    assert latitudes(second) == {"a": wanted, "b": (None, None)}
    assert second.status == 0 and second.summary["photos"] == 2


def test_a_photo_that_is_replaced_by_one_of_its_size_is_seen(tmp_path: Path) -> None:
    first, second = photo_number(3), photo_number(4)
    size = max(len(first), len(second))
    root = write_folder(tmp_path / "in", [File("a.jpg", Kind.PHOTO, data=first.ljust(size, b"\0"))])
    geotagged(tmp_path / "out", root)
    replaced(root / "a.jpg", second.ljust(size, b"\0"))
    (row,) = geotagged(tmp_path / "out", root).predictions
    assert number_of(row["latitude"], row["longitude"]) == 4


def test_a_document_that_comes_later_or_goes_is_seen(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in", [File("a.jpg", Kind.PHOTO, data=photo(1))])
    assert geotagged(tmp_path / "out", root).truths == {"a.jpg": None}
    (root / "a.jpg.json").write_bytes(truth(3.0, 4.0))
    assert geotagged(tmp_path / "out", root).truths == {"a.jpg": (3.0, 4.0)}
    (root / "a.jpg.json").unlink()
    assert geotagged(tmp_path / "out", root).truths == {"a.jpg": None}


def test_damaged_shards_are_named_everywhere_and_sums_are_right(tmp_path: Path) -> None:
    """Half of the shards are cut: exit status 1, each by its name, numbers that add up."""
    for index in range(6):
        data = tar_bytes([(f"{index}-{n}.jpg", photo(n)) for n in range(4)])
        (tmp_path / f"s{index}.tar").write_bytes(data[: 2000 if index % 2 else None])
    outcome = geotagged(tmp_path / "out", tmp_path / "*.tar")
    assert outcome.status == 1
    for index in range(6):
        named = f"s{index}" in outcome.console.partition("kept from before")[2]
        assert named == bool(index % 2), outcome.console
    by_status, summary = outcome.summary["errors_by_status"], outcome.summary
    of_photos = {name: n for name, n in by_status.items() if not name.startswith("shard_")}
    assert summary["photo_errors"] == sum(of_photos.values())
    assert summary["photos"] == summary["predictions"] + summary["photo_errors"]
    assert by_status["shard_truncated"] == 3 == sum(row["key"] is None for row in outcome.errors)
    again = geotagged(tmp_path / "out", tmp_path / "*.tar")
    assert again.status == 1 and again.summary["photos"] == summary["photos"]
