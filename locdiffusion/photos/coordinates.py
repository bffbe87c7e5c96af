"""Reads latitudes and longitudes as cameras, programs and people write them.

Numbers that could mean two things are refused, because a position that is wrong is worse than none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from schemas.samples import Truth

_WORDS = {"NORTH": "N", "SOUTH": "S", "EAST": "E", "WEST": "W"}
_NUMBER = r"(?:\d{1,20}(?:\.\d{0,40})?(?:[eE]-\d{1,3})?|\.\d{1,40})"  # 7e-05, as programs write it
_MARK = r"""\s{0,9}(?:deg|[,;:°º'’′"”″\s])[,;:°º'’′"”″\s]{0,9}"""
_LETTER = r"(?:north|south|east|west|[nsew])"
_BLANK = "\0 \t\r\n"
_ANGLE = re.compile(
    rf"(?P<before>{_LETTER})?\s*(?P<sign>[+-])?(?P<numbers>{_NUMBER}(?:{_MARK}{_NUMBER}){{0,2}})"
    rf"(?:{_MARK})?(?P<after>{_LETTER})?\Z",
    re.IGNORECASE,
)

# Fractions of a degree and of a minute above which finer parts no longer fit: about a metre.
_WHOLE_DEG, _WHOLE_MIN = 1e-5, 1e-3

ESTIMATED_BY = "LocDiffusion"
"""Beginning of `GPSProcessingMethod` in files whose position this project estimated."""

_ESTIMATED_AT = re.compile(r" at (-?\d+\.\d+), (-?\d+\.\d+)\Z")
_SAME_DEG = 1e-4


class Source(str, Enum):
    """Where a position was read."""

    EXIF = "exif"
    XMP = "xmp"
    JSON = "json"
    TAKEOUT = "takeout"
    TABLE = "table"
    ESTIMATE = "estimate"


@dataclass(frozen=True)
class Reading:
    """What one source says of the place where a photo was taken.

    Attributes:
        position: Position, if the source has one that is sound.
        source: Where the position was read; `ESTIMATE` if this project wrote it, so that it is no
            truth. None without a position.
        problem: Reason why the source holds a position that cannot be read; empty if it does not.
    """

    position: Truth | None = None
    source: Source | None = None
    problem: str = ""

    @property
    def known(self) -> Truth | None:
        """The position, unless this project estimated it."""
        return None if self.source is Source.ESTIMATE else self.position


NOTHING = Reading()
"""What a source says that has no position."""


class CoordinateError(ValueError):
    """Numbers that are no latitude or longitude, or could mean two."""


@dataclass(frozen=True)
class Angle:
    """A latitude or longitude as it stands in a file.

    Attributes:
        parts: Degrees, then perhaps minutes and seconds; NaN where the file says that a value is
            not known.
        letter: Hemisphere as the file writes it, such as `N` or `South `; may be empty.
        signed: Whether a number without a minus is positive, so that no letter is needed.
    """

    parts: tuple[float, ...]
    letter: str = ""
    signed: bool = False

    def magnitude(self) -> float | None:
        """Computes degrees with the sign of the numbers alone; None where they are not known.

        Raises:
            CoordinateError: The numbers are too many, or contradict each other.
        """
        parts = list(self.parts)
        while len(parts) > 1 and math.isnan(parts[-1]):
            parts.pop()
        if not parts or (math.isnan(parts[0]) and not any(part > 0 for part in parts)):
            return None
        if len(parts) > 3 or not all(map(math.isfinite, parts)):
            raise CoordinateError(f"{_shown(self.parts)} is no degrees, minutes and seconds")
        degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
        if (minutes or seconds) and (
            any(math.copysign(1, part) < 0 for part in parts)
            or max(minutes, seconds) > 60
            or _fraction(degrees) > _WHOLE_DEG
            or (seconds and _fraction(minutes) > _WHOLE_MIN)
        ):
            raise CoordinateError(f"{_shown(self.parts)} contradicts itself")
        if len(parts) == 1 < len(self.parts) and degrees and not _fraction(degrees):
            raise CoordinateError(f"{_shown(self.parts)} has no minutes")
        return degrees + minutes / 60 + seconds / 3600

    def degrees(self, hemispheres: str) -> float | None:
        """Computes degrees, positive to the north and to the east; None where they are not known.

        Args:
            hemispheres: Letters of the axis, `NS` or `EW`.

        Raises:
            CoordinateError: The numbers are none of a position, or their sign is not known.
        """
        value = self.magnitude()
        if value is None:
            return None
        word = self.letter.strip(_BLANK).upper()
        letter = _WORDS.get(word, word)
        if (
            letter not in ("", *hemispheres)
            or (letter == hemispheres[0] and value < 0)
            or (not letter and value > 0 and not self.signed)
        ):
            found = f"{value:g} with hemisphere {self.letter[:20]!r}"
            raise CoordinateError(f"{found}, wanted one of {'/'.join(hemispheres)} or a sign")
        return -abs(value) if letter == hemispheres[1] else value


def place(angles: Sequence[Angle | None], source: Source, method: str = "") -> Reading:
    """Joins a latitude and a longitude to a position.

    Args:
        angles: Latitude and longitude, None where missing.
        source: Where the angles were read.
        method: Text of `GPSProcessingMethod`.

    Returns:
        The position; NOTHING where both are missing or not known, or where both are zero, which
        cameras and programs write when they have no fix.

    Raises:
        CoordinateError: The angles are no position on Earth, or only one is known.
    """
    if not any(angle and angle.magnitude() for angle in angles):
        return NOTHING
    latitude, longitude = (
        angle.degrees(axis) if angle else None
        for angle, axis in zip(angles, ("NS", "EW"), strict=True)
    )
    if latitude is None or longitude is None:
        raise CoordinateError("only one of latitude and longitude is there")
    try:
        position = Truth(latitude, longitude)
    except ValueError as error:
        raise CoordinateError(str(error)) from None
    return Reading(position, Source.ESTIMATE if _is_estimate(method, position) else source)


def estimation_method(model_id: str, latitude: float, longitude: float) -> str:
    """Returns the `GPSProcessingMethod` of an estimate: by which model, and where it put the photo.

    Args:
        model_id: Name of the model.
        latitude: Estimated latitude in degrees.
        longitude: Estimated longitude in degrees.
    """
    return (
        f"{ESTIMATED_BY} {model_id}, estimated from the picture at {latitude:.5f}, {longitude:.5f}"
    )


def _is_estimate(method: str, position: Truth) -> bool:
    """Whether a position is as it was estimated; who moved it by hand made it his own.

    Programs that copy tags lose hemispheres, so a mirrored position is no other one.
    """
    found = _ESTIMATED_AT.search(method)
    return method.startswith(ESTIMATED_BY) and not (
        found
        and any(
            abs(abs(float(told)) - abs(degrees)) > _SAME_DEG
            for told, degrees in zip(
                found.groups(), (position.latitude, position.longitude), strict=True
            )
        )
    )


def parse_angle(text: str, letter: str = "", signed: bool = True) -> Angle:
    """Reads an angle such as `52,30.5N`, `52 deg 31' 8.40" N` or `-13.4`.

    Args:
        text: Text of one angle.
        letter: Hemisphere that the file gives beside the text.
        signed: Whether decimal degrees without letter and sign are positive.

    Raises:
        CoordinateError: The text is no angle.
    """
    found = _ANGLE.match(text.strip(_BLANK)[:120])
    if not found:
        raise CoordinateError(f"{text[:40]!r} is no angle in degrees")
    letters = [one for one in (found["before"], found["after"], letter.strip(_BLANK)) if one]
    if len({one[0].upper() for one in letters}) > 1:
        raise CoordinateError(f"{text[:40]!r} has two hemispheres")
    parts = [float(number) for number in re.findall(_NUMBER, found["numbers"])]
    if found["sign"] == "-":
        parts[0] = -parts[0]
    signed = found["sign"] is not None or (signed and len(parts) == 1)
    return Angle(tuple(parts), letters[0] if letters else "", signed)


def _fraction(value: float) -> float:
    return abs(value - round(value))


def _shown(parts: Sequence[float]) -> str:
    return ", ".join(f"{part:g}" for part in parts[:5])
