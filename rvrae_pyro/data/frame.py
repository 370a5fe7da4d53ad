"""Long tables to panels and back."""

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.build import build_panel, excess_returns
from rvrae_pyro.data.calendar import (
    Frequency,
    check_frequency,
    infer_frequency,
    next_row,
    period_ends,
)
from rvrae_pyro.data.column_roles import Columns, find_columns, index_to_columns
from rvrae_pyro.data.oddities import warn_of_oddities
from rvrae_pyro.data.past_returns import past_characteristics
from rvrae_pyro.data.plain_tables import asset_ids
from rvrae_pyro.data.validation import check_panel, first_three, listed, raise_problems
from rvrae_pyro.errors import ConfigError, PanelError, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)

Floats = NDArray[np.floating[Any]]

_NOTE: Final = "rvrae_panel"
"""Key of a table's ``attrs`` under which ``to_frame`` records attributes of the panel."""

_NOTED: Final = ("frequency", "return_kind", "transform", "source")


def from_frame(
    frame: pd.DataFrame,
    *,
    time: str = "date",
    asset: str = "asset",
    returns: str = "ret",
    characteristics: Sequence[str] | None = None,
    risk_free: "str | pd.Series[Any] | None" = None,
    excess: bool = False,
    lag: int = 0,
    weight: str | None = None,
    frequency: Frequency | None = None,
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> xr.Dataset:
    """Turn a long table, one row a (date, asset), into a panel.

    Parameters
    ----------
    frame : DataFrame
        Rows in any order. Dates and ids in columns, or as the two levels of the index.
    time : str
        Column of dates: datetimes, Periods, whole numbers YYYYMM or YYYYMMDD, or text with the
        year first, of any dtype (floats, objects and categories, too). Any day of a month
        becomes the month's last day (of a week: its Sunday).
    asset : str
        Column of ids: 10001, 10001.0 and "10001" are one id, and "NA" is a ticker.
    returns : str
        Column of simple returns, decimal (0.01 is 1 %). A row without a return is live:
        it is forecast and never trains.
    characteristics : sequence of str, optional
        By default every other numeric column, but for those that number the rows. Text
        columns that never change within an asset become coordinates of ``asset``. Where no other
        column is left, characteristics are made from the returns of earlier rows, as by
        ``characteristics_from_returns``, and a live row is appended.
    risk_free : str or Series, optional
        Decimal rate per period: a column, or a Series indexed by date. It is subtracted
        from the returns unless ``excess``. Default: with ``excess``, a column ``risk_free``.
    excess : bool
        Whether the returns are excess returns already. Without a risk-free rate and
        without ``excess=True`` the returns are taken as they are, with a warning: one
        often forgets the rate, and one often means it.
    lag : {0, 1}
        0: characteristics and weight are known at the end of the period *before* the
        row's return. 1: the row of t holds data known at the *end of t*; they
        move on by one calendar period within the asset, and a row without returns is
        appended: the live one. The first row then has returns and nothing known, so
        that nothing is listed in it.
    weight : str, optional
        Column of market values, timed like the characteristics; a characteristic as well if
        ``characteristics`` names it. Default: a column ``weight``.
    frequency : {"monthly", "weekly", "daily"}, optional
        Default: that of the panel, for a table of ``to_frame``; else "monthly".
    dayfirst : bool, optional
        Order of text dates such as 03/04/2010: True for day/month/year, False for
        month/day/year. Default: such text raises.
    date_format : str, optional
        ``strptime`` format of the dates, such as "%d-%b-%y".

    Returns
    -------
    Dataset
        Checked by ``check_panel``; the attribute ``lag`` states the shift, which a fit compares
        with later panels. Time and assets sorted, characteristics in the order
        of the columns. Returns are float64. Characteristics are float32 if every column
        is float32 or float16, which is exact and halves a large panel, else float64.

    Raises
    ------
    PanelError
        Listing every problem of the table: missing columns, unreadable or missing dates,
        repeated (date, asset), text where numbers belong, missing risk-free rates, and
        all that ``check_panel`` finds.
    ConfigError
        If ``lag`` or ``frequency`` is none of the choices.

    Warns
    -----
    RvraeWarning
        If nothing states that the returns are excess, characteristics are made from past
        returns, a column is left out, one named like a
        risk-free rate, an id or a code becomes a characteristic, the rate looks annual, or the
        panel is valid and most likely wrong: a characteristic knows the return of its row, a
        code marks missing values, units differ, rows are copies.

    Notes
    -----
    The panel is dense: memory is n_times x n_assets x n_characteristics values.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {
    ...         "date": ["2020-01-15", "2020-01-15", "2020-02-03"],
    ...         "asset": [10001, 10002, 10001],
    ...         "ret": [0.01, -0.02, 0.03],
    ...         "size": [1.0, 2.0, 1.5],
    ...     }
    ... )
    >>> panel = from_frame(table, excess=True)
    >>> panel["asset"].values.tolist()
    ['10001', '10002']
    >>> str(panel["time"].values[0])[:10]
    '2020-01-31'
    """
    if lag not in (0, 1) or isinstance(lag, bool):
        raise ConfigError(f"`lag` must be 0 or 1; got {lag!r}. Shift longer lags yourself.")
    frame = index_to_columns(frame, time, asset)
    noted = _noted(frame, lag)
    frequency = check_frequency(frequency or noted.get("frequency", "monthly"))
    excess = excess or (risk_free is None and "return_kind" in noted)
    frame, columns = find_columns(
        frame,
        time=time,
        asset=asset,
        returns=returns,
        characteristics=characteristics,
        weight=weight,
        risk_free=risk_free if isinstance(risk_free, str) else None,
        has_rate=risk_free is not None,
        excess=excess,
    )
    rate_column, weight = columns.risk_free, columns.weight
    grid = Grid(frame, columns, frequency, dayfirst=dayfirst, date_format=date_format)
    raw = grid.dense(returns, np.dtype(np.float64))
    values = stack(grid, frame, columns.characteristics)
    size = None if weight is None else grid.dense(weight, np.dtype(np.float64))
    times = grid.times
    rate: Floats | pd.Series[Any] | None
    rate = grid.one_a_row(rate_column) if rate_column is not None else risk_free  # type: ignore[assignment]
    made = not columns.characteristics
    live = lag == 1 or (made and bool(np.isfinite(raw[-1]).any()))
    if live:
        times = np.append(times, next_row(times[-1], frequency))
        raw = np.pad(raw, ((0, 1), (0, 0)), constant_values=np.nan)
        if isinstance(rate, np.ndarray):
            rate = np.append(rate, np.nan)
    if lag == 1:
        values = delay(values)
        size = None if size is None else delay(size)
    elif live and size is not None:
        size = np.pad(size, ((0, 1), (0, 0)), constant_values=np.nan)
    net, aligned, kind = excess_returns(raw, rate, excess, times=times, frequency=frequency)
    names = columns.characteristics
    if made:
        known = past_characteristics(net.astype(np.float64), frequency)
        names = list(known)
        values = np.stack([each[:-1] for each in known.values()], axis=-1)
    panel = build_panel(
        net,
        values,
        time=times,
        asset=grid.assets,
        characteristic=np.array(names, dtype=str),
        weight=size,
        risk_free=aligned,
        asset_coords={name: grid.one_an_asset(name) for name in columns.labels},
        frequency=frequency,
        return_kind=str(noted.get("return_kind", kind)) if risk_free is None else kind,
        transform=str(noted.get("transform", "none")),
        source=str(noted.get("source", "")),
    )
    # a table of to_frame knows whether its rows were shifted before
    panel.attrs["lag"] = max(lag, int(frame.attrs.get("lag", 0)))
    check_panel(panel)
    if made:
        warn_user(
            f"the table has no characteristic: {', '.join(names)} are made from the returns of "
            "earlier rows. Add columns of numbers known before the return to use these instead."
        )
    warn_of_oddities(panel, returns)
    return panel


def _noted(frame: pd.DataFrame, lag: int) -> dict[Hashable, Any]:
    """Read what ``to_frame`` noted of a panel; {} for any other table, or one changed since."""
    found = frame.attrs.get(_NOTE)
    if not isinstance(found, dict) or found.get("hash") != _hash(frame):
        return {}
    if lag:
        warn_user(
            "`lag` is 1, yet `to_frame` made the table: its characteristics are known before the "
            "return of their row already, and are now a period older. Pass lag=0."
        )
    return {name: value for name, value in found.items() if name in _NOTED}


def to_frame(panel: xr.Dataset) -> pd.DataFrame:
    """Turn a panel into a long table that ``from_frame(..., excess=True)`` turns back.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    DataFrame
        One row for each cell that is listed or has a return, by date, then asset, in the
        panel's order. Columns ``date``, ``asset``, ``ret`` (excess), the characteristics,
        and where the panel has them ``weight``, ``risk_free`` and text coordinates of the
        assets. Its ``attrs`` note the frequency, the transform and the kind of returns, which
        ``from_frame`` reads back as long as the columns are unchanged.

    Notes
    -----
    A table has no place for attributes, ``context`` or labels without a single value:
    ``write_panel`` keeps them. The frame's ``attrs`` keep ``lag``, so that a panel made of the
    table again states how its source was read.
    """
    check_panel(panel, returns_required=False)
    keep = listed(panel).values | ~np.isnan(panel[RETURNS].values)
    rows, columns = np.nonzero(keep)
    data: dict[str, Any] = {
        "date": panel[TIME].values[rows],
        "asset": panel[ASSET].values[columns],
        "ret": panel[RETURNS].values[keep],
    }
    values = panel[CHARACTERISTICS].values[keep]
    extra: dict[str, Any] = {}
    if WEIGHT in panel:
        extra[WEIGHT] = panel[WEIGHT].values[keep]
    if RISK_FREE in panel:
        extra[RISK_FREE] = panel[RISK_FREE].values[rows]
    for name, coord in panel.coords.items():
        if name != ASSET and coord.dims == (ASSET,) and coord.dtype.kind == "U":
            extra[str(name)] = coord.values[columns]
    names = [str(v) for v in panel[CHARACTERISTIC].values]
    # a characteristic named like a variable would come back as the variable
    clash = [v for v in names if v in data or v in extra or v in (WEIGHT, RISK_FREE)]
    if clash:
        raise PanelError(
            f"`panel`: characteristics named like other columns: {first_three(clash)}."
        )
    data |= {name: values[:, k] for k, name in enumerate(names)}
    table = pd.DataFrame(data | extra)
    noted = {name: str(panel.attrs[name]) for name in _NOTED if name in panel.attrs}
    table.attrs[_NOTE] = {**noted, "hash": _hash(table)}
    if "lag" in panel.attrs:
        table.attrs["lag"] = panel.attrs["lag"]
    return table


def _hash(table: pd.DataFrame) -> str:
    """Hash of a table's content, in any order of its rows."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return f"{','.join(map(str, table.columns))}:{int(rows.sum(dtype=np.uint64)):x}"


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
                pd.Index(frame[columns.time]), frequency, dayfirst=dayfirst, date_format=date_format
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
        self._check_repeats(frequency)
        found = infer_frequency(pd.DatetimeIndex(self.times)) if len(self.times) >= 12 else None
        if frequency == "daily" and found not in (None, "daily"):
            # the calendar of a daily panel may have gaps, so that no other check would notice
            step = int(np.median(np.diff(self.times)) / np.timedelta64(1, "D"))
            raise PanelError(
                f"`frame`: its rows are {step} days apart, and `frequency` is 'daily'. Pass "
                f"frequency={found!r}."
            )

    def _check_repeats(self, frequency: Frequency) -> None:
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
        """Read a text column that is constant within an asset; '' if missing."""
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
