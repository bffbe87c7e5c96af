"""The image, its check, and the page about them: what they name exists, and says the same."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from experiments.dataflow_simulation import cost, stragglers
from experiments.dataflow_simulation.fleet import Fleet, busy_share
from locdiffusion.photos.listing import list_shards
from pipelines.dataflow.machines import CUDAS, check_driver, vcpus_of
from pipelines.dataflow.settings import NAMES, Settings
from pipelines.geotag.output import Output, RunConfiguration
from pipelines.geotag.transforms import Geotag
from support import ROOT
from support.archives import sound_members, write_tar
from support.fake_geotagger import FakeLoader
from support.project import make_targets, setup_arguments

DEPLOY = ROOT / "deploy"
README = (DEPLOY / "README.md").read_text("utf-8")


def pins() -> dict[str, str]:
    """Exact versions of constraints.txt that hold on this Python."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = map(Requirement, (line for line in lines if line[:1].isalpha()))
    here = [one for one in found if one.marker is None or one.marker.evaluate()]
    return {one.name: str(one.specifier).removeprefix("==") for one in here}


# The Dockerfile


@dataclass
class Instruction:
    """A line of the Dockerfile with its continuations.

    Attributes:
        word: FROM, RUN, ...
        text: the rest.
        reason: the comments above it, as far as the next empty line.
        workdir: of the moment.
    """

    word: str
    text: str
    reason: str
    workdir: str


def instructions() -> Iterator[Instruction]:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text("utf-8"))
    comment, workdir = "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment += line
            continue
        if not line.strip():
            comment = ""
            continue
        word, _, rest = line.partition(" ")
        if word == "WORKDIR":
            workdir = rest
        yield Instruction(word, rest, comment, workdir)


def of(word: str) -> list[Instruction]:
    return [one for one in instructions() if one.word == word]


def arguments() -> dict[str, str]:
    return dict(one.text.split("=", 1) for one in of("ARG"))


def test_the_image_has_the_versions_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments()["BEAM"] == pins()["apache-beam"]
    pythons = SpecifierSet(setup_arguments(monkeypatch)["python_requires"])
    assert f"{arguments()['PYTHON']}.0" in pythons
    [torch] = (one.text for one in of("RUN") if "${TORCH}" in one.text)
    older, newer, cpu = (one.text for one in of("ENV") if one.text.startswith("TORCH="))
    assert "--require-hashes --no-deps -r torch.lock" in newer
    assert "/cu126 -r torch.txt" in older and "/cpu --no-deps -r torch.txt" in cpu
    assert "grep -E '^(torch|torchvision)==' constraints.txt > torch.txt" in torch
    installs = [one.text for one in of("RUN") if "pip install" in one.text and one.text != torch]
    for command in (part for text in installs for part in re.findall(r"pip install[^&]*", text)):
        pinned = "--require-hashes" in command or "--no-deps --force-reinstall ." in command
        assert pinned and "--no-cache-dir" in command, command


def test_the_driver_that_a_job_asks_for_runs_the_cuda_of_the_image() -> None:
    stages = {one.text.partition(" AS ")[2] for one in of("FROM")}
    assert {f"base-cuda{version}" for version in CUDAS} <= stages
    assert arguments()["CUDA"] == CUDAS[0] == Settings("geotag").cuda
    check_driver(arguments()["CUDA"], Settings("geotag").nvidia_driver)


def test_the_locks_hold_hashes_of_the_tested_versions() -> None:
    text = "".join(
        (DEPLOY / f"{name}.lock").read_text("utf-8") for name in ("requirements", "torch")
    )
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    tested = set((ROOT / "constraints.txt").read_text("utf-8").splitlines())
    for entry in entries:
        version, *hashes = entry.split("\n    --hash=sha256:")
        version = version.removesuffix(" \\")
        assert version.rstrip() in tested, f"{version}: run make hashes"
        assert hashes and all(re.fullmatch(r"[0-9a-f]{64} ?\\?\n?", one) for one in hashes)
    names = {re.match("[a-z0-9._-]+", entry)[0] for entry in entries}
    assert {"torch", "apache-beam", "gcsfs", "h3", "pi-heif", "setuptools"} <= names


def test_strangers_files_are_decoded_by_a_user_without_rights() -> None:
    [user] = [one.text for one in of("RUN") if one.text.startswith("useradd")]
    assert "LOCDIFFUSION_CHILD_USER=decoder" in [one.text for one in of("ENV")]
    assert user.endswith(" decoder") and "--no-create-home" in user
    assert [one.text for one in of("USER")] == ["${RUN_AS}"]


def test_every_line_has_its_reason() -> None:
    without = [
        f"{one.word} {one.text}"
        for one in instructions()
        if one.word in ("ARG", "ENV", "FROM", "RUN", "ENTRYPOINT") and not one.reason
    ]
    assert without == []


def test_the_main_rules_of_hadolint() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}
    assert {one.word for one in instructions()} == known, "no ADD, no shell form"
    stages = set()
    for one in of("FROM"):
        image, _, stage = one.text.partition(" AS ")
        tagged = re.search(r":[^/]+$", image) and not image.endswith(":latest")
        assert tagged or image.startswith("base-"), f"{image}: pin its tag"
        stages.add(stage)
    for one in of("COPY"):
        source = re.match(r"--from=(\S+)", one.text)
        assert source is None or source[1] in stages
    assert all(one.text.startswith("/") for one in of("WORKDIR"))
    [entry] = of("ENTRYPOINT")
    assert json.loads(entry.text) == ["/opt/apache/beam/boot"]
    for one in of("RUN"):
        assert not re.search(r"\b(sudo|cd|wget|curl|apt-get upgrade)\b", one.text)


def test_what_is_copied_exists_and_is_sent_to_docker() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = set()
    for one in of("COPY"):
        if "--from=" not in one.text:
            copied |= set(one.text.split()[:-1])
    assert all((ROOT / name).exists() for name in copied)
    assert copied == sent


def test_a_worker_does_not_start_beside_another_copy_of_our_code() -> None:
    """`python -m` looks into its directory first: that copy would hide the job's own package."""
    rooms = {"schemas", "locdiffusion", "pipelines"}
    places = {one.workdir for one in of("COPY") if rooms & set(one.text.split())}
    last = list(instructions())[-1].workdir
    assert last not in places
    [install] = [one.text for one in of("RUN") if "--force-reinstall" in one.text]
    assert all(re.search(rf"rm -rf .*\b{room}\b", install) for room in rooms)


# What runs inside the image


def loaded(name: str) -> ModuleType:
    """A script of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check_worker() -> ModuleType:
    return loaded("check_worker")


def test_other_versions_than_the_pinned_are_told(check_worker: ModuleType, tmp_path: Path) -> None:
    assert "torch" in check_worker.check_versions(ROOT / "constraints.txt")
    other = tmp_path / "constraints.txt"
    text = (ROOT / "constraints.txt").read_text("utf-8")
    other.write_text(text.replace(f"torch=={pins()['torch']}", "torch==1.0"))
    with pytest.raises(check_worker.CheckFailed, match=r"torch .*, wanted 1\.0: build the image"):
        check_worker.check_versions(other)


def test_a_missing_gpu_is_told(check_worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(check_worker.CheckFailed, match=r"sees no GPU.*--gpus all"):
        check_worker.check_device("cuda")


def test_a_model_that_cannot_be_had_is_told(check_worker: ModuleType) -> None:
    with pytest.raises(check_worker.CheckFailed, match="No checkpoint at 'nowhere'"):
        check_worker.check_model("cpu", "nowhere", None)


def test_all_checks_run_though_one_fails(
    check_worker: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> str:
        raise check_worker.CheckFailed("why")

    monkeypatch.setattr(check_worker, "check_package", fails)
    monkeypatch.setattr(check_worker, "check_model", lambda *_: "an answer")
    flags = ["--device", "cpu", "--constraints", str(ROOT / "constraints.txt")]
    assert check_worker.main(flags) == 1
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["ok", "versions"], ["ok", "device"], ["FAILED", "package"], ["ok", "model"]]


@pytest.mark.ci
@pytest.mark.slow
def test_a_worker_without_gpu_passes() -> None:
    flags = ["--device", "cpu", "--constraints", ROOT / "constraints.txt"]
    done = subprocess.run(
        [sys.executable, DEPLOY / "check_worker.py", *flags],
        env={"PYTHONPATH": str(ROOT), "PIP_NO_BUILD_ISOLATION": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 4


@pytest.mark.parametrize("name", ["", "geotags"])
def test_a_template_of_another_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCDIFFUSION_PIPELINE", name)
    with pytest.raises(SystemExit, match="wanted one of"):
        runpy.run_path(str(DEPLOY / "flex_main.py"), run_name="__main__")


def test_the_image_and_its_main_file_name_the_same_pipelines() -> None:
    known = loaded("flex_main").KNOWN
    assert arguments()["PIPELINE"] in known
    assert {f"{name}.json" for name in known} == {path.name for path in (DEPLOY / "flex").iterdir()}


# The page


def test_every_file_the_page_names_exists() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", README)) | {"deploy/stragglers.png"}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    ours = {path.name for path in DEPLOY.iterdir() if path.is_file()} - {"README.md"}
    told = {Path(name).name for name in named}
    assert ours - told - {"Dockerfile.dockerignore"} == set(), "the page tells of every file"


def test_every_target_and_setting_the_page_names_exists() -> None:
    assert {"run-dataflow", "run-dataflow-shards", "dataflow-check"} <= make_targets()
    commands = re.findall(r"make run-dataflow.*?\n(?=\n|```)", README, re.DOTALL)
    settings = set(re.findall(r"\b([A-Z][A-Z_]+)=", " ".join(commands)))
    settings |= set(re.findall(r"`([A-Z][A-Z_]+)=?`", README.split("## Resume")[0]))
    settings -= {"HF_HUB_OFFLINE", *arguments()}
    assert settings and settings <= set(NAMES)


def test_the_parameters_of_the_template_command_exist() -> None:
    document = json.loads((DEPLOY / "flex" / "geotag.json").read_text("utf-8"))
    ours = {one["name"]: one["regexes"][0] for one in document["parameters"]}
    given = dict(re.findall(r"--parameters '?(\w+)='?([^'\s]+)", README))
    assert {"input", "output", "device"} <= set(given)
    of_beam = {"sdk_container_image", "dataflow_service_options"}
    for name, value in given.items():
        assert name in of_beam or re.fullmatch(ours[name], value), name


def test_every_counter_the_page_explains_is_counted(tmp_path: Path) -> None:
    told = set(re.findall(r"`(\w+) / (\w+)`", README.split("## Watch")[1].split("## Resume")[0]))
    shard = write_tar(tmp_path / "a.tar", sound_members(5))
    pipeline = beam.Pipeline(runner=FnApiRunner())
    output = Output(str(tmp_path / "out"))
    geotag = Geotag(FakeLoader(), RunConfiguration("fake", "f" * 64, 0, {}), output, 2)
    _ = pipeline | beam.Create(list_shards([str(shard)])) | "Geotag" >> geotag
    result = pipeline.run()
    result.wait_until_finish()
    metrics = [one for kind in result.metrics().query().values() for one in kind]
    found = {(one.key.metric.namespace, one.key.metric.name): one.result for one in metrics}
    # Beam counts failures only where there were some.
    assert told - set(found) <= {("embed", "failed_batches_counter")}
    assert found["embed", "num_inferences"] == 5


def test_the_numbers_are_those_of_a_job_with_the_default_settings() -> None:
    job = Settings("geotag")
    fleet = Fleet(10**5, 2000, 1, 400.0)
    assert fleet.threads == job.harness_threads
    given = vars(cost.parser().parse_args(["--photos=1", "--images-per-second=1", "--workers=1"]))
    defaults = (job.harness_threads, job.machine, job.disk_gb)
    assert (given["threads"], given["machine_type"], given["disk_gib"]) == defaults
    assert f"{job.harness_threads} threads per worker" in " ".join(README.split())
    assert f"({job.harness_threads} threads on a `{job.machine}`)" in " ".join(README.split())
    vcpus = vcpus_of(job.machine)
    shares = [busy_share(count, vcpus, vcpus, 1.0) for count in (vcpus, job.harness_threads)]
    assert "{:.0%} of the time instead of {:.0%}".format(*shares[::-1]).replace("%", " %") in README


def test_the_examples_are_what_the_calculator_says() -> None:
    section = README.split("## Cost")[1]
    rows = re.findall(r"^\| ([\d,]+(?: \| [\d.,]+){5}) \|$", section, re.MULTILINE)
    examples = [[float(cell.replace(",", "")) for cell in row.split(" | ")] for row in rows]
    examples = [row for row in examples if row[2] == round(row[2])]  # photos, size, workers, ...
    assert [row[0] for row in examples] == [1e5, 1e7, 1e9]
    for photos, size, workers, hours, ideal, paid in examples:
        if photos > 1e8:
            continue  # takes seconds; the same arithmetic
        fleet = Fleet(int(photos), int(size), int(workers), 400.0)
        found = cost.estimate(fleet, 1.0, 300.0)
        assert (hours, ideal, paid) == (
            round(found.hours, 2),
            round(found.ideal_worker_hours, 2),
            round(found.most_worker_hours, 2),
        )


def test_the_table_of_shard_sizes_is_what_the_simulation_says() -> None:
    """Its cheap corner: the rest takes a minute."""
    fleet = Fleet(10**8, 1, 1, 400.0)
    sizes, workers = (20_000, 100_000), (10, 300)
    table = stragglers.sweep(fleet, sizes, workers)
    for size in sizes:
        [line] = re.findall(rf"^\| {size:,} \| (\d[^|]*\).*) \|$", README, re.MULTILINE)
        cells = line.split(" | ")
        for cell, count in ((cells[0], 10), (cells[3], 300)):
            run, paid = table[count][size]
            assert cell == f"{run.seconds / 3600:.2f} ({paid:.2f})"
