"""Reads, decodes and batches shards in a Beam job."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from locdiffusion.photos.photo_process import isolated
from pipelines.geotag.attempts import attempt, beside
from pipelines.geotag.batches import PhotoBatch, read_batches
from pipelines.geotag.counters import DECODE_PHOTO, MICROSECONDS, READ, WAIT_FOR_PHOTOS
from pipelines.geotag.decoding_ahead import BATCHES_AHEAD, DecodingAhead
from pipelines.geotag.embeddings import EmbeddedShard, read_embedded
from pipelines.geotag.model_cache import Loader, loaded
from pipelines.geotag.output import Output, RunConfiguration
from pipelines.geotag.retries import Retries
from pipelines.geotag.tables import Extras
from schemas.geotags import ErrorRow

KEPT = "kept"
"""Tag of the manifests of shards that are finished."""


class ReadShard(beam.DoFn):
    """Reads, decodes and batches one shard; see `batches.read_batches` and `attempts`.

    A shard that is finished by now, because a runner does a bundle again, is not opened: its
    manifest goes out under the tag KEPT.
    """

    def __init__(
        self,
        load: Loader,
        configuration: RunConfiguration,
        output: Output,
        batch_size: int,
        extras: Extras | None = None,
    ) -> None:
        self.load = load
        self.configuration = configuration
        self.output = output
        self.batch_size = batch_size
        self.extras = extras or Extras()
        self.reading = Metrics.counter(READ, MICROSECONDS)
        self.decoding = Metrics.counter(DECODE_PHOTO, MICROSECONDS)
        self.waiting = Metrics.counter(WAIT_FOR_PHOTOS, MICROSECONDS)

    def setup(self) -> None:
        """Takes the preprocessing of the Geotagger of this process."""
        self.held = contextlib.ExitStack()
        self.preprocess = loaded(self.load).geotagger.preprocess
        self.retries = Retries(self.output, self.configuration)

    def process(self, shard: Shard) -> Iterator[PhotoBatch | beam.pvalue.TaggedOutput]:
        """Yields the batches of a shard, or one that says why it is not read, or its manifest."""
        version = shard.version
        manifest = self.output.kept(shard, self.configuration, version)
        if manifest is not None:
            yield beam.pvalue.TaggedOutput(KEPT, manifest)
            return
        with self.held:
            deadly = self.held.enter_context(attempt(self.output, shard, version))
            if deadly is None:
                yield from self._read(shard, version)
            else:
                yield beside(deadly, self.retries.take(shard, version))

    def teardown(self) -> None:
        """Ends an attempt that an error in a later step has stopped in the middle."""
        self.held.close()

    def _read(self, shard: Shard, version: str) -> Iterator[PhotoBatch]:
        """Yields batches; the time of the later steps is not counted here."""
        spent: deque[float] = deque()  # metrics are counted in Beam's own threads only

        def decode(sample: Sample, preprocess: Any, thumbnail: bool) -> PhotoRecord | ErrorRow:
            start = time.perf_counter()
            extras = self.extras
            result = decode_photo(
                sample, preprocess, thumbnail, extras.salvage, isolated, extras.sha256
            )
            spent.append(time.perf_counter() - start)
            return result

        thumbnails = self.extras.thumbnails
        ahead = DecodingAhead(BATCHES_AHEAD * self.batch_size)
        kept = self.retries.take(shard, version)
        if isinstance(shard, EmbeddedShard):
            batches = read_embedded(shard, self.batch_size, version, kept)
        else:
            batches = read_batches(
                shard,
                self.preprocess,
                self.batch_size,
                decode,
                thumbnails,
                ahead,
                version,
                kept,
                keep=self.extras.keep,
            )
        batch: PhotoBatch | None
        with contextlib.closing(batches):
            while True:
                start, ahead.waited = time.perf_counter(), 0.0
                batch = next(batches, None)
                self.reading.inc(round((time.perf_counter() - start - ahead.waited) * 1e6))
                self.waiting.inc(round(ahead.waited * 1e6))
                while spent:
                    self.decoding.inc(round(spent.popleft() * 1e6))
                if batch is None:
                    return
                yield batch
