"""Duplicates against a comparison of every photo with every other."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pipelines.build_shards import duplicates
from pipelines.build_shards.encoding import difference_hash
from pipelines.build_shards.fingerprints import BY_BYTES, Key, find_duplicates, partitions, spread
from pipelines.build_shards.finishing import Duplicate, one_per_photo
from schemas.training import DropReason
from support.flickr import picture


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


SHARDS = {"train": 3, "val": 2}


def table(hashes: list[int], digests: list[str], ranks: list[int]) -> pa.Table:
    """Fingerprints; a photo's id is `p` and its rank, and photos of odd rank are for validation."""
    return pa.table(
        {
            "photo": [f"p{rank}" for rank in ranks],
            "rank": pa.array(ranks, pa.uint64()),
            "sha256": [hashlib.sha256(digest.encode()).hexdigest() for digest in digests],
            "dhash": pa.array(hashes, pa.uint64()),
        }
    )


def shard_of(rank: int) -> str:
    return f"val-{rank % 2:05d}" if rank % 2 else f"train-{rank % 3:05d}"


def found(fingerprints: pa.Table, parts: int) -> dict[str, set[Duplicate]]:
    """By photo, through the parts of the job."""
    together: dict[Key, list[bytes]] = {}
    shards = np.array([shard_of(rank) for rank in fingerprints["rank"].to_pylist()])
    for shard in np.unique(shards).tolist():
        some = fingerprints.filter(pa.array(shards == shard))
        for half in (some.slice(0, 5), some.slice(5)):
            for key, rows in spread(shard, half, parts):
                together.setdefault(key, []).append(rows)
    photos: dict[str, set[Duplicate]] = {}
    for (by, _), packed in together.items():
        for like, one in find_duplicates(by, packed, SHARDS):
            assert (like, one.shard) == (shard_of(one.like), shard_of(one.rank))
            duplicate = Duplicate(one.rank, one.reason, f"p{one.like}")
            photos.setdefault(f"p{one.rank}", set()).add(duplicate)
    return photos


def every_pair(fingerprints: pa.Table) -> dict[str, set[str]]:
    """Photos that must go, and all photos of smaller rank that they are like."""
    rows = fingerprints.to_pylist()
    plain = {
        row["photo"]: min(row["dhash"].bit_count(), 64 - row["dhash"].bit_count()) <= 3
        for row in rows
    }
    gone: dict[str, set[str]] = {}
    for one in rows:
        for other in rows:
            same = one["sha256"] == other["sha256"]
            near = (one["dhash"] ^ other["dhash"]).bit_count() <= 3
            near = near and not plain[one["photo"]] and not plain[other["photo"]]
            if other["rank"] < one["rank"] and (same or near):
                gone.setdefault(one["photo"], set()).add(other["photo"])
    return gone


hashes = st.lists(
    st.builds(
        flipped,
        # A few hashes, so that some are alike, some nearly, and some say nothing.
        st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF, 0x0123456789ABCDEF ^ 0b11111]),
        st.lists(st.integers(0, 63), max_size=5),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(hashes, st.integers(0, 2**32), st.sampled_from([1, 2, 7]))
def test_what_is_found_is_what_every_pair_says(
    values: list[int], seed: int, partitions: int
) -> None:
    rng = np.random.default_rng(seed)
    digests = [str(number) for number in rng.integers(0, 2 * len(values), len(values))]
    fingerprints = table(values, digests, rng.permutation(len(values)).tolist())
    wanted, seen = every_pair(fingerprints), found(fingerprints, partitions)
    assert seen.keys() == wanted.keys()
    for photo, ones in seen.items():
        assert {one.like for one in ones} <= wanted[photo]


def test_the_order_of_rows_and_the_partitions_change_nothing() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 300).tolist()
    values = [flipped(base[i // 3], rng.integers(0, 64, i % 3).tolist()) for i in range(900)]
    fingerprints = table(values, [str(i % 850) for i in range(900)], rng.permutation(900).tolist())
    shuffled = fingerprints.take(rng.permutation(900))
    ways = [found(fingerprints, 1), found(shuffled, 1), found(shuffled, 7), found(fingerprints, 64)]
    assert ways[0] and all(way == ways[0] for way in ways)


def test_three_bits_are_near_and_four_are_not() -> None:
    """Also where the three bits lie in three of the four bands."""
    base = 0x0123456789ABCDEF
    for bits, near in (([0, 20, 40], True), ([0, 1, 2], True), ([0, 20, 40, 60], False)):
        fingerprints = table([base, flipped(base, bits)], ["a", "b"], [0, 1])
        assert bool(found(fingerprints, 5)) == near


def test_a_chain_goes_whole_but_for_its_first() -> None:
    """Each is like the one before it, the last unlike the first; the middle one goes, too."""
    base = 0x0123456789ABCDEF
    values = [base, flipped(base, [0, 1]), flipped(base, [0, 1, 2, 3])]
    fingerprints = table(values, ["a", "b", "c"], [0, 1, 2])
    likes = {photo: {one.like for one in ones} for photo, ones in found(fingerprints, 1).items()}
    assert likes == {"p1": {"p0"}, "p2": {"p1"}}


def test_plain_pictures_are_compared_by_bytes_alone() -> None:
    sky = table([0, 0, 1], ["a", "a", "b"], [2, 1, 0])
    assert found(sky, 1) == {"p2": {Duplicate(2, DropReason.EXACT_DUPLICATE, "p1")}}


def test_nothing_is_like_nothing() -> None:
    assert list(find_duplicates(BY_BYTES, [], SHARDS)) == []
    assert list(spread("train-00000", table([], [], []), 4)) == []


def test_a_photo_costs_less_than_a_hundred_bytes_of_the_shuffle() -> None:
    """Of a shard of YFCC100M: 48 million photos in 12,000 shards, in 24 partitions of 5 kinds."""
    parts = partitions({"train": 11_760, "val": 240}, 4000)
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 2**63, 4000)
    some = table(rng.integers(0, 2**63, 4000).tolist(), [str(rank) for rank in ranks], ranks)
    coder = coders.registry.get_coder(tuple[Key, bytes])
    sizes = [len(coder.encode(element)) for element in spread("train-00007", some, parts)]
    assert parts == 24 and len(sizes) == 5 * parts
    assert sum(sizes) / 4000 < 100


def test_a_crowded_band_is_no_trouble() -> None:
    """Ten thousand hashes that share a band: within it, all pairs are looked at."""
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 2**47, 10_000).astype(np.uint64) << np.uint64(16)) | np.uint64(77)
    values[-1] = values[0] ^ np.uint64(1 << 20)
    ranks = np.arange(10_000).astype(np.uint64)
    first = duplicates.first_near(values, ranks, 0)
    assert first[-1] == 0 and (first[:-1] == ranks[:-1]).sum() > 9_990


def test_of_several_reasons_the_stronger_one_is_told_whatever_the_order() -> None:
    near = [Duplicate(7, DropReason.NEAR_DUPLICATE, like) for like in ("a", "c")]
    exact = Duplicate(7, DropReason.EXACT_DUPLICATE, "b")
    for found in ([*near, exact], [exact, *near[::-1]]):
        assert one_per_photo(found) == {7: exact}
    assert one_per_photo(near) == one_per_photo(near[::-1]) == {7: near[0]}


# The hash itself


def bits_apart(one: Image.Image, other: Image.Image) -> int:
    return (difference_hash(one) ^ difference_hash(other)).bit_count()


@pytest.mark.parametrize("seed", range(8))
def test_the_hash_survives_scaling_and_encoding_and_tells_photos_apart(seed: int) -> None:
    image = Image.open(io.BytesIO(picture(seed, (320, 240)))).convert("RGB")
    buffer = io.BytesIO()
    image.resize((160, 120)).save(buffer, "JPEG", quality=60)
    again = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    assert bits_apart(image, again) <= 3
    assert bits_apart(image, ImageEnhance.Brightness(image).enhance(0.9)) <= 3
    other = Image.open(io.BytesIO(picture(seed + 100, (320, 240)))).convert("RGB")
    assert bits_apart(image, other) > 10


def test_the_hash_of_a_picture_that_darkens_to_the_right() -> None:
    """One bit per pair of neighbours, set where the left one is brighter; top left is the first."""
    ramp = np.tile(np.linspace(255, 0, 9, dtype=np.uint8), (8, 1))
    assert difference_hash(Image.fromarray(ramp).convert("RGB")) == 2**64 - 1
    assert difference_hash(Image.fromarray(ramp[:, ::-1]).convert("RGB")) == 0
    ramp[1:] = 0
    assert difference_hash(Image.fromarray(ramp).convert("RGB")) == 0xFF << 56
