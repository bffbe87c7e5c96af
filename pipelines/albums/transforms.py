"""The albums job as a Beam graph: read photos, bring albums together, place and write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam

from pipelines.albums.output import AlbumsJob, AlbumsOutput
from pipelines.albums.photos import spread
from pipelines.albums.placers import PlacerLoader, loaded
from pipelines.albums.sources import PhotoSource
from pipelines.beam.flags import JobFlags
from pipelines.beam.jobs import run_job


class PlaceAlbums(beam.PTransform):
    """Turns sources of photos into the summary of their albums, and writes the rows of these."""

    def __init__(self, output: AlbumsOutput, job: AlbumsJob, load: PlacerLoader) -> None:
        super().__init__()
        self.output, self.job, self.load = output, job, load

    def expand(self, sources: beam.PCollection[PhotoSource]) -> beam.PCollection[dict[str, Any]]:
        """Chains the steps of the job."""
        return (
            sources
            | "SpreadSources" >> beam.Reshuffle()
            | "ReadPhotos" >> beam.FlatMap(_read, self.job.buckets)
            | "ByAlbums" >> beam.GroupByKey()
            | "PlaceAlbums" >> beam.Map(_write, self.output, self.job, self.load)
            | "AllParts" >> beam.combiners.ToList()
            | "Finish" >> beam.Map(self.output.finish, self.job)
        )


def _read(source: PhotoSource, buckets: int) -> Iterable[tuple[int, bytes]]:
    return spread(source.read(), buckets)


def _write(
    element: tuple[int, Iterable[bytes]], output: AlbumsOutput, job: AlbumsJob, load: PlacerLoader
) -> str:
    number, parts = element
    return output.write_bucket(number, parts, job, loaded(load))


def launch(
    options: JobFlags,
    sources: Sequence[PhotoSource],
    output: AlbumsOutput,
    job: AlbumsJob,
    load: PlacerLoader,
) -> Any:
    """Runs the job, or only submits it if `options.wait` is false; returns Beam's result.

    Raises:
        UsageError: No job service answers where one was named.
        KeyboardInterrupt: The job goes on, although nobody waits for it any more.
    """
    place = PlaceAlbums(output, job, load)
    return run_job(
        options, lambda pipeline: pipeline | "Sources" >> beam.Create(sources) | "Albums" >> place
    )
