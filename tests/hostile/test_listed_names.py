"""Names of strangers: a listed name is a name, no address and no pattern, and costs its length."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from locdiffusion.files import file_system, is_chain
from locdiffusion.photos.folder_reader import FolderReader
from locdiffusion.photos.listing import list_shards, shard_id
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError, open_stream
from support.archives import tar_bytes
from support.hostile.folders import NAMES, fill_with_names
from support.plain_run import geotagged
from support.user_files import number_of, photo_number


@pytest.fixture
def bucket() -> str:
    """A folder in memory whose files have names that look like chains of file systems."""
    memory = fsspec.filesystem("memory")
    names = ("a.jpg", "a.jpg::b.jpg", "zip::a.jpg", "simplecache::a.jpg", "d::e/f.jpg", "a?b#c.jpg")
    for number, name in enumerate((*names, "%2e%2e/g.jpg", "x::memory:/a.jpg")):
        memory.pipe(f"/hostile/{name}", photo_number(number))
    return "memory://hostile"


def test_each_photo_is_read_under_its_own_name(tmp_path: Path) -> None:
    folder = fill_with_names(tmp_path / "in")
    outcome = geotagged(tmp_path / "out", folder)
    seen = {row["key"]: number_of(row["latitude"], row["longitude"]) for row in outcome.predictions}
    names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in NAMES]
    wanted = {key: number for number, key in enumerate([*names, "a.jpg", "http:/evil.jpg"])}
    del wanted["..a.jpg"]  # hidden, as every name that begins with a dot
    assert seen == wanted and outcome.status == 0 and not outcome.errors
    assert outcome.summary["left_out"]["by_kind"] == {"hidden": 1}


def test_a_bucket_joins_no_file_systems(bucket: str, tmp_path: Path) -> None:
    shards = list_shards([bucket])
    photos = [photo for shard in shards for photo in shard.photos]
    memory = fsspec.filesystem("memory")
    assert len(photos) == 8
    for item in FolderReader(photos):
        assert item.image == memory.cat(f"/hostile/{item.key}"), item.key
    globbed = expand_patterns([f"{bucket}/*.jpg", "memory:///hostile/a.jpg::b.jpg"])
    assert "memory:///hostile/a.jpg::b.jpg" in globbed and len(globbed) == 5
    outcome = geotagged(tmp_path / "out", bucket)
    assert len({row["latitude"] for row in outcome.predictions}) == 8 == len(outcome.keys)


def test_a_shard_replaces_no_other(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number, name in enumerate(("good.tar", "good.parquet::z.tar", "x::good.tar")):
        memory.pipe(f"/shards/{name}", tar_bytes([("a.jpg", photo_number(number))]))
    outcome = geotagged(tmp_path / "out", "memory://shards/*.tar")
    seen = [number_of(row["latitude"], row["longitude"]) for row in outcome.predictions]
    assert sorted(seen) == [0, 1, 2] and len({row["shard"] for row in outcome.predictions}) == 3
    geotagged(Path("memory://"), "memory://shards/*.tar", flags=("--output=memory://shards-out",))
    parts = memory.glob("/shards-out/predictions/*.parquet")
    assert len(parts) == 3 == sum(len(pq.read_table(memory.open(part))) for part in parts)


def test_what_a_person_types_still_joins_file_systems(bucket: str) -> None:
    assert expand_patterns([f"simplecache::{bucket}/a.jpg"]) == ["memory:///hostile/a.jpg"]
    memory = fsspec.filesystem("memory")
    memory.pipe("/inner.tar", tar_bytes([("deep/a.jpg", b"bytes")]))
    for url, chain in (
        ("tar://deep/a.jpg::memory://inner.tar", True),
        ("filecache::memory://hostile/a.jpg", True),
        ("memory://hostile/a.jpg", False),
    ):
        assert is_chain(url) is chain
        with open_stream(url) as file:
            assert file.read() in (b"bytes", photo_number(0))


def test_names_within_a_zip_lead_nowhere() -> None:
    """A zip that a person opens by a URL may hold a name that looks like the rest of a chain."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/names.tar", tar_bytes([("x::memory:/secret.jpg", b"bytes"), ("b.jpg", b"b")]))
    memory.pipe("/secret.jpg", b"secret")
    with pytest.raises(DataError, match="has '::' in a name"):
        list_shards(["tar://*/*.jpg::memory://names.tar"])
    for root in ("tar://::memory://names.tar", "memory://"):
        with pytest.raises(DataError, match="name a bucket, or a folder"):
            list_shards([root])


@pytest.mark.parametrize("url", ["x://a", "C://a::b://c", "reference://a", "://", "memory://::"])
def test_an_unknown_or_odd_address_is_an_error_of_one_line(url: str) -> None:
    with pytest.raises(DataError) as told:
        expand_patterns([url])
    assert "\n" not in str(told.value)


def test_a_listing_that_leads_to_another_place_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    """A web server's page may link to anything."""
    filesystem, path = file_system(bucket)
    real = filesystem.find
    elsewhere = {"/other/x.jpg": {"size": 3}, "/hostile2/x.jpg": {"size": 3}}
    monkeypatch.setattr(
        type(filesystem),
        "find",
        lambda self, *args, **more: {**real(path, detail=True), **elsewhere},
    )
    (shard,) = list_shards([bucket])
    assert len(shard.photos) == 8


# Names of outputs


def test_ids_are_plain_names_of_files() -> None:
    odd = ("..", "../../x.tar", "/etc/passwd", "a\0b.tar", "a\nb.tar", ".hidden.tar", "a/b::c.tar")
    odd += (
        "n" * 5000 + ".tar",
        "\u202egpj.tar",
        "\x1b[2J.tar",
        "é" * 300,
        "con.tar",
        "",
        "~",
        "a b",
    )
    for name in odd:
        id = shard_id(name.rpartition("/")[2], f"/place/{name}")
        assert len(f"part-{id}.parquet".encode()) < 255 and id == os.path.basename(id)
        assert id.isprintable() and not id.startswith(".") and "::" not in id


# Names and patterns without end


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999}.tar",
        "{a,b}" * 40,
        "{{a,b}{a,b}{a,b}{a,b},c}" * 9,
        "{0..99999}{0..99999}",
        "{0..9..0}" + "{-99999999..99999999..2}",
        "memory://d/{0..999999999}.tar",
        "{" + "0" * 4000 + "1..99999}",
    ],
)
def test_braces_are_counted_before_they_are_expanded(pattern: str) -> None:
    with pytest.raises(DataError, match="name fewer files at once"):
        expand_patterns([pattern])


@pytest.mark.parametrize(
    "pattern", ["{" * 5000 + "}" * 5000, "{" * 5000, "{" + "9" * 5000 + "..1}"]
)
def test_braces_without_end_are_a_name(pattern: str) -> None:
    with pytest.raises(DataError, match="no file matches"):
        expand_patterns([pattern])


def test_ordinary_ranges_are_expanded(tmp_path: Path) -> None:
    for name in ("000.tar", "001.tar", "a-1.tar", "b-1.tar"):
        (tmp_path / name).touch()
    found = expand_patterns([f"{tmp_path}/{{000..001}}.tar", f"{tmp_path}/{{a,b}}-{{1..1}}.tar"])
    assert [os.path.basename(one) for one in found] == ["000.tar", "001.tar", "a-1.tar", "b-1.tar"]


def test_a_file_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "{0..999999999}.tar").touch()
    (found,) = expand_patterns([f"{tmp_path}/{{0..999999999}}.tar"])
    assert found == f"{tmp_path}/{{0..999999999}}.tar"
