"""Keeps trained rivals and what they say in files, so that no rival is trained twice.

A new checkpoint of ours, or one more split, asks the rivals that are there. The files are pickles
of this program's own: read none that somebody else has sent.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.baselines.evidence import Evidence
from experiments.baselines.registry import Fitted
from locdiffusion.files import atomic_path, write_json
from locdiffusion.photos.embedding_cache import EmbeddedPhotos

FOLDER = "rivals"
_ABOUT, _RIVAL = "rival.json", "rival.pt"
_ARRAYS = ("points", "logits", "kappa")


def trained(folder: Path, identity: dict[str, Any], train: Callable[[], Fitted]) -> dict[str, Any]:
    """Trains a rival unless its folder holds it; returns its record.

    Args:
        folder: Folder of the rival. Files of another identity are removed.
        identity: What the training depends on, as JSON values.
        train: Function that trains the rival.
    """
    about = folder / _ABOUT
    if about.is_file():
        content = json.loads(about.read_text("utf-8"))
        if content["identity"] == identity:
            record: dict[str, Any] = content["record"]
            return record
        shutil.rmtree(folder)
    began = time.perf_counter()
    fitted = train()
    print(f"{folder.name}: trained in {time.perf_counter() - began:,.0f} s", file=sys.stderr)
    with atomic_path(folder / _RIVAL) as temporary:
        torch.save(fitted.rival, temporary)
    # Written last, as a rival without this file is trained again.
    write_json(about, {"identity": identity, "record": fitted.record})
    return fitted.record


def asked(folder: Path, sets: Mapping[str, EmbeddedPhotos]) -> dict[str, Evidence]:
    """Asks a rival that `trained` has trained about sets of photos; each set once.

    Args:
        folder: Folder of the rival.
        sets: Photos by the name of the set.
    """
    files = {n: folder / f"{n}-{photos.fingerprint[:12]}.npz" for n, photos in sets.items()}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        rival = torch.load(folder / _RIVAL, weights_only=False)
        for name in missing:
            began = time.perf_counter()
            _write(files[name], rival.evidence(sets[name]))
            seconds = time.perf_counter() - began
            print(f"{folder.name}: asked about {name} in {seconds:,.0f} s", file=sys.stderr)
    return {name: _read(file) for name, file in files.items()}


def _write(path: Path, evidence: Evidence) -> None:
    arrays = {name: getattr(evidence, name).astype(np.float32) for name in _ARRAYS}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> Evidence:
    with np.load(path) as arrays:
        return Evidence(*(arrays[name].astype(np.float64) for name in _ARRAYS))
