"""The house rules that no linter knows: who may import whom, sizes, names, locks and commands."""

import ast
import contextlib
import functools
import importlib.util
import io
import re
import runpy
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from count_rooms import ORDER
from locdiffusion.cli.commands import COMMANDS as SUB_COMMANDS
from support import ROOT
from support.project import make_targets, setup_arguments

INSTALLED = ("schemas", "locdiffusion", "pipelines")
PACKAGES = (*INSTALLED, "experiments")

FLOOR = {room: number for number, room in enumerate(ORDER)}

# Among the rooms before it: what a room never imports.
NEVER = (
    ("locdiffusion.sphere", "schemas"),
    ("locdiffusion.diffusion", "locdiffusion.model"),
    ("locdiffusion.overhead", "locdiffusion.model"),
)

# The whole of what these rooms may have from outside the standard library.
THIRD_PARTIES = {"schemas": {"pyarrow"}, "locdiffusion.sphere": {"numpy"}}

# Who alone may import these.
ONLY_IN = {
    "apache_beam": (
        "pipelines.beam.flags",
        "pipelines.beam.jobs",
        "pipelines.beam.worker",
        "pipelines.geotag.combining",
        "pipelines.geotag.reading",
        "pipelines.geotag.stages",
        "pipelines.geotag.transforms",
        "pipelines.geotag.writing",
        "pipelines.build_shards.transforms",
        "pipelines.aggregate.transforms",
        "pipelines.albums.transforms",
        "experiments.speed.shards.job",
        "pipelines.dataflow.graph",
    ),
    "matplotlib": (
        "locdiffusion.albums.figure",
        "locdiffusion.card",
        "locdiffusion.drawing",
        "experiments.distillation.report",
        "locdiffusion.evaluate",
        "experiments.sampling_figure",
        "experiments.report",
        "pipelines.aggregate.pages",
        "pipelines.geotag.pages",
        "pipelines.build_shards.density_map",
        "experiments.dataflow_simulation.stragglers",
    ),
    "mpl_toolkits": (),
    "tqdm": ("locdiffusion.cli.terminal", "experiments"),  # a bar makes its labels safe there
    "open_clip": (
        "locdiffusion.model.activation",
        "locdiffusion.model.clip_layouts",
        "locdiffusion.model.open_clip_model",
    ),
    "geoclip": (),  # its files are read, its code is not run
    "transformers": (),
    "timm": ("locdiffusion.model.clip_layouts", "locdiffusion.model.lite0"),
}
WITHOUT_TORCH = ("schemas", "locdiffusion.sphere", "locdiffusion.overhead", "locdiffusion.config")

MAX_LINES = 400
NO_NAMES = {"utils", "util", "misc", "helpers", "helper", "common"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
COMMANDS = sorted(
    name.removesuffix(".__main__")
    for name, path in MODULES.items()
    if name.endswith(".__main__") or 'if __name__ == "__main__"' in path.read_text("utf-8")
)


def under(module: str, room: str) -> bool:
    """Whether a module is a room or in it."""
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    """The folder, or the module beside the folders, in which a module is."""
    parts = module.removesuffix(".__main__").split(".")
    return parts[0] if parts[0] in ("schemas", "experiments") else ".".join(parts[:2])


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that a module's text imports, at the top or inside functions."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                source = importlib.util.resolve_name("." * node.level + source, package)
            names = {f"{source}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else source for name in names)
    return frozenset(found)


def own_imports(module: str) -> set[str]:
    """Those of a module's imports that are modules of this project, itself left out."""
    return {name for name in imports_of(module) if name in MODULES} - {module}


def in_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter that fails when anything opens a connection."""
    guard = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise SystemExit('opened a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
    )
    return subprocess.run(
        [sys.executable, "-c", guard + code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@functools.cache
def help_of(module: str, *subcommand: str) -> str:
    """What `python -m module [subcommand] --help` prints, all in this one process."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [module, *subcommand, "--help"])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not stop.value.code, module
    return printed.getvalue()


# ----------------------------------------------------------------------------------- the rooms


def test_every_module_has_a_room():
    assert {room_of(module) for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_rooms_import_only_from_rooms_below(room):
    upwards = {
        (module, name)
        for module in MODULES
        if room_of(module) == room
        for name in own_imports(module)
        if FLOOR[room_of(name)] > FLOOR[room]
    }
    assert not upwards, f"{room} imports from above itself: {sorted(upwards)}"


@pytest.mark.parametrize(("room", "forbidden"), NEVER)
def test_rooms_that_must_not_know_each_other(room, forbidden):
    broken = {
        module: name
        for module in MODULES
        if under(module, room)
        for name in imports_of(module)
        if under(name, forbidden)
    }
    assert not broken


def test_no_cycles():
    """Also between modules of one layer, and when the import stands inside a function."""
    graph = {module: own_imports(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", THIRD_PARTIES)
def test_rooms_with_few_dependencies(room):
    allowed = {*sys.stdlib_module_names, *PACKAGES, *THIRD_PARTIES[room]}
    found = {
        (module, name)
        for module in MODULES
        if under(module, room)
        for name in imports_of(module)
        if name.split(".")[0] not in allowed
    }
    assert not found


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_that_only_some_rooms_know(library):
    users = {m for m in MODULES if any(under(name, library) for name in imports_of(m))}
    assert {m for m in users if not any(under(m, room) for room in ONLY_IN[library])} == set()


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_without_torch(room):
    torch = {m for m in MODULES if under(m, room) and any(under(n, "torch") for n in imports_of(m))}
    assert not torch


# ------------------------------------------------------------------------------ sizes and names


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_of_a_size_to_read_and_named_for_what_they_hold(module):
    lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines; {MAX_LINES} at most: split it"
    assert module.rpartition(".")[2] not in NO_NAMES


# ------------------------------------------------------------------------------------ the tests


def test_no_test_imports_from_a_test():
    """What tests share lies in tests/support/, and fixtures in a conftest.py."""
    found = set()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            parts = {part for name in names for part in name.split(".")}
            if any(part == "conftest" or part.startswith("test_") for part in parts):
                found.add((path.name, *names))
    assert not found


def test_tests_lie_where_the_product_does():
    folders = {path.parent.relative_to(ROOT / "tests") for path in ROOT.glob("tests/**/test_*.py")}
    own = {Path("hostile")}  # attacks on the whole of the product
    assert not {str(folder) for folder in folders - own if not (ROOT / folder).is_dir()}


def test_names_of_test_modules_are_unique():
    """Pytest imports them by name alone: of two with one name, it collects neither."""
    names = Counter(path.name for path in ROOT.glob("tests/**/test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


# ------------------------------------------------------------------------------------ importing


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_does_not_load_the_heavy_libraries(package):
    heavy = {"torch", "apache_beam", "open_clip", "matplotlib", "geopandas"}
    done = in_python(f"import sys, {package}\nprint(sorted({heavy} & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_importing_everything_asks_nobody_on_the_network():
    names = [module for module in MODULES if not module.endswith("__main__")]
    done = in_python(f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "importing prints nothing"


# -------------------------------------------------------------------- the lock and the installed


def locked() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_lock_pins_every_requirement_once_for_each_python(python, monkeypatch):
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    pins: dict[str, list[str]] = {}
    for line in locked():
        if line.marker is None or line.marker.evaluate(environment):
            pins.setdefault(canonical(line.name), []).append(str(line.specifier))
    given = setup_arguments(monkeypatch)
    extras = [line for lines in given["extras_require"].values() for line in lines]
    wanted = [*given["install_requires"], *extras]
    for requirement in map(Requirement, wanted):
        found = pins.get(canonical(requirement.name), [])
        assert len(found) == 1, f"{requirement.name} on {python}: {found}; run `make lock`"
        assert requirement.specifier.contains(found[0].removeprefix("=="))
    assert all(len(found) == 1 for found in pins.values())


def test_the_lock_names_no_place():
    assert all(line.url is None and not line.extras for line in locked())


def test_every_package_and_data_file_is_installed(monkeypatch):
    given = setup_arguments(monkeypatch)
    installed = {m: path for m, path in MODULES.items() if m.split(".")[0] in INSTALLED}
    packages = {m for m, path in installed.items() if path.name == "__init__.py"}
    assert set(given["packages"]) == packages
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in installed.values()}
    assert folders == packages, "a folder of modules without __init__.py would not be installed"
    shipped = {
        file
        for package, patterns in given["package_data"].items()
        for pattern in patterns
        for file in (ROOT / package).glob(pattern)
    }
    data = {
        file
        for package in INSTALLED
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert {str(file.relative_to(ROOT)) for file in data - shipped} == set()


# ------------------------------------------------------------------------- what the pages promise


def code_lines(page: str) -> list[str]:
    """The lines inside a page's fenced and indented code, continued lines joined, and `code`."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    rest = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^(?: {4}|\t)(.+)$", rest, re.MULTILINE)
    return [*fenced.splitlines(), *indented, *re.findall(r"`([^`\n]+)`", rest)]


PAGES = (
    "README.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "docs/RECIPES.md",
    "experiments/README.md",
    "pipelines/geotag/pages/assets/README.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_of_a_page_exists(page):
    said = {
        target
        for line in code_lines(page)
        for words in re.findall(r"(?:^|[;&]\s*)make((?: +[a-z][a-z-]*)+)", line)
        for target in words.split()
    }
    assert said <= make_targets()


def commands_of(line: str) -> list[tuple[str, str]]:
    """The modules that a line runs, each with its arguments; `locdiffusion NAME` is one of them."""
    found = re.findall(r"(?:python3?|\$\(PY\)) -m ([\w.]+)([^|;&]*)", line)
    for words in re.findall(r"(?:^|[|;&(]|-m )\s*(?:\S*/bin/)?locdiffusion ([a-z][^|;&]*)", line):
        name, _, arguments = words.strip().removeprefix("help ").partition(" ")
        if name != "completion" and not name.isupper():
            found.append((SUB_COMMANDS[name][0], arguments))
    return [one for one in found if one[0].split(".")[0] in PACKAGES and one[0] != "locdiffusion"]


@pytest.mark.parametrize("page", [*PAGES, "Makefile", "experiments/Makefile"])
def test_every_command_of_a_page_exists_with_its_flags(page):
    for line in code_lines(page):
        for module, arguments in commands_of(line):
            assert module in COMMANDS, f"{page}: no command {module}"
            text = help_of(module)
            subcommand = re.match(r"\s*([a-z]+)\s", arguments)
            if subcommand and module.startswith("experiments") and "{" in text:
                text += help_of(module, subcommand[1])
            for flag in re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", arguments):
                known = re.search(rf"{re.escape(flag)}(?![\w-])", text)
                assert known, f"{page}: {module} --help does not know {flag}"


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_worth_reading(module):
    told = help_of(module)
    assert f"python -m {module}" in told, "the usage line is the command one types"
    assert len(told.splitlines()) >= 10


def test_readme_opens_with_the_two_commands():
    first_screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:60])
    assert "make sample" in first_screen
    assert "make test" in first_screen


def test_make_alone_lists_every_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for target in make_targets():
        assert re.search(rf"make {target}\s+\S", done.stdout), f"`make` does not explain {target}"
