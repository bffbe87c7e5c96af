"""Several processes that train one network, as `torchrun` starts them; or one process alone."""

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

# The first process validates and measures while the others wait for it, and all wait for the one
# whose shards take longest to embed; one that dies takes all down with it, through torchrun.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """This process and those it trains with.

    Attributes:
        device: Where this one computes.
        share: Its part of the work.
    """

    device: torch.device
    share: Share = field(default_factory=Share)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that validates, saves and speaks."""
        return self.share.rank == 0

    def mean(self, value: float) -> float:
        """Of every process's value; exactly the value itself where there is one process."""
        return self._sum(value) / self.share.world if self.share.world > 1 else value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one process at least."""
        return self._sum(float(flag)) > 0 if self.share.world > 1 else flag

    def wait(self) -> None:
        """Until every process has come here."""
        self.any(False)

    def _sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def joined(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over all processes; itself if there is one only."""
        if self.share.world == 1:
            return network
        return DistributedDataParallel(network)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Joins the processes that `torchrun` started, for the length of a block.

    Args:
        device: `cpu`, `cuda` (with several processes, each takes a GPU of its own) or `cuda:1`.

    Raises:
        ValueError: There is no such device, or no GPU for each process.
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
    """Refuses bfloat16 where it is slower or does not exist.

    Raises:
        ValueError: With the remedy.
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
            "or give --no-bf16."
        )
