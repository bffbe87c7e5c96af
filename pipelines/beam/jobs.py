"""Hands a job to Beam's runner and stays until it is over, or says how to follow it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PortableOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import Environment
from grpc import FutureTimeoutError

from pipelines.beam.flags import JobFlags, UsageError, beam_options


def run_job(options: JobFlags, build: Callable[[beam.Pipeline], object]) -> Any:
    """Runs a job, or only submits it if `options.wait` says so.

    Args:
        options: Where to run.
        build: Puts the steps into an empty pipeline.

    Returns:
        Beam's result.

    Raises:
        UsageError: If there is no job service where one was named.
        KeyboardInterrupt: With a message, if the job goes on although nobody waits for it any more.
    """
    pipeline = beam.Pipeline(runner=_runner(options), options=beam_options(options))
    build(pipeline)
    try:
        result = pipeline.run()
    except FutureTimeoutError as error:
        raise UsageError(
            "nobody answers at --job_endpoint; check that a job service is running there "
            "(--job_server_timeout says for how many seconds to try)"
        ) from error
    if options.wait:
        _wait(result, options)
    return result


def _runner(options: JobFlags) -> Any:
    """A name, or our own choice for the names that mean this machine.

    Given the name DirectRunner, Beam would look for another engine on the network first; and
    neither would use an `--environment_type`.
    """
    if not options.is_local:
        return options.runner
    portable = beam_options(options).view_as(PortableOptions)
    here = portable.environment_type in (None, "LOOPBACK")
    return FnApiRunner(None if here else Environment.from_options(portable))


def _wait(result: Any, options: JobFlags) -> None:
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        if not options.runs_elsewhere:
            raise
        follow = how_to_follow(result, options)
        raise KeyboardInterrupt(f"no longer waiting, but the job goes on\n{follow}") from None


def how_to_follow(result: Any, options: JobFlags) -> str:
    """Two lines for the terminal: where the job is, and what to type for its summary.

    Args:
        result: What `launch` returned.
        options: Of the job.
    """
    flags = beam_options(options)
    cloud = flags.view_as(GoogleCloudOptions)
    if cloud.template_location:
        return f"the job is described in {cloud.template_location}; nothing runs yet"
    job_id = result.job_id() if hasattr(result, "job_id") else getattr(result, "_job_id", None)
    if job_id is None:
        return "a dry run: nothing was submitted"
    place = flags.view_as(PortableOptions).job_endpoint or (
        f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job_id}"
        f"?project={cloud.project}"
    )
    return f"job {job_id} at {place}\nfor its summary and maps: {shlex.join(options.again)}"
