"""The parameters of the Flex Templates are those of the parsers, each with a pattern to match."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from flex_templates import EARLIER, LEFT_OUT, TEMPLATES, as_json
from locdiffusion.cli.parser import PATHS
from pipelines.build_shards.options import build_shards_parser
from pipelines.build_shards.options import parse as parse_shards
from pipelines.geotag.options import geotag_parser
from pipelines.geotag.options import parse as parse_geotag
from support import ROOT

FOLDER = ROOT / "deploy" / "flex"
PARSERS = {"geotag": geotag_parser, "build_shards": build_shards_parser}


def parameters(template: str) -> dict[str, dict[str, Any]]:
    document = json.loads((FOLDER / f"{template}.json").read_text("utf-8"))
    assert document["name"] and document["description"]
    return {one["name"]: one for one in document["parameters"]}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_file_is_what_the_parser_says(template: str) -> None:
    found = (FOLDER / f"{template}.json").read_text("utf-8")
    again = "write it anew: python tools/flex_templates.py"
    assert found == as_json(template), again


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_flag_of_the_parser_is_a_parameter_or_left_out_for_a_reason(template: str) -> None:
    flags = {
        flag.removeprefix("--")
        for action in PARSERS[template]()._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    told = set(parameters(template))
    today = {earlier: flag for flag, earlier in EARLIER[template].items()}
    named = {today.get(name, name) for name in told}
    other_spellings = {"no-wait", "no-bf16"} & flags
    assert flags - named == {"help", "runner", "wait", "summarise"} | other_spellings
    assert named <= flags
    assert {"help", "runner", "wait", "summarise", PATHS} == set(LEFT_OUT)


def test_parameters_of_templates_that_were_launched_stay() -> None:
    assert {"batch_size", "max_error_fraction", "admin_name"} <= set(parameters("geotag"))
    assert "metadata" in parameters("build_shards")
    where = ["--input=gs://b/*.tar", "--output=gs://b/out", "--admin=gs://b/a.geojson"]
    names = ["--batch_size=7", "--max_error_fraction=0.5", "--admin_name=district"]
    geotag = parse_geotag([*where, *names])
    assert (geotag.batch_size, geotag.max_error_fraction) == (7, 0.5)
    assert geotag.extras.admin_name == "district"
    where = ["--source=webdataset", "--output=gs://b/out"]
    assert parse_shards([*where, "--metadata=gs://b/*.tar"]).metadata == ("gs://b/*.tar",)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_launch_with_every_parameter_is_understood(template: str) -> None:
    """Google's launcher passes --name=value; what the pattern lets through the parser takes."""
    values = {
        EARLIER[template].get(flag := action.option_strings[0].removeprefix("--"), flag): value
        for action in PARSERS[template]()._actions
        if action.dest not in LEFT_OUT
        for value in [example(action)]
    }
    for name, parameter in parameters(template).items():
        [pattern] = parameter["regexes"]
        assert re.fullmatch(pattern, values[name]), (name, pattern, values[name])
    words = [f"--{name}={values[name]}" for name in parameters(template)]
    assert PARSERS[template]().parse_args(words)


def example(action: Any) -> str:
    """A value: its default, or something of its kind."""
    if action.choices:
        return str(list(action.choices)[-1])
    if isinstance(action.default, bool) or getattr(action.type, "__name__", "") == "boolean":
        return "true"
    if action.default not in (None, "", []):
        return str(action.default)
    special = {
        "encoder": "efficientnet_lite0+texture@32px",
        "embed": "efficientnet_lite0",
        "messages": "s_*.msg",
        "tars": "mp_*.tar",
    }
    return special.get(action.dest, "gs://my-bucket/path/*.tar")


@pytest.mark.parametrize(
    ("template", "name", "wrong"),
    [
        ("geotag", "input", "photos/*.tar"),
        ("geotag", "input", "gs://bucket"),
        ("geotag", "output", "/tmp/out"),
        ("geotag", "checkpoint", "runs/checkpoint"),
        ("geotag", "encoder", "open_clip:ViT-B-32/openai"),
        ("geotag", "encoder", "geoclip:clip.safetensors"),
        ("geotag", "device", "gpu"),
        ("geotag", "mode", "densities"),
        ("geotag", "samples", "0"),
        ("geotag", "seed", "first"),
        ("geotag", "max_error_fraction", "1.5"),
        ("geotag", "overwrite", "maybe"),
        ("build_shards", "source", "flickr"),
        ("build_shards", "metadata", "a.csv"),
        ("build_shards", "shard-size", "0"),
        ("build_shards", "author-cap", "-1"),
        ("build_shards", "val-fraction", "2"),
    ],
)
def test_what_the_pipeline_would_refuse_is_refused_in_the_console(
    template: str, name: str, wrong: str
) -> None:
    [pattern] = parameters(template)[name]["regexes"]
    assert not re.fullmatch(pattern, wrong)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_parameter_is_explained_and_its_pattern_portable(template: str) -> None:
    for name, parameter in parameters(template).items():
        assert len(parameter["helpText"]) > 10, name
        assert parameter["label"]
        assert "%(" not in parameter["helpText"]
        [pattern] = parameter["regexes"]
        assert pattern.startswith("^") and pattern.endswith("$")
        # POSIX extended, as Google reads them: no classes or groups of Python's own.
        assert not re.search(r"\\[dws]|\(\?", pattern), name


def test_what_must_be_given_is_not_optional() -> None:
    needed = {
        template: {name for name, one in parameters(template).items() if not one["isOptional"]}
        for template in TEMPLATES
    }
    assert needed == {
        "geotag": {"input", "output"},
        "build_shards": {"source", "metadata", "output"},
    }
