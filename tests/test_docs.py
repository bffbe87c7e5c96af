"""The documents: links lead somewhere, what they name exists, and tables agree with the code."""

import contextlib
import functools
import importlib
import io
import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest

from locdiffusion.cli import main as locdiffusion
from locdiffusion.cli.commands import COMMANDS
from schemas.albums import ALBUM_SCHEMA, Standing
from schemas.geotags import ERROR_SCHEMA, MODE_FIELDS, PREDICTION_SCHEMA, Stage, Status
from schemas.layers import AREA_SCHEMA, REGION_SCHEMA, THUMBNAIL_SCHEMA, THUMBNAIL_SIDE
from support import ROOT

PACKAGES = (
    "schemas",
    "locdiffusion",
    "pipelines",
    "experiments",
    "tools",
    "tests",
    "deploy",
    "docs",
)
PAGES = sorted(
    path.relative_to(ROOT)
    for folder in (".", *PACKAGES)
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)
ALBUM_OWN_SCHEMA = pa.schema(
    field for field in ALBUM_SCHEMA if field.name not in PREDICTION_SCHEMA.names
)
OUTPUT = (ROOT / "docs/OUTPUT.md").read_text("utf-8")


def text_of(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code(text_of(page)), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_relative_link_resolves(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), f"{page}: no {link}"


def names(page: Path) -> set[str]:
    """What a page names in backticks and is a path or module of this repository, or should be."""
    found = re.findall(r"`([\w./-]+)`", without_code(text_of(page)))
    starts = tuple(f"{package}{mark}" for package in PACKAGES for mark in "./")
    return {name for name in found if name.startswith(starts)}


def exists(name: str) -> bool:
    """Whether a name is a path, a module, or something in a module."""
    if "/" in name or (ROOT / name).exists():
        return (ROOT / name).exists()
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:count])
        if module.is_dir() or module.with_suffix(".py").exists():
            found = importlib.import_module(".".join(parts[:count]))
            for part in parts[count:]:
                if not hasattr(found, part):
                    return False
                found = getattr(found, part)
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_module_and_path_of_a_page_exists(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("a changelog names what is gone")
    assert {name for name in names(page) if not exists(name)} == set()


@pytest.mark.parametrize("package", ("schemas", "locdiffusion", "pipelines", "experiments"))
def test_every_module_that_code_names_in_backticks_exists(package):
    for path in (ROOT / package).rglob("*.py"):
        dotted = set(re.findall(r"`(\w+\.[\w.]+)`", path.read_text("utf-8")))
        named = {name for name in dotted if name.split(".")[0] in PACKAGES}
        missing = {name for name in named if not exists(name)}
        assert missing == set(), path


@functools.cache
def help_of(command: str) -> str:
    """What `locdiffusion help COMMAND` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        locdiffusion(["help", command])
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_of_a_page_has_its_flags(page):
    text = text_of(page).replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    said = re.findall(r"^locdiffusion (.+)$", fenced, re.MULTILINE)
    said += re.findall(r"`locdiffusion ([^`]+)`", text)
    for line in said:
        command, *words = line.partition(" #")[0].split()
        if command in ("help", "--help", "--version", "COMMAND"):
            continue
        assert command in (*COMMANDS, "completion"), f"{page}: no command {command}"
        for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{flag}(?![\w-])", help_of(command)), f"{page}: {command} {flag}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_page_is_in_the_index(page):
    assert page.name == "README.md" or f"]({page.name})" in text_of(Path("docs/README.md"))


class TestOutput:
    """docs/OUTPUT.md against `schemas/`."""

    @pytest.mark.parametrize(
        ("heading", "schema"),
        [
            ("Predictions", PREDICTION_SCHEMA),
            ("Errors", ERROR_SCHEMA),
            ("Regions", REGION_SCHEMA),
            ("Areas", AREA_SCHEMA),
            ("Thumbnails", THUMBNAIL_SCHEMA),
            ("Albums", ALBUM_OWN_SCHEMA),
        ],
    )
    def test_columns_types_and_nulls(self, heading: str, schema: pa.Schema) -> None:
        section = re.search(rf"^## {heading}\n(.*?)(?=^##|\Z)", OUTPUT, re.DOTALL | re.MULTILINE)
        assert section
        told = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes|no) \| \S", section[1], re.MULTILINE)
        held = [
            (field.name, re.match(r"\w+", str(field.type))[0], "yes" if field.nullable else "no")
            for field in schema
        ]
        assert told == held

    def test_closed_lists(self) -> None:
        reasons = OUTPUT[OUTPUT.index("| status |") : OUTPUT.index("## Regions")]
        assert re.findall(r"^\| `(\w+)`", reasons, re.MULTILINE) == [one.value for one in Status]
        stages = OUTPUT[OUTPUT.index("Stages:") : OUTPUT.index("| status |")]
        assert re.findall(r"`(\w+)`", stages) == [one.value for one in Stage]
        standings = OUTPUT[OUTPUT.index("| standing |") :]
        told = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", standings, re.MULTILINE)
        assert told == [one.value for one in Standing]

    def test_fields_of_a_mode(self) -> None:
        [row] = re.findall(r"^\| `modes` .*$", OUTPUT, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == {"modes", *MODE_FIELDS}
        assert f"{THUMBNAIL_SIDE} pixels" in OUTPUT


def test_the_picture_of_the_rooms_is_that_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    rooms = importlib.import_module("rooms")
    now = rooms.read_rooms()
    assert rooms.shown_by(ROOT / "docs/rooms.png") == rooms.stamp(now), (
        "draw it anew: python tools/rooms.py"
    )
    assert {room for room in now if not rooms.clause(room)} == set()
