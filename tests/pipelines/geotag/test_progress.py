"""What a waiting user is told: counts, rate, time left; nobody looks at a clock here."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest

from pipelines.geotag import progress
from pipelines.geotag.manifests import COUNTS, ManifestName
from pipelines.geotag.output import MANIFESTS, Output
from pipelines.geotag.progress import TALLY, Moment, Progress, Watch, duration, progress_line

SHARDS = [f"s-{index}" for index in range(10)]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def finish(output: Output, *shards: str, photos: int = 100) -> None:
    for shard in shards:
        document = {
            "shard": shard,
            "source": f"{shard}.tar",
            "tar_status": "complete",
            **dict.fromkeys(COUNTS, 0),
            "photos": photos,
            "errors_by_status": {},
        }
        output.write(MANIFESTS, f"{shard}.json", data=json.dumps(document).encode())


def test_a_line_says_what_is_known_and_no_more() -> None:
    assert progress_line(Moment(5.0, 10, 2)) == "    5 s  2/10 shards"
    whole = Moment(300.0, 1_000, 20, 12_345, 1234.56, 7300.0)
    line = "  5 min  20/1,000 shards, 12,345 photos, 1,234.6 images/s, about 2.0 h left"
    assert progress_line(whole) == line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119, "119 s"), (125, "2 min"), (7300, "2.0 h"), (200_000, "2.3 days")],
)
def test_durations_come_in_the_unit_one_would_say(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_in_one_process_photos_are_seen_before_their_shard_is_written(output: Output) -> None:
    watch = Watch(output, SHARDS)
    assert watch.look(5.0) == Moment(5.0, 10, 0)
    TALLY.add(40)
    assert watch.look(10.0) == Moment(10.0, 10, 0, 40, 4.0)  # how large a shard is, nobody knows
    TALLY.add(160)
    finish(output, "s-0")
    moment = watch.look(20.0)
    # 160 photos in the 10 s since photos were first seen; 800 of 10 shards of 100 are left.
    assert moment == Moment(20.0, 10, 1, 200, 16.0, 50.0)


def test_where_others_work_photos_come_from_manifests(output: Output) -> None:
    watch = Watch(output, SHARDS)
    finish(output, "s-0", "s-1")
    assert watch.look(50.0) == Moment(50.0, 10, 2, 200, 4.0, 200.0)
    assert watch.look(60.0).photos == 200
    finish(output, "s-2", photos=400)
    # 400 more in 50 s; ten shards of 200 are 2,000 photos, of which 600 are done.
    assert watch.look(100.0) == Moment(100.0, 10, 3, 600, 8.0, 175.0)


def test_what_was_done_before_gives_no_rate(output: Output) -> None:
    finish(output, *SHARDS[:5], "of-another-input")
    watch = Watch(output, SHARDS)
    assert watch.look(50.0) == Moment(50.0, 10, 5)
    finish(output, "s-5")
    assert watch.look(100.0) == Moment(100.0, 10, 6, 100, 1.0, 400.0)


def test_photos_of_an_earlier_job_in_this_process_do_not_count(output: Output) -> None:
    TALLY.add(1000)
    assert Watch(output, SHARDS).look(5.0).photos == 0


def test_many_new_manifests_are_not_all_read(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MOST_READ", 2)
    read = []
    inner = Output.manifest
    monkeypatch.setattr(
        Output, "manifest", lambda self, id, name: read.append(id) or inner(self, id, name)
    )
    watch = Watch(output, SHARDS)
    finish(output, *SHARDS[:5])
    assert watch.look(10.0).photos == 500 and read == ["s-0", "s-1"]
    watch.look(20.0)
    watch.look(30.0)
    watch.look(40.0)
    assert read == SHARDS[:5], "each is read once"


class Waits:
    """In place of the event: takes down how long one would wait, and stops at the end."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) > self.count

    def is_set(self) -> bool:
        return False

    def set(self) -> None:
        pass


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal
        self.written: list[str] = []

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.written.append(text)
        return super().write(text)


@pytest.mark.parametrize(
    ("terminal", "waits"),
    [(False, [5, 10, 20, 40, 60, 60, 60]), (True, [5, 10, 10, 10, 10, 10, 10])],
)
def test_soon_at_first_then_now_and_then(output: Output, terminal: bool, waits: list[int]) -> None:
    stream = Stream(terminal)
    shown = Progress(output, SHARDS, stream=stream)
    shown._stop = Waits(6)  # type: ignore[assignment]
    with shown:
        shown._thread.join()
    assert shown._stop.seconds == waits
    assert len(stream.written) == 6, "a line is written in one piece"
    assert all(line.endswith("0/10 shards\n") for line in stream.written)


def test_what_goes_wrong_with_watching_disturbs_nobody(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(False)
    shown = Progress(output, SHARDS, stream=stream)
    looks = iter([OSError("the network hiccups"), RuntimeError("a cloud's own error"), None])

    def finished(self: Output) -> dict[str, ManifestName]:
        error = next(looks)
        if error is not None:
            raise error
        return {"s-0": ManifestName("s-0")}

    monkeypatch.setattr(Output, "manifest_files", finished)
    shown._stop = Waits(3)  # type: ignore[assignment]
    with shown:
        shown._thread.join()
    assert len(stream.written) == 1 and "1/10 shards" in stream.written[0]


def test_nothing_is_printed_once_the_job_is_over(output: Output) -> None:
    stream = Stream(False)
    with Progress(output, SHARDS, first=3600.0, stream=stream) as shown:
        pass
    assert stream.written == [] and not shown._thread.is_alive()
    assert not any(thread.name == "progress" for thread in threading.enumerate())
