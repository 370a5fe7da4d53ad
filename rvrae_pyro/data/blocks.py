"""Large arrays a few rows at a time, whether they are in memory or on disk."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.names import CHARACTERISTICS

__all__ = ["cached_blocks", "is_lazy", "row_blocks"]

_CELLS: Final = 8_000_000
"""Values that a block from disk holds, unless a single chunk of rows has more."""

_CACHED: Final = 65_536
"""Values of a block whose copies stay in the processor's cache."""

_MOST: Final = 4 * _CELLS
"""Values of a chunk of rows above which it is read in parts, and each part anew."""


def is_lazy(panel: xr.Dataset) -> bool:
    """Whether the characteristics of a panel are on disk, or yet to be computed."""
    return CHARACTERISTICS in panel.variables and panel[CHARACTERISTICS].chunks is not None


def row_blocks(array: xr.DataArray | xr.Variable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive rows along the first dimension, and the position of the first of them.

    An array in memory is one block, without a copy; of one on disk a block takes whole chunks
    where they fit.

    Parameters
    ----------
    array : DataArray or Variable
    """
    n_rows = array.shape[0]
    if array.chunks is None:
        yield 0, np.asarray(array.values)
        return
    chunk = max(array.chunks[0], default=1)
    row = max(1, int(np.prod(array.shape[1:])))
    most = max(1, _CELLS // row)
    whole = chunk * row <= _MOST
    step = chunk * max(1, most // chunk) if whole else most
    for start in range(0, n_rows, step):
        yield start, np.asarray(array[start : start + step].values)


def cached_blocks(array: xr.DataArray | xr.Variable) -> Iterator[tuple[int, NDArray[Any]]]:
    """Do as :func:`row_blocks`, in blocks so small that what is made of them stays in the cache.

    A block is one row where rows are longer than that. There are no copies.
    """
    for first, block in row_blocks(array):
        step = max(1, _CACHED // max(1, int(np.prod(block.shape[1:]))))
        for start in range(0, len(block), step):
            yield first + start, block[start : start + step]
