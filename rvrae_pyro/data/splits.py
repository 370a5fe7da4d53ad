"""Cuts of a panel in time order: train, validation, test."""

import numbers
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import Frequency, date_spans, frequency_of, next_row, period_ends
from rvrae_pyro.data.panel_match import describe_panel, match_panel
from rvrae_pyro.data.validation import validate_panel
from rvrae_pyro.errors import ConfigError, PanelError, check_number
from rvrae_pyro.names import CONTEXT, RETURNS, TIME

_HOLIDAYS: Final = pd.Timedelta(days=5)

Date: TypeAlias = "str | np.datetime64 | pd.Timestamp | pd.Period"
Part: TypeAlias = "int | float | Date | tuple[Date, Date] | slice"
"""One part of a split: a count of rows, a fraction, or dates."""


class Split(NamedTuple):
    """Three panels in time order that share no row."""

    train: xr.Dataset
    valid: xr.Dataset
    test: xr.Dataset


def split(panel: xr.Dataset, train: Part, valid: Part, test: Part) -> Split:
    """Cut a panel into train, validation and test spans, in time order.

    Parameters
    ----------
    panel : Dataset
    train, valid, test : int, float, date, or (first date, last date)
        All three of one kind. *Counts* of rows and *fractions* of them end at the last
        row with an observed return; if they do not add up to the whole, the oldest rows
        are left out. A *date* is the last one of its part, which begins where the part
        before it ends. A *pair* or slice of dates names both ends, included; rows
        between two pairs belong to no part. Dates may be of any kind; one coarser than a
        row, such as "2010", is the whole of it. A count of 0 for ``valid`` leaves it empty: a fit
        then trains on all months before the test span and has nothing to stop early on.

    Returns
    -------
    Split
        Named tuple of ``train``, ``valid`` and ``test``. Live rows after the last
        observed return are in none of them unless a date asks for them.

    Raises
    ------
    PanelError
        If the parts overlap, are out of order, leave the panel's span, hold no row, or
        the training span holds no return.
    ConfigError
        If the parts are of several kinds, or a count or fraction is not positive (``valid``: a
        negative count).

    Notes
    -----
    Row t holds the return over t and data known at the end of t-1, so neighbouring
    parts need no gap.
    """
    validate_panel(panel)
    parts = {"train": train, "valid": valid, "test": test}
    kinds = {name: _kind(name, value) for name, value in parts.items()}
    if len(set(kinds.values())) > 1:
        raise ConfigError(
            f"`train`, `valid` and `test` must be of one kind; got {kinds}. Use counts of rows, "
            "fractions or dates for all three."
        )
    kind = kinds["train"]
    if kind == "dates":
        bounds = _date_bounds(panel, parts)
    else:
        n_times = _n_observed(panel)
        counts = _counts(parts) if kind == "counts" else _fractions(parts, n_times)
        if sum(counts) > n_times:
            raise PanelError(
                f"`train`, `valid` and `test` ask for {sum(counts)} rows; the panel has {n_times} "
                "up to its last observed return. Ask for fewer."
            )
        start = n_times - sum(counts)
        edges = np.cumsum([start, *counts]).tolist()
        bounds = list(pairwise(edges))
    return _cut(panel, bounds)


def _kind(name: str, value: object) -> str:
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"`{name}` must be a count, a fraction or dates; got {value!r}.")
    if isinstance(value, numbers.Integral):
        return "counts"
    return "fractions" if isinstance(value, numbers.Real) else "dates"


def _counts(parts: dict[str, Any]) -> list[int]:
    for name, value in parts.items():
        least = 0 if name == "valid" else 1
        if value < least:
            rows = "row" if least else "rows"
            raise ConfigError(f"`{name}` must be at least {least} {rows}; got {value!r}.")
    return [int(v) for v in parts.values()]


def _fractions(parts: dict[str, Any], n_times: int) -> list[int]:
    for name, value in parts.items():
        check_number(name, value, "(0, 1)", "A fraction is one of the months.")
    total = sum(parts.values())
    if total > 1.0 + 1e-9:
        raise ConfigError(f"`train`, `valid` and `test` add up to {total:.4g}; at most 1.")
    edges = np.rint(np.cumsum([0.0, *parts.values()]) * n_times).astype(int)
    counts: list[int] = np.diff(edges).tolist()
    for name, count in zip(parts, counts, strict=True):
        if count < 1:
            raise PanelError(f"`{name}` = {parts[name]} of {n_times} rows is less than one row.")
    return counts


def _n_observed(panel: xr.Dataset) -> int:
    """Count the rows up to the last one with an observed return."""
    seen = ~np.isnan(panel[RETURNS].values).all(axis=1)
    return int(np.flatnonzero(seen)[-1]) + 1


def _read_span(name: str, value: object, frequency: Frequency) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First and last day of the time that a bound names; a date is its period's end, twice."""
    try:
        first, last = date_spans(value, frequency)
        if first.hasnans:
            raise ValueError("a date is missing")
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"`{name}` must hold dates; got {value!r}: {error}.") from error
    return first[0], last[0]


def _pair(value: object) -> tuple[object, object] | None:
    if isinstance(value, slice):
        return value.start, value.stop
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], value[1]
    return None


def _date_bounds(panel: xr.Dataset, parts: dict[str, Any]) -> list[tuple[int, int]]:
    frequency = frequency_of(panel)
    times = period_ends(panel.indexes[TIME], frequency)
    bounds: list[tuple[int, int]] = []
    previous = 0
    for name, value in parts.items():
        pair = _pair(value)
        _, last = _read_span(name, value if pair is None else pair[1], frequency)
        stop = int(times.searchsorted(last, side="right"))
        begin = previous
        if pair is not None:
            first, _ = _read_span(name, pair[0], frequency)
            begin = int(times.searchsorted(first, side="left"))
            if _row_before(times[0], frequency) >= first:
                raise PanelError(
                    f"`{name}` begins {first:%Y-%m-%d}, before the panel, which begins "
                    f"{times[0]:%Y-%m-%d}."
                )
        if pd.Timestamp(next_row(times[-1].to_datetime64(), frequency)) <= last and not (
            frequency == "daily" and last - times[-1] <= _HOLIDAYS and last.is_month_end
        ):
            raise PanelError(f"`{name}` ends {last:%Y-%m-%d}; the panel ends {times[-1]:%Y-%m-%d}.")
        if begin < previous:
            raise PanelError(
                f"`{name}` begins {times[begin]:%Y-%m-%d} and overlaps the part before it, which "
                f"ends {times[previous - 1]:%Y-%m-%d}. Parts go train, valid, test in time."
            )
        if stop <= begin:
            raise PanelError(f"`{name}` holds no row of the panel; it ends {last:%Y-%m-%d}.")
        bounds.append((begin, stop))
        previous = stop
    return bounds


def _row_before(first: pd.Timestamp, frequency: Frequency) -> pd.Timestamp:
    """Latest date that the row before the first one may have; days have holidays."""
    if frequency == "monthly":
        return first - pd.offsets.MonthEnd(1)
    return first - (pd.Timedelta(days=7) if frequency == "weekly" else _HOLIDAYS)


def _cut(panel: xr.Dataset, bounds: list[tuple[int, int]]) -> Split:
    result = Split(*(panel.isel({TIME: slice(*b)}) for b in bounds))
    if bool(result.train[RETURNS].isnull().all()):
        first, last = (str(v)[:10] for v in result.train[TIME].values[[0, -1]])
        raise PanelError(f"`train` has no observed return between {first} and {last}.")
    return result


def walk_forward(
    panel: xr.Dataset,
    train: int,
    valid: int,
    test: int,
    step: int | None = None,
    *,
    expanding: bool = False,
    partial: bool = False,
) -> Iterator[Split]:
    """Cut a panel again and again, each time ``step`` rows later.

    Parameters
    ----------
    panel : Dataset
    train, valid, test : int
        Rows of each part; 0 for no validation. The first training span begins with the panel.
    step : int, optional
        Rows between two cuts; by default ``test``, so that the test spans follow each
        other without gap or overlap.
    expanding : bool
        Whether every training span begins with the panel and grows.
    partial : bool
        Whether a last test span shorter than ``test`` is kept, so that none of the
        newest rows is left out.

    Returns
    -------
    iterator of Split
        In time order; live rows after the last observed return are in none.

    Raises
    ------
    PanelError
        If the panel is too short for one cut.
    ConfigError
        If a count is not a whole number of at least 1 (``valid``: 0).
    """
    validate_panel(panel)
    counts = {"train": train, "valid": valid, "test": test, "step": test if step is None else step}
    for name, value in counts.items():
        if _kind(name, value) != "counts":
            raise ConfigError(f"`{name}` must be a whole number of rows; got {value!r}.")
    _counts(counts)
    n_times = _n_observed(panel)
    need = train + valid + (1 if partial else test)
    if need > n_times:
        raise PanelError(
            f"`train`, `valid` and `test` need {need} rows; the panel has {n_times} up to its "
            "last observed return. Ask for fewer."
        )
    starts = range(0, n_times - need + 1, counts["step"])
    return (
        _cut(
            panel,
            [
                (0 if expanding else k, k + train),
                (k + train, k + train + valid),
                (k + train + valid, min(k + train + valid + test, n_times)),
            ],
        )
        for k in starts
    )


def join_months(train: xr.Dataset, valid: xr.Dataset | None) -> tuple[xr.Dataset, int]:
    """Put validation months behind training months, over the assets of both.

    Returns the variables by month that both have (an asset that one of them lacks is missing there;
    ``train`` itself without validation months), and the number of training months. Raises
    ``PanelError`` if either is no Dataset, validation does not follow training, or the two differ
    in characteristics, ``transform``, ``frequency`` or ``lag``.
    """
    for name, panel in (("train", train), ("valid", valid)):
        if (panel is not None or name == "train") and not isinstance(panel, xr.Dataset):
            raise PanelError(
                f"`{name}` must be a panel, an xarray.Dataset; got {type(panel).__name__}."
            )
    n_train = train.sizes.get(TIME, 0)
    if valid is None or not valid.sizes.get(TIME, 1):
        return train, n_train
    both = CONTEXT in train and CONTEXT in valid
    valid = match_panel(valid, describe_panel(train, context=both), "valid")
    times = valid[TIME].to_numpy()
    if n_train and len(times) and not times[0] > train[TIME].to_numpy()[-1]:
        raise PanelError(
            "`valid` must follow `train` in time; it starts at "
            f"{np.datetime_as_string(times[0], 'D')}, `train` ends at "
            f"{np.datetime_as_string(train[TIME].to_numpy()[-1], 'D')}."
        )
    names = [name for name in train.data_vars if TIME in train[name].dims and name in valid]
    joined = xr.concat(
        [train[names], valid[names]],
        TIME,
        join="outer",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    return joined, n_train
