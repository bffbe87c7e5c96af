"""One Geotagger per process, built by whoever needs it first. Knows no Beam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from locdiffusion.model.model_files import local_checkpoint, local_encoder


class GeotaggerLike(Protocol):
    """What the pipeline needs of `locdiffusion.geotagger.Geotagger`."""

    @property
    def model_id(self) -> str:
        """Name of the model."""

    @property
    def checkpoint_hash(self) -> str:
        """Hash of its weights."""

    def preprocess(self, image: Any) -> np.ndarray:
        """An upright PIL image to uint8 (S, S, 3)."""

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (N, S, S, 3) to float32 (N, E)."""

    def sample(self, embeddings: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """float32 (N, E) to natural parameters, float32 (N, K, d)."""

    def decode(self, natural: np.ndarray) -> Any:
        """float32 (N, K, d) to GeotagColumns of N rows."""

    def regions(self, natural: np.ndarray) -> Any:
        """float32 (N, K, d) to N tuples of CredibleRegion."""

    def hybrid(
        self,
        embeddings: np.ndarray,
        natural: np.ndarray,
        latitude: np.ndarray,
        longitude: np.ndarray,
        radius_50_km: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `embed`, `sample` and `decode` gave to (N,) latitude, longitude, NaN for none."""


Loader = Callable[[], GeotaggerLike]


@dataclass(frozen=True)
class GeotaggerLoader:
    """How a worker builds the Geotagger; small enough to be sent, hashable so that one is kept.

    Attributes:
        checkpoint: Path or URL, or None for the one that is shipped.
        encoder: Name the checkpoint must agree with, or None to take the checkpoint's; weights may
            lie at a URL.
        device: A torch device.
        mode: `density` (one network call) or `sampling`.
        samples: Per photo in sampling mode.
        steps: Of the sampler in sampling mode.
        seed: Of the run; a photo's own seed derives from it and from its key.
        bf16: Embed in bfloat16, on a GPU.
        prior: Where the photos may come from, as `locdiffusion.density.base_measure.load_prior` has
            it.
        gallery: Places for `hybrid`, as `locdiffusion.gallery.places.read_gallery` has it.
    """

    checkpoint: str | None = None
    encoder: str | None = None
    device: str = "cpu"
    mode: str = "density"
    samples: int = 16
    steps: int = 8
    seed: int = 0
    bf16: bool = False
    prior: str | None = None
    gallery: str | None = None

    def __call__(self) -> GeotaggerLike:
        """Loads it; raises what `Geotagger.load` and `model_files` raise."""
        from locdiffusion.geotagger import Geotagger

        geotagger: GeotaggerLike = Geotagger.load(
            local_checkpoint(self.checkpoint),
            encoder=self.encoder and local_encoder(self.encoder),
            device=self.device,
            mode=self.mode,
            samples=self.samples,
            steps=self.steps,
            seed=self.seed,
            bf16=self.bf16,
            prior=self.prior,
            gallery=self.gallery,
        )
        return geotagger


class LoadedGeotagger:
    """A Geotagger and the lock under which the threads of a process use it."""

    def __init__(self, geotagger: GeotaggerLike) -> None:
        self.geotagger = geotagger
        self.lock = threading.Lock()


_LOADED: dict[Loader, LoadedGeotagger] = {}
_LOADING = threading.Lock()


def loaded(load: Loader) -> LoadedGeotagger:
    """The one Geotagger of this process; a different loader replaces the one before."""
    with _LOADING:
        if load not in _LOADED:
            _LOADED.clear()
            _LOADED[load] = LoadedGeotagger(load())
        return _LOADED[load]
