"""A job of one shard before the fleet: the same image, machine and flags, on one worker."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from locdiffusion.cli.flags import add_flags
from locdiffusion.cli.parser import RunFailed, UsageError
from locdiffusion.cli.terminal import tell
from locdiffusion.photos.listing import Shard, list_shards
from locdiffusion.photos.storage import DataError
from pipelines.dataflow.flags import job_name
from pipelines.dataflow.settings import Settings
from pipelines.geotag.output import Output
from pipelines.writing.directory import SUMMARY

SKIP = "nothing else was started. SMOKE=no starts the fleet without this job"


def smoke_job(job: Settings, shard: str, now: datetime) -> Settings:
    """Returns the settings of the job of one shard.

    Args:
        job: Settings of the fleet.
        shard: Path or pattern of the shard.
        now: Time after which the job and its output are named.
    """
    name = f"{job_name(job, now)[:1000]}-smoke"
    return replace(
        job,
        input=shard,
        output=f"{job.temp}/{name}",
        temp_location=job.temp,
        job_name=name,
        max_workers=1,
        workers=1,
        wait=True,
        # A shard that is damaged says nothing about the fleet.
        flags=f"{job.flags} --accept-damaged".strip(),
    )


def first_shard(job: Settings) -> str:
    """Finds the first archive of the input, or the first photo where there are only folders.

    Raises:
        UsageError: The input cannot be listed, or all names in it hold blanks.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(flags, "--exclude", "--follow-links")
    given, _ = flags.parse_known_args(job.extra_flags)
    places = job.input.split()
    try:
        shards = list_shards(
            places, lambda _: None, given.exclude, follow_links=given.follow_links, tables=True
        )
    except DataError as error:
        raise UsageError(f"INPUT: {error}") from error
    place = None
    for place in _archives_first(shards):
        if place.split() == [place]:  # INPUT has blanks between places
            return place
    why = f"holds only names with blanks, as {place}" if place else "holds no photos"
    raise UsageError(f"INPUT={job.input} {why}; {SKIP}")


def _archives_first(shards: Sequence[Shard]) -> Iterator[str]:
    yield from (shard.url for shard in shards if shard.folder is None)
    yield from (photo.url for shard in shards for photo in shard.photos)
    for table in (shard.table for shard in shards if shard.table):
        root = table.url.rpartition("/")[0]
        yield from (row.uri if "://" in row.uri else f"{root}/{row.uri}" for row in table.rows())


def check_with_one_shard(job: Settings, now: datetime, run: Callable[[Settings], int]) -> None:
    """Runs a job of one shard to its end, and looks whether photos were geotagged.

    Args:
        job: Settings of the fleet.
        now: Time after which the job is named.
        run: Runs a job; returns its exit status.

    Raises:
        UsageError: The input cannot be listed.
        RunFailed: The job failed, or gave no answer. What the job said is on the terminal.
    """
    small = smoke_job(job, first_shard(job), now)
    tell(f"one shard first, as job {small.job_name}: {small.input} (SMOKE=no starts at once)")
    if status := run(small):
        raise RunFailed(f"the job of one shard ended with status {status}, see above; {SKIP}")
    summary = Output(small.output).read_json(SUMMARY) or {}
    if not summary.get("predictions"):
        errors = summary.get("errors_by_status") or "no summary"
        raise RunFailed(f"{small.input}: no photo was geotagged ({errors}); {SKIP}")
    tell(f"it works: {summary['predictions']} photos geotagged. Now the fleet")
