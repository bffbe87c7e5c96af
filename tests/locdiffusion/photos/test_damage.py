"""No damage crashes the reader, yields half a sample, or loses one in silence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from locdiffusion.photos import listing
from locdiffusion.photos.archive import Sample, ShardReader
from locdiffusion.photos.blocks import TarStatus
from locdiffusion.photos.labelled_samples import read_images, read_samples
from locdiffusion.photos.storage import DataError
from pipelines.geotag import command as geotag
from pipelines.geotag.batches import read_batches
from schemas.geotags import ErrorRow, Stage, Status
from support.archives import Members, photo, tar_bytes, truth
from support.damaged import (
    FORMATS,
    KINDS,
    NOTICED_KINDS,
    SOUND_KINDS,
    Shard,
    broken_promises,
    random_damage,
    sound,
    webdataset_samples,
)
from support.fake_geotagger import FakeGeotagger, FakeLoader
from support.outputs import part

SEEDS = range(100)
"""Of each kind; 19 kinds make 1,900 archives."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.tar"


def read(path: Path, data: bytes) -> tuple[list[Sample | ErrorRow], ShardReader]:
    path.write_bytes(data)
    reader = ShardReader(str(path))
    return list(reader), reader


# Damaged archives


def test_there_are_at_least_a_thousand() -> None:
    assert len(KINDS) * len(SEEDS) >= 1000


@pytest.mark.parametrize("kind", KINDS)
def test_no_crash_no_half_sample_no_silent_loss(kind: str, path: Path) -> None:
    statuses = Counter()
    for seed in SEEDS:
        shard = random_damage(kind, seed)
        items, reader = read(path, shard.data)
        broken = broken_promises(shard, items, reader.status, reader.message)
        assert broken == [], f"{kind}, seed {seed}: {reader.message}"
        statuses[reader.status] += 1
    if kind in SOUND_KINDS:
        assert set(statuses) == {TarStatus.COMPLETE}
    if kind in NOTICED_KINDS:
        assert TarStatus.COMPLETE not in statuses


@pytest.mark.parametrize("kind", KINDS)
def test_batches_carry_what_the_reader_met(kind: str, path: Path) -> None:
    for seed in SEEDS[::10]:
        items, reader = read(path, random_damage(kind, seed).data)
        batches = list(
            read_batches(listing.Shard("s", str(path)), FakeGeotagger().preprocess, 1 + seed % 5)
        )
        photos = Counter(key for batch in batches for key in batch.keys)
        errors = Counter(error.key for batch in batches for error in batch.errors)
        met = Counter(item.key for item in items)
        assert photos + errors == met
        assert all(item.key in errors for item in items if isinstance(item, ErrorRow))
        assert [batch.ending is not None for batch in batches] == [False] * (len(batches) - 1) + [
            True
        ]
        ending = batches[-1].ending
        assert ending is not None and ending.batches == len(batches)
        assert ending.photos == sum(met.values()) - met[None]
        assert (ending.tar_status, ending.tar_message) == (reader.status, reader.message)
        assert ending.left_out == reader.left_out


@pytest.mark.parametrize("kind", KINDS)
def test_training_reads_what_geotagging_reads(kind: str, path: Path) -> None:
    """Training refuses what geotagging reports; calibration passes over photos, not over shards."""
    for seed in SEEDS[::10]:
        items, _ = read(path, random_damage(kind, seed).data)
        sound = [(item.key, item.image) for item in items if isinstance(item, Sample)]
        rows = [item for item in items if isinstance(item, ErrorRow)]
        try:
            taken = list(read_images(str(path)))
            assert not any(row.status.of_shard for row in rows)
            left = [one for one in sound if one not in taken]
            assert [one for one in sound if one in taken] == taken
            assert all(key.endswith((".png", ".jpeg")) for key, _ in left)
        except DataError as error:
            assert any(row.message in str(error) for row in rows)
        try:
            trained = [sample.key for sample, _ in read_samples(str(path))]
            assert rows == []
            assert trained == [key for key, _ in taken]
        except DataError as error:
            known = any(row.message in str(error) for row in rows)
            assert known or re.search(r"position|\.json: ", str(error))


def test_a_damaged_shard_stops_calibration(path: Path) -> None:
    path.write_bytes(tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))])[:1100])
    with pytest.raises(DataError, match="truncated"):
        list(read_images(str(path)))


def test_of_pictures_in_several_formats_the_first_is_taken(path: Path) -> None:
    members = [("a.jpg", photo(1)), ("a.json", truth()), ("a.png", photo(2))]
    path.write_bytes(tar_bytes([*members, ("b.jpg", photo(3)), ("b.json", truth())]))
    assert [sample.image for sample, _ in read_samples(str(path))] == [photo(1), photo(3)]
    assert list(read_images(str(path))) == [("a", photo(1)), ("b", photo(3))]
    path.write_bytes(tar_bytes([*members, members[0]]))
    with pytest.raises(DataError, match="stored twice"):
        list(read_samples(str(path)))


@pytest.mark.parametrize("module", [bz2, lzma])
def test_other_compressions(module: ModuleType, path: Path) -> None:
    """Read like gzip; a cut and a flipped bit are damage, never a crash."""
    members = [("BZh.jpg", photo(1)), ("BZh.json", truth())]
    plain = tar_bytes(members)
    data = module.compress(plain)
    for whole in (plain, data):
        path.write_bytes(whole)
        assert [sample.image for sample, _ in read_samples(str(path))] == [photo(1)]
    _, reader = read(path, data[:-20])
    assert f"the {module.__name__} stream ends early" in reader.message
    for place in range(12, len(data) - 1, 7):
        _, reader = read(path, data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert reader.status is not TarStatus.COMPLETE


def test_the_end_of_the_archive_inside_a_sample_is_no_end(path: Path) -> None:
    """Two zero blocks between a photo and its truth: the photo alone would be half a sample."""
    first, second = tar_bytes([("a.jpg", photo(1))]), tar_bytes([("a.json", truth())])
    items, reader = read(path, first + second)
    assert [(item.key, item.status) for item in items if isinstance(item, ErrorRow)] == [
        ("a", Status.TRUNCATED),
        (None, Status.SHARD_CORRUPT),
    ]
    assert len(items) == 2 and "joined with cat" in reader.message


def test_a_file_that_was_reserved_and_not_filled(path: Path) -> None:
    """A download that stopped: the rest are zeros, which look like the end of an archive."""
    members = [(f"{index:02d}.jpg", photo(index)) for index in range(40)]
    data = tar_bytes(members)
    file = sound(data).files[10]
    at = file.payload + len(file.data) - 100
    items, reader = read(path, data[:at] + bytes(len(data) - at))
    assert [item.key for item in items if isinstance(item, Sample)] == [
        name[:2] for name, _ in members[:10]
    ]
    assert [item.key for item in items if isinstance(item, ErrorRow)] == ["10", None]
    assert reader.status is TarStatus.CORRUPT and "is a download unfinished?" in reader.message
    items, reader = read(path, bytes(len(data)))
    assert [item.key for item in items] == [None] and "unfinished?" in reader.message
    items, reader = read(path, data[: file.start] + bytes(len(data) - file.start))
    assert reader.status is TarStatus.COMPLETE and "compare its size" in reader.message


def test_a_long_name_without_its_member(path: Path) -> None:
    """Else an empty file whose own header became zeros would be lost as the end of the archive."""
    data = tar_bytes([("a.jpg", photo(1)), ("b" * 120 + ".jpg", b"")], format=tarfile.GNU_FORMAT)
    last = sound(data).files[-1]
    items, reader = read(path, data[: last.header] + bytes(len(data) - last.header))
    assert [item.key for item in items] == ["a", None]
    assert reader.status is TarStatus.CORRUPT and "without the member" in reader.message


def test_a_size_that_contradicts_its_header(path: Path) -> None:
    """No checksum covers pax records: a flipped digit would swallow the photos behind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 600
            info.pax_headers = {"size": "600"} if name == "b.jpg" else {}
            tar.addfile(info, io.BytesIO(bytes(range(200)) * 3))
    data = buffer.getvalue()
    assert len(read(path, data)[0]) == 3
    flipped = data.replace(b"size=600", b"size=900")
    assert flipped != data
    items, reader = read(path, flipped)
    assert [item.key for item in items] == ["a", None]
    assert "pax size of b'900', 600 bytes in the header" in reader.message


def test_a_gzip_that_fails_its_checksum_trusts_nothing_before(path: Path) -> None:
    data = bytearray(gzip.compress(tar_bytes([("a.jpg", photo(1)), ("b.jpg", photo(2))])))
    data[-8] ^= 1
    items, reader = read(path, bytes(data))
    assert [item.key for item in items] == ["a", "b", None]
    assert reader.status is TarStatus.CORRUPT and "read before may be wrong" in reader.message


# The judge itself


def test_the_judge_finds_what_webdataset_loses() -> None:
    """The same promise, held against webdataset's own reader: it breaks on every kind of damage."""
    for kind in ("cut", "flip_header", "garbage_between_members", "zeros_between_members"):
        broken = [s for seed in SEEDS for s in judged_webdataset(random_damage(kind, seed))]
        assert any("lost in silence" in sentence for sentence in broken), kind
    halves = [s for seed in SEEDS for s in judged_webdataset(random_damage("cut", seed))]
    assert any("is not what the archive holds" in sentence for sentence in halves)
    assert [s for seed in SEEDS for s in judged_webdataset(random_damage("gzipped", seed))] == []


def judged_webdataset(shard: Shard) -> list[str]:
    """webdataset tells of no damage but by raising, and then names no byte."""
    try:
        found = webdataset_samples(shard.data)
    except Exception:
        return []
    items: list[Sample | ErrorRow] = []
    for key, parts in found.items():
        images = [name for name in parts if name in ("jpg", "jpeg", "png", "webp")]
        for name in images:
            if name == images[0]:
                items.append(Sample(key, parts[name], parts.get("json")))
            else:
                items.append(ErrorRow(f"{key}.{name}", Stage.READ, Status.DUPLICATE_KEY, ""))
    return broken_promises(shard, items, TarStatus.COMPLETE, "")


# Sound archives

NAMES = st.text("ab01-_ ~é漢\\'\"%[", min_size=1, max_size=9)
FOLDERS = st.sampled_from(["", "./", "d/", "d.1/.e/", "__d/", "/", "long-folder/" * 9, "ü/" * 60])
EXTENSIONS = st.lists(
    st.sampled_from(["jpg", "JPEG", "png", "WebP", "json", "JSON", "txt", "seg.png", "", "cls"]),
    min_size=1,
    max_size=4,
    unique_by=str.lower,
)
BESIDE = ["__meta__/info.json", "__index__", ".hidden.jpg", "README", "d/.x.json", "__a__/b.cls"]


@dataclass(frozen=True)
class Drawn:
    names: list[str]
    data: bytes = field(repr=False)


@st.composite
def sound_archives(draw: st.DrawFn) -> Drawn:
    """Any form: format, types, names, order of parts, files beside the samples, end, gzip."""
    form = draw(st.sampled_from(FORMATS))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for key in draw(st.lists(st.tuples(FOLDERS, NAMES), max_size=6, unique_by="".join)):
            for extension in draw(EXTENSIONS):
                add(tar, draw, f"{''.join(key)}.{extension}")
            if draw(st.booleans()):
                add(tar, draw, draw(st.sampled_from(BESIDE)))
            if draw(st.booleans()):
                folder = tarfile.TarInfo("some.folder/")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
    names, data = [info.name for info in tar.members], buffer.getvalue()
    if draw(st.booleans()):  # as tools write it that do not fill up the last record
        data = data.rstrip(b"\0")
        data += bytes(-len(data) % 512 + 1024)
    return Drawn(names, gzip.compress(data, mtime=0) if draw(st.booleans()) else data)


def add(tar: tarfile.TarFile, draw: st.DrawFn, name: str) -> None:
    info = tarfile.TarInfo(name)
    # The oldest type knows no extended header: cut to 100 bytes, a name may look like a folder's.
    types = [tarfile.REGTYPE, tarfile.CONTTYPE, *[tarfile.AREGTYPE] * (len(name.encode()) < 100)]
    info.type = draw(st.sampled_from(types))
    if tar.format != tarfile.USTAR_FORMAT:  # which has no room for these
        info.mtime = draw(st.sampled_from([0, 1.5, 2**40]))
        info.uid = draw(st.sampled_from([0, 2**24]))
    payload = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 13, 40]))
    info.size = len(payload)
    tar.addfile(info, io.BytesIO(payload))


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=HealthCheck)
@given(archive=sound_archives())
def test_agrees_with_webdataset_on_every_sound_archive(
    tmp_path_factory: pytest.TempPathFactory, archive: Drawn
) -> None:
    theirs = webdataset_samples(archive.data)
    items, reader = read(tmp_path_factory.getbasetemp() / "sound.tar", archive.data)
    assert reader.status is TarStatus.COMPLETE
    ours = {item.key: item for item in items if isinstance(item, Sample)}
    assert len(ours) == len(items)
    photos = 0
    for key, parts in theirs.items():
        if "/.e/" in key:  # hidden to us
            continue
        images = [name for name in parts if name in ("jpg", "jpeg", "png", "webp")]
        photos += len(images) + ("seg.png" in parts)
        if images:
            assert ours[key].image == parts[images[0]] and ours[key].metadata == parts.get("json")
        for name in images[1:]:  # to webdataset parts of one sample, to us photos
            stored = next(n for n in archive.names if n.lower() == f"{key}.{name}".lower())
            assert ours[stored].image == parts[name]
        if "seg.png" in parts:
            assert ours[f"{key}.seg"].image == parts["seg.png"]
    assert len(items) == photos


def test_names_in_another_encoding(path: Path) -> None:
    """The bytes that are no UTF-8 become readable, where webdataset has lone surrogates."""
    members: Members = [("caf\xe9/a.jpg", photo(1)), ("caf\xe9/" * 20 + "b.jpg", photo(2))]
    data = tar_bytes(members, format=tarfile.GNU_FORMAT, encoding="latin-1")
    items, reader = read(path, data)
    assert reader.status is TarStatus.COMPLETE
    theirs = [
        key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        for key in webdataset_samples(data)
    ]
    assert [item.key for item in items] == theirs and theirs[0] == "caf\\xe9/a"


# The whole command


def test_damaged_archives_through_the_whole_command(tmp_path: Path, no_pages: None) -> None:
    """The files on disk tell of each archive just what its reader met."""
    shards = {f"{kind}-{seed}": random_damage(kind, seed) for kind in KINDS for seed in (500, 501)}
    for name, shard in shards.items():
        (tmp_path / f"{name}.tar").write_bytes(shard.data)
    output = tmp_path / "out"
    arguments = ["--input", f"{tmp_path}/*.tar", "--output", str(output), "--batch_size=3"]
    arguments.append("--accept-damaged")
    assert geotag.main(arguments, load=FakeLoader()) == 0
    statuses: Counter[str] = Counter()
    for name, shard in shards.items():
        items, reader = read(tmp_path / f"{name}.tar", shard.data)
        assert broken_promises(shard, items, reader.status, reader.message) == [], name
        manifest = json.loads(part(output, f"_manifest/{name}.json").read_text())
        rows = pq.read_table(part(output, f"predictions/part-{name}.parquet")).to_pylist()
        errors = pq.read_table(part(output, f"errors/part-{name}.parquet")).to_pylist()
        ending = (manifest["tar_status"], manifest["tar_message"])
        assert ending == (reader.status.value, reader.message)
        assert Counter(row["key"] for row in [*rows, *errors]) == Counter(i.key for i in items)
        samples = {item.key: item for item in items if isinstance(item, Sample)}
        for row in rows:
            sample = samples[row["key"]]
            wanted = FakeGeotagger().columns([Image.open(io.BytesIO(sample.image))], [row["key"]])
            assert (row["latitude"], row["longitude"]) == (wanted.latitude, wanted.longitude)
            sidecar = reader.late.get(row["key"], sample.sidecar)
            position = sidecar.position if sidecar else None
            assert row["truth_latitude"] == (position and position.latitude)
        statuses[reader.status.value] += 1
    summary = json.loads((output / "summary.json").read_text())
    assert summary["shards"] == statuses and summary["mismatches"] == []
    assert {"complete", "truncated", "corrupt", "unreadable"} == set(statuses)
