"""Reading portfolio weights: by label, complete, and only on assets that can be held."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.calendar import read_days
from rvrae_pyro.data.plain_tables import asset_ids
from rvrae_pyro.data.timeline import in_time_order, labels_like, pick_rows
from rvrae_pyro.errors import ConfigError, PanelError, ShapeError
from rvrae_pyro.names import ASSET, TIME

Weights: TypeAlias = pd.Series | pd.DataFrame | xr.DataArray

PORTFOLIO = "portfolio"


def first(labels: Iterable[object], most: int = 3) -> str:
    """Count labels and show the first few."""
    shown = [
        np.datetime_as_string(each, "D") if isinstance(each, np.datetime64) else str(each)
        for each in labels
    ]
    more = ", ..." if len(shown) > most else ""
    return f"{len(shown)} ({', '.join(shown[:most])}{more})"


def pick_times(index: pd.Index, times: object | None, name: str = "times") -> np.ndarray:
    """Positions of months given as a date, a slice or a list of dates; None is all.

    Dates may be of any kind; "2010" is the whole year.

    Raises
    ------
    ShapeError
        If a month is outside ``index``, or nothing is picked.
    """
    return pick_rows(index, times, name=name, what="forecast", error=ShapeError)


def read_weights(weights: Weights, listed: xr.DataArray, name: str = "weights") -> xr.DataArray:
    """Align weights with a forecast's ``listed`` cells: (time, asset, portfolio).

    A Series by asset holds in every month; a DataFrame has months (dates of any kind, in any order)
    as rows and assets as columns; a DataArray has dim ``asset``, and optionally ``time`` and one
    more, which counts portfolios. The result has the months of the weights (all, if they have
    none) and every asset of the forecast; zero where there is no forecast.

    Raises
    ------
    ShapeError
        If weights are of another type or have other dims, repeat a label, name assets or months
        outside the forecast, or miss an asset of it.
    ConfigError
        If a weight is no number, NaN or infinite on a listed asset, or not zero on one that is
        not listed.
    """
    given = in_time_order(_to_array(weights, name), name)
    if TIME in given.indexes:
        months = labels_like(given.indexes[TIME], listed.indexes[TIME], name, "tree")
        given = given.assign_coords({TIME: months.to_numpy()})
    _check_labels(given, listed, name)
    listed = listed.sel({TIME: given[TIME].values}) if TIME in given.dims else listed
    same = given.indexes[ASSET].equals(listed.indexes[ASSET])
    held = listed.indexes[ASSET][listed.values.any(axis=0)]
    missing = held[:0] if same else held.difference(given.indexes[ASSET])
    if missing.size:
        raise ShapeError(
            f"`{name}` must give a weight to every asset of the forecast; it misses "
            f"{first(missing)}. Give them weight 0: for a Series "
            f"`{name}.reindex(assets, fill_value=0.0)`."
        )
    given = given if same else given.reindex({ASSET: listed[ASSET].values})
    if TIME not in given.dims:
        given = given.expand_dims({TIME: listed[TIME].values})
    full = given.transpose(TIME, ASSET, PORTFOLIO)
    _check_values(full, listed, name)
    return full.copy(data=np.nan_to_num(full.values)).drop_attrs(deep=False)


def _ids(labels: pd.Index, name: str) -> np.ndarray:
    """Ids of assets as panels have them: 10001, 10001.0 and "10001" are one."""
    try:
        ids = asset_ids(labels, f"`{name}`")
    except PanelError as error:
        raise ShapeError(f"{error} The labels of `{name}` must be those of the assets.") from error
    if pd.isna(ids).any():
        raise ShapeError(f"`{name}` has labels of assets that are missing. Name or drop them.")
    return ids.astype(str)


def _to_array(weights: Weights, name: str) -> xr.DataArray:
    """Return dims asset, portfolio, and time if the weights have it."""
    if isinstance(weights, pd.Series):
        array = xr.DataArray(weights.to_numpy(), {ASSET: _ids(weights.index, name)}, ASSET)
    elif isinstance(weights, pd.DataFrame):
        try:
            index = read_days(weights.index)[1]
        except (ValueError, TypeError, OverflowError) as error:
            raise ShapeError(
                f"`{name}` as a DataFrame must have months as its rows and assets as its columns; "
                f"got rows of {weights.index.dtype}. Transpose it, or pass a Series for fixed "
                f"weights ({error})."
            ) from error
        coords = {TIME: index, ASSET: _ids(weights.columns, name)}
        array = xr.DataArray(weights.to_numpy(), coords, (TIME, ASSET))
    elif isinstance(weights, xr.DataArray):
        array = weights
    else:
        raise ShapeError(
            f"`{name}` must be a Series by asset, a DataFrame by month, or a DataArray; got "
            f"{type(weights).__name__}."
        )
    extra = [dim for dim in array.dims if dim not in (TIME, ASSET)]
    if ASSET not in array.dims or len(extra) > 1:
        raise ShapeError(
            f"`{name}` must have dim 'asset', and optionally 'time' and one that counts "
            f"portfolios; got {array.dims}."
        )
    if array.dtype.kind not in "fiu":
        raise ConfigError(f"`{name}` must hold numbers; got {array.dtype}.")
    array = array.astype(np.float64).reset_coords(drop=True)
    if not extra:
        return array.expand_dims(PORTFOLIO, axis=-1)
    labels = array[extra[0]].values
    return array.rename({extra[0]: PORTFOLIO}).assign_coords({PORTFOLIO: labels})


def _check_labels(given: xr.DataArray, listed: xr.DataArray, name: str) -> None:
    for dim in given.dims:
        if dim != PORTFOLIO and dim not in given.coords:
            raise ShapeError(f"`{name}` must have labels along {dim!r}; it has none.")
        index = given.get_index(dim)
        if index.has_duplicates:
            repeated = index[index.duplicated()].unique()
            raise ShapeError(f"`{name}` must not repeat a label of {dim!r}; got {first(repeated)}.")
    if TIME in given.dims:
        outside = given.indexes[TIME].difference(listed.indexes[TIME]).values
        if outside.size:
            raise ShapeError(
                f"`{name}` must be for months of the forecast, {_span(listed.indexes[TIME])}; got "
                f"{first(outside)} outside. Months are labelled by their last day."
            )
    mine, theirs = given.indexes[ASSET], listed.indexes[ASSET]
    unknown = mine[:0] if mine.equals(theirs) else mine.difference(theirs)
    if unknown.size:
        raise ShapeError(
            f"`{name}` must name assets of the forecast; {first(unknown)} are not in it. Assets "
            f"are strings, such as {str(listed[ASSET].values[0])!r}."
        )


def _check_values(full: xr.DataArray, listed: xr.DataArray, name: str) -> None:
    cells = listed.values[..., None]
    bad = (cells & ~np.isfinite(full.values)).any(axis=-1)
    if bad.any():
        raise ConfigError(
            f"`{name}` must be finite; {_cells(bad, full)} NaN or infinite. Use 0 for no position."
        )
    held = (~cells & (np.nan_to_num(full.values) != 0)).any(axis=-1)
    if held.any():
        raise ConfigError(
            f"`{name}` must be 0 or NaN where an asset has no forecast; {_cells(held, full)} not. "
            "Give weights by month, on the assets that are listed in it."
        )


def _cells(bad: np.ndarray, full: xr.DataArray) -> str:
    rows, columns = np.nonzero(bad)
    times = np.datetime_as_string(full[TIME].values[rows], "D")
    pairs = [f"{a} {b}" for a, b in zip(times, full[ASSET].values[columns], strict=True)]
    return f"{first(pairs)} {'is' if len(pairs) == 1 else 'are'}"


def _span(index: pd.Index) -> str:
    return f"{index[0]:%Y-%m-%d} to {index[-1]:%Y-%m-%d}"
