"""Returns and forecasts matched by cell, scored, and aggregated to one number with its error."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from statsmodels.stats.sandwich_covariance import S_hac_simple

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.data.timeline import common_labels, in_time_order, match_months, time_labels
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice, check_count, warn_user
from rvrae_pyro.names import ASSET, COMPOUNDED_RETURNS, OBS, SAMPLE_DIMS, STEP, TIME

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]
"""From targets (cells,) and draws (cells, samples) to scores (cells,)."""

_BLOCK = 2**22  # numbers held at a time: 32 MiB in double precision

Per = Literal["panel", "month", "cell"]
_PERS = ("panel", "month", "cell")


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
        Numbers without sample dims are in double precision. Warns of months that one of them lacks.
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

    Draws have the dims ``chain`` and/or ``draw``, and cell dims; returns (default: zeros) the cell
    dims. Cells that are NaN in one of them are skipped and NaN. The kernel gets draws in double
    precision, contiguous and its own to change. Blocks read lazily loaded draws piece by piece, so
    that memory does not grow with the panel.
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


def hac_standard_error(series: xr.DataArray, *, lags: int | None = None) -> xr.DataArray:
    """Newey-West standard error of the mean of a monthly series.

    Parameters
    ----------
    series : DataArray with dim ``time``
        One number per month, in any order; further dims are kept. NaN months are dropped.
    lags : int, optional
        Lags of the Bartlett window; by default ``floor(4 (T / 100)^(2/9))``.

    Returns
    -------
    DataArray
        Standard error over ``time``, with the small-sample factor T / (T - 1); NaN with
        fewer than two months.

    Raises
    ------
    ShapeError
        Without a dim ``time``.
    ConfigError
        If ``lags`` is negative.

    Notes
    -----
    Assets of one month share its factors and are strongly dependent, so aggregate to months
    first; the rest is the dependence over time, which this corrects. With a few dozen
    months it is itself a rough estimate. Cost O(T lags).

    References
    ----------
    Newey and West (1987), Econometrica 55, 703-708.
    """
    check_array(series, "series", TIME)
    series = in_time_order(series, "series")
    if lags is not None:
        check_count("lags", lags, 0)
    error: xr.DataArray = xr.apply_ufunc(
        _newey_west,
        series,
        input_core_dims=[[TIME]],
        vectorize=True,
        output_dtypes=[np.float64],
        kwargs={"lags": lags},
    )
    return error


def _newey_west(values: NDArray[Any], lags: int | None) -> float:
    values = values[~np.isnan(values)].astype(np.float64)
    n = len(values)
    if n < 2:
        return float("nan")
    window = int(4 * (n / 100) ** (2 / 9)) if lags is None else lags
    deviations = values - values.mean()
    inner = S_hac_simple(deviations, nlags=min(window, n - 1)).item()
    return float(np.sqrt(inner * n / (n - 1)) / n)


def varying(
    spread: xr.DataArray, size: xr.DataArray | float, *inputs: xr.DataArray
) -> xr.DataArray:
    """Spread where it is more than rounding of numbers up to ``size``, else NaN.

    ``inputs`` are the sources of the numbers: rounding is that of their coarsest dtype.
    """
    return spread.where(spread > rounding(np.float64(0.0), *inputs) * size)


def estimate_dataset(estimate: xr.DataArray, error: xr.DataArray) -> xr.Dataset:
    """Bundle an estimate with its standard error, the form every score returns."""
    return xr.Dataset(
        {"estimate": estimate, "standard_error": error},
        attrs={"standard_error": "Newey-West over months"},
    )


def aggregate(
    score: xr.DataArray,
    weight: xr.DataArray | None = None,
    *,
    per: Per,
    standard_error: bool,
    lags: int | None = None,
    month: Literal["mean", "sum"] = "mean",
) -> xr.DataArray | xr.Dataset:
    """Reduce cell scores to sum(score) / sum(weight), over a month or the whole panel.

    Parameters
    ----------
    score : DataArray
        Dims (time, asset), (time,) or (obs,), and any further ones, which are kept; NaN
        cells do not count.
    weight : DataArray, optional
        Denominator of each cell; by default one, which makes the ratio a mean.
    per : {"panel", "month", "cell"}
        Unit of one number of the result.
    standard_error : bool
        Add a standard error (``per="panel"`` only): Newey-West on the linearised monthly
        contributions, ``sum_i score - ratio * sum_i weight``.
    lags : int, optional
        See :func:`hac_standard_error`.
    month : {"mean", "sum"}
        With ``per="month"``: the ratio, or the month's plain sum of scores.
    """
    check_choice("per", per, _PERS)
    if standard_error and per != "panel":
        raise ConfigError(
            f"`standard_error` is for per='panel'; got per={per!r}. For a custom mean use "
            "hac_standard_error on a monthly series."
        )
    score = in_time_order(score, "returns")
    weight = None if weight is None else in_time_order(weight, "returns")
    if per == "cell":
        return score
    known = score.notnull()
    if not known.any():
        raise ShapeError("No cell has both a return and a forecast, so there is nothing to score.")
    weight = known.astype(np.float64) if weight is None else weight.where(known, 0.0)
    score = score.where(known, 0.0)
    if per == "month":
        above, below = _by_month(score), _by_month(weight)
        return above.where(below > 0) / (below if month == "mean" else 1.0)
    cells = [dim for dim in (OBS, TIME, ASSET) if dim in score.dims]
    below = weight.sum(cells)
    ratio = score.sum(cells) / below.where(below > 0)
    if not standard_error:
        return ratio
    parts = _by_month(weight)
    shares = (_by_month(score) - ratio * parts).where(parts > 0)
    months = shares.notnull().sum(TIME)
    # the error of a mean over months, rescaled from the mean weight to one
    return estimate_dataset(ratio, hac_standard_error(shares, lags=lags) * months / below)


def _by_month(values: xr.DataArray) -> xr.DataArray:
    """Sum over the assets of each month, in time order."""
    if OBS not in values.dims:
        return values.sum(ASSET) if ASSET in values.dims else values
    if TIME not in values.coords:
        raise ShapeError(
            "Months are needed here, but the dim 'obs' carries no coordinate 'time'; assign one: "
            "x.assign_coords(time=('obs', ...))."
        )
    months = time_labels(pd.Index(values[TIME].to_numpy()), "returns")
    return values.assign_coords({TIME: (OBS, months.to_numpy())}).groupby(TIME).sum(OBS)


def compounded_returns(returns: xr.DataArray, horizon: int) -> xr.DataArray:
    """Compound realised returns from every month on.

    Parameters
    ----------
    returns : DataArray with dim ``time``
        Realised excess returns, decimal, a row per period without gaps; NaN where not observed.
    horizon : int
        Periods.

    Returns
    -------
    DataArray
        With a dim ``step`` (1 to ``horizon``) after ``time``: at month t and step s the product of
        ``1 + returns`` over the months t to t + s - 1, less 1. What
        ``fit.forecast(panel, horizon=horizon)`` calls ``compounded_returns``; NaN where a month
        is missing or beyond the end.

    Raises
    ------
    ShapeError
        Without a dim ``time``.
    ConfigError
        If ``horizon`` is no positive whole number.

    Notes
    -----
    Rows of consecutive origins overlap by ``horizon - 1`` periods, so that scores of calibrated
    forecasts are autocorrelated: take ``hac_standard_error(series, lags=...)`` with twice the
    horizon or more, or every ``horizon``-th origin.

    Examples
    --------
    >>> import numpy as np, pandas as pd, xarray as xr
    >>> import rvrae_pyro as rv
    >>> months = pd.date_range("2020-01-31", periods=3, freq="ME")
    >>> monthly = xr.DataArray([0.1, 0.1, -0.5], {"time": months}, "time")
    >>> rv.evaluation.compounded_returns(monthly, 2).isel(time=0).round(3).values.tolist()
    [0.1, 0.21]
    """
    check_array(returns, "returns", TIME)
    horizon = check_count("horizon", horizon)
    ordered = in_time_order(returns, "returns")
    growth = 1.0 + ordered.astype(float)
    steps = [growth]
    for ahead in range(1, horizon):
        steps.append(steps[-1] * growth.shift({TIME: -ahead}))
    joined = xr.concat(steps, STEP).assign_coords({STEP: range(1, horizon + 1)}) - 1.0
    rest = list(ordered.dims)
    rest.insert(rest.index(TIME) + 1, STEP)
    result: xr.DataArray = joined.transpose(*rest).rename(COMPOUNDED_RETURNS)
    return result.assign_attrs(long_name="compounded excess return", units="1")
