"""The bytes of an image are the same by every route, and read by their range alone."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import mp16, msgpack_images, yfcc100m
from pipelines.sources.download import FetchError, FetchSettings
from pipelines.sources.images import read
from pipelines.sources.msgpack_images import index_shard
from pipelines.sources.record import Drop, ImageRef, photo_id
from pipelines.sources.tar_images import index_tar
from pipelines.sources.webdataset import read_shard
from schemas.training import DropReason
from support.archives import photo, tar_bytes, truth
from support.flickr import (
    Photo,
    make_photos,
    msgpack_bytes,
    write_hash_folder,
    write_image_folder,
    write_msgpack_shards,
)
from support.photo_server import Answer, photo_server

PHOTOS = make_photos(6)
PATIENT = FetchSettings(attempts=2, backoff_s=0.01, allow_private=True)


@pytest.fixture
def memory() -> Iterator[str]:
    """The root of a file system that is no local one; empty afterwards."""
    filesystem = fsspec.filesystem("memory")
    yield "memory://photos"
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def put(root: str, name: str, data: bytes) -> str:
    url = f"{root}/{name}"
    with fsspec.open(url, "wb") as file:
        file.write(data)
    return url


def failure(ref: ImageRef, limits: FetchSettings = PATIENT) -> DropReason:
    with pytest.raises(FetchError) as caught:
        read(ref, limits)
    assert str(caught.value)
    return caught.value.reason


# One photo, every route


def test_every_route_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "by_id", PHOTOS)
    hashed = write_hash_folder(tmp_path / "by_hash", PHOTOS)
    shards = write_msgpack_shards(tmp_path / "msgpack", PHOTOS, per_shard=4)
    packed = {key: ref for shard in shards for key, ref in index_shard(str(shard))}
    tar = tmp_path / "a.tar"
    members = [((f"{p.id}.jpg", p.image), (f"{p.id}.json", truth())) for p in PHOTOS]
    tar.write_bytes(tar_bytes([member for pair in members for member in pair]))
    in_tar = {photo_id(record.key): record.image for record in read_shard(str(tar))}
    with photo_server(PHOTOS) as server:
        for p in PHOTOS:
            refs = [
                mp16.image_by_id(str(folder), p.img_id),
                mp16.image_by_id(f"{folder}/", p.img_id),
                yfcc100m.image_by_hash(str(hashed), p.hash),
                packed[p.img_id],
                in_tar[str(p.id)],
                ImageRef("url", server.url + p.url_path),
                ImageRef("file", server.url + p.url_path),
            ]
            assert [read(ref, PATIENT) for ref in refs] == [p.image] * len(refs)
            assert pickle.loads(pickle.dumps(refs)) == refs
        assert server.agents == {FetchSettings().user_agent}, "only the downloader asks hosts"
    assert {ref.kind for ref in refs} == {"file", "msgpack", "tar", "url"}


def test_any_file_system_will_do(memory: str) -> None:
    p = PHOTOS[0]
    put(memory, p.img_id, p.image)
    put(memory, p.hash_path, p.image)
    shard = put(memory, "shard_0.msg", msgpack_bytes(PHOTOS))
    ranges = [ref for _, ref in index_shard(shard)]
    assert read(mp16.image_by_id(memory, p.img_id)) == p.image
    assert read(yfcc100m.image_by_hash(memory, p.hash)) == p.image
    assert [read(ref) for ref in ranges] == [q.image for q in PHOTOS]


def test_where_photos_lie_by_their_hash() -> None:
    digest = "4e2f7a26a1dfbf165a7e30bdabf7e72a"
    wanted = f"s3://multimedia-commons/data/images/4e2/f7a/{digest}.jpg"
    assert yfcc100m.image_by_hash("s3://multimedia-commons/data/images", digest).url == wanted


def test_only_the_range_is_read(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [ref for _, ref in index_shard(put(memory, "shard_0.msg", msgpack_bytes(PHOTOS)))]
    asked = []
    local = type(fsspec.filesystem("memory"))
    whole = local.cat_file

    def cat_file(self: object, path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return whole(self, path, start, end)

    monkeypatch.setattr(local, "cat_file", cat_file)
    assert [read(ref) for ref in refs] == [p.image for p in PHOTOS]
    assert asked == [(ref.offset, ref.offset + ref.length) for ref in refs]


# Failures


def test_no_file(tmp_path: Path, memory: str) -> None:
    for root in (str(tmp_path), memory):
        assert failure(ImageRef("file", f"{root}/x.jpg")) is DropReason.NO_IMAGE
    assert failure(ImageRef("file", str(tmp_path))) is DropReason.FETCH_FAILED
    assert failure(ImageRef("file", "nosuch://x/y.jpg")) is DropReason.FETCH_FAILED
    assert failure(ImageRef("url", str(tmp_path / "x.jpg"))) is DropReason.NO_IMAGE


def test_the_limit_of_bytes_holds_on_every_route(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(1000))
    with photo_server() as server:
        refs = [
            ImageRef("file", str(path)),
            ImageRef("tar", str(path), 0, 1000),
            ImageRef("url", server.serve("/x.jpg", Answer(bytes(1000)))),
        ]
        for ref in refs:
            assert len(read(ref, replace(PATIENT, max_bytes=1000))) == 1000
            assert failure(ref, replace(PATIENT, max_bytes=999)) is DropReason.TOO_LARGE


def test_a_file_that_changed_since_it_was_indexed(tmp_path: Path) -> None:
    shard = write_msgpack_shards(tmp_path, PHOTOS, per_shard=6)[0]
    *_, (_, last) = index_shard(str(shard))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert failure(last) is DropReason.FETCH_FAILED
    shard.unlink()
    assert failure(last) is DropReason.NO_IMAGE


# Msgpack shards


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("chunk", [1, 13, 2**20])
def test_index_of_msgpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, positions: bool, chunk: int
) -> None:
    monkeypatch.setattr(msgpack_images, "_CHUNK", chunk)
    data = msgpack_bytes(PHOTOS[:2], positions, old)
    path = tmp_path / "shard_0.msg"
    path.write_bytes(data)
    found = list(index_shard(str(path)))
    assert [key for key, _ in found] == [p.img_id for p in PHOTOS[:2]]
    assert [data[r.offset : r.offset + r.length] for _, r in found] == [p.image for p in PHOTOS[:2]]


def pack(*entries: object) -> bytes:
    return b"".join(msgpack.packb(entry) for entry in entries)


def test_keys_of_entries_in_any_order_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.msg"
    path.write_bytes(
        pack(
            {"image": b"one", "more": {"image": b"not this", "id": "nor this"}, "id": 3228511372},
            {"labels": [1, [2, None]], "id": b"a/b.jpg", "image": b"", "x": 1.5},
        )
    )
    (one, first), (two, second) = index_shard(str(path))
    assert (one, two) == ("3228511372", "a/b.jpg")
    assert (read(first), read(second)) == (b"one", b"")
    (tmp_path / "empty.msg").write_bytes(b"")
    assert list(index_shard(str(tmp_path / "empty.msg"))) == []


@pytest.mark.parametrize(
    ("entry", "reason", "key"),
    [
        ({"id": "a.jpg"}, "no_image", "a.jpg"),
        ({"id": "a.jpg", "image": None}, "no_image", "a.jpg"),
        ({"id": "a.jpg", "image": [1]}, "no_image", "a.jpg"),
        ({"image": b"x"}, "malformed_row", None),
        ({"id": None, "image": b"x"}, "malformed_row", None),
        ({"id": True, "image": b"x"}, "malformed_row", None),
        ({"id": "", "image": b"x"}, "malformed_row", None),
        ({"id": b"\xff", "image": b"x"}, "malformed_row", None),
        ({"id": "../x", "image": b"x"}, "malformed_row", None),
        ({}, "malformed_row", None),
    ],
)
def test_an_entry_that_cannot_be_used_costs_itself(
    tmp_path: Path, entry: object, reason: str, key: str | None
) -> None:
    good = {"id": "b.jpg", "image": b"good"}
    (tmp_path / "a.msg").write_bytes(pack(good, entry, good))
    first, bad, last = index_shard(str(tmp_path / "a.msg"))
    assert isinstance(bad, Drop) and (bad.reason, bad.key) == (DropReason(reason), key)
    assert first[0] == last[0] == "b.jpg" and read(last[1]) == b"good"


def test_an_image_above_the_limit_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.msg"
    path.write_bytes(pack({"id": "a", "image": bytes(500)}, {"id": "b", "image": b"x"}))
    limits = replace(PATIENT, max_bytes=400)
    (_, large), (_, small) = index_shard(str(path))
    assert failure(large, limits) is DropReason.TOO_LARGE
    assert read(small, limits) == b"x"


@pytest.mark.parametrize("old", [False, True])
def test_a_shard_that_breaks_off_says_so_at_every_place(tmp_path: Path, old: bool) -> None:
    small = [Photo(i, "a", 0.0, 0.0, bytes(range(40 + i))) for i in (1, 2)]
    data = msgpack_bytes(small, old=old)
    edge = len(msgpack_bytes(small[:1], old=old))
    path = tmp_path / "a.msg"
    for cut in range(1, len(data)):
        path.write_bytes(data[:cut])
        found = list(index_shard(str(path)))
        whole = int(cut >= edge)
        assert [item[0] for item in found[:whole]] == [small[0].img_id] * whole
        if cut == edge:
            assert len(found) == 1
        else:
            (drop,) = found[whole:]
            assert isinstance(drop, Drop) and drop.key is None
            assert drop.reason is DropReason.UNUSABLE_SHARD
            assert f"{edge * whole:,}" in drop.detail


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        b"<html>",
        b"\x93\1\2\3",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa5image\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x82\x91" * 5000,
    ],
)
def test_what_is_no_msgpack_ends_the_shard(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "a.msg"
    path.write_bytes(msgpack_bytes(PHOTOS[:1]) + garbage + msgpack_bytes(PHOTOS[1:]))
    first, drop = index_shard(str(path))
    assert first[0] == PHOTOS[0].img_id
    assert isinstance(drop, Drop) and drop.reason is DropReason.UNUSABLE_SHARD
    drop.detail.encode()


SMALL = msgpack_bytes([Photo(i, "a", 0.0, 0.0, photo(i)) for i in range(3)])


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), data=st.binary(min_size=1, max_size=6))
def test_mutated_shards_hold_sound_ranges_or_drops(
    tmp_path_factory: pytest.TempPathFactory, place: float, data: bytes
) -> None:
    at = int(place * len(SMALL))
    mutated = SMALL[:at] + data + SMALL[at + len(data) :]
    path = tmp_path_factory.getbasetemp() / "mutated.msg"
    path.write_bytes(mutated)
    for item in index_shard(str(path)):
        if isinstance(item, Drop):
            item.detail.encode()
        else:
            key, ref = item
            key.encode()
            assert read(ref) == mutated[ref.offset : ref.offset + ref.length]


def test_no_shard(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(index_shard(str(tmp_path / "shard_0.msg")))


def test_pictures_of_plain_tars_are_found_by_name(tmp_path: Path) -> None:
    members = [
        *((p.img_id.replace("/", "_"), p.image) for p in PHOTOS[:3]),
        ("._x.jpg", b"of a Mac"),
        ("list.csv", b"no picture"),
        ("../up.jpg", b"leads out"),
        *((f"./deep/{p.img_id}", p.image) for p in PHOTOS[3:]),
    ]
    path = tmp_path / "mp16.tar"
    path.write_bytes(tar_bytes(members))
    found = list(index_tar(str(path)))
    entries = {photo_id(item[0]): item[1] for item in found if not isinstance(item, Drop)}
    assert {key: read(ref) for key, ref in entries.items()} == {str(p.id): p.image for p in PHOTOS}
    assert {ref.kind for ref in entries.values()} == {"tar"}
    [drop] = [item for item in found if isinstance(item, Drop)]
    assert "leads out" in drop.detail


def test_a_cut_or_compressed_tar_says_so(tmp_path: Path) -> None:
    members = [(p.img_id.replace("/", "_"), p.image) for p in PHOTOS]
    whole = tar_bytes(members)
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    *entries, drop = index_tar(str(tmp_path / "cut.tar"))
    assert isinstance(drop, Drop) and drop.reason is DropReason.UNUSABLE_SHARD
    assert 0 < len(entries) < len(PHOTOS) and "truncated" in drop.detail
    (tmp_path / "small.tar").write_bytes(tar_bytes(members, mode="w:gz"))
    [drop] = index_tar(str(tmp_path / "small.tar"))
    assert isinstance(drop, Drop) and "compressed" in drop.detail
    with pytest.raises(OSError, match="nowhere"):
        list(index_tar(str(tmp_path / "nowhere.tar")))
