"""Changes patches as another month, sensor or map maker might have.

One strength scales everything; 0 changes nothing. Some patches stay as they are, so that training
sees the original pictures too.
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
        strength: Factor on every change; 1 is tuned to look like other months and sensors.
        clean_fraction: Share of patches that are left as they are.
        season_fraction: Share of patches, clean ones among them, that are a weighted mean of two
            mosaics if there are several, as of a month between theirs.
    """

    strength: float = 1.0
    clean_fraction: float = 0.35
    season_fraction: float = 0.6

    def __post_init__(self) -> None:
        most = {"strength": 2, "clean_fraction": 1, "season_fraction": 1}
        for name, value in vars(self).items():
            if not 0 <= value <= most[name]:
                raise ValueError(f"{name} is {value}; it must lie in [0, {most[name]}]")


@dataclasses.dataclass(frozen=True)
class Look:
    """The changes drawn for one patch; the defaults change nothing.

    Attributes:
        scale: Factor on km per pixel.
        up_bearing_deg: Rotation of the picture.
        season: Season from -1, dry and brown, to 1, lush and green.
        snow: Opacity of the snow cover, 0-1; `snow_slope` (right, down, bright) tells where it lies
            and `snow_level` how far it reaches.
        water: Opacity of a flat `water_rgb` over blue water.
        gain: Factor per channel.
        saturation: Factor on saturation.
        hue_rad: Rotation of colours about the grey axis.
        contrast: Factor on contrast, about a little below the mean brightness.
        brightness: Offset of brightness.
        gamma: Exponent of brightness.
        haze: Opacity of light grey-blue air.
        blur_px: Standard deviation of a Gaussian blur.
        jpeg_quality: JPEG quality of the patch; None keeps that of the data set.
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
        """Scales and rotates the geometry that a patch is cut with."""
        return dataclasses.replace(
            geometry,
            km_per_px=geometry.km_per_px * self.scale,
            up_bearing_deg=geometry.up_bearing_deg + self.up_bearing_deg,
        )


def draw_look(rng: np.random.Generator, augmentation: Augmentation) -> Look:
    """Draws the changes of one patch, from the patch's own random numbers."""
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
    """Changes colours and sharpness of a patch (S, S, 3), not its scale, rotation and quality."""
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
    """Averages two patches (S, S, 3) of one place; `share` is the weight of the other."""
    weight = np.float32(share)
    mixed = pixels.astype(np.float32) * (1 - weight) + other.astype(np.float32) * weight
    return np.rint(mixed).astype(np.uint8)


def _ramp(values: Pixels, low: float, high: float) -> Pixels:
    return np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


def _water(image: Pixels) -> Pixels:
    """Tells how much a pixel looks like water, shape (S, S): blue beyond red, and dark."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return _ramp(blue - red, 0.02, 0.08) * _ramp(0.75 - green, 0.0, 0.15)


def _season(image: Pixels, season: float, land: Pixels) -> Pixels:
    """Dries out green land, or greens half dry land; deserts and ice keep their colour."""
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
    """Whitens land on one side of a random front that follows brightness."""
    size = image.shape[0]
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    luma = image @ _LUMA
    right, down, bright = (np.float32(slope) for slope in look.snow_slope)
    field = right * ramp[None, :] + down * ramp[:, None] + bright * (luma - luma.mean()) * 3
    cover = np.float32(look.snow) * _ramp(field + np.float32(look.snow_level), 0.0, 0.5) * land
    snow = _SNOW * (np.float32(0.72) + np.float32(0.5) * luma)[..., None].clip(0, 1)
    return image + cover[..., None] * (snow - image)


def _colour_matrix(look: Look) -> Pixels:
    """Makes the (3, 3) matrix: saturation and hue about the grey axis (Rodrigues), then gains."""
    axis = np.sqrt(1 / 3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float64)
    turn = (
        math.cos(look.hue_rad) * np.eye(3)
        + math.sin(look.hue_rad) * cross
        + (1 - math.cos(look.hue_rad)) * _GREY
    )
    saturate = _GREY + look.saturation * (np.eye(3) - _GREY)
    return (np.diag(look.gain) @ turn @ saturate).astype(np.float32)
