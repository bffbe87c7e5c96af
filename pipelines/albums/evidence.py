"""What the photos of an album show, computed again from the embeddings that `geotag` kept.

Knows no Beam.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from locdiffusion.albums.evidence import Evidence, Likelihood
from locdiffusion.albums.joint import UNBELIEVED
from locdiffusion.cli.parser import UsageError
from locdiffusion.cli.terminal import tell
from pipelines.albums.photos import numbers
from pipelines.geotag.model_cache import EmbeddedLoader, GeotaggerLike, Loader, loaded
from schemas.layers import EMBEDDING

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
        values = _values(embeddings.take(pa.array(rows)))
        keys = photos["key"].take(pa.array(rows)).to_pylist()
        model = loaded(self.load)
        geotagger = cast("SayingGeotagger", model.geotagger)
        with model.lock:
            likelihood = geotagger.likelihood(geotagger.sample(values, keys), values)
        believed = likelihood.weight > UNBELIEVED
        return Evidence(rows, likelihood) if np.any(believed) else None


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
