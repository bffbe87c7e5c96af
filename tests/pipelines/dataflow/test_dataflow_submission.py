"""A whole submission to Google Dataflow, against stand-ins of its services on this machine.

The storage is an emulator, the job service is `dataflow_service`. What arrives there is read back;
then the staged package is installed where nothing of this checkout can be seen, and the staged
graph runs there. `make dataflow-check` runs all of it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc, endpoints_pb2
from apache_beam.portability.api import beam_runner_api_pb2 as api
from grpc import insecure_channel

from locdiffusion.photos.listing import shard_stem
from pipelines.dataflow import command as dataflow
from pipelines.geotag import command as geotag
from support import ROOT
from support.archives import sound_members, write_tar
from support.dataflow_service import DONE, FAILED, REASON, DataflowService, dataflow_service
from support.rows import assert_same_rows, columns
from support.servers import START_SECONDS, Bucket, free_port, job_service, storage

IMAGE = "europe-west4-docker.pkg.dev/test-project/images/worker:1"
SHARDS, PHOTOS = 2, 4
PACKAGE = "workflow.tar.gz"
MOST_BYTES = 44 * 2**20  # of the package with two checkpoints and borders: every worker fetches it
RUN_SECONDS = 300  # for a few photos; where no worker comes, Beam waits for ever


@dataclass
class Job:
    """A submitted job, and what was staged for it."""

    description: dict[str, Any]
    pipeline: api.Pipeline
    package: bytes

    @property
    def pool(self) -> dict[str, Any]:
        [pool] = self.description["environment"]["workerPools"]
        return dict(pool)


@dataclass
class Cloud:
    """The stand-ins, with photos and a model in the bucket, and the same photos here."""

    bucket: Bucket
    service: DataflowService
    photos: Path
    checkpoint: Path

    def submit(self, *changes: str) -> Job:
        """Types `make run-dataflow`, in effect."""
        settings = {
            "PROJECT": "test-project",
            "REGION": "europe-west4",
            "IMAGE": IMAGE,
            "INPUT": f"{self.bucket.url}/photos/*.tar",
            "OUTPUT": f"{self.bucket.url}/out",
            "CHECKPOINT": f"{self.bucket.url}/tiny",
            "FLAGS": self.service.flags,
            "SMOKE": "no",
            **dict(change.split("=", 1) for change in changes),
        }
        before = len(self.service.jobs)
        assert dataflow.main(["geotag", *(f"{k}={v}" for k, v in settings.items())]) == 0
        [description] = self.service.jobs[before:]
        return self.staged(description)

    def staged(self, description: dict[str, Any]) -> Job:
        """Reads back what the job's description points to."""
        [pool] = description["environment"]["workerPools"]
        places = {one["name"]: one["location"] for one in pool["packages"]}
        folder = places[PACKAGE].removeprefix("storage.googleapis.com/").removesuffix(PACKAGE)
        files = fsspec.filesystem("gs")
        pipeline = api.Pipeline.FromString(files.cat_file(f"{folder}pipeline.pb"))
        return Job(description, pipeline, files.cat_file(folder + PACKAGE))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    for index in range(SHARDS):
        write_tar(folder / "photos" / f"s-{index}.tar", sound_members(PHOTOS, 10 * index))
    with storage(folder, "test-bucket") as bucket, dataflow_service() as service:
        files = fsspec.filesystem("gs")
        for path in [*(folder / "photos").iterdir(), *tiny_checkpoint.iterdir()]:
            files.put_file(str(path), f"{bucket.url}/{path.parent.name}/{path.name}")
        files.pipe_file(
            f"{bucket.url}/mp16.csv", b"IMG_ID,AUTHOR,LAT,LON\n1/2/3.jpg,6@N00,4.0,5.0\n"
        )
        yield Cloud(bucket, service, folder / "photos", tiny_checkpoint)


@pytest.fixture(scope="module")
def job(cloud: Cloud) -> Job:
    return cloud.submit("MAX_WORKERS=7", "ZONE=europe-west4-b", "JOB_NAME=check")


# What was submitted


def test_the_job_asks_for_what_was_set(cloud: Cloud, job: Job) -> None:
    description, pool = job.description, job.pool
    assert (description["project"], description["region"]) == ("test-project", "europe-west4")
    assert description["name"] == "check"
    environment = description["environment"]
    assert environment["serviceOptions"] == [
        "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"
    ]
    assert {"no_use_multiple_sdk_containers", "use_runner_v2"} <= set(environment["experiments"])
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert pool["machineType"] == "g2-standard-8"
    assert pool["numThreadsPerWorker"] == 16
    assert pool["numWorkers"] == 7, "the fleet starts at its full size"
    assert pool["diskSizeGb"] == 50
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert [one["containerImage"] for one in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert environment["workerZone"] == "europe-west4-b"
    assert cloud.service.unknown == []


def test_nothing_but_the_claim_was_written_to_the_output(cloud: Cloud, job: Job) -> None:
    files = fsspec.filesystem("gs").find(f"{cloud.bucket.url}/out")
    assert sorted(name.rpartition("/")[2] for name in files) == ["provenance.json", "run.json"]


def test_the_graph_is_the_job_of_the_readme(job: Job) -> None:
    steps = {one.unique_name for one in job.pipeline.components.transforms.values()}
    assert {
        *("ListShards", "Geotag/Reshuffle", "Geotag/ReadShards"),
        *("Geotag/Embed", "Geotag/Sample", "Geotag/Decode", "Geotag/WriteShards/Write"),
        *("Geotag/WriteShards/RegroupByShard", "Geotag/WriteShards/WriteRegrouped"),
    } <= steps
    environments = job.pipeline.components.environments.values()
    payloads = [api.DockerPayload.FromString(one.payload) for one in environments]
    assert {payload.container_image for payload in payloads} == {IMAGE}
    assert all(not one.resource_hints for one in environments), "no right fitting beside a GPU"


def test_the_package_is_our_code_and_light(job: Job) -> None:
    assert len(job.package) < MOST_BYTES
    with tarfile.open(fileobj=io.BytesIO(job.package)) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    for file in (
        "pipelines/geotag/transforms.py",
        "schemas/geotags.py",
        "locdiffusion/density/shdd.py",
    ):
        assert file in names
    assert "locdiffusion/checkpoints/overhead/model.safetensors" in names
    assert "FOR_WORKERS" in names, "workers install it without naming extras"
    assert not any(name.startswith((".venv", "out/", "docs/", "deploy/")) for name in names)


# What was staged, installed and run elsewhere


@pytest.fixture(scope="module")
def elsewhere(cloud: Cloud, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has our dependencies, and our code from the staged package only."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    # A plain path: what is installed beside our dependencies in editable form stays invisible.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    package = folder / PACKAGE
    package.write_bytes(job.package)
    # As Beam's boot program does it on a worker, with the image's environment and no network.
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", package],
        env={**clean_environment(), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return python


def clean_environment() -> dict[str, str]:
    """This one, without a way to the checkout."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": "1"}


def run_elsewhere(python: Path, code: str) -> str:
    done = subprocess.run(
        [python, "-c", code],
        cwd=python.parent,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_staged_package_brings_every_module_that_a_worker_needs(
    elsewhere: Path, job: Job
) -> None:
    names = modules(job.package)
    code = f"import importlib\nfor n in {names}: print(importlib.import_module(n).__file__)"
    found = run_elsewhere(elsewhere, code).split()
    assert len(found) == len(names) > 100
    assert all(Path(file).is_relative_to(elsewhere.parents[1]) for file in found)
    code = "from locdiffusion import checkpoint; print(checkpoint.load().model_id)"
    assert run_elsewhere(elsewhere, code).startswith("overhead-"), "the shipped model is in it"


def modules(package: bytes) -> list[str]:
    """Names of all modules of ours in a source package."""
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        files = [Path(name.partition("/")[2]) for name in tar.getnames()]
    rooms = ("pipelines", "locdiffusion", "schemas")
    ours = [file for file in files if file.suffix == ".py" and file.parts[0] in rooms]
    names = sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in ours)
    return [name for name in names if not name.endswith("__main__")]


@contextmanager
def workers_elsewhere(python: Path, folder: Path) -> Iterator[str]:
    """A worker pool of that Python; yields its address."""
    port = free_port()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
            cwd=folder,
            # The pool starts workers as `python`, whichever that is.
            env={**clean_environment(), "PATH": f"{python.parent}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not listening(port):
            assert process.poll() is None and time.monotonic() < deadline, "no worker pool"
            time.sleep(0.1)
        yield f"localhost:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def run_staged(pipeline: api.Pipeline, workers: str, service: str) -> int:
    """Hands a staged graph to Beam's job service, its workers replaced; the state it ends in."""
    graph = api.Pipeline()
    graph.CopyFrom(pipeline)
    external = api.ExternalPayload(endpoint=endpoints_pb2.ApiServiceDescriptor(url=workers))
    for environment in graph.components.environments.values():
        environment.urn = "beam:env:external:v1"
        environment.payload = external.SerializeToString()
        del environment.dependencies[:]  # the package is installed there already
    with insecure_channel(service) as channel:
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel)
        prepared = jobs.Prepare(
            beam_job_api_pb2.PrepareJobRequest(job_name="staged", pipeline=graph)
        )
        started = jobs.Run(beam_job_api_pb2.RunJobRequest(preparation_id=prepared.preparation_id))
        states = jobs.GetStateStream(
            beam_job_api_pb2.GetJobStateRequest(job_id=started.job_id), timeout=RUN_SECONDS
        )
        return int([state.state for state in states][-1])


@pytest.mark.ci
@pytest.mark.slow
def test_the_staged_graph_runs_and_gives_the_rows_of_a_local_run(
    cloud: Cloud, elsewhere: Path, tmp_path: Path
) -> None:
    """Of the job without GPUs, of which there are none here; it differs in `device` only."""
    job = cloud.submit("GPU=none", f"OUTPUT={cloud.bucket.url}/staged", "BATCH_SIZE=3")
    with workers_elsewhere(elsewhere, tmp_path) as workers, job_service(tmp_path / "s") as service:
        state = run_staged(job.pipeline, workers, service)
    assert state == beam_job_api_pb2.JobState.DONE, (tmp_path / "log.txt").read_text()[-3000:]
    here = tmp_path / "out"
    flags = ["--checkpoint", str(cloud.checkpoint), "--batch_size=3"]
    assert geotag.main(["--input", f"{cloud.photos}/*.tar", "--output", str(here), *flags]) == 0
    fsspec.filesystem("gs").get(f"{cloud.bucket.url}/staged", str(tmp_path / "got"), recursive=True)
    there = tmp_path / "got"
    found, wanted = columns(there), columns(here)
    assert len(found["key"]) == SHARDS * PHOTOS
    for rows in (found, wanted):  # the rest of an id tells where the shard lies
        rows["shard"] = [shard_stem(shard) for shard in rows["shard"]]
    assert_same_rows(found, wanted)
    schemas = [pq.read_table(root / "predictions").schema for root in (there, here)]
    assert schemas[0].equals(schemas[1])
    run = [json.loads((root / "run.json").read_text()) for root in (there, here)]
    assert run[0] == run[1], "the same run, wherever the checkpoint lies"


@pytest.mark.slow
def test_with_the_gpu_the_graph_is_the_same(cloud: Cloud, job: Job) -> None:
    without = cloud.submit("GPU=none", f"OUTPUT={cloud.bucket.url}/none", "BATCH_SIZE=3")
    names = [
        sorted(one.unique_name for one in graph.components.transforms.values())
        for graph in (job.pipeline, without.pipeline)
    ]
    assert names[0] == names[1]


@pytest.mark.slow
def test_the_shards_job_is_submitted_too(cloud: Cloud) -> None:
    settings = {
        "PROJECT": "test-project",
        "REGION": "europe-west4",
        "IMAGE": IMAGE,
        "SOURCE": "mp16",
        "METADATA": f"{cloud.bucket.url}/mp16.csv",
        "IMAGES": f"{cloud.bucket.url}/mp16",
        "OUTPUT": f"{cloud.bucket.url}/shards",
        "FLAGS": cloud.service.flags,
    }
    before = len(cloud.service.jobs)
    assert dataflow.main(["shards", *(f"{k}={v}" for k, v in settings.items())]) == 0
    [description] = cloud.service.jobs[before:]
    assert "serviceOptions" not in description["environment"]
    assert "use_multiple_sdk_containers" in description["environment"]["experiments"]
    job = cloud.staged(description)
    assert job.pool["machineType"] == "n2-standard-8"
    steps = {one.unique_name for one in job.pipeline.components.transforms.values()}
    assert {"BuildShards/PlanShards/ReadRecords", "BuildShards/MakeShards/FetchShards"} <= steps


# The job of one shard


@pytest.mark.slow
@pytest.mark.parametrize("state", [DONE, FAILED])
def test_one_shard_is_geotagged_before_the_fleet_is_submitted(
    cloud: Cloud, state: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, url = f"{cloud.bucket.url}/fleet-{state}", cloud.bucket.url
    name = f"fleet-{state}"
    small = f"{output}-tmp/{name}-smoke"

    def work() -> int:
        flags = ["--output", small, "--checkpoint", f"{url}/tiny"]
        words = ["locdiffusion", "geotag", f"{url}/photos/s-0.tar", *flags]
        if state == DONE:
            subprocess.run(
                [sys.executable, "-m", *words], cwd=ROOT, check=True, timeout=RUN_SECONDS
            )
        return state

    monkeypatch.setattr(cloud.service, "work", work)
    before = len(cloud.service.jobs)
    settings = {
        **{"PROJECT": "test-project", "REGION": "europe-west4", "IMAGE": IMAGE, "GPU": "none"},
        **{"INPUT": f"{url}/photos/*.tar", "OUTPUT": output, "CHECKPOINT": f"{url}/tiny"},
        **{"JOB_NAME": name, "FLAGS": cloud.service.flags},
    }
    status = dataflow.main(["geotag", *(f"{k}={v}" for k, v in settings.items())])
    jobs = cloud.service.jobs[before:]
    told = capsys.readouterr().err
    assert cloud.service.unknown == []
    pools = [job["environment"]["workerPools"][0] for job in jobs]
    assert pools[0]["numWorkers"] == 1
    if state == DONE:
        assert status == 0 and [job["name"] for job in jobs] == [f"{name}-smoke", name]
        assert pools[1]["numWorkers"] == 10
        assert f"it works: {PHOTOS} photos geotagged. Now the fleet" in told
    else:
        assert status == 1 and [job["name"] for job in jobs] == [f"{name}-smoke"]
        for part in (REASON, "https://console.cloud.google.com/dataflow/jobs/europe-west4/job-"):
            assert part in told
        assert "nothing else was started. SMOKE=no" in told


# Flex Templates


def parameters(template: str, bucket: str) -> dict[str, str]:
    """Of a launch from the console, and what Google's launcher adds."""
    ours = {
        "geotag": {
            "input": f"{bucket}/photos/*.tar",
            "checkpoint": f"{bucket}/tiny",
            "overwrite": "false",
        },
        "build_shards": {
            "source": "mp16",
            "metadata": f"{bucket}/mp16.csv",
            "images": f"{bucket}/mp16",
            "val-fraction": "0.1",
        },
    }
    return {
        **ours[template],
        "output": f"{bucket}/flex-{template}",
        "runner": "DataflowRunner",
        "project": "test-project",
        "region": "europe-west4",
        "job_name": "flex",
        "temp_location": f"{bucket}/tmp",
        "staging_location": f"{bucket}/staging",
        "sdk_container_image": IMAGE,
        "template_location": f"{bucket}/template/{template}.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize("template", ["geotag", "build_shards"])
def test_a_template_launches_without_submitting_or_waiting(cloud: Cloud, template: str) -> None:
    """What Google's launcher does: name=value for each parameter, and where to describe the job."""
    given = parameters(template, cloud.bucket.url)
    words = [f"--{name}={value}" for name, value in given.items()]
    before = len(cloud.service.jobs)
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "flex_main.py", "--no_auth", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOCDIFFUSION_PIPELINE": template},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(cloud.service.jobs) == before
    with fsspec.open(given["template_location"]) as file:
        job = json.load(file)
    assert job["name"] == "flex"
    assert job["environment"]["workerPools"][0]["workerHarnessContainerImage"] == IMAGE
