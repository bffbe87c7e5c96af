"""Executes runs, one JSON file each; a run whose file exists is not repeated."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.ablations.answers import accuracy_by_radius, measure
from experiments.ablations.fitting import fit
from experiments.ablations.plan import Budget, Run
from experiments.ablations.sampled import accuracy_by_steps
from locdiffusion.config import to_dict
from locdiffusion.files import write_json
from locdiffusion.photos.embedding_cache import EmbeddedPhotos


def execute(
    run: Run,
    budget: Budget,
    train: EmbeddedPhotos,
    splits: dict[str, EmbeddedPhotos],
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Trains and measures one run.

    Args:
        run: Run to execute.
        budget: Settings that all runs share.
        train: Training photos, already cut to the budget.
        splits: Validation photos by name of the split.
        progress: Function that is called after each training step.

    Returns:
        The content of its file.
    """
    began = time.monotonic()
    fitted = fit(run.variant, budget, train, progress)
    trained = time.monotonic() - began
    results = {name: measure(fitted, photos, budget) for name, photos in splits.items()}
    record = {
        **identity(run, budget, train, splits),
        "parameters": fitted.parameters,
        "training_loss": fitted.loss,
        "results": results,
        "environment": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
    }
    if run.radii:
        record["radii"] = {n: accuracy_by_radius(fitted, p, budget) for n, p in splits.items()}
    if run.sweep:
        # Only on the last split, since it is slow: new regions, where places are least certain.
        name, photos = list(splits.items())[-1]
        record["sweep"] = {name: accuracy_by_steps(fitted, photos, budget)}
    seconds = {"training": round(trained, 1), "all": round(time.monotonic() - began, 1)}
    return record | {"seconds": seconds}


def identity(
    run: Run, budget: Budget, train: EmbeddedPhotos, splits: dict[str, EmbeddedPhotos]
) -> dict[str, Any]:
    """Collects what determines the numbers of a run: settings, seed and data."""
    data = {
        name: {"photos": len(photos), "sha256": photos.fingerprint}
        for name, photos in {"train": train, **splits}.items()
    }
    return {
        "name": run.name,
        "group": run.group,
        "settings": to_dict(run.variant),
        "budget": to_dict(budget),
        "data": data,
    }


def is_done(path: Path, wanted: dict[str, Any]) -> bool:
    """Tells whether the file of a run exists.

    Raises:
        ValueError: The file exists but was made with other settings or data.
    """
    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if other:
        raise ValueError(
            f"{path} was made with another {other[0]}; give a new --output, or delete the file."
        )
    return True


def write(path: Path, record: dict[str, Any]) -> None:
    """Writes the file of a run; it appears whole or not at all."""
    write_json(path, record)
