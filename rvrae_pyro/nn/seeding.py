"""Random streams of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's streams for a while; the caller's are left as they were.

    Parameters
    ----------
    seed : int
        As ``torch.manual_seed`` takes it.
    """
    # a device that nobody has used has no stream to keep, and is not woken for it
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=used):
        torch.manual_seed(seed)
        yield
