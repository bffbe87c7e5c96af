"""Checks the settings of a job on Google Dataflow, then submits it; `locdiffusion dataflow`."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone

from locdiffusion.cli.commands import COMMANDS
from locdiffusion.cli.parser import DONE, USAGE, Parser, run_command
from pipelines.dataflow.flags import COMMAND_OF, SETUP_FILE, arguments
from pipelines.dataflow.reading import SettingsError, read_settings, unknown
from pipelines.dataflow.settings import EXPLANATIONS, GEOTAG, NAMES, PIPELINES, Settings, names_of

OF_THE_MAKEFILE = ("PYTHON", "VENV", "OUT", "SEED", "PY")
TARGETS = {"geotag": "run-dataflow", "shards": "run-dataflow-shards"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": os.devnull}
"""A worker asks no hub for weights; so the check of the model here must not, nor find any kept."""

ABOUT = """\
Submits a pipeline to Google Dataflow. Settings are given as to make, NAME=VALUE; what
is missing, misspelt or contradictory is told at once, before anything is submitted.

examples:
  locdiffusion dataflow geotag PROJECT=my-project REGION=europe-west4 \\
      IMAGE=europe-west4-docker.pkg.dev/my-project/images/worker:1 \\
      INPUT='gs://my-bucket/photos/*.tar' OUTPUT=gs://my-bucket/out --dry-run
  make run-dataflow PROJECT=my-project REGION=europe-west4 \\
      IMAGE=europe-west4-docker.pkg.dev/my-project/images/worker:1 \\
      INPUT='gs://my-bucket/photos/*.tar' OUTPUT=gs://my-bucket/out
"""

MORE = """\
settings:
{settings}

A job ships its code, so this command is run in a checkout. deploy/README.md tells how
to build the image, what a job costs, and what each permission is for.
"""

FAILED = "the pipeline failed; its own help says when it does"


def parser() -> Parser:
    """Returns the parser of the command."""
    lines = [f"  {name:<16} {text}{_default(name)}" for name, text in EXPLANATIONS.items()]
    more = MORE.format(settings="\n".join(lines))
    made = Parser("dataflow", "geotag|shards NAME=VALUE ... [--dry-run]", ABOUT, more, FAILED)
    made.add_argument(
        "pipeline",
        choices=PIPELINES,
        type=lambda name: name.removeprefix("build-"),
        help="geotag photos, or build training shards",
    )
    made.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="see below")
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print the command and the job graph, submit nothing; the same as DRY_RUN=yes",
    )
    made.add_argument(
        "--make-flags",
        default="",
        metavar="TEXT",
        help="what make was told, in which misspelt settings are found; the Makefile gives it",
    )
    return made


def _default(name: str) -> str:
    """Returns the default of a setting as its line in the help shows it."""
    value = next(one.default for one in fields(Settings) if one.name == name.lower())
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return f" (default {shown})" if shown else ""


def misspelt(make_flags: str) -> list[str]:
    """Returns a sentence for each variable on make's command line that is no setting."""
    words = re.split(r"(?<!\\)\s", make_flags.partition("-- ")[2])  # make escapes others
    given = [
        found[1] for found in (re.match(r"(\w+)\s*:{0,3}[+?]?=", one) for one in words) if found
    ]
    return [unknown(name) for name in given if name not in (*NAMES, *OF_THE_MAKEFILE)]


def launch(job: Settings, now: datetime) -> int:
    """Runs the command of the pipeline, or shows it; before a fleet, a job of one shard.

    Args:
        job: Checked settings.
        now: Time after which a job without a name is named.

    Returns:
        The exit status of the pipeline.

    Raises:
        UsageError: FLAGS holds a flag that the pipeline does not know.
        RunFailed: The job of one shard failed.
    """
    if job.dry_run:
        flags = arguments(job, now)
        print(_command(job, flags))
        _show_graph(job, flags)
        return DONE
    if job.smoke and job.pipeline == GEOTAG and job.reads_photos:
        from pipelines.dataflow.smoke import check_with_one_shard

        check_with_one_shard(job, now, lambda small: _submit(small, now))
    return _submit(job, now)


def _command(job: Settings, flags: Sequence[str]) -> str:
    return shlex.join(["locdiffusion", COMMAND_OF[job.pipeline], *flags])


def _submit(job: Settings, now: datetime) -> int:
    flags = arguments(job, now)
    print(_command(job, flags), file=sys.stderr)
    module = importlib.import_module(f"{COMMANDS[COMMAND_OF[job.pipeline]][0]}.command")
    before = dict(os.environ)
    os.environ |= OFFLINE
    try:
        status: int = module.main(flags)
    finally:
        os.environ.clear()
        os.environ |= before
    return status


def _show_graph(job: Settings, flags: Sequence[str]) -> None:
    from pipelines.dataflow.graph import build_shards_steps, geotag_steps

    steps = geotag_steps(flags) if job.pipeline == GEOTAG else build_shards_steps(flags)
    print(f"\nthe job, step by step:\n{steps}")
    if job.smoke and job.pipeline == GEOTAG and job.reads_photos:
        print("\nbefore it, one shard would go through a job of its own (SMOKE=no: at once)")
    print("\nnothing was submitted, no bucket was looked into")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command on words, by default those of `sys.argv`; returns the exit status."""
    return run_command(lambda: _run(parser().parse_args(arguments)))


def _run(parsed: argparse.Namespace) -> int:
    words = [*parsed.settings, *(["DRY_RUN=yes"] if parsed.dry_run else [])]
    mistakes = misspelt(parsed.make_flags)
    try:
        job = read_settings(parsed.pipeline, words)
    except SettingsError as error:
        mistakes += str(error).split("\n")
    if not SETUP_FILE.is_file():
        mistakes.append(
            f"{SETUP_FILE} is missing: a job ships its code from a checkout; run this in one"
        )
    if mistakes:
        print(*(f"error: {mistake}" for mistake in mistakes), sep="\n", file=sys.stderr)
        known = " ".join(names_of(parsed.pipeline))
        print(f"settings of `make {TARGETS[parsed.pipeline]}`: {known}", file=sys.stderr)
        return USAGE
    return launch(job, datetime.now(timezone.utc))
