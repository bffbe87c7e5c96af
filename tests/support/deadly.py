"""A Geotagger whose worker process is killed by one photo, as one that runs out of memory is."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import numpy as np
from PIL import Image

from support.archives import encode
from support.child_decoders import harmful
from support.fake_geotagger import FakeGeotagger

DEADLY = (0, 0, 255)


def deadly_photo() -> bytes:
    return encode(Image.new("RGB", (16, 16), DEADLY), "PNG")


class DeadlyGeotagger(FakeGeotagger):
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        if (pixels == np.uint8(DEADLY)).all(axis=(1, 2, 3)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(pixels)


@dataclass(frozen=True)
class DeadlyLoader:
    def __call__(self) -> FakeGeotagger:
        return DeadlyGeotagger()


class HarmedGeotagger(FakeGeotagger):
    """Has a decoder that some photos drive to its limits, or crash."""

    preprocess = staticmethod(harmful)


@dataclass(frozen=True)
class HarmedLoader:
    def __call__(self) -> FakeGeotagger:
        return HarmedGeotagger()


if __name__ == "__main__":
    import sys

    from pipelines.geotag.command import main
    from support.deadly import DeadlyLoader as Importable  # by workers, which have another __main__

    if sys.argv[1] == "plain":
        sys.modules["apache_beam"] = None  # type: ignore[assignment]
    sys.exit(main(sys.argv[2:], load=Importable()))
