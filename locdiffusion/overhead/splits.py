"""Who may see what: held-out cells, the splits, and where the centres of patches fall.

The sphere is divided into 648 equal-area cells; 80 of them are held out. Every patch of every
split depends on (seed, stream, index) alone: a longer split begins with the shorter one, and one
split never changes another.
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
_HELD_OUT_FILE = "held_out_cells.json"
_CANDIDATES = 64
_MAX_ROUNDS = 1000


class Split(str, enum.Enum):
    """The data sets that can be built."""

    TRAIN = "train"
    VAL = "val"
    SEEN = "seen"
    UNSEEN = "unseen"
    SAMPLE = "sample"


@dataclasses.dataclass(frozen=True)
class Stream:
    """One independent sequence of patches.

    Attributes:
        name: Prefix of the keys.
        number: Entropy that no other stream has; never renumber, it would change the data.
        group: What a report groups by, also the prefix of the shards.
        held_out: Centres lie only inside the held-out cells if True, only outside if False.
        tenths: Share of the split's patches that this stream gives.
    """

    name: str
    number: int
    group: str
    held_out: bool
    tenths: int = 10

    def key(self, index: int) -> str:
        """Key of patch `index`; without dots, as webdataset splits names at the first one."""
        return f"{self.name}-{index:08d}"


STREAMS: dict[Split, tuple[Stream, ...]] = {
    Split.TRAIN: (Stream("train", 0, "train", held_out=False),),
    Split.VAL: (Stream("val", 1, "val", held_out=False),),
    Split.SEEN: (Stream("seen", 2, "seen", held_out=False),),
    Split.UNSEEN: (Stream("unseen", 3, "unseen", held_out=True),),
    Split.SAMPLE: (
        Stream("sample-seen", 4, "seen", held_out=False, tenths=7),
        Stream("sample-unseen", 5, "unseen", held_out=True, tenths=3),
    ),
}


class Purpose(enum.IntEnum):
    """What a patch's random numbers are for; one purpose never shifts another."""

    CENTRE = 0
    MOSAIC = 1
    AUGMENTATION = 2


@dataclasses.dataclass(frozen=True)
class CentreRule:
    """Where centres may fall.

    Attributes:
        max_abs_latitude_deg: Centres stay nearer to the equator than this.
        min_land_fraction: Least share of the patch on land; the centre itself always is on land.
    """

    max_abs_latitude_deg: float = 72.0
    min_land_fraction: float = 0.3

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.max_abs_latitude_deg <= 90 or not 0 <= self.min_land_fraction <= 1:
            raise ValueError(
                "max_abs_latitude_deg must lie in (0, 90] and min_land_fraction in [0, 1], "
                f"found {self}"
            )


def cell_index(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.int64]:
    """Number of the equal-area cell: cell = band·36 + column.

    band = min(⌊(sin lat + 1)/2 · 18⌋, 17), column = min(⌊(lon + 180)/10⌋, 35).

    Args:
        latitude_deg: (...,) in [-90, 90].
        longitude_deg: (...,) in [-180, 180].
    """
    sine = np.sin(np.radians(latitude_deg))
    band = np.minimum(np.floor((sine + 1) / 2 * BANDS), BANDS - 1)
    column = np.minimum(np.floor((np.asarray(longitude_deg) + 180) / 10), COLUMNS - 1)
    return (band * COLUMNS + column).astype(np.int64)


@functools.lru_cache(maxsize=1)
def held_out_mask() -> NDArray[np.bool_]:
    """(648,) True for the cells that training never sees, from the package's data file."""
    mask = np.zeros(BANDS * COLUMNS, np.bool_)
    mask[held_out_definition()["held_out_cells"]] = True
    mask.flags.writeable = False
    return mask


def held_out_definition() -> dict[str, Any]:
    """The data file as it is: `definition` in words and the list `held_out_cells`."""
    file = importlib.resources.files(__package__) / _HELD_OUT_FILE
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def is_held_out(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.bool_]:
    """Whether positions lie in a held-out cell."""
    return held_out_mask()[cell_index(latitude_deg, longitude_deg)]


def patch_rng(seed: int, stream: Stream, index: int, purpose: Purpose) -> np.random.Generator:
    """The patch's own random numbers."""
    key = (stream.number, index, int(purpose))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_centre(
    seed: int,
    stream: Stream,
    index: int,
    land: LandMask,
    geometry: PatchGeometry,
    rule: CentreRule,
) -> tuple[float, float]:
    """Draw the centre of a patch uniformly by area among all the places that the rules allow.

    Returns:
        Latitude and longitude in degrees, rounded to six decimals (0.1 m): exactly the truth that
        is written beside the image.

    Raises:
        RuntimeError: No place satisfies the rules.
    """
    rng = patch_rng(seed, stream, index, Purpose.CENTRE)
    limit = np.sin(np.radians(rule.max_abs_latitude_deg))
    for _ in range(_MAX_ROUNDS):
        sine, turn = rng.uniform(-limit, limit, _CANDIDATES), rng.random(_CANDIDATES)
        latitude = np.round(np.degrees(np.arcsin(sine)), 6)
        longitude = np.round(360 * turn - 180, 6)
        longitude[longitude == 180] = -180
        allowed = land.at(latitude, longitude)
        allowed &= is_held_out(latitude, longitude) == stream.held_out
        for place in zip(latitude[allowed].tolist(), longitude[allowed].tolist(), strict=True):
            if land_fraction(land, *place, geometry) >= rule.min_land_fraction:
                return place
    raise RuntimeError(
        f"no centre for {stream.name} among {_CANDIDATES * _MAX_ROUNDS} candidates with {rule}; "
        "lower min_land_fraction or raise max_abs_latitude_deg"
    )
