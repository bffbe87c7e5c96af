"""Builds what places albums, once in each process. Knows no Beam."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from locdiffusion.albums.joint import place_jointly
from locdiffusion.albums.parameters import AlbumParameters
from locdiffusion.albums.placing import AlbumAnswers, place
from locdiffusion.albums.table import album_of
from locdiffusion.photos.gpx import Tracks
from pipelines.albums.evidence import EvidenceReader
from pipelines.albums.photos import numbers
from pipelines.albums.rows import Placer
from pipelines.geotag.model_cache import Loader

RECEIVER = "\\0receiver"
"""Name of the camera of the points of a track, which no camera has."""


@dataclass(frozen=True)
class PlacerLoader:
    """Settings from which a worker builds its placer.

    Attributes:
        parameters: Parameters of the albums.
        tracks: Points that are anchors of every album; None for none.
        geotagger: Builds the Geotagger that made the embeddings of the photos; None goes by times
            and anchors alone.
    """

    parameters: AlbumParameters
    tracks: Tracks | None = None
    geotagger: Loader | None = None

    def __call__(self) -> Placer:
        """Builds the placer."""
        evidence = None if self.geotagger is None else EvidenceReader(self.geotagger)
        return AlbumPlacer(self.parameters, self.tracks, evidence)


@dataclass(frozen=True)
class AlbumPlacer:
    """Places the photos of an album by its anchors, by tracks, and by what the photos show.

    Attributes:
        parameters: Parameters of the albums.
        tracks: Points that are anchors of every album; None for none.
        evidence: Computes what photos show; None goes by times and anchors alone.
    """

    parameters: AlbumParameters
    tracks: Tracks | None = None
    evidence: EvidenceReader | None = None

    def __call__(self, photos: pa.Table) -> AlbumAnswers:
        """Returns the answers for the photos of one album, in their order."""
        hours, zoned = numbers(photos, "hours"), np.asarray(photos["zoned"])
        known = [numbers(photos, f"known_{axis}") for axis in ("latitude", "longitude")]
        camera = [name or "" for name in photos["camera"].to_pylist()]
        if self.tracks is not None:
            # Points are photos behind those of the album, which nobody asks for.
            beside = self.tracks.beside(hours)
            zoned = np.append(zoned, np.ones(len(beside), np.bool_))
            camera += [RECEIVER] * len(beside)
            added = (self.tracks.latitude, self.tracks.longitude)
            known = [np.append(k, more[beside]) for k, more in zip(known, added, strict=True)]
            hours = np.append(hours, self.tracks.hours[beside])
        album = album_of(hours, zoned, camera, *known)
        anchors = int(album.anchored.sum())
        found = None if self.evidence is None else self.evidence(photos, anchors)
        if found is not None:
            answers = place_jointly(album, found, self.parameters)
        elif anchors:
            answers = place(album, self.parameters)
        else:  # as of `place`, without looking for the law of an album that has none
            answers = AlbumAnswers.unknown(album)
        return answers.take(slice(len(photos)))


_LOADED: dict[PlacerLoader, Placer] = {}
_LOADING = threading.Lock()


def loaded(load: PlacerLoader) -> Placer:
    """Returns the one placer of this process; another loader replaces it."""
    with _LOADING:
        if load not in _LOADED:
            _LOADED.clear()
            _LOADED[load] = load()
        return _LOADED[load]
