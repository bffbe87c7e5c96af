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
        kind: The dataclass.
        values: What `to_dict` wrote; fields with defaults may be missing.
        where: Prefix of names in error messages.

    Raises:
        ConfigError: An unknown or missing field, a value of another type, or one that the dataclass
            refuses; the message names the place.
    """
    place = where.rstrip(".") or kind.__name__
    _require(isinstance(values, Mapping), place, "an object", values)
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = {f.name for f in fields}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"Unknown setting {where}{unknown[0]}; {kind.__name__} has {sorted(names)}. "
            "Was the file written by a newer version?"
        )
    missing = [f.name for f in fields if f.name not in values and _is_required(f)]
    if missing:
        raise ConfigError(f"Setting {where}{missing[0]} is missing; {kind.__name__} needs it.")
    read = {name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()}
    try:
        return kind(**read)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


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
        if origin is list or Ellipsis in arguments:
            arguments = (arguments[0],) * len(value)
        _require(len(value) == len(arguments), where, f"a list of {len(arguments)}", value)
        pairs = enumerate(zip(arguments, value, strict=True))
        return origin(_value(argument, item, f"{where}[{i}]") for i, (argument, item) in pairs)
    if origin is dict:
        _require(isinstance(value, Mapping), where, "an object", value)
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        known = [member.value for member in hint]
        _require(value in known, where, f"one of {known}", value)
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
        raise ConfigError(f"{where} is {repr(found)[:80]}; want {wanted}.")
