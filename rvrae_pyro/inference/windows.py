"""Cutting the training months into the windows of an epoch."""

from __future__ import annotations

import itertools

import torch


def draw_windows(
    n_times: int, window: int | None, generator: torch.Generator
) -> list[tuple[int, int]]:
    """Cut all months into consecutive windows at a random offset, in random order.

    Parameters
    ----------
    n_times : int
        Training months.
    window : int or None
        Months a window; None for one window of everything.
    generator : torch.Generator
        Source of the offset and the order.

    Returns
    -------
    list of (start, stop)
        Every month is in exactly one window.
    """
    if window is None or window >= n_times:
        return [(0, n_times)]
    offset = int(torch.randint(window, (1,), generator=generator))
    cuts = [0, *range(offset or window, n_times, window), n_times]
    pairs = [(a, b) for a, b in itertools.pairwise(cuts) if b > a]
    order = torch.randperm(len(pairs), generator=generator).tolist()
    return [pairs[i] for i in order]
