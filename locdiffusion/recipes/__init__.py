"""Training configurations: the shipped ones by name, anybody's by file, flags over both.

A configuration is JSON: settings of `locdiffusion.train.trainer.TrainConfig`, nested as there, and
`about`, a line for `--help`. What it leaves out has the class's default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SUFFIX = ".json"

Settings = dict[str, Any]

FLAGS = {
    "name": ("name",),
    "encoder": ("encoder",),
    "max_degree": ("model", "max_degree"),
    "dropout": ("model", "dropout"),
    "answer_base": ("base", "answers"),
    "towards_land": ("base", "towards_land"),
    "steps": ("steps",),
    "batch_size": ("batch_size",),
    "learning_rate": ("learning_rate",),
    "gradient_clip": ("gradient_clip",),
    "ema_decay": ("ema_decay",),
    "evaluate_every": ("evaluate_every",),
    "seed": ("seed",),
    "smoothing_km": ("smoothing", "km"),
    "smoothing_broad_km": ("smoothing", "broad_km"),
    "smoothing_broad_share": ("smoothing", "broad_share"),
    "smoothing_last_broad_share": ("smoothing", "last_broad_share"),
    "smoothing_under_noise": ("smoothing", "under_noise"),
    "bf16": ("bf16",),
}
"""Flags of `locdiffusion.train` and the setting that each one is."""


def shipped() -> dict[str, str]:
    """Names of the shipped configurations, and what each is for."""
    files = sorted(FOLDER.glob(f"*{SUFFIX}"))
    return {file.stem: json.loads(file.read_text("utf-8"))["about"] for file in files}


def read(name: str) -> Settings:
    """The settings of a configuration.

    Args:
        name: Of a shipped one, or a file that ends in `.json`.

    Raises:
        ValueError: There is none, or the file does not hold settings.
    """
    file = Path(name) if name.endswith(SUFFIX) else FOLDER / f"{name}{SUFFIX}"
    if not file.is_file():
        raise ValueError(
            f"--config is {name!r}; want one of {list(shipped())}, or a file FILE{SUFFIX}."
        )
    try:
        settings = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"--config {name} is not JSON ({error}); compare a shipped one.") from None
    if not isinstance(settings, dict):
        raise ValueError(f"--config {name} holds no object; compare a shipped one.")
    settings.pop("about", None)
    for group in ("model", "base", "smoothing", "stream"):  # those that a flag reaches into
        found = settings.get(group, {})
        if not isinstance(found, dict) and not (group == "stream" and found is None):
            raise ValueError(f"--config {name}: {group} is {found!r}; want an object.")
    return settings


def with_flags(settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """Settings with flags put over them.

    Args:
        settings: Of a configuration; left as they are.
        flags: Values by the names of `FLAGS`, and `stream`, `lanes`, `shuffle_buffer`; None where a
            flag was not given.
    """
    merged: Settings = json.loads(json.dumps(settings))
    for flag, (*groups, setting) in FLAGS.items():
        if flags.get(flag) is not None:
            place = merged
            for group in groups:
                place = place.setdefault(group, {})
            place[setting] = flags[flag]
    asked = {"lanes": flags.get("lanes"), "buffer": flags.get("shuffle_buffer")}
    asked = {name: value for name, value in asked.items() if value is not None}
    stream = flags.get("stream")
    if stream is None:
        stream = merged.get("stream") is not None
    if asked and not stream:
        raise ValueError("--lanes and --shuffle-buffer shape a stream; give --stream too.")
    merged["stream"] = {**(merged.get("stream") or {}), **asked} if stream else None
    return merged
