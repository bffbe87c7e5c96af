"""Runs the albums job where Beam is not installed; the job on Beam writes the same bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pipelines.albums.output import AlbumsJob, AlbumsOutput
from pipelines.albums.photos import spread
from pipelines.albums.placers import PlacerLoader, loaded
from pipelines.albums.sources import PhotoSource


def run_plain_loop(
    sources: Sequence[PhotoSource], output: AlbumsOutput, job: AlbumsJob, load: PlacerLoader
) -> dict[str, Any]:
    """Places the albums of all sources in this process; returns the summary."""
    buckets: defaultdict[int, list[bytes]] = defaultdict(list)
    for source in sources:
        for number, part in spread(source.read(), job.buckets):
            buckets[number].append(part)
    names = [
        output.write_bucket(number, buckets.pop(number), job, loaded(load))
        for number in sorted(buckets)
    ]
    return output.finish(names, job)
