"""Decides what is known of a photo from its file and its document: place, time, camera, identity.

Everything that asks for a known position asks here: geotagging, training, calibration, evaluation,
cards, and the writing of geotags, which leaves a photo with a position of its own untouched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from locdiffusion.photos.capture_time import UNKNOWN, Capture, CaptureTime, TimeSource, likeliest
from locdiffusion.photos.carriers import find_blocks
from locdiffusion.photos.coordinates import NOTHING, Reading, Source
from locdiffusion.photos.exif import read_camera, read_gps, read_times
from locdiffusion.photos.identity import UNIDENTIFIED, PhotoIdentity
from locdiffusion.photos.sidecar import Sidecar
from locdiffusion.photos.xmp import read_xmp, read_xmp_capture
from locdiffusion.sphere.geodesy import great_circle_km
from schemas.samples import Truth

SAME_PLACE_KM = 0.03
"""Distance within which a position repeats an estimate that was written into the photo."""


def own_position(data: bytes) -> Reading:
    """Reads the position that a photo's file holds: that of its EXIF, or else of its XMP.

    Args:
        data: Bytes of the file.

    Returns:
        The position and its source; `ESTIMATE` if this project wrote it. Or a problem where the
        file holds a position that cannot be read, so that nobody may replace it. Or neither.
    """
    blocks = find_blocks(data)
    found = [_joined(map(read_gps, blocks.exif)), _joined(map(read_xmp, blocks.xmp))]
    estimate = next((one for one in found if one.source is Source.ESTIMATE), NOTHING)
    for one in found:
        if one.known is not None and not _repeats(one.known, estimate.position):
            return one
    return next((one for one in (estimate, *found) if one != NOTHING), NOTHING)


def own_capture(data: bytes) -> Capture:
    """Reads when a photo was taken, and with which camera, out of its file.

    The times of its EXIF and its XMP count in this order: `DateTimeOriginal` of the EXIF, XMP,
    `DateTimeDigitized`, GPS, and `DateTime`, which is that of the last change as a rule.

    Args:
        data: Bytes of the file.
    """
    blocks = find_blocks(data)
    times: dict[TimeSource, CaptureTime] = {}
    camera = ""
    for block in blocks.exif:
        times = read_times(block) | times
        camera = camera or read_camera(block).id
    original, told = times.get(TimeSource.EXIF_ORIGINAL), UNKNOWN
    if original is None or original.offset_min is None or not camera:
        for packet in blocks.xmp:
            told = told.or_else(read_xmp_capture(packet))
    later = (TimeSource.EXIF_DIGITIZED, TimeSource.GPS, TimeSource.EXIF_MODIFIED)
    return Capture(likeliest([original, told.time, *map(times.get, later)]), camera or told.camera)


def _joined(readings: Iterable[Reading]) -> Reading:
    """Joins what the blocks of one kind say: programs do not agree which of them counts."""
    found = [one for one in readings if one != NOTHING]
    if any(one.problem or not _same_place(one.position, found[0].position) for one in found):
        problem = next((one.problem for one in found if one.problem), "")
        return Reading(problem=problem or "the file has two positions of one kind, which differ")
    return found[0] if found else NOTHING


def _same_place(one: Truth | None, other: Truth | None) -> bool:
    if one is None or other is None:
        return False
    distance = great_circle_km(one.latitude, one.longitude, other.latitude, other.longitude)
    return bool(distance <= SAME_PLACE_KM)


def _repeats(one: Truth | None, estimate: Truth | None) -> bool:
    """Whether a position is an estimate, of which a program that copies tags may lose the signs."""
    if one is None or estimate is None:
        return False
    return _same_place(*(Truth(abs(at.latitude), abs(at.longitude)) for at in (one, estimate)))


@dataclass(frozen=True)
class PhotoPositions:
    """What is known of one photo: where and when it was taken, and which photo it is.

    Attributes:
        own: Position in the photo's file.
        sidecar: What the photo's document says, if it has one.
        own_capture: Time and camera in the photo's file.
        identity: What tells the photo from all others.
    """

    own: Reading = NOTHING
    sidecar: Sidecar | None = None
    own_capture: Capture = UNKNOWN
    identity: PhotoIdentity = UNIDENTIFIED

    @property
    def exif(self) -> Truth | None:
        """Position that the camera, or a person, wrote into the photo."""
        return self.own.known

    @property
    def truth(self) -> Truth | None:
        """Position in the document, unless it repeats an estimate of this project."""
        return None if self.truth_source is Source.ESTIMATE else self._document.position

    @property
    def exif_source(self) -> Source | None:
        """Where `exif` was read; `ESTIMATE` where this project wrote it."""
        return self.own.source

    @property
    def truth_source(self) -> Source | None:
        """Where `truth` was read; `ESTIMATE` where the document repeats an estimate."""
        estimate = self.own.position if self.own.source is Source.ESTIMATE else None
        if _repeats(self._document.position, estimate):
            return Source.ESTIMATE
        return self._document.source

    @property
    def capture(self) -> Capture:
        """When the photo was taken, and with which camera."""
        return self.own_capture.told_by(self.sidecar.capture if self.sidecar else UNKNOWN)

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Fields of the photo's document that are taken along."""
        return self.sidecar.fields if self.sidecar else ()

    def with_late(self, sidecar: Sidecar | None) -> PhotoPositions:
        """Returns these positions with the nearest document, met later, unless it knows less."""
        if sidecar is None:
            return self
        before = self.sidecar
        if before is not None:
            keep = sidecar.known is None and before.known is not None
            nearer, farther = (before, sidecar) if keep else (sidecar, before)
            sidecar = nearer.completed_by(farther)
        return replace(self, sidecar=sidecar)

    @property
    def _document(self) -> Reading:
        return self.sidecar or NOTHING
