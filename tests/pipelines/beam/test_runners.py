"""Every runner that works without a cluster gives the same rows; and who waits for it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import geopandas
import pandas
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.beam import jobs
from pipelines.geotag import command as geotag
from pipelines.geotag.command import draw_pages, main
from pipelines.geotag.options import UsageError, parse
from pipelines.geotag.output import PAGES
from pipelines.geotag.progress import TALLY
from support.archives import bad_members, sound_members, tar_bytes, write_tar
from support.fake_geotagger import FailsElsewhere, FakeGeotagger, FakeLoader
from support.servers import job_service, python_path, worker_pool

SUBPROCESS = (
    "--environment_type=beam:env:harness_subprocess_python:v1",
    f"--environment_config={sys.executable} -m apache_beam.runners.worker.sdk_worker_main",
)
FINISH_SECONDS = 300


pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path()["PYTHONPATH"])


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Beam waits for ever for a worker that cannot start."""

    def give_up(*args: object) -> None:
        raise TimeoutError(f"not over after {FINISH_SECONDS} s; did the workers start?")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(FINISH_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound shards, one of bad photos, one cut in the middle."""
    root = tmp_path_factory.mktemp("archive")
    for index in range(3):
        write_tar(root / f"val-{index:03d}.tar", sound_members(12, 20 * index))
    bad = [member for members, _ in bad_members().values() for member in members]
    write_tar(root / "bad-0.tar", bad)
    (root / "cut-0.tar").write_bytes(tar_bytes(sound_members(9, 60))[:9000])
    return root


@pytest.fixture(scope="module")
def reference(archive: Path, no_pages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What FnApiRunner wrote, in one process and one thread."""
    output = tmp_path_factory.mktemp("reference") / "out"
    assert main(arguments(archive, output), load=FakeLoader()) == 0
    return output


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with job_service(tmp_path_factory.mktemp("job-service")) as address:
        yield address


@dataclass(frozen=True)
class Pool:
    address: str
    log: Path

    def workers(self) -> int:
        """Processes started so far."""
        return self.log.read_text().count("Starting worker with command")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("worker-pool")
    with worker_pool(folder) as address:
        yield Pool(address, folder / "log.txt")


def arguments(archive: Path, output: Path, *flags: str) -> list[str]:
    return [f"{archive}/*.tar", "--output", str(output), "--accept-damaged", *flags]


def assert_same(output: Path, reference: Path) -> None:
    """The same rows in the same files, and the same counts."""
    for folder, read in (("predictions", geopandas.read_parquet), ("errors", pandas.read_parquet)):
        pandas.testing.assert_frame_equal(
            pandas.DataFrame(read(output / folder)),
            pandas.DataFrame(read(reference / folder)),
            check_exact=True,
        )
    files = [
        {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*.*")
            if path.name != "provenance.json"  # times and machines
        }
        for root in (output, reference)
    ]
    found, wanted = [json.loads(tree.pop("summary.json")) for tree in files]
    assert files[0] == files[1]
    assert set(found["stage_seconds"]) == set(wanted["stage_seconds"])
    assert all(seconds >= 0 for seconds in found["stage_seconds"].values())
    assert found["images_per_second"] > 0
    for summary in (found, wanted):
        for name in geotag.TIMES:
            del summary[name]
    assert found == wanted


# The same rows everywhere


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_runner_bundle_repeat=2",),
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
    ],
    ids=["repeated bundles", "threads"],
)
def test_runners_inside_this_process(
    archive: Path, reference: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert main(arguments(archive, tmp_path / "out", *flags), load=FakeLoader()) == 0
    assert_same(tmp_path / "out", reference)


@pytest.mark.ci
@pytest.mark.slow
def test_two_processes(archive: Path, reference: Path, tmp_path: Path) -> None:
    flags = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    before = TALLY.photos
    assert main(arguments(archive, tmp_path / "out", *flags), load=FakeLoader()) == 0
    assert before == TALLY.photos, "no photo was seen in this process"
    assert_same(tmp_path / "out", reference)


@pytest.mark.ci
@pytest.mark.slow
def test_a_worker_pool_with_two_workers(
    archive: Path, reference: Path, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest to a cluster on one machine; the workers' directory is not ours."""
    monkeypatch.chdir(tmp_path)
    flags = ("--environment_type=EXTERNAL", f"--environment_config={pool.address}")
    before, workers = TALLY.photos, pool.workers()
    command = arguments(archive, Path("out"), *flags, "--direct_num_workers=2")
    assert main(command, load=FakeLoader()) == 0
    assert before == TALLY.photos and pool.workers() == workers + 2
    assert_same(tmp_path / "out", reference)


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("environment", ["loopback", "subprocess", "pool"])
def test_a_job_service(
    archive: Path, reference: Path, tmp_path: Path, endpoint: str, pool: Pool, environment: str
) -> None:
    flags = {
        "loopback": ("--environment_type=LOOPBACK",),
        "subprocess": SUBPROCESS,
        "pool": ("--environment_type=EXTERNAL", f"--environment_config={pool.address}"),
    }[environment]
    portable = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", *flags)
    assert main(arguments(archive, tmp_path / "out", *portable), load=FakeLoader()) == 0
    assert_same(tmp_path / "out", reference)


@pytest.mark.ci
@pytest.mark.slow
def test_what_fails_on_a_worker_is_told_here_and_goes_on_later(
    archive: Path, reference: Path, tmp_path: Path, endpoint: str, capsys: pytest.CaptureFixture
) -> None:
    portable = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", *SUBPROCESS)
    command = arguments(archive, tmp_path / "out", *portable)
    assert main(command, load=FailsElsewhere(os.getpid())) == 1
    assert "OSError: no weights on this worker" in capsys.readouterr().err
    assert main(arguments(archive, tmp_path / "out"), load=FakeLoader()) == 0
    assert_same(tmp_path / "out", reference)


# Which runner


@pytest.mark.parametrize("name", ["DirectRunner", "directrunner", "FnApiRunner", None])
def test_this_machine_means_fn_api_runner(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """Beam's own DirectRunner would try to download another engine first."""
    taken = []

    def pipeline(runner: object, options: object) -> None:
        taken.append(runner)
        raise KeyboardInterrupt

    monkeypatch.setattr(beam, "Pipeline", pipeline)
    flags = [f"--runner={name}"] if name else []
    assert main(arguments(archive, tmp_path / "out", *flags), load=FakeLoader()) == 130
    assert [type(runner) for runner in taken] == [FnApiRunner]


def test_dask_is_refused() -> None:
    with pytest.raises(UsageError, match=r"drops branches.*--direct_num_workers"):
        parse(["--input", "a.tar", "--output", "out", "--runner=DaskRunner"])


def test_nobody_at_the_endpoint_is_told(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--runner=PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1")
    command = arguments(archive, tmp_path / "out", *flags, "--environment_type=LOOPBACK")
    assert main(command, load=FakeLoader()) == 2
    assert "nobody answers at --job_endpoint" in capsys.readouterr().err


# Waiting or not

FORM = ["--input", "a.tar", "--output", "out"]
SERVICE = ["--runner=PortableRunner", "--job_endpoint=localhost:8099"]
DATAFLOW = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"]


@pytest.mark.parametrize(
    ("flags", "wait"),
    [
        ([], True),
        (["--wait"], True),
        (["--no-wait", "--wait=true"], True),
        (SERVICE, True),
        ([*SERVICE, "--environment_type=EXTERNAL", "--no-wait"], False),
        (DATAFLOW, True),
        ([*DATAFLOW, "--no-wait"], False),
        ([*DATAFLOW, "--no_wait"], False),
        ([*DATAFLOW, "--wait=false"], False),
        # In the launcher of a Flex Template there is no job yet.
        ([*DATAFLOW, "--template_location=gs://b/job"], False),
        ([*DATAFLOW, "--dry_run=True"], False),
    ],
)
def test_who_is_waited_for(flags: list[str], wait: bool) -> None:
    assert parse([*FORM, *flags]).wait is wait


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
        ["--runner=PrismRunner"],
        SERVICE,  # nothing said of the workers: some runners take this process
        [*SERVICE, "--environment_type=LOOPBACK"],
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=DOCKER"],
    ],
)
def test_nobody_leaves_a_job_that_would_die(flags: list[str]) -> None:
    with pytest.raises(UsageError, match=r"nothing would run.*leave --no-wait out.*DataflowRunner"):
        parse([*FORM, *flags, "--no-wait"])


def test_switches_take_a_value_for_launchers_that_must_give_one() -> None:
    assert parse([*FORM, "--overwrite"]).overwrite and parse([*FORM, "--overwrite=true"]).overwrite
    assert not parse([*FORM, "--overwrite=False"]).overwrite
    with pytest.raises(UsageError, match="'yes', wanted true or false"):
        parse([*FORM, "--overwrite=yes"])


def test_paths_do_not_depend_on_the_directory_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, wanted in (
        ("runs/a", f"{tmp_path}/runs/a"),
        ("/runs/a", "/runs/a"),
        ("overhead", "overhead"),
        ("gs://b/a", "gs://b/a"),
    ):
        assert parse([*FORM, "--checkpoint", given]).loader.checkpoint == wanted
    assert geotag._output(parse(FORM)).root == f"{tmp_path}/out"


class Interrupted:
    """A job in the cloud, and somebody who presses Ctrl-C."""

    def job_id(self) -> str:
        return "2031-17"

    def wait_until_finish(self) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_does_not_pretend_to_stop_a_job_that_goes_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: Interrupted())
    monkeypatch.setattr(jobs, "_runner", lambda *options: FnApiRunner())
    assert main(arguments(archive, tmp_path / "out", *DATAFLOW), load=FakeLoader()) == 130
    told = capsys.readouterr().err
    assert "the job goes on" in told and "type the same command" not in told
    assert "dataflow/jobs/r/2031-17?project=p" in told
    assert main(arguments(archive, tmp_path / "here"), load=FakeLoader()) == 130
    assert "type the same command again" in capsys.readouterr().err


def test_the_submitting_machine_needs_no_gpu(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def load(checkpoint: object, *, device: str, **rest: object) -> FakeGeotagger:
        devices.append(device)
        return FakeGeotagger()

    monkeypatch.setattr("locdiffusion.geotagger.Geotagger.load", load)
    for flags, wanted in ((DATAFLOW, "cpu"), ([], "cuda")):
        command = arguments(archive, tmp_path / wanted, *flags, "--device=cuda")
        job = geotag.build(parse(command))
        assert devices.pop() == wanted and not devices
        assert job.options.loader.device == "cuda" and job.load == job.options.loader


# Summaries of what others did


def test_summarise_says_what_the_job_itself_said(
    archive: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    summary = reference / "summary.json"
    before = summary.read_bytes()
    assert main(arguments(archive, reference, "--summarise"), load=FakeLoader()) == 0
    assert "images/s" in capsys.readouterr().out
    assert summary.read_bytes() == before
    try:
        summary.unlink()
        assert main(["--output", str(reference), "--summarise", "--accept-damaged"]) == 0
        told = capsys.readouterr()
        assert "predictions" in told.out and "images/s" not in told.out
        assert "5 shards finished; with --input, missing ones are named" in told.err
        wanted = json.loads(before)
        again = json.loads(summary.read_bytes())
        assert again == {name: wanted[name] for name in wanted if name not in geotag.TIMES}
    finally:
        summary.write_bytes(before)


def test_summarise_draws_the_maps_and_the_report(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(archive, tmp_path / "out")
    assert main(command, load=FakeLoader()) == 0
    monkeypatch.setattr(geotag, "draw_pages", draw_pages)
    assert main([*command, "--summarise"]) == 0
    assert all((tmp_path / "out" / page).is_file() for page in PAGES)


def test_summarise_of_an_unfinished_job_names_what_is_missing(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    first = ["--input", f"{archive}/val-000.tar", "--output", str(output)]
    assert main(first, load=FakeLoader()) == 0
    assert main(arguments(archive, output, "--summarise")) == 1
    told = capsys.readouterr()
    missing = ", ".join(
        f"{archive}/{name}.tar" for name in ("bad-0", "cut-0", "val-001", "val-002")
    )
    assert f"4 shards without a result: {missing}; type the same command again, w" in told.err
    assert json.loads((output / "summary.json").read_text())["photos"] == 12
    # A shard that is being written just now.
    (output / "predictions/part-val-001.parquet").touch()
    assert main(["--output", str(output), "--summarise"]) == 1
    assert "part-val-001.parquet has no manifest" in capsys.readouterr().out


def test_summarise_runs_nothing_and_needs_a_job(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pipelines.geotag.transforms", None)
    assert main(["--output", str(tmp_path / "out"), "--summarise"]) == 2
    assert "no job of this command was started there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["--summarise"]) == 2
    assert "required: --output" in capsys.readouterr().err


@pytest.mark.ci
@pytest.mark.slow
def test_a_job_that_nobody_waits_for_outlives_its_launcher(
    archive: Path, reference: Path, tmp_path: Path, endpoint: str
) -> None:
    output = tmp_path / "out"
    code = (
        "import sys; from support.fake_geotagger import FakeLoader\n"
        "from pipelines.geotag.command import main\n"
        "sys.exit(main(load=FakeLoader()))"
    )
    portable = ("--runner=PortableRunner", f"--job_endpoint={endpoint}", *SUBPROCESS, "--no-wait")
    launcher = subprocess.run(
        [sys.executable, "-c", code, *arguments(archive, output, *portable)],
        env=python_path(),
        capture_output=True,
        text=True,
        timeout=FINISH_SECONDS,
    )
    assert launcher.returncode == 0, launcher.stderr
    where, how = launcher.stdout.splitlines()
    assert re.fullmatch(rf"job \S+ at {endpoint}", where) and "--summarise" in how
    assert not (output / "summary.json").exists()
    deadline = time.monotonic() + FINISH_SECONDS
    while len(list(output.glob("_manifest/*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert main(arguments(archive, output, "--summarise")) == 0
    wanted = json.loads((reference / "summary.json").read_text())
    (output / "summary.json").write_text(
        json.dumps({**wanted, **json.loads((output / "summary.json").read_text())})
    )
    assert_same(output, reference)
