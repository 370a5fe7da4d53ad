"""The (time, asset) cells of a long table's rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rvrae_pyro.data.dates import Frequency, infer_frequency, period_ends
from rvrae_pyro.data.ids import asset_ids
from rvrae_pyro.data.validation import first_three, raise_problems
from rvrae_pyro.errors import PanelError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Columns:
    """Which column of the table is what."""

    time: str
    asset: str
    returns: str
    characteristics: list[str]
    labels: list[str]
    weight: str | None
    risk_free: str | None


class Grid:
    """The (time, asset) cell of every row of a table.

    Raises
    ------
    PanelError
        If a row has no readable date, no asset, or the cell of another row.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        columns: Columns,
        frequency: Frequency,
        *,
        dayfirst: bool | None = None,
        date_format: str | None = None,
    ) -> None:
        self._frame = frame
        problems: list[str] = []
        try:
            ends = period_ends(
                pd.Index(frame[columns.time]),
                frequency,
                dayfirst=dayfirst,
                date_format=date_format,
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise PanelError(
                f"`frame`: column {columns.time!r} holds no dates; the first is "
                f"{frame[columns.time].iloc[0]!r}. {str(error)[:1].upper()}{str(error)[1:]}."
            ) from error
        ids = asset_ids(frame[columns.asset], f"`frame`: column {columns.asset!r}")
        for name, missing in ((columns.time, ends.isna()), (columns.asset, pd.isna(ids))):
            if missing.any():
                rows = frame.index[np.asarray(missing)]
                problems.append(
                    f"column {name!r} is missing (NaN or NaT) in rows {first_three(rows)}. "
                    "Drop or complete them."
                )
        raise_problems("`frame`", problems)
        self._row, times = pd.factorize(ends, sort=True)
        self._column, assets = pd.factorize(ids, sort=True)
        self.times: NDArray[np.datetime64] = np.asarray(times, dtype="datetime64[ns]")
        self.assets: NDArray[np.str_] = np.asarray(assets).astype(str)
        self.shape = len(self.times), len(self.assets)
        self._cell = self._row.astype(np.int64) * self.shape[1] + self._column
        self._refuse_repeats(frequency)
        found = infer_frequency(pd.DatetimeIndex(self.times)) if len(self.times) >= 12 else None
        if frequency == "daily" and found not in (None, "daily"):
            # the calendar of a daily panel may have gaps, so that no other check would notice
            step = int(np.median(np.diff(self.times)) / np.timedelta64(1, "D"))
            raise PanelError(
                f"`frame`: its rows are {step} days apart, and `frequency` is 'daily'. Pass "
                f"frequency={found!r}."
            )

    def _refuse_repeats(self, frequency: Frequency) -> None:
        count = np.bincount(self._cell, minlength=self.shape[0] * self.shape[1])
        repeated = np.flatnonzero(count > 1)
        if len(repeated):
            days = self.times[repeated[:3] // self.shape[1]].astype("datetime64[D]")
            assets = self.assets[repeated[:3] % self.shape[1]]
            cells = [f"({d}, {a})" for d, a in zip(days, assets, strict=True)]
            raise PanelError(
                f"`frame`: repeated (date, asset): {first_three(cells, len(repeated))}. Keep one "
                f"row of each; rows finer than {frequency} want frequency='weekly' or 'daily'."
            )

    def dense(self, name: str, dtype: np.dtype[Any], out: Floats | None = None) -> Floats:
        """Spread a column over the grid, NaN where the table has no row."""
        column = self._frame[name].to_numpy(dtype=dtype, na_value=np.nan)
        out = np.full(self.shape, np.nan, dtype) if out is None else out
        out[self._row, self._column] = column
        return out

    def one_a_row(self, name: str) -> Floats:
        """Read a column that must agree over the assets of a date."""
        column = self._frame[name].astype("float64")
        byrow = column.groupby(self._row)
        low, high = byrow.min(), byrow.max()
        torn = (high > low).to_numpy()
        if torn.any():
            days = self.times[torn].astype("datetime64[D]")
            raise PanelError(
                f"`risk_free`: column {name!r} differs between assets on {first_three(days)}. "
                "One rate a date is expected."
            )
        return low.to_numpy()

    def one_an_asset(self, name: str) -> NDArray[np.str_]:
        """Read a text column that is constant within an asset; '' where it is missing."""
        first = self._frame[name].astype(object).groupby(self._column).first()
        return first.reindex(range(self.shape[1])).fillna("").to_numpy().astype(str)


def stack(grid: Grid, frame: pd.DataFrame, names: Sequence[str]) -> Floats:
    """Stack the columns as (time, asset, characteristic), one column in memory at a time."""
    small = all(frame[c].dtype in (np.float32, np.float16) for c in names)
    dtype = np.dtype(np.float32 if small else np.float64)
    values = np.full((*grid.shape, len(names)), np.nan, dtype)
    for k, name in enumerate(names):
        grid.dense(name, dtype, out=values[:, :, k])
    return values


def delay(values: Floats) -> Floats:
    """Move rows on by one, the last into a new row; nothing is known in the first."""
    return np.concatenate([np.full_like(values[:1], np.nan), values])
