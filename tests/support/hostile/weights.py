"""Files of weights that run code when they are opened as usual, or take more memory than a disk."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

ZEROS = bytes(4)


class Command:
    """A pickle of it runs a command of the shell."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Writes(nn.Module):
    """TorchScript that writes a file when it is loaded."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.register_buffer("weight", torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, torch.Tensor, bool]:
        return self.file, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor, bool]) -> None:
        self.file = state[0]
        self.weight = state[1]
        self.training = state[2]
        torch.save(state[1], self.file)


def scripted(file: Path) -> bytes:
    """TorchScript whose `__setstate__` writes a file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Writes(str(file))), buffer)
    return buffer.getvalue()


def archived(pickled: bytes, records: Mapping[str, bytes] | None = None, **how: Any) -> bytes:
    """An archive as torch.save writes it, of any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in (records or {}).items():
            archive.writestr(f"a/data/{name}", data)
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


def before_archives(pickled: bytes, names: Any = ("0",), storages: bytes = b"") -> bytes:
    """A file as torch.save wrote it before version 1.6, of any pickle."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = magic + pickle.dumps(1001, 2) + pickle.dumps(machine, 2)
    return head + pickled + pickle.dumps(list(names), 2) + storages


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """The instruction that pushes a whole number."""
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    """The instructions that push a tuple."""
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], stored: int, offset: int = 0) -> bytes:
    """A pickle of a state dict of one tensor of single precision."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(stored) + b"tQ"
    called = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    called += numbers(*shape) + numbers(*strides) + b"\x89}tR"
    return b"\x80\2}" + text("visual.conv1.weight") + called + b"s."


def shared() -> bytes:
    """A thousand tensors over one record, which take a thousand times its bytes as floats."""
    one = tensor((1000,), (1,), 1000).removesuffix(b"s.") + b"q\1s("
    others = b"".join(text(f"visual.{i}") + b"h\1" for i in range(999))
    return archived(one + others + b"u.", {"0": bytes(4000)})


def modules_in_modules() -> bytes:
    """Each of forty modules holds the one before twice: 2^40 names."""
    new = b"c__torch__\nM\n)\x81"
    pickled = b"\x80\2" + new + b"q\0"
    for level in range(40):
        inner = b"h" + bytes([level])
        pickled += new + b"}(" + text("a") + inner + text("b") + inner + b"ub"
        pickled += b"q" + bytes([level + 1])
    return archived(pickled + b".")


def module_in_itself() -> bytes:
    """A module that is its own part."""
    return archived(b"\x80\2c__torch__\nM\n)\x81q\0}" + text("a") + b"h\0sb.")


def safetensors_of(header: dict[str, Any] | bytes, length: int | None = None) -> bytes:
    """A file of safetensors with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + ZEROS


def huge_safetensors() -> bytes:
    """A tensor of a terabyte in four bytes."""
    shape = [2**38]
    return safetensors_of(
        {"visual.x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0]]}}
    )


def compressed() -> bytes:
    """A record of 40 MB, compressed to 40 kB."""
    count = 10_000_000
    with_record = {"0": bytes(4 * count)}
    pickled = tensor((count,), (1,), count)
    return archived(pickled, with_record, compression=zipfile.ZIP_DEFLATED)


def large_memo() -> bytes:
    """A place in the memo for which the unpickler in C takes 64 GB."""
    return archived(b"\x80\2}r" + struct.pack("<I", 2**32 - 2) + b".")


WEIGHTS: dict[str, Callable[[], bytes]] = {
    "expanded.pt": lambda: archived(tensor((2**20, 2**20), (0, 0), 1), {"0": ZEROS}),
    "beyond.pt": lambda: archived(tensor((2**40,), (1,), 2**40), {"0": ZEROS}),
    "overlong.pt": lambda: archived(tensor((1,), (1,), 1, offset=2**40), {"0": ZEROS}),
    "negative.pt": lambda: archived(tensor((1,), (1,), 1, offset=-1), {"0": ZEROS}),
    "dimensions.pt": lambda: archived(tensor((1,) * 5000, (1,) * 5000, 1), {"0": ZEROS}),
    "missing.pt": lambda: archived(tensor((1,), (1,), 1)),
    "shared.pt": shared,
    "modules_in_modules.pt": modules_in_modules,
    "module_in_itself.pt": module_in_itself,
    "compressed.pt": compressed,
    "large_memo.pt": large_memo,
    "bytes.pt": lambda: archived(b"\x80\5\x96" + struct.pack("<Q", 2**40) + b"."),
    "old.pt": lambda: pickle.dumps({"visual.x": [0] * 9}),
    "before.bin": lambda: before_archives(tensor((1,), (1,), 1)),
    "before_long.bin": lambda: before_archives(
        tensor((2**40,), (1,), 2**40), storages=struct.pack("<Q", 2**40) + ZEROS
    ),
    "before_wrapped.bin": lambda: before_archives(
        tensor((1,), (1,), 1), storages=struct.pack("<Q", 2**64 - 2) + ZEROS
    ),
    "before_expanded.bin": lambda: before_archives(
        tensor((2**20, 2**20), (0, 0), 1), storages=struct.pack("<Q", 1) + ZEROS
    ),
    "before_unknown.bin": lambda: before_archives(
        tensor((1,), (1,), 1), ("1",), struct.pack("<Q", 1) + ZEROS
    ),
    "before_twice.bin": lambda: before_archives(
        tensor((1,), (1,), 1), ("0",) * 2, (struct.pack("<Q", 1) + ZEROS) * 2
    ),
    "before_other.bin": lambda: before_archives(b"").replace(b"M\xe9\x03", b"M\xe8\x03"),
    "before_command.bin": lambda: before_archives(pickle.dumps(Command("true"), 2)),
    "no_pickle.pt": lambda: archived(b"").replace(b"data.pkl", b"data.txt"),
    "damaged.pt": lambda: archived(b"\x80\2tRQbs."),
    "huge.safetensors": huge_safetensors,
    "long_header.safetensors": lambda: safetensors_of({}, 2**40),
    "deep.safetensors": lambda: safetensors_of(b"[" * 100_000),
}
"""By name: files that hold no usable weights of any model."""


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a wide network": lambda c: c["model"].update(widths=[2**20, 2**20], condition_dim=2**20),
    "a wide embedding": lambda c: [c[k].update(embedding_dim=2**36) for k in ("model", "encoder")],
    "a high degree": lambda c: c["model"].update(max_degree=2**20),
    "a degree beyond numbers": lambda c: c["model"].update(max_degree=10**300),
    "many levels": lambda c: c["model"].update(max_degree=255, widths=[8] * 8),
    "many blocks": lambda c: c["model"].update(trunk_blocks=10**9),
    "a large gallery": lambda c: c["temperature"].update(gallery=10**9),
    "many components": lambda c: c["temperature"].update(components=10**8),
    "a wide head": lambda c: c["temperature"].update(hidden=2**36),
    "many candidates": lambda c: c["decode"].update(candidates=10**9),
    "candidates for all memory": lambda c: c["decode"].update(candidates=1000),
    "a name of a book": lambda c: c.update(name="n" * 10**6),
    "a name that is no text": lambda c: c.update(name="\ud800"),
    "a name that a terminal obeys": lambda c: c.update(name="\x1b[2J"),
    "many steps": lambda c: c["decode"].update(shifts=10**9),
    "many places": lambda c: c["decode"].update(modes=10**9),
    "no number": lambda c: c["model"].update(natural_scale="1"),
}
"""By name: changes to the configuration of a checkpoint, which then asks for what is not there."""

CONFIG_FILES: dict[str, bytes] = {
    "deep": b"[" * 10**6,
    "deep in a record": b'{"record": ' + b'{"a":' * 10**5,
    "digits": b'{"format": ' + b"9" * 10**5 + b"}",
    "no UTF-8": b"\xff\xfe",
    "nothing": b"",
    "a list": b"[1]",
    "a number": b"NaN",
}
"""By name: contents of config.json."""
