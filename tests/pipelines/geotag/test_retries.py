"""What is done is not opened again, what may pass is waited for, and errors alone are retried."""

from __future__ import annotations

import contextlib
import errno
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pandas
import pytest

from locdiffusion.photos import archive, folder_reader, storage
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.photo import decode_photo
from locdiffusion.photos.storage import PAUSES_S, ReadError
from pipelines.geotag import attempts, command, plain_loop, reading
from pipelines.geotag.attempts import attempt
from pipelines.geotag.batches import PhotoBatch, read_batches
from pipelines.geotag.output import Output
from schemas.geotags import ErrorRow, Stage, Status
from support.archives import photo, sound_members, tar_bytes, truth, write_tar
from support.fake_geotagger import FakeGeotagger, FakeLoader
from support.outputs import tree

pytestmark = pytest.mark.usefixtures("no_pages")

TWICE = "--direct_runner_bundle_repeat=2"
EXTRAS = ("--regions", "--thumbnails", "3", "--areas", "country,region,h3:2")


def run(*words: Path | str) -> int:
    given = [str(word) for word in words]
    return command.main([*given, "--batch-size=3", "--accept-damaged"], load=FakeLoader())


def results(output: Path) -> dict[str, bytes]:
    """All that was written but the summary, which tells the time."""
    return {name: data for name, data in tree(output).items() if name != "summary.json"}


# What is finished is not opened


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were opened."""
    found: list[str] = []
    real = archive.open_stream

    def noted(url: str) -> BinaryIO:
        found.append(Path(url).name)
        return real(url)

    monkeypatch.setattr(archive, "open_stream", noted)
    return found


@pytest.mark.parametrize("repeat", [(), (TWICE,)], ids=["once", "twice"])
def test_a_shard_is_opened_once_however_often_its_bundle_runs(
    tmp_path: Path, opened: list[str], repeat: tuple[str, ...]
) -> None:
    for index in range(4):
        write_tar(tmp_path / f"s-{index}.tar", sound_members(4, 10 * index))
    words = (f"{tmp_path}/*.tar", "--output", tmp_path / "out", *repeat)
    assert run(*words) == 0
    assert Counter(opened) == Counter(f"s-{index}.tar" for index in range(4))
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["photos"] == 16 and summary["mismatches"] == []
    opened.clear()
    assert run(*words) == 0 and opened == []


# What passes is waited for


class Breaking:
    """A file that fails behind some byte as long as there are failures left."""

    def __init__(self, file: BinaryIO, at: int, failures: list[OSError]) -> None:
        self.file, self.at, self.failures = file, at, failures

    def read(self, size: int = -1) -> bytes:
        if self.failures and self.file.tell() + max(size, 0) > self.at:
            raise ReadError("broken") from self.failures.pop()
        return self.file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Breaking:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


RESET, GONE = (lambda: OSError(errno.ECONNRESET, "reset")), (lambda: FileNotFoundError("gone"))


def batches_with(
    monkeypatch: pytest.MonkeyPatch, path: Path, failures: list[OSError], at: int
) -> tuple[list[PhotoBatch], list[float]]:
    """Reads a shard whose file breaks, and the pauses that were made."""
    slept: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(archive, "open_stream", lambda url: Breaking(path.open("rb"), at, failures))
        shard = Shard("s", str(path))
        return list(read_batches(shard, FakeGeotagger().preprocess, 3, sleep=slept.append)), slept


def content(batches: list[PhotoBatch]) -> list[Any]:
    """All that later steps see, comparable."""
    last = batches[-1].ending
    assert last is not None
    pixels = [batch.payload and batch.payload.pixels.tobytes() for batch in batches]
    return [[batch.keys for batch in batches], [b.errors for b in batches], pixels, last]


@pytest.mark.parametrize("failures", [1, 2])
def test_reading_goes_on_behind_what_was_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    members = [*sound_members(4), ("text.jpg", b"text"), *sound_members(4, 10)]
    path = write_tar(tmp_path / "s.tar", members)
    sound, _ = batches_with(monkeypatch, path, [], 0)
    middle = path.stat().st_size // 2
    found, slept = batches_with(monkeypatch, path, [RESET() for _ in range(failures)], middle)
    assert content(found) == content(sound) and slept == list(PAUSES_S[:failures])


def test_the_status_is_that_of_the_last_of_three_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "s.tar", sound_members(8))
    middle = path.stat().st_size // 2
    found, slept = batches_with(monkeypatch, path, [RESET() for _ in range(3)], middle)
    ending = found[-1].ending
    assert slept == list(PAUSES_S) and ending is not None and ending.read_failed
    errors = [error for batch in found for error in batch.errors]
    assert [e.status for e in errors if e.key is None] == [Status.SHARD_UNREADABLE]
    keys = [key for batch in found for key in batch.keys] + [e.key for e in errors if e.key]
    assert len(keys) == len(set(keys)) == ending.photos


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("x"), PermissionError("x"), OSError("Forbidden: x"), ImportError("gcsfs")],
    ids=repr,
)
def test_what_is_missing_or_forbidden_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    path = write_tar(tmp_path / "s.tar", sound_members(8))
    found, slept = batches_with(monkeypatch, path, [error], path.stat().st_size // 2)
    assert slept == [] and found[-1].ending is not None and found[-1].ending.read_failed


class Coded(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [(Coded(503), True), (Coded(429), True), (Coded(401), False), (TimeoutError(), True)],
)
def test_errors_of_a_storage(error: Exception, may_pass: bool) -> None:
    wrapped = ReadError("x")
    wrapped.__cause__ = error
    assert storage.passes(wrapped) is may_pass
    assert not storage.passes(ReadError("a refusal of ours has no cause"))


def test_photos_of_a_folder_are_waited_for_until_one_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        (tmp_path / f"{index}.jpg").write_bytes(photo(index))
    (shard,) = list_shards([str(tmp_path)], lambda line: None)
    real, slept = folder_reader.open_inside, []
    failing = {"1.jpg": 1, "2.jpg": 9, "3.jpg": 1}

    def breaking(folder: str, path: str) -> BinaryIO:
        if failing.get(path, 0):
            failing[path] -= 1
            raise OSError(errno.EIO, "i/o error")
        return real(folder, path)

    monkeypatch.setattr(folder_reader, "open_inside", breaking)
    found = list(read_batches(shard, FakeGeotagger().preprocess, 9, sleep=slept.append))
    assert [key for batch in found for key in batch.keys] == ["0.jpg", "1.jpg", "4.jpg"]
    assert [e.key for batch in found for e in batch.errors] == ["2.jpg", "3.jpg"]
    assert slept == [PAUSES_S[0], *PAUSES_S], "a success gives the patience back"
    assert found[-1].ending is not None and found[-1].ending.read_failed


# Only photos in errors


def fails(keys: set[str], seen: list[str]) -> Callable[..., Any]:
    """A decoder of photos that fails for some; `seen` gets the keys of all."""

    def decode(sample: Any, *rest: Any, **options: Any) -> Any:
        seen.append(sample.key)
        if sample.key in keys:
            return ErrorRow(sample.key, Stage.PHOTO, Status.TOO_SLOW, "stopped")
        return decode_photo(sample, *rest, **options)

    return decode


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, keys: set[str]) -> Iterator[list[str]]:
    seen: list[str] = []
    with monkeypatch.context() as patch:
        for place in (plain_loop, reading):
            patch.setattr(place, "decode_photo", fails(keys, seen))
        yield seen


def many(tmp_path: Path) -> tuple[Path, set[str], set[str]]:
    """A tar and a folder with late documents and a photo that stays broken; keys of some."""
    members = [*sound_members(9), ("text.jpg", b"text"), ("d/z.jpg", photo(77))]
    write_tar(tmp_path / "in/s.tar", [*members, ("far/d/z.json", truth(1.0, 2.0))])
    write_tar(tmp_path / "in/sound.tar", sound_members(3, 40))
    (tmp_path / "in/cut.tar").write_bytes(tar_bytes(sound_members(5, 60))[:6000])
    for index in range(8):
        (tmp_path / f"in/folder/{index}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"in/folder/{index}.jpg").write_bytes(photo(index))
        (tmp_path / f"in/folder/{index}.json").write_bytes(b"no JSON" if index == 3 else b"{}")
    keys = sorted(key.rpartition(".")[0] for key, _ in members if key.endswith(".jpg"))
    some = {keys[1], keys[4], "d/z", "2.jpg", "3.jpg"}
    return tmp_path / "in", some, {*some, "text"}


def words(root: Path, output: Path) -> tuple[Path | str, ...]:
    inputs = (root / "s.tar", root / "sound.tar", root / "cut.tar", root / "folder")
    return (*inputs, "--output", output, *EXTRAS)


@pytest.mark.parametrize("beam", [False, True], ids=["plain", "beam twice"])
def test_a_run_and_a_retry_give_the_bytes_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beam: bool
) -> None:
    root, some, again = many(tmp_path)
    if not beam:
        monkeypatch.setattr(command, "find_spec", lambda name: None)
    repeat = (TWICE,) if beam else ()
    assert run(*words(root, tmp_path / "whole")) == 0
    with failing(monkeypatch, some):
        assert run(*words(root, tmp_path / "out")) == 0
    before = results(tmp_path / "out")
    assert before != results(tmp_path / "whole")
    with failing(monkeypatch, set()) as seen:
        assert run(*words(root, tmp_path / "out"), "--retry-failed", *repeat) == 0
    assert sorted(seen) == sorted(again), "no other photo is decoded"
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert not (tmp_path / "out/_retries").exists() or not list(
        (tmp_path / "out/_retries").iterdir()
    )
    with failing(monkeypatch, set()) as seen:
        assert run(*words(root, tmp_path / "out")) == 0 and seen == []


@pytest.mark.usefixtures("plain_loop")
def test_what_fails_again_is_a_row_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, some, again = many(tmp_path)
    written = []
    for more in ((), ("--retry-failed",)):
        with failing(monkeypatch, some):
            assert run(*words(root, tmp_path / "out"), *more) == 0
        written.append(results(tmp_path / "out"))
    assert written[0] == written[1]
    assert set(pandas.read_parquet(tmp_path / "out/errors").key.dropna()) >= again


@pytest.mark.parametrize("beam", [False, True])
def test_predictions_stay_where_a_retry_kills_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beam: bool
) -> None:
    root, some, _ = many(tmp_path)
    if not beam:
        monkeypatch.setattr(command, "find_spec", lambda name: None)
    with failing(monkeypatch, some):
        assert run(*words(root, tmp_path / "out")) == 0
    before = results(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "MOST_DEATHS", 0)
        patch.setattr(Output, "create", lambda *_, data: False)  # as where a note is found
        assert run(*words(root, tmp_path / "out"), "--retry-failed") == 0  # damage is accepted
    after = results(tmp_path / "out")
    layers = ("predictions", "regions", "thumbnails")
    changed = [name for name in before if name.startswith(layers) and after[name] != before[name]]
    assert changed == []
    assert "killed" in str(pandas.read_parquet(tmp_path / "out/errors").message.tolist())
    assert run(*words(root, tmp_path / "out"), "--retry-failed") == 0
    assert run(*words(root, tmp_path / "whole")) == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.usefixtures("plain_loop")
@pytest.mark.parametrize("layer", ["predictions", "errors", "regions", "_manifest"])
def test_a_retry_that_is_stopped_while_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    root, some, _ = many(tmp_path)
    assert run(*words(root, tmp_path / "whole")) == 0
    with failing(monkeypatch, some):
        assert run(*words(root, tmp_path / "out")) == 0
    real = Output.write

    def stops(output: Output, *names: str, data: bytes) -> None:
        if names[0] == layer:
            raise RuntimeError("stopped")
        real(output, *names, data=data)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", stops)
        assert run(*words(root, tmp_path / "out"), "--retry-failed") != 0
    assert run(*words(root, tmp_path / "out")) == 0, "the flag need not be typed again"
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.usefixtures("plain_loop")
def test_a_shard_that_has_changed_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "s.tar", sound_members(3))
    with failing(monkeypatch, {"000000"}):
        assert run(path, "--output", tmp_path / "out") == 0
    write_tar(path, sound_members(4, 50))
    assert run(path, "--output", tmp_path / "out", "--retry-failed") == 0
    assert run(path, "--output", tmp_path / "whole") == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


# Requests


def test_a_note_costs_two_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    asked: list[str] = []

    def noted(name: str) -> None:
        real = getattr(type(memory), name)

        def asking(*arguments: Any, **options: Any) -> Any:
            asked.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(type(memory), name, asking)

    for name in ("pipe_file", "cat_file", "rm_file", "ls"):
        noted(name)
    shard, output = Shard("s", str(tmp_path)), Output("memory://notes")
    for _ in range(2):
        with attempt(output, shard, "v") as deadly:
            assert deadly is None
    assert asked == ["pipe_file", "rm_file"] * 2
