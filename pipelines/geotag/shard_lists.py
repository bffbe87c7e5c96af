"""Lists of shards as files of the output directory, so that a job's graph holds only their names.

A graph that held a million names of photos would be refused by Dataflow, which takes ten megabytes.
Each file is JSON lines, a line per shard, compressed. It is JSON because workers read it from a
directory that others may write to. Knows no Beam.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from typing import Any

from locdiffusion.photos.folder import PhotoFile
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.storage import open_stream
from locdiffusion.photos.table import TableGroup
from pipelines.geotag.embeddings import EmbeddedShard
from pipelines.geotag.manifests import ManifestName, is_texts
from pipelines.geotag.output import SHARD_LISTS, Output
from pipelines.geotag.tables import UNREADABLE

NAMES_IN_GRAPH = 2_000
"""Most shards and photos that a graph itself holds: some hundred kilobytes."""

NAMES_IN_FILE = 20_000
"""Shards and photos after which a list ends: a worker reads one list as a whole."""

MOST_BYTES = 2**28
"""Most bytes of a list: a hundred times those of one of ours with long names."""


def few(shards: Sequence[Shard]) -> bool:
    """Returns whether a graph may hold these shards itself."""
    return sum(map(_names, shards)) <= NAMES_IN_GRAPH


def write_lists(output: Output, shards: Sequence[Shard]) -> list[str]:
    """Writes the lists of these shards; returns the names of the files, which no other job has."""
    files, job = [], secrets.token_hex(8)
    for number, part in enumerate(_parts(shards)):
        text = "".join(f"{json.dumps(_record(shard))}\n" for shard in part)
        files.append(f"{job}-{number:06d}.jsonl.gz")
        output.write(SHARD_LISTS, files[-1], data=gzip.compress(text.encode(), compresslevel=4))
    return files


def read_list(file: str, output: Output) -> list[Shard]:
    """Reads a list.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is no list of shards.
    """
    place = output.path(SHARD_LISTS, file)
    with open_stream(place) as stream:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(stream.read(MOST_BYTES)))
    try:
        lines = unpacked.read(MOST_BYTES + 1)
        if len(lines) > MOST_BYTES:
            raise ValueError(f"it holds more than {MOST_BYTES:,} bytes")
        return [_shard(json.loads(line)) for line in lines.splitlines()]
    except UNREADABLE as error:
        raise ValueError(
            f"{place} is no list of shards that this command wrote ({error!r}); stop the job, then "
            "type its command again"
        ) from error


def remove_lists(output: Output, files: Iterable[str]) -> None:
    """Deletes lists that no worker needs any more."""
    for file in files:
        output.remove(SHARD_LISTS, file)
    with contextlib.suppress(OSError):  # no local folder, or one with files of another job
        os.rmdir(output.path(SHARD_LISTS))


def _names(shard: Shard) -> int:
    return 1 + len(shard.photos) + len(shard.siblings)


def _parts(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    part: list[Shard] = []
    names = 0
    for shard in shards:
        part.append(shard)
        names += _names(shard)
        if names >= NAMES_IN_FILE:
            yield part
            part, names = [], 0
    if part:
        yield part


def _record(shard: Shard) -> dict[str, Any]:
    """A shard as JSON has it: lists for tuples, and no field that is empty."""
    record = {one.name: getattr(shard, one.name) for one in fields(shard)}
    record["table"] = shard.table and astuple(shard.table)
    return {name: value for name, value in record.items() if value}


def _shard(record: dict[str, Any]) -> Shard:
    values = {name: _tuples(value) for name, value in record.items()}
    if not is_texts([values["id"], values["url"]]):
        raise ValueError(f"it holds the shard {values['id']!r} at {values['url']!r}")
    values["photos"] = tuple(PhotoFile(*photo) for photo in values.get("photos", ()))
    if "table" in values:
        values["table"] = TableGroup(*values["table"])
    if "manifest" not in values:
        return Shard(**values)
    values["manifest"] = ManifestName(*values["manifest"])
    return EmbeddedShard(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
