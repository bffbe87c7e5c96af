"""A job of one shard before the fleet: the same image, machine and flags, on one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from locdiffusion.cli.parser import RunFailed, UsageError
from locdiffusion.cli.terminal import tell
from locdiffusion.photos.listing import list_shards
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
        UsageError: The input cannot be listed.
    """
    try:
        shards = list_shards(job.input.split(), lambda _: None)
    except DataError as error:
        raise UsageError(f"INPUT: {error}") from error
    for shard in shards:
        if not shard.photos and not shard.problem:
            return shard.url
    photos = (photo for shard in shards for photo in shard.photos)
    photo = next(photos, None)
    if photo is None:
        raise UsageError(f"INPUT={job.input} holds no photos; {SKIP}")
    return f"{photo.folder}/{photo.path}"


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
