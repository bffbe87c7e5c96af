"""Places the photos of an archive by the others of their album; `locdiffusion albums`.

`parse` reads the command line, `build` looks at the input and claims the output directory, `run`
runs the job, and `report` prints what became of the photos. `check` and `fit` are those of
`locdiffusion.albums`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from locdiffusion.albums.command import main as check_or_fit
from locdiffusion.albums.parameters import ALGORITHM, AlbumParameters
from locdiffusion.cli.parser import DONE, RunFailed, UsageError, run_command
from locdiffusion.cli.terminal import printable, tell
from locdiffusion.config import to_dict
from locdiffusion.files import absolute
from locdiffusion.photos.gpx import SECONDS_APART, read_tracks
from locdiffusion.photos.left_out import number
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError
from pipelines.albums.evidence import check_model, evidence_loader
from pipelines.albums.geotag_source import geotag_run, geotag_sources
from pipelines.albums.grouping import FOLDER_ALONE, FOLDER_AND_CAMERA, path_in_common
from pipelines.albums.options import AlbumsOptions, parse
from pipelines.albums.options import albums_parser as parser
from pipelines.albums.output import PAGES, RUN, AlbumsJob, AlbumsOutput
from pipelines.albums.photos import bucket_count
from pipelines.albums.placers import PlacerLoader
from pipelines.albums.plain_loop import run_plain_loop
from pipelines.albums.sources import PhotoSource
from pipelines.albums.summary import progress, summary_table
from pipelines.albums.table_source import TableSource
from pipelines.beam.flags import JobFlags
from pipelines.beam.stopping import AGAIN, terminable, told_in_one_line
from pipelines.geotag.model_cache import Loader
from pipelines.geotag.options import GeotagOptions
from pipelines.geotag.tables import EMBEDDINGS
from pipelines.writing.directory import OutputError
from pipelines.writing.progress import Ticker
from schemas.albums import ALBUMS, Standing
from schemas.geotags import SCHEMA_VERSION

__all__ = ["build", "main", "parser", "run"]

OTHER_ACTIONS = ("check", "fit")


@dataclass(frozen=True)
class Job:
    """An albums job that is ready to run.

    Attributes:
        options: Checked settings of the command.
        sources: Parts of the photos.
        photos: Number of photos.
        output: Claimed output directory.
        job: What is common to all buckets of photos.
        load: Builds what places the photos of an album.
    """

    options: AlbumsOptions
    sources: tuple[PhotoSource, ...]
    photos: int
    output: AlbumsOutput
    job: AlbumsJob
    load: PlacerLoader


def build(options: AlbumsOptions, geotagger: Loader | None = None) -> Job:
    """Looks at the input, reads the parameters, and claims the output directory.

    Args:
        options: Checked settings.
        geotagger: Loader of the Geotagger in place of the one that the options name, for tests.

    Raises:
        DataError: A table, or the output of `geotag`, cannot be used.
        UsageError: The parameters cannot be used.
        OutputError: The output directory belongs to something else.
    """
    tracks = read_tracks(expand_patterns(options.gpx)) if options.gpx else None
    parameters = _parameters(options)
    if options.tables:
        geotagger = None
        sources, photos, told = _tables(options)
    else:
        geotagger = _geotagger(options, geotagger)
        sources, photos, told = _geotagged(options, geotagger is not None)
    load = PlacerLoader(parameters, tracks, geotagger)
    settings = {
        **told,
        "parameters": hashlib.sha256(_as_json(load.parameters)).hexdigest()[:16],
        "fitted_on": load.parameters.card.fitted_on,
        "schema_version": SCHEMA_VERSION,
        "algorithm": ALGORITHM,
    }
    if tracks is not None:
        points = number(len(tracks), "point")
        tell(f"{points} of tracks, one of each {SECONDS_APART:g} seconds at most")
        settings["gpx"] = tracks.digest
    output = AlbumsOutput(absolute(options.output))
    with output.usable():
        output.claim(settings, options.overwrite)
    job = AlbumsJob(settings, bucket_count(photos))
    return Job(options, tuple(sources), photos, output, job, load)


def _parameters(options: AlbumsOptions) -> AlbumParameters:
    try:
        return AlbumParameters.load(options.parameters)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--parameters {options.parameters} cannot be used ({error}); give what "
            "`locdiffusion albums fit` wrote"
        ) from error


def _as_json(parameters: AlbumParameters) -> bytes:
    return json.dumps(to_dict(parameters), sort_keys=True).encode()


def _tables(options: AlbumsOptions) -> tuple[Sequence[PhotoSource], int, dict[str, Any]]:
    """Returns tables as sources, the number of their photos, and what is recorded of them."""
    urls = [absolute(url) for url in options.tables]
    by = options.by
    if by is None:
        named = all(TableSource(url, FOLDER_ALONE).table.named for url in urls)
        by = FOLDER_ALONE if named else FOLDER_AND_CAMERA
    folders = [TableSource(url, by).table for url in urls]
    above = path_in_common(name for one in folders if not one.named for name in one.album)
    sources = [TableSource(url, by, above) for url in urls]
    photos = 0
    for source in sources:
        photos += len(source.table)
        for problem in source.table.problems:
            tell(f"{source.url}: {problem}")
    if not photos:
        raise DataError(f"{', '.join(options.tables)} has no row; want a row for each photo")
    return sources, photos, {"tables": [_identity(url) for url in urls], "album_by": str(by)}


def _identity(url: str) -> str:
    """Name of a table and a hash of where it lies: two tables of one name are not taken for one."""
    place = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{os.path.basename(url)} ({place})"


def _geotagger(options: AlbumsOptions, geotagger: Loader | None) -> Loader | None:
    """Returns what builds the model of an output, None where what photos show is not used."""
    root = absolute(options.input)
    run = geotag_run(root)
    if options.anchors_only:
        return None
    if not run.get(EMBEDDINGS):
        tell(
            f"{options.input} keeps no embeddings, so times and anchors alone place its photos; "
            "`locdiffusion geotag` with --embeddings keeps what they show"
        )
        return None
    load = geotagger or evidence_loader(root, run, options.checkpoint, options.device)
    check_model(root, run, load)
    return load


def _geotagged(
    options: AlbumsOptions, evidence: bool
) -> tuple[Sequence[PhotoSource], int, dict[str, Any]]:
    """Returns shards as sources, the number of their photos, and what is recorded of them."""
    root, by = absolute(options.input), options.by or FOLDER_AND_CAMERA
    run = geotag_run(root)
    sources, photos = geotag_sources(root, by, evidence, tuple(run.get("keep", ())))
    told = {"model_id": run["model_id"], "album_by": str(by), "evidence": evidence}
    return sources, photos, told


def run(job: Job) -> dict[str, Any] | None:
    """Runs the job and returns its summary; None where nobody waits for it.

    Raises:
        RunFailed: A step of the job failed.
    """
    tell(f"{number(job.photos, 'photo')} -> {job.output.path(ALBUMS)}")
    start = time.monotonic()
    local = job.options.is_local
    with told_in_one_line(local), Ticker(progress(job.output)):
        work = (job.output, job.job, job.load)
        if local and find_spec("apache_beam") is None:
            run_plain_loop(job.sources, *work)
        else:
            from pipelines.albums.transforms import launch

            result = launch(job.options, job.sources, *work)
    if not job.options.wait:
        from pipelines.beam.jobs import how_to_follow

        print(how_to_follow(result, job.options))
        return None
    print(f"{time.monotonic() - start:,.1f} seconds", file=sys.stderr)
    return job.output.summary() or {}


def behind_geotag(options: GeotagOptions, again: str) -> None:
    """Places the photos of the output of a `geotag` run that has just ended.

    Args:
        options: Settings of that run.
        again: The command that does the same.

    Raises:
        RunFailed: The albums cannot be made; all of `geotag` is done.
    """
    of_job: dict[str, Any] = {one.name: getattr(options, one.name) for one in fields(JobFlags)}
    wanted = AlbumsOptions(
        **of_job,
        input=options.output,
        checkpoint=options.loader.checkpoint,
        device=options.loader.device,
    )
    try:
        job = build(wanted)
    except (DataError, OutputError, UsageError) as error:
        raise RunFailed(
            f"all photos are geotagged, and not placed in their albums: {error} (of `{again}`)"
        ) from error
    if (summary := run(job)) is not None:
        report(job.output, summary, job.photos, behind=True)


def report(
    output: AlbumsOutput,
    summary: Mapping[str, Any],
    photos: int | None = None,
    behind: bool = False,
) -> None:
    """Prints a summary and checks the result.

    Args:
        output: The output directory.
        summary: Content of its summary.
        photos: Number of photos that were to become rows, if it is known.
        behind: Whether nobody asked for albums alone, so that none is no failure.

    Raises:
        RunFailed: Rows are missing, or none has a position of its album.
    """
    written = [ALBUMS, *(PAGES if draw_pages(output) else ())]
    print(summary_table(summary))
    for row, name in enumerate(written):
        print(printable(f"{'' if row else 'written':<13}{output.path(name)}"))
    if photos is not None and summary.get("photos") != photos:
        raise RunFailed(
            f"{summary.get('photos', 0):,} rows for {number(photos, 'photo')}; type the same "
            "command again"
        )
    standings = summary["standings"]
    if not (behind or standings[Standing.ANCHOR.value] + standings[Standing.PLACED.value]):
        raise RunFailed(
            "no photo was placed: an album needs photos with a time and some with a position; "
            "see `standing` in the rows for what each lacks"
        )


def draw_pages(output: AlbumsOutput) -> bool:
    """Writes the pages and returns whether it could; an error is told and loses no result."""
    try:
        from pipelines.albums.pages import write_album_pages

        write_album_pages(output.root)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        tell(f"a page is missing ({why}); all rows are complete")
        return False
    return True


def summarise_only(options: AlbumsOptions) -> None:
    """Reports an output directory as it stands, whoever filled it.

    Raises:
        OutputError: No job has ended there.
        RunFailed: No row has a position of its album.
    """
    output = AlbumsOutput(absolute(options.output))
    summary = output.summary()
    if summary is None:
        started = output.read_json(RUN) is not None
        why = "the job there has not ended" if started else "no job was started there"
        raise OutputError(f"--output {output.root} holds no summary of albums: {why}")
    report(output, summary)


def main(arguments: Sequence[str] | None = None, geotagger: Loader | None = None) -> int:
    """Runs the command, in tests with a model of their own; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] and words[0] in OTHER_ACTIONS:
        return check_or_fit(words)

    def body() -> int:
        options = parse(words)
        if options.summarise:
            summarise_only(options)
            return DONE
        job = build(options, geotagger)
        summary = run(job)
        if summary is not None:
            report(job.output, summary, job.photos)
        return DONE

    with terminable():
        return run_command(body, DataError, OutputError, stopped=AGAIN)
