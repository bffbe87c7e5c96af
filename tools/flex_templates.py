"""Writes the metadata of the Flex Templates, deploy/flex/*.json, from the parsers of the pipelines.

    python tools/flex_templates.py

A test holds the files equal to the parsers. A template takes one value per parameter, and none of
the flags that only make sense where somebody sits and waits.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locdiffusion.cli.parser import PATHS, Parser

FOLDER = Path(__file__).parents[1] / "deploy" / "flex"

# The command of each template, and the template's name and description.
TEMPLATES: Mapping[str, tuple[str, str, str]] = {
    "geotag": (
        "pipelines.geotag.command",
        "LocDiffusion: geotag a photo archive",
        "Reads photos from tar shards and writes where each was taken, how far off that may be, "
        "and the alternatives, as GeoParquet. A job that was stopped goes on where it was.",
    ),
    "build_shards": (
        "pipelines.build_shards.command",
        "LocDiffusion: build training shards",
        "Reads lists of photos with known positions (MP-16, YFCC100M, webdataset), filters them "
        "and writes training shards with an index and a reason for every record that was dropped.",
    ),
}

# Names that parameters had before the flags got their names of today. Whoever launches a template
# goes on giving these.
EARLIER: Mapping[str, Mapping[str, str]] = {
    "geotag": {
        name.replace("_", "-"): name for name in ("admin_name", "batch_size", "max_error_fraction")
    },
    "build_shards": {"input": "metadata"},
}

# Parameters without which there is no job.
REQUIRED = ("input", "source", "output")
# Flags that are not for templates: the launcher chooses the runner and must not wait, and a summary
# is no job.
LEFT_OUT = ("help", "runner", "wait", "summarise", PATHS)

BUCKET_FILE = r"gs://[a-z0-9][a-z0-9._-]+/.+"
TEXT = r".+"
WHOLE = r"[0-9]+"
SIGNED = r"-?[0-9]+"
POSITIVE = r"[1-9][0-9]*"
NUMBER = r"[0-9]*\.?[0-9]+"
LITE0 = r"efficientnet_lite0([+_]texture)?(@[0-9]+(\+[0-9]+)*px)?"
ENCODER = rf"({LITE0}|(open_clip:[A-Za-z0-9_-]+/|geoclip:){BUCKET_FILE})"
BOOLEAN = r"(true|false|True|False)"
# Patterns of parameters whose name tells more than their type.
BY_NAME: Mapping[str, str] = {
    "input": BUCKET_FILE,
    "output": BUCKET_FILE,
    "hashes": BUCKET_FILE,
    "urls": BUCKET_FILE,
    "images": BUCKET_FILE,
    "exclude": BUCKET_FILE,
    "checkpoint": rf"([A-Za-z0-9_-]+|{BUCKET_FILE})",
    "encoder": ENCODER,
    "gallery": rf"(geoclip|{BUCKET_FILE})",
    "embed": ENCODER,
    "messages": r"[^/]+",
    "tars": r"[^/]+",
    "device": r"(cpu|cuda)",
}
BY_TYPE: Mapping[str, str] = {
    "int": SIGNED,
    "float": NUMBER,
    "positive": POSITIVE,
    "whole": WHOLE,
    "fraction": r"(0?\.[0-9]+|[01](\.0*)?)",
    "boolean": BOOLEAN,
}


def metadata(template: str) -> dict[str, Any]:
    """Makes what `gcloud dataflow flex-template build --metadata-file` reads, for one template."""
    module, name, description = TEMPLATES[template]
    parser: Parser = importlib.import_module(module).parser()
    helps = {action.dest: action.help or "" for action in reversed(parser._actions)}
    helps["input"] = helps[PATHS]
    actions = parameters_of(parser)
    parameters = [_parameter(action, template, helps[action.dest]) for action in actions]
    return {"name": name, "description": description, "parameters": parameters}


def parameters_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Lists the flags that a template takes, in the order of the parser, each destination once."""
    kept: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if action.dest not in LEFT_OUT:
            kept.setdefault(action.dest, action)
    return list(kept.values())


def _parameter(action: argparse.Action, template: str, about: str) -> dict[str, Any]:
    flag = action.option_strings[0].removeprefix("--")
    return {
        "name": EARLIER[template].get(flag, flag),
        "label": action.dest.replace("_", " ").capitalize(),
        "helpText": _help(action, about),
        "isOptional": action.dest not in REQUIRED,
        "regexes": [f"^{pattern_of(action)}$"],
    }


def _help(action: argparse.Action, about: str) -> str:
    text = re.sub(r"%\(default\)s", str(action.default), about).replace("%%", "%")
    text += "."
    if action.choices:
        text += f" One of: {', '.join(map(str, action.choices))}."
    if action.nargs == "+":
        glob = ", which may be a glob or a range" if action.dest in BY_NAME else ""
        text += f" A template takes one{glob}."
    return text


def pattern_of(action: argparse.Action) -> str:
    """Returns the extended regular expression (POSIX) that the whole value must match."""
    if action.choices:
        return f"({'|'.join(str(choice) for choice in action.choices)})"
    if action.dest in BY_NAME and action.metavar != "PATTERN":  # one of names, in no bucket
        return BY_NAME[action.dest]
    if isinstance(action, argparse._StoreTrueAction | argparse._StoreFalseAction):
        return BOOLEAN
    return BY_TYPE.get(getattr(action.type, "__name__", ""), TEXT)


def as_json(template: str) -> str:
    """Returns the text of the metadata file."""
    return json.dumps(metadata(template), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the metadata files."""
    for template in TEMPLATES:
        path = FOLDER / f"{template}.json"
        path.write_text(as_json(template), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
