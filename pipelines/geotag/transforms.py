"""The geotag job as a Beam graph, over the functions of `batches` and `output`.

Pixels never cross a shuffle: everything from reading to decoding is fused into one stage. A shard's
batches therefore reach `GatherShard` on the worker that read the shard, and the shard is written as
soon as its last batch is there, so that a stopped job has something to resume from. (After a
GroupByKey nothing would be written before the last photo has been seen.) If a runner breaks the
fusion nothing is lost: a GroupByKey regroups the shards that a bundle leaves incomplete.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.listing import Shard
from locdiffusion.photos.photo import PhotoRecord, decode_photo
from locdiffusion.photos.photo_process import isolated
from pipelines.beam.jobs import run_job
from pipelines.geotag.attempts import attempt
from pipelines.geotag.batches import STAGES, PhotoBatch, read_batches, run_stage
from pipelines.geotag.model_cache import LoadedGeotagger, Loader, loaded
from pipelines.geotag.options import GeotagOptions
from pipelines.geotag.output import Output, RunConfiguration, write_shard
from pipelines.geotag.progress import TALLY
from pipelines.geotag.tables import Extras
from schemas.geotags import ErrorRow, Stage

SCATTERED = "scattered"
MICROSECONDS = "microseconds"

# Metric namespaces, and the names under which a summary tells the seconds of each step.
READ, DECODE_PHOTO, WRITE = "read", "decode_photo", "write"
MODEL_STEPS = {Stage.EMBED: "embed", Stage.SAMPLE: "sample", Stage.DECODE: "decode_density"}
STEPS = (READ, DECODE_PHOTO, *MODEL_STEPS.values(), WRITE)


class Geotag(beam.PTransform):
    """Turns shards into manifests, and writes the files of each shard.

    Workers build the Geotagger with `load`, which must be hashable and picklable.
    """

    def __init__(
        self,
        load: Loader,
        configuration: RunConfiguration,
        output: Output,
        batch_size: int,
        extras: Extras | None = None,
    ) -> None:
        super().__init__()
        self.load = load
        self.configuration = configuration
        self.output = output
        self.batch_size = batch_size
        self.extras = extras or Extras()

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[dict[str, Any]]:
        """Chains the steps of the job."""
        read = ReadShard(self.load, self.output, self.batch_size, self.extras)
        photos = (
            shards
            | "DropFinished" >> beam.Filter(_unfinished, self.output, self.configuration)
            | "Reshuffle" >> beam.Reshuffle()
            | "ReadShards" >> beam.ParDo(read)
        )
        for stage in STAGES:
            handler = StageHandler(self.load, stage, self.extras).with_no_batching()
            photos = photos | stage.value.capitalize() >> RunInference(handler)
        return photos | "WriteShards" >> WriteShards(self.output, self.configuration, self.extras)


def _unfinished(shard: Shard, output: Output, configuration: RunConfiguration) -> bool:
    return not output.finished(shard, configuration)


class ReadShard(beam.DoFn):
    """Reads, decodes and batches one shard; see `batches.read_batches` and `attempts`."""

    def __init__(
        self, load: Loader, output: Output, batch_size: int, extras: Extras | None = None
    ) -> None:
        self.load = load
        self.output = output
        self.batch_size = batch_size
        self.extras = extras or Extras()
        self.reading = Metrics.counter(READ, MICROSECONDS)
        self.decoding = Metrics.counter(DECODE_PHOTO, MICROSECONDS)

    def setup(self) -> None:
        """Takes the preprocessing of the Geotagger of this process."""
        self.held = contextlib.ExitStack()
        self.preprocess = loaded(self.load).geotagger.preprocess

    def process(self, shard: Shard) -> Iterator[PhotoBatch]:
        """Yields the batches of a shard, or one that says why it is not read."""
        with self.held:
            deadly = self.held.enter_context(attempt(self.output, shard))
            yield from self._read(shard) if deadly is None else (deadly,)

    def teardown(self) -> None:
        """Ends an attempt that an error in a later step has stopped in the middle."""
        self.held.close()

    def _read(self, shard: Shard) -> Iterator[PhotoBatch]:
        """Yields batches; the time of the later steps is not counted here."""
        decoding = 0.0

        def decode(sample: Sample, preprocess: Any, thumbnail: bool) -> PhotoRecord | ErrorRow:
            nonlocal decoding
            start = time.perf_counter()
            result = decode_photo(sample, preprocess, thumbnail, self.extras.salvage, isolated)
            decoding += time.perf_counter() - start
            return result

        thumbnails = self.extras.thumbnails
        batches = read_batches(shard, self.preprocess, self.batch_size, decode, thumbnails)
        batch: PhotoBatch | None
        while True:
            start, decoding = time.perf_counter(), 0.0
            batch = next(batches, None)
            self.reading.inc(round((time.perf_counter() - start - decoding) * 1e6))
            self.decoding.inc(round(decoding * 1e6))
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def counted(microseconds: Any) -> Iterator[None]:
    """Adds the time of the block to a counter."""
    start = time.perf_counter()
    yield
    microseconds.inc(round((time.perf_counter() - start) * 1e6))


class StageHandler(ModelHandler[PhotoBatch, PhotoBatch, LoadedGeotagger]):
    """Runs one step of the model for RunInference; one element is one batch of photos."""

    def __init__(self, load: Loader, stage: Stage, extras: Extras | None = None) -> None:
        super().__init__()
        self.load = load
        self.stage = stage
        self.extras = extras or Extras()
        self.microseconds = Metrics.counter(MODEL_STEPS[stage], MICROSECONDS)

    def load_model(self) -> LoadedGeotagger:
        """Returns the Geotagger that the three steps share."""
        return loaded(self.load)

    def run_inference(  # type: ignore[override]  # with_no_batching: a batch is one element
        self,
        batch: PhotoBatch,
        model: LoadedGeotagger,
        inference_args: dict[str, Any] | None = None,
    ) -> list[PhotoBatch]:
        """Runs the step under the lock of the model. Beam would lose the errors of a generator."""
        with model.lock, counted(self.microseconds):  # waiting for the lock is not counted
            wanted = self.extras.regions, self.extras.hybrid
            return [run_stage(batch, self.stage, model.geotagger, *wanted)]

    def get_num_bytes(self, batch: PhotoBatch) -> int:  # type: ignore[override]
        """Size of the arrays; Beam's default would pickle the batch to measure it."""
        return batch.payload.nbytes if batch.payload is not None else 0

    def get_metrics_namespace(self) -> str:
        """Name of the step in the metrics: `embed`, `sample` or `decode_density`."""
        return MODEL_STEPS[self.stage]


class WriteShards(beam.PTransform):
    """Brings each shard's batches together and writes it."""

    def __init__(
        self, output: Output, configuration: RunConfiguration, extras: Extras | None = None
    ) -> None:
        super().__init__()
        self.write = ShardWriter(output, configuration, extras or Extras())

    def expand(self, photos: beam.PCollection[PhotoBatch]) -> beam.PCollection[dict[str, Any]]:
        """Writes whole shards directly, and scattered ones after a GroupByKey."""
        gathered = photos | "Gather" >> beam.ParDo(GatherShard()).with_outputs(
            SCATTERED, main="whole"
        )
        whole = gathered["whole"] | "Write" >> beam.Map(self.write)
        scattered = (
            gathered[SCATTERED]
            | "RegroupByShard" >> beam.GroupByKey()
            | "DropShardId" >> beam.Values()
            | "WriteRegrouped" >> beam.Map(self.write)
        )
        return (whole, scattered) | "Manifests" >> beam.Flatten()


class ShardWriter:
    """Writes shards with `output.write_shard`, and counts the time."""

    def __init__(self, output: Output, configuration: RunConfiguration, extras: Extras) -> None:
        self.output = output
        self.configuration = configuration
        self.extras = extras
        self.microseconds = Metrics.counter(WRITE, MICROSECONDS)

    def __call__(self, batches: Iterable[PhotoBatch]) -> dict[str, Any]:
        """Writes one shard and returns its manifest."""
        whole = list(batches)
        with counted(self.microseconds):
            return write_shard(self.output, self.configuration, whole, self.extras)


class GatherShard(beam.DoFn):
    """Holds the batches of a shard until all are there; a worker has one shard at a time."""

    def start_bundle(self) -> None:
        """Starts without batches."""
        self.held: dict[str, list[PhotoBatch]] = {}

    def process(self, batch: PhotoBatch) -> Iterator[Sequence[PhotoBatch]]:
        """Yields the batches of a shard once they are complete."""
        TALLY.add(batch.rows)
        held = self.held.setdefault(batch.shard.id, [])
        held.append(batch)
        ending = next((one.ending for one in held if one.ending is not None), None)
        if ending is not None and len(held) == ending.batches:
            yield self.held.pop(batch.shard.id)

    def finish_bundle(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """Yields the batches of shards that another bundle must complete."""
        for shard_id, batches in self.held.items():
            for batch in batches:
                value = WindowedValue(
                    (shard_id, batch), GlobalWindow().max_timestamp(), (GlobalWindow(),)
                )
                yield beam.pvalue.TaggedOutput(SCATTERED, value)
        self.held = {}


def stage_seconds(result: Any) -> dict[str, float]:
    """Reads the seconds of each step, over all workers, from the metrics of a finished job.

    The steps are those of STEPS that the runner reports: `read` (bytes of files), `decode_photo`
    (bytes to pixels), `embed`, `sample`, `decode_density`, `write`.
    """
    microseconds: Counter[str] = Counter()
    for counter in result.metrics().query()["counters"]:
        name = counter.key.metric
        if name.namespace in STEPS and name.name == MICROSECONDS:
            microseconds[name.namespace] += counter.result  # whole and regrouped shards: two steps
    return {name: round(microseconds[name] / 1e6, 2) for name in STEPS if name in microseconds}


def launch(
    options: GeotagOptions,
    load: Loader,
    configuration: RunConfiguration,
    output: Output,
    shards: Sequence[Shard],
) -> Any:
    """Runs the geotag job, or only submits it if `options.wait` is false.

    Returns:
        Result of Beam's `Pipeline.run`.

    Raises:
        UsageError: No job service answers where one was named.
        KeyboardInterrupt: The job goes on, although nobody waits for it any more.
    """
    geotag = Geotag(load, configuration, output, options.batch_size, options.extras)

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "ListShards" >> beam.Create(shards) | "Geotag" >> geotag

    return run_job(options, build)
