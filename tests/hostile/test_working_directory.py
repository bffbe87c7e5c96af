"""The folder in which a command is typed may be an archive: no code that lies in it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT
from support.user_files import photo_number

PACKAGES = (
    "PIL",
    "numpy",
    "torch",
    "pyarrow",
    "fsspec",
    "schemas",
    "pipelines",
    "pi_heif",
    "scipy",
)

COMMAND = """\
import multiprocessing, sys
from locdiffusion.cli import main

if __name__ == "__main__":
    status = main() if len(sys.argv) > 1 else 0
    for method in multiprocessing.get_all_start_methods():
        process = multiprocessing.get_context(method).Process(target=print, args=(method,))
        process.start()
        process.join()
        assert process.exitcode == 0
    sys.exit(status)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_no_module_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    """Every module of Python, and packages that are used, lie in the archive as traps."""
    archive, ran = tmp_path / "archive", tmp_path / "ran"
    archive.mkdir()
    trap = f"open({str(ran)!r}, 'a').write(__name__ + ' ')\n"
    for name in (*sys.stdlib_module_names, *PACKAGES, "sitecustomize", "usercustomize"):
        (archive / f"{name}.py").write_text(trap, "utf-8")
    (archive / "locdiffusion" / "cli").mkdir(parents=True)
    (archive / "locdiffusion" / "__init__.py").write_text(trap, "utf-8")
    (archive / "matplotlibrc").write_text("backend: module://os\n", "utf-8")
    (archive / "a.jpg").write_bytes(photo_number(1))
    command = tmp_path / "bin" / "locdiffusion"
    command.parent.mkdir()
    command.write_text(COMMAND, "utf-8")
    places = [str(ROOT), *(place for place in sys.path if "site-packages" in place)]
    told = subprocess.run(
        [sys.executable, str(command), "--version"],
        cwd=archive,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
    )
    assert not ran.exists(), ran.read_text("utf-8")
    assert told.returncode == 0, told.stderr
    assert {"fork", "spawn"} <= {*told.stdout.split()}
