"""What becomes of each photo: whether its geotag is written, and if not, why."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from locdiffusion.photos.archive import Sample
from locdiffusion.photos.carriers import find_blocks
from locdiffusion.photos.coordinates import Source, estimation_method
from locdiffusion.photos.positions import PhotoPositions, own_position
from locdiffusion.photos.tiff import TiffError
from locdiffusion.photos.xmp import read_xmp
from pipelines.write_exif.exif import Position, with_position
from pipelines.write_exif.geotags import PROBLEM
from pipelines.write_exif.jpeg import JpegError, UnsafeError


class Fate(str, Enum):
    """Outcome for one photo."""

    WRITTEN = "written"
    UNCERTAIN = "not certain enough"
    OWN_POSITION = "has a position of its own"
    UNREADABLE_GPS = "has GPS tags that cannot be read"
    UNREADABLE_DOCUMENT = "has a document that is not understood"
    ESTIMATE = "has an earlier estimate"
    NO_PREDICTION = "has no prediction"
    BAD_PREDICTION = "has a prediction that cannot be used"
    NOT_JPEG = "is no JPEG"
    UNREADABLE = "cannot be read"
    BROKEN_EXIF = "has a broken EXIF block"
    UNSAFE = "cannot be written safely"
    PLACE_TAKEN = "another file is in the place of its copy"


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        shard: Path or URL of its shard, or its folder.
        key: Key of the photo.
        fate: What became of it.
        reason: Why, where the fate does not say it.
        replaced: Fate that the photo would have had if it were not to be replaced.
        copy: Path of the copy within the folder of the copies.
        sha256: SHA-256 of the copy.
    """

    shard: str
    key: str
    fate: Fate
    reason: str = ""
    replaced: str = ""
    copy: str = ""
    sha256: str = ""

    def to_dict(self) -> dict[str, str]:
        """Returns the outcome as JSON has it, without what is empty."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass
class Outcomes:
    """What became of all photos.

    Attributes:
        photos: One outcome for each photo.
        damaged: What was wrong with shards that could not be read whole.
    """

    photos: list[Outcome] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Returns the number of photos by fate, in the order of the fates."""
        counted = Counter(outcome.fate for outcome in self.photos)
        return {fate.value: counted[fate] for fate in Fate if counted[fate]}

    @property
    def replaced(self) -> int:
        """Number of copies whose position replaces another."""
        return sum(bool(one.replaced) and one.fate is Fate.WRITTEN for one in self.photos)


def _own_fate(sample: Sample) -> tuple[Fate | None, str]:
    """Returns the fate of a photo that keeps what is known of its position, and the reason."""
    assert sample.image is not None
    known = PhotoPositions(own_position(sample.image), sample.sidecar)
    if known.exif is not None or known.truth is not None:
        return Fate.OWN_POSITION, ""
    if known.own.source is Source.ESTIMATE:
        return Fate.ESTIMATE, ""
    if known.own.problem:
        return Fate.UNREADABLE_GPS, known.own.problem
    if sample.sidecar and sample.sidecar.problem:
        return Fate.UNREADABLE_DOCUMENT, sample.sidecar.problem
    return None, ""


def _contradicted(copy: bytes) -> bool:
    """Whether a copy still tells another position than the one that was written."""
    others = map(read_xmp, find_blocks(copy).xmp)
    found = any(one.position is not None or one.problem for one in others)
    return found or own_position(copy).source is not Source.ESTIMATE


@dataclass(frozen=True)
class Rules:
    """Which geotags are written.

    Attributes:
        max_radius_90_km: Largest 90 % radius in km, if there is a limit.
        min_prob_25km: Smallest probability within 25 km, if there is a limit.
        min_prob_200km: Smallest probability within 200 km, if there is a limit.
        replace_own_position: Whether also over a photo's own position.
        replace_estimates: Whether also over what was written before.
    """

    max_radius_90_km: float | None = None
    min_prob_25km: float | None = None
    min_prob_200km: float | None = None
    replace_own_position: bool = False
    replace_estimates: bool = False

    @property
    def unlimited(self) -> bool:
        """Whether no limit is given."""
        return (self.max_radius_90_km, self.min_prob_25km, self.min_prob_200km) == (None,) * 3

    def fate_of(self, geotag: Mapping[str, Any] | None) -> Fate | None:
        """Returns the fate of a photo whose geotag alone decides; None if the photo must be read.

        Args:
            geotag: The photo's row of the predictions, if it has one.
        """
        if geotag is None:
            return Fate.NO_PREDICTION
        if PROBLEM in geotag:
            return Fate.BAD_PREDICTION
        radius = self.max_radius_90_km
        least = {"prob_25km": self.min_prob_25km, "prob_200km": self.min_prob_200km}
        certain = (radius is None or geotag["radius_90_km"] <= radius) and all(
            limit is None or geotag[name] >= limit for name, limit in least.items()
        )
        if not certain:
            return Fate.UNCERTAIN
        known = geotag["truth_latitude"] is not None
        return Fate.OWN_POSITION if known and not self.replace_own_position else None

    def with_geotag(
        self, sample: Sample, geotag: Mapping[str, Any]
    ) -> tuple[Fate, str, bytes | None]:
        """Writes a geotag into a photo's bytes.

        Args:
            sample: The photo, with its bytes.
            geotag: Its row of the predictions.

        Returns:
            The photo's fate; its reason, or the fate that was overruled if the geotag is written;
            and the bytes of the copy.
        """
        image = sample.image
        assert image is not None
        if image[:2] != b"\xff\xd8":
            return Fate.NOT_JPEG, "", None
        own, why = _own_fate(sample)
        replace = self.replace_own_position or (own is Fate.ESTIMATE and self.replace_estimates)
        if own is not None and not replace:
            return own, why, None
        radius = geotag["radius_90_km"]
        where = geotag["latitude"], geotag["longitude"]
        method = estimation_method(geotag["model_id"], *where)
        note = f"within {radius:.{0 if radius >= 10 else 1}f} km with probability 0.9"
        position = Position(*where, radius, method, note)
        try:
            copy = with_position(image, position)
        except JpegError as error:
            return Fate.UNREADABLE, str(error), None
        except TiffError as error:
            return Fate.BROKEN_EXIF, str(error), None
        except UnsafeError as error:
            return Fate.UNSAFE, str(error), None
        except (ValueError, LookupError, ArithmeticError, struct.error) as error:
            return Fate.UNSAFE, f"it is not understood ({error})", None
        if own is not None and _contradicted(copy):
            return Fate.UNSAFE, "another position in its metadata would contradict", None
        return Fate.WRITTEN, own.value if own else "", copy
