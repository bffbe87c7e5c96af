"""Builds what places albums, once in each process. Knows no Beam."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from locdiffusion.albums.parameters import AlbumParameters
from pipelines.albums.rows import ByAnchors, Placer


@dataclass(frozen=True)
class PlacerLoader:
    """Settings from which a worker builds its placer.

    Attributes:
        parameters: Parameters of the albums.
    """

    parameters: AlbumParameters

    def __call__(self) -> Placer:
        """Builds the placer."""
        return ByAnchors(self.parameters)


_LOADED: dict[PlacerLoader, Placer] = {}
_LOADING = threading.Lock()


def loaded(load: PlacerLoader) -> Placer:
    """Returns the one placer of this process; another loader replaces it."""
    with _LOADING:
        if load not in _LOADED:
            _LOADED.clear()
            _LOADED[load] = load()
        return _LOADED[load]
