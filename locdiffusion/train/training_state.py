"""The state of a run on disk: weights, optimiser and progress in one file that is replaced at once.

No pickle: tensors in safetensors, the rest as JSON in its header. `training_state.json` repeats the
JSON for people; nothing reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from locdiffusion.files import atomic_path

STATE, PROGRESS = "training_state.safetensors", "training_state.json"


def write_state(
    directory: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Writes a state; a process that is killed meanwhile leaves the one before.

    Args:
        directory: Made if missing.
        modules: By names without dots.
        optimizer: Of their parameters.
        progress: The rest, JSON values.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    text = json.dumps(progress, indent=1)
    copies = {k: v.contiguous().clone() for k, v in tensors.items()}
    with atomic_path(directory / STATE) as temporary:
        save_file(copies, temporary, metadata={"progress": text})
    (directory / PROGRESS).write_text(text + "\n")


def read_state(
    directory: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Puts a state back where `write_state` took it from.

    Args:
        directory: Of the run.
        modules: As written.
        optimizer: As written.
        check: Gets the progress first, and raises if it is another run's.

    Returns:
        The progress; None if there is no state.
    """
    path = directory / STATE
    if not path.is_file():
        return None
    with safe_open(path, "pt") as opened:
        progress: dict[str, Any] = json.loads(opened.metadata()["progress"])
    check(progress)
    tensors = load_file(path)
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return progress
