"""What the photos of an album show, computed again from the embeddings that `geotag` kept.

Knows no Beam.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.albums.evidence import Evidence, Likelihood, parameters_of
from locdiffusion.albums.joint import UNBELIEVED
from locdiffusion.cli.parser import UsageError
from locdiffusion.cli.terminal import tell
from pipelines.albums.photos import numbers
from pipelines.geotag.model_cache import EmbeddedLoader, GeotaggerLike, Loader, loaded
from schemas.layers import EMBEDDING

Float = NDArray[np.float64]
Index = NDArray[np.int64]

HELD_AT_ONCE = 1024
"""Most photos whose likelihoods are held at once; more than a window of `joint` asks for."""

_WITHOUT = "or go by times and anchors alone with --anchors-only"


class SayingGeotagger(GeotaggerLike, Protocol):
    """A Geotagger that tells what photos say of their places."""

    def likelihood(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> Likelihood:
        """Likelihoods of places for N photos, from natural parameters and embeddings."""


@dataclass(frozen=True)
class EvidenceReader:
    """Computes what photos show, with the model that made their predictions.

    Attributes:
        load: Builds the Geotagger, whose encoder is not used.
    """

    load: Loader

    def __call__(self, photos: pa.Table, anchors: int) -> Evidence | None:
        """Computes the evidence of the photos of an album that have no position.

        Args:
            photos: Photos of the album, with their embeddings.
            anchors: Number of the album's anchors.

        Returns:
            The evidence; None if there is none, or if nothing can be joined with it: a photo that
            has neither anchors nor neighbours with evidence stands alone.
        """
        timed = ~np.isnan(numbers(photos, "hours"))
        asked = timed & np.isnan(numbers(photos, "known_latitude"))
        embeddings = photos[EMBEDDING].combine_chunks()
        rows = np.flatnonzero(asked & np.asarray(embeddings.is_valid()))
        if not len(rows) or len(rows) + anchors < 2:
            return None
        kept = embeddings.take(pa.array(rows))
        keys = photos["key"].take(pa.array(rows)).to_pylist()
        model = loaded(self.load)
        geotagger = cast("SayingGeotagger", model.geotagger)

        def likelihood_of(part: Index) -> Likelihood:
            values = _values(kept.take(pa.array(part)))
            with model.lock:
                natural = geotagger.sample(values, [keys[row] for row in part.tolist()])
                return geotagger.likelihood(natural, values)

        every = np.arange(len(rows))
        long = len(rows) > HELD_AT_ONCE
        likelihood = LongLikelihood(likelihood_of, every) if long else likelihood_of(every)
        believed = likelihood.weight > UNBELIEVED
        if not np.any(believed):
            return None
        return Evidence(rows, likelihood, parameters_of(geotagger.model_id))


class LongLikelihood:
    """Likelihoods of places for the photos of a long album, of which those of a window are held.

    Attributes:
        weight: How far each photo is believed, from 0 to 1, ``(n,)``.
        look: What each photo looks like, ``(n, C)``.
    """

    def __init__(self, of: Callable[[Index], Likelihood], rows: Index) -> None:
        """Looks at all photos, some at once.

        Args:
            of: Computes the likelihoods of some of the photos.
            rows: Numbers of all photos, ``(n,)``.
        """
        self._of = of
        parts = [
            (found.weight, found.look)
            for start in range(0, len(rows), HELD_AT_ONCE)
            for found in (of(rows[start : start + HELD_AT_ONCE]),)
        ]
        self.weight, self.look = (np.concatenate(column) for column in zip(*parts, strict=True))
        self._rows, self._held = rows[:1], of(rows[:1])

    def base(self, vectors: Float) -> Float:
        """Density of the base measure at unit vectors ``(S, 3)``, ``(S,)``."""
        return self._held.base(vectors)

    def at(self, vectors: Float) -> Callable[[Index], Float]:
        """Function from numbers of photos ``(m,)`` to log L at unit vectors, ``(m, S)``."""

        def log_likelihood(rows: Index) -> Float:
            if not np.array_equal(rows, self._rows):
                self._rows, self._held = rows, self._of(rows)
            return self._held.at(vectors)(np.arange(len(rows)))

        return log_likelihood


def _values(embeddings: pa.Array) -> NDArray[np.float32]:
    """Embeddings ``(n, E)`` in single precision."""
    values = embeddings.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(embeddings), -1).astype(np.float32)


def evidence_loader(
    root: str, run: Mapping[str, Any], checkpoint: str | None, device: str
) -> EmbeddedLoader:
    """Returns what builds the Geotagger that made an output, without its encoder.

    Args:
        root: Output directory, for messages.
        run: Settings of the run that made it.
        checkpoint: Where its checkpoint is; None for the shipped one of its name.
        device: Torch device.
    """
    prior = run.get("prior")
    if prior and " sha256:" in prior:
        tell(
            f"the polygons that {root} was made with are not at hand; they bound no album's answer"
        )
        prior = None
    given = {name: run[name] for name in ("mode", "samples", "steps", "seed") if name in run}
    name = checkpoint or str(run["model_id"]).rpartition("-")[0]
    located = os.path.abspath(name) if os.path.isdir(name) else name
    return EmbeddedLoader(located, device=device, prior=prior, gallery="none", **given)


def check_model(root: str, run: Mapping[str, Any], load: Loader) -> None:
    """Loads a Geotagger once, to see that it is the one that made an output.

    Raises:
        UsageError: It cannot be loaded, or is another.
    """
    wanted = run["model_id"]
    try:
        geotagger = loaded(load).geotagger
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(
            f"{root} was made with the checkpoint {wanted}, which cannot be loaded ({error}); give "
            f"it with --checkpoint DIR, {_WITHOUT}"
        ) from error
    if geotagger.checkpoint_hash != run.get("checkpoint_hash"):
        raise UsageError(
            f"{root} was made with the checkpoint {wanted}, and {geotagger.model_id} is another; "
            f"give that one with --checkpoint DIR, {_WITHOUT}"
        )
