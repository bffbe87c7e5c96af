"""A job's graph holds the names of lists, and workers find in them just what was listed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from locdiffusion.photos.folder import PhotoFile, group_mark, group_photos
from locdiffusion.photos.listing import Shard, list_shards, shard_id
from pipelines.geotag import shard_lists
from pipelines.geotag.command import main
from pipelines.geotag.embeddings import EmbeddedShard
from pipelines.geotag.manifests import ManifestName
from pipelines.geotag.output import SHARD_LISTS, Output
from pipelines.geotag.shard_lists import few, read_list, remove_lists, write_lists
from pipelines.geotag.transforms import ListShards
from support.archives import photo, sound_members, write_tar
from support.fake_geotagger import FakeLoader
from support.outputs import tree
from support.plain_run import geotagged

ODD = (
    Shard("a-0", "/x/a.tar", exclude=("*.png", "raw")),
    Shard("b-1", "gs://b/t-001.zip", siblings=("gs://b/t-002.zip",), listed="0" * 32),
    Shard("c-2", "/x#lost", problem="/x/lost cannot be listed (Permission denied)"),
    Shard(
        "d-3",
        "/x/\udcff \n#0123456789",
        (
            PhotoFile("/x/\udcff \n", "ä/\udcfe\r.jpg", ("ä/\udcfe.json", "ä/b.xmp"), "", True),
            PhotoFile("gs://b/in", "\u2028.jpg", (), "['1', 'etag']"),
        ),
    ),
    EmbeddedShard("e-4", "/x/e.tar", root="/x/out", manifest=ManifestName("e-4", "0" * 16)),
)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def listed(shard: Shard) -> tuple[Shard, str]:
    return shard, shard.listed  # which the equality of shards leaves out


@pytest.mark.parametrize("names", [1, 3, 20_000])
def test_a_list_gives_back_what_was_written(
    output: Output, monkeypatch: pytest.MonkeyPatch, names: int
) -> None:
    monkeypatch.setattr(shard_lists, "NAMES_IN_FILE", names)
    files = write_lists(output, ODD)
    assert len(files) == {1: 5, 3: 3, 20_000: 1}[names]
    found = [shard for file in files for shard in read_list(file, output)]
    assert list(map(listed, found)) == list(map(listed, ODD))
    assert all(isinstance(one, PhotoFile) for shard in found for one in shard.photos)
    others = write_lists(output, ODD)
    remove_lists(output, files)
    assert [read_list(file, output) for file in others], "another job keeps its lists"
    remove_lists(output, others)
    assert tree(Path(output.root)) == {} and not Path(output.path(SHARD_LISTS)).exists()


def test_a_list_that_is_none_is_refused(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_lists, "MOST_BYTES", 2**16)
    output.write(SHARD_LISTS, "bomb.jsonl.gz", data=gzip.compress(bytes(2**20)))
    with pytest.raises(ValueError, match="more than 65,536 bytes"):
        read_list("bomb.jsonl.gz", output)
    output.write(SHARD_LISTS, "pickle.jsonl.gz", data=gzip.compress(b"\x80\x04N.\n"))
    with pytest.raises(ValueError):
        read_list("pickle.jsonl.gz", output)


def folder_of(photos: int) -> Iterator[Shard]:
    """Groups of photos with names that no compression shortens much."""
    names = sorted(hashlib.md5(b"%d" % number).hexdigest() for number in range(photos))
    files = [PhotoFile("/archive/photos", f"{name}.jpg") for name in names]
    for group in group_photos(files):
        url = f"/archive/photos#{group_mark(group)}"
        yield Shard(shard_id("photos", url), url, group)


def graph_bytes(output: Output, shards: list[Shard]) -> int:
    pipeline = beam.Pipeline()
    _ = pipeline | "ListShards" >> ListShards(output, shards)
    return len(pipeline.to_runner_api().SerializeToString())


@pytest.mark.parametrize("photos", [40_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_the_graph_does_not_grow_with_photos(output: Output, photos: int) -> None:
    shards = list(folder_of(photos))
    assert sum(len(shard.photos) for shard in shards) == photos and not few(shards)
    assert graph_bytes(output, shards) < 50_000
    archives = [Shard(f"{n:06d}-0123456789", f"gs://b/{n:06d}.tar") for n in range(photos // 10)]
    assert graph_bytes(output, archives) < 50_000
    most = [Shard(shard.id, shard.url, shard.photos[:100]) for shard in shards[:19]]
    assert few(most) and graph_bytes(output, most) < 300_000, "what a graph holds itself"


def test_a_worker_reads_the_lists(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_lists, "NAMES_IN_GRAPH", 3)
    monkeypatch.setattr(shard_lists, "NAMES_IN_FILE", 2)
    for shards in (ODD[:1], ODD):
        with beam.Pipeline() as pipeline:
            found = pipeline | ListShards(output, shards) | beam.Map(listed)
            assert_that(found, equal_to(list(map(listed, shards))))


def test_a_run_over_lists_writes_the_same_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pages: None
) -> None:
    for number in range(4):
        write_tar(tmp_path / f"in/{number}.tar", sound_members(2, 10 * number))
    (tmp_path / "in/photos").mkdir()
    (tmp_path / "in/photos/a.jpg").write_bytes(photo(7))
    inputs = (tmp_path / "in/*.tar", tmp_path / "in/photos")
    assert geotagged(tmp_path / "whole", *inputs).status == 0
    monkeypatch.setattr(shard_lists, "NAMES_IN_GRAPH", 1)
    monkeypatch.setattr(shard_lists, "NAMES_IN_FILE", 2)
    read, others, out = [], [], Output(str(tmp_path / "out"))
    real = shard_lists.open_stream

    def opened(url: str) -> object:
        if not read:  # another job begins meanwhile
            others.extend(write_lists(out, ODD))
        read.append(url)
        return real(url)

    monkeypatch.setattr(shard_lists, "open_stream", opened)
    words = [*map(str, inputs), "--output", out.root]
    assert main(words, load=FakeLoader()) == 0
    assert len(read) == 3, "six names in lists of two"
    assert out.names(SHARD_LISTS, "*") == sorted(others) != []
    assert main(words, load=FakeLoader()) == 0, "nothing is left to do"
    whole, found = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert sorted(whole) == sorted(found)
    for name, data in whole.items():
        if name.startswith(("predictions", "errors", "_manifest")):
            assert found[name] == data


def test_what_is_listed_is_listed_again_from_a_list(output: Output, tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/b/c.jpg", "in/b/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(1))
    shards = list_shards([str(tmp_path / "in")], lambda note: None)
    (file,) = write_lists(output, shards)
    again = read_list(file, output)
    assert again == shards and [one.version for one in again] == [one.version for one in shards]
