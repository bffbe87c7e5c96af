"""Turns settings into the command line of a pipeline; only this module knows Dataflow's flags."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pipelines.dataflow.settings import GEOTAG, Settings

ROOT = Path(__file__).parents[2]
SETUP_FILE = ROOT / "setup.py"
COMMAND_OF = {"geotag": "geotag", "shards": "build-shards"}
GPU_BATCH_SIZE = 128


def arguments(job: Settings, now: datetime) -> list[str]:
    """Returns the flags behind `locdiffusion geotag` or `locdiffusion build-shards`.

    Args:
        job: Checked settings.
        now: Time after which a job without a name is named.
    """
    ours = _geotag(job) if job.pipeline == GEOTAG else _shards(job)
    ours.append(f"--device={'cuda' if job.accelerator else 'cpu'}")
    # The machine that submits may be switched off: the job does not need it.
    ours.append("--wait" if job.wait else "--no-wait")
    return [*ours, *_service(job, now), *_workers(job), *job.extra_flags]


def _geotag(job: Settings) -> list[str]:
    flags = ["--input", *job.input.split(), "--output", job.output]
    flags += _if("--checkpoint", job.checkpoint) + _if("--encoder", job.encoder)
    batch = job.batch_size or (GPU_BATCH_SIZE if job.accelerator else 0)
    flags += _if("--batch-size", batch)
    gpu = job.accelerator
    if gpu and job.reads_photos:  # said, as the machine that submits does not see it
        flags.append("--bf16" if gpu.bf16 else "--no-bf16")
    return flags


def _shards(job: Settings) -> list[str]:
    flags = [f"--source={job.source}", "--input", *job.metadata.split(), "--output", job.output]
    return flags + _if("--images", job.images)


def job_name(job: Settings, now: datetime) -> str:
    """Returns the name of a job: its own, or one of the pipeline and the time."""
    return job.job_name or f"locdiffusion-{job.pipeline}-{now:%Y%m%d-%H%M%S}"


def _service(job: Settings, now: datetime) -> list[str]:
    """Returns the flags that say where the job runs, and what it ships."""
    temp = job.temp
    return [
        "--runner=DataflowRunner",
        f"--project={job.project}",
        f"--region={job.region}",
        f"--job_name={job_name(job, now)}",
        f"--temp_location={temp}",
        f"--staging_location={temp}/staging",
        # Our code travels as a source package; everything else is in the image.
        f"--setup_file={SETUP_FILE}",
        f"--sdk_container_image={job.image}",
        "--sdk_location=container",
        # Everything a worker runs is in importable modules; pickling __main__ would drag in more.
        "--no_save_main_session",
    ]


def _workers(job: Settings) -> list[str]:
    """Returns the flags that say which machines work."""
    flags = [f"--machine_type={job.machine}", f"--max_num_workers={job.max_workers}"]
    flags.append(f"--num_workers={job.workers or job.max_workers}")
    flags += _if("--worker_zone", job.zone)
    flags.append(f"--disk_size_gb={job.disk_gb}")
    threads = job.threads
    if job.pipeline == GEOTAG or job.accelerator:
        # One process per VM, or each of them would load the model: onto the one GPU, at that.
        flags.append("--experiments=no_use_multiple_sdk_containers")
        threads = job.harness_threads
    flags += _if("--number_of_worker_harness_threads", threads)
    if job.accelerator:
        driver = f"install-nvidia-driver:{job.nvidia_driver}"
        option = f"worker_accelerator=type:{job.accelerator.name};count:1;{driver}"
        flags.append(f"--dataflow_service_options={option}")
    flags += _if("--service_account_email", job.service_account)
    flags += _if("--network", job.network) + _if("--subnetwork", job.subnetwork)
    return flags if job.public_ips else [*flags, "--no_use_public_ips"]


def _if(flag: str, value: object) -> list[str]:
    return [f"{flag}={value}"] if value else []
