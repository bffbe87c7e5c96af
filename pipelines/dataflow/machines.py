"""Which regions have which GPU, and which machines carry it: what a job is checked against.

Regions: the SkyPilot catalogue of Google's own lists (skypilot-org/skypilot-catalog on GitHub,
catalogs/v5/gcp/vms.csv, commit 0129130). Machines: Compute Engine's page "GPU machine types". Both
change: `gcloud compute accelerator-types list` prints the state of today, zones included, and
CHECK_ZONE=no turns the check of the region off.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from locdiffusion.model.nvidia_driver import needed_driver

NONE = "none"
N1 = tuple(  # up to 48 vCPUs beside one T4
    f"n1-{kind}-{vcpus}" for kind in ("standard", "highmem", "highcpu") for vcpus in (4, 8, 16, 32)
)
CUDAS = ("12.6", "13.0")  # those of deploy/Dockerfile, the default first
LEAST_5XX = 525
MIN_COMPUTE_CAPABILITY = (7, 5)  # what the pinned torch (CUDA 13) was built for


class MachineError(ValueError):
    """A GPU, machine or region does not go with the others; the message names the remedy."""


@dataclass(frozen=True)
class Accelerator:
    """A kind of GPU.

    Attributes:
        name: Name of the GPU at Google.
        machines: Machine types that carry exactly one of it. The first is the default.
        regions: Regions that have it.
        bf16: Whether it computes with bfloat16: from the architecture Ampere on.
    """

    name: str
    machines: tuple[str, ...]
    regions: tuple[str, ...] = field(repr=False)
    bf16: bool = True


def _regions(text: str) -> tuple[str, ...]:
    """Expands `us-east1,4 me-west1` to the names of single regions."""
    return tuple(
        re.sub(r"[\d,]+$", number, word)
        for word in text.split()
        for number in re.findall(r"\d+", word)
    )


ACCELERATORS: Mapping[str, Accelerator] = {
    gpu.name: gpu
    for gpu in (
        Accelerator(
            "nvidia-l4",
            tuple(f"g2-standard-{vcpus}" for vcpus in (8, 4, 12, 16, 32)),
            _regions(
                "asia-east1 asia-northeast1,3 asia-south1 asia-southeast1 europe-west1,2,3,4,6 "
                "me-central2 northamerica-northeast2 us-central1 us-east1,4 us-west1,4"
            ),
        ),
        Accelerator(
            "nvidia-tesla-t4",
            ("n1-standard-8", *N1),
            _regions(
                "asia-east1,2 asia-northeast1,3 asia-south1 asia-southeast1,2 "
                "australia-southeast1 europe-central2 europe-west1,2,3,4 me-west1 "
                "northamerica-northeast1 southamerica-east1 us-central1 us-east1,4 us-west1,2,3,4"
            ),
            bf16=False,
        ),
        Accelerator(
            "nvidia-tesla-a100",
            ("a2-highgpu-1g",),
            _regions(
                "asia-northeast1,3 asia-southeast1 europe-west4 me-west1 us-central1 us-east1 "
                "us-west1,3,4"
            ),
        ),
        Accelerator(
            "nvidia-a100-80gb",
            ("a2-ultragpu-1g",),
            _regions("asia-southeast1 europe-west4 us-central1 us-east4,5"),
        ),
        Accelerator(
            "nvidia-h100-80gb",
            ("a3-highgpu-1g",),
            _regions(
                "asia-northeast1 asia-southeast1 australia-southeast1 europe-west1,4 us-central1 "
                "us-east4,5 us-west1"
            ),
        ),
    )
}

# GPUs of Google Cloud that are older than what torch was built for.
TOO_OLD = ("nvidia-tesla-v100", "nvidia-tesla-p100", "nvidia-tesla-p4", "nvidia-tesla-k80")

# Families whose machines carry a GPU whether one is asked for or not.
WITH_GPU = re.compile(r"(a2|a3|a4|a4x|g2|g4)-")

VCPUS = {"a2-highgpu-1g": 12, "a2-ultragpu-1g": 12, "a3-highgpu-1g": 26}


def accelerator(name: str) -> Accelerator | None:
    """Looks a GPU up by its name; None for `none`, a job without GPUs.

    Raises:
        MachineError: The GPU is unknown, or too old for torch.
    """
    if name == NONE:
        return None
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    known = f"known: {', '.join(ACCELERATORS)}, or {NONE}"
    if name in TOO_OLD:
        raise MachineError(
            f"GPU={name} is older than the pinned torch was built for (compute capability "
            f"{MIN_COMPUTE_CAPABILITY[0]}.{MIN_COMPUTE_CAPABILITY[1]} and newer); {known}"
        )
    near = [known for known in ACCELERATORS if name.lower() in known] or difflib.get_close_matches(
        name, ACCELERATORS, 1
    )
    raise MachineError(
        f"GPU={name} is unknown; " + (f"did you mean {near[0]}? " if near else "") + known
    )


def check_driver(cuda: str, driver: str) -> None:
    """Raises MachineError unless a driver is sure to run the CUDA of the image.

    Args:
        cuda: Version of CUDA that the image's torch was built for.
        driver: `5xx`, of which Dataflow promises 525 or newer ("Use NVIDIA L4 GPUs"), or a version.
    """
    needed = needed_driver(cuda)
    promised = int(driver.partition(".")[0].replace("x", "0"))
    promised = LEAST_5XX if promised == 500 else promised
    if promised < needed:
        raise MachineError(
            f"CUDA={cuda} needs NVIDIA driver {needed} or newer, and of DRIVER={driver} only "
            f"{promised} is sure; build the image with CUDA {CUDAS[0]}, which is its default, or "
            f"name a driver that Dataflow has: DRIVER={needed}.VERSION"
        )


def check_machine(gpu: Accelerator | None, machine_type: str) -> None:
    """Raises MachineError unless a machine carries exactly one of the GPU that was asked for."""
    if gpu is None:
        if WITH_GPU.match(machine_type):
            raise MachineError(
                f"MACHINE_TYPE={machine_type} carries a GPU, which is paid for, and GPU={NONE} "
                "leaves it idle; name its GPU, or a machine without, such as n2-standard-8"
            )
        return
    if machine_type in gpu.machines:
        return
    several = re.fullmatch(r"(g2-standard-(24|48|96)|a[23]-\w+-\d+g)", machine_type)
    why = " (a worker uses one GPU: more workers, not more GPUs)" if several else ""
    raise MachineError(
        f"MACHINE_TYPE={machine_type} does not carry one {gpu.name}{why}; "
        f"fitting: {', '.join(dict.fromkeys(gpu.machines))}"
    )


def check_region(gpu: Accelerator, region: str) -> None:
    """Raises MachineError for a region that is not known to have the GPU."""
    if region not in gpu.regions:
        part = region.partition("-")[0]
        near_first = sorted(gpu.regions, key=lambda other: not other.startswith(part))
        raise MachineError(
            f"REGION={region} is not known to have {gpu.name}; known: {', '.join(near_first)}; "
            "if it has some by now, add CHECK_ZONE=no"
        )


def vcpus_of(machine_type: str) -> int:
    """Reads the number of vCPUs from the name of a machine; MachineError if it does not tell."""
    if machine_type in VCPUS:
        return VCPUS[machine_type]
    match = re.fullmatch(r"[a-z]\w*-(?:standard|highmem|highcpu)-(\d+)", machine_type)
    if match is None:
        raise MachineError(
            f"MACHINE_TYPE={machine_type} does not tell its vCPUs; wanted a name such as "
            "g2-standard-8 or n2-standard-8"
        )
    return int(match[1])
