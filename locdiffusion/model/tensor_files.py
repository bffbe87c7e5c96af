"""Reads tensors from the files in which weights are published, and runs nothing.

* `.safetensors`
* `.index.json`, which names the file of each tensor
* zip archives of `torch.save`, whose `data.pkl` is a pickle of containers and tensors
* files of `torch.save` before version 1.6, five pickles and the numbers
* TorchScript, such as OpenAI's `ViT-L-14.pt`: the same, with objects of `__torch__...` classes

A pickle is a program; `torch_pickle` interprets it, and imports nothing.
"""

from __future__ import annotations

import abc
import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from locdiffusion.model.torch_pickle import Module, StoredTensor, TensorFileError, unpickled

MAX_HEADER_BYTES = 4 * 2**20
"""Limit of what describes tensors. For ViT-L/14 with the state of its optimiser it takes 0.4 MB;
what a byte of it builds takes up to 72."""
OLD_MAGIC = b"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
OLD_VERSION = 1001
PICKLE, INDEX_SUFFIX = "data.pkl", ".index.json"
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
        TensorFileError: The file is damaged, or holds code or other formats.
    """
    with _opened(path) as (names, tensor):
        return {name: tensor(name) for name in names if name.startswith(prefixes)}


def tensor_names(path: Path) -> list[str]:
    """Returns the names of the tensors of a file, which stay on the disk.

    Args:
        path: Path of the file.

    Raises:
        OSError: The file cannot be read.
        TensorFileError: The file is damaged, or holds code or other formats.
    """
    with _opened(path) as (names, _):
        return list(names)


def read_safetensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Reads a file of safetensors.

    Args:
        path: Path of the file.
        prefixes: Beginnings of the names of the tensors to read.

    Raises:
        OSError: The file cannot be read.
        TensorFileError: The file is damaged.
    """
    with _reported(), _safetensors(path) as (names, tensor):
        return {name: tensor(name) for name in names if name.startswith(prefixes)}


Content = tuple[Collection[str], Callable[[str], Tensor]]
"""The names of the tensors of an opened file, and what reads one of them."""


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Turns every error of a damaged file into one kind."""
    try:
        yield
    except (TensorFileError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile raises seven kinds for damage, torch and safetensors more
        raise TensorFileError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Content]:
    with _reported(), contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        head = file.read(len(OLD_MAGIC))
        if head.startswith(b"PK\3\4"):
            archive = stack.enter_context(zipfile.ZipFile(file))
            yield _stored(ZipRecords(archive, os.path.getsize(path)))
        elif head == OLD_MAGIC:
            yield _stored(OldRecords(file, os.path.getsize(path)))
        elif path.name.endswith(INDEX_SUFFIX):
            yield _shards(path, file, stack)
        elif path.suffix == ".safetensors":
            yield stack.enter_context(_safetensors(path))
        else:
            raise TensorFileError(
                "it is neither a file of torch.save nor safetensors; if torch reads it, write it "
                "again: torch.save(torch.load(FILE, weights_only=True), FILE)"
            )


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Content]:
    with path.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"its header has {header:,} bytes, wanted at most {MAX_HEADER_BYTES:,}"
        )
    with safe_open(path, framework="pt") as file:
        yield file.keys(), file.get_tensor


def _stored(records: Records) -> Content:
    tensors = state_dict(records.content)
    return tensors, lambda name: records.tensor(tensors[name])


def _shards(path: Path, file: BinaryIO, stack: contextlib.ExitStack) -> Content:
    """Reads an index of shards; each shard is opened when its first tensor is read."""
    file.seek(0)
    text = file.read(MAX_HEADER_BYTES + 1)
    places = json.loads(text)["weight_map"] if len(text) <= MAX_HEADER_BYTES else None
    if not isinstance(places, dict) or not places:
        raise TensorFileError("it is no index of shards, as those that transformers writes")
    for shard in set(places.values()):
        if Path(shard).name != shard or not shard.endswith((".safetensors", ".bin")):
            raise TensorFileError(f"its shard {shard[:80]!r} is no name of a file of weights")
        if not path.with_name(shard).is_file():
            raise TensorFileError(f"its shard {shard[:80]} is not beside it; copy all of them")
    contents: dict[str, Content] = {}

    def tensor(name: str) -> Tensor:
        shard = places[name]
        if shard not in contents:
            contents[shard] = stack.enter_context(_opened(path.with_name(shard)))
        return contents[shard][1](name)

    return places, tensor


class Records(abc.ABC):
    """The records of a file of torch, each of which holds the numbers of a storage.

    Args:
        size: Size in bytes of the file, which bounds what is read.

    Attributes:
        content: What the file's pickle describes; see `unpickled`.
    """

    content: Any

    def __init__(self, size: int) -> None:
        self._left, self._shared = size, MAX_SHARING * size
        self._read: dict[str, bytearray] = {}

    @abc.abstractmethod
    def _open(self, name: str) -> tuple[int, IO[bytes]]:
        """Finds a record: its size in bytes, and a file at its first one."""

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Reads a tensor."""
        data = self._record(stored.record)
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
            size, file = self._open(name)
            self._left -= size
            if self._left < 0:
                raise TensorFileError("its records have more bytes than the file")
            data = bytearray(size)
            opened: Any = file
            if opened.readinto(data) != size:
                raise TensorFileError(f"its record {name!r} is cut")
            self._read[name] = data
        return self._read[name]


class ZipRecords(Records):
    """The records of a zip archive, which are never compressed.

    Args:
        archive: Opened archive.
        size: Size in bytes of its file.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        super().__init__(size)
        self._archive = archive
        pickles = [name for name in archive.NameToInfo if name.count("/") == 1]
        found = [name for name in pickles if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise TensorFileError("the archive has no data.pkl, as those of torch.save have")
        self._folder = found[0].removesuffix(PICKLE)
        if (length := archive.NameToInfo[found[0]].file_size) > MAX_HEADER_BYTES:
            raise TensorFileError(
                f"its data.pkl has {length:,} bytes, wanted at most {MAX_HEADER_BYTES:,}"
            )
        self.content = unpickled(bytes(self._record(PICKLE)))

    def _open(self, name: str) -> tuple[int, IO[bytes]]:
        info = self._archive.NameToInfo.get(
            self._folder + (name if name == PICKLE else f"data/{name}")
        )
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise TensorFileError(f"its record {name!r} is missing or compressed")
        return info.file_size, self._archive.open(info)


class OldRecords(Records):
    """The records of a file of torch before version 1.6: five pickles, then storages.

    The pickles are a magic number, the version, the machine, the content, and the names of the
    storages in the order in which they follow: the count of numbers, in 8 bytes, and the numbers.

    Args:
        file: Opened file.
        size: Its size in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(size)
        self._file = file
        file.seek(0)
        head = io.BytesIO(file.read(MAX_HEADER_BYTES))
        _, version, machine = (unpickled(head) for _ in range(3))
        if version != OLD_VERSION or machine.get("little_endian") is not True:
            raise TensorFileError(f"its version is {version!r}, wanted {OLD_VERSION}")
        kinds: dict[str, torch.dtype] = {}
        self.content = unpickled(head, kinds)
        self._places: dict[str, tuple[int, int]] = {}
        names, place = unpickled(head), head.tell()
        for name in names:
            file.seek(place)
            length = int.from_bytes(file.read(8), "little") * kinds[name].itemsize
            self._places[name] = place + 8, length
            place += 8 + length
        if place > size or len(self._places) != len(names):
            raise TensorFileError("its storages have more bytes than the file, or one name")

    def _open(self, name: str) -> tuple[int, IO[bytes]]:
        place, length = self._places[name]
        self._file.seek(place)
        return length, self._file


def state_dict(content: Any) -> dict[str, StoredTensor]:
    """Finds the tensors of a model.

    Args:
        content: What `unpickled` returns: tensors by name, directly or under `state_dict` or
            `model`, or a module of TorchScript.

    Raises:
        TensorFileError: There are none, or too many.
    """
    for key in ("state_dict", "model"):  # of training, beside the state of its optimiser
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
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
