"""Calendar of panels: the dates that inputs may have, and the rows of each frequency."""

import datetime
import numbers
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.errors import ConfigError, PanelError

Frequency = Literal["monthly", "weekly", "daily"]

PERIODS_PER_YEAR: Final[dict[str, int]] = {"monthly": 12, "weekly": 52, "daily": 252}
_DAY: Final = np.timedelta64(1, "D")
_WEEK: Final = np.timedelta64(7, "D")
UNITS: Final[dict[str, str]] = {"monthly": "month", "weekly": "week", "daily": "day"}
_LONGEST: Final[dict[Frequency, int]] = {"monthly": 30, "weekly": 6, "daily": 0}
"""Days from the first to the last of the longest period."""
_SINGLE: Final = 2**24
"""From here on single precision skips whole numbers."""
_HALF_MONTH: Final = 15.0
_HALF_WEEK: Final = 3.5
_YEARS: Final = (1700, 2250)
"""Within what ``datetime64[ns]`` holds."""

Span: TypeAlias = tuple[np.datetime64, np.datetime64]
_NAT: Final = np.datetime64("NaT", "D")
_MISSING: Final = frozenset({"", "nat", "nan", "none", "null", "na", "n/a", "<na>"})
_CLOCK: Final = (
    r"(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?"
    r"(?: ?[AaPp][Mm])?(?: ?(?:Z|UTC|[+-]\d{2}:?\d{2}))?)?"
)
_DIGITS: Final = re.compile(r"(\d{6}|\d{8})(?:\.0*)?")
_ISO: Final = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})" + _CLOCK)
_YEAR_MONTH: Final = re.compile(r"(\d{4})(?:[-/mM]|[.](?=\d\d$))(\d{1,2})")
_MONTH_YEAR: Final = re.compile(r"(\d{1,2})[-/.](\d{4})")
_QUARTER: Final = re.compile(r"(\d{4})[-/ ]?[qQ]([1-4])")
_YEAR: Final = re.compile(r"\d{4}")
_DAY_OR_MONTH: Final = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK)


def check_frequency(value: object) -> Frequency:
    """Return ``value`` if it is one of the known frequencies, else raise a ``ConfigError``."""
    for known in get_args(Frequency):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"`frequency` must be one of {', '.join(PERIODS_PER_YEAR)}; got {value!r}.")


def frequency_of(panel: xr.Dataset) -> Frequency:
    """Read ``panel.attrs["frequency"]``; the default is monthly."""
    value = panel.attrs.get("frequency", "monthly")
    if value not in PERIODS_PER_YEAR:
        raise PanelError(
            f"`panel.attrs['frequency']` must be one of {', '.join(PERIODS_PER_YEAR)}; got "
            f"{value!r}."
        )
    return check_frequency(value)


def periods_per_year(panel: xr.Dataset) -> int:
    """Return the rows per year, for annualising: 12, 52 or 252.

    Raises
    ------
    PanelError
        If ``panel.attrs["frequency"]`` is none of monthly, weekly, daily.
    """
    return PERIODS_PER_YEAR[frequency_of(panel)]


def read_days(
    values: Any, *, dayfirst: bool | None = None, date_format: str | None = None
) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Read dates of any kind: first and last day of the time that each value names.

    Values are those of :func:`period_ends`. The days, at midnight, are equal for a date; they span
    the month for 201001, "2010-01" or a monthly Period, the year for "2010". Missing values are
    NaT. Raises ValueError or TypeError where a value is no date, or can only be guessed.
    """
    reading = (dayfirst, date_format)
    if isinstance(values, pd.PeriodIndex):
        start, end = (values.to_timestamp(how=how).normalize() for how in ("start", "end"))
        return start.as_unit("ns"), end.as_unit("ns")
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return _from_units(values)
    if isinstance(values, list | tuple):
        # one by one: an index would take the year datetime64("2010") for its first second
        missing = [value is None or value is pd.NaT or value != value for value in values]
        return _from_objects(values, np.where(missing, -1, range(len(values))), *reading)
    index = values if isinstance(values, pd.Index) else pd.Index(values)
    if isinstance(index, pd.DatetimeIndex):
        # days as the clock on the wall shows them
        days = index.tz_localize(None).normalize().as_unit("ns")
        return days, days
    if isinstance(index, pd.CategoricalIndex):
        each, codes = index.categories, index.codes
    else:
        codes, each = pd.factorize(index)
    if isinstance(each, pd.PeriodIndex | pd.DatetimeIndex):
        # the last entry is that of code -1, a missing value
        first, last = (np.append(days.to_numpy(), _NAT) for days in read_days(each))
        return pd.DatetimeIndex(first[codes]), pd.DatetimeIndex(last[codes])
    single = str(each.dtype).lower().startswith(("float32", "float[", "float16"))
    if single and len(each) and float(each.max()) >= _SINGLE:
        raise ValueError(f"{each.dtype} cannot hold YYYYMMDD exactly; use whole numbers or text")
    return _from_objects(each.to_numpy(dtype=object), codes, *reading)


def _from_objects(
    values: Sequence[Any] | NDArray[Any],
    codes: NDArray[np.integer],
    dayfirst: bool | None,
    date_format: str | None,
) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Read different values, and spread them by their positions; -1 is a missing date."""
    used = np.bincount(codes[codes >= 0], minlength=len(values)) > 0
    spans = [
        _read_one(value, dayfirst, date_format) if here else (_NAT, _NAT)
        for value, here in zip(values, used, strict=True)
    ]
    # the last entry is that of -1
    first, last = (np.array([*(span[k] for span in spans), _NAT], "datetime64[D]") for k in (0, 1))
    return _nanoseconds(first[codes]), _nanoseconds(last[codes])


def _read_one(value: Any, dayfirst: bool | None, date_format: str | None) -> Span:
    """Read one value of any kind that is not missing."""
    if isinstance(value, pd.Period):
        return value.start_time.to_datetime64(), value.end_time.to_datetime64()
    if isinstance(value, np.datetime64):
        first, last = _from_units(np.array([value]))
        return first[0].to_datetime64(), last[0].to_datetime64()
    if isinstance(value, datetime.date):  # datetimes and pandas.Timestamps, too
        return _day(value.year, value.month, value.day)
    if isinstance(value, bool | np.bool_ | datetime.timedelta | np.timedelta64):
        raise ValueError(f"{value!r} of type {type(value).__name__} is no date")
    if isinstance(value, str):
        return _from_text(value, dayfirst, date_format)
    if isinstance(value, numbers.Number) and not isinstance(value, complex):
        number: Any = value
        if date_format is not None:
            # a number has lost its leading zeros
            width = len(datetime.date(2000, 12, 31).strftime(date_format))
            return _from_format(str(int(number)).zfill(width), date_format)
        return _from_number(number)
    raise TypeError(f"{value!r} of type {type(value).__name__} is no date")


def _from_units(values: NDArray[Any]) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Days of datetime64: a year, month or week where that is the unit."""
    first, last = values, values
    unit, count = np.datetime_data(values.dtype)
    if unit in ("Y", "M", "W"):
        following = values + np.timedelta64(count, unit)  # type: ignore[call-overload]
        first, last = values.astype("datetime64[D]"), following.astype("datetime64[D]") - _DAY
    return _nanoseconds(first), _nanoseconds(last)


def _nanoseconds(days: NDArray[Any]) -> pd.DatetimeIndex:
    years = days.astype("datetime64[Y]").astype(np.int64)[~np.isnat(days)] + 1970
    if years.size and not (_YEARS[0] <= years.min() and years.max() <= _YEARS[1]):
        raise ValueError(f"years must be in {_YEARS[0]} to {_YEARS[1]}; got {years.min()}")
    return pd.DatetimeIndex(days.astype("datetime64[D]").astype("datetime64[ns]"))


def _from_number(number: Any) -> Span:
    """Read 200412 as December 2004 and 20041231 as its last day, not as nanoseconds."""
    if number != number // 1:
        raise ValueError(f"{number} is no whole number; numbers are read as YYYYMM or YYYYMMDD")
    whole = int(number)
    if 100_000 <= whole <= 999_999:
        return _month(whole // 100, whole % 100)
    if 10_000_000 <= whole <= 99_999_999:
        return _day(whole // 10_000, whole // 100 % 100, whole % 100)
    raise ValueError(f"whole numbers are read as YYYYMM or YYYYMMDD only; got {whole}")


def _from_text(text: str, dayfirst: bool | None, date_format: str | None) -> Span:
    """Read text whose year comes first, or in the order that is given: 03/04/2010 is ambiguous."""
    text = text.strip()
    if text.lower() in _MISSING:
        return _NAT, _NAT
    if date_format is not None:
        return _from_format(text, date_format)
    if found := _DIGITS.fullmatch(text):
        return _from_number(int(found[1]))
    if found := _ISO.fullmatch(text):
        return _day(int(found[1]), int(found[2]), int(found[3]))
    if found := _YEAR_MONTH.fullmatch(text):
        return _month(int(found[1]), int(found[2]))
    if found := _MONTH_YEAR.fullmatch(text):
        return _month(int(found[2]), int(found[1]))
    if found := _QUARTER.fullmatch(text):
        year, quarter = int(found[1]), int(found[2])
        return _month(year, 3 * quarter - 2)[0], _month(year, 3 * quarter)[1]
    if _YEAR.fullmatch(text):
        return _month(int(text), 1)[0], _month(int(text), 12)[1]
    if found := _DAY_OR_MONTH.fullmatch(text):
        if dayfirst is None:
            raise ValueError(
                f"{text!r} may have the day or the month first. Pass date_format='%m/%d/%Y' or "
                "'%d/%m/%Y' (dayfirst=True or dayfirst=False) where a reader takes it, or convert "
                "it with pandas.to_datetime"
            )
        day, month = (1, 2) if dayfirst else (2, 1)
        return _day(int(found[3]), int(found[month]), int(found[day]))
    raise ValueError(
        f"{text!r} is no date with the year first, such as 2004-12-31, 2004-12 or 200412. Pass "
        "date_format=... where a reader takes it, or convert it with pandas.to_datetime"
    )


def _from_format(text: str, date_format: str) -> Span:
    try:
        day = datetime.datetime.strptime(text, date_format).date()
    except ValueError as error:
        raise ValueError(f"`date_format` {date_format!r} does not fit {text!r}") from error
    directives = set(re.findall(r"%-?([A-Za-z])", date_format))
    if directives & set("djxcUW"):
        return _day(day.year, day.month, day.day)
    if directives & set("mbB"):
        return _month(day.year, day.month)
    return _month(day.year, 1)[0], _month(day.year, 12)[1]


def _day(year: int, month: int, day: int) -> Span:
    try:
        only = np.datetime64(datetime.date(year, month, day))
    except ValueError as error:
        raise ValueError(f"{year:04d}-{month:02d}-{day:02d} is no date: {error}") from error
    return only, only


def _month(year: int, month: int) -> Span:
    first, _ = _day(year, month, 1)
    return first, last_days(np.array([first]))[0]


def month_end(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Move each date to the last calendar day of its month; NaT stays."""
    return pd.DatetimeIndex(last_days(stamps.to_numpy()).astype("datetime64[ns]"))


def last_days(times: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Last calendar days of the months of dates, as days."""
    following = times.astype("datetime64[M]") + np.timedelta64(1, "M")
    days: NDArray[np.datetime64] = np.subtract(following.astype("datetime64[D]"), _DAY)
    return days


def period_ends(
    values: Any,
    frequency: Frequency,
    *,
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> pd.DatetimeIndex:
    """Move each date of an axis to the last calendar day of its month or week.

    Parameters
    ----------
    values : Index, array or sequence
        Datetimes of any unit and time zone (the wall-clock day counts), Periods, whole numbers
        YYYYMM or YYYYMMDD in a column of any dtype, or text with the year first (2004-12-31,
        2004/12/31, 2004-12, 200412, 20041231); categories and objects are read by their values.
        Missing dates stay missing (NaT).
    frequency : {"monthly", "weekly", "daily"}
        A week runs from Monday to Sunday and is dated by its Sunday; a day stays itself.
    dayfirst : bool, optional
        Order of text such as 03/04/2010: True for day/month/year, False for month/day/year.
        Default: such text raises.
    date_format : str, optional
        ``strptime`` format of text or numbers.

    Raises
    ------
    ValueError, TypeError
        If a value cannot be read as a date, or names a time longer than a period, as "2010" or
        a quarter does in a monthly panel.
    """
    first, last = read_days(values, dayfirst=dayfirst, date_format=date_format)
    coarse = _coarse(first, last, frequency)
    if coarse.any():
        k = int(np.flatnonzero(coarse)[0])
        unit = UNITS[frequency]
        raise ValueError(
            f"{first[k]:%Y-%m-%d} to {last[k]:%Y-%m-%d} is more than one {unit}; a {frequency} "
            f"panel needs the {unit} of every row"
        )
    return _ends(last, frequency)


def _ends(days: pd.DatetimeIndex, frequency: Frequency) -> pd.DatetimeIndex:
    if frequency == "monthly":
        return month_end(days)
    if frequency == "weekly":
        return days + pd.to_timedelta(6 - days.day_of_week, unit="D")
    return days


def _coarse(
    first: pd.DatetimeIndex, last: pd.DatetimeIndex, frequency: Frequency
) -> NDArray[np.bool_]:
    """Test whether values name a time longer than a period; a week counts as part of a month."""
    return np.asarray((last - first).days > _LONGEST[frequency])


def date_spans(values: Any, frequency: Frequency) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """First and last day that rows may have to belong to the time that each value names.

    Values, one or several, are those of :func:`period_ends`, and coarser: "2010", "2010Q1", a
    yearly Period. The whole time where a value is coarser than a period; otherwise its period's
    end, twice.
    """
    if np.ndim(values) == 0 and not isinstance(values, pd.Index):
        values = [values[()] if isinstance(values, np.ndarray) else values]
    first, last = read_days(values)
    coarse, ends = _coarse(first, last, frequency), _ends(last, frequency)
    return ends.where(~coarse, first), ends.where(~coarse, last)


def infer_frequency(days: pd.DatetimeIndex) -> Frequency | None:
    """Infer the frequency of dates from the median step between them; None for a single date."""
    known = days.dropna().unique().sort_values()
    if len(known) < 2:
        return None
    step = float(np.median(np.diff(known.to_numpy()) / _DAY))
    if step > _HALF_MONTH:
        return "monthly"
    return "weekly" if step > _HALF_WEEK else "daily"


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
    """List the rows that a calendar, sorted and unique, lacks: months as YYYY-MM, weeks as days.

    Daily calendars have holidays, so no day is required of them.
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
