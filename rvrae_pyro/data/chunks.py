"""Large arrays a few rows at a time, in memory or on disk."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.names import CHARACTERISTICS

_CELLS: Final = 8_000_000
"""Values that a block from disk holds, unless a single chunk of rows has more."""

_MOST: Final = 4 * _CELLS
"""Values of a chunk of rows above which it is read in parts, and again for each part."""


def is_lazy(panel: xr.Dataset) -> bool:
    """Test whether the characteristics of a panel are on disk, or yet to be computed."""
    return CHARACTERISTICS in panel.variables and panel[CHARACTERISTICS].chunks is not None


def give_back() -> None:
    """Return freed memory to the system, which glibc keeps for later.

    Lowers the peak memory of a fit and a forecast of a panel on disk by a sixth
    (``tests/benchmarks/test_out_of_core.py`` with 14,000 assets: 0.99 and 0.87 GiB, without it
    1.20 and 1.06). Costs milliseconds; does nothing outside glibc.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def row_blocks(array: xr.DataArray | xr.Variable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive rows along the first dimension, and the position of the first of them.

    An array in memory is one block, without a copy; on disk a block takes whole chunks where
    they fit. A caller that deletes a block before it asks for the next has one in memory at a
    time; rows of it keep the block.
    """
    if array.chunks is None:
        yield 0, np.asarray(array.values)
        return
    row = max(1, int(np.prod(array.shape[1:])))
    edges = np.cumsum((0, *array.chunks[0]))
    start = 0
    while start < edges[-1]:
        after = edges[edges > start]
        reach = after if start in edges else after[:1]
        fitting = reach[(reach - start) * row <= _CELLS]
        stop = int(fitting[-1] if len(fitting) else after[0])
        if (stop - start) * row > _MOST:
            stop = start + max(1, _CELLS // row)
        yield start, np.asarray(array[start:stop].values)
        give_back()
        start = stop


def each_row(array: xr.DataArray | xr.Variable) -> Iterator[NDArray[Any]]:
    """One row after another; of an array on disk copies, which keep no block in memory."""
    for _, block in row_blocks(array):
        for row in block:
            yield row if array.chunks is None else row.copy()
        del block
