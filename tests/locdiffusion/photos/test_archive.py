"""The reader of shards loses nothing silently."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locdiffusion.photos.archive import Sample, ShardReader, split_name
from locdiffusion.photos.tar import TarStatus
from schemas.geotags import ErrorRow, Status
from schemas.samples import MAX_IMAGE_BYTES
from support.archives import photo, sound_members, tar_bytes, truth, write_tar


def read(path: Path) -> tuple[list[Sample], list[ErrorRow], ShardReader]:
    reader = ShardReader(str(path))
    items = list(reader)
    samples = [item for item in items if isinstance(item, Sample)]
    return samples, [item for item in items if isinstance(item, ErrorRow)], reader


def webdataset_samples(path: Path) -> dict[str, dict[str, bytes]]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with path.open("rb") as file:
        members = [{**member, "__url__": ""} for member in tar_file_iterator(file)]
    return {sample["__key__"]: sample for sample in group_by_keys(members)}


# Sound shards


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax", "gz"])
def test_agrees_with_webdataset_on_sound_shards(tmp_path: Path, kind: str) -> None:
    long = "d/" * 60 + "é" * 70  # needs an extended header
    members = [
        ("__meta__/info.json", b"{}"),
        (".hidden.jpg", b""),
        *sound_members(9),
        (f"{long}.jpg", photo(1)),
        (f"{long}.json", truth()),
        ("a.b/c.JPG", photo(2)),
        ("a.b/c.seg.png", b"not ours"),
        ("a.b/c.txt", b"nor this"),
    ]
    if kind == "ustar":
        members = [member for member in members if len(member[0]) < 90]
        data = tar_bytes(members, format=tarfile.USTAR_FORMAT)
    elif kind == "gz":
        data = gzip.compress(tar_bytes(members))
    else:
        formats = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
        data = tar_bytes(members, format=formats[kind])
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    samples, errors, reader = read(path)
    oracle = webdataset_samples(path)
    assert errors == [] and reader.status is TarStatus.COMPLETE and reader.message == ""
    assert [sample.key for sample in samples] == list(oracle)
    for sample in samples:
        theirs = oracle[sample.key]
        assert sample.image in [theirs.get(name) for name in ("jpg", "jpeg", "png", "webp")]
        assert sample.metadata == theirs.get("json")
    assert reader.ignored_members == 2


@given(st.text("ab./_é", max_size=12))
def test_key_rule_is_that_of_webdataset(name: str) -> None:
    from webdataset.tariterators import base_plus_ext

    theirs = base_plus_ext(name)
    ours = split_name(name)
    if ours is None:
        assert theirs == (None, None) or name.startswith("__")
    else:
        assert ours == (theirs[0], theirs[1].lower())


def test_an_empty_archive_is_complete(tmp_path: Path) -> None:
    samples, errors, reader = read(write_tar(tmp_path / "s.tar", []))
    assert samples == [] and errors == [] and reader.status is TarStatus.COMPLETE


# Keys and parts


def test_interleaved_keys_are_refused_and_counted(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("b.jpg", photo(2)), ("a.json", truth()), ("b.json", truth())]
    samples, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    assert [sample.key for sample in samples] == ["a", "b"]
    assert [(row.key, row.status) for row in errors] == [
        ("a", Status.DUPLICATE_KEY),
        ("b", Status.DUPLICATE_KEY),
    ]


def test_each_photo_too_many_is_one_error(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.png", photo(2)), ("a.jpeg", photo(3)), ("a.json", truth())]
    samples, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    assert len(samples) == 1 and samples[0].image == photo(1) and samples[0].metadata == truth()
    assert [row.status for row in errors] == [Status.DUPLICATE_KEY] * 2
    assert "holds 3 photos" in errors[0].message


def test_two_truths_are_one_error(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.json", truth(1)), ("a.json", truth(2))]
    _, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    assert [row.status for row in errors] == [Status.BAD_METADATA]


def test_links_are_told_and_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("a.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    samples, errors, reader = read(path)
    assert samples == [] and reader.status is TarStatus.COMPLETE
    assert [row.status for row in errors] == [Status.MISSING_IMAGE]
    assert "--dereference" in errors[0].message


def test_too_many_bytes_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locdiffusion.photos.archive.LIMITS", {"jpg": 700, "json": 20})
    members = [("a.jpg", bytes(701)), ("b.jpg", b"x"), ("b.json", bytes(21)), ("c.jpg", b"y")]
    samples, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    assert [sample.key for sample in samples] == ["c"]
    assert [(row.key, row.status) for row in errors] == [
        ("a", Status.TOO_MANY_BYTES),
        ("b", Status.TOO_MANY_BYTES),
    ]


# Damage


def test_cut_inside_a_payload(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("b.jpg", photo(2)), ("b.json", truth())]
    data = tar_bytes(members)
    path = tmp_path / "s.tar"
    path.write_bytes(data[: data.index(truth()) + 5])
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["a"]
    assert [(row.key, row.status) for row in errors] == [
        ("b", Status.TRUNCATED),
        (None, Status.SHARD_TRUNCATED),
    ]
    assert reader.status is TarStatus.TRUNCATED and "truncated at byte" in reader.message


def test_missing_end_blocks_are_noticed(tmp_path: Path) -> None:
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))])
    path = tmp_path / "s.tar"
    path.write_bytes(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512))
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["a"]  # b may have had a truth
    assert reader.status is TarStatus.TRUNCATED and len(errors) == 2


def test_garbage_in_the_middle_is_named(tmp_path: Path) -> None:
    """webdataset and tarfile stop here without a word."""
    members = [(f"{index}.jpg", photo(index)) for index in range(6)]
    data = tar_bytes(members)
    at = data.index(b"3.jpg")
    path = tmp_path / "s.tar"
    path.write_bytes(data[:at] + b"\xaa" * 2048 + data[at:])
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["0", "1"]
    assert reader.status is TarStatus.CORRUPT and f"corrupt at byte {at}" in reader.message
    assert [(row.key, row.status) for row in errors] == [
        ("2", Status.TRUNCATED),
        (None, Status.SHARD_CORRUPT),
    ]


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", TarStatus.UNREADABLE, "empty"),
        (b"<!DOCTYPE html><html>" + b" " * 2000, TarStatus.UNREADABLE, "did the download fail"),
        (b"\x1f\x8b nonsense", TarStatus.UNREADABLE, "not a tar"),
        (bytes(512), TarStatus.TRUNCATED, "lone zero block"),
        (bytes(512) + b"x" * 512, TarStatus.CORRUPT, "lone zero block"),
        (tar_bytes([]) + tar_bytes([]) + b"x", TarStatus.CORRUPT, "joined with cat"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, data: bytes, status: TarStatus, message: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    samples, errors, reader = read(path)
    assert samples == [] and reader.status is status and message in reader.message
    assert [row.key for row in errors] == [None]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.tar", "cannot be opened"), (tmp_path, "/*.tar")):
        samples, errors, reader = read(path)
        assert samples == [] and reader.status is TarStatus.UNREADABLE
        assert len(errors) == 1 and message in errors[0].message


MEMBERS = sound_members(8)
SOUND = tar_bytes(MEMBERS)
BLOCKS = len(SOUND) // 512


def damaged() -> st.SearchStrategy[bytes]:
    at = st.integers(0, len(SOUND) - 1)
    cut = at.map(lambda i: SOUND[:i])
    flip = st.tuples(at, st.integers(1, 255)).map(
        lambda t: SOUND[: t[0]] + bytes([SOUND[t[0]] ^ t[1]]) + SOUND[t[0] + 1 :]
    )
    insert = st.tuples(at, st.binary(min_size=1, max_size=1500)).map(
        lambda t: SOUND[: t[0]] + t[1] + SOUND[t[0] :]
    )
    blocks = st.integers(0, BLOCKS - 1)
    drop = st.tuples(blocks, st.integers(1, 4)).map(
        lambda t: SOUND[: 512 * t[0]] + SOUND[512 * (t[0] + t[1]) :]
    )
    zeros = blocks.map(lambda i: SOUND[: 512 * i] + bytes(512) + SOUND[512 * (i + 1) :])
    shuffled = st.permutations(MEMBERS).map(tar_bytes)
    repeated = st.lists(st.sampled_from(MEMBERS), max_size=20).map(tar_bytes)
    plain = st.one_of(cut, flip, insert, drop, zeros, shuffled, repeated)
    packed = st.tuples(st.just(gzip.compress(SOUND, mtime=0)), st.floats(0, 0.999)).map(
        lambda t: t[0][: int(t[1] * len(t[0]))]
    )
    return st.one_of(plain, packed, plain.map(gzip.compress))


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(data=damaged())
def test_never_a_crash_a_half_sample_or_a_silent_loss(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data)
    samples, errors, reader = read(path)
    keys = [sample.key for sample in samples]
    assert len(set(keys)) == len(keys)
    shard_rows = [row for row in errors if row.key is None]
    assert len(shard_rows) == (reader.status is not TarStatus.COMPLETE)
    if reader.status is TarStatus.COMPLETE:
        # Everything that is in the archive is a sample or an error.
        stored = {name.rpartition(".")[0] for name in _names(data)}
        assert {*keys, *(row.key for row in errors)} == stored


def _names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(at=st.integers(0, len(SOUND) - 1))
def test_a_cut_archive_yields_whole_samples_in_order(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    path.write_bytes(SOUND[:at])
    samples, errors, reader = read(path)
    whole = dict(MEMBERS)
    order = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in MEMBERS))
    assert [sample.key for sample in samples] == order[: len(samples)]
    for sample in samples:
        assert sample.metadata == whole.get(f"{sample.key}.json")
        assert sample.image in whole.values()
    keyed = [row.key for row in errors if row.key is not None]
    assert keyed in ([], [order[len(samples)]] if len(samples) < len(order) else [])
    padding = len(SOUND) - len(SOUND.rstrip(b"\0"))
    if at < len(SOUND) - padding:
        assert reader.status is not TarStatus.COMPLETE


def test_a_hostile_size_costs_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = MAX_IMAGE_BYTES
    path = tmp_path / "s.tar"
    path.write_bytes(info.tobuf())
    _, errors, reader = read(path)
    assert reader.status is TarStatus.TRUNCATED and errors[0].status is Status.TRUNCATED
    info.size = 2**60
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    assert read(path)[2].status is TarStatus.TRUNCATED
    for digits, status in ((18, TarStatus.TRUNCATED), (19, TarStatus.CORRUPT)):
        record = b" size=" + b"9" * digits + b"\n"
        record = str(len(record) + 2).encode() + record
        pax = tarfile.TarInfo("pax")
        pax.type, pax.size, info.size = tarfile.XHDTYPE, len(record), 0
        path.write_bytes(pax.tobuf() + record.ljust(512, b"\0") + info.tobuf())
        assert read(path)[2].status is status, digits
