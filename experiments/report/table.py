"""Makes the main table: fits, answers, scores; files that exist are not made again."""

from __future__ import annotations

import functools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.baselines import RIVALS, Budget
from experiments.baselines.calibration import temperatures_of
from experiments.baselines.registry import Said, answer, fit
from experiments.report import answers, forms
from experiments.report.answers import Answered
from experiments.report.comparison import compare
from experiments.report.record import (
    FAR,
    NEARNESS_SHARES,
    OURS,
    POOLS,
    Duel,
    MainTable,
    MethodRow,
    Nearness,
    PoolStrata,
    Role,
    SplitData,
    SplitScores,
    how_made,
)
from experiments.report.rival_files import FOLDER, asked, trained
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.config import to_dict
from locdiffusion.decoding.answers import Predictions
from locdiffusion.evaluate.bootstrap import Bootstrap
from locdiffusion.evaluate.proximity import nearest_training_km, score_strata
from locdiffusion.evaluate.scores import score
from locdiffusion.files import write_json
from locdiffusion.inference import predict
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.temperature import TemperatureModel

METHODS = "methods"
FAR_PHOTOS = 200
"""Fewest photos of a far split."""


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


@dataclass(frozen=True)
class Photos:
    """The photos of a report.

    Attributes:
        train: Training photos.
        calibration: Parts of the validation photos, the one from the regions of training first.
        splits: Photos to answer, by split.
    """

    train: EmbeddedPhotos
    calibration: Sequence[EmbeddedPhotos]
    splits: Mapping[str, EmbeddedPhotos]

    @functools.cached_property
    def fingerprints(self) -> dict[str, Any]:
        """Fingerprints of all sets."""
        return {
            "train": self.train.fingerprint,
            "calibration": [part.fingerprint for part in self.calibration],
            "splits": {name: photos.fingerprint for name, photos in self.splits.items()},
        }

    def roles(self) -> dict[str, Role]:
        """Tells which splits hold photos of the calibration."""
        known = {place for part in self.calibration for place in _places(part)}
        return {
            name: Role.TEST if known.isdisjoint(_places(photos)) else Role.CALIBRATION
            for name, photos in self.splits.items()
        }


def _places(photos: EmbeddedPhotos) -> Iterator[tuple[str, float, float]]:
    return zip(photos.keys, photos.latitude.tolist(), photos.longitude.tolist(), strict=True)


_Made = tuple[dict[str, Predictions], dict[str, Any]]


def make_answers(
    output: Path,
    checkpoint: Checkpoint,
    photos: Photos,
    budget: Budget,
    rivals: Sequence[str] = tuple(RIVALS),
    paper: Checkpoint | None = None,
) -> list[str]:
    """Writes the answers of our model, its forms and every rival on every split.

    Args:
        output: Directory. Methods that it holds for the same data and settings are not repeated.
        checkpoint: Our checkpoint.
        photos: Photos to fit on and to answer.
        budget: Budget of the rivals' training.
        rivals: Names of the rivals.
        paper: Checkpoint of the recipe `paper`; None leaves this row out.

    Returns:
        Names of the methods, ours first, then its forms, then the rivals.
    """
    own = _own(checkpoint, photos, budget, paper)
    makers = {**own, **_rivals(output, photos, budget, rivals)}
    for number, (name, (identity, make)) in enumerate(makers.items(), 1):
        file = output / METHODS / f"{name}.json"
        whole = {"method": name, **identity, **photos.fingerprints}
        if file.is_file() and json.loads(file.read_text("utf-8"))["identity"] == whole:
            print(f"{number}/{len(makers)} {name}: done before", file=sys.stderr)
            continue
        began = time.perf_counter()
        predictions, details = make()
        for split, part in photos.splits.items():
            answers.write(answers.path_of(output, name, split), part, predictions[split])
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written last, as a method without this file is repeated.
        write_json(file, {"identity": whole, "details": details})
        seconds = time.perf_counter() - began
        print(f"{number}/{len(makers)} {name}: {seconds:,.0f} s", file=sys.stderr)
    return list(makers)


_Makers = dict[str, tuple[dict[str, Any], Callable[[], _Made]]]


def _own(
    checkpoint: Checkpoint, photos: Photos, budget: Budget, paper: Checkpoint | None
) -> _Makers:
    """Our model and its forms, with what each depends on besides the photos."""
    shipped = {"checkpoint": checkpoint.sha256}

    def answered(changed: Checkpoint, answer: Callable[..., Predictions] = predict) -> _Made:
        details = {
            "parameters": sum(p.numel() for p in changed.network.parameters()),
            "choices": to_dict(changed.config.decode),
        }
        return {n: answer(changed, part) for n, part in photos.splits.items()}, details

    recipe = checkpoint.config.record.get("recipe", {})
    fitted_on = photos.train, photos.calibration
    makers: _Makers = {
        OURS: (shipped, lambda: answered(checkpoint)),
        forms.ONE_TEMPERATURE: (
            shipped,
            lambda: answered(forms.one_temperature(checkpoint, photos.calibration)),
        ),
        forms.SMALL_MLP: (
            {"recipe": recipe, "budget": asdict(budget)},
            lambda: answered(forms.small_mlp(checkpoint, *fitted_on, budget)),
        ),
    }
    if checkpoint.appearance is not None:
        makers[forms.WITHOUT_MAP] = (shipped, lambda: answered(forms.without_map(checkpoint)))
    if paper is not None:
        makers[forms.PAPER] = ({"checkpoint": paper.sha256}, lambda: answered(paper, forms.sampled))
    return makers


def train_rival(output: Path, name: str, photos: Photos, budget: Budget) -> Said:
    """Trains a rival and asks it about all photos, as far as `output` does not hold this."""
    folder = output / FOLDER / name
    fitted_on = {key: photos.fingerprints[key] for key in ("train", "calibration")}
    identity = {"rival": name, "budget": asdict(budget), **fitted_on}
    record = trained(folder, identity, lambda: fit(name, photos.train, photos.calibration, budget))
    parts = {f"calibration-{i}": part for i, part in enumerate(photos.calibration)}
    said = asked(folder, {**parts, **photos.splits})
    return Said([said.pop(part) for part in parts], said, record)


def _rivals(output: Path, photos: Photos, budget: Budget, names: Sequence[str]) -> _Makers:
    """The rivals, with what each depends on besides the photos."""

    @functools.cache
    def temperatures() -> TemperatureModel:
        return temperatures_of(photos.train, budget.seed)

    def make(name: str) -> _Made:
        said = train_rival(output, name, photos, budget)
        return answer(said, photos.calibration, photos.splits, temperatures())

    return {name: ({"budget": asdict(budget)}, functools.partial(make, name)) for name in names}


def make_table(
    output: Path,
    methods: Sequence[str],
    checkpoint: Checkpoint,
    budget: Budget,
    photos: Photos,
    data: Sequence[SplitData],
    bootstrap: Bootstrap,
) -> MainTable:
    """Scores the answers under `output`.

    Args:
        output: Directory that `make_answers` wrote to.
        methods: Names of the methods, ours first.
        checkpoint: Our checkpoint.
        budget: Budget of the rivals.
        photos: The photos.
        data: Sets of photos, with a summary of how they were made.
        bootstrap: Settings of all bootstrap intervals.
    """
    names = tuple(photos.splits)
    found = {
        (m, s): answers.read(answers.path_of(output, m, s)) for m, s in product(methods, names)
    }
    distance = {name: _nearest_km(photos.train, found[OURS, name]) for name in names}
    roles, near = photos.roles(), [nearness(name, distance[name]) for name in names]
    strata = _strata(found, methods, names, distance, bootstrap)
    for name in names:
        far = far_rows(distance[name]) if name in FAR else None
        if far is None:
            continue
        over_km, rows = far
        part = f"{name}_far"
        found |= {(m, part): found[m, name].take(rows) for m in methods}
        roles[part] = Role.PART if roles[name] is Role.TEST else roles[name]
        near.append(replace(nearness(part, distance[name][rows]), over_km=over_km))
    splits = tuple(roles)
    rows_of = [_row(output, m, {s: found[m, s] for s in splits}, bootstrap) for m in methods]
    duels = [
        Duel(split, other, _compare(found[OURS, split], found[other, split], bootstrap))
        for split, other in product(splits, methods)
        if other != OURS
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
        methods=tuple(rows_of),
        duels=tuple(duels),
        strata=tuple(strata),
        roles=roles,
        nearness=tuple(near),
    )


def nearness(split: str, distance_km: NDArray[np.float64]) -> Nearness:
    """Summarises the distances ``(n,)`` of a split to the nearest training photo."""
    quantiles = np.quantile(distance_km, NEARNESS_SHARES).tolist()
    return Nearness(split, len(distance_km), tuple(quantiles))


def far_rows(
    distance_km: NDArray[np.float64], least: int = FAR_PHOTOS, step_km: float = 50.0
) -> tuple[float, NDArray[np.int64]] | None:
    """Finds the photos of a split that are farthest from training.

    Args:
        distance_km: Distances to the nearest training photo, ``(n,)``.
        least: Fewest photos that must remain.
        step_km: Step of the distance that they must exceed.

    Returns:
        The largest distance in steps that at least so many photos exceed, and their numbers; None
        if that distance is 0.
    """
    if len(distance_km) < least:
        return None
    over_km = step_km * float(np.floor(np.sort(distance_km)[-least] / step_km))
    return (over_km, np.flatnonzero(distance_km >= over_km)) if over_km > 0 else None


def _nearest_km(train: EmbeddedPhotos, answered: Answered) -> NDArray[np.float64]:
    truth = answered.latitude, answered.longitude
    return nearest_training_km(*truth, train.latitude, train.longitude)


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Collects settings and recipe of our model, without the lists of held-out cells."""
    config = checkpoint.config
    parts = ("model", "noise", "decode", "temperature")
    settings = {name: to_dict(getattr(config, name)) for name in parts}
    record = {k: config.record.get(k) for k in ("recipe", "environment", "parameters")}
    data = {
        name: {"photos": part.get("photos"), "sha256": part.get("sha256"), "made": _made(part)}
        for name, part in config.record.get("data", {}).items()
    }
    return settings | {"encoder": config.encoder.name, **record, "data": data}


def _made(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    source = part.get("source")
    return how_made(one for one in source or () if isinstance(one, Mapping))


def _row(output: Path, name: str, found: Mapping[str, Answered], bootstrap: Bootstrap) -> MethodRow:
    details = json.loads((output / METHODS / f"{name}.json").read_text())["details"]
    scores = [
        SplitScores(split, score(part.predictions, part.latitude, part.longitude, bootstrap))
        for split, part in found.items()
    ]
    shown = {key: value for key, value in details.items() if key not in ("parameters", "rival")}
    is_rival = name in RIVALS
    return MethodRow(name, details["parameters"], shown, tuple(scores), is_rival)


def _compare(ours: Answered, rival: Answered, bootstrap: Bootstrap) -> Any:
    if ours.keys != rival.keys:
        raise ValueError("The answers to compare are of different photos; delete them, run again.")
    return compare(ours.predictions, rival.predictions, ours.latitude, ours.longitude, bootstrap)


def _strata(
    found: Mapping[tuple[str, str], Answered],
    methods: Sequence[str],
    splits: Sequence[str],
    distance_km: Mapping[str, NDArray[np.float64]],
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
        distance = np.concatenate([distance_km[name] for name in present])
        for method in methods:
            joined = Predictions.joined([found[method, name].predictions for name in present])
            strata = score_strata(joined, latitude, longitude, distance, bootstrap=bootstrap)
            rows.append(PoolStrata(pool, method, strata))
    return rows
