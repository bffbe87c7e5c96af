"""A photo keeps its identity wherever it lies, and no two photos of a listing share one."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.identity import Holder, PhotoPlace, archive_name, identify
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.storage import DataError
from support.archives import write_tar

ONE, OTHER = b"one photo", b"other one"


def shards(*words: Path | str) -> list[Shard]:
    return list_shards(map(str, words), lambda note: None, tables=True)


def identities(listed: Iterable[Shard]) -> dict[str, str]:
    """Identities of all photos by the path of their shard's place and their own."""
    found = {}
    for shard in listed:
        for item in shard.reader():
            if isinstance(item, Sample):
                assert item.image is not None
                one = identify(item.place, item.image)
                found[f"{shard.url.partition('#')[0]}:{one.path}"] = one.photo_id
    return found


def ids(*words: Path | str) -> list[str]:
    return sorted(identities(shards(*words)).values())


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def versions(*words: Path | str) -> dict[str, str]:
    return {shard.id: shard.version for shard in shards(*words)}


def test_an_identity_is_of_name_path_and_bytes() -> None:
    place = PhotoPlace(Holder.ARCHIVE, "a.tar", "b/c.jpg", "b/c.jpg")
    first = identify(place, ONE, sha256=True)
    assert len(first.photo_id) == 20 and int(first.photo_id, 16)
    assert (first.path, first.stem) == ("b/c.jpg", "c")
    assert first.sha256 == hashlib.sha256(ONE).hexdigest()
    assert identify(place, ONE).sha256 is None
    others = [
        identify(place, OTHER),
        identify(place._replace(name="c/c.jpg"), ONE),
        identify(place._replace(holder_name="b.tar"), ONE),
        identify(place._replace(holder=Holder.FOLDER), ONE),
        identify(place._replace(holder_name="a.tarb", name="/c.jpg"), ONE),
    ]
    assert len({first.photo_id, *(one.photo_id for one in others)}) == 6


def test_known_identities_stay() -> None:
    """Catalogues of users hold them: another digit is another schema version."""
    places = [PhotoPlace(Holder.ARCHIVE, "a.tar", "b/c.jpg"), PhotoPlace(name="c.jpg")]
    places.append(PhotoPlace(Holder.TABLE, "", "\udcff"))
    assert [identify(place, ONE).photo_id for place in places] == [
        "9028d7491bff414f63b5",
        "261aa049b428d5a4ee21",
        "7ea2912d1ce292ebd3fc",
    ]


def test_a_signature_is_no_name() -> None:
    assert archive_name("https://host/in/a.tar?sig=1#x") == "a.tar"
    assert archive_name("/in/b/a?.tar", 1) == "b/a?.tar"


def test_wider_globs_other_folders_and_machines_give_the_same(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_tar(root / "a.tar", [("x/1.jpg", ONE), ("1.jpg", ONE), ("y/1.jpg", OTHER)])
    write_tar(root / "b.tar", [("x/1.jpg", ONE)])
    write(root / "photos", {"p.jpg": ONE, "q/r.jpg": ONE, "q/s.jpg": OTHER})
    narrow = identities(shards(root / "a.tar", root / "photos"))
    wide = identities(shards(f"{root}/*.tar", root / "photos"))
    assert narrow.items() <= wide.items()
    assert len(set(wide.values())) == len(wide) == 7
    inner = identities(shards(root / "photos/q"))
    assert set(inner.values()) < set(narrow.values())
    shutil.copytree(root, tmp_path / "elsewhere/renamed")
    moved = tmp_path / "elsewhere/renamed"
    assert ids(f"{moved}/*.tar", moved / "photos") == sorted(wide.values())
    (moved / "photos").rename(moved / "pictures")
    assert ids(f"{moved}/*.tar", moved / "pictures") == sorted(wide.values())


def test_copies_in_one_archive_differ_by_their_paths(tmp_path: Path) -> None:
    copies = [(f"{folder}/1.jpg", ONE) for folder in "abc"]
    write_tar(tmp_path / "a.tar", copies)
    assert len(set(ids(tmp_path / "a.tar"))) == 3


class TestTwins:
    def test_copies_in_folders_differ_by_as_many_folders_as_it_takes(self, tmp_path: Path) -> None:
        files = {"1/DCIM/a.jpg": ONE, "2/DCIM/a.jpg": ONE, "2/DCIM/b.jpg": ONE, "3/a.jpg": b"x"}
        root = write(tmp_path / "in", files)
        photos = {photo.path: photo for shard in shards(root) for photo in shard.photos}
        assert [photos[path].apart for path in files] == [2, 2, 0, 0]
        assert len(set(ids(root))) == 4

    def test_a_twin_that_comes_does_its_shard_again(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one", {"a.jpg": ONE, "b.jpg": ONE})
        other = write(tmp_path / "other", {"c.jpg": ONE})
        before = versions(one, other)
        assert versions(one).items() <= before.items()
        write(other, {"a.jpg": b"longer than that"})
        unlike = versions(one, other)
        assert versions(one).items() <= unlike.items()
        write(other, {"a.jpg": ONE})
        after = versions(one, other)
        (group,) = versions(one)
        assert after[group] != before[group]
        assert len(set(ids(one, other))) == 4

    def test_archives_of_one_name_and_size(self, tmp_path: Path) -> None:
        for folder in ("2020", "2021", "2022"):
            write_tar(tmp_path / folder / "a.tar", [("1.jpg", ONE)])
        write_tar(tmp_path / "2023/a.tar", [("1.jpg", OTHER * 10_000)])
        every = shards(f"{tmp_path}/*/a.tar")
        assert [shard.apart for shard in every] == [1, 1, 1, 0]
        assert len(set(identities(every).values())) == 4
        alone = shards(tmp_path / "2020/a.tar")
        assert alone[0].id == every[0].id and alone[0].version != every[0].version

    def test_tables_that_give_one_key_to_files_of_one_size(self, tmp_path: Path) -> None:
        def table(folder: str, **bytes_of: bytes) -> Path:
            root = write(tmp_path / folder, {f"{key}.jpg": data for key, data in bytes_of.items()})
            with (root / "t.csv").open("w") as file:
                rows = csv.writer(file)
                rows.writerows([("key", "path"), *((key, f"{key}.jpg") for key in bytes_of)])
            return root / "t.csv"

        one, other = table("one", k1=ONE, k2=ONE), table("other", k1=OTHER * 2, k3=ONE)
        assert set(ids(one)) < set(ids(one, other))
        third = table("third", k1=ONE)
        twins = shards(one, other, third)
        assert [shard.table and shard.table.apart for shard in twins] == [2, 0, 2]
        assert len(set(identities(twins).values())) == 5
        assert ids(other) == sorted(identities([twins[1]]).values())


class TestListedTwice:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write_tar(tmp_path / "in/a.tar", [("1.jpg", ONE)])
        return write(tmp_path / "in", {"photos/1.jpg": ONE, "photos/inner/2.jpg": ONE})

    def test_globs_that_overlap_count_once(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "link.tar").symlink_to(root / "a.tar")
        (tmp_path / "link").symlink_to(root)
        once = identities(shards(root / "a.tar"))
        assert identities(shards(root / "a.tar", f"{root}/*.tar", f"{root}/a*")) == once
        for word in (tmp_path / "link.tar", f"{tmp_path}/*.tar", f"{tmp_path}/link/*.tar"):
            assert ids(root / "a.tar", word) == [*once.values()]

    def test_folders_within_each_other_count_once(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(root / "photos")
        once = ids(root / "photos")
        for word in (root / "photos/inner", tmp_path / "link", root / "photos/1.jpg"):
            assert ids(root / "photos", word) == once

    @pytest.mark.parametrize("name", ["a.tar", "photos"])
    def test_a_place_that_is_named_twice_is_refused(
        self, root: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(root)
        place = str(root / name)
        for words in ([place, place], [name, f"./{name}"], [name, place], [name, f"../in/{name}"]):
            with pytest.raises(DataError, match=r"is named twice.*leave one of the two out"):
                shards(*words)
        with pytest.raises(DataError, match=r"'memory://x/a\.tar' is named twice,"):
            shards("memory://x/a.tar", "memory://x/a.tar")
        assert ids(os.path.relpath(place)) == ids(place)
