"""A stream draws each photo in an order of its own, the same for any number of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddedPhotos, read_embedded, write_embedded
from locdiffusion.photos.storage import DataError
from locdiffusion.train import photo_statistics, streaming
from locdiffusion.train.batches import PhotosInMemory, Share
from locdiffusion.train.photo_statistics import Statistics
from locdiffusion.train.streaming import StoredEmbeddings, StreamConfig, StreamedPhotos, StreamOrder
from support.tiny import MODEL, learnable_photos

COUNTS = (30, 7, 55, 1, 24, 40)
ALL = sum(COUNTS)


def write_cache(folder: Path, counts: Sequence[int] = COUNTS) -> list[Path]:
    """Files of an embedding cache; half precision, as every cache has it."""
    files = []
    for i, count in enumerate(counts):
        photos = learnable_photos(count, seed=50 + i)
        files.append(folder / f"shard-{i}.parquet")
        write_embedded(files[-1], photos)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def photos(files: list[Path]) -> EmbeddedPhotos:
    return read_embedded(files)


def order(batch: int = 12, lanes: int = 4, buffer: int = 40, seed: int = 1) -> StreamOrder:
    return StreamOrder(np.array(COUNTS), batch, StreamConfig(lanes, buffer), seed)


def stream(files: list[Path], share: Share | None = None, **kind: int) -> StreamedPhotos:
    return StreamedPhotos(files, Statistics.of(files), order(**kind), share)


def rows_of_epoch(plan: StreamOrder, epoch: int) -> list[int]:
    """Numbers of all photos that an epoch draws, lane by lane."""
    starts = np.cumsum([0, *plan.counts])
    buffers = -(-plan.steps_per_epoch // plan.steps_per_buffer)
    pieces = [
        piece
        for lane in range(plan.config.lanes)
        for buffer in range(buffers)
        for piece in plan.pieces(epoch, buffer, lane)
    ]
    return [
        row for p in pieces for row in range(starts[p.shard] + p.start, starts[p.shard] + p.stop)
    ]


PLANS: list[dict[str, int]] = [
    {},
    {"batch": 8, "lanes": 8, "buffer": 16},
    {"batch": 20, "lanes": 1, "buffer": 1000},
    {"batch": 40, "lanes": 2, "buffer": 1},
    {"batch": ALL // 2, "lanes": 1, "buffer": 50},
]


class TestOrder:
    @pytest.mark.parametrize("kind", PLANS, ids=str)
    def test_an_epoch_draws_no_photo_twice_and_leaves_less_than_a_batch(
        self, kind: dict[str, int]
    ) -> None:
        plan = order(**kind)
        for epoch in range(3):
            rows = rows_of_epoch(plan, epoch)
            assert len(rows) == len(set(rows)) == plan.steps_per_epoch * plan.batch_size
            assert set(rows) <= set(range(ALL))
            assert ALL - len(rows) < plan.batch_size + plan.config.lanes

    def test_what_waits_is_drawn_in_another_epoch(self) -> None:
        plan = order(batch=40, lanes=2)
        assert {row for epoch in range(8) for row in rows_of_epoch(plan, epoch)} == set(range(ALL))

    def test_also_of_a_single_shard(self) -> None:
        plan = StreamOrder(np.array([50]), 20, StreamConfig(2, 20), 0)
        assert {row for epoch in range(20) for row in rows_of_epoch(plan, epoch)} == set(range(50))

    def test_shards_come_in_another_order_each_epoch_and_with_each_seed(self) -> None:
        orders = [rows_of_epoch(order(seed=s), e) for s, e in ((1, 0), (1, 1), (2, 0))]
        assert orders[0] != orders[1] != orders[2] != orders[0]
        assert orders[0] == rows_of_epoch(order(seed=1), 0)

    def test_lanes_are_far_from_each_other(self) -> None:
        """Each lane has its own part of the ring, so a batch comes from all over the epoch."""
        plan = order(lanes=4, batch=4, buffer=4)
        starts = np.cumsum([0, *plan.counts])
        first = [plan.pieces(0, 0, lane)[0] for lane in range(4)]
        rows = {int(starts[piece.shard] + piece.start) for piece in first}
        assert len(rows) == 4

    def test_the_lanes_divide_the_batch(self) -> None:
        with pytest.raises(ValueError, match=r"5 lanes, which do not divide 12.*stream.lanes"):
            order(lanes=5)

    def test_too_few_photos(self) -> None:
        with pytest.raises(DataError, match=r"157 photos in 6 shards do not fill.*stream=none"):
            order(batch=200)

    @pytest.mark.parametrize("change", [{"lanes": 0}, {"buffer": 0}], ids=str)
    def test_configurations_that_make_no_sense(self, change: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            StreamConfig(**change)


class TestBatches:
    @pytest.mark.parametrize("kind", PLANS, ids=str)
    def test_are_the_photos_of_the_order(
        self, kind: dict[str, int], files: list[Path], photos: EmbeddedPhotos
    ) -> None:
        """Two epochs; a photo is told by its embedding, which no other has."""
        source = stream(files, **kind)
        number = {row.tobytes(): i for i, row in enumerate(photos.embeddings)}
        steps = source.order.steps_per_epoch
        for epoch in range(2):
            drawn = []
            for step in range(epoch * steps, (epoch + 1) * steps):
                batch = source.batch(step)
                rows = [number[row.tobytes()] for row in batch.embeddings.numpy()]
                np.testing.assert_array_equal(batch.vectors, photos.vectors[rows])
                drawn += rows
            assert sorted(drawn) == sorted(rows_of_epoch(source.order, epoch))
            assert drawn != rows_of_epoch(source.order, epoch)

    def test_a_batch_takes_as_many_photos_from_each_lane(
        self, files: list[Path], photos: EmbeddedPhotos
    ) -> None:
        source = stream(files, batch=12, lanes=4, buffer=24)
        number = {row.tobytes(): i for i, row in enumerate(photos.embeddings)}
        plan = source.order
        starts = np.cumsum([0, *plan.counts])
        rows = [number[row.tobytes()] for row in source.batch(3).embeddings.numpy()]
        for lane in range(4):
            buffer = {
                starts[p.shard] + row
                for p in plan.pieces(0, 1, lane)
                for row in range(p.start, p.stop)
            }
            assert set(rows[3 * lane : 3 * lane + 3]) <= buffer

    @pytest.mark.parametrize("world", [2, 4])
    def test_processes_share_the_batches_of_one(self, world: int, files: list[Path]) -> None:
        alone = stream(files)
        shared = [stream(files, Share(rank, world)) for rank in range(world)]
        for step in range(30):
            whole, parts = alone.batch(step), [source.batch(step) for source in shared]
            assert torch.equal(torch.cat([p.embeddings for p in parts]), whole.embeddings)
            np.testing.assert_array_equal(np.concatenate([p.vectors for p in parts]), whole.vectors)
            for part in parts:
                assert torch.equal(whole.embeddings[part.rows], part.embeddings)
                assert part.size == whole.size == 12

    def test_a_process_reads_only_the_shards_of_its_lanes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = write_cache(tmp_path)
        source = stream(files, Share(1, 4), buffer=1000)
        read = spied_reads(monkeypatch, tmp_path)
        source.batch(0)
        source.close()
        first, then = ({p.shard for p in source.order.pieces(e, 0, 1)} for e in (0, 1))
        assert set(read) <= {files[shard].name for shard in first | then}
        assert len(first) < len(files)

    def test_in_any_order_from_any_step_the_same(self, files: list[Path]) -> None:
        one, other = stream(files, buffer=24), stream(files, buffer=24)
        steps = [0, 1, 2, 7, 5, 6, 8, 30, 29, 3]
        expected = {step: one.batch(step).embeddings for step in range(31)}
        for step in steps:
            assert torch.equal(other.batch(step).embeddings, expected[step])

    def test_a_resumed_run_reads_what_lies_ahead_and_no_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = write_cache(tmp_path)
        source = stream(files, batch=8, lanes=1, buffer=8)
        read = spied_reads(monkeypatch, tmp_path)
        step = source.order.steps_per_epoch - 3
        source.batch(step)
        source.close()
        pieces = [p for ahead in (0, 1) for p in source.order.pieces(0, step + ahead, 0)]
        assert Counter(read) <= Counter(files[piece.shard].name for piece in pieces)

    def test_three_buffers_are_held_and_no_more(self, files: list[Path]) -> None:
        source = stream(files, batch=8, lanes=4, buffer=8)
        for step in range(60):
            source.batch(step)
            held = [future for futures in source._buffers.values() for future in futures]
            assert len(held) <= 3 * 4

    def test_lanes_that_the_processes_cannot_share(self, files: list[Path]) -> None:
        with pytest.raises(ValueError, match=r"3 processes cannot share 4 lanes.*nproc_per_node"):
            stream(files, Share(0, 3))


def spied_reads(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Names of the files that are read from a folder from now on.

    The folder is the test's own: streams of earlier tests may still be reading ahead.
    """
    read: list[str] = []
    original = pq.read_table

    def spy(path: Path, **kind: Any) -> Any:
        if path.parent == folder:
            read.append(path.name)
        return original(path, **kind)

    monkeypatch.setattr(streaming.pq, "read_table", spy)
    return read


class TestStatistics:
    def test_are_those_of_all_photos(self, files: list[Path], photos: EmbeddedPhotos) -> None:
        found = Statistics.of(files)
        embeddings = photos.embeddings.astype(np.float64)
        assert found.counts.tolist() == list(COUNTS)
        np.testing.assert_array_equal(found.latitude, photos.latitude)
        np.testing.assert_array_equal(found.longitude, photos.longitude)
        np.testing.assert_allclose(found.mean, embeddings.mean(0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.spread, embeddings.std(0, ddof=1), rtol=1e-6)
        assert found.spread_of_all == pytest.approx(embeddings.std(ddof=1), rel=1e-9)

    def test_standardise_as_photos_in_memory_do(
        self, files: list[Path], photos: EmbeddedPhotos
    ) -> None:
        one, other = CSUNet(MODEL), CSUNet(MODEL)
        stream(files).standardise(one)
        PhotosInMemory(photos, 8, 0).standardise(other)
        torch.testing.assert_close(one.embedding_mean, other.embedding_mean)
        torch.testing.assert_close(one.embedding_std, other.embedding_std)

    def test_numbers_that_never_change_do_not_divide_by_zero(self, tmp_path: Path) -> None:
        photos = learnable_photos(9, seed=1)
        photos.embeddings[:, 0] = 0.5
        write_embedded(tmp_path / "a.parquet", photos)
        network = CSUNet(MODEL)
        StreamedPhotos(
            [tmp_path / "a.parquet"],
            Statistics.of([tmp_path / "a.parquet"]),
            StreamOrder(np.array([9]), 4, StreamConfig(1), 0),
        ).standardise(network)
        assert network.embedding_std.min() > 1e-4

    def test_are_measured_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = write_cache(tmp_path, (5, 6))
        first = Statistics.of(files)
        monkeypatch.setattr(photo_statistics.pq, "read_table", lambda _: pytest.fail("again"))
        again = Statistics.of(files)
        assert again.fingerprint == first.fingerprint and isinstance(again.spread_of_all, float)
        np.testing.assert_array_equal(again.mean, first.mean)

    def test_half_a_file_of_them_is_measured_again(self, tmp_path: Path) -> None:
        files = write_cache(tmp_path, (5, 6))
        first = Statistics.of(files)
        (kept,) = tmp_path.glob("statistics-*.npz")
        kept.write_bytes(kept.read_bytes()[:300])
        assert Statistics.of(files).fingerprint == first.fingerprint
        assert len(Statistics.of(files).latitude) == 11

    def test_the_fingerprint_is_of_content_and_order(self, tmp_path: Path) -> None:
        one = write_cache(tmp_path / "one", (5, 6))
        same = write_cache(tmp_path / "same", (5, 6))
        assert Statistics.of(one).fingerprint == Statistics.of(same).fingerprint
        assert Statistics.of(one).fingerprint != Statistics.of(one[::-1]).fingerprint
        other = write_cache(tmp_path / "other", (5, 6))
        photos = learnable_photos(6, seed=51)
        photos.latitude[3] += 1e-9
        write_embedded(other[1], photos)
        assert Statistics.of(other).fingerprint != Statistics.of(one).fingerprint


def test_stored_embeddings_are_read_by_their_rows(
    files: list[Path], photos: EmbeddedPhotos
) -> None:
    stored = StoredEmbeddings(files, Statistics.of(files))
    assert len(stored) == ALL and stored.shape == photos.embeddings.shape
    rows = np.random.default_rng(0).integers(0, ALL, 60)
    for wanted in (rows, np.arange(ALL), np.array([ALL - 1, 0, 0]), np.array([], int)):
        np.testing.assert_array_equal(stored[wanted], photos.embeddings[wanted])
