"""Divides the Earth into splits, and draws where the centres of patches fall.

The sphere is divided into 648 equal-area cells. 80 are held out for tests, 16 others for
validation: choices and calibration need regions that training never saw, and those of the tests
must not serve for that. Every patch of every split depends on (seed, stream, index) alone: a longer
split begins with the shorter one, and one split never changes another.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.resources
import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from locdiffusion.overhead.mosaics import LandMask
from locdiffusion.overhead.patches import PatchGeometry, land_fraction

BANDS, COLUMNS = 18, 36
_CANDIDATES = 64
_MAX_ROUNDS = 1000


class Split(str, enum.Enum):
    """The data sets that can be built."""

    TRAIN = "train"
    VAL = "val"
    VAL_REGIONS = "val_regions"
    SEEN = "seen"
    UNSEEN = "unseen"
    SAMPLE = "sample"


class Region(str, enum.Enum):
    """Parts of the Earth that share no centre of a patch; the values describe them."""

    TRAINING = "outside held-out cells"
    VALIDATION = "inside validation cells"
    HELD_OUT = "inside held-out cells"


_FILES = {
    Region.VALIDATION: ("validation_cells.json", "validation_cells"),
    Region.HELD_OUT: ("held_out_cells.json", "held_out_cells"),
}


@dataclasses.dataclass(frozen=True)
class Stream:
    """An independent sequence of patches.

    Attributes:
        name: Prefix of the keys.
        number: Entropy of the stream. Another number would change its patches.
        group: Group of the patches in a report; also the prefix of the shards.
        region: Part of the Earth in which centres lie.
        tenths: Share of the patches of the split, in tenths.
    """

    name: str
    number: int
    group: str
    region: Region
    tenths: int = 10

    def key(self, index: int) -> str:
        """Names a patch; without dots, because webdataset splits names at the first one."""
        return f"{self.name}-{index:08d}"


STREAMS: dict[Split, tuple[Stream, ...]] = {
    Split.TRAIN: (Stream("train", 0, "train", Region.TRAINING),),
    Split.VAL: (Stream("val", 1, "val", Region.TRAINING),),
    Split.VAL_REGIONS: (Stream("val-regions", 6, "val_regions", Region.VALIDATION),),
    Split.SEEN: (Stream("seen", 2, "seen", Region.TRAINING),),
    Split.UNSEEN: (Stream("unseen", 3, "unseen", Region.HELD_OUT),),
    Split.SAMPLE: (
        Stream("sample-seen", 4, "seen", Region.TRAINING, tenths=7),
        Stream("sample-unseen", 5, "unseen", Region.HELD_OUT, tenths=3),
    ),
}


class Purpose(enum.IntEnum):
    """A use of random numbers; each has its own sequence, so that none shifts another."""

    CENTRE = 0
    MOSAIC = 1
    AUGMENTATION = 2
    SEASON = 3


@dataclasses.dataclass(frozen=True)
class CentreRule:
    """A rule for the places of centres.

    Attributes:
        max_abs_latitude_deg: Largest latitude of a centre, north or south.
        min_land_fraction: Least share of the patch on land; the centre itself always is on land.
    """

    max_abs_latitude_deg: float = 72.0
    min_land_fraction: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.max_abs_latitude_deg <= 90 or not 0 <= self.min_land_fraction <= 1:
            raise ValueError(
                "max_abs_latitude_deg must lie in (0, 90] and min_land_fraction in [0, 1], "
                f"found {self}"
            )


def cell_index(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.int64]:
    """Numbers the equal-area cells of positions (...,) in degrees: cell = band·36 + column.

    band = min(⌊(sin lat + 1)/2 · 18⌋, 17), column = min(⌊(lon + 180)/10⌋, 35).
    """
    sine = np.sin(np.radians(latitude_deg))
    band = np.minimum(np.floor((sine + 1) / 2 * BANDS), BANDS - 1)
    column = np.minimum(np.floor((np.asarray(longitude_deg) + 180) / 10), COLUMNS - 1)
    return (band * COLUMNS + column).astype(np.int64)


@functools.lru_cache(maxsize=1)
def cell_regions() -> tuple[Region, ...]:
    """Reads the region of each of the 648 cells from the data files of this package."""
    regions = [Region.TRAINING] * (BANDS * COLUMNS)
    for region, (_, field) in _FILES.items():
        for cell in definition(region)[field]:
            regions[cell] = region
    return tuple(regions)


@functools.cache
def _mask(region: Region) -> NDArray[np.bool_]:
    mask = np.array([found is region for found in cell_regions()])
    mask.flags.writeable = False
    return mask


def definition(region: Region) -> dict[str, Any]:
    """Reads the data file of a region: its `definition` in words, and the list of its cells."""
    file = importlib.resources.files(__package__) / _FILES[region][0]
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def in_region(
    region: Region, latitude_deg: ArrayLike, longitude_deg: ArrayLike
) -> NDArray[np.bool_]:
    """Tells which positions lie in a region."""
    return _mask(region)[cell_index(latitude_deg, longitude_deg)]


def patch_rng(seed: int, stream: Stream, index: int, purpose: Purpose) -> np.random.Generator:
    """Makes the generator of the random numbers of a patch."""
    key = (stream.number, index, int(purpose))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_centre(
    seed: int, stream: Stream, index: int, land: LandMask, geometry: PatchGeometry, rule: CentreRule
) -> tuple[float, float]:
    """Draws the centre of a patch, uniformly by area among the places that the rule allows.

    Returns:
        Latitude and longitude in degrees, rounded to six decimals (0.1 m) as they are stored.

    Raises:
        RuntimeError: No place satisfies the rule.
    """
    rng = patch_rng(seed, stream, index, Purpose.CENTRE)
    limit = np.sin(np.radians(rule.max_abs_latitude_deg))
    for _ in range(_MAX_ROUNDS):
        sine, turn = rng.uniform(-limit, limit, _CANDIDATES), rng.random(_CANDIDATES)
        latitude = np.round(np.degrees(np.arcsin(sine)), 6)
        longitude = np.round(360 * turn - 180, 6)
        longitude[longitude == 180] = -180
        allowed = land.at(latitude, longitude)
        allowed &= in_region(stream.region, latitude, longitude)
        for place in zip(latitude[allowed].tolist(), longitude[allowed].tolist(), strict=True):
            if land_fraction(land, *place, geometry) >= rule.min_land_fraction:
                return place
    raise RuntimeError(
        f"no centre for {stream.name} among {_CANDIDATES * _MAX_ROUNDS} candidates with {rule}; "
        "lower min_land_fraction or raise max_abs_latitude_deg"
    )
