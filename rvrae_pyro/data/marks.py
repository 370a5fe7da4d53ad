"""One look through a panel's characteristics: which cells are listed, and what is wrong there."""

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.blocks import cached_blocks


@dataclass
class Marks:
    """What the characteristics of a panel say of its cells.

    Attributes
    ----------
    listed : bool array of shape (n_times, n_assets)
        Cells with at least one characteristic.
    present : bool array of shape (n_characteristics,)
        Characteristics with at least one value.
    n_missing : int
        Characteristics that listed cells lack.
    holes : list of (time, asset) positions
        The first three listed cells that lack any.
    infinite : bool array of shape (n_times, n_assets), or None
        Cells with an infinite characteristic; None if there are none.
    infinite_names : bool array of shape (n_characteristics,)
        Characteristics that are infinite somewhere.
    largest : float
        Largest absolute value; 0 if it was not asked for.
    """

    listed: NDArray[np.bool_]
    present: NDArray[np.bool_]
    n_missing: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    infinite: NDArray[np.bool_] | None = None
    infinite_names: NDArray[np.bool_] = field(init=False)
    largest: float = 0.0

    def __post_init__(self) -> None:
        self.infinite_names = np.zeros(len(self.present), bool)

    def _note_holes(self, first: int, absent: NDArray[np.bool_]) -> None:
        """Mark rows from ``first`` on one value at a time: some cells have a part of theirs."""
        n = absent.shape[-1]
        missing = absent.astype(np.float32) @ np.ones(n, np.float32)
        here = self.listed[first : first + len(absent)]
        np.less(missing, n, out=here)
        lacking = missing * here
        if lacking.any():
            self.n_missing += int(lacking.sum())
            found = np.argwhere(lacking)[: 3 - len(self.holes)]
            self.holes += [(first + int(t), int(i)) for t, i in found]

    def _note_infinite(self, first: int, bad: NDArray[np.bool_]) -> None:
        """Mark what is infinite in the rows from ``first`` on."""
        if not bad.any():
            return
        if self.infinite is None:
            self.infinite = np.zeros(self.listed.shape, bool)
        self.infinite[first : first + len(bad)] = bad.any(axis=-1)
        self.infinite_names |= bad.any(axis=(0, 1))


def mark_cells(characteristics: xr.DataArray | xr.Variable, *, measure: bool = False) -> Marks:
    """Look once through characteristics (time, asset, characteristic), in memory or on disk.

    Parameters
    ----------
    characteristics : DataArray or Variable of dims (time, asset, characteristic)
    measure : bool
        Find the largest absolute value too.

    Returns
    -------
    Marks
    """
    n_times, n_assets, n = characteristics.shape
    marks = Marks(np.empty((n_times, n_assets), bool), np.zeros(n, bool))
    ones = np.ones(n, characteristics.dtype)
    # in small blocks: a panel-sized mask of booleans would be the largest temporary here
    for first, block in cached_blocks(characteristics):
        here = marks.listed[first : first + len(block)]
        absent = np.isnan(block)
        np.isfinite(_sums(block, ones), out=here)
        # nearly always cells have all or nothing; else, or where a sum is infinite or too large
        # for its type, every value is looked at by itself
        if np.count_nonzero(absent) != n * (here.size - np.count_nonzero(here)):
            marks._note_holes(first, absent)
            marks._note_infinite(first, np.isinf(block))
        if not marks.present.all():  # mostly settled by the first months
            marks.present |= ~absent.all(axis=(0, 1))
        if measure:
            marks.largest = max(marks.largest, _largest(block))
        del block  # or the one that it is part of would stay while the next is read
    return marks


@np.errstate(invalid="ignore", over="ignore")
def _sums(block: NDArray[np.floating], ones: NDArray[np.floating]) -> NDArray[np.floating]:
    # by a product: reductions along a short last axis are slow
    return block @ ones


def _largest(block: NDArray[np.floating]) -> float:
    return float(np.fmax.reduce(np.abs(block), axis=None, initial=0.0))
