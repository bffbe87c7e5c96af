"""Converts frozen dataclasses to JSON and back, and changes single settings of them by name.

Every configuration enters and leaves a file through `to_dict` and `from_dict`. A dotted name such
as ``smoothing.km`` names a setting of a nested dataclass.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


FORMERLY = "formerly"
"""Key of a field's metadata: the name under which older files hold the field."""

_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class ConfigError(ValueError):
    """A stored configuration does not fit the type it is read as."""


class Setting(typing.NamedTuple):
    """Dotted name of a setting, its value as it is typed, and its entry in the docstring."""

    name: str
    default: str
    meaning: str


def to_dict(config: Any) -> Any:
    """Converts a dataclass to plain JSON values, nested dataclasses and tuples included."""
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
    """Reads a dataclass from JSON values and checks them against its annotations.

    Args:
        kind: The dataclass.
        values: Values that `to_dict` wrote; fields with defaults may be missing.
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
    values = {_present(kind, name): value for name, value in values.items()}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"Unknown setting {where}{unknown[0]}{_similar(unknown[0], names)}; {kind.__name__} "
            f"has {sorted(names)}. Was the file written by a newer version?"
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


def with_settings(config: T, assignments: Iterable[str]) -> T:
    """Changes settings of a configuration.

    Args:
        config: The configuration; it is not changed itself.
        assignments: Texts such as ``smoothing.km=50``. The value is parsed by the field's type: a
            list as ``320,160``, a switch as ``true`` or ``false``, no value as ``none``, a whole
            group with its defaults as ``default``.

    Raises:
        ConfigError: An unknown name or an unusable value.
    """
    values = to_dict(config)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} sets nothing; want NAME=VALUE, as in seed=3.")
        _assign(type(config), values, name.strip(), text.strip())
    return from_dict(type(config), values)


def settings_of(config: Any, where: str = "") -> Iterator[Setting]:
    """Lists the settings of a configuration, with names that begin with `where`."""
    hints, meanings = typing.get_type_hints(type(config)), _meanings(type(config))
    for field in dataclasses.fields(config):
        name, value = f"{where}{field.name}", getattr(config, field.name)
        group = _nested(hints[field.name])
        if group is None or value is None:
            yield Setting(name, _typed(value), meanings.get(field.name, ""))
        if group is not None:
            yield from settings_of(value or group(), f"{name}.")


def _assign(kind: type, values: dict[str, Any], name: str, text: str) -> None:
    """Puts the value that a text stands for in its place among JSON values."""
    root, (*groups, last) = kind, name.split(".")
    for group in groups:
        group = _present(kind, group)
        kind = _nested(typing.get_type_hints(kind).get(group)) or types.NoneType
        inner = values[group] = values.get(group) or {}
        values = {} if kind is types.NoneType else inner
    last = _present(kind, last)
    hints = typing.get_type_hints(kind)
    if last not in hints:
        known = [setting.name for setting in settings_of(root())]
        raise ConfigError(f"Unknown setting {name}{_similar(name, known)}; known are {known}.")
    values[last] = _parsed(hints[last], text)


def _similar(name: str, known: Iterable[str]) -> str:
    """The part of a message that names the known settings most like an unknown one."""
    known = list(known)
    ends = [k for k in known if k.endswith(f".{name.rpartition('.')[2]}")]
    near = list(dict.fromkeys([*ends, *difflib.get_close_matches(name, known)]))[:3]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _present(kind: Any, name: str) -> str:
    """Today's name of a field that older files may call otherwise."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return next((f.name for f in fields if f.metadata.get(FORMERLY) == name), name)


def _nested(hint: Any) -> type | None:
    """The dataclass that a field holds, or may hold."""
    kinds = [hint, *typing.get_args(hint)]
    return next((typing.cast(type, k) for k in kinds if dataclasses.is_dataclass(k)), None)


def _parsed(hint: Any, text: str) -> Any:
    """The JSON value that a text stands for; the text itself where it is none of the type."""
    arguments = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return None if text.lower() in ("none", "null") else _parsed(arguments[0], text)
    if typing.get_origin(hint) in (tuple, list):
        return [_parsed(arguments[0], item.strip()) for item in text.strip("[]()").split(",")]
    if hint is bool:
        return _SWITCHES.get(text.lower(), text)
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return text
    return {} if dataclasses.is_dataclass(hint) and text == "default" else text


def _typed(value: Any) -> str:
    """A value as `_parsed` reads it."""
    value = to_dict(value)
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meanings(kind: type) -> dict[str, str]:
    """The entries among the attributes in a class's docstring, by the names of the fields."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w[\w, ]*): (.+(?:\n {8}.+)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
