"""Estimates duration and cost of a Dataflow job from prices and from a measured rate.

Prices are not built in: they change, and differ by region and contract. Google bills the vCPUs, the
memory, the disk and the GPU of a worker while the worker exists, from its start to its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.dataflow_simulation.fleet import Fleet, simulate
from locdiffusion.cli.parser import DONE, run_command
from pipelines.dataflow.machines import MachineError, vcpus_of
from pipelines.dataflow.settings import GEOTAG, Settings

READ_BYTES = 8 * 2**20  # one request of a worker that reads a tar; see locdiffusion.photos.storage
WRITES_PER_SHARD = 3  # predictions, errors, manifest
LOOKS_PER_SHARD = 4  # is there a manifest, is it ours, are both parts there

DESCRIPTION = """\
Estimates hours and money of a geotag job on Dataflow. The rate is yours to measure: geotag a few
shards on one worker and take images_per_second from summary.json. The prices are yours to look up.
"""

EXAMPLES = """\
examples, with made-up prices:
  python -m experiments.dataflow_simulation.cost --photos 1e7 --images-per-second 400 \\
      --workers 20 --worker-hour 1.00
  python -m experiments.dataflow_simulation.cost --photos 1e7 --images-per-second 400 \\
      --workers 20 --machine-type g2-standard-8 --vcpu-hour 0.05 --gib-hour 0.005 --gpu-hour 0.50

the estimate simulates shards that cannot be split, workers that start late and workers that are
slow; `python -m experiments.dataflow_simulation.stragglers --help` shows the same for many shard
sizes.
"""

DEFAULTS = Settings(GEOTAG)
"""The job that a user gets who sets nothing."""

GIB_PER_VCPU = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
GIB_PER_VCPU_N1 = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
GIB = {"a2-highgpu-1g": 85.0, "a2-ultragpu-1g": 170.0, "a3-highgpu-1g": 234.0}


def gib_of(machine_type: str) -> float:
    """Reads the memory of a machine from the name of its type.

    Returns:
        Memory in GiB.

    Raises:
        MachineError: If the name does not tell it.
    """
    if machine_type in GIB:
        return GIB[machine_type]
    vcpus = vcpus_of(machine_type)
    family, kind, _ = machine_type.split("-")
    return vcpus * (GIB_PER_VCPU_N1 if family == "n1" else GIB_PER_VCPU)[kind]


@dataclass(frozen=True)
class Prices:
    """Money per hour of each part of a worker, in any currency.

    Attributes:
        worker: Price of a whole worker without its disk; replaces the next three.
        vcpu: Price of one vCPU.
        gib: Price of one GiB of memory.
        gpu: Price of the GPU.
        disk_gib: Price of one GiB of disk.
    """

    worker: float = 0.0
    vcpu: float = 0.0
    gib: float = 0.0
    gpu: float = 0.0
    disk_gib: float = 0.0

    def worker_hour(self, machine_type: str, disk_gib: int) -> float:
        """Computes the price of one worker hour, disk included.

        Args:
            machine_type: Machine type, which is needed only for prices of parts.
            disk_gib: Size of the disk in GiB.
        """
        parts = self.worker + self.gpu + self.disk_gib * disk_gib
        if self.vcpu or self.gib:
            parts += self.vcpu * vcpus_of(machine_type) + self.gib * gib_of(machine_type)
        return parts


@dataclass(frozen=True)
class Estimate:
    """Estimated duration and cost of a job.

    Attributes:
        hours: Hours from submission to the last photo.
        least_worker_hours: Paid worker hours if each worker leaves when no shard is left for it.
        most_worker_hours: Paid worker hours if all workers stay to the end.
        ideal_worker_hours: Worker hours of geotagging alone.
        worker_hour: Price of one worker hour.
        writes: Number of objects written.
        reads: Number of requests that read an object or ask whether it exists.
    """

    hours: float
    least_worker_hours: float
    most_worker_hours: float
    ideal_worker_hours: float
    worker_hour: float
    writes: int
    reads: int


def estimate(fleet: Fleet, worker_hour: float, photo_kib: float) -> Estimate:
    """Simulates a job and counts its requests.

    Args:
        fleet: Job and workers.
        worker_hour: Price of one worker for one hour.
        photo_kib: Size of a photo's file in KiB.
    """
    run = simulate(fleet)
    data_reads = fleet.photos * photo_kib * 1024 / READ_BYTES
    return Estimate(
        hours=run.seconds / 3600,
        least_worker_hours=run.needed_seconds / 3600,
        most_worker_hours=run.paid_seconds / 3600,
        ideal_worker_hours=fleet.ideal_worker_seconds / 3600,
        worker_hour=worker_hour,
        writes=WRITES_PER_SHARD * fleet.shards,
        reads=round(data_reads) + LOOKS_PER_SHARD * fleet.shards,
    )


def report(fleet: Fleet, found: Estimate) -> str:
    """Formats an estimate as text."""
    least, most = found.least_worker_hours, found.most_worker_hours
    each, ideal = fleet.shards / fleet.workers, found.ideal_worker_hours
    lines = [
        f"photos             {fleet.photos:>16,}   in {fleet.shards:,} shards",
        f"workers            {fleet.workers:>16,}   {each:,.0f} shards each",
        f"hours              {found.hours:>16,.2f}",
        f"worker hours       {least:>16,.2f}   to {most:,.2f}, of them {ideal:,.2f} geotagging",
        f"objects written    {found.writes:>16,}   requests that read: {found.reads:,}",
    ]
    if price := found.worker_hour:
        low, high, thousand = least * price, most * price, 1000 * most * price / fleet.photos
        lines += [
            f"cost of workers    {low:>16,.2f}   to {high:,.2f}, at {price:,.4g} per worker hour",
            f"  per 1,000 photos {thousand:>16,.5f}",
        ]
    else:
        lines.append("cost of workers    not told: give --worker-hour, or the prices of the parts")
    lines.append("not counted: storage itself, requests (above), network out of the region, logs")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Builds the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.dataflow_simulation.cost",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "--photos",
        type=whole,
        required=True,
        metavar="N",
        help="photos in the archive, for example 1e7",
    )
    add(
        "--images-per-second",
        type=float,
        required=True,
        metavar="R",
        help="photos per second of one worker with all threads busy; measure it",
    )
    add("--workers", type=whole, required=True, metavar="N", help="number of workers")
    add(
        "--shard-photos", type=whole, default=2000, metavar="N", help="photos per tar (%(default)s)"
    )
    add(
        "--threads",
        type=whole,
        default=DEFAULTS.harness_threads,
        metavar="N",
        help="shards that a worker reads at once (%(default)s)",
    )
    add(
        "--photo-kib",
        type=float,
        default=300.0,
        metavar="K",
        help="size of a photo in KiB (%(default)s)",
    )
    add(
        "--worker-hour",
        type=float,
        default=0.0,
        metavar="P",
        help="price of a worker hour; or give the next three",
    )
    add("--vcpu-hour", type=float, default=0.0, metavar="P", help="price of a vCPU hour")
    add(
        "--gib-hour",
        type=float,
        default=0.0,
        metavar="P",
        help="price of a GiB of memory for an hour",
    )
    add("--gpu-hour", type=float, default=0.0, metavar="P", help="price of the GPU for an hour")
    add(
        "--disk-gib-hour",
        type=float,
        default=0.0,
        metavar="P",
        help="price of a GiB of disk for an hour",
    )
    add(
        "--machine-type",
        default=DEFAULTS.machine,
        help="machine type, for prices of parts (%(default)s)",
    )
    add(
        "--disk-gib",
        type=whole,
        default=DEFAULTS.disk_gb,
        metavar="N",
        help="disk of a worker in GiB (%(default)s)",
    )
    return made


def whole(text: str) -> int:
    """Parses a whole number of at least 1, which may be written as 1e7."""
    value = float(text)
    if value < 1 or value != round(value):
        raise argparse.ArgumentTypeError(f"{text}, wanted a whole number of at least 1")
    return int(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints an estimate.

    Args:
        arguments: Arguments without the program's name; None takes `sys.argv`.

    Returns:
        The exit status.
    """
    return run_command(lambda: _run(parser().parse_args(arguments)), MachineError, ValueError)


def _run(given: argparse.Namespace) -> int:
    prices = Prices(
        given.worker_hour, given.vcpu_hour, given.gib_hour, given.gpu_hour, given.disk_gib_hour
    )
    fleet = Fleet(
        given.photos,
        given.shard_photos,
        given.workers,
        given.images_per_second,
        threads=given.threads,
    )
    worker_hour = prices.worker_hour(given.machine_type, given.disk_gib)
    print(report(fleet, estimate(fleet, worker_hour, given.photo_kib)))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
