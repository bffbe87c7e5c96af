"""Interprets the pickles that torch writes, and runs nothing.

A pickle is a program. `unpickled` knows some twenty of its instructions and imports nothing: a
class is its name, an object of TorchScript the dictionary of its attributes, and a tensor the place
where its numbers lie.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

MAX_DIMENSIONS = 16
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
OF_FIRST = {
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch.jit._pickle restore_type_tag",
    *(f"torch.jit._pickle build_{kind}list" for kind in ("bool", "double", "int", "tensor")),
}
"""Calls whose result is their first argument, as far as tensors go."""
_MARK = object()


class TensorFileError(ValueError):
    """A file holds other things than tensors, or is damaged; the message names no file."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a record of an archive.

    Attributes:
        record: Name of the record in the folder `data`.
        dtype: Type of its numbers.
        offset: Number of the first one in the record.
        shape: Shape.
        strides: Steps in the record, in numbers.
    """

    record: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks everything that a file may say."""
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise TensorFileError(f"a tensor has {len(self.shape)} dimensions")
        if not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
            raise TensorFileError("a tensor has an impossible shape")

    @property
    def length(self) -> int:
        """Count of numbers that the record must have; as many at least as the tensor has."""
        if 0 in self.shape:
            return 0
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        return self.offset + max(last + 1, math.prod(self.shape))


@dataclass(frozen=True)
class Named:
    """Something of Python that a pickle names; it is never imported.

    Attributes:
        name: Module and name, with a space between them.
    """

    name: str


@dataclass
class Module:
    """An object of TorchScript.

    Attributes:
        attributes: Its attributes by name.
    """

    attributes: dict[Any, Any] = field(default_factory=dict)


def unpickled(data: bytes | BinaryIO, storages: dict[str, torch.dtype] | None = None) -> Any:
    """Interprets a pickle of containers, numbers, text and tensors.

    Args:
        data: Pickle of protocol 2, as torch writes it. Of a file, one pickle is read.
        storages: Types by name of the storages that the pickle mentions, which are added.

    Returns:
        Dictionaries, lists, tuples, `StoredTensor` and `Module`.

    Raises:
        TensorFileError: The pickle names code, or is of another kind.
    """
    machine = _Machine({} if storages is None else storages)
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name == "STOP":
            return machine.pop()
        machine.execute(instruction.name, argument)
    raise TensorFileError("its pickle does not end")


class _Machine:
    """The stack of a pickle, with the instructions that torch's pickles have."""

    def __init__(self, storages: dict[str, torch.dtype]) -> None:
        self._storages = storages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self._stack:
            raise TensorFileError("its pickle is damaged")
        return self._stack.pop()

    def execute(self, name: str, argument: Any) -> None:
        push = self._stack.append
        match name:
            case "PROTO":
                pass
            case "MARK":
                push(_MARK)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                push(argument)
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop() for _ in range(int(name[-1])))[::-1])
            case "TUPLE":
                push(tuple(self._above_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top(object)
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(Named(argument))
            case "APPEND":
                self._append([self.pop()])
            case "APPENDS":
                self._append(self._above_mark())
            case "SETITEM":
                self._set([self.pop(), self.pop()][::-1])
            case "SETITEMS":
                self._set(self._above_mark())
            case "BINPERSID" | "REDUCE" | "NEWOBJ":
                self._make(name)
            case "BUILD":
                self._build(self.pop())
            case _:
                raise TensorFileError(f"its pickle has the instruction {name}, which is never run")

    def _top(self, *kinds: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kinds):
            raise TensorFileError("its pickle is damaged")
        return self._stack[-1]

    def _above_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                found = self._stack[place + 1 :]
                del self._stack[place:]
                return found
        raise TensorFileError("its pickle is damaged")

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set(self, values: list[Any]) -> None:
        keys = values[::2]
        # Large numbers as keys could share one hash.
        if not all(isinstance(key, str) or (type(key) is int and abs(key) < 2**31) for key in keys):
            raise TensorFileError("its pickle has keys that are neither text nor small numbers")
        self._top(dict).update(zip(keys, values[1::2], strict=True))

    def _build(self, state: Any) -> None:
        top = self._top(Module, dict)
        if isinstance(top, Module) and isinstance(state, dict):
            top.attributes = state

    def _make(self, instruction: str) -> None:
        arguments = self.pop()
        if instruction == "BINPERSID":
            storage = _storage(arguments)
            if self._storages.setdefault(storage.record, storage.dtype) != storage.dtype:
                raise TensorFileError("its pickle has a storage of two kinds")
            self._stack.append(storage)
            return
        named = self.pop()
        if not isinstance(named, Named) or not isinstance(arguments, tuple):
            raise TensorFileError("its pickle is damaged")
        self._stack.append(_made(named.name, arguments))


@dataclass(frozen=True)
class _Storage:
    record: str
    dtype: torch.dtype


def _storage(persistent: Any) -> _Storage:
    match persistent:
        # Before 1.6 a part of another storage could follow, which torch has not written since 0.4.
        case ("storage", Named(name), str(record), str(), int(), *part) if part in ([], [None]):
            module, _, kind = name.partition(" ")
            if module == "torch" and kind in DTYPES:
                return _Storage(record, DTYPES[kind])
    raise TensorFileError("its pickle has a storage of an unknown kind")


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Does what a call in a pickle means, for the calls that torch writes."""
    match name, arguments:
        case "torch._utils _rebuild_tensor_v2", (
            _Storage() as storage,
            offset,
            tuple(shape),
            tuple(strides),
            *_,
        ):
            return StoredTensor(storage.record, storage.dtype, offset, shape, strides)
        case "collections OrderedDict", ():
            return {}
        case _ if name in OF_FIRST and arguments:
            return arguments[0]
        case _ if name.startswith(("__torch__.", "__torch__ ")):
            return Module()
    raise TensorFileError(f"it holds code, {name[:80]!r}, which is never run; want tensors only")
