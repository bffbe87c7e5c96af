"""LocDiffusion: where was this photo taken, and how sure are we?

    from PIL import Image
    from locdiffusion import Geotagger

    geotagger = Geotagger.load()                      # the shipped checkpoint: overhead imagery
    [answer] = geotagger.geotag([Image.open("patch.jpg")])   # or a path
    print(answer.latitude, answer.longitude, answer.radius_90_km)
    answer.to_geojson()

Importing this package loads nothing heavy; the names below are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locdiffusion.checkpoint import Checkpoint, CheckpointError
    from locdiffusion.decoding.answers import GeotagColumns, Mode
    from locdiffusion.decoding.decoder import DecodeConfig, Decoder
    from locdiffusion.geotag import Geotag
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig

# The only place that holds the version: setup.py, `--version` and the downloader read it here.
__version__ = "0.5.0.dev0"
__all__ = [
    "CSUNet",
    "CSUNetConfig",
    "Checkpoint",
    "CheckpointError",
    "DecodeConfig",
    "Decoder",
    "Geotag",
    "GeotagColumns",
    "Geotagger",
    "Mode",
]

_HOMES = {
    "CSUNet": "model.cs_unet",
    "CSUNetConfig": "model.cs_unet",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "DecodeConfig": "decoding.decoder",
    "Decoder": "decoding.decoder",
    "Geotag": "geotag",
    "GeotagColumns": "decoding.answers",
    "Geotagger": "geotagger",
    "Mode": "decoding.answers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
