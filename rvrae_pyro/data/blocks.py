"""Large arrays a few rows at a time, whether they are in memory or on disk."""

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

_CACHED: Final = 65_536
"""Values of a block whose copies stay in the processor's cache."""

_MOST: Final = 4 * _CELLS
"""Values of a chunk of rows above which it is read in parts, and each part anew."""


def is_lazy(panel: xr.Dataset) -> bool:
    """Whether the characteristics of a panel are on disk, or yet to be computed."""
    return CHARACTERISTICS in panel.variables and panel[CHARACTERISTICS].chunks is not None


def give_back() -> None:
    """Return memory that was freed to the system, where the C library keeps it for later.

    Blocks are too small for the library to return them by itself and lie between what stays, so
    that resident memory would grow with every pass over a panel. Costs milliseconds; does
    nothing outside glibc.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def row_blocks(array: xr.DataArray | xr.Variable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive rows along the first dimension, and the position of the first of them.

    An array in memory is one block, without a copy; of one on disk a block takes whole chunks
    where they fit.

    Parameters
    ----------
    array : DataArray or Variable

    Notes
    -----
    A caller that lets go of a block before it asks for the next has one in memory at a time; rows
    of it kept by the caller keep the block.
    """
    if array.chunks is None:
        yield 0, np.asarray(array.values)
        return
    for start, stop in _spans(array.chunks[0], max(1, int(np.prod(array.shape[1:])))):
        yield start, np.asarray(array[start:stop].values)
        give_back()


def cached_blocks(array: xr.DataArray | xr.Variable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Do as :func:`row_blocks`, in blocks so small that what is made of them stays in the cache.

    A block is one row where rows are longer than that. There are no copies, so a caller lets go
    of each before it asks for the next.
    """
    for first, block in row_blocks(array):
        for rows in pieces(block):
            yield first + rows.start, block[rows]
        del block


def each_row(array: xr.DataArray | xr.Variable) -> Iterator[NDArray[Any]]:
    """One row after another; of an array on disk copies, which keep no block in memory."""
    for _, block in row_blocks(array):
        for i in range(len(block)):
            yield block[i] if array.chunks is None else block[i].copy()
        del block


def pieces(values: NDArray[Any]) -> Iterator[slice]:
    """Rows of an array in memory, as many at a time as keep what is made of them small."""
    step = max(1, _CACHED // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))


def _spans(chunks: tuple[int, ...], row: int) -> Iterator[tuple[int, int]]:
    """Rows of each block: whole chunks, or parts of one that is too large."""
    start = stop = 0
    for chunk in chunks:
        if chunk * row > _MOST:
            if stop > start:
                yield start, stop
            end, step = stop + chunk, max(1, _CELLS // row)
            for start in range(stop, end, step):
                yield start, min(start + step, end)
            start = stop = end
        elif stop > start and (stop + chunk - start) * row > _CELLS:
            yield start, stop
            start, stop = stop, stop + chunk
        else:
            stop += chunk
    if stop > start:
        yield start, stop
