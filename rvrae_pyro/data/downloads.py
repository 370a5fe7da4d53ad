"""Downloads of daily prices, in the layout of yfinance or as a dict of wide tables, to panels."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import xarray as xr

from rvrae_pyro.data.prices import characteristics_from_prices
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError, warn_user

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
