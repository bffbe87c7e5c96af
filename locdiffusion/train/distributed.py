"""Joins the processes that `torchrun` starts to train one network, or runs one process alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from locdiffusion.train.batches import Share

# Long, because processes wait for the first one to validate and for the slowest one to embed its
# shards. torchrun itself stops all processes when one dies.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """This process and those it trains with.

    Attributes:
        device: Device of this process.
        share: Share of this process in each batch.
    """

    device: torch.device
    share: Share = field(default_factory=Share)

    @property
    def is_first(self) -> bool:
        """Whether this process validates, saves and prints."""
        return self.share.rank == 0

    def mean(self, value: float) -> float:
        """Averages a value over the processes; a single process keeps exactly its value."""
        return self._sum(value) / self.share.world if self.share.world > 1 else value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return self._sum(float(flag)) > 0 if self.share.world > 1 else flag

    def wait(self) -> None:
        """Waits until every process has called this."""
        self.any(False)

    def _sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def joined(self, network: nn.Module) -> nn.Module:
        """Wraps a network so that its gradients are averaged over the processes."""
        if self.share.world == 1:
            return network
        return DistributedDataParallel(network)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Joins the processes that `torchrun` started, for the duration of a block.

    Args:
        device: `cpu`, `cuda` or `cuda:1`. With `cuda`, each of several processes takes its own GPU.

    Raises:
        ValueError: There is no such device, or there are fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, world, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Processes(chosen)
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(chosen, Share(dist.get_rank(), world))
    finally:
        dist.destroy_process_group()


def _device(device: str, world: int, local_rank: int) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device is {device!r}; want cpu, cuda or cuda:1.") from error
    if chosen.type != "cuda":
        return chosen
    count = torch.cuda.device_count()
    if world > 1 and chosen.index is not None:
        raise ValueError(
            f"--device is {device} for {world} processes; write --device cuda, and each takes a "
            "GPU of its own."
        )
    index = local_rank if world > 1 else chosen.index or 0
    if index >= count:
        raise ValueError(
            f"{'Process ' + str(local_rank) if world > 1 else '--device ' + device} wants GPU "
            f"{index} and this machine has {count}; start no more than one process per GPU "
            "(torchrun --nproc_per_node), or use --device cpu."
        )
    return torch.device("cuda", index)


def check_bf16(device: torch.device) -> None:
    """Refuses bfloat16 where it is slower than float32 or not supported.

    Args:
        device: Device of the training.

    Raises:
        ValueError: The device is no GPU, or the GPU has no bfloat16.
    """
    if device.type != "cuda":
        raise ValueError(
            f"bf16 was asked for on the device '{device}', where it is slower than float32; "
            "give --device cuda, or --set bf16=false."
        )
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(
            f"bf16 was asked for and {name} cannot compute with it; want an Ampere GPU or newer, "
            "or give --set bf16=false."
        )
