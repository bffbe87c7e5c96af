"""A worker survives its photos, and a job survives its workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
from PIL import Image

from locdiffusion.isolation import IsolatedFunction, Limits, Overrun, OverrunError
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo_process import IsolatedDecoder
from locdiffusion.photos.picture import PhotoError
from pipelines.geotag import command, plain_loop, reading
from pipelines.geotag.attempts import attempt
from pipelines.geotag.output import ATTEMPTS, Output, RunConfiguration
from pipelines.geotag.tables import Extras
from support import isolated, python_path
from support.archives import encode, sound_members, write_tar
from support.child_decoders import HARM, verbose_pixels
from support.deadly import HarmedLoader, deadly_photo
from support.fake_geotagger import FakeLoader
from support.outputs import tree
from support.picture_files import picture_file

PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def harmful_members() -> list[tuple[str, bytes]]:
    """Photos that take too long, too much memory, or crash their decoder, among sound ones."""
    harm = [(f"{does}.bmp", encode(Image.new("RGB", (n, 1)), "BMP")) for does, n in HARM.items()]
    return [*sound_members(3), *harm, *sound_members(3, 10)]


@pytest.mark.usefixtures("no_pages")
def test_harmful_photos_are_error_rows_and_those_beside_them_are_geotagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "in" / "s.tar", harmful_members())
    decode = IsolatedDecoder(Limits(memory_bytes=100 * 2**20, cpu_s=0.3))
    for place in (plain_loop, reading):
        monkeypatch.setattr(place, "isolated", decode)
    written = []
    for mode in ("beam", "plain"):
        output = tmp_path / mode
        arguments = [str(tmp_path / "in" / "s.tar"), "--output", str(output)]
        with monkeypatch.context() as patch:
            if mode == "plain":
                patch.setattr(command, "find_spec", lambda name: None)
            assert command.main([*arguments, "--max-error-fraction=1"], load=HarmedLoader()) == 0
        written.append({name: data for name, data in tree(output).items() if "summary" not in name})
    assert written[0] == written[1]
    errors = pandas.read_parquet(tmp_path / "plain/errors").set_index("key")
    assert dict(errors.status) == {
        "burn": "too_slow",
        "eat": "too_large",
        "eat C memory": "too_large",
        "crash": "broken_image",
        "raise": "broken_image",
    }
    assert "0.3 s of CPU time" in errors.message["burn"]
    assert len(pandas.read_parquet(tmp_path / "plain/predictions")) == 6


def deadly_run(mode: str, archive: Path, output: Path, *more: str) -> subprocess.CompletedProcess:
    """Runs the command with a model that a photo kills."""
    words = [mode, f"{archive}/*.tar", "--output", str(output), *more]
    return subprocess.run(
        [sys.executable, "-m", "support.deadly", *words],
        env=python_path(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("mode", "more", "died"),
    [
        ("plain", (), -signal.SIGKILL),
        pytest.param("beam", (), -signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("beam", PROCESSES, 1, marks=pytest.mark.slow),
    ],
)
def test_a_shard_that_kills_its_worker_twice_is_an_error_row(
    tmp_path: Path, mode: str, more: tuple[str, ...], died: int
) -> None:
    for index in range(3):
        write_tar(tmp_path / "in" / f"{index}.tar", sound_members(3, 10 * index))
    deadly = [*sound_members(2, 70), ("x.png", deadly_photo())]
    write_tar(tmp_path / "in" / "1-deadly.tar", deadly)
    output = tmp_path / "out"
    for _ in range(2):
        run = deadly_run(mode, tmp_path / "in", output, *more)
        assert run.returncode == died, run.stderr
    run = deadly_run(mode, tmp_path / "in", output, *more)
    assert run.returncode == 1 and "1 shard damaged" in run.stderr
    errors = pandas.read_parquet(output / "errors")
    assert list(errors.status) == ["shard_unreadable"] and errors.key.isna().all()
    assert "--retry-failed" in errors.message[0] and errors["shard"][0].startswith("1-deadly-")
    assert len(pandas.read_parquet(output / "predictions")) == 9
    assert not (output / ATTEMPTS).exists()
    run = deadly_run(mode, tmp_path / "in", output, *more, "--retry-failed")
    assert run.returncode == died, "it is tried again, if that is wished for"


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    paths = (write_tar(tmp_path / f"{name}.tar", sound_members(1)) for name in "abc")
    return [Shard(path.stem, str(path)) for path in paths]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def kill_in_work(output: Output, shard: Shard) -> None:
    """Leaves what a process leaves that is killed while it works on a shard."""
    working = attempt(output, shard, shard.version)
    working.__enter__()
    notes = {
        name: Path(output.path(ATTEMPTS, name)).read_bytes() for name in output.names(ATTEMPTS, "*")
    }
    working.__exit__(None, None, None)
    for name, data in notes.items():
        output.write(ATTEMPTS, name, data=data)


def test_a_shard_with_a_note_is_worked_on_alone(output: Output, shards: list[Shard]) -> None:
    suspect, *innocents = shards
    kill_in_work(output, suspect)
    told: list[str] = []
    begun = threading.Event()

    def work() -> None:
        begun.set()
        with attempt(output, suspect, suspect.version) as deadly:
            assert deadly is None
            told.append("suspect")

    with (
        attempt(output, innocents[0], innocents[0].version),
        attempt(output, innocents[1], innocents[1].version),
    ):
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        time.sleep(0.05)
        told.append("innocents")
    thread.join()
    assert told == ["innocents", "suspect"]
    assert not output.names(ATTEMPTS, "*")


def test_two_deaths_are_too_many_unless_the_shard_changes(
    output: Output, shards: list[Shard]
) -> None:
    shard = shards[0]
    kill_in_work(output, shard)
    with attempt(output, shard, shard.version) as deadly:
        assert deadly is None
    for _ in range(2):
        kill_in_work(output, shard)
    with attempt(output, shard, shard.version) as deadly:
        assert deadly is not None and deadly.ending is not None
        assert deadly.errors[0].status.of_shard
    for _ in range(2):
        kill_in_work(output, shard)
    write_tar(Path(shard.url), sound_members(2, 5))
    with attempt(output, shard, shard.version) as deadly:
        assert deadly is None


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, GeneratorExit])
def test_who_ends_in_order_leaves_no_note(
    output: Output, shards: list[Shard], error: type[BaseException]
) -> None:
    with pytest.raises(error), attempt(output, shards[0], shards[0].version):
        assert output.names(ATTEMPTS, "*")
        raise error
    assert not output.names(ATTEMPTS, "*")


def test_an_error_in_a_later_step_leaves_no_note(output: Output, shards: list[Shard]) -> None:
    step = reading.ReadShard(
        FakeLoader(), RunConfiguration("fake-1", "f" * 64, 0, {}), output, 8, Extras()
    )
    step.setup()
    left = step.process(shards[0])
    next(left)
    assert output.names(ATTEMPTS, "*")
    step.teardown()
    assert not output.names(ATTEMPTS, "*")


@pytest.mark.usefixtures("no_pages")
def test_no_child_stays_behind_a_run_that_is_killed(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [*sound_members(2), ("x.png", deadly_photo())])
    mark = f"LOCDIFFUSION_TEST_MARK={tmp_path}"
    words = ["plain", str(tmp_path / "in/a.tar"), "--output", str(tmp_path / "out")]
    name, _, value = mark.partition("=")
    run = subprocess.run(
        [sys.executable, "-m", "support.deadly", *words],
        env={**python_path(), name: value},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    assert run.returncode == -signal.SIGKILL
    for _ in range(2000):
        if not list(processes_with(mark.encode())):
            return
        time.sleep(0.01)
    pytest.fail("an orphan stays")


def processes_with(mark: bytes) -> Iterator[int]:
    """Yields the processes that have a variable in their environment."""
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in place.read_bytes().split(b"\0"):
                yield int(place.parent.name)
        except OSError:
            continue


def test_a_child_that_closes_its_pipe_and_goes_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locdiffusion.isolation._LAST_S", 0.2)
    function = IsolatedFunction(isolated.misbehave)
    with pytest.raises(OverrunError, match="answers no more") as raised:
        function(b"fall silent")
    assert raised.value.overrun is Overrun.CRASH
    assert function(b"behave") == b"behave"


def test_a_child_that_listens_no_more_is_ended() -> None:
    function = IsolatedFunction(isolated.misbehave, Limits(wall_s=2))
    assert function(b"fall deaf") == b"fall deaf"
    time.sleep(0.5)
    with pytest.raises(OverrunError, match="no answer within 2 s"):
        function(bytes(2**20))
    assert function(b"behave") == b"behave"


def test_an_answer_that_is_longer_than_any_photo_is_not_taken() -> None:
    with pytest.raises(PhotoError, match="the answer has 9,6"):
        IsolatedDecoder()(picture_file("jpeg"), verbose_pixels)
