"""Resampling of months that depend on each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rvrae_pyro.errors import check_number


def stationary_bootstrap(
    size: int, num_samples: int, block: float, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw indices (num_samples, size) of the stationary bootstrap: blocks of random length.

    Parameters
    ----------
    size : int
        Months.
    num_samples : int
    block : float
        Mean length of a block, at least 1.
    rng : Generator

    References
    ----------
    Politis and Romano (1994), Journal of the American Statistical Association 89, 1303-1313.
    """
    check_number("block", block, "[1, inf)", "It counts months.")
    starts = rng.uniform(size=(num_samples, size)) < 1.0 / block
    starts[:, 0] = True
    jumps = rng.integers(size, size=(num_samples, size))
    months = np.arange(size)
    begun = np.maximum.accumulate(np.where(starts, months, 0), axis=1)
    base = np.take_along_axis(jumps, begun, axis=1)
    indices: NDArray[np.intp] = (base + months - begun) % size
    return indices
