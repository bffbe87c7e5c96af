"""Photos are decoded ahead, in order, within bounds; whoever stops early leaves nothing behind."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from locdiffusion.photos.positions import PhotoPositions
from pipelines.geotag.batches import Pixels, read_batches
from pipelines.geotag.decoding_ahead import DecodingAhead, PhotoThreads
from schemas.geotags import ErrorRow
from support.archives import bad_members, sound_members, write_tar
from support.fake_geotagger import FakeGeotagger

LONG_S = 60.0
"""Within which a thread that works at all has worked."""


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    bad = [member for members, _ in bad_members().values() for member in members]
    members = [*sound_members(11), *bad, *sound_members(9, 50)]
    return Shard("s", str(write_tar(tmp_path / "s.tar", members)))


@pytest.mark.parametrize(("batch_size", "photos"), [(1, 1), (4, 8), (4, 0), (32, 64)])
def test_batches_are_those_of_decoding_one_by_one(
    shard: Shard, batch_size: int, photos: int
) -> None:
    arguments = (shard, FakeGeotagger.preprocess, batch_size, decode_photo, 3)
    plain = list(read_batches(*arguments))
    for most_bytes in (2**30, 1):
        ahead = DecodingAhead(photos, PhotoThreads(ThreadPoolExecutor(4), most_bytes))
        found = list(read_batches(*arguments, ahead))
        assert [replace(one, payload=None) for one in found] == [
            replace(one, payload=None) for one in plain
        ]
        for one, other in zip(found, plain, strict=True):
            if isinstance(other.payload, Pixels):
                np.testing.assert_array_equal(one.payload.pixels, other.payload.pixels)


def samples(count: int, size: int = 100) -> list[Sample]:
    return [Sample(str(number), bytes(size)) for number in range(count)]


def record(sample: Sample) -> PhotoRecord:
    return PhotoRecord(sample.key, np.zeros(1), PhotoPositions())


def test_the_next_photos_are_decoded_while_the_taker_works() -> None:
    begun = [threading.Event() for _ in range(8)]

    def decode(sample: Sample) -> PhotoRecord:
        begun[int(sample.key)].set()
        return record(sample)

    taken = DecodingAhead(3, PhotoThreads(ThreadPoolExecutor(2)))(
        samples(8), lambda sample: lambda: decode(sample)
    )
    for number in range(8):
        assert next(taken).key == str(number)
        for event in begun[: number + 4]:
            assert event.wait(LONG_S), "the taker holds a photo, and the next three are decoded"
        assert not any(event.is_set() for event in begun[number + 4 :]), "and no more than these"
    assert next(taken, None) is None


def test_large_photos_do_not_pile_up() -> None:
    may_end, read = threading.Event(), []
    threads = PhotoThreads(ThreadPoolExecutor(2), most_bytes=250)

    def items() -> list[Sample]:
        for sample in samples(9):
            read.append(sample.key)
            yield sample

    def decode(sample: Sample) -> PhotoRecord:
        assert may_end.wait(LONG_S)
        return record(sample)

    taken = DecodingAhead(100, threads)(items(), lambda sample: lambda: decode(sample))
    taker = threading.Thread(target=lambda: read.append(next(taken)))
    taker.start()
    taker.join(0.2)  # it can only be waiting
    assert read == ["0", "1", "2"], "300 bytes wait, and a fourth photo is not read"
    may_end.set()
    taker.join(LONG_S)
    assert len(list(taken)) == 8 and not threads.full


def test_who_stops_early_leaves_nothing_to_do() -> None:
    may_end, done = threading.Event(), []
    pool = ThreadPoolExecutor(1)

    def decode(sample: Sample) -> PhotoRecord:
        assert sample.key == "0" or may_end.wait(LONG_S)
        done.append(sample.key)
        return record(sample)

    threads = PhotoThreads(pool, most_bytes=10**6)
    taken = DecodingAhead(5, threads)(samples(20), lambda sample: lambda: decode(sample))
    with contextlib.closing(taken):
        assert next(taken).key == "0"
    may_end.set()
    pool.shutdown()
    assert done in (["0"], ["0", "1"]), "only what was begun is finished"
    assert threads._bytes == 0


def test_an_error_of_the_worker_itself_is_no_row() -> None:
    def decode(sample: Sample) -> PhotoRecord | ErrorRow:
        raise OSError("no more processes")

    threads = PhotoThreads(ThreadPoolExecutor(2))
    with pytest.raises(OSError, match="no more processes"):
        list(DecodingAhead(5, threads)(samples(20), lambda sample: lambda: decode(sample)))
    assert not threads.full
