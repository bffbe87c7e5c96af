"""Msgpack shards of strangers take no more memory than a chunk, whatever their values are."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pipelines.sources import msgpack_images
from pipelines.sources.msgpack_images import index_shard
from pipelines.sources.record import Drop, ImageRef
from schemas.training import DropReason
from support.flickr import make_photos, msgpack_bytes
from support.hostile.sources import ENTRIES, ODD_ENTRIES

PHOTOS = make_photos(2)
BEFORE, BEHIND = (msgpack_bytes([photo]) for photo in PHOTOS)


def index(path: Path, data: bytes) -> tuple[list[tuple[str, ImageRef] | Drop], int]:
    """What the shard holds, and the most memory that reading it took, in bytes."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        return list(index_shard(str(path))), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ENTRIES)
def test_small_values_do_not_grow(name: str, tmp_path: Path) -> None:
    data = BEFORE + ENTRIES[name]()
    (first, entry), peak = index(tmp_path / "shard_0.msg", data)
    assert not isinstance(first, Drop) and first[0] == PHOTOS[0].img_id
    if isinstance(entry, Drop):
        assert entry.reason is DropReason.UNUSABLE_SHARD
    else:
        assert name.endswith(" as a value")  # of a name that nobody asks for: passed over
    assert peak < 8 * msgpack_images._CHUNK


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_an_odd_entry_costs_itself_alone(name: str, tmp_path: Path) -> None:
    data = BEFORE + ODD_ENTRIES[name]() + BEHIND
    (first, odd, last), peak = index(tmp_path / "shard_0.msg", data)
    assert isinstance(odd, Drop)
    assert odd.reason in (DropReason.MALFORMED_ROW, DropReason.NO_IMAGE)
    assert [item[0] for item in (first, last)] == [photo.img_id for photo in PHOTOS]  # type: ignore[index]
    assert peak < 8 * msgpack_images._CHUNK
