"""Matching returns with forecasts cell by cell, and scoring draws in blocks of cells."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.timeline import common_labels, in_time_order, match_months
from rvrae_pyro.errors import ShapeError, warn_user
from rvrae_pyro.names import ASSET, OBS, SAMPLE_DIMS, TIME

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]
"""From targets (cells,) and draws (cells, samples) to scores (cells,)."""

_BLOCK = 2**22  # numbers held at a time: 32 MiB in double precision


def sample_dims(values: xr.DataArray) -> tuple[str, ...]:
    """Return those of ``chain`` and ``draw`` that ``values`` has."""
    return tuple(dim for dim in SAMPLE_DIMS if dim in values.dims)


def point(values: xr.DataArray, name: str) -> xr.DataArray:
    """Average over ``chain`` and ``draw``, where there are any; NaN stays NaN."""
    check_array(values, name)
    if not sample_dims(values):
        return values
    return values.mean(sample_dims(values), skipna=False, keep_attrs=True, dtype=np.float64)


def check_array(value: object, name: str, *dims: str) -> None:
    """Raise unless ``value`` is a DataArray that has ``dims``."""
    if not isinstance(value, xr.DataArray):
        raise ShapeError(
            f"`{name}` must be an xarray.DataArray; got {type(value).__name__}. "
            "From a panel take panel['returns'], from a tree the variable itself."
        )
    absent = [dim for dim in dims if dim not in value.dims]
    if absent:
        raise ShapeError(f"`{name}` must have dims {dims}; got {value.dims}, without {absent}.")


def pair(
    returns: xr.DataArray, other: xr.DataArray, name: str
) -> tuple[xr.DataArray, xr.DataArray]:
    """Match realised returns and forecasts by cell.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
    other : DataArray with the same cells, either form, and any further dims
    name : str
        The caller's name for ``other``, for error messages.

    Returns
    -------
    returns, other : DataArray
        The labels that both have, cell dims last and in the same order, months sorted. A long
        ``obs`` form on one side is matched with the (time, asset) form of the other by label.
        Numbers without sample dims are in double precision.

    Raises
    ------
    ShapeError
        If a dimension lacks, labels disagree, or nothing is in common.

    Warns
    -----
    RvraeWarning
        If only one of them has some of the months.
    """
    check_array(returns, "returns")
    check_array(other, name)
    if OBS in other.dims and OBS not in returns.dims:
        returns = _pick(returns, other, "returns", name)
    elif OBS in returns.dims and OBS not in other.dims:
        other = _pick(other, returns, name, "returns")
    dims = (OBS,) if OBS in returns.dims else (TIME, ASSET)
    check_array(returns, "returns", *dims)
    check_array(other, name, *dims)
    if len(returns.dims) > len(dims):
        raise ShapeError(f"`returns` must have dims {dims} and no others; got {returns.dims}.")
    further = [dim for dim in other.dims if dim not in dims]
    returns, other = match_months({"returns": returns, name: other})
    given = {"returns": returns, name: other}
    try:
        returns, other = xr.align(returns, other, join="inner", exclude=further)
    except ValueError as error:
        raise ShapeError(f"`returns` and `{name}` cannot be matched: {error}") from error
    if 0 in returns.shape:
        raise ShapeError(
            f"`returns` and `{name}` have no label in common along "
            f"{[d for d in dims if returns.sizes[d] == 0]}; compare their coordinates."
        )
    _same_cells(returns, other, name)
    warn_lost(given, returns)
    if not sample_dims(other):
        other = other.astype(np.float64)
    return returns.astype(np.float64).transpose(*dims), other.transpose(..., *dims)


def warn_lost(given: Mapping[str, xr.DataArray], kept: xr.DataArray) -> None:
    """Warn of cells along ``obs`` that a join of long arrays has left out."""
    for name, values in given.items():
        before, after = values.sizes.get(OBS, 0), kept.sizes.get(OBS, 0)
        if before > after:
            warn_user(
                f"{before - after} of {before} cells of `{name}` are left out, which only one of "
                f"{' and '.join(f'`{each}`' for each in given)} lists along {OBS!r}. Take both "
                "from one tree."
            )


def _pick(wide: xr.DataArray, long: xr.DataArray, name: str, long_name: str) -> xr.DataArray:
    """Cells of a (time, asset) array at the labels that a long array carries along ``obs``."""
    check_array(wide, name, TIME, ASSET)
    absent = [dim for dim in (TIME, ASSET) if dim not in long.coords]
    if absent:
        raise ShapeError(
            f"`{long_name}` has dim {OBS!r} but no coordinates {absent} along it, so its cells "
            f"cannot be found in `{name}`; pass both in the same form."
        )
    wide = in_time_order(wide, name)
    if TIME in wide.indexes:
        labels = common_labels(
            {name: wide.indexes[TIME], long_name: pd.Index(long[TIME].to_numpy())}
        )
        wide = wide.assign_coords({TIME: labels[name].to_numpy()})
        months = xr.DataArray(labels[long_name].to_numpy(), dims=OBS)
    else:
        months = long[TIME].drop_vars(list(long.coords))
    try:
        picked = wide.sel({TIME: months, ASSET: long[ASSET].drop_vars(list(long.coords))})
    except KeyError as error:
        raise ShapeError(f"`{name}` lacks a cell that `{long_name}` has: {error}.") from error
    return picked.assign_coords({dim: (OBS, long[dim].to_numpy()) for dim in (TIME, ASSET, OBS)
                                 if dim in long.coords})  # fmt: skip


def _same_cells(returns: xr.DataArray, other: xr.DataArray, name: str) -> None:
    """Reject two long arrays whose ``obs`` numbers agree while their labels do not."""
    for dim in (TIME, ASSET):
        if OBS not in returns.dims or dim not in returns.coords or dim not in other.coords:
            continue
        mine, theirs = (pd.Index(each[dim].to_numpy()) for each in (returns, other))
        if dim == TIME:
            mine, theirs = common_labels({"returns": mine, name: theirs}).values()
        if not mine.equals(theirs):
            raise ShapeError(
                f"`returns` and `{name}` have different {dim!r} labels along {OBS!r}: they list "
                "different cells. Take both from one tree, or pass returns as (time, asset)."
            )


def to_wide(values: xr.DataArray) -> xr.DataArray:
    """Turn the long ``obs`` form into (time, asset), NaN where a cell is not listed."""
    if OBS not in values.dims:
        return values
    for dim in (TIME, ASSET):
        if dim not in values.coords:
            raise ShapeError(f"The dim {OBS!r} carries no coordinate {dim!r}; assign one to it.")
    wide = values.drop_vars(OBS, errors="ignore").set_index(obs=[TIME, ASSET]).unstack(OBS)
    return in_time_order(wide, "returns")


def score_cells(
    draws: xr.DataArray, kernel: Kernel, returns: xr.DataArray | None = None, name: str = "draws"
) -> xr.DataArray:
    """Apply ``kernel`` to the draws of every cell, a block of cells at a time.

    Parameters
    ----------
    draws : DataArray
        Dims ``chain`` and/or ``draw``, and cell dims. All-NaN cells are skipped.
    kernel : callable
        Gets targets (cells,) and draws (cells, samples) in double precision, draws
        contiguous and its own to change.
    returns : DataArray of the cell dims, optional
        Targets; NaN cells are skipped. Without it the kernel gets zeros.

    Returns
    -------
    DataArray
        The cell dims; NaN where a cell was skipped.

    Notes
    -----
    Lazily loaded draws are read block by block, so memory does not grow with the panel.
    """
    samples = sample_dims(draws)
    if not samples:
        raise ShapeError(f"`{name}` must have a dim 'draw' (or 'chain'); got {draws.dims}.")
    cells: tuple[Any, ...] = tuple(dim for dim in draws.dims if dim not in samples)
    if returns is not None and cells != returns.dims:
        raise ShapeError(f"`{name}` must have dims {(*samples, *returns.dims)}; got {draws.dims}.")
    draws = draws.transpose(*cells, *samples)
    template = draws.isel(dict.fromkeys(samples, 0), drop=True)
    scores = np.full(template.shape, np.nan)
    targets = np.zeros(template.shape) if returns is None else returns.values
    step = max(1, _BLOCK // max(1, math.prod(draws.shape[1:])))
    for start in range(0, len(scores), step):
        here = slice(start, start + step)
        target = targets[here].reshape(-1)
        block = draws.isel({cells[0]: here}).values.reshape(target.size, -1)
        scores[here] = _score_block(target, block, kernel, name).reshape(scores[here].shape)
    return template.copy(data=scores).drop_attrs().rename(None)


def _score_block(target: Array, block: NDArray[Any], kernel: Kernel, name: str) -> Array:
    unknown = np.isnan(block)
    partly = unknown.any(axis=1) & ~unknown.all(axis=1)
    if partly.any():
        raise ShapeError(
            f"`{name}` must be NaN in all draws of a cell or in none; {partly.sum()} cells have "
            "some. Drop the failed draws first."
        )
    known = ~unknown[:, 0] & ~np.isnan(target)
    scores = np.full(target.shape, np.nan)
    if known.any():
        kept = np.array(block[known], dtype=np.float64, order="C")
        scores[known] = kernel(target[known].astype(np.float64), kept)
    return scores
