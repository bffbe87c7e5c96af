"""Keeps one Geotagger per process, built by the first step that needs it. Knows no Beam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.photos.photo import Preprocess
from locdiffusion.settings import GeotaggerSettings

if TYPE_CHECKING:
    from locdiffusion.decoding.area_masses import Partitions
    from locdiffusion.decoding.credible_regions import CredibleRegion


class GeotaggerLike(Protocol):
    """The part of `locdiffusion.geotagger.Geotagger` that the pipeline uses."""

    @property
    def model_id(self) -> str:
        """Name of the model."""

    @property
    def checkpoint_hash(self) -> str:
        """SHA-256 of the checkpoint's files."""

    @property
    def preprocess(self) -> Preprocess:
        """Function that `photo_process` sends to child processes; it needs no model."""

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings, float32 ``(N, E)``, of pixels ``(N, S, S, 3)``."""

    def sample(self, embeddings: np.ndarray, keys: Sequence[str]) -> np.ndarray:
        """Natural parameters, float32 ``(N, K, d)``, of embeddings and photo keys."""

    def decode(
        self,
        natural: np.ndarray,
        embeddings: np.ndarray,
        areas: Partitions | None = None,
        hints: Sequence[tuple[str, float] | None] | None = None,
    ) -> GeotagColumns:
        """Answers for N photos from natural parameters ``(N, K, d)`` and embeddings ``(N, E)``.

        With masses of areas, if these are wanted, and with the hints of the photos: areas, and the
        probabilities that they are right.
        """

    def regions(
        self, natural: np.ndarray, embeddings: np.ndarray
    ) -> Sequence[Sequence[CredibleRegion]]:
        """Credible regions of N photos from natural parameters and embeddings, as `decode`."""

    def with_prior(self, prior: str | None) -> GeotaggerLike:
        """The same for photos with a prior of their own; itself for None."""


Loader = Callable[[], GeotaggerLike]


@dataclass(frozen=True)
class GeotaggerLoader(GeotaggerSettings):
    """Settings from which a worker builds its Geotagger.

    Small enough to be sent to a worker; hashable, so that a process keeps the one it has built.
    """

    def __call__(self) -> GeotaggerLike:
        """Loads the Geotagger.

        Raises:
            ValueError, RuntimeError, OSError: What `Geotagger.load` raises.
        """
        from locdiffusion.geotagger import Geotagger

        geotagger: GeotaggerLike = Geotagger.load(**vars(self))
        return geotagger


class EmbeddedLoader(GeotaggerLoader):
    """Settings from which a worker builds a Geotagger without encoder, for kept embeddings."""

    def __call__(self) -> GeotaggerLike:
        """Loads the Geotagger.

        Raises:
            ValueError, RuntimeError, OSError: What `Geotagger.load` raises.
        """
        from locdiffusion.geotagger import Geotagger

        geotagger: GeotaggerLike = Geotagger.load(**vars(self), embeds=False)
        return geotagger


class LoadedGeotagger:
    """A Geotagger and the lock under which the threads of a process use it."""

    def __init__(self, geotagger: GeotaggerLike) -> None:
        self.geotagger = geotagger
        self.lock = threading.Lock()


_LOADED: dict[Loader, LoadedGeotagger] = {}
_LOADING = threading.Lock()


def loaded(load: Loader) -> LoadedGeotagger:
    """Returns the one Geotagger of this process; another loader replaces it."""
    with _LOADING:
        if load not in _LOADED:
            _LOADED.clear()
            _LOADED[load] = LoadedGeotagger(load())
        return _LOADED[load]
