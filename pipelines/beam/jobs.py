"""Hands a job to Beam's runner and stays until it is over, or says how to follow it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import Environment, SubprocessSDKEnvironment
from grpc import FutureTimeoutError

from locdiffusion.cli.parser import RunFailed
from pipelines.beam.flags import JobFlags, UsageError, beam_options

_RUN = [sys.executable, "-c", "from pipelines.beam.worker import main; main()"]
WORKER = f"exec {shlex.join(_RUN)}"
"""Command of a worker process of this machine. No shell stays, which Ctrl-C would end."""


def run_job(options: JobFlags, build: Callable[[beam.Pipeline], object]) -> Any:
    """Runs a job, or only submits it if `options.wait` says so.

    Args:
        options: Settings of the job: its runner, and whether to wait.
        build: Function that puts the steps into an empty pipeline.

    Returns:
        Beam's result.

    Raises:
        UsageError: There is no job service at the address that was named.
        KeyboardInterrupt: Nobody waits any more, but the job goes on; the message tells where.
        RunFailed: The job failed elsewhere; the message tells where its log is.
    """
    # setup.py reads it: workers install the package of a job without naming extras.
    os.environ["LOCDIFFUSION_FOR_WORKERS"] = "1"
    flags = beam_options(options)
    pipeline = beam.Pipeline(runner=_runner(options, flags), options=flags)
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


def _runner(options: JobFlags, flags: PipelineOptions) -> Any:
    """Chooses the runner: FnApiRunner for the names that mean this machine."""
    # Beam's DirectRunner looks for another engine on the network, and ignores --environment_type.
    if not options.is_local:
        return options.runner
    portable, direct = flags.view_as(PortableOptions), flags.view_as(DirectOptions)
    if portable.environment_type not in (None, "LOOPBACK"):
        _hide_namesakes()
        return FnApiRunner(Environment.from_options(portable))
    if direct.direct_running_mode != "multi_processing":
        return FnApiRunner()
    _hide_namesakes()
    direct.direct_running_mode = "in_memory"  # the other mode runs a command of Beam's own
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(WORKER))


def _hide_namesakes() -> None:
    """Keeps worker processes from importing files of the user that are called like our packages.

    Beam starts workers with `python -m`, which looks into the working directory first.

    Raises:
        UsageError: There are such files and this is Python 3.10, which cannot pass over them.
    """
    root, here = Path(__file__).resolve().parents[2], Path.cwd()
    if here == root:
        return
    os.environ["PYTHONSAFEPATH"] = "1"
    ours = ("schemas", "locdiffusion", "pipelines")
    names = [name for name in ours if (here / name / "__init__.py").exists()]
    if names and sys.version_info < (3, 11):
        raise UsageError(
            f"the folder {here / names[0]} has the name of a package of LocDiffusion, and worker "
            "processes of Python 3.10 would import it; start from another directory, or use "
            "Python 3.11 or newer"
        )


def _wait(result: Any, options: JobFlags) -> None:
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        if not options.runs_elsewhere:
            raise
        follow = how_to_follow(result, options)
        raise KeyboardInterrupt(f"no longer waiting, but the job goes on\n{follow}") from None
    except Exception as error:  # each service has a class of its own for a job that failed
        if not options.runs_elsewhere:
            raise
        raise RunFailed(f"the job failed: {error}\n{how_to_follow(result, options)}") from error


def how_to_follow(result: Any, options: JobFlags) -> str:
    """Returns two lines for the terminal: where a job is, and what to type for its summary."""
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
