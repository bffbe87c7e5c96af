"""Where shards lie: paths and URLs, opened, told apart, and checked for who built them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

import fsspec

from locdiffusion.model.weights import may_move, split_name

BUILD_RECORD = "run.json"  # of pipelines.build_shards, in the folder above train/ and val/
FORWARDS: dict[str, Any] = {"cache_type": "readahead", "block_size": 8 * 2**20}


class DataError(ValueError):
    """Training data is missing or unusable."""


def is_url(shard: str) -> bool:
    """Whether fsspec is asked for it, and not the local file system."""
    return "://" in shard


def open_shard(shard: str) -> BinaryIO:
    """Opens a file to be read forwards."""
    if not is_url(shard):
        return open(shard, "rb")
    filesystem, path = fsspec.core.url_to_fs(shard)
    return cast(BinaryIO, filesystem.open(path, "rb", **FORWARDS))


def version(shard: str) -> list[object]:
    """Where a shard lies and what changes when it is written again."""
    if not is_url(shard):
        status = os.stat(shard)
        return [os.path.abspath(shard), status.st_size, status.st_mtime_ns]
    filesystem, path = fsspec.core.url_to_fs(shard)
    info = filesystem.info(path)
    marks = ("size", "etag", "ETag", "generation", "mtime", "created")
    return [shard, *(str(info[mark]) for mark in marks if mark in info)]


def check_builds(shards: Sequence[str], encoder: str) -> None:
    """Refuses shards that were built with the embeddings of another encoder."""
    places = [shard if is_url(shard) else os.path.abspath(shard) for shard in shards]
    for folder in dict.fromkeys(place.rsplit("/", 2)[0] for place in places):
        try:
            with open_shard(f"{folder}/{BUILD_RECORD}") as stream:
                record = json.load(stream)
        except (OSError, ValueError):  # other shards than those of pipelines.build_shards
            continue
        stored = record.get("encoder") if isinstance(record, dict) else None
        names = (str(stored), encoder)
        moved = any(map(may_move, names)) and len({split_name(name)[0] for name in names}) == 1
        if stored not in (None, encoder) and not moved:
            raise DataError(
                f"The shards below {folder} hold embeddings of {stored!r}, and the encoder is "
                f"{encoder!r}; train with --encoder {stored}, or build the shards again with "
                f"--embed {encoder}."
            )
