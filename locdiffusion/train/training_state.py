"""Saves and restores the state of a run: weights, optimiser and progress in one file.

The file is replaced atomically. It is no pickle: tensors are stored as safetensors, the rest as
JSON in the header. `training_state.json` repeats the JSON for people; nothing reads it.
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

from locdiffusion.files import atomic_path, write_atomically

STATE, PROGRESS = "training_state.safetensors", "training_state.json"


def write_state(
    directory: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
) -> None:
    """Writes a state; a process that is killed meanwhile leaves the previous one.

    Args:
        directory: Directory of the run; it is made if it is missing.
        modules: Modules by names without dots.
        optimizer: Optimiser of their parameters.
        progress: Everything else as JSON values.
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
    write_atomically(directory / PROGRESS, text + "\n")


def read_state(
    directory: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    check: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Restores a state that `write_state` wrote.

    Args:
        directory: Directory of the run.
        modules: Modules of the same names.
        optimizer: Optimiser of the same parameters.
        check: Function that gets the progress first and raises if it belongs to another run.

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
