"""Photos with priors of their own: a step is run for the photos of each prior apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from locdiffusion.photos.positions import PhotoPositions
from pipelines.geotag.model_cache import GeotaggerLike
from schemas.geotags import ErrorRow, Stage, Status


def under_each_prior(
    batch: Any, stage: Stage, geotagger: GeotaggerLike, run: Callable[[Any, GeotaggerLike], Any]
) -> Any:
    """Runs a step for the photos of each prior, in the order in which priors first come.

    Args:
        batch: Photos with their priors, a `batches.PhotoBatch`.
        stage: The step, for the errors of photos whose prior fails.
        geotagger: Geotagger of the run, from which those of other priors are had.
        run: Runs the step for photos of one prior.
    """
    done: list[Any] = []
    for prior in dict.fromkeys(batch.priors):
        rows = np.flatnonzero([one == prior for one in batch.priors])
        photos = _photos(batch, rows)
        try:
            own = geotagger.with_prior(prior)
        except Exception as error:  # whatever it is, it must cost these photos and not the job
            why = f"{type(error).__name__}: {error}"
            pairs = zip(photos.keys, photos.known, strict=True)
            lost = tuple(inference_error(key, known, stage, why) for key, known in pairs)
            done.append(replace(_photos(batch, rows[:0]), errors=lost))
        else:
            result = run(photos, own)
            done.append(replace(result, priors=(prior,) * len(result)))
    payloads: list[Any] = [one.payload for one in done if one.payload is not None]
    return replace(
        batch,
        keys=tuple(key for one in done for key in one.keys),
        known=tuple(known for one in done for known in one.known),
        payload=type(payloads[0]).joined(payloads) if payloads else None,
        errors=batch.errors + tuple(error for one in done for error in one.errors),
        priors=tuple(prior for one in done for prior in one.priors),
    )


def inference_error(key: str, known: PhotoPositions, stage: Stage, why: str) -> ErrorRow:
    """Makes the row of a photo on which the model failed."""
    photo_id, path = known.identity.photo_id, known.identity.path
    return ErrorRow(key, stage, Status.INFERENCE_FAILED, why, photo_id, path)


def _photos(batch: Any, rows: np.ndarray) -> Any:
    """Photos by their numbers ``(n,)``, without their priors and the errors of the batch."""
    payload = batch.payload
    return replace(
        batch,
        keys=tuple(batch.keys[row] for row in rows),
        known=tuple(batch.known[row] for row in rows),
        payload=payload.take(rows) if len(rows) and payload is not None else None,
        errors=(),
        priors=(),
    )
