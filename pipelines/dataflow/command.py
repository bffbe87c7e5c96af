"""Checks the settings of a Dataflow job, then submits it; `make run-dataflow` types this."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone

from pipelines.dataflow.flags import MODULES, SETUP_FILE, arguments
from pipelines.dataflow.reading import SettingsError, read_settings, unknown
from pipelines.dataflow.settings import EXPLANATIONS, GEOTAG, NAMES, PIPELINES, Settings, names_of

DONE, USAGE = 0, 2
OF_THE_MAKEFILE = ("PYTHON", "VENV", "OUT", "SEED", "PY")
TARGETS = {"geotag": "run-dataflow", "shards": "run-dataflow-shards"}

DESCRIPTION = """\
Submits a pipeline to Google Dataflow. Settings are given as to make, NAME=VALUE; what is missing,
misspelt or contradictory is told at once, before anything is submitted.
"""

EXAMPLES = """\
examples:
  make run-dataflow PROJECT=my-project REGION=europe-west4 \\
      IMAGE=europe-west4-docker.pkg.dev/my-project/images/worker:1 \\
      INPUT='gs://my-bucket/photos/*.tar' OUTPUT=gs://my-bucket/geotags MAX_WORKERS=20
  python -m pipelines.dataflow geotag PROJECT=my-project ... DRY_RUN=yes

deploy/README.md tells how to build the image, what a job costs, and what each permission is for.
Exit status: that of the pipeline (see `python -m pipelines.geotag --help`); 2 for a mistake here.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    lines = [f"  {name:<16} {text}" for name, text in EXPLANATIONS.items()]
    made = argparse.ArgumentParser(
        prog="python -m pipelines.dataflow",
        description=DESCRIPTION,
        epilog="settings:\n" + "\n".join(lines) + "\n\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("pipeline", choices=PIPELINES, help="geotag photos, or build training shards")
    made.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="see below")
    made.add_argument("--dry-run", action="store_true", help="the same as DRY_RUN=yes")
    made.add_argument(
        "--make-flags",
        default="",
        metavar="TEXT",
        help="make's own MAKEFLAGS: make takes any name, so misspelt ones are looked for in there",
    )
    return made


def misspelt(make_flags: str) -> list[str]:
    """Sentences about variables on make's command line that are no settings."""
    words = re.split(r"(?<!\\)\s", make_flags.partition("-- ")[2])  # make escapes others
    given = [
        found[1] for found in (re.match(r"(\w+)\s*:{0,3}[+?]?=", one) for one in words) if found
    ]
    return [unknown(name) for name in given if name not in (*NAMES, *OF_THE_MAKEFILE)]


def launch(job: Settings, now: datetime) -> int:
    """Runs the pipeline's own command, or shows it.

    Args:
        job: Checked.
        now: Names a job that was given no name.

    Returns:
        The exit status.
    """
    flags = arguments(job, now)
    command = shlex.join(["python", "-m", MODULES[job.pipeline], *flags])
    if job.dry_run:
        print(command)
        return _show_graph(job, flags)
    print(command, file=sys.stderr)
    status: int = importlib.import_module(MODULES[job.pipeline] + ".command").main(flags)
    return status


def _show_graph(job: Settings, flags: Sequence[str]) -> int:
    from pipelines.beam.flags import UsageError
    from pipelines.dataflow.graph import build_shards_steps, geotag_steps

    try:
        steps = geotag_steps(flags) if job.pipeline == GEOTAG else build_shards_steps(flags)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    print(f"\nthe job, step by step:\n{steps}")
    print("\nnothing was submitted, no bucket was looked into")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the settings, then launches.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.

    Returns:
        The exit status; see `--help`.
    """
    parsed = parser().parse_intermixed_args(arguments)
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
