"""Folders of photos: the rows of a tar, nothing lost, and only what changed is done again."""

import json
import os
from pathlib import Path

import geopandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locdiffusion.photos.folder import GROUP_MOST, PhotoFile, find_photos, group_photos
from locdiffusion.photos.listing import list_shards
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command as geotag
from support.archives import photo, truth, write_tar
from support.fake_geotagger import FakeLoader


def run(*inputs, output: Path, load=None, more=()) -> int:
    arguments = ["--input", *map(str, inputs), "--output", str(output), *more]
    return geotag.main(arguments, load=load or FakeLoader())


def fill(folder: Path, count: int = 7) -> dict[str, bytes]:
    """Photos in folders and sub-folders; every second one with its truth."""
    files = {}
    for index in range(count):
        name = f"{'sub/deep/' if index % 3 == 0 else ''}IMG.{index}.{['jpg', 'PNG'][index % 2]}"
        files[name] = photo(index, kind=["JPEG", "PNG"][index % 2])
        if index % 2 == 0:
            files[name.rpartition(".")[0] + ".json"] = truth(index, 2 * index)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


def rows(output: Path, folder: str = "predictions"):
    table = pq.read_table(output / folder)
    return table.to_pylist()


def test_folder_gives_the_rows_of_the_same_photos_in_a_tar(tmp_path):
    files = fill(tmp_path / "photos")
    assert run(tmp_path / "photos", output=tmp_path / "a") == geotag.DONE
    # The fake's answers depend on the key, so the tar's keys must be those of the folder.
    members, kinds = [], {"jpg": "jpg", "PNG": "png"}
    renamed = {}
    for index, (name, data) in enumerate(sorted(files.items())):
        stem, _, kind = name.rpartition(".")
        if kind == "json":
            continue
        renamed[f"{index:03d}"] = name
        members.append((f"{index:03d}.{kinds[kind]}", data))
        if stem + ".json" in files:
            members.append((f"{index:03d}.json", files[stem + ".json"]))
    write_tar(tmp_path / "t.tar", members)
    assert run(tmp_path / "t.tar", output=tmp_path / "b") == geotag.DONE
    ours = {row["key"]: row for row in rows(tmp_path / "a")}
    tars = {renamed[row["key"]]: row for row in rows(tmp_path / "b")}
    assert ours.keys() == tars.keys() == {name for name in files if not name.endswith("json")}
    for key, row in ours.items():
        for column in ("truth_latitude", "truth_longitude", "exif_latitude", "model_id"):
            assert row[column] == tars[key][column]
        assert row["latitude"] == pytest.approx(tars[key]["latitude"], abs=2.0)  # noise of the key
    assert len(geopandas.read_parquet(tmp_path / "a" / "predictions")) == 7


def test_every_photo_is_one_row_whatever_is_wrong_with_it(tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    fill(folder, 3)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"not a picture")
    (folder / "cut.jpg").write_bytes(photo(1, size=(64, 64))[:-200])
    (folder / "list.jpg").write_bytes(photo(4))
    (folder / "list.json").write_bytes(b"[1, 2]")
    (folder / "blank.jpg").write_bytes(photo(5))
    (folder / "blank.json").write_bytes(b"")
    (folder / "large.jpg").write_bytes(photo(6) + bytes(70 * 2**20))
    (folder / os.fsdecode(b"odd-\xff.jpg")).write_bytes(photo(7))
    gone = folder / "gone.jpg"
    gone.symlink_to(folder / "nowhere")
    real = geotag.list_shards

    def then_removed(*args):
        shards = real(*args)
        (folder / "IMG.1.PNG").unlink()
        return shards

    monkeypatch.setattr(geotag, "list_shards", then_removed)
    assert run(folder, output=tmp_path / "out") == 1  # some may be readable next time
    errors = {row["key"]: row["status"] for row in rows(tmp_path / "out", "errors")}
    assert errors == {
        "IMG.1.PNG": "missing_image",
        "empty.jpg": "empty_file",
        "text.png": "not_an_image",
        "cut.jpg": "incomplete_image",
        "list.jpg": "bad_metadata",
        "blank.jpg": "bad_metadata",
        "large.jpg": "too_many_bytes",
        "gone.jpg": "missing_image",
    }
    answered = {row["key"] for row in rows(tmp_path / "out")}
    assert answered == {"IMG.2.jpg", "sub/deep/IMG.0.jpg", "odd-\\xff.jpg"}


def photos_in(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.suffix in (".jpg", ".PNG"))
    return {str(path.relative_to(folder)) for path in found}


def test_resume_does_only_the_groups_that_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("locdiffusion.photos.folder.GROUP_MEAN", 3)
    folder, output = tmp_path / "photos", tmp_path / "out"
    fill(folder, 30)
    assert run(folder, output=output) == geotag.DONE
    before = {path.name: path.stat().st_mtime_ns for path in (output / "_manifest").iterdir()}
    assert len(before) > 4
    (folder / "IMG.17x.jpg").write_bytes(photo(99))
    assert run(folder, output=output) == geotag.DONE
    after = {path.name: path.stat().st_mtime_ns for path in (output / "_manifest").iterdir()}
    kept = {name for name, time in after.items() if before.get(name) == time}
    assert len(kept) >= len(before) - 1 and len(after.keys() - before.keys()) in (1, 2)
    summary = json.loads((output / "summary.json").read_text())
    assert list(summary["accuracy"]) == ["photos", "all"]  # the groups of a folder are one family
    assert {row["key"] for row in rows(output)} == photos_in(folder)
    fresh = tmp_path / "fresh"
    assert run(folder, output=fresh) == geotag.DONE
    for name in ("predictions", "errors", "_manifest"):
        ours = {path.name: path.read_bytes() for path in (output / name).iterdir()}
        assert ours == {path.name: path.read_bytes() for path in (fresh / name).iterdir()}
    for path in folder.rglob("IMG.2*"):
        path.unlink()
    assert run(folder, output=output) == geotag.DONE
    summary = json.loads((output / "summary.json").read_text())
    left = photos_in(folder)
    assert summary["photos"] == len(left) and not summary["mismatches"]
    assert {row["key"] for row in rows(output)} == left


def test_folders_tars_and_single_photos_together(tmp_path, capsys):
    fill(tmp_path / "one", 3)
    fill(tmp_path / "two" / "one", 3)
    write_tar(tmp_path / "t.tar", [("a.jpg", photo(8))])
    (tmp_path / "lone.jpg").write_bytes(photo(9))
    (tmp_path / "one" / "film.mp4").write_bytes(b"film")
    (tmp_path / "one" / "._IMG.jpg").write_bytes(b"hidden")
    inputs = [tmp_path / name for name in ("one", "two/one", "one/sub", "t.tar", "lone.jpg")]
    assert run(*inputs, output=tmp_path / "out") == geotag.DONE
    assert "left out: 1 .mp4" in capsys.readouterr().err
    found = sorted((row["shard"].split("-")[0], row["key"]) for row in rows(tmp_path / "out"))
    photos = ["IMG.1.PNG", "IMG.2.jpg", "sub/deep/IMG.0.jpg"]
    lone = tmp_path.name.split("-")[0]
    assert found == sorted([("one", key) for key in photos] * 2 + [("t", "a"), (lone, "lone.jpg")])


def test_mistakes_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no photo lies in the directory .* found nothing"):
        list_shards([str(tmp_path / "empty")])
    (tmp_path / "empty" / "film.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"found 1 \.mp4"):
        list_shards([str(tmp_path / "empty")])
    write_tar(tmp_path / "mixed" / "a.tar", [("a.jpg", photo(1))])
    (tmp_path / "mixed" / "b.jpg").write_bytes(photo(2))
    with pytest.raises(DataError, match=r"1 tar shards and 1 photos; pass '.*/\*\.tar'"):
        list_shards([str(tmp_path / "mixed")])


@given(st.sets(st.text("ab./", min_size=1, max_size=12), max_size=60))
def test_groups_hold_every_photo_once_and_in_order(keys):
    photos = [PhotoFile(key, f"/x/{key}", len(key)) for key in sorted(keys)]
    assert [photo for group in group_photos(photos) for photo in group] == photos


def test_groups_are_stable_and_bounded():
    photos = [PhotoFile(f"{index:06d}.jpg", "", 1) for index in range(20_000)]
    groups = set(group_photos(photos))
    assert max(map(len, groups)) <= GROUP_MOST and 40 < len(groups) < 160
    changed = set(group_photos([*photos[:7000], PhotoFile("006999x.jpg", "", 1), *photos[7000:]]))
    assert len(changed - groups) <= 2


def test_sorting_out_files():
    files = {
        "/p/a.JPG": 1,
        "/p/a.json": 2,
        "/p/b.txt": 3,
        "/p/.hidden/c.jpg": 4,
        "/p/s/.d.jpg": 5,
        "/p/lonely.json": 6,
        "/p/noextension": 7,
    }
    photos, others = find_photos(files, "/p")
    assert photos == [PhotoFile("a.JPG", "/p/a.JPG", 1, "/p/a.json", 2)]
    assert others == {".txt": 1, ".json": 1, ".": 1}


def test_heic_is_read_upright_with_its_position(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    picture = Image.new("RGB", (64, 32), (200, 30, 30))
    exif = picture.getexif()
    gps = exif.get_ifd(0x8825)
    gps.update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    pillow_heif.from_pillow(picture).save(tmp_path / "a.heic", exif=exif.tobytes())
    image, found = open_image((tmp_path / "a.heic").read_bytes())
    assert image.format == "HEIF" and image.size == (64, 32)
    assert image.convert("RGB").getpixel((5, 5))[0] > 150
    assert found.position is not None and found.position.latitude == pytest.approx(52.5)


def test_heic_without_its_reader_names_the_remedy(monkeypatch):
    from locdiffusion.photos import image_formats
    from locdiffusion.photos.photo import PhotoError

    monkeypatch.setattr(image_formats.importlib, "import_module", _missing)
    image_formats.missing_readers.cache_clear()
    try:
        with pytest.raises(PhotoError, match="pip install pi-heif"):
            open_image(b"\0\0\0\x18ftypheic" + bytes(100))
    finally:
        monkeypatch.undo()
        image_formats.missing_readers.cache_clear()


def _missing(name):
    raise ImportError(name)
