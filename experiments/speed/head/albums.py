"""Albums that the benchmark times: one of anchors alone, and one in which photos have evidence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from locdiffusion.albums.album import Album
from locdiffusion.albums.evidence import Evidence
from locdiffusion.albums.joint import place_jointly
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import place
from locdiffusion.geotagger import Geotagger

HOURS, FIRST_HOUR = 0.7, 24.0 * 365.2425 * 45.0
"""Mean hours between two photos, and those from 1970 to the first."""


def walk(count: int, seed: int = 0) -> Album:
    """Draws an album of a camera that walks at random; every other photo is an anchor."""
    rng = np.random.default_rng(seed)
    waits = rng.exponential(HOURS, count)
    latitude, longitude = 45.0 + np.cumsum(rng.normal(size=(2, count)) * 0.02 * waits, 1)
    latitude[1::2] = longitude[1::2] = np.nan
    return Album.of(FIRST_HOUR + np.cumsum(waits), latitude, longitude)


def by_anchors(count: int) -> Callable[[], object]:
    """Places the photos of an album by its anchors."""
    return partial(place, walk(count), AlbumParameters.load())


def by_evidence(
    geotagger: Geotagger, natural: NDArray[np.float32], embeddings: NDArray[np.float32]
) -> Callable[[], object]:
    """Places the photos of an album by anchors, and half of them by what they show too."""
    album = walk(2 * len(natural))
    return partial(_joined, geotagger, album, natural, embeddings)


def _joined(
    geotagger: Geotagger,
    album: Album,
    natural: NDArray[np.float32],
    embeddings: NDArray[np.float32],
) -> object:
    likelihood = geotagger.likelihood(natural, embeddings)
    evidence = Evidence(np.arange(1, len(album), 2), likelihood)
    return place_jointly(album, evidence, AlbumParameters.load())
