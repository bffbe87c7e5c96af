"""LocDiffusion estimates where a photo was taken, and says how far off the estimate may be.

    from locdiffusion import Geotagger, geotag_archive

    geotagger = Geotagger.load()                # the shipped checkpoint: satellite views only
    [answer] = geotagger.geotag(["patch.jpg"])  # paths or PIL images
    print(answer.latitude, answer.longitude, answer.radius_90_km)

    summary = geotag_archive("photos", "out")   # what `locdiffusion geotag` does

Importing this package loads nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locdiffusion.checkpoint import Checkpoint, CheckpointError
    from locdiffusion.decoding.answers import GeotagColumns, Mode
    from locdiffusion.decoding.decoder import DecodeConfig, Decoder
    from locdiffusion.decoding.geotag import Geotag
    from locdiffusion.geotagger import Geotagger
    from locdiffusion.model.cs_unet import CSUNet, CSUNetConfig
    from locdiffusion.settings import GeotaggerSettings

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
    "GeotaggerSettings",
    "Mode",
    "geotag_archive",
]

_HOMES = {
    "CSUNet": "model.cs_unet",
    "CSUNetConfig": "model.cs_unet",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "DecodeConfig": "decoding.decoder",
    "Decoder": "decoding.decoder",
    "Geotag": "decoding.geotag",
    "GeotagColumns": "decoding.answers",
    "Geotagger": "geotagger",
    "GeotaggerSettings": "settings",
    "Mode": "decoding.answers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def geotag_archive(
    input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    **flags: Any,
) -> dict[str, Any] | None:
    """Geotags an archive of photos, as the command `locdiffusion geotag` does.

        summary = geotag_archive("photos/*.tar", "out", device="cuda", regions=True)

    Args:
        input: Folder, tar, pattern or URL of photos, or several of them.
        output: Directory or URL to create, or to resume.
        flags: Other flags of the command and of Apache Beam, with underscores, such as
            `checkpoint`, `max_error_fraction` and `direct_num_workers`.

    Returns:
        The contents of `summary.json`; None with `wait=False`.

    Raises:
        ValueError: An argument is wrong; the message names the remedy.
        RunFailed: The result is not complete or not good enough (`locdiffusion.cli.parser`).
    """
    inputs = [input] if isinstance(input, str | os.PathLike) else input
    words = ["--input", *(os.fspath(one) for one in inputs), "--output", os.fspath(output)]
    for name, value in flags.items():
        values = value if isinstance(value, list | tuple) else [value]
        given = [one for one in values if one is not None]
        words += [f"--{name}" if one is True else f"--{name}={one}" for one in given]
    command = importlib.import_module("pipelines.geotag.command")
    summary: dict[str, Any] | None = command.geotag(words)
    return summary
