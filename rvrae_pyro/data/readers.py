"""Readers for long tables in files, through a map of their columns."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from pandas.api.types import is_integer_dtype

from rvrae_pyro.data.calendar import date_spans, month_end, period_ends
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.plain_tables import (
    asset_ids,
    column_names,
    is_numeric,
    read_in_pieces,
    read_rest,
    require_numeric,
)
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import ConfigError, PanelError, warn_user
from rvrae_pyro.names import ASSET, RETURNS, TIME

_RETURN: Final = "_own_return"


@dataclass(frozen=True)
class ColumnMap:
    """Roles of the columns of a long table.

    Parameters
    ----------
    time, asset : str
        Columns of dates (any that ``from_frame`` reads, YYYYMMDD included) and ids.
    returns : str or None
        Column of simple decimal returns; None where the file has none and they are passed
        separately.
    characteristics : tuple of str, optional
        Default: every other numeric column that is not dropped.
    drop : tuple of str
        Columns that are neither.
    weight, risk_free : str, optional
        Columns of market values and rates.
    lag : {0, 1}
        0: the row of month t holds data known at the end of t-1. 1: at the end of t.
    label : str, optional
        Column of a code for each asset, such as an industry; its last value becomes a
        coordinate of ``asset``. It is a label, not known at t-1.
    """

    time: str = "date"
    asset: str = "asset"
    returns: str | None = "ret"
    characteristics: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    weight: str | None = None
    risk_free: str | None = None
    lag: int = 0
    label: str | None = None

    def chosen(self, columns: list[str], path: Path) -> list[str]:
        """Find the characteristics among a file's columns; raise if one that is named is absent."""
        roles = [self.time, self.asset, self.returns, self.weight, self.risk_free, self.label]
        named = [name for name in roles if name is not None]
        wanted = [*named, *(self.characteristics or ())]
        absent = [name for name in wanted if name not in columns]
        if absent:
            raise PanelError(
                f"{path} lacks the columns {absent}; it has {columns[:8]}"
                f"{' and more' if len(columns) > 8 else ''}. Pass a ColumnMap with its names."
            )
        if self.characteristics is not None:
            return list(self.characteristics)
        return [name for name in columns if name not in {*named, *self.drop}]


def read_long(
    path: str | os.PathLike[str],
    columns: ColumnMap | None = None,
    *,
    returns: "pd.Series[Any] | None" = None,
    risk_free: "pd.Series[Any] | None" = None,
    excess: bool = False,
    start: object | None = None,
    end: object | None = None,
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> xr.Dataset:
    """Read a long table, one row a (month, asset), of any column names.

    Parameters
    ----------
    path : str or path
        ``.csv`` (compressed or not) or ``.parquet``.
    columns : ColumnMap, optional
    returns : Series, optional
        Simple decimal returns indexed by (asset, date), in place of those of the file.
    risk_free : Series by date, optional
        In place of the map's column.
    excess : bool
        Whether the returns are in excess of the rate already.
    start, end : month or year, optional
        First and last month to keep, such as "2004-12" or a Period; "2004" is the whole year.
    dayfirst, date_format
        How text dates are read where the year does not come first; see ``from_frame``.

    Returns
    -------
    Dataset
        As from ``from_frame``; characteristics float32. Ids and labels are taken as they are
        written: "NA" is a ticker or a country. Text that is no number makes a column a label, or
        leaves it out.

    Raises
    ------
    PanelError
        If the file is missing, damaged, lacks columns or dates, has no returns, or has returns
        that cannot be read: only CRSP's letters (A to E, P, S, T) and the usual marks of missing
        numbers mean no return. In all cases of ``from_frame``.

    Warns
    -----
    RvraeWarning
        If ``returns`` match few rows or lack assets of the file, and in all cases of
        ``from_frame``.

    Notes
    -----
    With ``lag=1`` and ``returns``, data known at the end of t are joined with the return of t+1,
    also where the file has no row for t+1.
    """
    columns = ColumnMap() if columns is None else columns
    path = Path(path)
    chosen = columns.chosen(column_names(path), path)
    if columns.returns is None and returns is None:
        raise PanelError(
            f"{path} has no returns. Pass returns=, a Series indexed by (asset, date)."
        )
    roles = (columns.time, columns.asset, columns.returns, columns.weight, columns.risk_free)
    usecols = [name for name in (*roles, columns.label) if name is not None] + chosen
    reading = {"dayfirst": dayfirst, "date_format": date_format}
    frame = read_rest(list(read_rows(path, usecols, columns, month_bounds(start, end), reading)))
    if frame.empty:
        raise PanelError(f"{path} has no row between the requested months.")
    frame[columns.asset] = asset_ids(frame[columns.asset], f"{path}: column {columns.asset!r}")
    labels = None if columns.label is None else frame.pop(columns.label)
    lag, rate = columns.lag, columns.risk_free if risk_free is None else risk_free
    if returns is not None:
        frame = frame.drop(columns=[columns.returns] if columns.returns else [])
        if lag == 1:
            # data known at the end of t are joined with the return of t + 1, which may be on
            # no row of the file
            rate = _by_month(frame, columns, path) if isinstance(rate, str) else rate
            frame = frame.drop(columns=[columns.risk_free] if columns.risk_free else [])
            frame[columns.time] = month_end(
                pd.DatetimeIndex(frame[columns.time]) + pd.Timedelta(days=1)
            )
            lag = 0
        frame[_RETURN] = _align(returns, frame, columns)
    panel = panel_of(
        frame,
        columns,
        labels,
        path,
        returns=_RETURN if returns is not None else str(columns.returns),
        characteristics=columns.characteristics,
        risk_free=rate,
        excess=excess,
        lag=lag,
    )
    panel.attrs["source"] = path.name
    return panel


def panel_of(
    frame: pd.DataFrame,
    columns: ColumnMap,
    labels: "pd.Series[Any] | None",
    path: Path,
    **given: Any,
) -> xr.Dataset:
    """Turn the rows of a file into a panel, its assets labelled as in their last month."""
    try:
        panel = from_frame(
            frame, time=columns.time, asset=columns.asset, weight=columns.weight, **given
        )
    except PanelError as error:
        raise PanelError(f"{path}: {error}") from error
    if labels is None:
        return panel
    found = _last_labels(labels, frame, columns, panel)
    return panel.assign_coords({str(columns.label): (ASSET, found)})


def _by_month(frame: pd.DataFrame, columns: ColumnMap, path: Path) -> "pd.Series[Any]":
    """Read the rate of each month from a column; its rows are about to move on by a month."""
    name = str(columns.risk_free)
    rates = frame[name].groupby(frame[columns.time])
    if (rates.nunique() > 1).any():
        raise PanelError(f"{path}: column {name!r} differs between assets of a month.")
    return rates.first().dropna()


def _last_labels(
    labels: "pd.Series[Any]", frame: pd.DataFrame, columns: ColumnMap, panel: xr.Dataset
) -> "np.ndarray[Any, Any]":
    """Label of every asset of a panel in its last month; numbers as floats."""
    in_time = labels.iloc[np.argsort(frame[columns.time].to_numpy(), kind="stable")]
    last = in_time.groupby(frame[columns.asset].reindex(in_time.index).to_numpy()).last()
    found = last.reindex(panel[ASSET].values)
    return found.to_numpy(np.float64 if is_numeric(found) else object)


def read_rows(
    path: Path,
    usecols: list[str],
    columns: ColumnMap,
    bounds: tuple[pd.Period, pd.Period],
    reading: Mapping[str, Any],
    where: "Callable[[pd.DataFrame], pd.Series[bool]] | None" = None,
) -> Iterator[pd.DataFrame]:
    """Read rows of a file in pieces, dated by month ends, with numbers in single precision.

    ``bounds`` are the first and last month, ``reading`` the arguments ``dayfirst`` and
    ``date_format`` of the dates; ``where`` marks the rows of a piece to keep.
    """
    roles = {"asset": columns.asset, "time": columns.time, "returns": columns.returns}
    exact = {columns.time, columns.asset, columns.returns, columns.label}
    exact |= {columns.risk_free, columns.weight}
    for piece in read_in_pieces(path, usecols, **roles):  # type: ignore[arg-type]
        dates = pd.Index(piece[columns.time])
        ends = _month_ends(dates, f"the column {columns.time!r} of {path}", reading)
        if ends.hasnans:
            raise PanelError(
                f"{path}: column {columns.time!r} is missing in {np.count_nonzero(ends.isna())} "
                "rows. Drop or complete them."
            )
        months = ends.to_period("M")
        inside = (months >= bounds[0]) & (months <= bounds[1])
        inside = inside if where is None else inside & where(piece).to_numpy()
        kept = piece.assign(**{columns.time: ends})[inside]
        rest = [c for c in usecols if c not in exact]
        wide = [c for c in rest if kept[c].dtype == np.float64 or is_integer_dtype(kept[c].dtype)]
        yield kept.astype(dict.fromkeys(wide, "float32"))


def month_bounds(start: object | None, end: object | None) -> tuple[pd.Period, pd.Period]:
    """First and last month to keep; a year means all of its months."""
    bounds = []
    for name, value, last in (("start", start or "1700-01", 0), ("end", end or "2250-12", 1)):
        try:
            day = date_spans(value, "monthly")[last][0]
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"`{name}` must be a month or a year, such as '2004-12' or '2004'; got {value!r}: "
                f"{str(error).split('. ')[0]}."
            ) from error
        bounds.append(pd.Period(day, "M"))
    return bounds[0], bounds[1]


def _month_ends(
    values: pd.Index, source: str, reading: Mapping[str, Any] | None = None
) -> pd.DatetimeIndex:
    try:
        return period_ends(values, "monthly", **(reading or {}))
    except (ValueError, TypeError) as error:
        raise PanelError(f"{source} holds dates that cannot be read: {error}.") from error


def _align(
    returns: "pd.Series[Any]", frame: pd.DataFrame, columns: ColumnMap
) -> "np.ndarray[Any, Any]":
    """Find each row's return by asset and month."""
    if not isinstance(returns, pd.Series) or returns.index.nlevels != 2:
        raise PanelError(
            "`returns` must be a Series indexed by (asset, date); got "
            f"{type(returns).__name__}. Use frame.set_index([asset, date])[column]."
        )
    assets = asset_ids(returns.index.get_level_values(0), "the index of `returns`")
    months = _month_ends(returns.index.get_level_values(1), "the index of `returns`")
    values = require_numeric(returns, "`returns`")
    known = pd.Series(
        values.to_numpy(dtype=np.float64, na_value=np.nan),
        index=pd.MultiIndex.from_arrays([assets, months]),
    )
    if known.index.has_duplicates:
        raise PanelError("`returns` has several values for one asset and month; keep one.")
    rows = pd.MultiIndex.from_arrays([frame[columns.asset], pd.DatetimeIndex(frame[columns.time])])
    found: np.ndarray[Any, Any] = known.reindex(rows).to_numpy(dtype=np.float64)
    missing = int(np.isnan(found).sum())
    if missing == len(found):
        raise PanelError(
            f"`returns` matches no row by {ASSET} and {TIME}; compare ids and dates. Column "
            f"{RETURNS!r} would be empty."
        )
    if missing > 0.5 * len(found):
        warn_user(
            f"`returns` has a value for {len(found) - missing} of the {len(found)} rows only; the "
            "others are live rows without a return. Compare ids and dates."
        )
        return found
    seen = pd.Series(~np.isnan(found)).groupby(frame[columns.asset].to_numpy()).any()
    lost = seen.index[~seen]
    if len(lost) > 0.1 * len(seen):
        warn_user(
            f"`returns` has no value for {len(lost)} of the assets of the file, such as "
            f"{first_three(lost)}; they are forecast and never train. Compare ids."
        )
    return found
