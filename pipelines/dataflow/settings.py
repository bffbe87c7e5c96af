"""The settings of a job on Dataflow, and the defaults that follow from the others."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipelines.dataflow import machines

GEOTAG, SHARDS = "geotag", "shards"
PIPELINES = (GEOTAG, SHARDS)
THREADS_PER_VCPU = 2


def _setting(help: str, default: Any = "", *, only: str = "") -> Any:
    return field(default=default, metadata={"help": help, "only": only})


@dataclass(frozen=True)
class Settings:
    """The settings of one job; `reading.read_settings` makes and checks them.

    `EXPLANATIONS` tells what each means.
    """

    pipeline: str
    project: str = _setting("Google Cloud project that pays")
    region: str = _setting("where the job runs: the region of the buckets")
    image: str = _setting("worker image in Artifact Registry, with a tag")
    input: str = _setting("shards: gs:// patterns, several apart by spaces", only=GEOTAG)
    source: str = _setting("mp16, yfcc100m or webdataset", only=SHARDS)
    metadata: str = _setting("gs:// lists of records, several apart by spaces", only=SHARDS)
    images: str = _setting("gs:// root of the photos, where they are not downloaded", only=SHARDS)
    output: str = _setting("gs:// directory to create, or to resume")
    checkpoint: str = _setting("gs:// directory, or a shipped name; default: overhead", only=GEOTAG)
    encoder: str = _setting(
        "gs:// copy of the encoder's weights, if they were moved there", only=GEOTAG
    )
    gpu: str = _setting("kind of GPU, or none (geotag: nvidia-l4, shards: none)")
    machine_type: str = _setting("of a worker; default: the smallest that suits the GPU")
    cuda: str = _setting("CUDA of the image: its build argument", machines.CUDAS[0])
    driver: str = _setting("NVIDIA driver; default 5xx: Dataflow's newest")
    zone: str = _setting("one zone of the region; default: Dataflow chooses")
    check_zone: bool = _setting("refuse regions that may not have the GPU", True)
    max_workers: int = _setting("most workers at once", 10)
    workers: int = _setting("workers to begin with; 0: as many as MAX_WORKERS", 0)
    threads: int = _setting("shards at once on a worker; 0: one per vCPU, two with a GPU", 0)
    batch_size: int = _setting("photos per call of the model; 0: 128 on a GPU", 0, only=GEOTAG)
    disk_gb: int = _setting("disk of a worker: the image needs about 15", 50)
    temp_location: str = _setting("gs:// directory for staging; default: beside OUTPUT")
    service_account: str = _setting("e-mail that the workers run as; default: the project's own")
    network: str = _setting("VPC network of the workers")
    subnetwork: str = _setting("regions/REGION/subnetworks/NAME")
    public_ips: bool = _setting("no: workers have private addresses only", True)
    job_name: str = _setting("default: the pipeline and the time")
    smoke: bool = _setting("first run one shard as a job, and wait", True, only=GEOTAG)
    wait: bool = _setting("stay until the job is over, and summarise it", False)
    flags: str = _setting("more flags of the pipeline or of Beam, quoted as for a shell")
    dry_run: bool = _setting("print command and job graph, submit nothing", False)

    def __post_init__(self) -> None:
        """Chooses the GPU where none is named."""
        if not self.gpu:
            default = machines.NONE if self.pipeline == SHARDS else "nvidia-l4"
            object.__setattr__(self, "gpu", default)

    @property
    def accelerator(self) -> machines.Accelerator | None:
        """The GPU of a worker; None for a job without."""
        return machines.accelerator(self.gpu)

    @property
    def machine(self) -> str:
        """The machine type of a worker; the default follows from the GPU."""
        if self.machine_type:
            return self.machine_type
        return self.accelerator.machines[0] if self.accelerator else "n2-standard-8"

    @property
    def nvidia_driver(self) -> str:
        """What Dataflow is asked to install on a worker with a GPU."""
        return self.driver or "5xx"

    @property
    def harness_threads(self) -> int:
        """Threads of a worker that keeps one model; each reads a shard.

        With a GPU there are two per vCPU: while some wait for the model, the others decode. See
        `experiments.dataflow_simulation.fleet.busy_share`.
        """
        each = THREADS_PER_VCPU if self.accelerator else 1
        return self.threads or each * machines.vcpus_of(self.machine)

    @property
    def temp(self) -> str:
        """The directory in which Beam stages its files."""
        if self.temp_location:
            return self.temp_location.rstrip("/")
        output = self.output.rstrip("/")
        return output + ("-tmp" if "/" in output.removeprefix("gs://") else "/tmp")

    @property
    def extra_flags(self) -> list[str]:
        """The words of `flags`."""
        return shlex.split(self.flags)

    @property
    def reads_photos(self) -> bool:
        """Whether photos are geotagged, and not embeddings that an earlier run kept."""
        return "--from-embeddings" not in self.extra_flags


EXPLANATIONS: Mapping[str, str] = {
    one.name.upper(): one.metadata["help"] for one in fields(Settings) if one.name != "pipeline"
}
NAMES = tuple(EXPLANATIONS)


def names_of(pipeline: str) -> list[str]:
    """Returns the names of the settings that a pipeline takes."""
    return [
        one.name.upper()
        for one in fields(Settings)
        if one.name != "pipeline" and one.metadata["only"] in ("", pipeline)
    ]
