"""Runs the steps of the model in a Beam job."""

from __future__ import annotations

from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler

from pipelines.geotag.batches import PhotoBatch, run_stage
from pipelines.geotag.counters import (
    MICROSECONDS,
    MODEL_STEPS,
    WAIT_FOR_LATE,
    WAIT_FOR_MODEL,
    counted,
    held,
)
from pipelines.geotag.late_results import LATE_THREADS
from pipelines.geotag.model_cache import LoadedGeotagger, Loader, loaded
from pipelines.geotag.tables import Extras
from schemas.geotags import Stage


class StageHandler(ModelHandler[PhotoBatch, PhotoBatch, LoadedGeotagger]):
    """Runs one step of the model for RunInference; one element is one batch of photos."""

    def __init__(self, load: Loader, stage: Stage, extras: Extras | None = None) -> None:
        super().__init__()
        self.load = load
        self.stage = stage
        self.extras = extras or Extras()
        self.microseconds = Metrics.counter(MODEL_STEPS[stage], MICROSECONDS)
        self.waiting = Metrics.counter(WAIT_FOR_MODEL, MICROSECONDS)
        self.waiting_late = Metrics.counter(WAIT_FOR_LATE, MICROSECONDS)

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
        if self.stage is Stage.DECODE:
            with counted(self.waiting_late):
                LATE_THREADS.wait_for_room()
        with held(model.lock, self.waiting), counted(self.microseconds):
            decodes = self.stage is Stage.DECODE
            areas, hints = self.extras.decoding() if decodes else (None, None)
            wanted = self.extras.regions, LATE_THREADS, areas, hints
            result = run_stage(batch, self.stage, model.geotagger, *wanted)
        keeps = self.stage is Stage.EMBED and self.extras.embeddings
        return [result.halved() if keeps else result]

    def get_num_bytes(self, batch: PhotoBatch) -> int:  # type: ignore[override]
        """Size of the arrays; Beam's default would pickle the batch to measure it."""
        return batch.payload.nbytes if batch.payload is not None else 0

    def get_metrics_namespace(self) -> str:
        """Name of the step in the metrics: `embed`, `sample` or `decode_density`."""
        return MODEL_STEPS[self.stage]
