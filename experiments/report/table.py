"""Makes the main table: fits, answers, scores; files that exist are not made again."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.baselines import RIVALS, Budget, fit_and_predict
from experiments.report import answers
from experiments.report.answers import Answered
from experiments.report.comparison import compare
from experiments.report.record import (
    OURS,
    POOLS,
    Duel,
    MainTable,
    MethodRow,
    PoolStrata,
    SplitData,
    SplitScores,
)
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.config import to_dict
from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.proximity import nearest_training_km, score_strata
from locdiffusion.evaluate.scores import score
from locdiffusion.files import write_json
from locdiffusion.inference import predict
from locdiffusion.photos.embedding_cache import EmbeddedPhotos

METHODS = "methods"


def budget_like(checkpoint: Checkpoint, steps: int | None = None) -> Budget:
    """Builds the rivals' budget from the record of our checkpoint's training.

    Args:
        checkpoint: Our checkpoint.
        steps: Number of steps that replaces the recorded one.
    """
    recipe = checkpoint.config.record.get("recipe", {})
    same = ("batch_size", "learning_rate", "seed", "warmup", "weight_decay", "ema_decay")
    known = {name: recipe[name] for name in same if name in recipe}
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    steps = steps or recipe.get("steps", Budget.steps)
    return Budget(
        steps=steps, parameters=parameters, dropout=checkpoint.config.model.dropout, **known
    )


def make_answers(
    output: Path,
    checkpoint: Checkpoint,
    train: EmbeddedPhotos,
    val: EmbeddedPhotos,
    splits: Mapping[str, EmbeddedPhotos],
    budget: Budget,
    rivals: Sequence[str] = tuple(RIVALS),
) -> list[str]:
    """Writes the answers of our model and of every rival on every split under `output`.

    Args:
        output: Directory. Methods that it holds for the same data and settings are not repeated.
        checkpoint: Our checkpoint.
        train: Photos on which rivals are fitted.
        val: Photos that choose the rivals' settings.
        splits: Photos to answer, by split.
        budget: Budget of the rivals' training.
        rivals: Names of the rivals.

    Returns:
        Names of the methods, ours first.
    """
    from tqdm import tqdm

    same = {"splits": {name: photos.fingerprint for name, photos in splits.items()}}
    fitted_on = {"train": train.fingerprint, "val": val.fingerprint, "budget": asdict(budget)}
    for name in tqdm([OURS, *rivals], desc="methods", unit="method", file=sys.stderr):
        own = {"checkpoint": checkpoint.sha256} if name == OURS else fitted_on
        identity = {"method": name, **own, **same}
        file = output / METHODS / f"{name}.json"
        if file.is_file() and json.loads(file.read_text("utf-8"))["identity"] == identity:
            continue
        if name == OURS:
            predictions, details = _ours(checkpoint, splits)
        else:
            predictions, details = fit_and_predict(name, train, val, splits, budget)
        for split, photos in splits.items():
            answers.write(answers.path_of(output, name, split), photos, predictions[split])
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written last, as a method without this file is repeated.
        write_json(file, {"identity": identity, "details": details})
    return [OURS, *rivals]


_Made = tuple[dict[str, Predictions], dict[str, Any]]


def _ours(checkpoint: Checkpoint, splits: Mapping[str, EmbeddedPhotos]) -> _Made:
    details = {
        "parameters": sum(p.numel() for p in checkpoint.network.parameters()),
        "choices": to_dict(checkpoint.config.decode),
    }
    return {name: predict(checkpoint, photos) for name, photos in splits.items()}, details


def make_table(
    output: Path,
    methods: Sequence[str],
    checkpoint: Checkpoint,
    budget: Budget,
    train: EmbeddedPhotos,
    data: Sequence[SplitData],
    splits: Sequence[str],
    bootstrap: Bootstrap,
) -> MainTable:
    """Scores the answers under `output`.

    Args:
        output: Directory that `make_answers` wrote to.
        methods: Names of the methods, ours first.
        checkpoint: Our checkpoint.
        budget: Budget of the rivals.
        train: Training photos, to which distances are measured.
        data: Sets of photos, with a summary of how they were made.
        splits: Names of the splits in the order of the report.
        bootstrap: Settings of all bootstrap intervals.
    """
    found = {
        (m, s): answers.read(answers.path_of(output, m, s)) for m, s in product(methods, splits)
    }
    rows = [_row(output, name, {s: found[name, s] for s in splits}, bootstrap) for name in methods]
    duels = [
        Duel(split, rival, _compare(found[OURS, split], found[rival, split], bootstrap))
        for split, rival in product(splits, methods)
        if rival != OURS
    ]
    return MainTable(
        model=checkpoint.model_id,
        model_sha256=checkpoint.sha256,
        checkpoint=_settings(checkpoint),
        budget=to_dict(budget),
        environment=f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads",
        bootstrap=bootstrap,
        data=tuple(data),
        methods=tuple(rows),
        duels=tuple(duels),
        strata=tuple(_strata(found, methods, splits, train, bootstrap)),
    )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Collects settings and recipe of our model, without the lists of held-out cells."""
    config = checkpoint.config
    parts = ("model", "noise", "decode", "temperature")
    settings = {name: to_dict(getattr(config, name)) for name in parts}
    record = {k: config.record.get(k) for k in ("recipe", "environment", "parameters")}
    data = {
        name: {key: value for key, value in part.items() if key != "source"}
        for name, part in config.record.get("data", {}).items()
    }
    return settings | {"encoder": config.encoder.name, **record, "data": data}


def _row(output: Path, name: str, found: Mapping[str, Answered], bootstrap: Bootstrap) -> MethodRow:
    details = json.loads((output / METHODS / f"{name}.json").read_text())["details"]
    scores = [
        SplitScores(split, score(part.predictions, part.latitude, part.longitude, bootstrap))
        for split, part in found.items()
    ]
    kept = {key: value for key, value in details.items() if key not in ("parameters", "rival")}
    return MethodRow(name, details["parameters"], kept, tuple(scores))


def _compare(ours: Answered, rival: Answered, bootstrap: Bootstrap) -> Any:
    if ours.keys != rival.keys:
        raise ValueError("The answers to compare are of different photos; delete them, run again.")
    return compare(ours.predictions, rival.predictions, ours.latitude, ours.longitude, bootstrap)


def _strata(
    found: Mapping[tuple[str, str], Answered],
    methods: Sequence[str],
    splits: Sequence[str],
    train: EmbeddedPhotos,
    bootstrap: Bootstrap,
) -> list[PoolStrata]:
    rows = []
    for pool, names in POOLS.items():
        present = [name for name in names if name in splits]
        if not present:
            continue
        parts = [found[OURS, name] for name in present]
        latitude = np.concatenate([p.latitude for p in parts])
        longitude = np.concatenate([p.longitude for p in parts])
        distance = nearest_training_km(latitude, longitude, train.latitude, train.longitude)
        for method in methods:
            joined = Predictions.joined([found[method, name].predictions for name in present])
            strata = score_strata(joined, latitude, longitude, distance, bootstrap=bootstrap)
            rows.append(PoolStrata(pool, method, strata))
    return rows
