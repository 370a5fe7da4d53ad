"""Months of labelled arrays: put in order, matched, picked by date, and resampled."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.calendar import Frequency, date_spans, infer_frequency, period_ends, read_days
from rvrae_pyro.errors import ConfigError, RvraeError, ShapeError, check_number, warn_user
from rvrae_pyro.names import SAMPLE_DIMS, TIME

Data = TypeVar("Data", xr.DataArray, xr.Dataset)


def in_time_order(data: Data, name: str) -> Data:
    """Sort months, labelled by dates of any kind, or by numbers that only count.

    Labels become ``datetime64``; the same object where nothing changes, or without such labels.
    Raises ``ShapeError`` where a label is no date or missing, or months repeat; ``name`` is that of
    the argument.
    """
    if TIME not in data.dims or TIME not in data.indexes:
        return data
    index = data.indexes[TIME]
    labels = time_labels(index, name)
    if not labels.is_unique:
        repeated = labels[labels.duplicated()].unique()
        raise ShapeError(
            f"`{name}` must hold every month once along 'time', got {_few(repeated)} repeated. "
            "Keep one row of each."
        )
    if labels is not index:
        data = data.assign_coords({TIME: labels.to_numpy()})
    if labels.is_monotonic_increasing:
        return data
    return data.isel({TIME: np.argsort(labels.to_numpy(), kind="stable")})


def time_labels(index: pd.Index, name: str) -> pd.Index:
    """Read labels along ``time`` as days: the last one of a Period or of 201001.

    Numbers too small or too large for YYYYMM and YYYYMMDD, such as 0, 1, 2, ..., only count.
    """
    if isinstance(index, pd.DatetimeIndex) and index.tz is None:
        labels: pd.Index = index
    else:
        try:
            labels = read_days(index)[1]
        except (ValueError, TypeError, OverflowError) as error:
            if _counts(index):
                return index
            raise ShapeError(f"`{name}` must hold dates along 'time': {error}.") from error
    if labels.hasnans:
        missing = int(np.sum(labels.isna()))
        raise ShapeError(
            f"`{name}` must have a date for every row along 'time', got {missing} missing (NaT). "
            "Drop or date those rows."
        )
    return labels


def _counts(index: pd.Index) -> bool:
    """Test whether labels are numbers that cannot be meant as YYYYMM or YYYYMMDD."""
    if not pd.api.types.is_numeric_dtype(index.dtype) or index.hasnans:
        return False
    values = index.to_numpy(dtype=np.float64)
    return bool(not ((values >= 100_000) & (values < 100_000_000)).all())


def match_months(arrays: Mapping[str, xr.DataArray]) -> list[xr.DataArray]:
    """Bring arrays to the months that all have, in order.

    Labels are kept where one set of them contains the other; otherwise rows are matched by period,
    such as business with calendar month ends, and labelled by its end. Arrays without labels along
    ``time`` are returned as they are.

    Parameters
    ----------
    arrays : mapping from name to DataArray
        Names are those of the arguments, for messages.

    Raises
    ------
    ShapeError
        If labels are no dates or repeat, frequencies differ, or no month is in common.

    Warns
    -----
    RvraeWarning
        If months with numbers are left out, naming how many of which argument.
    """
    ordered = {name: in_time_order(each, name) for name, each in arrays.items()}
    indexes = {name: each.indexes[TIME] for name, each in ordered.items() if TIME in each.indexes}
    if len(indexes) < 2 or _all_equal(indexes):
        return list(ordered.values())
    if not _nested(indexes):
        indexes = _periods(indexes)
        ordered |= {
            name: ordered[name].assign_coords({TIME: labels.to_numpy()})
            for name, labels in indexes.items()
        }
        if _all_equal(indexes):
            return list(ordered.values())
    common = None
    for labels in indexes.values():
        common = labels if common is None else common.intersection(labels)
    assert common is not None
    if not len(common):
        spans = ", ".join(f"`{name}` {_span(labels)}" for name, labels in indexes.items())
        raise ShapeError(
            f"{' and '.join(f'`{name}`' for name in indexes)} have no label in common along "
            f"['time']: {spans}. Compare their coordinates."
        )
    _warn_lost(ordered, indexes, common)
    rows = {name: {TIME: labels.isin(common)} for name, labels in indexes.items()}
    return [each.isel(rows[name]) if name in rows else each for name, each in ordered.items()]


def _all_equal(indexes: Mapping[str, pd.Index]) -> bool:
    first, *others = indexes.values()
    return all(first.equals(other) for other in others)


def _nested(indexes: Mapping[str, pd.Index]) -> bool:
    """Test whether each set of labels contains all smaller ones."""
    by_size = sorted(indexes.values(), key=len)
    return all(bool(small.isin(large).all()) for small, large in pairwise(by_size))


def _periods(indexes: Mapping[str, pd.Index]) -> dict[str, pd.Index]:
    """Label rows by the ends of their periods, where all are dates of one frequency."""
    if not all(isinstance(labels, pd.DatetimeIndex) for labels in indexes.values()):
        return dict(indexes)
    found = {name: infer_frequency(pd.DatetimeIndex(each)) for name, each in indexes.items()}
    known = {frequency for frequency in found.values() if frequency is not None}
    if len(known) > 1:
        each = ", ".join(f"`{name}` {frequency}" for name, frequency in found.items())
        raise ShapeError(
            f"arrays must have one frequency to be matched by date, got {each}. Resample one."
        )
    frequency = known.pop() if known else "monthly"
    ends: dict[str, pd.Index] = {
        name: period_ends(labels, frequency) for name, labels in indexes.items()
    }
    # two days in one period are no calendar of periods: only equal days match
    one_each = all(ends[name].nunique() == each.nunique() for name, each in indexes.items())
    return ends if one_each else dict(indexes)


def common_labels(indexes: Mapping[str, pd.Index]) -> dict[str, pd.Index]:
    """Labels along ``time`` by which rows match: as they are if nested, else ends of periods.

    Indexes may be in any order and have repeats, as along ``obs``.
    """
    labels = {name: time_labels(index, name) for name, index in indexes.items()}
    return labels if _nested(labels) else _periods(labels)


def labels_like(labels: pd.Index, reference: pd.Index, name: str, other: str) -> pd.Index:
    """Write labels as a reference without repeats writes the same periods; others stay."""
    both = common_labels({name: labels, other: reference})
    places = both[other].get_indexer(both[name])
    known = time_labels(reference, other)
    return pd.Index(np.where(places >= 0, known[places], both[name]))


def _warn_lost(
    arrays: Mapping[str, xr.DataArray], indexes: Mapping[str, pd.Index], common: pd.Index
) -> None:
    for name, labels in indexes.items():
        lost = np.flatnonzero(~labels.isin(common))
        if not len(lost):
            continue
        rows = arrays[name].isel({TIME: lost})
        rows = rows.isel({dim: 0 for dim in SAMPLE_DIMS if dim in rows.dims})
        seen = rows.notnull().any([dim for dim in rows.dims if dim != TIME]).to_numpy()
        if not seen.any():
            continue
        others = " and ".join(f"`{other}`" for other in indexes if other != name)
        months = labels[lost[seen]]
        verb = "lacks" if len(indexes) == 2 else "lack"
        warn_user(
            f"{len(months)} of {len(labels)} rows of `{name}` are left out: {others} {verb} "
            f"{_few(months)}. Select the rows that all have along 'time' first."
        )


def pick_rows(
    times: Any,
    wanted: object,
    *,
    name: str = "times",
    what: str = "panel",
    frequency: Frequency | None = None,
    error: type[RvraeError] = ConfigError,
) -> NDArray[np.intp]:
    """Find the rows that dates name: positions, in order, each once.

    Parameters
    ----------
    times : DatetimeIndex or datetime64 array
        Dates of the rows, sorted.
    wanted : date, slice of dates, sequence of dates, or None
        Dates of any kind; one coarser than a period, such as "2010", names all of its rows. None
        is all rows.
    name, what : str
        Argument and its owner, for messages.
    frequency : {"monthly", "weekly", "daily"}, optional
        Default: inferred from ``times``.
    error : type
        Class of the error if a date cannot be read, names no row, or a slice holds none.
    """
    days = pd.DatetimeIndex(times)
    if wanted is None:
        return np.arange(len(days))
    frequency = frequency or infer_frequency(days) or "monthly"
    try:
        if isinstance(wanted, slice):
            rows = _slice_rows(days, wanted, frequency)
            empty = not len(rows)
        else:
            starts, stops = bound_rows(days, _plain(wanted), frequency)
            empty = not len(starts) or bool((stops <= starts).any())
            rows = np.unique(
                np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
                if len(starts)
                else np.empty(0, np.intp)
            )
        reason = ""
    except (ValueError, TypeError, OverflowError) as problem:
        rows, empty, reason = np.empty(0, np.intp), True, f": {problem}"
    if empty:
        shown = f"{wanted!r:.200}"
        raise error(f"`{name}` must name months of the {what}, {_span(days)}; got {shown}{reason}.")
    return rows.astype(np.intp)


def _plain(wanted: Any) -> Any:
    """Dates without the array around them."""
    if isinstance(wanted, xr.DataArray):
        wanted = wanted.to_numpy()
    if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "b":
        raise TypeError("a mask names no dates; index the labels with it")
    if isinstance(wanted, set | frozenset | range) or type(wanted).__name__ == "dict_keys":
        wanted = list(wanted)
    if isinstance(wanted, list | tuple):
        if not wanted:
            raise TypeError("no date at all")
        return [each.to_numpy()[()] if isinstance(each, xr.DataArray) else each for each in wanted]
    return wanted


def _slice_rows(days: pd.DatetimeIndex, wanted: slice, frequency: Frequency) -> NDArray[Any]:
    start, stop = 0, len(days)
    if wanted.start is not None:
        start = int(bound_rows(days, _plain(wanted.start), frequency)[0][0])
    if wanted.stop is not None:
        stop = int(bound_rows(days, _plain(wanted.stop), frequency)[1][0])
    return np.arange(start, stop)[:: wanted.step]


def bound_rows(
    days: pd.DatetimeIndex, values: Any, frequency: Frequency
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First row of the time that each value names, and the row after its last.

    They are equal if there is none. ``days`` are sorted, values as in
    :func:`rvrae_pyro.data.calendar.date_spans`.
    """
    ends = period_ends(days, frequency)
    first, last = date_spans(values, frequency)
    if first.hasnans:
        raise ValueError("a date is missing")
    return ends.searchsorted(first, side="left"), ends.searchsorted(last, side="right")


def _few(labels: pd.Index) -> str:
    shown = [_label(label) for label in labels[:3]]
    more = f", ... ({len(labels)} in all)" if len(labels) > 3 else ""
    return ", ".join(shown) + more


def _label(value: Any) -> str:
    return f"{value:%Y-%m-%d}" if isinstance(value, pd.Timestamp) else str(value)


def _span(labels: pd.Index) -> str:
    if not len(labels):
        return "none"
    return f"{_label(labels[0])} to {_label(labels[-1])}"


def stationary_bootstrap(
    size: int, num_samples: int, block: float, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw indices (num_samples, size) of the stationary bootstrap; ``block`` is the mean length.

    References
    ----------
    Politis and Romano (1994), Journal of the American Statistical Association 89, 1303-1313.
    """
    check_number("block", block, "[1, inf)", "It counts months.")
    starts = rng.uniform(size=(num_samples, size)) < 1.0 / block
    starts[:, 0] = True
    jumps = rng.integers(size, size=(num_samples, size))
    months = np.arange(size)
    begun = np.maximum.accumulate(np.where(starts, months, 0), axis=1)
    base = np.take_along_axis(jumps, begun, axis=1)
    return (base + months - begun) % size
