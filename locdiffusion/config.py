"""Frozen dataclasses to and from JSON: the only way a configuration enters or leaves a file."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A stored configuration does not fit the type it is read as."""


def to_dict(config: Any) -> Any:
    """A dataclass as plain JSON values, nested dataclasses and tuples included."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Enum):
        return config.value
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return config


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Reads a dataclass from JSON values, against its annotations.

    Args:
      kind: the dataclass.
      values: what `to_dict` wrote; fields with defaults may be missing.
      where: prefix of names in error messages.

    Raises:
      ConfigError: an unknown or missing field, or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"Unknown setting {where}{unknown[0]}; {kind.__name__} has {sorted(names)}. "
            "Was the file written by a newer version?"
        )
    read = {name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()}
    try:
        return kind(**read)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__} cannot be read at '{where}': {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        _require(isinstance(value, Mapping), where, "an object", value)
        return from_dict(typing.cast(type, hint), value, where + ".")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin in (tuple, list):
        _require(isinstance(value, (list, tuple)), where, "a list", value)
        return origin(_value(arguments[0], item, f"{where}[]") for item in value)
    if origin is dict:
        _require(isinstance(value, Mapping), where, "an object", value)
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if hint is float:
        _require(
            isinstance(value, (int, float)) and not isinstance(value, bool),
            where,
            "a number",
            value,
        )
        return float(value)
    if hint in (int, str, bool):
        _require(type(value) is hint, where, hint.__name__, value)
    return value


def _require(holds: bool, where: str, wanted: str, found: Any) -> None:
    if not holds:
        raise ConfigError(f"{where} is {found!r}; want {wanted}.")
