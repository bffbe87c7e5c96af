"""What a Dataflow job is told: the command line that follows, and every mistake refused in time."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

from locdiffusion.cli.parser import RunFailed, UsageError
from pipelines.build_shards.options import parse as parse_build
from pipelines.dataflow import command as dataflow
from pipelines.dataflow import smoke
from pipelines.dataflow.flags import arguments
from pipelines.dataflow.machines import (
    ACCELERATORS,
    MIN_COMPUTE_CAPABILITY,
    MachineError,
    accelerator,
    check_machine,
    vcpus_of,
)
from pipelines.dataflow.reading import SettingsError, read_settings
from pipelines.dataflow.settings import NAMES, Settings, names_of
from pipelines.geotag.options import parse
from support import ROOT
from support.archives import sound_members, write_tar
from support.project import handed_by_make, telling_environment

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
IMAGE = "europe-west4-docker.pkg.dev/my-project/images/worker:1"
GEOTAG = {
    "PROJECT": "my-project",
    "REGION": "europe-west4",
    "IMAGE": IMAGE,
    "INPUT": "gs://my-bucket/photos/*.tar",
    "OUTPUT": "gs://my-bucket/geotags",
}
SHARDS = {
    **{name: value for name, value in GEOTAG.items() if name != "INPUT"},
    "SOURCE": "mp16",
    "METADATA": "gs://my-bucket/a.csv gs://my-bucket/b.csv",
}


def words(settings: dict[str, str], **changes: str) -> list[str]:
    return [f"{name}={value}" for name, value in {**settings, **changes}.items()]


def read(pipeline: str = "geotag", **changes: str) -> Settings:
    return read_settings(pipeline, words(GEOTAG if pipeline == "geotag" else SHARDS, **changes))


def command(pipeline: str = "geotag", **changes: str) -> list[str]:
    return arguments(read(pipeline, **changes), NOW)


# The command


def test_the_command_of_a_job_with_gpus() -> None:
    setup = str(ROOT / "setup.py")
    assert command() == [
        *("--input", "gs://my-bucket/photos/*.tar", "--output", "gs://my-bucket/geotags"),
        *("--batch-size=128", "--bf16", "--device=cuda", "--no-wait"),
        *("--runner=DataflowRunner", "--project=my-project", "--region=europe-west4"),
        "--job_name=locdiffusion-geotag-20260203-040506",
        "--temp_location=gs://my-bucket/geotags-tmp",
        "--staging_location=gs://my-bucket/geotags-tmp/staging",
        *(f"--setup_file={setup}", f"--sdk_container_image={IMAGE}", "--sdk_location=container"),
        "--no_save_main_session",
        *("--machine_type=g2-standard-8", "--max_num_workers=10", "--num_workers=10"),
        "--disk_size_gb=50",
        "--experiments=no_use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=16",
        "--dataflow_service_options="
        "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx",
    ]


def test_the_command_of_a_job_without_gpus_asks_for_none() -> None:
    flags = command(GPU="none")
    assert "--device=cpu" in flags and "--machine_type=n2-standard-8" in flags
    assert "--number_of_worker_harness_threads=8" in flags, "no device to wait for"
    assert not any(word in flag for flag in flags for word in ("accelerator", "batch-size", "bf16"))


def test_every_setting_reaches_the_command() -> None:
    flags = command(
        INPUT="gs://my-bucket/a.tar gs://my-bucket/b-{00..09}.tar",
        CHECKPOINT="gs://my-bucket/model",
        ENCODER="open_clip:ViT-B-32/gs://my-bucket/clip.safetensors",
        GPU="nvidia-tesla-t4",
        MACHINE_TYPE="n1-highmem-16",
        CUDA="13.0",
        DRIVER="580.95.05",
        ZONE="europe-west4-c",
        MAX_WORKERS="30",
        WORKERS="5",
        THREADS="12",
        BATCH_SIZE="64",
        DISK_GB="80",
        TEMP_LOCATION="gs://my-bucket/scratch/",
        SERVICE_ACCOUNT="w@my-project.iam.gserviceaccount.com",
        NETWORK="my-net",
        SUBNETWORK="regions/europe-west4/subnetworks/my-subnet",
        PUBLIC_IPS="no",
        JOB_NAME="mine",
        WAIT="yes",
        FLAGS="--mode sampling --labels 'team=photo archive'",
    )
    wanted = [
        *("--input", "gs://my-bucket/a.tar", "gs://my-bucket/b-{00..09}.tar"),
        *("--checkpoint=gs://my-bucket/model", "--wait", "--batch-size=64", "--job_name=mine"),
        "--encoder=open_clip:ViT-B-32/gs://my-bucket/clip.safetensors",
        *("--machine_type=n1-highmem-16", "--worker_zone=europe-west4-c", "--max_num_workers=30"),
        *("--num_workers=5", "--number_of_worker_harness_threads=12", "--disk_size_gb=80"),
        *("--temp_location=gs://my-bucket/scratch", "--no_use_public_ips", "--network=my-net"),
        "--service_account_email=w@my-project.iam.gserviceaccount.com",
        "--subnetwork=regions/europe-west4/subnetworks/my-subnet",
        *("--no-bf16", "--mode", "sampling", "--labels", "team=photo archive"),
    ]
    assert [flag for flag in wanted if flag not in flags] == []
    driver = "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver:580.95.05"
    assert f"--dataflow_service_options={driver}" in flags
    assert "--no-wait" not in flags
    parse(flags)  # the pipeline and Beam know each of them


def test_the_pipeline_takes_the_command() -> None:
    options = parse(command())
    assert not options.wait
    assert options.runner == "DataflowRunner"
    assert options.loader.device == "cuda"


def test_the_command_of_the_shards_job() -> None:
    flags = command("shards", IMAGES="gs://my-bucket/mp16")
    assert flags[:6] == [
        *("--source=mp16", "--input", "gs://my-bucket/a.csv", "gs://my-bucket/b.csv"),
        *("--output", "gs://my-bucket/geotags"),
    ]
    assert "--images=gs://my-bucket/mp16" in flags
    assert "--no-wait" in flags
    # Its work is Python's: Beam's one process per vCPU suits it.
    assert not any("accelerator" in flag or "containers" in flag for flag in flags)
    parse_build(flags)


def test_embeddings_while_shards_are_built_may_have_a_gpu() -> None:
    flags = command("shards", IMAGES="gs://my-bucket/x", GPU="nvidia-l4", FLAGS="--embed E")
    assert {"--device=cuda", "--experiments=no_use_multiple_sdk_containers"} <= set(flags)
    with pytest.raises(SettingsError, match="would be idle"):
        command("shards", GPU="nvidia-l4")


def test_a_bucket_as_output_is_staged_in_itself() -> None:
    assert "--temp_location=gs://my-bucket/tmp" in command(OUTPUT="gs://my-bucket/")


# Mistakes

MISTAKES = {
    "no project": ({"PROJECT": ""}, "PROJECT is missing"),
    "no image": ({"IMAGE": " "}, "IMAGE is missing"),
    "title for a project": ({"PROJECT": "My Project"}, "wanted a project id"),
    "no gs": ({"INPUT": "my-bucket/photos/*.tar"}, "did you mean gs://my-bucket/photos/*.tar?"),
    "second without gs": ({"INPUT": "gs://my-bucket/a.tar b/c.tar"}, "INPUT=b/c.tar lacks gs://"),
    "local output": ({"OUTPUT": "./out"}, "is not in Cloud Storage"),
    "other cloud": ({"OUTPUT": "s3://bucket/out"}, "is not in Cloud Storage"),
    "no bucket": ({"OUTPUT": "gs://"}, "names no bucket"),
    "local temp": ({"TEMP_LOCATION": "/tmp"}, "TEMP_LOCATION=/tmp is not in Cloud Storage"),
    "local checkpoint": ({"CHECKPOINT": "runs/checkpoint"}, "CHECKPOINT=runs/checkpoint lacks gs"),
    "hub weights": ({"ENCODER": "open_clip:ViT-B-32/openai"}, "never from a hub"),
    "zone as region": (
        {"REGION": "europe-west4-a"},
        "did you mean REGION=europe-west4 ZONE=europe-west4-a?",
    ),
    "no region": ({"REGION": "Europe"}, "REGION=Europe is no region"),
    "zone elsewhere": ({"ZONE": "us-central1-a"}, "ZONE=us-central1-a is not in REGION"),
    "region without L4": (
        {"REGION": "europe-north1"},
        "not known to have nvidia-l4; known: europe-",
    ),
    "short name": ({"GPU": "t4"}, "did you mean nvidia-tesla-t4?"),
    "old GPU": ({"GPU": "nvidia-tesla-v100"}, "older than the pinned torch"),
    "unknown GPU": ({"GPU": "tpu"}, "GPU=tpu is unknown; known: nvidia-l4"),
    "machine without the GPU": ({"MACHINE_TYPE": "n2-standard-8"}, "fitting: g2-standard-8"),
    "two GPUs": ({"MACHINE_TYPE": "g2-standard-24"}, "a worker uses one GPU"),
    "idle GPU": ({"GPU": "none", "MACHINE_TYPE": "g2-standard-8"}, "leaves it idle"),
    "odd machine": ({"GPU": "none", "MACHINE_TYPE": "big"}, "does not tell its vCPUs"),
    "driver too old for the image": (
        {"CUDA": "13.0"},
        "CUDA=13.0 needs NVIDIA driver 580 or newer, and of DRIVER=5xx only 525 is sure",
    ),
    "old driver": ({"DRIVER": "470.57.02"}, "CUDA=12.6 needs NVIDIA driver 525 or newer"),
    "odd driver": ({"DRIVER": "new"}, "wanted 5xx, or a version such as"),
    "unknown CUDA": ({"CUDA": "11.8"}, "CUDA=11.8, wanted 12.6 or 13.0"),
    "driver of nothing": ({"GPU": "none", "DRIVER": "580.1"}, "without a GPU"),
    "many at first": ({"WORKERS": "20"}, "WORKERS=20 is above MAX_WORKERS=10"),
    "no workers": ({"MAX_WORKERS": "0"}, "wanted at least 1"),
    "words for a number": ({"MAX_WORKERS": "many"}, "MAX_WORKERS=many, wanted a whole number"),
    "no yes": ({"WAIT": "maybe"}, "WAIT=maybe, wanted yes or no"),
    "small disk": ({"DISK_GB": "10"}, "wanted at least 30"),
    "no tag": ({"IMAGE": IMAGE.removesuffix(":1")}, "with a tag"),
    "latest": ({"IMAGE": IMAGE.replace(":1", ":latest")}, "can change while a job runs"),
    "subnetwork elsewhere": (
        {"SUBNETWORK": "regions/us-east1/subnetworks/x"},
        "is not in REGION=europe-west4",
    ),
    "subnetwork by name": ({"SUBNETWORK": "x"}, "wanted regions/REGION/subnetworks/NAME"),
    "job name": ({"JOB_NAME": "My job"}, "small letters"),
    "right fitting too": (
        {"FLAGS": "--resource_hints accelerator=type:nvidia-l4;count:1"},
        "Dataflow forbids both together: drop the hint, or set GPU=none",
    ),
    "accelerator twice": (
        {"FLAGS": "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:2"},
        "leave it out and set GPU=",
    ),
    "prime": ({"FLAGS": "--dataflow_service_options=enable_prime"}, "leave enable_prime out"),
    "flag of a setting": ({"FLAGS": "--region=us-east1"}, "set REGION="),
    "flag of the launcher": ({"FLAGS": "--runner FnApiRunner"}, "gives itself; leave it out"),
    "quotes": ({"FLAGS": "--mode 'sampling"}, "check its quotes"),
    "of the other pipeline": ({"SOURCE": "mp16"}, "SOURCE is no setting of the geotag pipeline"),
    "misspelt": ({"MAXWORKERS": "3"}, "did you mean MAX_WORKERS?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_with_its_remedy(case: str) -> None:
    changes, remedy = MISTAKES[case]
    with pytest.raises(SettingsError) as error:
        read(**changes)
    assert remedy in str(error.value)
    assert len(str(error.value).split("\n")) == 1, "one mistake, one sentence"


def test_right_fitting_alone_is_let_through() -> None:
    hint = "--resource_hints=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
    assert hint in command(GPU="none", FLAGS=f"'{hint}'")


def test_a_place_that_is_newer_than_the_table_can_be_insisted_on() -> None:
    flags = command(REGION="europe-north1", ZONE="europe-north1-a", CHECK_ZONE="no")
    assert "--region=europe-north1" in flags


def test_all_mistakes_are_told_at_once_and_nothing_is_submitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dataflow, "launch", lambda *_: pytest.fail("submitted"))
    assert dataflow.main(["geotag", "REGION=europe-west4-a", "GPU=l4", "WORKERS=99"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert [error.split()[1].partition("=")[0] for error in errors] == [
        *("PROJECT", "IMAGE", "INPUT", "OUTPUT", "REGION", "GPU", "WORKERS")
    ]


# Machines


def test_the_table_of_gpus_is_consistent() -> None:
    for gpu in ACCELERATORS.values():
        assert all(re.fullmatch(r"[a-z]+-[a-z]+[0-9]+", region) for region in gpu.regions)
        assert len(set(gpu.regions)) == len(gpu.regions) > 4
        for machine in gpu.machines:
            check_machine(gpu, machine)
            assert 4 <= vcpus_of(machine) <= 48
            others = [other for other in ACCELERATORS.values() if other is not gpu]
            for other in others:
                with pytest.raises(MachineError):
                    check_machine(other, machine)
    assert accelerator("none") is None


def test_gpus_that_torch_was_not_built_for_are_the_ones_refused() -> None:
    built = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list()]
    if built:  # a torch for CPUs was built for none
        assert divmod(min(built), 10) == MIN_COMPUTE_CAPABILITY


# Make and the command line


def made(tmp_path: Path, *variables: str) -> list[str]:
    """The arguments that `make run-dataflow` hands to Python."""
    return handed_by_make(telling_environment(tmp_path), "run-dataflow", variables, {})


def test_make_hands_on_every_setting_as_it_was_typed(tmp_path: Path) -> None:
    typed = {
        "INPUT": "gs://my-bucket/*.tar gs://my-bucket/{000..009}.tar",
        "FLAGS": "--mode sampling --labels 'team=it''s'",
    }
    module, name, pipeline, make_flags, *settings = made(tmp_path, *words(typed))
    assert [module, name, pipeline] == ["-m", "pipelines.dataflow", "geotag"]
    given = dict(word.split("=", 1) for word in settings)
    assert set(given) == set(NAMES), "the Makefile knows the same settings"
    assert {key: value for key, value in given.items() if value} == typed
    assert dataflow.misspelt(make_flags.removeprefix("--make-flags=")) == []


def test_a_variable_that_make_would_ignore_is_noticed(tmp_path: Path) -> None:
    handed = made(tmp_path, "MAXWORKERS=3", "FLAGS=--labels a=b REGIO=x", "OUT=elsewhere")
    make_flags = next(word for word in handed if word.startswith("--make-flags="))
    assert dataflow.misspelt(make_flags.removeprefix("--make-flags=")) == [
        "MAXWORKERS is no setting; did you mean MAX_WORKERS?"
    ]


def test_a_dry_run_shows_the_command_and_the_graph_and_touches_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("opened a connection"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("looked up a host"))
    assert dataflow.main(["geotag", *words(GEOTAG), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("locdiffusion geotag --input 'gs://my-bucket/photos/*.tar'")
    steps = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    assert steps[:7] == [
        *("ListShards", "Geotag", "Reshuffle", "ReadShards", "Embed", "Sample", "Decode")
    ]
    assert "nothing was submitted" in shown and "before it, one shard" in shown


def test_a_dry_run_of_the_shards_job_shows_its_graph(capsys: pytest.CaptureFixture[str]) -> None:
    settings = words(SHARDS, IMAGES="gs://my-bucket/mp16", FLAGS="--author-cap 100")
    assert dataflow.main(["shards", *settings, "--dry-run"]) == 0
    steps = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert {"PlanShards", "CapAuthor", "MakeShards", "FetchShards", "FinishShards"} <= set(steps)
    assert "CapCell" not in steps


def test_a_dry_run_refuses_flags_that_the_pipeline_would_refuse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = dataflow.main(["geotag", *words(GEOTAG, FLAGS="--sampels 3"), "DRY_RUN=yes"])
    assert status == 2
    assert "did you mean --samples?" in capsys.readouterr().err


# The job of one shard


class Cloud:
    """Stands in for submitted jobs, which it only writes down.

    Args:
        status: exit status of each job.
        summary: what the first job leaves in its output.
    """

    def __init__(self, status: int = 0, **summary: object) -> None:
        self.jobs: list[Settings] = []
        self.status, self.summary = status, summary

    def run(self, job: Settings) -> int:
        self.jobs.append(job)
        if self.summary:
            Path(job.output).mkdir(parents=True)
            Path(job.output, "summary.json").write_text(json.dumps(self.summary))
        return self.status


@pytest.fixture
def fleet(tmp_path: Path) -> Settings:
    """A job whose places are on this disk."""
    for index in range(3):
        write_tar(tmp_path / "photos" / f"s-{index}.tar", sound_members(2))
    places = {"input": f"{tmp_path}/photos/*.tar", "temp_location": f"{tmp_path}/tmp"}
    return replace(read(MAX_WORKERS="30", FLAGS="--regions"), **places)


def test_one_shard_goes_before_the_fleet(fleet: Settings) -> None:
    cloud = Cloud(predictions=2)
    smoke.check_with_one_shard(fleet, NOW, cloud.run)
    [job] = cloud.jobs
    assert job.input.endswith("photos/s-0.tar") and job.wait
    assert (job.max_workers, job.workers, job.flags) == (1, 1, "--regions --accept-damaged")
    assert job.output == f"{fleet.temp}/locdiffusion-geotag-20260203-040506-smoke"
    kept = ("image", "machine", "gpu", "nvidia_driver", "harness_threads", "temp", "encoder")
    assert all(getattr(job, name) == getattr(fleet, name) for name in kept)


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (Cloud(1), "ended with status 1, see above; nothing else was started. SMOKE=no"),
        (Cloud(), r"no photo was geotagged \(no summary\)"),
        (Cloud(predictions=0, errors_by_status={"internal_error": 2}), "internal_error"),
    ],
)
def test_a_job_of_one_shard_that_fails_stops_the_fleet(
    fleet: Settings, cloud: Cloud, reason: str
) -> None:
    with pytest.raises(RunFailed, match=reason):
        smoke.check_with_one_shard(fleet, NOW, cloud.run)


def test_a_folder_is_tried_with_one_photo(fleet: Settings, tmp_path: Path) -> None:
    for name, data in sound_members(3):
        (tmp_path / Path(name).name).write_bytes(data)
    found = smoke.first_shard(replace(fleet, input=str(tmp_path / "*.jpg")))
    assert Path(found).parent == tmp_path and found.endswith(".jpg")
    with pytest.raises(UsageError, match=r"INPUT: .*nowhere"):
        smoke.first_shard(replace(fleet, input=str(tmp_path / "nowhere")))


def test_the_first_shard_is_none_that_is_left_out_or_has_blanks(
    fleet: Settings, tmp_path: Path
) -> None:
    for name in ("0 a.tar", "1.tar", "2.tar"):
        write_tar(tmp_path / "in" / name, sound_members(2))
    fleet = replace(fleet, input=f"{tmp_path}/in")
    assert smoke.first_shard(fleet).endswith("/1.tar")
    assert smoke.first_shard(replace(fleet, flags="--exclude 1.tar")).endswith("/2.tar")
    with pytest.raises(UsageError, match=r"names with blanks, as .*/0 a.tar; .*SMOKE=no"):
        smoke.first_shard(replace(fleet, flags="--exclude=1.tar --exclude=2.tar"))


def test_a_table_is_tried_with_one_photo(fleet: Settings, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("uri\nx y.jpg\nb/z.jpg\n")
    fleet = replace(fleet, input=f"{tmp_path}/t.csv")
    assert smoke.first_shard(fleet) == f"{tmp_path}/b/z.jpg"


def test_kept_embeddings_need_no_photo_and_no_arithmetic(
    fleet: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud()
    monkeypatch.setattr(dataflow, "_submit", lambda job, _: cloud.run(job))
    fleet = replace(fleet, flags="--from-embeddings --regions")
    assert dataflow.launch(fleet, NOW) == 0
    assert cloud.jobs == [fleet]
    words = arguments(replace(fleet, input="gs://b/one", temp_location="gs://b/t"), NOW)
    assert parse(words).from_embeddings


@pytest.mark.parametrize(("said", "jobs"), [("yes", 2), ("no", 1)])
def test_the_fleet_follows(
    fleet: Settings, said: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(predictions=2)
    monkeypatch.setattr(dataflow, "_submit", lambda job, _: cloud.run(job))
    fleet = replace(fleet, smoke=said == "yes", output=fleet.temp + "/fleet")
    assert dataflow.launch(fleet, NOW) == 0
    assert len(cloud.jobs) == jobs and cloud.jobs[-1] == fleet


def test_each_pipeline_has_its_settings() -> None:
    assert {"INPUT", "CHECKPOINT"} <= set(names_of("geotag"))
    assert not {"INPUT", "CHECKPOINT"} & set(names_of("shards"))
