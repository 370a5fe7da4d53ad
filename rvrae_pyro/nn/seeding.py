"""Random streams of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seed_streams", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global streams for a while; the caller's are left as they were.

    Parameters
    ----------
    seed : int
        From -2**63 to 2**64 - 1.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed_streams(seed)
        yield


def seed_streams(seed: int) -> None:
    """Do as ``torch.manual_seed`` does for CPU and CUDA.

    That notes a stack trace for every kind of device that is not there: up to a millisecond,
    several times a month of a filter.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
