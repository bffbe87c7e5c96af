"""Regions come late, while the model works on: the same rows, and the same failures."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from locdiffusion.photos.listing import Shard
from pipelines.geotag import late_results, stages
from pipelines.geotag.batches import STAGES, PhotoBatch, ShardRows, read_batches, run_stage
from pipelines.geotag.batches import shard_rows as joined
from pipelines.geotag.late_results import Failure, LateThreads, regions_of
from pipelines.geotag.stages import StageHandler
from pipelines.geotag.tables import Extras
from schemas.geotags import Stage
from support.archives import sound_members, write_tar
from support.fake_geotagger import BLUELESS_KM, FakeGeotagger

LONG_S = 60.0


class Picky(FakeGeotagger):
    """Fails for a third of the photos, too."""

    def regions(self, natural: np.ndarray, embeddings: np.ndarray | None = None) -> list:
        if (natural[:, 0, 0] % 0.03 < 0.01).any():
            raise MemoryError("a large region")
        return super().regions(natural)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard("s", str(write_tar(tmp_path / "s.tar", sound_members(17))))


def decoded(shard: Shard, late: LateThreads | None) -> list[PhotoBatch]:
    model, done = Picky(), []
    for batch in read_batches(shard, model.preprocess, 5):
        for stage in STAGES:
            batch = run_stage(batch, stage, model, regions=True, late=late)
        done.append(batch)
    return done


def rows(found: ShardRows) -> list[object]:
    return [found.keys, found.decoded.regions]


def test_late_rows_are_those_of_work_in_place(shard: Shard) -> None:
    plain = rows(joined(decoded(shard, None)))
    kinds = {type(one) for one in plain[1]}
    assert kinds == {tuple, Failure}, "some fail and some do not"
    late = decoded(shard, LateThreads(ThreadPoolExecutor(4)))
    assert rows(joined(late)) == plain
    sent = pickle.loads(pickle.dumps(decoded(shard, LateThreads(ThreadPoolExecutor(4)))))
    assert rows(joined(sent)) == plain, "a runner that breaks the fusion sends results"


def test_the_model_is_free_while_regions_are_drawn(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    class Slow(FakeGeotagger):
        def regions(self, natural: np.ndarray, embeddings: np.ndarray | None = None) -> list:
            assert free.wait(LONG_S), "the step waits for its regions"
            return super().regions(natural)

    @dataclass(frozen=True)
    class Load:
        def __call__(self) -> FakeGeotagger:
            return Slow()

    threads = LateThreads(ThreadPoolExecutor(1))
    monkeypatch.setattr(stages, "LATE_THREADS", threads)
    handlers = [StageHandler(Load(), stage, Extras(regions=True)) for stage in STAGES]
    model = handlers[0].load_model()
    done = []
    for batch in read_batches(shard, Slow.preprocess, 5):
        for handler in handlers:
            (batch,) = handler.run_inference(batch, model)
        done.append(batch)
    assert not model.lock.locked()
    free.set()
    regions = joined(done).decoded.regions
    assert len(regions) == 17 and all(isinstance(found, tuple) for found in regions)
    assert threads.seconds() > 0 and threads.seconds() == 0.0


def test_no_more_than_some_results_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_results, "MOST_WAITING", 3)
    pool, may_end = LateThreads(ThreadPoolExecutor(1)), threading.Event()
    pool.wait_for_room()
    late = pool.submit(3, lambda: [may_end.wait(LONG_S)] * 3)
    waiter = threading.Thread(target=pool.wait_for_room)
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive(), "three results wait"
    may_end.set()
    waiter.join(LONG_S)
    assert not waiter.is_alive() and [one.result() for one in late] == [True] * 3


def test_a_blueless_photo_keeps_the_rest_of_its_answer(shard: Shard) -> None:
    model = FakeGeotagger()
    (batch,) = read_batches(shard, model.preprocess, 32)
    batch = run_stage(run_stage(batch, Stage.EMBED, model), Stage.SAMPLE, model)
    batch.payload.natural[3, 0, 2] = 0.0
    late = LateThreads(ThreadPoolExecutor(2))
    found = run_stage(batch, Stage.DECODE, model, True, late).settled().payload
    assert found.answers.radius_50_km[3] < BLUELESS_KM and len(found.answers) == 17
    assert [type(one) is Failure for one in found.regions] == [row == 3 for row in range(17)]


def test_of_regions_drawn_together_only_those_that_fail_are_missing() -> None:
    """In one group; a model that draws too few regions gives none to the wrong photo."""
    model, natural = FakeGeotagger(), np.full((7, 1, 3), 0.5, np.float32)
    natural[[1, 4], 0, 2] = 0.0
    found = regions_of(model, natural, np.zeros((7, 2), np.float32))
    assert [type(one) is Failure for one in found] == [row in (1, 4) for row in range(7)]

    class Short(FakeGeotagger):
        def regions(self, natural: np.ndarray, embeddings: np.ndarray | None = None) -> list:
            return super().regions(natural)[1:]

    found = regions_of(Short(), natural[2:4], np.zeros((2, 2), np.float32))
    assert [one.reason for one in found] == [
        "ValueError: the model drew regions of 0 photos for 1"
    ] * 2
