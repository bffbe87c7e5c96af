"""Finds the mistakes in the settings of a job: one sentence for each, with the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pipelines.dataflow import machines
from pipelines.dataflow.machines import MachineError
from pipelines.dataflow.settings import EXPLANATIONS, SHARDS, Settings, names_of

PROJECT_ID = r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
REGION_NAME = r"[a-z]+-[a-z]+[0-9]+"
ZONE_NAME = REGION_NAME + r"-[a-z][a-z0-9]*"
BUCKET_URL = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?"
IMAGE_NAME = r"[\w.-]+(:[0-9]+)?(/[\w.-]+)+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})"
JOB_NAME = r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?"
SUBNETWORK = (
    r"(https://www\.googleapis\.com/compute/v1/projects/[^/]+/)?regions/([^/]+)/subnetworks/[^/]+"
)
SHIPPED_CHECKPOINT = r"[\w-]+"


def mistakes_of(job: Settings) -> Iterable[str]:
    """Yields a sentence for each mistake; nothing for a job that can be submitted."""
    yield from _missing(job)
    yield from _malformed(job)
    yield from _places(job)
    yield from _machine(job)
    yield from _workers(job)
    yield from _network(job)
    yield from _extra_flags(job)


def _missing(job: Settings) -> Iterable[str]:
    examples = {
        "project": "PROJECT=my-project",
        "region": "REGION=europe-west4",
        "image": "IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/worker:TAG",
        "input": "INPUT='gs://my-bucket/photos/*.tar'",
        "source": "SOURCE=mp16",
        "metadata": "METADATA=gs://my-bucket/mp16_places365.csv",
        "output": "OUTPUT=gs://my-bucket/geotags",
    }
    for name in names_of(job.pipeline):
        example = examples.get(name.lower())
        if example and not getattr(job, name.lower()):
            yield f"{name} is missing: {EXPLANATIONS[name]}, for example {example}"


def _malformed(job: Settings) -> Iterable[str]:
    shapes = {
        "project": (PROJECT_ID, "a project id such as my-project-123 (not its title or number)"),
        "image": (
            IMAGE_NAME,
            "REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG; with a tag, or the workers of one "
            "job could run different images",
        ),
        "job_name": (JOB_NAME, "small letters, digits and hyphens, a letter first"),
        "cuda": ("|".join(map(re.escape, machines.CUDAS)), " or ".join(machines.CUDAS)),
        "driver": (r"[0-9]{3}(\.[0-9]+)*|5xx", "5xx, or a version such as 580.95.05"),
        "service_account": (r"[^@\s]+@[^@\s]+\.[^@\s]+", "NAME@PROJECT.iam.gserviceaccount.com"),
    }
    for name, (pattern, wanted) in shapes.items():
        value = getattr(job, name)
        if value and not re.fullmatch(pattern, value):
            yield f"{name.upper()}={value}, wanted {wanted}"
    if job.image.endswith(":latest"):
        yield f"IMAGE={job.image} can change while a job runs; give the build a tag of its own"


def _places(job: Settings) -> Iterable[str]:
    """Finds places that are not in a bucket: workers see nothing of this machine."""
    places = [("OUTPUT", job.output), ("TEMP_LOCATION", job.temp_location), ("IMAGES", job.images)]
    places += [("INPUT", part) for part in job.input.split()]
    places += [("METADATA", part) for part in job.metadata.split()]
    if not re.fullmatch(SHIPPED_CHECKPOINT, job.checkpoint):
        places.append(("CHECKPOINT", job.checkpoint))
    for name, url in places:
        if not url or re.fullmatch(BUCKET_URL, url):
            continue
        if url.startswith("gs://"):
            yield f"{name}={url} names no bucket, wanted gs://BUCKET/PATH"
        elif "://" in url or url.startswith(("/", "./", "../", "~")):
            yield f"{name}={url} is not in Cloud Storage; copy it there: gs://BUCKET/PATH"
        else:
            yield f"{name}={url} lacks gs://; did you mean gs://{url}?"
    if job.encoder and "gs://" not in job.encoder:
        yield (
            f"ENCODER={job.encoder}: a worker fetches weights from gs:// only, never from a hub; "
            "wanted open_clip:MODEL/gs://BUCKET/FILE.safetensors, or geoclip:gs://BUCKET/FILE"
        )


def _machine(job: Settings) -> Iterable[str]:
    region, zone = job.region, job.zone
    if region and not re.fullmatch(REGION_NAME, region):
        looks_like_zone = re.fullmatch(ZONE_NAME, region)
        near = f"; did you mean REGION={region.rpartition('-')[0]} ZONE={region}?"
        yield f"REGION={region} is no region such as europe-west4" + near * bool(looks_like_zone)
        region = ""
    if zone and region and zone.rpartition("-")[0] != region:
        yield f"ZONE={zone} is not in REGION={region}; wanted {region}-a or the like, or no ZONE"
        zone = ""
    try:
        gpu = machines.accelerator(job.gpu)
        if job.machine_type:
            machines.check_machine(gpu, job.machine_type)
            machines.vcpus_of(job.machine_type)
    except MachineError as error:
        yield str(error)
        return
    if gpu and region and job.check_zone:
        try:
            machines.check_region(gpu, region)
        except MachineError as error:
            yield str(error)
    if gpu and job.pipeline == SHARDS and "--embed" not in job.flags:
        yield (
            f"GPU={job.gpu} would be idle: only --embed needs one in this pipeline; leave GPU out, "
            "or add FLAGS='--embed ENCODER'"
        )
    if job.driver and gpu is None:
        yield f"DRIVER={job.driver} without a GPU; leave it out, or name a GPU"
    try:
        if gpu:
            machines.check_driver(job.cuda, job.nvidia_driver)
    except MachineError as error:
        yield str(error)
    except ValueError:  # malformed, which is told already
        return


def _workers(job: Settings) -> Iterable[str]:
    if job.max_workers < 1:
        yield f"MAX_WORKERS={job.max_workers}, wanted at least 1"
    elif job.workers > job.max_workers:
        yield f"WORKERS={job.workers} is above MAX_WORKERS={job.max_workers}; raise the latter"
    if job.disk_gb < 30:
        yield f"DISK_GB={job.disk_gb}, wanted at least 30: system, image and the package need it"


def _network(job: Settings) -> Iterable[str]:
    if not job.subnetwork:
        return
    match = re.fullmatch(SUBNETWORK, job.subnetwork)
    if match is None:
        yield f"SUBNETWORK={job.subnetwork}, wanted regions/REGION/subnetworks/NAME"
    elif job.region and match[2] != job.region:
        yield f"SUBNETWORK={job.subnetwork} is not in REGION={job.region}; a job needs one there"


# Flags that a setting stands for, with underscores. Of two of them, Beam takes one without a word.
OF_SETTINGS = {
    "--project": "PROJECT",
    "--region": "REGION",
    "--worker_zone": "ZONE",
    "--zone": "ZONE",
    "--input": "INPUT",
    "--source": "SOURCE",
    "--metadata": "METADATA",
    "--images": "IMAGES",
    "--output": "OUTPUT",
    "--checkpoint": "CHECKPOINT",
    "--encoder": "ENCODER",
    "--device": "GPU",
    "--batch_size": "BATCH_SIZE",
    "--machine_type": "MACHINE_TYPE",
    "--worker_machine_type": "MACHINE_TYPE",
    "--sdk_container_image": "IMAGE",
    "--max_num_workers": "MAX_WORKERS",
    "--num_workers": "WORKERS",
    "--number_of_worker_harness_threads": "THREADS",
    "--disk_size_gb": "DISK_GB",
    "--temp_location": "TEMP_LOCATION",
    "--staging_location": "TEMP_LOCATION",
    "--service_account_email": "SERVICE_ACCOUNT",
    "--network": "NETWORK",
    "--subnetwork": "SUBNETWORK",
    "--use_public_ips": "PUBLIC_IPS",
    "--no_use_public_ips": "PUBLIC_IPS",
    "--job_name": "JOB_NAME",
    "--wait": "WAIT",
    "--no_wait": "WAIT",
    "--dry_run": "DRY_RUN",
}
# Flags that the launcher gives itself.
OF_LAUNCHER = ("--runner", "--setup_file", "--sdk_location", "--save_main_session")


def _extra_flags(job: Settings) -> Iterable[str]:
    try:
        words = job.extra_flags
    except ValueError as error:
        yield f"FLAGS={job.flags} cannot be split into words ({error}); check its quotes"
        return
    for word in words:
        flag = word.partition("=")[0]
        setting = OF_SETTINGS.get("--" + flag[2:].replace("-", "_"))
        if setting == "INPUT" and job.pipeline == SHARDS:
            setting = "METADATA"
        if setting:
            yield f"FLAGS holds {flag}, which {setting} is for; set {setting}="
        elif flag in OF_LAUNCHER:
            yield f"FLAGS holds {flag}, which this command gives itself; leave it out"
    yield from _contradictions(job, words)


def _contradictions(job: Settings, words: Sequence[str]) -> Iterable[str]:
    """Finds flags that Dataflow forbids or ignores together, and that Beam does not check."""
    text = " ".join(words)
    if "worker_accelerator" in text:
        yield (
            "FLAGS asks for a worker_accelerator, which GPU and DRIVER are for; leave it out and "
            "set GPU="
        )
    if re.search(r"--resource_hints?\b", text) and "accelerator" in text and job.gpu != "none":
        yield (
            "FLAGS asks for an accelerator by a resource hint (right fitting) beside "
            f"GPU={job.gpu} (worker_accelerator); Dataflow forbids both together: drop the hint, "
            "or set GPU=none. The work is one fused stage, so right fitting would gain nothing"
        )
    if "enable_prime" in text:
        yield (
            "FLAGS turns on Dataflow Prime, where machines are asked for by resource hints and not "
            "by MACHINE_TYPE and GPU; leave enable_prime out"
        )
