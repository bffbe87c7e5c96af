"""What another month, sensor or map maker might have made of the same place.

One strength scales everything; 0 changes nothing. Part of the patches stays clean, so that the
original pictures are not forgotten.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from locdiffusion.overhead.patches import PatchGeometry

Pixels = NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GREY = np.ones((3, 3), np.float64) / 3
_SNOW = np.array([0.92, 0.94, 0.97], np.float32)
_HAZE = np.array([0.78, 0.82, 0.88], np.float32)
_DRY = np.array([1.35, 1.02, 0.60], np.float32)
_LUSH = np.array([0.70, 1.15, 0.55], np.float32)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How strongly and how often patches are changed.

    Attributes:
        strength: Scales every change; 1 is tuned to look like other months and sensors.
        clean_fraction: Share of patches left as they are.
        season_fraction: Share of patches, clean ones among them, that are a weighted mean of two
            mosaics where there are several: a month between theirs.
    """

    strength: float = 1.0
    clean_fraction: float = 0.35
    season_fraction: float = 0.6

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.strength <= 2:
            raise ValueError(f"augmentation strength is {self.strength}; it must lie in [0, 2]")
        if not 0 <= self.clean_fraction <= 1:
            raise ValueError(f"clean_fraction is {self.clean_fraction}; it must lie in [0, 1]")
        if not 0 <= self.season_fraction <= 1:
            raise ValueError(f"season_fraction is {self.season_fraction}; it must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class Look:
    """The changes drawn for one patch; the defaults change nothing.

    Attributes:
        scale: Factor on km per pixel.
        up_bearing_deg: Turn of the picture.
        season: -1 dry and brown ... 1 lush and green.
        snow: Opacity of the snow cover, 0-1; `snow_slope` (right, down, bright) tells where it lies
            and `snow_level` how far it reaches.
        water: Opacity of a flat `water_rgb` over blue water.
        gain: Factor per channel.
        saturation: Factor.
        hue_rad: Turn about the grey axis.
        contrast: Factor about a little below the mean brightness.
        brightness: Added.
        gamma: Exponent.
        haze: Opacity of light grey-blue air.
        blur_px: Standard deviation.
        jpeg_quality: Of the encoded patch; None keeps the data set's.
    """

    scale: float = 1.0
    up_bearing_deg: float = 0.0
    season: float = 0.0
    snow: float = 0.0
    snow_slope: tuple[float, float, float] = (0.0, 0.0, 0.0)
    snow_level: float = 0.0
    water: float = 0.0
    water_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    hue_rad: float = 0.0
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    haze: float = 0.0
    blur_px: float = 0.0
    jpeg_quality: int | None = None

    def geometry(self, geometry: PatchGeometry) -> PatchGeometry:
        """The geometry to cut with: scaled and turned."""
        return dataclasses.replace(
            geometry,
            km_per_px=geometry.km_per_px * self.scale,
            up_bearing_deg=geometry.up_bearing_deg + self.up_bearing_deg,
        )


def draw_look(rng: np.random.Generator, augmentation: Augmentation) -> Look:
    """Draw the changes of one patch.

    Args:
        rng: The patch's own generator.
        augmentation: Strength and share of clean patches.
    """
    if augmentation.strength == 0 or rng.random() < augmentation.clean_fraction:
        return Look()
    strength = augmentation.strength

    def spread(width: float) -> float:
        return float(rng.uniform(-width, width)) * strength

    def sometimes(probability: float, low: float, high: float) -> float:
        value, happens = float(rng.uniform(low, high)), rng.random() < probability
        return min(value * strength, 1.0) if happens else 0.0

    light = float(rng.uniform(0.03, 0.22))
    return Look(
        scale=1.18 ** spread(1.0),
        up_bearing_deg=spread(5.0),
        season=float(np.clip(spread(1.0), -1, 1)) if rng.random() < 0.75 else 0.0,
        snow=sometimes(0.22, 0.3, 0.95),
        snow_slope=(spread(0.6), spread(0.6), spread(0.8)),
        snow_level=float(rng.uniform(-0.5, 0.9)),
        water=sometimes(0.6, 0.2, 1.0),
        water_rgb=(
            light * float(rng.uniform(0.05, 0.5)),
            light * float(rng.uniform(0.3, 0.9)),
            light * float(rng.uniform(1.0, 1.6)),
        ),
        gain=(math.exp(spread(0.1)), math.exp(spread(0.1)), math.exp(spread(0.1))),
        saturation=math.exp(spread(0.45)),
        hue_rad=spread(math.radians(9)),
        contrast=math.exp(spread(0.25)),
        brightness=spread(0.04) + 0.015 * strength,
        gamma=math.exp(spread(0.3) - 0.06 * strength),
        haze=sometimes(0.3, 0.03, 0.35),
        blur_px=float(rng.uniform(0.3, 2.2)) * strength if rng.random() < 0.5 else 0.0,
        jpeg_quality=int(rng.integers(60, 96)),
    )


def apply_look(pixels: NDArray[np.uint8], look: Look) -> NDArray[np.uint8]:
    """Recolour and blur a patch; scale and turn belong to the cutting, quality to the encoding.

    Args:
        pixels: (S, S, 3) uint8.
        look: The changes.
    """
    if look == Look():
        return pixels
    image: Pixels = pixels.astype(np.float32) / np.float32(255)
    wet = _water(image)
    image = _season(image, look.season, 1 - wet)
    if look.water:
        cover = (look.water * wet)[..., None]
        image += cover * (np.array(look.water_rgb, np.float32) - image)
    if look.snow:
        image = _snow(image, look, 1 - wet)
    image = image @ _colour_matrix(look).T
    pivot = image.mean(dtype=np.float64) * 0.8 + 0.04  # a fixed pivot would blacken forests
    image = (image - np.float32(pivot)) * np.float32(look.contrast)
    image += np.float32(pivot + look.brightness)
    np.clip(image, 0, 1, out=image)
    image **= np.float32(look.gamma)
    image += np.float32(look.haze) * (_HAZE - image)
    result = np.rint(image * 255).astype(np.uint8)
    if look.blur_px:
        blurred = Image.fromarray(result).filter(ImageFilter.GaussianBlur(look.blur_px))
        result = np.asarray(blurred)
    return result


def blend(pixels: NDArray[np.uint8], other: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """(S, S, 3) weighted mean of two patches of one place; `share` is the other's weight."""
    weight = np.float32(share)
    mixed = pixels.astype(np.float32) * (1 - weight) + other.astype(np.float32) * weight
    return np.rint(mixed).astype(np.uint8)


def _ramp(values: Pixels, low: float, high: float) -> Pixels:
    """0 below `low`, 1 above `high`, linear between."""
    return np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


def _water(image: Pixels) -> Pixels:
    """(S, S) how much a pixel looks like water: blue beyond red, and dark."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return _ramp(blue - red, 0.02, 0.08) * _ramp(0.75 - green, 0.0, 0.15)


def _season(image: Pixels, season: float, land: Pixels) -> Pixels:
    """Dry out what is green, or green what is half dry; deserts and ice keep their colour."""
    if season == 0:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    total = red + green + blue + np.float32(1e-3)
    excess_green = (2 * green - red - blue) / total
    if season < 0:
        target, where = _DRY, _ramp(excess_green, 0.0, 0.12)
    else:
        half_dry = _ramp((green - blue) / total, 0.02, 0.10) * _ramp(1.9 - total, 0.0, 0.6)
        target, where = _LUSH, half_dry * _ramp(excess_green, -0.05, 0.05)
    cover = (np.float32(0.8 * abs(season)) * where * land)[..., None]
    return image + cover * ((image @ _LUMA)[..., None] * target - image)


def _snow(image: Pixels, look: Look, land: Pixels) -> Pixels:
    """Whiten land on one side of a random front that follows brightness; relief shows through."""
    size = image.shape[0]
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    luma = image @ _LUMA
    right, down, bright = (np.float32(slope) for slope in look.snow_slope)
    field = right * ramp[None, :] + down * ramp[:, None] + bright * (luma - luma.mean()) * 3
    cover = np.float32(look.snow) * _ramp(field + np.float32(look.snow_level), 0.0, 0.5) * land
    snow = _SNOW * (np.float32(0.72) + np.float32(0.5) * luma)[..., None].clip(0, 1)
    return image + cover[..., None] * (snow - image)


def _colour_matrix(look: Look) -> Pixels:
    """(3, 3): saturation and hue about the grey axis (Rodrigues' rotation), then channel gains."""
    axis = np.sqrt(1 / 3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float64)
    turn = (
        math.cos(look.hue_rad) * np.eye(3)
        + math.sin(look.hue_rad) * cross
        + (1 - math.cos(look.hue_rad)) * _GREY
    )
    saturate = _GREY + look.saturation * (np.eye(3) - _GREY)
    return (np.diag(look.gain) @ turn @ saturate).astype(np.float32)
