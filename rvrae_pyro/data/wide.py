"""Wide tables, a row per date and a column per asset, to panels."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import Frequency, check_frequency, period_ends
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.ids import asset_ids
from rvrae_pyro.data.readable import not_numeric, numbers_of
from rvrae_pyro.data.validation import first_three, raise_problems
from rvrae_pyro.errors import PanelError, warn_user
from rvrae_pyro.names import RISK_FREE, WEIGHT

_RETURN = "ret"


def from_wide(
    returns: pd.DataFrame,
    *,
    risk_free: "pd.Series[Any] | None" = None,
    excess: bool = False,
    lag: int = 0,
    weight: pd.DataFrame | None = None,
    frequency: Frequency = "monthly",
    dayfirst: bool | None = None,
    date_format: str | None = None,
    **characteristics: pd.DataFrame,
) -> xr.Dataset:
    """Turn wide tables, one row per date and one column per asset, into a panel.

    Parameters
    ----------
    returns : DataFrame of shape (n_dates, n_assets)
        Simple decimal returns over the period of the row; NaN where there is none. Dates in the
        index, in any order and of any kind that ``from_frame`` reads; ids as columns.
    risk_free : Series, optional
        Decimal rate per period by date, subtracted from the returns unless ``excess``.
    excess : bool
        Whether the returns are in excess of the rate already. Default: False.
    lag : {0, 1}
        0: the row of t holds data known before the return of t. 1: data known at the end of
        t; it moves on by one period. Default: 0.
    weight : DataFrame, optional
        Market values, timed like the characteristics.
    frequency : {"monthly", "weekly", "daily"}
        Default: "monthly".
    dayfirst, date_format
        Reading of text dates whose year is not first; see ``from_frame``.
    **characteristics : DataFrame
        A wide table for each characteristic, under its name. Dates and assets may differ from
        those of the returns: cells are matched by date and id, and kept where any table has a
        value.

    Returns
    -------
    Dataset
        As from ``from_frame``; assets sorted by id.

    Raises
    ------
    PanelError
        If a table is none, has columns of several levels, text, unreadable or repeated dates or
        ids, or nothing in common with the returns, and in all cases of ``from_frame``.

    Warns
    -----
    RvraeWarning
        If a table shares less than half of its dates or assets with the returns, and in all cases
        of ``from_frame``.

    Notes
    -----
    Names of characteristics that are arguments here, such as ``lag``, need a long table.

    Examples
    --------
    >>> months = pd.period_range("2020-01", periods=3, freq="M")
    >>> ret = pd.DataFrame([[0.01, 0.02], [0.0, -0.01], [0.03, 0.01]], months, ["A", "B"])
    >>> panel = from_wide(ret, excess=True, lag=1, mom_1m=ret)
    >>> dict(panel.sizes)
    {'time': 4, 'asset': 2, 'characteristic': 1}
    >>> float(panel["characteristics"].sel(time="2020-02-29", asset="A").item())
    0.01
    """
    check_frequency(frequency)
    if not characteristics:
        raise PanelError(
            "`characteristics`: none given. Pass a table for each by name, such as "
            "from_wide(returns, size=size, mom_12m=momentum)."
        )
    tables: dict[str, object] = {"returns": returns, **characteristics}
    tables |= {} if weight is None else {WEIGHT: weight}
    ends = partial(period_ends, frequency=frequency, dayfirst=dayfirst, date_format=date_format)
    read = _read_tables(tables, ends)
    _check_overlap(read)
    columns = {_RETURN if name == "returns" else name: _melted(t) for name, t in read.items()}
    table = pd.concat(columns, axis=1).rename_axis(["date", "asset"])
    return from_frame(
        table.reset_index(),
        characteristics=[name for name in table.columns if name not in (_RETURN, WEIGHT)],
        risk_free=risk_free,
        excess=excess,
        lag=lag,
        weight=None if weight is None else WEIGHT,
        frequency=frequency,
    )


def _melted(table: pd.DataFrame) -> "pd.Series[Any]":
    """Values by (date, asset), without those that are missing."""
    cells = pd.MultiIndex.from_product([table.index, table.columns])
    return pd.Series(table.to_numpy().ravel(), cells).dropna()


def _read_tables(
    tables: Mapping[str, object], ends: Callable[[pd.Index], pd.DatetimeIndex]
) -> dict[str, pd.DataFrame]:
    """Give every table floats, dates at the ends of periods and ids, or list all problems."""
    problems: list[str] = []
    read: dict[str, pd.DataFrame] = {}
    for name, table in tables.items():
        if name == RISK_FREE:
            problems.append("`risk_free` must be a Series by date.")
        elif not isinstance(table, pd.DataFrame) or table.empty:
            what = "empty" if isinstance(table, pd.DataFrame) else f"a {type(table).__name__}"
            problems.append(
                f"`{name}` must be a DataFrame with a row for each date and a column for each "
                f"asset; it is {what}."
            )
        elif table.columns.nlevels > 1 or table.index.nlevels > 1:
            problems.append(
                f"`{name}` must have one level of dates and one of assets; its columns have "
                f"{table.columns.nlevels} and its index {table.index.nlevels}. For a long table "
                "call from_frame, for a download of prices from_prices."
            )
        else:
            found = _read_table(name, table, ends, problems)
            if found is not None:
                read[name] = found
    raise_problems("tables", problems, several="have {} problems")
    return read


def _read_table(
    name: str,
    table: pd.DataFrame,
    ends: Callable[[pd.Index], pd.DatetimeIndex],
    problems: list[str],
) -> pd.DataFrame | None:
    if isinstance(table.index, pd.RangeIndex):
        problems.append(f"`{name}` must be indexed by date; its index only counts rows.")
        return None
    try:
        days = ends(table.index)
        ids = asset_ids(table.columns, f"the columns of `{name}`")
    except (ValueError, TypeError, OverflowError) as error:
        problems.append(f"`{name}`: {error}")
        return None
    for labels, what in ((days, "dates"), (pd.Index(ids), "assets")):
        if labels.hasnans:
            problems.append(f"`{name}` has missing {what}.")
        twice = labels[labels.duplicated() & labels.notna()].unique()
        if len(twice):
            shown = twice.strftime("%Y-%m-%d") if isinstance(twice, pd.DatetimeIndex) else twice
            problems.append(f"`{name}` repeats {what}: {first_three(shown)}.")
    columns = {k: numbers_of(table.iloc[:, k]) for k in range(table.shape[1])}
    empty = [k for k, v in columns.items() if v is None and table.iloc[:, k].isna().all()]
    columns |= {k: pd.Series(np.nan, table.index) for k in empty}
    text = [k for k, v in columns.items() if v is None]
    if text:
        problems.append(f"`{name}`: {not_numeric(table.iloc[:, text[0]])}")
        return None
    values = np.column_stack(
        [v.to_numpy(np.float64, na_value=np.nan) for v in columns.values() if v is not None]
    )
    return pd.DataFrame(values, days, ids)


def _check_overlap(read: Mapping[str, pd.DataFrame]) -> None:
    """Raise where a table has no cell in common with the returns; warn where it has few."""
    returns = read["returns"]
    for name, table in read.items():
        for axis, what in ((0, "dates"), (1, "assets")):
            own, theirs = table.axes[axis], returns.axes[axis]
            shared = len(own.intersection(theirs))
            if not shared:
                raise PanelError(
                    f"`{name}` and `returns` have no {what} in common: {first_three(own.map(str))} "
                    f"and {first_three(theirs.map(str))}."
                )
            if shared < 0.5 * min(len(own), len(theirs)):
                warn_user(
                    f"`{name}` and `returns` share {shared} {what} only, of {len(own)} and "
                    f"{len(theirs)}. Compare their labels."
                )
