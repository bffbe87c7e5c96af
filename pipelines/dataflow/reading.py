"""Reads settings from NAME=VALUE words, as make hands them on; tells every mistake at once.

A setting that is empty counts as not given: that is what make makes of a variable nobody set.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from pipelines.dataflow.checks import mistakes_of
from pipelines.dataflow.settings import NAMES, Settings, names_of

YES_NO = {"yes": True, "no": False, "1": True, "0": False, "true": True, "false": False}


class SettingsError(ValueError):
    """Settings are missing, misspelt or contradict each other; one line for each mistake."""


def read_settings(pipeline: str, words: Iterable[str]) -> Settings:
    """Reads and checks settings.

    Args:
        pipeline: `geotag` or `shards`.
        words: NAME=VALUE words in any order; an empty VALUE counts as not given.

    Raises:
        SettingsError: Something is wrong; the message has every mistake that was found.
    """
    mistakes, given = [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            mistakes.append(f"{word!r} is no setting, wanted NAME=VALUE")
        elif name not in NAMES:
            mistakes.append(unknown(name))
        elif value.strip() and name not in names_of(pipeline):
            mistakes.append(f"{name} is no setting of the {pipeline} pipeline; leave it out")
        elif value.strip():
            try:
                given[name.lower()] = _converted(name, value.strip())
            except ValueError as error:
                mistakes.append(str(error))
    settings = Settings(pipeline, **given)
    mistakes += mistakes_of(settings)
    if mistakes:
        raise SettingsError("\n".join(dict.fromkeys(mistakes)))
    return settings


def unknown(name: str) -> str:
    """Returns the sentence for a setting that does not exist."""
    near = difflib.get_close_matches(name.upper(), NAMES, 1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
    return f"{name} is no setting; {hint}"


def _converted(name: str, value: str) -> Any:
    kind = next(one.type for one in fields(Settings) if one.name == name.lower())
    if kind == "int":
        if not re.fullmatch(r"[0-9]+", value):
            raise ValueError(f"{name}={value}, wanted a whole number")
        return int(value)
    if kind == "bool":
        if value.lower() not in YES_NO:
            raise ValueError(f"{name}={value}, wanted yes or no")
        return YES_NO[value.lower()]
    return value
