"""Counts photos by area from their probabilities; `locdiffusion aggregate`.

`parse` reads the command line, `build` looks at the input and claims the output directory, `run`
runs the job, and `report` prints the largest areas.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from locdiffusion.cli.parser import DONE, RunFailed, UsageError, run_command
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.files import absolute
from locdiffusion.geography.polygons import PolygonError, file_identity
from locdiffusion.photos.left_out import number
from locdiffusion.photos.storage import DataError
from pipelines.aggregate.area_rows import read_area_rows
from pipelines.aggregate.borders import Borders
from pipelines.aggregate.cell_shares import PolygonFile
from pipelines.aggregate.job import AggregateJob, run_plain_loop
from pipelines.aggregate.labels import find_label, schemas_of
from pipelines.aggregate.options import AggregateOptions, aggregate_parser, parse
from pipelines.aggregate.output import LARGEST, OWNER, AggregateOutput
from pipelines.aggregate.source import Source
from pipelines.aggregate.targets import (
    ADMIN,
    H3,
    CellsInPolygons,
    Hexagons,
    NamedAreas,
    Target,
    finest,
)
from pipelines.beam.stopping import AGAIN, terminable, told_in_one_line
from pipelines.geotag.tables import AREAS
from pipelines.writing.directory import OutputError
from pipelines.writing.progress import Ticker
from schemas.geotags import SCHEMA_VERSION

__all__ = ["build", "main", "parser", "run"]

parser = aggregate_parser


@dataclass(frozen=True)
class Ready:
    """An aggregate that is ready to run.

    Attributes:
        options: Checked settings of the command.
        job: What is common to all shards.
        names: Names of the parts of the shards.
    """

    options: AggregateOptions
    job: AggregateJob
    names: list[str]


def build(options: AggregateOptions) -> Ready:
    """Looks at the input and claims the output directory.

    Args:
        options: Checked settings.

    Raises:
        DataError: The output of `geotag` lacks what is asked for.
        UsageError: A column cannot be used, or cells are asked for that are finer than the run's.
        PolygonError: A file of polygons cannot be used.
        OutputError: The output directory belongs to something else.
    """
    root = absolute(options.source)
    source = Source(root)
    run = source.run()
    names = source.shards()
    schemas = schemas_of(source.directory)
    by, group = (
        None if name is None else find_label(name, flag, schemas)
        for name, flag in ((options.by, "--by"), (options.group, "--group"))
    )
    source = Source(root, by, group)
    target, borders = _target(options, run, source, names)
    settings = {
        "of": root,
        "model_id": run.get("model_id"),
        "areas": _areas_called(options),
        "kind": target.kind,
        "h3": options.h3,
        "polygons": options.polygons and file_identity(absolute(options.polygons)),
        "polygon_name": options.polygon_name,
        "by": options.by,
        "group": options.group,
        "pixel_deg": options.pixel_deg,
        "schema_version": SCHEMA_VERSION,
    }
    output = AggregateOutput(absolute(options.output))
    with output.usable():
        output.claim(settings, options.overwrite)
    job = AggregateJob(source, target, output, settings, borders, options.pixel_deg)
    return Ready(options, job, names)


def _areas_called(options: AggregateOptions) -> str:
    if options.h3 is not None:
        return f"H3 cell of resolution {options.h3}"
    return options.kind or f"polygon of {(options.polygons or '').rpartition('/')[2]}"


def _target(
    options: AggregateOptions, run: Mapping[str, Any], source: Source, names: Sequence[str]
) -> tuple[Target, Borders]:
    """Chooses which rows are read, and where borders come from."""
    if options.kind is not None:
        _check_kind(source, names, options.kind)
        return NamedAreas(options.kind), Borders(options.kind)
    if options.polygons is None:
        resolution = _finest(run, source, names)
        wanted = options.h3 if options.h3 is not None else resolution
        if wanted > resolution:
            raise UsageError(
                f"--h3 {wanted}: the areas of {source.root} are no finer than resolution "
                f"{resolution}; give --h3 {resolution} or less, or geotag again with --areas "
                f"h3:{wanted}"
            )
        return Hexagons(wanted), Borders(H3)
    path = absolute(options.polygons)
    identity = file_identity(path)
    recorded = str(run.get(ADMIN) or "")
    same = recorded.rpartition(" ")[2] == identity.rpartition(" ")[2]
    if same and options.polygon_name is None:
        _check_kind(source, names, ADMIN)
        tell(f"{options.polygons} is the --admin of the run: its own probabilities are taken")
        own = PolygonFile(path, run.get("admin_name"), run.get("admin_code"))
        return NamedAreas(ADMIN), Borders(ADMIN, own)
    resolution = _finest(run, source, names)
    tell(
        f"masses come from H3 cells of resolution {resolution} at the finest, by the share of each "
        "cell in each polygon"
    )
    file = PolygonFile(path, options.polygon_name, by_name=options.polygon_name is not None)
    return CellsInPolygons(file), Borders(ADMIN, file)


def _check_kind(source: Source, names: Sequence[str], kind: str) -> None:
    """Raises DataError unless some part has rows of a kind."""
    for name in names:
        if len(read_area_rows(source.directory.path(AREAS, name), kind).photo):
            return
    remedy = "--admin FILE" if kind == ADMIN else f"--areas {kind}"
    raise DataError(
        f"the areas of {source.root} have no rows of kind {kind}; geotag again with {remedy} into "
        "another --output"
    )


def _finest(run: Mapping[str, Any], source: Source, names: Sequence[str]) -> int:
    """Finds the finest resolution of the cells of a run: that it was told, or that it has."""
    _check_kind(source, names, H3)
    for kind in run.get(AREAS) or ():
        name, _, told = str(kind).partition(":")
        if name == H3 and told.isdecimal():
            return int(told)
    paths = [source.directory.path(AREAS, name) for name in names]
    try:
        return max(finest(read_area_rows(path, H3)) for path in paths)
    except ValueError as error:
        raise DataError(f"{source.root}/{AREAS}: {error}") from error


def run(ready: Ready) -> dict[str, Any] | None:
    """Runs the job and returns its summary; None where nobody waits for it.

    Raises:
        RunFailed: A step of the job failed.
    """
    options, job = ready.options, ready.job
    tell(f"{number(len(ready.names), 'shard')} of {options.source} -> {job.output.root}")
    if not options.on_beam:
        done = Counted(len(ready.names))
        with Ticker(done.line):
            return run_plain_loop(job, ready.names, done)
    from pipelines.aggregate.transforms import launch

    with told_in_one_line(options.is_local):
        result = launch(options, ready.names, job)
    if not options.wait:
        from pipelines.beam.jobs import how_to_follow

        print(how_to_follow(result, options))
        return None
    return job.output.summary() or {}


class Counted:
    """Counts shards that are done.

    Args:
        total: Number of all shards.
    """

    def __init__(self, total: int) -> None:
        self._total, self._done, self._lock = total, 0, threading.Lock()

    def __call__(self) -> None:
        """Counts one more."""
        with self._lock:
            self._done += 1

    def line(self, seconds: float) -> str:
        """The line of progress."""
        return f"{self._done:,} of {number(self._total, 'shard')}"


def report(output: AggregateOutput, summary: Mapping[str, Any], by: str | None) -> None:
    """Prints the largest areas and checks the sums.

    Args:
        output: The output directory.
        summary: Content of its summary.
        by: Name of what splits the photos into classes; None if they are counted together.

    Raises:
        RunFailed: The numbers do not add up to the photos.
    """
    print(f"{number(summary['photos'], 'photo')} in {number(summary['areas'], 'area')}")
    rows = [(str(a["area"]), a["photos_expected"], a["standard_error"]) for a in summary["largest"]]
    wide = max((len(name) for name, *_ in rows), default=0)
    for name, expected, error in rows:
        told = "" if error is None else f" ± {error:,.1f}"
        print(printable(f"  {name:{wide}}  {expected:>12,.1f}{told}"))
    if (more := summary["areas"] - len(rows)) > 0:
        print(f"  and {more:,} more")
    for rest, expected in sorted(summary["rests"].items()):
        print(f"  in no area ({rest}): {expected:,.1f}")
    if by is not None:
        print(f"by {by}, the most photos first:")
        for one in summary["classes"][:LARGEST]:
            print(printable(f"  {one['by'] or '(none)'}: {number(one['photos'], 'photo')}"))
    if summary["without_borders"]:
        tell(
            f"{number(summary['without_borders'], 'area')} without borders; those of --admin need "
            "--polygons FILE with the same file"
        )
    for row, name in enumerate(summary["files"]):
        print(printable(f"{'' if row else 'written':<9}{output.path(name)}"))
    if not summary["adds_up"]:
        raise RunFailed(
            f"areas and rests do not add up to {number(summary['photos'], 'photo')}: the polygons "
            "overlap, or the areas of the run are damaged"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""

    def body() -> int:
        options = parse(arguments)
        if options.summarise:
            output = AggregateOutput(absolute(options.output))
            summary = output.summary()
            if summary is None:
                raise OutputError(f"--output {output.root} holds no aggregate that is done")
            settings = output.read_json(OWNER) or {}
            report(output, summary, settings.get("by"))
            return DONE
        ready = build(options)
        summary = run(ready)
        if summary is not None:
            report(ready.job.output, summary, options.by)
        return DONE

    with terminable():
        return run_command(body, DataError, OutputError, PolygonError, stopped=AGAIN)
