"""Processes that train one model together, each looking after some of the assets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """A process among those that train together.

    Attributes
    ----------
    rank : int
        From 0; process 0 writes files and talks.
    size : int
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes, the same bits in each."""
        if self.size > 1:
            value = value.contiguous()
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def share(self, tensors: Mapping[str, Tensor]) -> None:
        """Give every process the tensors of process 0, in place."""
        if self.size > 1:
            for name in sorted(tensors):
                dist.broadcast(tensors[name], src=0)


def team() -> Team:
    """Return the processes of ``torch.distributed``, if it is at work; else this one alone."""
    if dist.is_available() and dist.is_initialized():
        return Team(dist.get_rank(), dist.get_world_size())
    return Team()


@contextmanager
def joined(device: str = "cpu") -> Iterator[Team]:
    """Join the processes that ``torchrun`` started, if it started this one.

    Parameters
    ----------
    device : str
        Where the model will be: gloo connects processes on CPUs, nccl those on GPUs, each of
        which takes the one of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield team()
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # counts and seeds are on the CPU, wherever the model is
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield team()
    finally:
        dist.destroy_process_group()
