"""The reader of shards loses nothing silently."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.labelled_samples import read_images, read_samples
from locdiffusion.photos.names import NameKind
from locdiffusion.photos.storage import DataError
from schemas.geotags import ErrorRow, Status
from schemas.samples import MAX_IMAGE_BYTES, Truth
from support.archives import photo, sound_members, tar_bytes, truth, write_tar, zip_bytes


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
        ("a.b/c.txt", b"not ours"),
        ("a.b/c.cls.npy", b"nor this"),
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
    kinds = {"__meta__": 1, "hidden": 1, ".txt": 1, ".npy": 1}
    assert reader.left_out.counts == kinds


def test_differs_from_webdataset_where_names_have_dots(tmp_path: Path) -> None:
    """To webdataset five photos of one day are one sample of five parts, or none."""
    names = [f"WhatsApp Image 2020-01-01 at 12.00.0{second}.jpeg" for second in range(5)]
    names += ["2019.07.14.jpg", "PXL_1.PORTRAIT.jpg", "IMG_1.edited.jpg", "IMG_1.jpg", "d/-.a.PNG"]
    members = [(name, photo(index)) for index, name in enumerate(names)]
    path = write_tar(tmp_path / "s.tar", members)
    samples, errors, _ = read(path)
    assert errors == []
    assert [(sample.key, sample.image) for sample in samples] == [
        (name.rpartition(".")[0], data) for name, data in members
    ]
    assert len(webdataset_samples(path)) == 5


def test_differs_from_webdataset_where_a_sample_has_several_photos(tmp_path: Path) -> None:
    """Each is a photo; training takes the first, as webdataset's users do."""
    members = [("0.jpg", photo(0)), ("0.json", truth()), ("0.mask.png", photo(1)), ("0.npy", b"x")]
    members += [("1.jpg", photo(2)), ("1.webp", photo(3)), ("1.json", truth(1))]
    path = write_tar(tmp_path / "s.tar", members)
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["0", "0.mask", "1", "1.webp"] and errors == []
    assert list(webdataset_samples(path)) == ["0", "1"]
    assert reader.late == {} and samples[1].sidecar == samples[0].sidecar
    trained = list(read_samples(str(path), {"npy": 9}))
    assert [(sample.key, sample.image, sample.extras) for sample, _ in trained] == [
        ("0", photo(0), {"npy": b"x"}),
        ("1", photo(2), {}),
    ]
    assert [key for key, _ in read_images(str(path))] == ["0", "1"]


def test_an_empty_archive_is_complete(tmp_path: Path) -> None:
    samples, errors, reader = read(write_tar(tmp_path / "s.tar", []))
    assert samples == [] and errors == [] and reader.status is TarStatus.COMPLETE


# Keys and parts


def test_documents_elsewhere_are_known_at_the_end(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("b.jpg", photo(2)), ("a.json", truth(1)), ("b.json", truth(2))]
    path = write_tar(tmp_path / "s.tar", members)
    samples, errors, reader = read(path)
    assert [(sample.key, sample.sidecar) for sample in samples] == [("a", None), ("b", None)]
    assert errors == [] and reader.left_out.total == 0
    assert {key: one.position for key, one in reader.late.items()} == {
        "a": Truth(1.0, 20.0),
        "b": Truth(2.0, 20.0),
    }
    assert [one.latitude for _, one in read_samples(str(path))] == [1.0, 2.0]


def test_each_photo_of_one_name_is_a_photo(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.png", photo(2)), ("a.jpeg", photo(3)), ("a.json", truth())]
    samples, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    assert [sample.key for sample in samples] == ["a", "a.png", "a.jpeg"] and errors == []
    assert {sample.metadata for sample in samples} == {truth()}


def test_a_name_stored_again_is_one_error_each_time(tmp_path: Path) -> None:
    names = ["a.jpg", "a.jpg", "b.jpg", "a.jpg", "a.jpg.png", "b.png", "b.png.jpg"]
    members = [(name, photo(index)) for index, name in enumerate(names)]
    samples, errors, _ = read(write_tar(tmp_path / "s.tar", members))
    found = [(sample.key, sample.image) for sample in samples]
    assert found[:2] == [("a", photo(0)), ("b", photo(2))]
    assert [key for key, _ in found[2:]] == ["a.jpg.png", "b.png", "b.png.jpg"]
    assert [(row.key, row.status) for row in errors] == [
        ("a.jpg", Status.DUPLICATE_KEY),
        ("a.jpg#2", Status.DUPLICATE_KEY),
    ]
    assert "'a.jpg' is stored twice" in errors[0].message


def test_a_document_stored_twice_that_says_two_things_says_nothing(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.json", truth(1)), ("a.json", truth(2))]
    path = write_tar(tmp_path / "s.tar", members)
    samples, errors, reader = read(path)
    assert errors == [] and len(reader.problems) == 1
    assert samples[0].sidecar is not None and "stored twice" in samples[0].sidecar.problem
    with pytest.raises(DataError, match="stored twice"):
        list(read_samples(str(path)))


def test_what_belongs_to_no_photo_is_counted_and_makes_no_row(tmp_path: Path) -> None:
    """Live photos of a phone, and what macOS and Windows leave beside photos."""
    members = [("a.jpg", photo(1)), ("b.jpg", photo(2)), ("a.mov", b"film"), ("b.mov", b"film")]
    junk = ["._a.jpg", "d/._b.jpg", "d/.DS_Store", "d/e/Thumbs.db", "__MACOSX/d/._c.jpg"]
    members += [(name, b"x") for name in junk] + [("alone.json", truth()), ("backup.tgz", b"x")]
    samples, errors, reader = read(write_tar(tmp_path / "s.tar", members))
    assert [sample.key for sample in samples] == ["a", "b"] and errors == []
    assert reader.left_out.total == 9 and reader.left_out.named == ["backup.tgz"]
    assert reader.left_out.counts[".mov"] == 2 and reader.left_out.counts[".json"] == 1


def test_of_several_documents_the_first_with_a_position_counts(tmp_path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.jpg.json", b"{}"), ("a.json", truth(3)), ("b.jpg", b"y")]
    members += [("b.json", b"no json"), ("c.jpg", photo(3)), ("b.jpg.json", truth(4))]
    samples, _, reader = read(write_tar(tmp_path / "s.tar", members))
    assert samples[0].sidecar and samples[0].sidecar.position == Truth(3.0, 20.0)
    assert samples[0].document == "a.json"
    assert {key: one.position for key, one in reader.late.items()} == {"b": Truth(4.0, 20.0)}
    assert len(reader.problems) == 1


def test_a_stem_with_many_photos_is_not_held_whole(tmp_path: Path) -> None:
    members = [("a.jpg", photo(index)) for index in range(100)] + [("a.json", truth())]
    samples, errors, reader = read(write_tar(tmp_path / "s.tar", members))
    assert len(samples) == 1 and len({row.key for row in errors}) == 99
    assert reader.late["a"].position == Truth(10.0, 20.0)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_are_the_photos_that_they_point_to(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    buffer = io.BytesIO(
        tar_bytes([("d/a.jpg", photo(1)), ("d/a.json", truth()), ("blob", photo(2))])
    )
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        tar.addfile(special("d/hard.jpg", tarfile.LNKTYPE, "d/a.jpg"))
        tar.addfile(special("d/hard.json", tarfile.LNKTYPE, "d/a.json"))
        tar.addfile(special("e/soft.jpg", tarfile.SYMTYPE, "../d/./hard.jpg"))
        tar.addfile(special("blob.jpg", tarfile.SYMTYPE, "blob"))
        tar.addfile(special("latest", tarfile.SYMTYPE, "d"))
    for data in (buffer.getvalue(), gzip.compress(buffer.getvalue())):
        path.write_bytes(data)
        samples, errors, reader = read(path)
        assert {sample.key: sample.image for sample in samples} == {
            "d/a": photo(1),
            "d/hard": photo(1),
            "e/soft": photo(1),
            "blob": photo(2),
        }
        assert errors == [] and reader.status is TarStatus.COMPLETE
        assert reader.late["d/hard"].position == Truth(10.0, 20.0)
        assert reader.left_out.counts == {"links": 1, "without ending": 1}


def test_links_that_lead_nowhere_devices_and_pipes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(special("d", tarfile.DIRTYPE))
        for name, target in (("out", "/etc/passwd"), ("up", "../../x"), ("loop", "loop.jpg")):
            tar.addfile(special(f"d/{name}.jpg", tarfile.SYMTYPE, target))
        for name, kind in (("pipe", tarfile.FIFOTYPE), ("device", tarfile.CHRTYPE)):
            tar.addfile(special(f"{name}.jpg", kind))
            tar.addfile(special(name, kind))
    samples, errors, reader = read(path)
    assert samples == [] and reader.status is TarStatus.COMPLETE
    assert [row.status for row in errors] == [Status.MISSING_IMAGE] * 5
    assert [row.key for row in errors] == ["pipe", "device", "d/out", "d/up", "d/loop"]
    assert "--dereference" in errors[2].message and "a pipe" in errors[0].message
    assert reader.left_out.total == 2


def test_each_link_stored_again_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    buffer = io.BytesIO(tar_bytes([("a.jpg", photo(1))]))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for name in ("b.jpg", "b.jpg", "a.jpg"):
            tar.addfile(special(name, tarfile.SYMTYPE, "a.jpg"))
    path.write_bytes(buffer.getvalue())
    samples, errors, _ = read(path)
    assert [sample.key for sample in samples] == ["a", "b"]
    assert {row.key: row.status for row in errors} == dict.fromkeys(
        ("b.jpg", "a.jpg"), Status.DUPLICATE_KEY
    )


def sparse_member(form: str, name: str) -> bytes:
    """A file with holes, as GNU tar stores it: 1,500 bytes of 10 MB, and where they belong."""
    data = photo(5).ljust(1500, b"x")
    if form == "gnu":
        info = special("x" * 9, tarfile.GNUTYPE_SPARSE)
        info.size = len(data)
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[482] = 1  # more of the map follows, here in two blocks
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        more = bytearray(512)
        more[504] = 1
        longname = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
        longname.size = len(name) + 1
        head = longname.tobuf(tarfile.GNU_FORMAT) + name.encode().ljust(512, b"\0")
        return head + bytes(header + more) + bytes(512) + data.ljust(1536, b"\0")
    records = {
        "0.0": {"GNU.sparse.size": "10000000", "GNU.sparse.offset": "0", "path": name},
        "0.1": {"GNU.sparse.map": "0,700,9000000,800", "GNU.sparse.name": name},
        "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name},
    }[form]
    info = special("./GNUSparseFile.1/x.jpg", tarfile.REGTYPE)
    info.size = len(data)
    info.pax_headers = records
    return info.tobuf(tarfile.PAX_FORMAT) + data.ljust(1536, b"\0")


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_a_member_with_holes_costs_itself_only(tmp_path: Path, form: str) -> None:
    first = tar_bytes([("a.jpg", photo(1))]).rstrip(b"\0")
    first += bytes(-len(first) % 512)
    holes = sparse_member(form, "d/holes.jpg") + sparse_member(form, "d/disk.img")
    path = tmp_path / "s.tar"
    path.write_bytes(first + holes + tar_bytes([("b.jpg", photo(2)), ("b.json", truth())]))
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["a", "b"] and reader.message == ""
    assert [(row.key, row.status) for row in errors] == [("d/holes", Status.MISSING_IMAGE)]
    assert "--sparse" in errors[0].message and reader.status is TarStatus.COMPLETE
    assert reader.left_out.counts == {".img": 1}


def test_times_in_an_old_header_are_no_folder(tmp_path: Path) -> None:
    """GNU tar's incremental archives; `tarfile` takes the times for the front of the name."""
    info = tarfile.TarInfo("a.jpg")
    info.size = len(photo(1))
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[345:357] = b"15303013743\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "s.tar"
    path.write_bytes(bytes(header) + tar_bytes([("a.jpg", photo(1))])[512:])
    assert [sample.key for sample in read(path)[0]] == ["a"]


def test_too_many_bytes_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {NameKind.PHOTO: 700, NameKind.DOCUMENT: 20}
    monkeypatch.setattr("locdiffusion.photos.archive.LIMITS", limits)
    members = [("a.jpg", bytes(701)), ("b.jpg", b"x"), ("b.json", bytes(21)), ("c.jpg", b"y")]
    samples, errors, reader = read(write_tar(tmp_path / "s.tar", members))
    assert [sample.key for sample in samples] == ["b", "c"] and len(reader.problems) == 1
    assert [(row.key, row.status) for row in errors] == [("a", Status.TOO_MANY_BYTES)]


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


@pytest.mark.parametrize("zeros", [-1, 0, 512])
@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_nothing_closes_is_complete_and_said(
    tmp_path: Path, zeros: int, packed: bool
) -> None:
    """As Maven and others write it: no zero blocks, or one, or not even a filled last block."""
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))]).rstrip(b"\0")
    data += bytes(zeros + -len(data) % 512 if zeros >= 0 else 0)
    path = tmp_path / "s.tar"
    path.write_bytes(gzip.compress(data) if packed else data)
    samples, errors, reader = read(path)
    assert [sample.key for sample in samples] == ["a", "b"] and errors == []
    assert reader.status is TarStatus.COMPLETE and f"{len(data):,} bytes" in reader.message


@pytest.mark.parametrize("blocks", [1, 20, 64, 100, 126, 2048, 8192])
@pytest.mark.parametrize("packed", [False, True])
def test_any_record_may_be_filled(tmp_path: Path, blocks: int, packed: bool) -> None:
    """`tar -b BLOCKS` fills the last record with zeros."""
    data = tar_bytes([("a.jpg", photo(1)), ("b.bmp", bytes(9000))]).rstrip(b"\0")
    data = data.ljust(-(-(len(data) + 9000) // 512) * 512 + 1024, b"\0")
    data += bytes(-len(data) % (512 * blocks))
    path = tmp_path / "s.tar"
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    samples, errors, reader = read(path)
    if blocks in (100, 126) and not packed:  # may be a download that stopped inside b.bmp
        assert reader.status is TarStatus.CORRUPT
    else:
        assert [sample.key for sample in samples] == ["a", "b"] and errors == []
        assert (reader.status, reader.message) == (TarStatus.COMPLETE, "")


def test_a_tar_may_be_compressed_in_several_parts(tmp_path: Path) -> None:
    """As bgzip and parallel packers write it."""
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))])
    path = tmp_path / "s.tar"
    for module in (gzip, bz2, lzma):
        path.write_bytes(
            b"".join(module.compress(data[at : at + 700]) for at in range(0, len(data), 700))
        )
        samples, errors, reader = read(path)
        assert len(samples) == 2 and errors == [] and reader.message == ""


def test_one_photo_is_held_at_a_time(tmp_path: Path) -> None:
    members = [(f"{index}.jpg", bytes(2**20)) for index in range(40)]
    members += [(f"{index}.json", truth() + b" " * 2**18) for index in range(40)]
    for path in (tmp_path / "s.tar", tmp_path / "s.zip"):
        path.write_bytes((zip_bytes if path.suffix == ".zip" else tar_bytes)(members))
        reader = ShardReader(str(path))
        tracemalloc.start()
        assert sum(1 for _ in reader) == 40 and len(reader.late) == 40
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 * 2**20


def test_more_zeros_than_fill_a_record_are_said(tmp_path: Path) -> None:
    data = tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))]) + bytes(512 * 777)
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    samples, _, reader = read(path)
    assert len(samples) == 2 and reader.status is TarStatus.COMPLETE
    assert "more than fill a record" in reader.message


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
        stored = Counter(name for name in _names(data) if not name.endswith(".json"))
        assert len(keys) + len(errors) == stored.total()


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
    if at < len(SOUND) - padding and not reader.message.startswith("no zero blocks"):
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


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("IMG_1", photo(1), "a picture (JPEG)"),
        ("IMG_1.MOV", b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(600), "a video"),
    ],
)
def test_a_picture_or_a_film_is_no_damaged_archive(
    name: str, data: bytes, found: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    (row,) = ShardReader(str(tmp_path / name))
    assert isinstance(row, ErrorRow) and row.status is Status.SHARD_UNREADABLE
    assert f"{found}, no archive; leave it out" in row.message
