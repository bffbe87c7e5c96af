"""Shards and output on gs://, against a storage on loopback: rows as on disk, and resuming."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.photos import storage as product_storage
from locdiffusion.photos.archive import ShardReader
from locdiffusion.photos.listing import list_shards, shard_id
from pipelines.geotag import command as geotag
from pipelines.geotag.command import main
from pipelines.geotag.manifests import ManifestName, manifest_mark
from pipelines.geotag.options import parse
from pipelines.geotag.output import Output
from support import without_beam, without_pages
from support.archives import bad_members, photo, sound_members, tar_bytes, zip_bytes
from support.fake_geotagger import FakeLoader
from support.outputs import plain, tree
from support.servers import Bucket, Request, storage

SHARDS = {
    "val-000": tar_bytes(sound_members(12)),
    "val-001": tar_bytes(sound_members(12, 20), mode="w:gz", compresslevel=0),
    "bad-0": tar_bytes([member for members, _ in bad_members().values() for member in members]),
    "cut-0": tar_bytes(sound_members(9, 60))[:9000],
}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with storage(tmp_path_factory.mktemp("storage")) as bucket:
        yield bucket


@pytest.fixture
def bucket(emulated: Bucket) -> Iterator[Bucket]:
    """An emptied bucket with the shards in it, and gcsfs knowing nothing of what was there."""
    emulated.empty()
    emulated.fill({f"in/{name}.tar": data for name, data in SHARDS.items()})
    emulated.requests.clear()
    yield emulated
    emulated.fail = lambda request: None


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the same shards give on disk."""
    root = tmp_path_factory.mktemp("local")
    for name, data in SHARDS.items():
        (root / f"{name}.tar").write_bytes(data)
    command = [f"{root}/*.tar", "--output", f"{root}/out", "--accept-damaged"]
    with without_pages(), without_beam():
        assert main(command, load=FakeLoader()) == 0
    return root / "out"


@pytest.fixture
def no_pages() -> Iterator[None]:
    with without_pages():
        yield


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(product_storage.READ_AHEAD, "block_size", 2048)
    return 2048


def run(bucket: Bucket, *flags: str, shards: str = "*", load: FakeLoader | None = None) -> int:
    command = ["--input", f"{bucket.url}/in/{shards}.tar", "--output", f"{bucket.url}/out"]
    return main([*command, "--accept-damaged", *flags], load=load or FakeLoader())


def written(bucket: Bucket) -> dict[str, bytes]:
    """The objects of the output directory, by name without the hashes of shard ids.

    Left out is what tells of the time and the machine of a run.
    """
    files = fsspec.filesystem("gs")
    files.invalidate_cache()
    root = bucket.url.removeprefix("gs://") + "/out/"
    names = (name for name in files.find(root) if not name.endswith("/provenance.json"))
    return {plain(name.removeprefix(root)): files.cat_file(name) for name in names}


def on_disk(root: Path) -> dict[str, bytes]:
    return {plain(name): data for name, data in tree(root).items()}


def rows_of(files: dict[str, bytes]) -> dict[str, pa.Table]:
    """The tables, without the column of shard ids, which tell where a shard lies."""
    return {
        name: pq.read_table(io.BytesIO(data)).drop_columns("shard")
        for name, data in parquet(files).items()
    }


def table(tree: dict[str, bytes], name: str) -> pandas.DataFrame:
    """Not by its URL: pandas would take another client, which waits for Google's real servers."""
    return pandas.read_parquet(io.BytesIO(tree[name]))


def parquet(tree: dict[str, bytes]) -> dict[str, bytes]:
    """The parts; the digest tells where their shards lie."""
    return {name: data for name, data in tree.items() if name.endswith(".parquet") and "/" in name}


def summary_of(bucket: Bucket) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(written(bucket)["summary.json"])
    return summary


def downloads(bucket: Bucket, name: str) -> list[Request]:
    return [r for r in bucket.requests if r.path.startswith("/download/") and name in r.path]


# The same as on disk


def test_rows_counts_and_maps_as_on_disk(bucket: Bucket, local: Path) -> None:
    assert run(bucket) == 0
    found = written(bucket)
    wanted = on_disk(local)
    assert set(found) == {*wanted, "map.png", "map.html", "report.html"}
    assert found["map.png"].startswith(b"\x89PNG") and b"12" in found["map.html"]
    assert rows_of(found) == rows_of(wanted)
    for name in found:
        if name.startswith("_manifest/"):
            one, other = json.loads(found[name]), json.loads(wanted[name])
            name = plain(one["shard"])
            assert one.pop("source") == f"{bucket.url}/in/{name}.tar"
            assert one.pop("shard") == shard_id(f"{name}.tar", f"{bucket.url}/in/{name}.tar")
            del other["source"], other["shard"], one["version"], other["version"]
            assert one == other
    summary, wanted_summary = json.loads(found["summary.json"]), json.loads(wanted["summary.json"])
    elsewhere = (*geotag.TIMES, "damaged")
    assert {**summary, **{name: wanted_summary[name] for name in elsewhere}} == wanted_summary
    messages = [[one["message"] for one in s["damaged"]] for s in (summary, wanted_summary)]
    assert messages[0] == messages[1] and len(messages[0]) == 1
    frame = geopandas.read_parquet(io.BytesIO(found["predictions/part-val-000.parquet"]))
    assert len(frame) == 12 and frame.crs == "OGC:CRS84"
    errors = table(found, "errors/part-cut-0.parquet")
    assert list(errors.status) == ["shard_truncated", "truncated"]


def test_resuming_reads_and_writes_only_what_is_missing(bucket: Bucket, no_pages: None) -> None:
    assert run(bucket) == 0
    first = written(bucket)
    bucket.requests.clear()
    assert run(bucket) == 0
    assert written(bucket) == first, "the same summary, too"
    wrote = [r.path for r in bucket.requests if r.method != "GET"]
    assert len(wrote) == 2, "run.json and summary.json"  # and no part, no manifest, no deletion
    assert not [r for r in downloads(bucket, "tar") if r.range]
    stopped_at = shard_id("val-001.tar", f"{bucket.url}/in/val-001.tar")
    manifest = Output(f"{bucket.url}/out").manifest_files()[stopped_at]
    fsspec.filesystem("gs").rm(f"{bucket.url}/out/_manifest/{manifest.file}")
    bucket.requests.clear()
    assert run(bucket) == 0
    assert not downloads(bucket, "val-000.tar") and downloads(bucket, "val-001.tar")
    assert {**written(bucket), "summary.json": b""} == {**first, "summary.json": b""}


@pytest.mark.usefixtures("plain_loop")
def test_overwriting_and_refusing(
    bucket: Bucket, no_pages: None, capsys: pytest.CaptureFixture
) -> None:
    assert run(bucket, shards="val-*") == 0
    first = written(bucket)
    theirs = f"{bucket.url}/out/notes.txt"
    fsspec.filesystem("gs").pipe_file(theirs, b"keep")
    assert run(bucket, "--seed=3", shards="val-*", load=FakeLoader(3)) == 2
    assert "seed 0 there, 3 now" in capsys.readouterr().err
    assert parquet(written(bucket)) == parquet(first)
    assert run(bucket, "--seed=3", "--overwrite", shards="val-000", load=FakeLoader(3)) == 0
    second = written(bucket)
    assert second["notes.txt"] == b"keep"
    names = ["errors/part-val-000.parquet", "predictions/part-val-000.parquet"]
    assert sorted(parquet(second)) == names
    assert all(second[name] != first[name] for name in names)


@pytest.mark.usefixtures("plain_loop")
def test_summarise_reads_the_bucket(bucket: Bucket, no_pages: None) -> None:
    assert run(bucket) == 0
    first = summary_of(bucket)
    fsspec.filesystem("gs").rm(f"{bucket.url}/out/summary.json")
    assert main(["--output", f"{bucket.url}/out", "--summarise", "--accept-damaged"]) == 0
    again = summary_of(bucket)
    assert again == {name: first[name] for name in again} and again["photos"] == first["photos"]


@pytest.mark.usefixtures("plain_loop")
def test_a_folder_of_photos(bucket: Bucket, no_pages: None) -> None:
    for index in range(3):
        fsspec.filesystem("gs").pipe_file(f"{bucket.url}/photos/{index}.jpg", photo(index))
    output = f"{bucket.url}/out"
    command = ["--input", f"{bucket.url}/photos", "--output", output]
    assert main(command, load=FakeLoader()) == 0
    assert summary_of(bucket)["predictions"] == 3


# Reading


def test_a_shard_is_read_in_blocks_and_never_held_whole(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(product_storage.READ_AHEAD, "block_size", 2**16)
    noise = np.random.default_rng(0).bytes(300_000)
    data = tar_bytes([(f"{index:02d}.jpg", noise) for index in range(20)])
    fsspec.filesystem("gs").pipe_file(f"{bucket.url}/big.tar", data)
    held = []
    with product_storage.open_stream(f"{bucket.url}/big.tar") as stream:
        cache = stream._file.cache
        while part := stream.read(100_000):
            held.append(cache._fetch_block_cached.cache_info().currsize)
            assert part
    assert max(held) <= product_storage.BLOCKS_HELD
    reader = ShardReader(f"{bucket.url}/big.tar")
    bucket.requests.clear()
    assert sum(1 for _ in reader) == 20 and reader.message == ""
    reads = bucket.reads("big.tar")
    assert len(reads) == -(-len(data) // 2**16), "each byte once, also of members of five blocks"
    assert max(last - first + 1 for first, last in reads) == 2**16
    assert reads == sorted(reads)


def test_a_zip_is_read_by_its_directory(bucket: Bucket) -> None:
    noise = np.random.default_rng(0).bytes(300_000)
    members = [("a.jpg", photo(1)), ("film.mov", noise * 90), ("b.jpg", photo(2))]
    data = zip_bytes(members, zipfile.ZIP_STORED)
    fsspec.filesystem("gs").pipe_file(f"{bucket.url}/s.zip", data)
    bucket.requests.clear()
    reader = ShardReader(f"{bucket.url}/s.zip")
    assert [item.key for item in reader] == ["a", "b"] and reader.message == ""
    reads = bucket.reads("s.zip")
    assert sum(last - first + 1 for first, last in reads) < len(data), "what is left out is skipped"


def answers(bucket: Bucket, status: int, when: Callable[[Request], bool], times: int = 99) -> None:
    """Lets some reads of content fail."""
    left = [times]

    def fail(request: Request) -> int | None:
        if left[0] and request.range and when(request):
            left[0] -= 1
            return status
        return None

    bucket.fail = fail


def beyond(first_byte: int, name: str) -> Callable[[Request], bool]:
    def late(request: Request) -> bool:
        first = int(re.findall(r"\d+", request.range or "0")[0])
        return name in request.path and first >= first_byte

    return late


@pytest.mark.usefixtures("plain_loop")
def test_a_hiccup_of_the_network_is_not_seen(
    bucket: Bucket, local: Path, small_blocks: int, no_pages: None
) -> None:
    answers(bucket, 503, beyond(small_blocks, "val-000.tar"), times=1)
    assert run(bucket) == 0
    part = "predictions/part-val-000.parquet"
    assert rows_of(written(bucket))[part] == rows_of(on_disk(local))[part]
    offsets = [first for first, _ in bucket.reads("val-000.tar")]
    assert len(offsets) == len(set(offsets)) + 1, "one was asked for twice"


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize(
    ("shard", "status", "why"),
    [("val-000", 404, "FileNotFoundError"), ("val-001", 403, "Forbidden")],
    ids=["tar that vanished", "gzip that was locked"],
)
def test_what_cannot_be_read_on_costs_the_rest_of_its_shard_until_it_can(
    bucket: Bucket,
    local: Path,
    small_blocks: int,
    no_pages: None,
    capsys: pytest.CaptureFixture,
    shard: str,
    status: int,
    why: str,
) -> None:
    answers(bucket, status, beyond(6 * small_blocks, f"{shard}.tar"))
    assert run(bucket) == 1
    told = capsys.readouterr().err
    assert (
        f"error: not everything in {shard} could be read" in plain(told) and "same command" in told
    )
    summary = summary_of(bucket)
    assert list(map(plain, summary["read_again"])) == [shard] and summary["mismatches"] == []
    assert summary["shards"]["unreadable"] == 1 and summary["shards"]["complete"] == 2
    errors = table(written(bucket), f"errors/part-{shard}.parquet")
    rows = errors[errors.key.isna()]
    assert list(rows.status) == ["shard_unreadable"]
    assert why in rows.message.iloc[0] and "unreadable at byte" in rows.message.iloc[0]
    part = f"predictions/part-{shard}.parquet"
    found, wanted = (table(files, part) for files in (written(bucket), on_disk(local)))
    assert len(found) < len(wanted) and (len(found) or shard == "val-001")  # gzip reads far ahead
    rest = wanted[wanted.key.isin(found.key)].reset_index(drop=True)
    # Of no rows pandas gives whole numbers another type.
    pandas.testing.assert_frame_equal(
        found.drop(columns="shard"),
        rest.drop(columns="shard"),
        check_exact=True,
        check_dtype=len(found) > 0,
    )

    bucket.fail = lambda request: None
    bucket.requests.clear()
    assert run(bucket) == 0
    assert {name for name in SHARDS if downloads(bucket, f"{name}.tar")} == {shard}
    assert rows_of(written(bucket)) == rows_of(on_disk(local))
    assert summary_of(bucket)["read_again"] == []


@pytest.mark.usefixtures("plain_loop")
def test_a_shard_that_is_gone_before_it_is_opened(
    bucket: Bucket, no_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, then removed by somebody else."""
    real = geotag.list_shards

    def then_removed(*args: Any) -> Any:
        shards = real(*args)
        files = fsspec.filesystem("gs")
        files.rm(f"{bucket.url}/in/val-000.tar")
        files.invalidate_cache()
        return shards

    monkeypatch.setattr(geotag, "list_shards", then_removed)
    assert run(bucket) == 1
    errors = table(written(bucket), "errors/part-val-000.parquet")
    assert list(errors.status) == ["shard_unreadable"] and "cannot be opened" in errors.message[0]
    assert list(map(plain, summary_of(bucket)["read_again"])) == ["val-000"]
    assert summary_of(bucket)["shards"]["complete"] == 2


# Listings


@pytest.mark.parametrize(
    "pattern", ["many/*.tar", "many", "many/{00..39}.tar", "many/{00..01}/{00..39}.tar"]
)
def test_a_start_asks_no_more_for_many_shards_than_for_few(
    bucket: Bucket, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = ("many/00", "many/01") if pattern.count("{") > 1 else ("many",)
    names = [f"{folder}/{n:02d}.tar" for folder in folders for n in range(40)]
    bucket.fill(dict.fromkeys(names, SHARDS["val-000"]))
    options = parse([f"{bucket.url}/{pattern}", "--output", f"{bucket.url}/out"])
    bucket.requests.clear()
    job = geotag.build(options, FakeLoader())
    assert len(job.unfinished) == len(names) and len(bucket.requests) < 60
    bucket.fill(
        {
            place.removeprefix(f"{bucket.url}/"): b"0"
            for shard in job.shards
            for mark in (manifest_mark(job.configuration.hash, shard.version),)
            for place in (
                job.output.path("_manifest", ManifestName(shard.id, mark).file),
                *(job.output.part(layer, shard.id) for layer in ("predictions", "errors")),
            )
        }
    )
    bucket.requests.clear()
    assert geotag.build(options, FakeLoader()).unfinished == ()
    assert len(bucket.requests) < 35, [request.path for request in bucket.requests]


@pytest.mark.usefixtures("plain_loop")
def test_what_changes_between_listing_and_reading_is_done_by_the_next_run(
    bucket: Bucket, no_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, files, place = geotag.list_shards, fsspec.filesystem("gs"), f"{bucket.url}/in/val-000.tar"

    def then_written(*args: Any) -> Any:
        shards = real(*args)
        files.pipe_file(place, tar_bytes(sound_members(3, 40)))
        return shards

    with monkeypatch.context() as patch:
        patch.setattr(geotag, "list_shards", then_written)
        assert run(bucket, shards="val-*") == 0
    bucket.requests.clear()
    assert run(bucket, shards="val-*") == 0
    assert downloads(bucket, "val-000.tar") and not downloads(bucket, "val-001.tar")
    bucket.requests.clear()
    assert run(bucket, shards="val-*") == 0 and not downloads(bucket, "val-000.tar")


def test_a_listing_says_the_same_as_a_look_at_the_file(bucket: Bucket) -> None:
    place = f"{bucket.url}/in/val-000.tar"
    (named,) = list_shards([place])
    for pattern in (f"{bucket.url}/in/val-000*", f"{bucket.url}/in/{{val-000,val-001}}.tar"):
        shard = next(one for one in list_shards([pattern]) if one.url == place)
        assert shard.version == named.version


# Refusals


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "gs://nowhere-bucket/*.tar"], "cannot be listed (FileNotFoundError"),
        (["--input", "gs://nowhere-bucket/a.tar"], "no file matches 'gs://nowhere-bucket/a.tar'"),
        (["--output", "gs://nowhere-bucket/out"], "cannot be used (FileNotFoundError"),
    ],
)
def test_a_bucket_that_is_not_there(
    bucket: Bucket, capsys: pytest.CaptureFixture, flags: list[str], message: str
) -> None:
    command = ["--input", f"{bucket.url}/in/*.tar", "--output", f"{bucket.url}/out", *flags]
    assert main(command, load=FakeLoader()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1


@pytest.mark.usefixtures("plain_loop")
def test_a_bucket_that_may_not_be_read_or_written(
    bucket: Bucket, capsys: pytest.CaptureFixture
) -> None:
    bucket.fail = lambda request: 401 if "prefix=in" in request.path else None
    assert run(bucket) == 2
    assert "gcloud auth application-default login" in capsys.readouterr().err
    bucket.fail = lambda request: 403 if request.method == "POST" else None
    assert run(bucket) == 2
    assert "you may list and write it" in capsys.readouterr().err
