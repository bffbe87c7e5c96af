"""Checks an image from inside, before a job pays for a thousand of it.

    docker run --rm --gpus all --entrypoint python IMAGE check_worker.py
    docker run --rm --entrypoint python IMAGE check_worker.py --device cpu

The checks: versions are those of constraints.txt, torch sees the GPU, the package of a job can be
installed without a network, and one photo can be geotagged. Exit status 1 means that a job would
fail.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Packages whose versions decide whether worker and submitter understand each other, and on which
# predictions depend.
VERSIONED = ("apache-beam", "numpy", "pillow", "pyarrow", "timm", "torch", "torchvision")
PACKAGE = {
    "pyproject.toml": (
        '[build-system]\nrequires = ["setuptools>=77.0.3"]\n'
        'build-backend = "setuptools.build_meta"\n'
    ),
    "setup.py": 'from setuptools import setup\nsetup(name="probe-of-the-image", version="1")\n',
}


class CheckFailed(Exception):
    """A check failed; the message says why, and what to do."""


def pins(constraints: Path) -> dict[str, str]:
    """Reads the exact versions that constraints.txt asks for on this Python, by package."""
    from packaging.requirements import Requirement

    lines = [line for line in constraints.read_text("utf-8").splitlines() if line[:1].isalpha()]
    wanted = [Requirement(line) for line in lines]
    return {
        one.name.lower().replace("_", "-"): str(one.specifier).removeprefix("==")
        for one in wanted
        if one.marker is None or one.marker.evaluate()
    }


def check_versions(constraints: Path) -> str:
    """Checks that installed packages have the pinned versions; `+cpu` behind one is allowed."""
    wanted = pins(constraints)
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in VERSIONED}
    wrong = [
        f"{name} {version}, wanted {wanted[name]}"
        for name, version in found.items()
        if version != wanted[name]
    ]
    if wrong:
        raise CheckFailed(f"{'; '.join(wrong)}: build the image from this commit's constraints.txt")
    python = ".".join(map(str, sys.version_info[:2]))
    listed = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"Python {python} (submit with the same), {listed}"


def check_device(device: str) -> str:
    """Checks that torch can compute on the device."""
    import torch

    if device == "cpu":
        return f"{os.cpu_count()} CPUs"
    from locdiffusion.model.cuda import check_gpu
    from locdiffusion.model.nvidia_driver import loaded_driver

    try:
        check_gpu(device)
    except ValueError as error:
        raise CheckFailed(
            f"{error}. Was docker run with --gpus all? An image for CPUs is checked with "
            "--device cpu"
        ) from error
    torch.ones(1, device=device).add_(1)  # a driver that is too old fails here, not before
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    versions = f"CUDA {torch.version.cuda}, driver {loaded_driver()}"
    return f"{name}, compute capability {major}.{minor}, {versions}"


def check_package() -> str:
    """Checks that a source package can be installed as on a worker: without a network."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in PACKAGE.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(Path(folder, "installed")), folder]
        environment = {**os.environ, "PIP_NO_INDEX": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        raise CheckFailed(
            "a source package could not be built without a network; keep PIP_NO_BUILD_ISOLATION=0 "
            f"and setuptools in the image ({lines[0] if lines else f'exit {done.returncode}'})"
        )
    return "the job's package can be installed without a network"


def check_model(device: str, checkpoint: str | None, encoder: str | None) -> str:
    """Checks that the model loads, from the image or from a bucket, and geotags one photo."""
    from PIL import Image

    from pipelines.geotag.model_cache import GeotaggerLoader

    try:
        load = GeotaggerLoader(checkpoint=checkpoint, encoder=encoder, device=device)
        geotagger = load()
        photo = Image.linear_gradient("L").convert("RGB")
        [answer] = geotagger.geotag([photo], ["check"])  # type: ignore[attr-defined]
    except (ValueError, RuntimeError, OSError) as error:
        raise CheckFailed(f"the model cannot be used: {error}") from error
    return f"{geotagger.model_id} puts a test picture at {answer}"


def check(
    device: str, constraints: Path, checkpoint: str | None, encoder: str | None
) -> Iterator[tuple[str, str | CheckFailed]]:
    """Runs all checks, also after one has failed.

    Yields:
        Name of a check, and what it found or why it failed.
    """
    checks: dict[str, Callable[[], str]] = {
        "versions": lambda: check_versions(constraints),
        "device": lambda: check_device(device),
        "package": check_package,
        "model": lambda: check_model(device, checkpoint, encoder),
    }
    for name, run in checks.items():
        try:
            yield name, run()
        except CheckFailed as failed:
            yield name, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each check.

    Args:
        arguments: Words without the program's name; None takes `sys.argv`.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="check_worker.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="torch device (%(default)s)")
    parser.add_argument("--checkpoint", metavar="PATH", help="a directory, also in gs://")
    parser.add_argument("--encoder", metavar="NAME", help="for weights in gs://")
    parser.add_argument("--constraints", type=Path, default=HERE / "constraints.txt")
    given = parser.parse_args(arguments)
    failures = 0
    for name, result in check(given.device, given.constraints, given.checkpoint, given.encoder):
        failed = isinstance(result, CheckFailed)
        failures += failed
        print(f"{'FAILED' if failed else 'ok':<7} {name:<9} {result}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
