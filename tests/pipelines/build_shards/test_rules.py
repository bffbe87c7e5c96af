"""The rules of a build as plain functions: filters, caps, cells, chance, ranges, shards."""

from __future__ import annotations

import bz2
import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError
from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.build_shards import metadata, tables
from pipelines.build_shards.equal_area_cells import Cells
from pipelines.build_shards.file_ranges import FileRange, line_ranges, lines_of
from pipelines.build_shards.filters import LICENCES, UNKNOWN, Filters, licence_code
from pipelines.build_shards.settings import Inputs, Route, Rules, Source
from pipelines.build_shards.shard_writer import ShardSample, ShardWriter, copy_without, member_key
from pipelines.build_shards.stable_hash import stable_hashes, uniform_numbers
from pipelines.sources import lines as lines_module
from pipelines.sources.lines import read_lines
from pipelines.sources.record import ImageRef, Record
from schemas.training import DropReason
from support.flickr import BY, BY_NC

RECORD = Record("1", "5@N00", 10.0, 20.0, "yfcc100m", accuracy=14, licence=BY[1])


# Filters


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"is_photo": False}, DropReason.NOT_A_PHOTO),
        ({"latitude": 0.0, "longitude": 0.0}, DropReason.ZERO_COORDINATES),
        ({"latitude": -0.0, "longitude": 0.0}, DropReason.ZERO_COORDINATES),
        ({"latitude": 0.0}, None),
        ({"accuracy": 13}, DropReason.LOW_ACCURACY),
        ({"accuracy": None}, DropReason.LOW_ACCURACY),
        ({"licence": BY_NC[1]}, DropReason.LICENCE),
        ({"licence": None}, DropReason.LICENCE),
    ],
)
def test_filters(change: dict, reason: DropReason | None) -> None:
    drop = Filters(min_accuracy=14, licences=("by", "cc0")).check(replace(RECORD, **change))
    assert (drop and drop.reason) == reason
    if drop is not None:
        assert drop.key == "1" and drop.detail


def test_without_rules_all_but_videos_and_zeros_stay() -> None:
    bare = replace(RECORD, accuracy=None, licence=None)
    assert Filters().check(bare) is None
    assert Filters().check(replace(bare, is_photo=False)) is not None


def test_licences_by_address_and_by_name() -> None:
    for code, name in LICENCES.items():
        assert licence_code(name) == code, name
        assert licence_code(name.upper()) == code
    for code in ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"):
        assert licence_code(f"http://creativecommons.org/licenses/{code}/2.0/") == code
    assert licence_code("https://creativecommons.org/publicdomain/zero/1.0/") == "cc0"
    assert licence_code("http://creativecommons.org/publicdomain/mark/1.0/") == "pd"
    assert licence_code("http://flickr.com/commons/usage/") == "none"
    for other in (None, "", "All Rights Reserved", "http://creativecommons.org/licenses/xx/2.0/"):
        assert licence_code(other) == UNKNOWN


# Chance


def test_ranks_depend_on_name_seed_and_purpose_alone() -> None:
    names = [f"photo{i}" for i in range(1000)]
    first = stable_hashes(names, 0)
    assert (first[::-1] == stable_hashes(names[::-1], 0)).all() and len(set(first.tolist())) == 1000
    for other in (stable_hashes(names, 1), stable_hashes(names, 0, b"split")):
        assert not (first == other).any()
        assert abs(np.corrcoef(first.astype(float), other.astype(float))[0, 1]) < 0.15
    # These very numbers are part of what "same seed, same bytes" means from one version to another.
    assert stable_hashes(["3228511372"], 0).tolist() == [RANK_OF_3228511372]


RANK_OF_3228511372 = 14859089624380852295


def test_chances_are_uniform() -> None:
    drawn = np.sort(uniform_numbers([str(i) for i in range(10_000)], 7))
    assert drawn[0] >= 0 and drawn[-1] < 1
    # Kolmogorov-Smirnov at 10,000 draws: 0.02 is exceeded once in a thousand times.
    assert np.abs(drawn - (np.arange(10_000) + 0.5) / 10_000).max() < 0.02


# Caps


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 5), max_size=60), st.integers(1, 9), st.integers(0, 2**32))
@example([], 1, 0)
def test_caps_keep_the_smallest_ranks(groups: list[int], cap: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(groups)).astype(np.uint64)
    kept = metadata.within_cap(np.array(groups, np.int64), order, cap)
    for group in set(groups):
        rows = sorted((order[i], bool(kept[i])) for i in range(len(groups)) if groups[i] == group)
        wanted = len(rows) if group < 0 else min(cap, len(rows))
        assert [stays for _, stays in rows] == [True] * wanted + [False] * (len(rows) - wanted)


# Cells


@pytest.mark.parametrize("degrees", [0.25, 1.0, 7.0, 90.0])
def test_a_cell_is_around_its_middle(degrees: float, rng: np.random.Generator) -> None:
    cells = Cells(degrees)
    latitude = np.concatenate([rng.uniform(-90, 90, 3000), [-90, 90, 0, 45, -45, 90]])
    longitude = np.concatenate([rng.uniform(-180, 180, 3000), [0, 0, 180, -180, 180, 180]])
    index = cells.index(latitude, longitude)
    assert index.min() >= 0 and index.max() < cells.columns.sum()
    middle = cells.centres(index)
    assert (cells.index(*middle) == index).all()
    assert (np.abs(latitude - middle[0]) <= 90 / cells.bands + 1e-9).all()
    off = great_circle_km(latitude, longitude, *middle)
    # Half the diagonal of a square; at the poles a cell is a triangle, its tip 1 degree away.
    assert off.max() < 111.3 * degrees * 1.3


def test_cells_of_one_degree_have_nearly_one_area() -> None:
    cells = Cells(1.0)
    edges = np.sin(np.radians(np.linspace(-90, 90, cells.bands + 1)))
    area = np.diff(edges) / cells.columns
    inner = area[5:-5]
    assert inner.max() / inner.min() < 1.2
    assert cells.columns.sum() == pytest.approx(4 * 180**2 / np.pi, rel=0.01)


def test_names_of_cells_are_different_and_legible() -> None:
    cells = Cells(0.25)
    names = cells.names(np.arange(0, cells.columns.sum(), 7))
    assert len(set(names)) == len(names)
    paris = cells.names(cells.index([48.86], [2.35]))[0]
    assert paris[:3] == "N48" and paris[7:12] == "E002."
    assert cells.index([10.0], [180.0]) == cells.index([10.0], [-180.0])


@pytest.mark.parametrize("degrees", [0.0, 0.001, 91.0, float("nan")])
def test_cells_that_cannot_be(degrees: float) -> None:
    with pytest.raises(ValueError, match=r"wanted 0\.01 to 90"):
        Cells(degrees)


# Splits and shards


def records(count: int, authors: int = 50) -> list[Record]:
    return [Record(str(i), f"{i % authors}@N00", 1.0, 2.0, "mp16") for i in range(count)]


def test_all_photos_of_a_photographer_are_for_the_same() -> None:
    table = tables.record_table(records(2000, authors=300), seed=0)
    held_out = metadata.for_validation(table, Rules(val_fraction=0.2))
    authors = np.array(table["author"].to_pylist())
    assert not set(authors[held_out]) & set(authors[~held_out])
    assert 0.12 < len(set(authors[held_out])) / 300 < 0.28
    other = metadata.for_validation(table, Rules(val_fraction=0.2, seed=1))
    assert (other != held_out).any()
    assert metadata.for_validation(table, Rules(val_fraction=0.0)).sum() == 0
    assert metadata.for_validation(table, Rules(val_fraction=1.0)).all()


def test_unknown_photographers_are_not_one() -> None:
    unknown = [replace(record, author="") for record in records(1000)]
    table = tables.record_table(unknown, seed=0)
    rules = Rules(val_fraction=0.3, author_cap=2)
    assert 0.25 < metadata.for_validation(table, rules).mean() < 0.35
    assert metadata.cap_authors(table, rules)[0].num_rows == 1000


@pytest.mark.parametrize("count", [1, 999, 10_000])
def test_shards_are_of_about_the_size_asked_for(count: int) -> None:
    rules = Rules(val_fraction=0.1, shard_size=1000)
    table = tables.record_table(records(count), seed=3)
    shards = metadata.shard_counts(metadata.count_splits(table, rules), rules)
    parts = dict(metadata.plan_tables(table, shards, rules))
    assert sum(map(len, parts.values())) == count
    assert parts.keys() <= set(metadata.shard_names(shards))
    if count == 10_000:
        sizes = [len(part) for name, part in parts.items() if name.startswith("train")]
        # A binomial: four standard deviations of 1000 are 120.
        assert all(850 < size < 1150 for size in sizes)
    for part in parts.values():
        assert (np.diff(part["rank"].to_numpy().astype(float)) >= 0).all()


# Links


def linked(route: Route, links: list, listed: list[Record]) -> tuple[dict, Counter]:
    inputs = Inputs(Source.MP16, route, (), (), "root")
    table = tables.record_table(listed, seed=0)
    table, drops = metadata.link(table, tables.link_table(links), inputs)
    return {record.key: record for record in tables.records(table)}, Counter(
        (drop.key, drop.reason.value) for drop in drops
    )


def test_images_are_found_whatever_the_spelling_of_the_id() -> None:
    image = ImageRef("msgpack", "shard_0.msg", 10, 20)
    listed = [replace(RECORD, key="45/77/7.jpg"), replace(RECORD, key="45/77/8.jpg")]
    kept, dropped = linked(Route.MESSAGES, [("7", image), ("99", image)], listed)
    assert kept == {"45/77/7.jpg": replace(listed[0], image=image)}
    assert dropped == {("45/77/8.jpg", "no_image"): 1}


def test_a_hash_becomes_a_path_and_a_rows_own_goes_before_it() -> None:
    own, other = "ab" * 16, "cd" * 16
    listed = [
        replace(RECORD, key="1"),
        replace(RECORD, key="2", hash=own, image=ImageRef("file", "x")),
    ]
    kept, dropped = linked(Route.HASH, [("1", other), ("2", other)], listed)
    assert kept["1"].image == ImageRef("file", f"root/cdc/dcd/{other}.jpg")
    assert kept["1"].hash == other and kept["2"].hash == own
    assert kept["2"].image == ImageRef("file", "x") and not dropped


def test_of_records_and_links_of_one_photo_the_same_one_stays() -> None:
    """Whatever the order in which they come."""
    listed = [replace(RECORD, key="1", latitude=latitude) for latitude in (3.0, 1.0, 2.0)]
    links = [("1", ImageRef("msgpack", "b", 5, 6)), ("1.jpg", ImageRef("msgpack", "a", 7, 8))]
    results = [linked(Route.MESSAGES, links[::step], listed[::step]) for step in (1, -1)]
    assert results[0] == results[1]
    assert results[0][1] == {("1", "duplicate_id"): 2}


def test_keys_of_other_shards_are_the_same_only_if_they_are_equal() -> None:
    listed = [replace(RECORD, key=key, source="webdataset") for key in ("a/0001", "b/0001", "0001")]
    assert len({tables.identity(record) for record in listed}) == 3
    flickr = [replace(RECORD, key=key) for key in ("a/1.jpg", "1")]
    assert len({tables.identity(record) for record in flickr}) == 1


def test_records_come_back_from_columns_as_they_were() -> None:
    full = replace(RECORD, image=ImageRef("tar", "a.tar", 512, 9), url="http://x/y", hash="h")
    listed = [full, Record("2/é", "", -90.0, 180.0, "webdataset")]
    table = tables.record_table(listed, seed=0)
    table = tables.from_bytes(
        [tables.to_bytes(table), tables.to_bytes(table.slice(0, 0))], tables.RECORDS
    )
    assert list(tables.records(table)) == listed


# Pieces


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    .map(lambda data: data.replace(b"a", b"\n"))
    .filter(lambda data: data[:2] not in (b"BZ", b"\x1f\x8b")),
    st.integers(1, 40),
)
@example(b"\n", 1)
@example(b"one\ntwo", 3)
@example(b"one\ntwo\n", 4)
def test_ranges_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "lines.txt"
    path.write_bytes(data)
    cut = line_ranges("records", [str(path)], range_bytes=size)
    lines = [line for span in cut for line in lines_of(span)]
    assert lines == list(read_lines(str(path)))
    assert [span.id for span in cut] == [f"records-{i:05d}" for i in range(len(cut))]


def test_lines_longer_than_a_chunk_are_cut_in_ranges_as_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "CHUNK", 7)
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\n".join(b"x" * length for length in range(40)))
    for size in (1, 5, 7, 100, 10_000):
        cut = line_ranges("records", [str(path)], range_bytes=size)
        found = [line for span in cut for line in lines_of(span)]
        assert found == [b"x" * length for length in range(40)]


def test_a_bzip2_is_one_range_and_a_gzip_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "list.bz2"
    packed.write_bytes(bz2.compress(b"a\nb\n" * 1000))
    (span,) = line_ranges("records", [str(packed)], range_bytes=10)
    assert span == FileRange("records-00000", str(packed))
    assert sum(1 for _ in lines_of(span)) == 2000
    (tmp_path / "list.gz").write_bytes(b"\x1f\x8b...")
    with pytest.raises(DataError, match="gunzip it"):
        line_ranges("records", [str(tmp_path / "list.gz")])


def test_files_by_glob_and_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a-000.csv", "a-001.csv", "b.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    wanted = [str(tmp_path / name) for name in ("a-000.csv", "a-001.csv")]
    assert expand_patterns(["a-{000..001}.csv", "a-*.csv"]) == wanted
    with pytest.raises(DataError, match=r"no file matches 'c-\*.csv'"):
        expand_patterns(["c-*.csv"])


# Tars


def samples(count: int) -> list[ShardSample]:
    return [
        ShardSample(f"{index}", bytes([index]) * 700, 1.0 + index, -2.5, np.float16([index, 0.5]))
        for index in range(count)
    ]


def packed(chosen: list[ShardSample]) -> bytes:
    buffer = io.BytesIO()
    with ShardWriter(buffer) as writer:
        for sample in chosen:
            writer.add(sample)
    return buffer.getvalue()


def test_a_copy_without_some_is_as_if_they_had_never_been_written() -> None:
    everything, target = samples(9), io.BytesIO()
    copy_without(io.BytesIO(packed(everything)), target, {"0", "4", "8"})
    assert target.getvalue() == packed([s for s in everything if s.key not in ("0", "4", "8")])


def test_webdataset_reads_what_was_written() -> None:
    stream = io.BytesIO(packed(samples(3)))
    read = list(group_by_keys(tar_file_expander([{"url": "-", "stream": stream}])))
    assert [sample["__key__"] for sample in read] == ["0", "1", "2"]
    assert read[1]["jpg"] == b"\1" * 700
    assert read[1]["json"] == b'{"latitude": 2.0, "longitude": -2.5}'
    embedding = np.load(io.BytesIO(read[1]["npy"]))
    assert embedding.dtype == np.float16 and embedding.tolist() == [1.0, 0.5]


def test_tars_hold_nothing_of_the_time_or_the_user() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(samples(2)))) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname, member.mode) == ("", "", 0o644)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=120), unique=True, min_size=2, max_size=8))
@example(["a.b", "a_b", "a/b"])
@example(["x" * 120, "x" * 119])
@example(["a b", member_key("a b")])
def test_keys_of_members_are_safe_and_different(photos: list[str]) -> None:
    keys = [member_key(photo) for photo in photos]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert key.isascii() and not set(key) & set("./\\ \n") and len(key) < 95


def test_an_id_stays_as_it_is() -> None:
    assert member_key("3228511372") == "3228511372"
