"""Specifies the input of an image encoder and converts photos to it.

It needs only Pillow and NumPy and returns uint8: workers that decode photos need no torch, and
pixels stay small between stages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

TRANSPARENT_GREY = (127, 127, 127)
_BAND_PIXELS = 2**23


class Interpolation(str, Enum):
    """Filter of the resize."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"


_FILTERS = {
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
}


class Framing(str, Enum):
    """How a photo becomes a square: the values of open_clip's `resize_mode`, and one more."""

    SHORTEST = "shortest"  # shortest side to S, centre crop
    SHORTEST_FLOOR = "shortest_floor"  # as SHORTEST, cut as by transformers: half a pixel left
    SQUASH = "squash"  # both sides to S, whatever the aspect
    LONGEST = "longest"  # longest side to S, black bars


class Activation(str, Enum):
    """Activation of a CLIP image tower: published weights differ in it, and no file's shapes do."""

    GELU = "gelu"
    QUICK_GELU = "quick_gelu"  # x · sigmoid(1.702 x): OpenAI's, MetaCLIP's and DFN's


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Identity of an encoder: all that decides an embedding but the weights.

    Every checkpoint stores it. The architecture is `weights.architecture(name)`.

    Attributes:
        name: Name that `load_image_encoder` takes.
        embedding_dim: Size E of an embedding.
        image_size: Side S of the square input in pixels.
        mean: Mean of x / 255 of each channel (R, G, B), which is subtracted.
        std: Standard deviation of x / 255 of each channel, by which the difference is divided.
        interpolation: Filter of the resize.
        framing: How the photo becomes a square.
        detail: Side in pixels to which the square is reduced before it is enlarged to S, so that
            photos of any resolution are equally coarse. None does not reduce it.
        activation: Activation of the network. None is that of the architecture, which has one only.

    Raises:
        ValueError: A field is out of its range.
    """

    name: str
    embedding_dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = Interpolation.BICUBIC
    framing: Framing = Framing.SHORTEST
    detail: int | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        """Checks every field and converts lists and strings of JSON to their types."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"encoder name is {self.name!r}, wanted text")
        whole = ("embedding_dim", "image_size", *(() if self.detail is None else ("detail",)))
        for field in whole:
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"encoder {field} is {value!r}, wanted an integer of at least 1")
        for field, lowest in (("mean", 0.0), ("std", 1e-6)):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) != 3 or not all(lowest <= value <= 1.0 for value in values):
                raise ValueError(
                    f"encoder {field} is {values}, wanted 3 numbers in [{lowest:g}, 1]: they are "
                    "in units of x / 255, so divide statistics of 0..255 pixels by 255"
                )
            object.__setattr__(self, field, values)
        kinds: dict[str, type[Enum]] = {
            "interpolation": Interpolation,
            "framing": Framing,
            **({"activation": Activation} if self.activation is not None else {}),
        }
        for field, kind in kinds.items():
            known = [member.value for member in kind]
            value = getattr(self, field)
            if value not in known:
                raise ValueError(f"encoder {field} is {value!r}, wanted one of {known}")
            object.__setattr__(self, field, kind(value))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types; `from_dict` is the inverse."""
        fields = dataclasses.asdict(self)
        return {
            # as versions without the optional fields wrote it
            **{name: value for name, value in fields.items() if value is not None},
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation.value,
            "framing": self.framing.value,
            **({"activation": self.activation.value} if self.activation else {}),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EncoderSpec:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: A field is missing, unknown or out of its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        lacking = known - set(fields) - {"detail", "activation"}
        if lacking or set(fields) - known:
            raise ValueError(
                f"encoder spec has unknown fields {sorted(set(fields) - known)} and lacks "
                f"{sorted(lacking)}; was it written by another version?"
            )
        return cls(**fields)

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Converts an upright photo of any mode and size to the square that the network takes.

        Only the part of the photo that is kept is resized, so that a 1 x 100000 image needs no more
        memory than another. Compared with resizing before cropping, only pixels at the cut differ.

        Args:
            image: A photo with its EXIF orientation already applied.

        Returns:
            RGB pixels, uint8 (S, S, 3).

        Raises:
            ValueError: The image is empty.
        """
        if self.detail is None:
            return np.array(self._square(image, self.image_size), dtype=np.uint8)
        coarse = self._square(image, self.detail)
        size = (self.image_size, self.image_size)
        return np.array(coarse.resize(size, _FILTERS[self.interpolation]), dtype=np.uint8)

    def _square(self, image: Image.Image, size: int) -> Image.Image:
        rgb = as_rgb(image)
        box, target = _frame(rgb.width, rgb.height, size, self.framing)
        # a gap of 3 halves large photos cheaply first: 4 times as fast at 8 MP, 0.3 of 255 off
        resized = rgb.resize(target, _FILTERS[self.interpolation], box, reducing_gap=3.0)
        if target != (size, size):
            canvas = Image.new("RGB", (size, size))
            canvas.paste(resized, ((size - target[0]) // 2, (size - target[1]) // 2))
            resized = canvas
        return resized


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: grey of more than 8 bits is scaled, transparency becomes mid-grey.

    Floats are scaled by the white that they seem to have: 1, 255, 65535, or their largest value.
    Large pictures are converted in bands, because some modes take many bytes a pixel meanwhile.
    """
    if image.width < 1 or image.height < 1:
        raise ValueError(f"image is {image.width} x {image.height} pixels, wanted at least 1 x 1")
    if image.mode == "RGB":
        return image
    rows = max(1, _BAND_PIXELS // image.width)
    bands = [
        (0, upper, image.width, min(upper + rows, image.height))
        for upper in range(0, image.height, rows)
    ]
    if len(bands) == 1:
        return _band_as_rgb(image, _white(image))
    white = max(_white(image.crop(band)) for band in bands)
    rgb = Image.new("RGB", image.size)
    for band in bands:
        rgb.paste(_band_as_rgb(image.crop(band), white), band)
    return rgb


def _white(image: Image.Image) -> float:
    """Returns the white that floats seem to have; 1 for other modes."""
    if image.mode != "F":
        return 1.0
    lightest = float(np.nan_to_num(np.asarray(image), posinf=0.0).max())
    return next((white for white in (1.0, 255.0, 65535.0) if lightest <= white), lightest)


def _band_as_rgb(image: Image.Image, white: float) -> Image.Image:
    if image.mode == "F":
        light = np.nan_to_num(np.asarray(image), posinf=0.0)
        grey = np.clip(light * (255.0 / white), 0.0, 255.0)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*TRANSPARENT_GREY, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _frame(
    width: int, height: int, size: int, framing: Framing
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Computes the box of the photo to keep (left, upper, right, lower) and its size afterwards."""
    whole = (0.0, 0.0, float(width), float(height))
    if framing is Framing.SQUASH:
        return whole, (size, size)
    if framing is Framing.LONGEST:
        scale = size / max(width, height)
        return whole, (max(1, round(width * scale)), max(1, round(height * scale)))
    spans = []
    for side in (width, height):
        # torchvision's Resize and CenterCrop, in the photo's own pixels
        resized = size * side // min(width, height)
        half = (resized - size) / 2.0
        start = math.floor(half) if framing is Framing.SHORTEST_FLOOR else round(half)
        spans.append((start * side / resized, (start + size) * side / resized))
    (left, right), (upper, lower) = spans
    return (left, upper, right, lower), (size, size)
