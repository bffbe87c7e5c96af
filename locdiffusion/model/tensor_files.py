"""Reads tensors from the files in which weights are published, and runs nothing.

* `.safetensors`
* zip archives of `torch.save`, whose `data.pkl` is a pickle of containers and tensors
* TorchScript, such as OpenAI's `ViT-L-14.pt`: the same, with objects of `__torch__...` classes

A pickle is a program; `torch_pickle` interprets it, and imports nothing.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from locdiffusion.model.torch_pickle import Module, StoredTensor, TensorFileError, unpickled

MAX_HEADER_BYTES = 4 * 2**20
"""Limit of what describes tensors. For ViT-L/14 with the state of its optimiser it takes 0.4 MB;
what a byte of it builds takes up to 72."""
MAX_ATTRIBUTES, MAX_NESTING = 100_000, 64
MAX_SHARING = 2
"""How often the bytes of a file may be in tensors: weights that are tied are there twice."""


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Reads the tensors of a file.

    Args:
        path: Path of the file, whose content tells its format.
        prefixes: Beginnings of the names of the tensors to read; others stay on the disk.

    Raises:
        OSError: The file cannot be read.
        TensorFileError: The file is damaged, or holds code or old formats.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"PK\3\4":
        return _from_zip(path, prefixes)
    if path.suffix == ".safetensors":
        return read_safetensors(path, prefixes)
    raise TensorFileError(
        "it is neither a zip archive of torch.save nor safetensors; if torch wrote it before "
        "version 1.6, write it again: torch.save(torch.load(FILE, weights_only=True), FILE)"
    )


def read_safetensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Reads a file of safetensors.

    Args:
        path: Path of the file.
        prefixes: Beginnings of the names of the tensors to read.

    Raises:
        OSError: The file cannot be read.
        TensorFileError: The file is damaged.
    """
    with path.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"its header has {header:,} bytes, wanted at most {MAX_HEADER_BYTES:,}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except Exception as error:  # safetensors raises its own, which is no ValueError
        raise TensorFileError(f"{type(error).__name__}: {error}") from error


def _from_zip(path: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            records = Records(archive, os.path.getsize(path))
            stored = state_dict(unpickled(records.pickle()))
            return {
                name: records.tensor(tensor)
                for name, tensor in stored.items()
                if name.startswith(prefixes)
            }
    except TensorFileError:
        raise
    except Exception as error:  # zipfile raises seven kinds for damage, torch others
        raise TensorFileError(f"{type(error).__name__}: {error}") from error


class Records:
    """The records of an archive of torch, which are never compressed.

    Args:
        archive: Opened archive.
        size: Size in bytes of its file, which bounds what is read.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._left = archive, size
        self._shared = MAX_SHARING * size
        self._read: dict[str, bytearray] = {}
        pickles = [name for name in archive.NameToInfo if name.count("/") == 1]
        found = [name for name in pickles if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise TensorFileError("the archive has no data.pkl, as those of torch.save have")
        self._folder = found[0].removesuffix("data.pkl")

    def pickle(self) -> bytes:
        """Returns the pickle that describes the tensors."""
        name = f"{self._folder}data.pkl"
        if (size := self._archive.NameToInfo[name].file_size) > MAX_HEADER_BYTES:
            raise TensorFileError(
                f"its data.pkl has {size:,} bytes, wanted at most {MAX_HEADER_BYTES:,}"
            )
        return bytes(self._record(name))

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Reads a tensor."""
        data = self._record(f"{self._folder}data/{stored.record}")
        count = len(data) // stored.dtype.itemsize
        if stored.length > count:
            raise TensorFileError(
                f"a tensor of {stored.length:,} numbers has a record of {count:,}"
            )
        self._shared -= math.prod(stored.shape) * stored.dtype.itemsize
        if self._shared < 0:
            raise TensorFileError(f"its tensors share their bytes more than {MAX_SHARING} times")
        if not count:
            return torch.empty(stored.shape, dtype=stored.dtype)
        numbers = torch.frombuffer(data, dtype=stored.dtype, count=count)
        return numbers.as_strided(stored.shape, stored.strides, stored.offset)

    def _record(self, name: str) -> bytearray:
        if name not in self._read:
            info = self._archive.NameToInfo.get(name)
            if info is None or info.compress_type != zipfile.ZIP_STORED:
                raise TensorFileError(f"its record {name!r} is missing or compressed")
            self._left -= info.file_size
            if self._left < 0:
                raise TensorFileError("its records have more bytes than the file")
            data = bytearray(info.file_size)
            opened: Any = self._archive.open(info)
            with opened as file:
                if file.readinto(data) != len(data) or file.read(1):
                    raise TensorFileError(f"its record {name!r} is cut")
            self._read[name] = data
        return self._read[name]


def state_dict(content: Any) -> dict[str, StoredTensor]:
    """Finds the tensors of a model.

    Args:
        content: What `unpickled` returns: tensors by name, under `state_dict` or directly, or a
            module of TorchScript.

    Raises:
        TensorFileError: There are none, or too many.
    """
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    found = dict(_tensors(content)) if isinstance(content, (dict, Module)) else {}
    if not found:
        raise TensorFileError("it holds no tensors by name; want the state dict of a model")
    if all(name.startswith("module.") for name in found):  # of a model on several devices
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _tensors(content: dict[Any, Any] | Module) -> Iterator[tuple[str, StoredTensor]]:
    """Walks through modules, each of which may be part of itself, or of many."""
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    seen = 0
    for place, part, depth in waiting:
        attributes = part.attributes if isinstance(part, Module) else part
        seen += len(attributes)
        if seen > MAX_ATTRIBUTES or depth > MAX_NESTING:
            raise TensorFileError("it holds too many modules in each other")
        for name, value in attributes.items():
            if isinstance(name, str) and isinstance(value, StoredTensor):
                yield place + name, value
            elif isinstance(name, str) and isinstance(value, Module):
                waiting.append((f"{place}{name}.", value, depth + 1))
