"""Which GPU is where and fits which machine, as far as it matters before a job is submitted.

Zones: the SkyPilot catalogue of Google's own lists (skypilot-org/skypilot-catalog on GitHub,
catalogs/v5/gcp/vms.csv, commit 0129130). Machines: Compute Engine's page "GPU machine types". Both
change: `gcloud compute accelerator-types list` tells today's truth, and CHECK_ZONE=no overrides the
zones here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NONE = "none"
N1 = tuple(  # up to 48 vCPUs beside one T4
    f"n1-{kind}-{vcpus}" for kind in ("standard", "highmem", "highcpu") for vcpus in (4, 8, 16, 32)
)
MIN_COMPUTE_CAPABILITY = (7, 5)  # what the pinned torch (CUDA 13) was built for


class MachineError(ValueError):
    """A GPU, machine or zone that does not go with the others; the message names the remedy."""


def _zones(text: str) -> frozenset[str]:
    """`europe-west4-abc us-central1-a` to single zones."""
    return frozenset(
        f"{region}-{letter}"
        for region, _, letters in (word.rpartition("-") for word in text.split())
        for letter in letters
    )


@dataclass(frozen=True)
class Accelerator:
    """A kind of GPU.

    Attributes:
        name: As Google spells it.
        memory_gib: Of one.
        machines: Machine types that carry exactly one, the first is our default.
        zones: Where it can be had.
    """

    name: str
    memory_gib: int
    machines: tuple[str, ...]
    zones: frozenset[str] = field(repr=False)

    @property
    def regions(self) -> list[str]:
        """Where it can be had, in order."""
        return sorted({zone.rpartition("-")[0] for zone in self.zones})


ACCELERATORS: Mapping[str, Accelerator] = {
    gpu.name: gpu
    for gpu in (
        Accelerator(
            "nvidia-l4",
            24,
            tuple(f"g2-standard-{vcpus}" for vcpus in (8, 4, 12, 16, 32)),
            _zones(
                "asia-east1-abc asia-northeast1-abc asia-northeast3-ab asia-south1-abc "
                "asia-southeast1-abc europe-west1-bc europe-west2-ab europe-west3-ab "
                "europe-west4-abc europe-west6-bc me-central2-a northamerica-northeast2-a "
                "us-central1-abc us-east1-bcd us-east4-ac us-west1-abc us-west4-ac"
            ),
        ),
        Accelerator(
            "nvidia-tesla-t4",
            16,
            ("n1-standard-8", *N1),
            _zones(
                "asia-east1-ac asia-east2-ac asia-northeast1-ac asia-northeast3-bc asia-south1-abc "
                "asia-southeast1-abc asia-southeast2-ab australia-southeast1-ac europe-central2-bc "
                "europe-west1-bcd europe-west2-ab europe-west3-b europe-west4-abc me-west1-bc "
                "northamerica-northeast1-c southamerica-east1-ac us-central1-abcf us-east1-cd "
                "us-east4-abc us-west1-ab us-west2-bc us-west3-b us-west4-ab"
            ),
        ),
        Accelerator(
            "nvidia-tesla-a100",
            40,
            ("a2-highgpu-1g",),
            _zones(
                "asia-northeast1-ac asia-northeast3-ab asia-southeast1-bc europe-west4-ab "
                "me-west1-bc us-central1-abcf us-east1-b us-west1-b us-west3-b us-west4-b"
            ),
        ),
        Accelerator(
            "nvidia-a100-80gb",
            80,
            ("a2-ultragpu-1g",),
            _zones("asia-southeast1-c europe-west4-a us-central1-ac us-east4-c us-east5-b"),
        ),
        Accelerator(
            "nvidia-h100-80gb",
            80,
            ("a3-highgpu-1g",),
            _zones(
                "asia-northeast1-b asia-southeast1-bc australia-southeast1-c europe-west1-b "
                "europe-west4-bc us-central1-bc us-east4-bc us-east5-a us-west1-b"
            ),
        ),
    )
}

# On Google Cloud too, but older than what torch was built for.
TOO_OLD = ("nvidia-tesla-v100", "nvidia-tesla-p100", "nvidia-tesla-p4", "nvidia-tesla-k80")

# Families whose machines carry a GPU whether one is asked for or not.
WITH_GPU = re.compile(r"(a2|a3|a4|a4x|g2|g4)-")

GIB_PER_VCPU = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
GIB_PER_VCPU_N1 = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
SIZES = {
    "a2-highgpu-1g": (12, 85.0),
    "a2-ultragpu-1g": (12, 170.0),
    "a3-highgpu-1g": (26, 234.0),
}


def accelerator(name: str) -> Accelerator | None:
    """Looks a GPU up by its name.

    Returns:
        None for `none`: a job without GPUs.

    Raises:
        MachineError: It is unknown, or too old for torch.
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


def check_machine(gpu: Accelerator | None, machine_type: str) -> None:
    """Raises MachineError unless the machine type carries what was asked for, and one GPU only."""
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


def check_place(gpu: Accelerator, region: str, zone: str = "") -> None:
    """Raises MachineError where a region, or a zone of it, is known to lack the GPU."""
    if region not in gpu.regions:
        raise MachineError(
            f"REGION={region} is not known to have {gpu.name}; known: "
            f"{_near(region, gpu.regions)}; if it has some by now, add CHECK_ZONE=no"
        )
    if zone and zone not in gpu.zones:
        here = sorted(one for one in gpu.zones if one.rpartition("-")[0] == region)
        raise MachineError(
            f"ZONE={zone} is not known to have {gpu.name}; in that region: {', '.join(here)}, or "
            "leave ZONE out and Dataflow chooses; if it has some by now, add CHECK_ZONE=no"
        )


def _near(region: str, known: Iterable[str]) -> str:
    """Regions of the same part of the world first."""
    part = region.partition("-")[0]
    return ", ".join(sorted(known, key=lambda other: (not other.startswith(part), other)))


def vcpus_and_gib(machine_type: str) -> tuple[int, float]:
    """Size of a machine.

    Returns:
        vCPUs, and memory in GiB.

    Raises:
        MachineError: The name does not tell it.
    """
    if machine_type in SIZES:
        return SIZES[machine_type]
    match = re.fullmatch(r"([a-z]\w*)-(standard|highmem|highcpu)-(\d+)", machine_type)
    if match is None:
        raise MachineError(
            f"MACHINE_TYPE={machine_type} does not tell its vCPUs; wanted a name such as "
            "g2-standard-8 or n2-standard-8"
        )
    family, kind, vcpus = match[1], match[2], int(match[3])
    table = GIB_PER_VCPU_N1 if family == "n1" else GIB_PER_VCPU
    return vcpus, vcpus * table[kind]
