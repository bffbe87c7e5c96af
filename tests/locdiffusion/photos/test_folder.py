"""Folders of photos: the rows of a tar, nothing lost, and only what changed is done again."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import geopandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.folder import GROUP_MOST, PhotoFile, fingerprint, group_photos
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.left_out import LeftOut
from locdiffusion.photos.listing import Shard, list_shards, photos_in, shard_stem
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.photo import open_image
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command as geotag
from schemas.samples import MAX_METADATA_BYTES, Truth
from support.archives import photo, truth, write_tar
from support.fake_geotagger import FakeLoader

pytestmark = pytest.mark.usefixtures("no_pages", "plain_loop")


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
    (folder / "text.png").write_bytes(b"not a picture")
    (folder / "large.jpg").write_bytes(photo(6) + bytes(70 * 2**20))
    (folder / os.fsdecode(b"odd-\xff.jpg")).write_bytes(photo(7))
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "copy.jpg").symlink_to("IMG.2.jpg")
    os.mkfifo(folder / "pipe.jpg")
    socket.socket(socket.AF_UNIX).bind(str(folder / "socket.jpg"))
    real = geotag.list_shards

    def then_removed(*args):
        shards = real(*args)
        (folder / "IMG.1.PNG").unlink(missing_ok=True)
        return shards

    monkeypatch.setattr(geotag, "list_shards", then_removed)
    assert run(folder, output=tmp_path / "out") == 1  # one may be readable next time
    errors = {row["key"]: row for row in rows(tmp_path / "out", "errors")}
    assert {key: row["status"] for key, row in errors.items()} == {
        "IMG.1.PNG": "missing_image",
        "text.png": "not_an_image",
        "large.jpg": "too_many_bytes",
        **dict.fromkeys(("gone.jpg", "loop.jpg", "pipe.jpg", "socket.jpg"), "missing_image"),
    }
    assert "a link to 'nowhere', where no file is" in errors["gone.jpg"]["message"]
    assert "wanted a file" in errors["pipe.jpg"]["message"]
    answered = {row["key"] for row in rows(tmp_path / "out")}
    assert answered == {"IMG.2.jpg", "copy.jpg", "sub/deep/IMG.0.jpg", "odd-\\xff.jpg"}
    assert run(folder, output=tmp_path / "out") == geotag.DONE  # what is wrong will stay so


def paths_in(folder: Path) -> set[str]:
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
    assert {row["key"] for row in rows(output)} == paths_in(folder)
    fresh = tmp_path / "fresh"
    assert run(folder, output=fresh) == geotag.DONE
    for name in ("predictions", "errors", "_manifest"):
        ours = {path.name: path.read_bytes() for path in (output / name).iterdir()}
        assert ours == {path.name: path.read_bytes() for path in (fresh / name).iterdir()}
    for path in folder.rglob("IMG.2*"):
        path.unlink()
    assert run(folder, output=output) == geotag.DONE
    summary = json.loads((output / "summary.json").read_text())
    left = paths_in(folder)
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
    assert "left out: 1 ._*, 1 .mp4" in capsys.readouterr().err
    found = sorted((row["shard"].split("-")[0], row["key"]) for row in rows(tmp_path / "out"))
    photos = ["IMG.1.PNG", "IMG.2.jpg", "sub/deep/IMG.0.jpg"]
    lone = tmp_path.name.split("-")[0]
    assert found == sorted([("one", key) for key in photos] * 2 + [("t", "a"), (lone, "lone.jpg")])


# What is found


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def keys(shards: list[Shard]) -> list[str]:
    return [photo.key for shard in shards for photo in shard.photos]


def listed(*places: object, exclude=(), follow_links=False) -> tuple[list[str], LeftOut]:
    """Keys of the photos that are listed, and what is left out."""
    left_out = LeftOut()
    shards = list_shards(map(str, places), lambda note: None, exclude, left_out, follow_links)
    assert not any(shard.problem for shard in shards)
    return keys(shards), left_out


def test_what_programs_keep_for_themselves_is_left_out_and_counted(tmp_path):
    touch(
        tmp_path,
        *("a.jpg", "d/b.JPG", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x.jpg"),
        *("#recycle/c.jpg", "d/.thumbnails/e.jpg", ".stversions/f.jpg", "d/._b.JPG"),
        *("SYNOPHOTO_THUMB_S.jpg", "d/Thumbs.db", ".DS_Store"),
    )
    photos, left_out = listed(tmp_path)
    assert photos == ["a.jpg", "d/b.JPG"] and left_out.total == 9
    assert left_out.counts == {
        **{"@eaDir/": 2, "#recycle/": 1, "hidden": 2, "._*": 1, "SYNOPHOTO_THUMB*": 1},
        **{"Thumbs.db": 1, ".DS_Store": 1},
    }


def test_a_library_of_photos_gives_its_originals_alone(tmp_path):
    library = tmp_path / "Fotos.photoslibrary"
    touch(library, "originals/0/1.jpeg", "resources/derivatives/0/1_105_c.jpeg", "Thumbnails/2.jpg")
    for place, wanted in (
        (tmp_path, "Fotos.photoslibrary/originals/0/1.jpeg"),
        (library, "originals/0/1.jpeg"),
    ):
        photos, left_out = listed(place)
        assert photos == [wanted] and left_out.total == 2
    assert listed(library / "Thumbnails")[0] == ["2.jpg"], "what is named itself is read"


def test_a_name_without_ending_is_no_photo(tmp_path):
    touch(tmp_path, "jpg", "PNG", "a.jpg")
    assert listed(tmp_path)[0] == ["a.jpg"]


def test_all_other_kinds_are_counted(tmp_path):
    endings = ["mov", "aae", "ini", "pdf", "txt", "gpx", "doc", "mp3", "wav", "html", "CR3", "nef"]
    touch(tmp_path, "a.jpg", "b.jfif", "c.jpe", "lonely.json", "x", *(f"a.{e}" for e in endings))
    photos, left_out = listed(tmp_path)
    assert photos == ["a.jpg", "b.jfif", "c.jpe"] and left_out.total == len(endings) + 2
    assert [kind for kind, _ in left_out.kinds()][:2] == [".cr3", ".nef"]


def test_an_archive_among_photos_is_left_out_and_named(tmp_path):
    touch(tmp_path, "a.jpg", "deep/er/backup.tgz", "b.7z")
    photos, left_out = listed(tmp_path)
    assert photos == ["a.jpg"] and left_out.counts == {".tgz": 1, ".7z": 1}
    assert any(name.endswith("deep/er/backup.tgz") for name in left_out.named)


def test_an_archive_among_photos_is_read_if_it_is_named_too(tmp_path):
    touch(tmp_path, "a.jpg")
    for name in ("b.tar", "c.tar"):
        write_tar(tmp_path / name, [("x.jpg", photo(1))])
    told, left_out = [], LeftOut()
    shards = list_shards([str(tmp_path), str(tmp_path / "b.tar")], told.append, (), left_out)
    assert [shard_stem(shard.id) for shard in shards] == ["b", tmp_path.name]
    assert left_out.named == [str(tmp_path / "c.tar")] and left_out.total == 1
    assert f"{tmp_path}: 1 archive beside photos not opened" in told[0]
    assert told[1] == f"{tmp_path}: 1 photo; left out: 1 .tar; by name: {tmp_path}/c.tar"


def test_a_folder_of_archives_stands_for_these(tmp_path):
    write_tar(tmp_path / "in" / "val-0.tar", [("a.jpg", photo(1))])
    write_tar(tmp_path / "in" / "deep" / "val-1.tar", [("a.jpg", photo(2))])
    touch(tmp_path / "in", "README.txt")
    shards = list_shards([str(tmp_path / "in")], lambda note: None)
    assert [shard_stem(shard.id) for shard in shards] == ["val-1", "val-0"]
    assert run(tmp_path / "in", output=tmp_path / "out") == geotag.DONE
    assert len(rows(tmp_path / "out")) == 2


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "in/a/1.jpg", "in/a/b/2.jpg", "outside/3.jpg", "outside/c/4.jpg")
    for link, place in (
        *(("in/0", "a"), ("in/a/b/up", "../.."), ("in/a/self", "."), ("outside/back", "../in")),
        *(("in/x", "../outside"), ("in/y", "../outside"), ("in/z", "../outside/c"), ("in/n", "no")),
    ):
        (tmp_path / link).symlink_to(place)
    photos, left_out = listed(tmp_path / "in", follow_links=True)
    assert photos == ["a/1.jpg", "a/b/2.jpg", "x/3.jpg", "x/c/4.jpg"]
    assert left_out.counts == {"without ending": 1}
    everywhere = (tmp_path / "in", tmp_path / "in" / "x", tmp_path)
    assert len(listed(*everywhere, follow_links=True)[0]) == 4
    photos, left_out = listed(tmp_path / "in")
    assert photos == ["a/1.jpg", "a/b/2.jpg"], "links within the folder alone are followed"
    assert left_out.counts == {"without ending": 1, "links out of the folder": 3}
    assert sorted(left_out.named) == [f"{tmp_path}/in/{name}" for name in "xyz"]


def test_what_a_run_has_written_is_never_read(tmp_path):
    fill(tmp_path / "in", 3)
    output = tmp_path / "in" / "geotags"
    assert run(tmp_path / "in", output=output) == geotag.DONE
    touch(output, "map.png", "deep/er/copy.jpg")
    photos, left_out = listed(tmp_path / "in")
    assert len(photos) == 3 and left_out.named == [str(output)]
    assert run(tmp_path / "in", output=output) == geotag.DONE
    assert len(rows(output)) == 3
    with pytest.raises(DataError, match="that this program has written"):
        list_shards([str(output)])
    assert listed(tmp_path / "in" / "IMG.1.PNG", f"{output}/*.png")[0] == ["IMG.1.PNG"]


def test_patterns_exclude_by_name_and_by_path(tmp_path):
    touch(tmp_path, "a.jpg", "a_small.jpg", "Trash/b.jpg", "2019/c.jpg", "2019/raw/d.jpg", "e.mov")
    for patterns, wanted in (
        (["Trash", "*_small.jpg"], ["2019/c.jpg", "2019/raw/d.jpg", "a.jpg"]),
        (["2019/raw/"], ["2019/c.jpg", "Trash/b.jpg", "a.jpg", "a_small.jpg"]),
        (["2019/*", "./Trash"], ["a.jpg", "a_small.jpg"]),
        (["**/b.jpg", "**/2019/"], ["a.jpg", "a_small.jpg"]),
        (["[ab].jpg"], ["2019/c.jpg", "2019/raw/d.jpg", "a_small.jpg"]),
    ):
        photos, left_out = listed(tmp_path, exclude=patterns)
        assert photos == wanted
        assert left_out.counts == {"excluded": 5 - len(wanted), ".mov": 1}
    output = tmp_path / "out"
    assert run(tmp_path / "2019", output=output, more=["--exclude", "raw", "--exclude=x"]) == 1
    assert [row["key"] for row in rows(output, "errors")] == ["c.jpg"]
    tar = write_tar(tmp_path / "t.tar", [("a/Trash/b.jpg", photo(1)), ("c.jpg", photo(2))])
    assert run(tar, output=tmp_path / "of-tar", more=["--exclude=Trash"]) == geotag.DONE
    assert [row["key"] for row in rows(tmp_path / "of-tar")] == ["c"]
    versions = [list_shards([str(tar)], exclude=one)[0].version for one in ((), ("a",), ("a", "b"))]
    assert len({*versions}) == 3


def test_documents_beside_photos_named_one_by_one(tmp_path):
    touch(tmp_path, "a.jpg", "a.json", "b.jpg", "b.jpg.supplemental-metad.json", "c.jpg", "d.mov")
    shards = list_shards([f"{tmp_path}/[ab].jpg", f"{tmp_path}/d*", f"{tmp_path}/a.json"])
    assert [(photo.key, photo.documents) for photo in shards[0].photos] == [
        ("a.jpg", ("a.json",)),
        ("b.jpg", ("b.jpg.supplemental-metad.json",)),
    ]
    whole = list_shards([str(tmp_path)], lambda note: None)
    again = list_shards([f"{tmp_path}/[abc].jpg"])
    assert whole == again, "however they are named"


# What cannot be listed


def test_a_folder_that_may_not_be_listed_is_a_shard_of_its_own(tmp_path, monkeypatch, capsys):
    touch(tmp_path / "in", "locked/b.jpg")
    (tmp_path / "in" / "a.jpg").write_bytes(photo(1))
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        good, bad = list_shards([str(tmp_path / "in")])
        assert keys([good]) == ["a.jpg"] and "locked cannot be listed (Perm" in bad.problem
        assert run(tmp_path / "in", output=tmp_path / "out") == 1
        told = capsys.readouterr()
        assert bad.id in told.err
        (row,) = rows(tmp_path / "out", "errors")
        assert row["status"] == "shard_unreadable" and row["key"] is None
        for place in ("in/locked", "in/locked/*.jpg", "in/*/*.jpg"):
            (only,) = list_shards([str(tmp_path / place)])
            assert only.problem and shard_stem(only.id) == "locked"
        with pytest.raises(DataError, match="locked cannot be listed"):
            expand_patterns([f"{tmp_path}/in/*/*.jpg"])
        with pytest.raises(DataError, match="locked cannot be listed"):
            photos_in(str(tmp_path / "in"))
    (tmp_path / "in" / "locked" / "b.jpg").write_bytes(photo(2))
    assert run(tmp_path / "in", output=tmp_path / "out") == geotag.DONE
    assert {row["key"] for row in rows(tmp_path / "out")} == {"a.jpg", "locked/b.jpg"}


def test_as_a_user_without_rights(tmp_path):
    """The same with real rights, where this process can give its own away."""
    touch(tmp_path / "in", "a.jpg", "locked/b.jpg", "closed/c.jpg", "d.jpg")
    for name, mode in (("locked", 0), ("closed", 0o444)):
        (tmp_path / "in" / name).chmod(mode)
    (tmp_path / "in" / "link").symlink_to("closed/folder")
    place = str(tmp_path / "in")
    script = f"""
import os, braceexpand
from locdiffusion.photos.listing import list_shards
if os.geteuid() == 0:
    os.seteuid(65534)
shards = list_shards([{place!r}], lambda note: None)
problems = [shard.problem for shard in shards if shard.problem]
print(*(problem.partition(" cannot")[0].rpartition("/")[2] for problem in problems))
print(*(photo.key for shard in shards for photo in shard.photos))
for other in ("closed/c.jpg", "locked", "locked/*.jpg", "locked/b.jpg"):
    print(*(bool(one.problem) for one in list_shards([os.path.join({place!r}, other)])))
"""
    for folder in (tmp_path, *(one for one in tmp_path.parents if "pytest-of-" in str(one))):
        folder.chmod(0o755)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    for name in ("locked", "closed"):
        (tmp_path / "in" / name).chmod(0o755)
    assert found.stdout.splitlines() == [
        *("locked link", "a.jpg closed/c.jpg d.jpg", "True", "True", "True", "True")
    ], found


# Names


@pytest.mark.parametrize("name", [
    *("a::b.jpg", "file:x.jpg", "C:a.jpg", "a{0..3}.jpg", "[1].jpg", "*.jpg", "~.jpg", "-rf.jpg"),
    *("new\nline.jpg", "100%.jpg", "#1.jpg", "why?.jpg", "a b .jpg", "{a,b}.jpg", "{.jpg"),
    *("é" * 125 + ".jpg", os.fsdecode(b"\xff\xfe.jpg"), "e\u0301.jpg", "back\\slash.jpg"),
])  # fmt: skip
def test_any_name_is_read(tmp_path, name):
    folder = tmp_path / name.replace(".jpg", "")
    folder.mkdir()
    (folder / name).write_bytes(photo(1))
    for place in (tmp_path, folder, folder / name, f"{folder}/*.jpg"):
        (shard,) = list_shards([str(place)])
        (item,) = FolderReader(shard.photos)
        assert item.image == photo(1) and shard.version
    tar = write_tar(folder / name.replace(".jpg", ".tar"), [("a.jpg", photo(2))])
    (shard,) = list_shards([str(tar)])
    (item,) = ShardReader(shard.url)
    assert item.image == photo(2)
    assert len(f"part-{shard.id}.parquet".encode()) < 200


def test_what_is_typed_is_meant_literally_where_it_exists(tmp_path, monkeypatch):
    touch(
        tmp_path, "d [1]/0.tar", "d [1]/1.tar", "x{0..3}/a.jpg", "x0/b.jpg", "x1/c.jpg", "~/d.jpg"
    )
    touch(tmp_path, "home/e.jpg", "t[ab].tar", "ta.tar")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert len(list_shards(["d [1]/*.tar"])) == 2 == len(list_shards(["d [1]/{0..1}.tar"]))
    assert keys(list_shards(["x{0..3}"])) == keys(list_shards(["x{0..3}/*.jpg"])) == ["a.jpg"]
    assert keys(list_shards(["x{0..1}/*.jpg"])) == ["x0/b.jpg", "x1/c.jpg"]
    assert keys(list_shards(["~/*.jpg"])) == ["e.jpg"] and keys(list_shards(["./~"])) == ["d.jpg"]
    assert [shard_stem(shard.id) for shard in list_shards(["t[ab].tar"])] == ["t_ab_"]
    assert keys(list_shards(["**/*.jpg"]))[:1] == ["home/e.jpg"]
    assert keys(list_shards([f"file://{tmp_path}/x0"])) == ["b.jpg"]
    for wrong in ("x{0..2}/*.jpg", "no/*.jpg", "nothing", "d [1]/2.tar", "x" * 300, "a\0b", ""):
        with pytest.raises(DataError, match="no file matches"):
            list_shards([wrong])


# What has changed


def test_a_version_changes_with_every_photo_and_document(tmp_path):
    touch(tmp_path, "a.jpg", "a.json", "b.jpg")
    seen = [list_shards([str(tmp_path)])[0]]
    ids = {seen[0].id}
    for name, data in (("a.jpg", b"x"), ("a.jpg", b"y"), ("a.json", b"z"), ("b.jpg.json", b"")):
        (tmp_path / name).write_bytes(data)
        seen.append(list_shards([str(tmp_path)])[0])
    os.utime(tmp_path / "b.jpg", ns=(1, 1))
    seen.append(list_shards([str(tmp_path)])[0])
    versions = {fingerprint(shard.photos) for shard in seen[-1:]}
    assert versions == {seen[-1].version} and {shard.id for shard in seen} == ids


def test_same_size_and_a_time_set_back_are_seen(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    before = list_shards([str(tmp_path)])[0].version
    times = path.stat()
    path.write_bytes(b"new")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list_shards([str(tmp_path)])[0].version != before


def test_documents_that_say_nothing_cost_no_photo(tmp_path):
    documents = {
        "list": b"[1, 2]",
        "text": b"none",
        "empty": b"",
        "large": b" " * (MAX_METADATA_BYTES + 1),
    }
    for name, data in documents.items():
        (tmp_path / f"{name}.jpg").write_bytes(photo(1))
        (tmp_path / f"{name}.json").write_bytes(data)
    (tmp_path / "link.jpg").write_bytes(photo(1))
    (tmp_path / "link.json").symlink_to("nowhere")
    (tmp_path / "list.jpg.json").write_bytes(truth(1, 2))
    (shard,) = list_shards([str(tmp_path)])
    reader = FolderReader(shard.photos)
    positions = {item.key: item.sidecar.position for item in reader}
    assert {key for key, position in positions.items() if position} == {"list.jpg"}
    assert len(reader.problems) == 5 and not reader.read_failed


def test_mistakes_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no photo lies in the directory .* found nothing"):
        list_shards([str(tmp_path / "empty")])
    (tmp_path / "empty" / "film.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"found 1 \.mp4"):
        list_shards([str(tmp_path / "empty")])
    write_tar(tmp_path / "tars" / "a.tar", [("a.jpg", photo(1))])
    with pytest.raises(DataError, match=r"1 archive without a photo; name .*/\*\.tar'"):
        photos_in(str(tmp_path / "tars"))


# Groups


def photo_files(*paths: str) -> list[PhotoFile]:
    return [PhotoFile("/x", path) for path in paths]


@given(st.sets(st.text("ab./", min_size=1, max_size=12), max_size=60))
def test_groups_hold_every_photo_once_and_in_order(paths):
    photos = photo_files(*sorted(paths))
    assert [photo for group in group_photos(photos) for photo in group] == photos


def test_groups_are_stable_and_bounded():
    photos = photo_files(*(f"{index:06d}.jpg" for index in range(20_000)))
    groups = set(group_photos(photos))
    assert max(map(len, groups)) <= GROUP_MOST and 40 < len(groups) < 160
    changed = set(group_photos([*photos[:7000], *photo_files("006999x.jpg"), *photos[7000:]]))
    assert len(changed - groups) <= 2


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


def test_of_several_documents_the_same_counts_in_a_folder_and_in_a_tar(tmp_path: Path) -> None:
    """A known position comes before a nearer estimate of this project."""
    estimate = b'{"latitude": 1, "longitude": 2, "model_id": "m", "radius_90_km": 3}'
    members = [("a.jpg", photo(1)), ("a.jpg.json", estimate), ("a.json", truth(48.5, 2.25))]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in members:
        (folder / name).write_bytes(data)
    (in_folder,) = FolderReader(photos_in(str(folder)))
    reader = ShardReader(str(write_tar(tmp_path / "a.tar", members)))
    (in_tar,) = reader
    assert isinstance(in_folder, Sample) and isinstance(in_tar, Sample)
    assert in_folder.sidecar == reader.late.get("a", in_tar.sidecar)
    assert in_folder.sidecar is not None and in_folder.sidecar.known == Truth(48.5, 2.25)
