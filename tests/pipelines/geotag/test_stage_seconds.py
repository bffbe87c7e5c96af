"""Each step's time is its own: here a clock that moves only when a step works."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from locdiffusion.photos import archive_formats
from locdiffusion.photos.listing import Shard
from pipelines.geotag import counters, decoding_ahead, reading, transforms, writing
from pipelines.geotag.console import summary_table
from pipelines.geotag.decoding_ahead import PhotoThreads
from pipelines.geotag.output import Output, RunConfiguration
from support.archives import sound_members, write_tar
from support.fake_geotagger import FakeGeotagger

PHOTOS, MEMBERS, BATCHES = 12, 18, 3


@dataclass(frozen=True)
class Loader:
    def __call__(self) -> FakeGeotagger:
        return FakeGeotagger()


class Clock:
    """Stands still but for what `taking` says."""

    def __init__(self) -> None:
        self.now = 0.0

    def taking(self, seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_in_time(*arguments: Any) -> Any:
            self.now += seconds
            return work(*arguments)

        return work_in_time


class WhenTaken(Executor):
    """Does work at last when somebody asks for its result."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        wait = future.result
        future.result = lambda timeout=None: (future.set_result(work()), wait())[1]
        return future


def test_each_step_counts_its_own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(decoding_ahead, "PHOTO_THREADS", PhotoThreads(WhenTaken()))
    for module in (counters, reading, decoding_ahead):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(
        archive_formats, "read_members", slowly(clock, archive_formats.read_members)
    )
    for place, name, seconds in (
        (reading, "decode_photo", 2),
        (FakeGeotagger, "embed", 100),
        (FakeGeotagger, "sample", 200),
        (FakeGeotagger, "decode", 400),
        (writing, "write_shard", 1000),
    ):
        monkeypatch.setattr(place, name, clock.taking(seconds, getattr(place, name)))
    shard = Shard("s-0", str(write_tar(tmp_path / "s-0.tar", sound_members(PHOTOS))))
    configuration = RunConfiguration("fake-1", "f" * 64, 0, {})
    pipeline = beam.Pipeline(runner=FnApiRunner())
    geotag = transforms.Geotag(Loader(), configuration, Output(str(tmp_path / "out")), 5)
    _ = pipeline | beam.Create([shard]) | geotag
    found = counters.stage_seconds(pipeline.run())
    assert found == {
        "read": MEMBERS,
        "decode_photo": 2 * PHOTOS,
        "wait_for_photos": 2 * PHOTOS,
        "embed": 100 * BATCHES,
        "sample": 200 * BATCHES,
        "decode_density": 400 * BATCHES,
        "wait_for_model": 0,
        "regions_and_places": 0,
        "wait_for_regions_and_places": 0,
        "write": 1000,
    }
    assert tuple(found) == counters.STEPS


def slowly(clock: Clock, read: Callable[..., Any]) -> Callable[..., Any]:
    """One second for each member."""

    def members(*arguments: Any) -> Any:
        for member in read(*arguments):
            clock.now += 1
            yield member

    return members


def test_steps_that_stand_twice_in_the_graph_are_added_up() -> None:
    """Whole shards are written in one step, regrouped ones in another."""

    def counter(namespace: str, name: str, microseconds: int) -> SimpleNamespace:
        metric = SimpleNamespace(namespace=namespace, name=name)
        return SimpleNamespace(key=SimpleNamespace(metric=metric), result=microseconds)

    reported = [
        counter("write", "microseconds", 3_000_000),
        counter("write", "microseconds", 1_500_000),
        counter("read", "microseconds", 250_000),
        counter("write", "bytes", 9),
        counter("elsewhere", "microseconds", 9),
    ]
    metrics = SimpleNamespace(query=lambda: {"counters": reported, "distributions": []})
    found = counters.stage_seconds(SimpleNamespace(metrics=lambda: metrics))
    assert found == {"read": 0.25, "write": 4.5}


def test_the_table_tells_every_step_on_a_line_of_its_own() -> None:
    summary: dict[str, Any] = {
        **dict.fromkeys(("photos", "predictions", "photo_errors"), 10),
        **{name: {} for name in ("errors_by_status", "shards", "accuracy", "accuracy_exif")},
        **{name: [] for name in ("mismatches", "damaged", "notes")},
        **{"left_out": {}, "not_understood": 0, "documents": [], "estimates": 0},
        "seconds": 20.0,
        "images_per_second": 0.5,
        "stage_seconds": {name: float(index) for index, name in enumerate(counters.STEPS)},
    }
    lines = [line.split() for line in summary_table(summary).splitlines()]
    for index, name in enumerate(counters.STEPS):
        assert [name, f"{index}.0"] in lines
