"""What is installed: one version, extras that may be missing, names that a user may have too."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from PIL import Image

import locdiffusion
from pipelines.beam import jobs
from pipelines.beam.flags import UsageError
from pipelines.geotag.options import parse
from pipelines.sources.download import FetchSettings

ROOT = Path(__file__).parents[1]
EXTRA_PACKAGES = ("apache_beam", "google", "gcsfs", "requests", "geopandas", "pyproj")


def setup_arguments(script: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
    monkeypatch.chdir(script.parent)
    runpy.run_path(str(script))
    return given


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name for line in requirements}


# The version


def test_the_version_stands_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    version = locdiffusion.__version__
    assert setup_arguments(ROOT / "setup.py", monkeypatch)["version"] == version
    assert f"/{version} " in FetchSettings().user_agent
    folders = ("schemas", "locdiffusion", "pipelines", "deploy")
    scripts = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = [path for path in [ROOT / "setup.py", *scripts] if version in path.read_text("utf-8")]
    assert found == [ROOT / "locdiffusion" / "__init__.py"]


# The source package


def test_a_source_package_holds_what_its_tests_need(tmp_path: Path) -> None:
    listing = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, timeout=300)
    shipped = set((tmp_path / "locdiffusion.egg-info" / "SOURCES.txt").read_text().splitlines())
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert shipped >= {"Makefile", "constraints.txt", "pyproject.toml", *tests}


# Extras


def without(packages: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python in which packages cannot be imported."""
    block = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {packages}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return subprocess.run(
        [sys.executable, "-c", block + code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_a_geotagger_answers_without_beam_and_cloud_packages() -> None:
    done = without(
        EXTRA_PACKAGES,
        "from PIL import Image\n"
        "from locdiffusion import Geotagger\n"
        "[answer] = Geotagger.load().geotag([Image.new('RGB', (64, 64), (90, 120, 60))])\n"
        "print(answer)",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "with probability 50 %" in done.stdout


def test_no_module_of_the_library_needs_an_extra() -> None:
    folder = ROOT / "locdiffusion"
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in folder.rglob("*.py")
        if path.name != "__main__.py"
    ]
    code = f"import importlib\nfor name in {modules}: importlib.import_module(name)"
    done = without(EXTRA_PACKAGES, code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_explains_every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "INSTALL.md").read_text("utf-8")
    told = re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE)
    assert told == list(setup_arguments(ROOT / "setup.py", monkeypatch)["extras_require"])


def test_the_package_of_a_job_asks_for_what_workers_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam installs it without naming extras."""
    (tmp_path / "locdiffusion").mkdir()
    for name in ("setup.py", "locdiffusion/__init__.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    needed = {"apache-beam", "gcsfs", "pyproj"}
    plain = setup_arguments(tmp_path / "setup.py", monkeypatch)
    assert not needed & names(plain["install_requires"])
    assert needed <= names(plain["extras_require"]["all"])
    (tmp_path / "FOR_WORKERS").touch()
    of_job = setup_arguments(tmp_path / "setup.py", monkeypatch)
    assert needed <= names(of_job["install_requires"])


# Folders of the user that are called like our packages


PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a package called `pipelines` in it."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise ImportError('the user\\'s own')\n")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_3_10_refuses_workers_that_would_import_a_namesake(
    namesake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    options = parse(["--input", "a.tar", "--output", "out", *PROCESSES])
    with pytest.raises(UsageError, match=r"pipelines has the name .* another directory"):
        jobs.run_job(options, lambda pipeline: None)


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="refused on Python 3.10")
def test_workers_do_not_import_a_namesake(namesake: Path) -> None:
    (namesake / "photos").mkdir()
    for index in range(4):
        shade = Image.new("RGB", (64, 64), (40 * index, 120, 60))
        shade.save(namesake / "photos" / f"{index}.jpg")
    code = (
        "import sys\n"
        "from pipelines.geotag.command import main\n"
        f"sys.exit(main(['--input', 'photos', '--output', 'out', *{PROCESSES}]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
