"""Daily prices to a monthly panel of lagged characteristics."""

from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.build import build_panel, excess_returns
from rvrae_pyro.data.calendar import infer_frequency, month_end, next_row, period_ends
from rvrae_pyro.data.past_returns import enough, mean, momenta, regression, variance
from rvrae_pyro.data.rounding import constant
from rvrae_pyro.data.validation import check_panel, first_three, raise_problems
from rvrae_pyro.errors import PanelError, warn_user

Floats: TypeAlias = NDArray[np.float64]
Stops: TypeAlias = NDArray[np.int64]

_YEAR: Final = 252
_QUARTER: Final = 63
_MONTH_LEAST: Final = 10
_LAST_DAYS: Final = 5


def characteristics_from_prices(
    close: pd.DataFrame,
    volume: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    low: pd.DataFrame | None = None,
    *,
    unadjusted_close: pd.DataFrame | None = None,
    risk_free: "pd.Series[Any] | None" = None,
    excess: bool = False,
) -> xr.Dataset:
    """Make a monthly panel from daily prices.

    Parameters
    ----------
    close : DataFrame
        Daily closing prices adjusted for splits and dividends: one row a trading day,
        one column per asset, NaN where there is no price. The last month is taken as
        complete.
    volume : DataFrame, optional
        Daily volume in shares. Adds ``zerotrade``, and with ``unadjusted_close`` also
        ``dolvol`` and ``illiq``.
    high, low : DataFrame, optional
        Daily extremes, adjusted like ``close``; both or none. Adds ``spread_hl``, and
        ``high`` serves ``high52``.
    unadjusted_close : DataFrame, optional
        Daily closing prices without adjustment for dividends, and for splits adjusted or not as
        ``volume`` is (the column "Close" of a download that also has "Adj Close"): the prices
        at which the volume was traded. Every later dividend scales down all earlier adjusted
        prices, so volume in money made from ``close`` would know the future.
    risk_free : Series by date, optional
        Decimal rate per month, subtracted from the returns unless ``excess``.
    excess : bool
        Whether price changes are excess returns already, as for futures.

    Returns
    -------
    Dataset
        Months from the second of the data to the live one after them. Row t holds the
        return over month t, between the last prices of its months' last five
        trading days, and characteristics from prices up to the end of t-1. An asset
        without a price in the last five trading days of t-1 is not listed in t.
        Characteristics without a single value are left out.

    Raises
    ------
    PanelError
        If frames do not match in dates and assets, dates repeat, prices are not numbers
        above zero or not daily, columns have several levels (as a whole download of yfinance
        has: see ``from_prices``), or there are fewer than two months.

    Warns
    -----
    RvraeWarning
        If the last month seems incomplete, or nothing states that returns are excess.

    Notes
    -----
    Below r is the daily return, m = t-1, and k the mean daily return over assets; windows
    of 63 and 252 days end with the last trading day of m. From monthly returns:
    ``mom_1m`` (reversal) of m; ``mom_6m``, ``mom_12m`` compounded over t-6 (t-12) .. t-2;
    ``mom_36m`` over t-36 .. t-13. From the days of m: ``vol_1m`` standard deviation,
    ``maxret``, ``minret``. From 252 days: ``vol_12m``; ``beta_12m`` slope of r on k;
    ``high52`` close over the highest price; ``zerotrade`` share of days without volume
    or price change. From 63 days: ``idiovol`` residual standard deviation of r on k;
    ``skew``. From the days of m with volume: ``dolvol`` log(1 + mean of p x volume),
    ``illiq`` 10^6 times the mean of abs(r) over p x volume, with p the unadjusted close.
    ``spread_hl`` is the Corwin-Schultz estimate, averaged over m with negative days set to 0. A
    window needs half its days (of a month 10). Levels of adjusted prices are not used:
    adjustments made later would leak into them.

    References
    ----------
    Amihud (2002), Journal of Financial Markets 5; Corwin and Schultz (2012), A simple way
    to estimate bid-ask spreads from daily high and low prices, Journal of Finance 67,
    equations 14 and 18.
    """
    frames = {
        "close": close,
        "volume": volume,
        "high": high,
        "low": low,
        "unadjusted_close": unadjusted_close,
    }
    daily = _read_frames({k: v for k, v in frames.items() if v is not None})
    days = pd.DatetimeIndex(daily["close"].index)
    months = month_end(days)
    ends = months.unique().to_numpy()
    if len(ends) < 2:
        raise PanelError("`close` must span at least two months; it has one.")
    _warn_partial(days[-1], pd.Timestamp(ends[-1]))
    # one memory layout, so that equal prices give bit-equal sums
    data = {name: np.ascontiguousarray(frame.to_numpy()) for name, frame in daily.items()}
    # row s holds days stops[s-1] .. stops[s] - 1
    stops = np.flatnonzero(np.append(months[1:] != months[:-1], True)) + 1
    last = _month_close(data["close"], stops)
    returns = _changes(last)
    features = _from_months(returns) | _from_days(data, last, stops)
    # yearly windows outlive an asset: its missing price shows that it has left
    features = {k: np.where(np.isnan(last), np.nan, v) for k, v in features.items()}
    features = {k: v for k, v in features.items() if not np.isnan(v).all()}
    if not features:
        raise PanelError("`close` is too short: no characteristic has enough days in its window.")
    times = np.append(ends[1:], next_row(ends[-1], "monthly"))
    raw = np.pad(returns[1:], ((0, 1), (0, 0)), constant_values=np.nan)
    net, rate, kind = excess_returns(raw, risk_free, excess, times=times, frequency="monthly")
    panel = build_panel(
        net,
        np.stack(list(features.values()), axis=-1),
        time=times,
        asset=daily["close"].columns.to_numpy(dtype=object),
        characteristic=list(features),
        risk_free=rate,
        return_kind=kind,
        source="characteristics_from_prices",
    )
    check_panel(panel)
    return panel


def _read_frames(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Give the frames float values, sorted days and string columns, or list all problems."""
    problems: list[str] = []
    if ("high" in frames) != ("low" in frames):
        problems.append("`high` and `low` come together; got one of them.")
    if "unadjusted_close" in frames and "volume" not in frames:
        problems.append("`unadjusted_close` is for use with `volume`; got it alone. Leave it out.")
    out: dict[str, pd.DataFrame] = {}
    for name, frame in frames.items():
        if getattr(frame, "empty", True):
            problems.append(f"`{name}` must be a DataFrame with days as rows; it is empty or none.")
            continue
        if frame.columns.nlevels > 1:
            problems.append(
                f"`{name}` must have one column per asset; its columns have the levels "
                f"{list(frame.columns.names)}, such as {tuple(frame.columns[0])}. Pass a download "
                "with all prices to from_prices, or one of them, such as frame['Close']."
            )
            continue
        try:
            days = period_ends(frame.index, "daily")
            values = frame.astype(np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(f"`{name}` must hold numbers and be indexed by date: {error}.")
            continue
        values.index, values.columns = days, frame.columns.map(str)
        problems += _frame_problems(name, values)
        out[name] = values.sort_index()
    raise_problems("prices", problems, several="have {} problems")
    close = out["close"]
    for name, frame in out.items():
        if not (frame.index.equals(close.index) and set(frame.columns) == set(close.columns)):
            problems.append(
                f"`{name}` and `close` must have the same days and assets; reindex it like `close`."
            )
    problems += _frequency_problems(pd.DatetimeIndex(close.index))
    raise_problems("prices", problems, several="have {} problems")
    return {name: frame[close.columns] for name, frame in out.items()}


def _frequency_problems(days: pd.DatetimeIndex) -> list[str]:
    found = infer_frequency(days)
    if found in (None, "daily"):
        return []
    step = int(np.median(np.diff(days.to_numpy())) / np.timedelta64(1, "D"))
    return [
        f"`close` must have a row for each trading day; its rows are {step} days apart. Pass daily "
        f"prices, or make returns with prices.pct_change() and call characteristics_from_returns "
        f"(returns alone) or from_wide for {found} data."
    ]


def _frame_problems(name: str, frame: pd.DataFrame) -> list[str]:
    problems = []
    days = pd.DatetimeIndex(frame.index)
    if days.isna().any():
        problems.append(f"`{name}` has missing dates (NaT).")
    repeated = days[days.duplicated() & days.notna()].unique()
    if len(repeated):
        problems.append(f"`{name}` repeats days: {first_three(repeated.strftime('%Y-%m-%d'))}.")
    twice = frame.columns[frame.columns.duplicated()].unique()
    if len(twice):
        problems.append(f"`{name}` repeats assets: {first_three(twice)}.")
    values = frame.to_numpy()
    bad = np.isinf(values) | ((values < 0) if name == "volume" else (values <= 0))
    if bad.any():
        least = "not negative" if name == "volume" else "above zero"
        assets = frame.columns[bad.any(axis=0)]
        problems.append(
            f"`{name}` must be finite and {least}; it is not for {first_three(assets)}."
        )
    return problems


def _warn_partial(last_day: pd.Timestamp, last_month: pd.Timestamp) -> None:
    # a month's last trading day is at most five days before its end: weekend and holidays
    if (last_month - last_day).days > _LAST_DAYS:
        warn_user(
            f"`close` ends on {last_day:%Y-%m-%d}, within a month that is taken as complete. "
            "Cut the days of an unfinished month."
        )


def _changes(prices: Floats) -> Floats:
    """Relative change from the row before; NaN in the first row and next to a gap."""
    out = np.full_like(prices, np.nan)
    out[1:] = prices[1:] / prices[:-1] - 1.0
    return out


def _month_close(close: Floats, stops: Stops) -> Floats:
    """Take the last price of each month, NaN if it is not from the last five trading days."""
    out = np.full((len(stops), close.shape[1]), np.nan)
    for s, (start, stop) in enumerate(pairwise([0, *stops])):
        for day in range(max(start, stop - _LAST_DAYS), stop):
            out[s] = np.where(np.isnan(close[day]), out[s], close[day])
    return out


def _from_months(returns: Floats) -> dict[str, Floats]:
    """Characteristics from monthly returns, each on the month m = t-1 they end with."""
    return {name: values[1:] for name, values in momenta(returns).items()}


def _from_days(data: dict[str, Floats], last: Floats, stops: Stops) -> dict[str, Floats]:
    """Characteristics from daily data, each on the month m = t-1 whose end closes its window."""
    close = data["close"]
    days = {"return": _changes(close)} | data
    seen = ~np.isnan(days["return"])
    total = np.nansum(days["return"], axis=1)
    market = total / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)
    if "unadjusted_close" in data:
        days["dollars"] = data["unadjusted_close"] * data["volume"]
    if "high" in data:
        days["spread"] = _high_low_spread(data["high"], data["low"])
    rows: list[dict[str, Floats]] = []
    for s, (start, stop) in enumerate(pairwise([0, *stops])):
        year, quarter = (slice(max(0, stop - n), stop) for n in (_YEAR, _QUARTER))
        with np.errstate(divide="ignore", invalid="ignore"):
            row = _month_row({k: v[start:stop] for k, v in days.items()})
            row |= _quarter_row(days["return"][quarter], market[quarter])
            row |= _year_row({k: v[year] for k, v in days.items()}, market[year], last[s])
        rows.append(row)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _month_row(days: dict[str, Floats]) -> dict[str, Floats]:
    returns = days["return"]
    known = enough(returns, _MONTH_LEAST)
    row = {
        "vol_1m": np.where(known, np.sqrt(variance(returns, 1)), np.nan),
        "maxret": np.where(known, np.fmax.reduce(returns), np.nan),
        "minret": np.where(known, np.fmin.reduce(returns), np.nan),
    }
    if "dollars" in days:
        dollars = days["dollars"]
        impact = np.abs(returns) / np.where(dollars > 0, dollars, np.nan)
        row["dolvol"] = np.where(enough(dollars, _MONTH_LEAST), np.log1p(mean(dollars)), np.nan)
        row["illiq"] = np.where(enough(impact, _MONTH_LEAST), 1e6 * mean(impact), np.nan)
    if "spread" in days:
        spread = days["spread"]
        row["spread_hl"] = np.where(enough(spread, _MONTH_LEAST), mean(spread), np.nan)
    return row


def _quarter_row(returns: Floats, market: Floats) -> dict[str, Floats]:
    known = enough(returns, _QUARTER // 2)
    centred = returns - mean(returns)
    skew = mean(centred**3) / variance(returns) ** 1.5
    idiovol = regression(returns, market)[1]
    return {
        "idiovol": np.where(known, idiovol, np.nan),
        # returns that are all the same, up to the rounding of prices, have no skewness
        "skew": np.where(known & ~constant(1.0 + returns, axis=0), skew, np.nan),
    }


def _year_row(days: dict[str, Floats], market: Floats, last: Floats) -> dict[str, Floats]:
    returns = days["return"]
    known = enough(returns, _YEAR // 2)
    top = np.fmax.reduce(days.get("high", days["close"]))
    row = {
        "vol_12m": np.sqrt(variance(returns, 1)),
        "beta_12m": regression(returns, market)[0],
        "high52": last / top,
    }
    if "volume" in days:
        idle = (days["volume"] == 0) | (returns == 0)
        row["zerotrade"] = mean(np.where(np.isnan(returns), np.nan, idle))
    return {name: np.where(known, values, np.nan) for name, values in row.items()}


def _high_low_spread(high: Floats, low: Floats) -> Floats:
    """Estimate the spread of each day from its range and that of the day before."""
    one_day = np.log(high / low) ** 2
    beta = one_day[1:] + one_day[:-1]
    top, bottom = np.maximum(high[1:], high[:-1]), np.minimum(low[1:], low[:-1])
    gamma = np.log(top / bottom) ** 2
    scale = 3.0 - 2.0 * np.sqrt(2.0)
    alpha = (np.sqrt(2.0 * beta) - np.sqrt(beta)) / scale - np.sqrt(gamma / scale)
    estimate = 2.0 * np.expm1(alpha) / (1.0 + np.exp(alpha))
    return np.vstack([np.full((1, high.shape[1]), np.nan), np.maximum(estimate, 0.0)])
