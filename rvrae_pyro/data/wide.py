"""Wide tables, a row per date and a column per asset, to panels."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.build import build_panel, excess_returns
from rvrae_pyro.data.calendar import Frequency, check_frequency, next_row, period_ends
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.oddities import warn_of_oddities
from rvrae_pyro.data.past_returns import past_characteristics
from rvrae_pyro.data.plain_tables import asset_ids, not_numeric, numbers_of
from rvrae_pyro.data.prices import characteristics_from_prices
from rvrae_pyro.data.validation import check_panel, first_three, raise_problems
from rvrae_pyro.errors import PanelError, warn_user
from rvrae_pyro.names import RETURNS, RISK_FREE, WEIGHT

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
            "from_wide(returns, size=size, mom_12m=momentum), or make them from past returns with "
            "characteristics_from_returns(returns)."
        )
    tables: dict[str, object] = {"returns": returns, **characteristics}
    tables |= {} if weight is None else {WEIGHT: weight}
    ends = partial(period_ends, frequency=frequency, dayfirst=dayfirst, date_format=date_format)
    read = _read_tables(tables, ends)
    _check_overlap(read)
    columns = {}
    for name, each in read.items():
        cells = pd.MultiIndex.from_product([each.index, each.columns])
        values = pd.Series(each.to_numpy().ravel(), cells).dropna()
        columns[_RETURN if name == "returns" else name] = values
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


def characteristics_from_returns(
    returns: pd.DataFrame,
    *,
    risk_free: "pd.Series[Any] | None" = None,
    excess: bool = False,
    frequency: Frequency = "monthly",
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> xr.Dataset:
    """Make a panel from returns alone: characteristics are of each asset's own past returns.

    Parameters
    ----------
    returns : DataFrame of shape (n_dates, n_assets)
        As for :func:`from_wide`. A long table without characteristics goes to ``from_frame``,
        which makes the same.
    risk_free, excess, frequency, dayfirst, date_format
        As for :func:`from_wide`.

    Returns
    -------
    Dataset
        The rows of ``returns`` and the live one after them. Row t holds the return over t and
        characteristics from excess returns up to the end of t-1; an asset without a return in t-1
        is not listed in t.

    Raises
    ------
    PanelError
        If the table is none, has columns of several levels, text, unreadable or repeated dates or
        ids, skips periods, and in all cases of ``check_panel``.

    Warns
    -----
    RvraeWarning
        If nothing states that the returns are excess, or the panel is valid and most likely wrong.

    Notes
    -----
    With r the excess return and months before t: ``mom_1m`` (reversal) r of t-1; ``mom_6m``,
    ``mom_12m`` compounded over t-6 (t-12) .. t-2; ``mom_36m`` over t-36 .. t-13; ``vol_12m``
    standard deviation and ``maxret_12m`` maximum over t-12 .. t-1; ``beta_36m`` slope on the
    equal-weight mean of the assets over t-36 .. t-1. Compounded returns need every month of their
    window, the others half of them. In weekly and daily panels a month is 4 weeks or 21 days, and
    a year 52 weeks or 252 days. A characteristic that the history is too short for is left out, so
    that a model fitted to less than 37 months needs a new fit once they are there.

    Examples
    --------
    >>> months = pd.period_range("2020-01", periods=3, freq="M")
    >>> ret = pd.DataFrame([[0.01, 0.02], [0.0, -0.01], [0.03, 0.01]], months, ["A", "B"])
    >>> panel = characteristics_from_returns(ret, excess=True)
    >>> dict(panel.sizes)
    {'time': 4, 'asset': 2, 'characteristic': 1}
    >>> float(panel["characteristics"].sel(time="2020-04-30", asset="A").item())
    0.03
    """
    check_frequency(frequency)
    ends = partial(period_ends, frequency=frequency, dayfirst=dayfirst, date_format=date_format)
    read = _read_tables({"returns": returns}, ends)["returns"].sort_index().sort_index(axis=1)
    last = read.index[-1].to_datetime64()
    times = np.append(read.index.to_numpy(), next_row(last, frequency))
    raw = np.pad(read.to_numpy(), ((0, 1), (0, 0)), constant_values=np.nan)
    net, rate, kind = excess_returns(raw, risk_free, excess, times=times, frequency=frequency)
    known = past_characteristics(net[:-1].astype(np.float64), frequency)
    panel = build_panel(
        net,
        np.stack(list(known.values()), axis=-1),
        time=times,
        asset=read.columns.to_numpy(dtype=object),
        characteristic=list(known),
        risk_free=rate,
        frequency=frequency,
        return_kind=kind,
        source="characteristics_from_returns",
    )
    panel.attrs["lag"] = 0
    check_panel(panel)
    warn_of_oddities(panel, RETURNS)
    return panel


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


_FIELDS: Final = {
    "close": "close",
    "adjclose": "adjusted",
    "adjustedclose": "adjusted",
    "adj": "adjusted",
    "unadjustedclose": "unadjusted",
    "high": "high",
    "low": "low",
    "volume": "volume",
    "vol": "volume",
    "open": "open",
    "dividends": "dividends",
    "stocksplits": "splits",
    "capitalgains": "gains",
    "repaired": "repaired",
}
"""Names of prices, in small letters without spaces, and their meaning."""


def from_prices(
    prices: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    risk_free: "pd.Series[Any] | None" = None,
    excess: bool = False,
) -> xr.Dataset:
    """Make a monthly panel from a download of daily prices.

    Parameters
    ----------
    prices : DataFrame or dict of DataFrame
        What ``yfinance.download([...])`` returns, as it is: columns of two levels, the price
        (Close, High, Low, Open, Volume, perhaps Adj Close) and the ticker, in either order. Or a
        dict of wide tables, a row per day and a column per asset, under the names ``close`` (or
        ``adj close``), ``high``, ``low``, ``volume`` and ``unadjusted_close``.
    risk_free : Series, optional
        Decimal rate per month by date, subtracted from the returns unless ``excess``.
    excess : bool
        Whether price changes are excess returns already, as for futures. Default: False.

    Returns
    -------
    Dataset
        As from ``characteristics_from_prices``, which names the characteristics.

    Raises
    ------
    PanelError
        If no level of the columns names prices, there is no close, a download has one ticker and
        no level of tickers, prices are not daily, and in all cases of
        ``characteristics_from_prices``.

    Warns
    -----
    RvraeWarning
        If tickers without a single price are left out, and in all cases of
        ``characteristics_from_prices``.

    Notes
    -----
    With Adj Close (``auto_adjust=False``) returns are its changes, and High and Low are adjusted by
    the same factor; Close is then the price at which the volume was traded, and makes ``dolvol``
    and ``illiq``. Without it (``auto_adjust=True``, the default of yfinance) Close is adjusted
    already, and both are left out: prices that are adjusted for later dividends would leak them.
    Rows in which no ticker has a price are left out.

    Examples
    --------
    >>> import yfinance  # doctest: +SKIP
    >>> panel = from_prices(yfinance.download(["AAPL", "IBM"], period="10y"))  # doctest: +SKIP
    """
    fields = _from_dict(prices) if isinstance(prices, Mapping) else _from_download(prices)
    close = fields.get("adjusted", fields.get("close"))
    if close is None:
        raise PanelError(f"`prices` must hold a close; it has {first_three(fields)}.")
    close = _kept(close)
    tables = {
        name: _kept(table).reindex(index=close.index, columns=close.columns)
        for name, table in fields.items()
    }
    if "adjusted" in tables and "close" in tables:
        factor = tables["adjusted"] / tables["close"]
        tables |= {name: tables[name] * factor for name in ("high", "low") if name in tables}
    elif "adjusted" in tables:
        # without the close that they belong to, they cannot be adjusted
        tables = {name: t for name, t in tables.items() if name not in ("high", "low")}
    others: dict[str, Any] = {
        name: tables[name] for name in ("volume", "high", "low") if name in tables
    }
    traded = tables.get("unadjusted", tables.get("close") if "adjusted" in tables else None)
    if traded is not None and "volume" in others:
        others["unadjusted_close"] = traded
    panel = characteristics_from_prices(close, **others, risk_free=risk_free, excess=excess)
    panel.attrs["source"] = "from_prices"
    return panel


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    """Drop days on which no ticker has a value."""
    return table.dropna(how="all")


def _field(name: object) -> str | None:
    return _FIELDS.get("".join(c for c in str(name).lower() if c.isalpha()))


def _from_dict(prices: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    fields: dict[str, pd.DataFrame] = {}
    for name, table in prices.items():
        field = _field(name)
        if field is None:
            raise PanelError(
                f"`prices` has a table {name!r}; the names are close, adj close, "
                "unadjusted_close, high, low and volume."
            )
        if not isinstance(table, pd.DataFrame):
            raise PanelError(f"`prices[{name!r}]` must be a DataFrame; got {type(table).__name__}.")
        if field in fields:
            raise PanelError(f"`prices` has two tables for one price, one of them {name!r}.")
        fields[field] = table
    return _without_empty(fields)


def _from_download(prices: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if not isinstance(prices, pd.DataFrame):
        raise PanelError(
            f"`prices` must be a DataFrame or a dict of them; got {type(prices).__name__}."
        )
    if prices.empty:
        raise PanelError("`prices` is empty: the download failed. Look at the output of yfinance.")
    if prices.columns.nlevels == 1:
        if all(_field(name) for name in prices.columns):
            raise PanelError(
                f"`prices` has the prices of one asset, {first_three(prices.columns)}, without its "
                "name. A cross-section is needed: download several tickers at once."
            )
        raise PanelError(
            f"`prices` must have columns of two levels, prices and tickers; it has one: "
            f"{first_three(prices.columns)}. Pass closes alone to characteristics_from_prices, or "
            "a dict such as {'close': ..., 'volume': ...}."
        )
    levels = [
        k
        for k in range(prices.columns.nlevels)
        if all(_field(name) for name in prices.columns.get_level_values(k).unique())
    ]
    if prices.columns.nlevels > 2 or len(levels) != 1:
        raise PanelError(
            f"`prices`: no level of its columns {list(prices.columns.names)} holds the names of "
            f"prices alone; the first column is {tuple(prices.columns[0])}. Close, High, Low and "
            "Volume are known."
        )
    names = prices.columns.get_level_values(levels[0]).unique()
    fields: dict[str, pd.DataFrame] = {}
    for name in names:
        table = prices.loc[:, prices.columns.get_level_values(levels[0]) == name]
        table.columns = table.columns.droplevel(levels[0])
        repeated = table.columns[table.columns.duplicated()].unique()
        if len(repeated):
            raise PanelError(f"`prices` repeats {name} of {first_three(repeated)}.")
        fields[str(_field(name))] = table
    return _without_empty(fields)


def _without_empty(fields: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Leave out tickers without a single close, as failed downloads are, with a warning."""
    close = fields.get("adjusted", fields.get("close"))
    if close is None:
        return fields
    empty = close.columns[close.isna().all()]
    if len(empty) == close.shape[1]:
        raise PanelError("`prices` holds no close at all: the download failed.")
    if len(empty):
        warn_user(f"tickers without a single price are left out: {first_three(empty)}.")
    return {
        name: table.drop(columns=table.columns.intersection(empty))
        for name, table in fields.items()
    }
