"""Files of ours that are read back and hold something else are told or left aside, never obeyed.

Each value of each file is replaced by values of other kinds, and taken away.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locdiffusion.cli.parser import RunFailed, UsageError
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.storage import DataError
from pipelines.geotag import attempts, command
from pipelines.geotag.console import last_line, summary_table
from pipelines.geotag.digest import RunDigest
from pipelines.geotag.options import parse
from pipelines.geotag.output import ATTEMPTS, DIGEST, RETRIES, SHARD_LISTS, Output, RunConfiguration
from pipelines.geotag.pages.report import report_page
from pipelines.geotag.pages.rows import map_rows
from pipelines.geotag.retries import Retries
from pipelines.geotag.shard_lists import read_list, write_lists
from pipelines.geotag.summary import TIMES, read_digest, run_digest, summarise, with_earlier
from pipelines.writing.directory import RUN, SUMMARY, OutputError
from support.outputs import manifest_of, write_run

CONFIGURATION = RunConfiguration("fake-1", "f" * 64, 7, {"mode": "density"})
ODD = (None, True, -1, 1.5, float("nan"), 10**40, "\ud800", "x", [], ["x"], [[1]], {}, {"x": -1})
TOLD = (RunFailed, UsageError, DataError, OutputError)


@pytest.fixture
def output(tmp_path: Path, rng: np.random.Generator) -> Output:
    """A made-up run of two shards, one of which is damaged."""
    output = write_run(tmp_path / "out", rng, ["a-001", "a-002"])
    output.write(RUN, data=json.dumps(CONFIGURATION.to_dict()).encode())
    return output


def damaged(document: Any, most: int = 30) -> Iterator[Any]:
    """Yields copies of a JSON value in each of which one value is another, or is missing.

    Of tables and lists within it the first three values are enough.
    """
    yield from ODD
    if isinstance(document, (dict, list)):
        places = list(document) if isinstance(document, dict) else range(len(document))
        for place in places[:most]:
            without = copy.copy(document)
            del without[place]
            yield without
            for other in damaged(document[place], 3):
                changed = copy.copy(document)
                changed[place] = other
                yield changed


def summarised(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports a run as `--summarise` does, with its report instead of its files of pages."""

    def draw(_: Output, sample: Any, summary: dict[str, Any]) -> bool:
        report_page(map_rows(sample, 10, known_only=True), summary)
        return True

    monkeypatch.setattr(command, "draw_pages", draw)
    with contextlib.suppress(*TOLD):
        command.summarise_only(parse([f"--output={output.root}", "--summarise"]))


def test_a_damaged_manifest_is_told(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest_of(Path(output.root), "a-002")
    right = json.loads(path.read_bytes())
    for document in damaged(right):
        path.write_text(json.dumps(document))
        if output.manifest("a-002") is not None:  # it is as ours may be
            output.remove(DIGEST)
            summarised(output, monkeypatch)
    path.write_text(json.dumps({**right, "photos": "7"}))
    (told,) = run_digest(output).told["mismatches"]
    assert told[2] == [f"{path} is not what was written there; delete it"]


def test_a_damaged_record_of_a_run_ends_nothing(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(output.path(RUN))
    for document in damaged(json.loads(path.read_bytes())):
        path.write_text(json.dumps(document))
        summarised(output, monkeypatch)


def test_of_a_damaged_summary_only_what_can_be_used_is(output: Output) -> None:
    summary = summarise(output) | {
        "seconds": 2.5,
        "images_per_second": 3,
        "stage_seconds": {"a": 1},
    }
    used = {name: summary[name] for name in (*TIMES, "photos", "left_out")}
    output.write(SUMMARY, data=json.dumps(summary).encode())
    assert with_earlier(output, summarise(output), left_out=True) == summary
    for document in damaged(used):
        output.write(SUMMARY, data=json.dumps(document).encode())
        found = with_earlier(output, summarise(output), left_out=True)
        assert summary_table(found) and last_line(found)


def with_document(data: bytes, document: Any) -> bytes:
    """A digest with another document."""
    table = pq.read_table(pa.BufferReader(data))
    return in_parquet(table.replace_schema_metadata({b"digest": json.dumps(document).encode()}))


def in_parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return bytes(buffer.getvalue())


def test_a_damaged_digest_is_told_and_the_files_are_read(
    output: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = run_digest(output).to_bytes()
    path = Path(output.path(DIGEST))
    right = json.loads(pq.read_schema(path).metadata[b"digest"])
    for document in damaged(right):
        path.write_bytes(with_document(wanted, document))
        digest = read_digest(output)
        if digest is not None:
            summarised(output, monkeypatch)
    for change in ({"rows": [-1, 0]}, {"files": 1.5}, {"accuracy": {"truth": {"a": {"n": 7}}}}):
        capsys.readouterr()
        path.write_bytes(with_document(wanted, right | change))
        assert run_digest(output).to_bytes() == wanted
        told = capsys.readouterr().err
        assert (
            f"{path} holds something else than a digest (" in told and "all files are read" in told
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("latitude", value) for value in (float("nan"), 91.0, None, "north")],
        *[("truth_longitude", value) for value in (float("inf"), 1e9, "x")],
        *[("radius_90_km", float("nan")), ("key", None), ("row", None), ("rank", "x")],
        *[("modes", 1.0), ("thumbnail", [1])],
    ],
)
def test_a_digest_with_odd_rows_is_not_used(output: Output, name: str, value: Any) -> None:
    wanted = run_digest(output).to_bytes()
    table = pq.read_table(pa.BufferReader(wanted))
    at, values = table.schema.get_field_index(name), table[name].to_pylist()
    kind = table.schema.field(name).type if isinstance(value, (float, type(None))) else None
    column = pa.array([value] * len(values), None if name == "modes" else kind)
    Path(output.path(DIGEST)).write_bytes(in_parquet(table.set_column(at, name, column)))
    assert read_digest(output) is None
    assert run_digest(output).to_bytes() == wanted


def test_a_digest_of_other_bytes_is_not_used(output: Output, rng: np.random.Generator) -> None:
    right = run_digest(output).to_bytes()
    for _ in range(200):
        data = bytearray(right)
        for at in rng.integers(0, len(data), 3):
            data[at] ^= int(rng.integers(1, 256))
        with contextlib.suppress(ValueError):
            RunDigest.from_bytes(bytes(data))


def test_damaged_notes_count_for_nothing(output: Output) -> None:
    shard, configuration = Shard("a-002", "/archive/a-002.tar"), CONFIGURATION
    note = json.loads(manifest_of(Path(output.root), "a-002").read_bytes())
    note |= {"config_hash": configuration.hash, "version": "1"}
    output.write(RETRIES, "a-002.json", data=json.dumps(note).encode())
    assert Retries(output, configuration).take(shard, "1") is not None
    for document in damaged(note):
        output.write(RETRIES, "a-002.json", data=json.dumps(document).encode())
        Retries(output, configuration).take(shard, "1")
    for document in damaged({"shard": "a-002", "version": "1", "deaths": 1}):
        output.write(ATTEMPTS, "a-002.json", data=json.dumps(document).encode())
        with attempts.attempt(output, shard, "1") as deadly:
            assert deadly is None


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no gzip" + data])
def test_a_list_that_breaks_off_is_told(output: Output, damage: Callable[[bytes], bytes]) -> None:
    (name,) = write_lists(output, [Shard("a", "/a.tar")])
    path = Path(output.path(SHARD_LISTS, name))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="is no list of shards that this command wrote"):
        read_list(name, output)


def test_a_damaged_list_is_told(output: Output) -> None:
    (name,) = write_lists(output, [Shard("a", "/a.tar", siblings=("/b.tar",))])
    path = Path(output.path(SHARD_LISTS, name))
    right = json.loads(gzip.decompress(path.read_bytes()))
    for document in damaged(right):
        path.write_bytes(gzip.compress(json.dumps(document).encode()))
        with contextlib.suppress(ValueError):
            for shard in read_list(name, output):
                _ = shard.id + shard.url, shard.folder, shard.reader()
