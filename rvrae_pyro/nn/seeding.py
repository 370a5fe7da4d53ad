"""Isolated random-number streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's streams for a while; the caller's are left as they were.

    Parameters
    ----------
    seed : int
        As ``torch.manual_seed`` takes it.
    """
    # an unused device has no stream to keep, and is not initialised for it
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=used):
        if _only_cpu():  # the same stream, without a call for every kind of device there is
            torch.default_generator.manual_seed(int(seed))
        else:
            torch.manual_seed(seed)
        yield


def derived_seed(stamp: str) -> int:
    """Seed of a stream that a text names, such as a date and a purpose."""
    return int.from_bytes(hashlib.blake2b(stamp.encode(), digest_size=8).digest(), "big") >> 1


@cache
def _only_cpu() -> bool:
    accelerator = getattr(torch, "accelerator", None)  # since torch 2.6
    # what torch was built for; asking for what there is would wake a device
    return accelerator is not None and accelerator.current_accelerator() is None
