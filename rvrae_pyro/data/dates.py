"""The panel's calendar: what a row's date means at each frequency."""

from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.errors import ConfigError, PanelError

__all__ = [
    "Frequency",
    "check_frequency",
    "frequency_of",
    "last_days",
    "month_end",
    "next_row",
    "period_ends",
    "periods_per_year",
    "skipped_rows",
]

Frequency = Literal["monthly", "weekly", "daily"]

_PERIODS: Final[dict[str, int]] = {"monthly": 12, "weekly": 52, "daily": 252}
_DAY: Final = np.timedelta64(1, "D")
_WEEK: Final = np.timedelta64(7, "D")


def check_frequency(value: object) -> Frequency:
    """Return ``value`` if it is one of the known frequencies, else raise a ``ConfigError``."""
    for known in get_args(Frequency):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"`frequency` must be one of {', '.join(_PERIODS)}; got {value!r}.")


def frequency_of(panel: xr.Dataset) -> Frequency:
    """Read ``panel.attrs["frequency"]``; a panel that does not say is monthly."""
    value = panel.attrs.get("frequency", "monthly")
    if value not in _PERIODS:
        raise PanelError(
            f"`panel.attrs['frequency']` must be one of {', '.join(_PERIODS)}; got {value!r}."
        )
    return check_frequency(value)


def periods_per_year(panel: xr.Dataset) -> int:
    """Return the rows in a year, for annualising: 12, 52 or 252.

    Raises
    ------
    PanelError
        If ``panel.attrs["frequency"]`` is none of monthly, weekly, daily.
    """
    return _PERIODS[frequency_of(panel)]


def _from_integers(values: NDArray[np.integer]) -> pd.DatetimeIndex:
    """Read 200412 as December 2004 and 20041231 as its last day.

    Pandas would take both for nanoseconds of 1970.
    """
    text = pd.Index(values.astype(str))
    width = set(text.str.len())
    if width == {6}:
        return pd.DatetimeIndex(pd.to_datetime(text, format="%Y%m"))
    if width == {8}:
        return pd.DatetimeIndex(pd.to_datetime(text, format="%Y%m%d"))
    raise ValueError("whole numbers are read as YYYYMM or YYYYMMDD only")


def _from_text(values: pd.Index) -> pd.DatetimeIndex:
    """Read ISO dates; 03/04/2010 is April to some and March to others, so it is refused."""
    known = values[values.notna()]
    if known.str.isdigit().all():
        stamps = np.full(len(values), np.datetime64("NaT", "ns"))
        stamps[values.notna()] = _from_integers(known.astype("int64").to_numpy())
        return pd.DatetimeIndex(stamps)
    try:
        return pd.DatetimeIndex(pd.to_datetime(values, format="ISO8601"))
    except ValueError as error:
        raise ValueError(f"text is read as ISO dates such as 2004-12-31 only: {error}") from error


def _timestamps(values: pd.Index) -> pd.DatetimeIndex:
    if isinstance(values, pd.PeriodIndex):
        # the last day of the period, whatever its length
        return values.to_timestamp(how="end").normalize()
    if pd.api.types.is_integer_dtype(values.dtype):
        return _from_integers(values.to_numpy())
    if pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        raise ValueError(f"dates of dtype {values.dtype} have no meaning")
    if values.dtype == object and any(isinstance(v, pd.Period) for v in values[:1]):
        return _timestamps(pd.PeriodIndex(values))
    kind = pd.api.types.infer_dtype(values, skipna=True)
    stamps = pd.DatetimeIndex(_from_text(values) if kind == "string" else pd.to_datetime(values))
    return stamps if stamps.tz is None else stamps.tz_localize(None)


def month_end(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Move each date to the last calendar day of its month; NaT stays."""
    return pd.DatetimeIndex(last_days(stamps.to_numpy()).astype("datetime64[ns]"))


def last_days(times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Last calendar days of the months of dates, as days."""
    following = times.astype("datetime64[M]") + np.timedelta64(1, "M")
    days: NDArray[np.datetime64] = np.subtract(following.astype("datetime64[D]"), _DAY)
    return days


def period_ends(values: pd.Index, frequency: Frequency) -> pd.DatetimeIndex:
    """Move each date to the last calendar day of its month or week.

    Parameters
    ----------
    values : Index
        Dates, Periods, date strings, or whole numbers YYYYMM or YYYYMMDD. Missing
        dates stay missing (NaT).
    frequency : {"monthly", "weekly", "daily"}
        A week runs from Monday to Sunday and is dated by its Sunday; a day stays itself.

    Returns
    -------
    DatetimeIndex
        ``datetime64[ns]``, at midnight, in the order of ``values``.

    Raises
    ------
    ValueError
        If the values cannot be read as dates.
    """
    stamps = _timestamps(values).normalize().as_unit("ns")
    if frequency == "monthly":
        return month_end(stamps)
    if frequency == "weekly":
        return stamps + pd.to_timedelta(6 - stamps.day_of_week, unit="D")
    return stamps


def next_row(last: np.datetime64, frequency: Frequency) -> np.datetime64:
    """Return the date of the row after ``last``; for daily data the next weekday."""
    day = last.astype("datetime64[D]")
    if frequency == "monthly":
        later = day.astype("datetime64[M]") + np.timedelta64(2, "M")
        after = later.astype("datetime64[D]") - np.timedelta64(1, "D")
    elif frequency == "weekly":
        after = day + _WEEK
    else:
        after = np.busday_offset(day + np.timedelta64(1, "D"), 0, roll="forward")
    return after.astype("datetime64[ns]")  # type: ignore[no-any-return]


def skipped_rows(times: NDArray[np.datetime64], frequency: Frequency) -> list[str]:
    """List the rows a calendar misses between its first and last date.

    Daily calendars have holidays, so no day is required of them.

    Parameters
    ----------
    times : datetime64 array of shape (n_times,)
        Sorted and unique.

    Returns
    -------
    list of str
        Months as ``YYYY-MM``, weeks as the day that is missing.
    """
    if frequency == "daily" or len(times) < 2:
        return []
    unit = "datetime64[M]" if frequency == "monthly" else "datetime64[D]"
    have = times.astype(unit)
    step = np.timedelta64(1, "M") if frequency == "monthly" else _WEEK
    if (np.diff(have) == step).all():
        return []
    full = np.arange(have[0], have[-1] + step, step)
    return [str(v) for v in full[~np.isin(full, have)]]
