"""From cells to months to one number with a standard error."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from statsmodels.stats.sandwich_covariance import S_hac_simple

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.data.timeline import in_time_order, time_labels
from rvrae_pyro.errors import ConfigError, ShapeError, check_count
from rvrae_pyro.evaluation.matching import check_array
from rvrae_pyro.names import ASSET, OBS, TIME

Per = Literal["panel", "month", "cell"]

_PERS = ("panel", "month", "cell")


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
        Lags of the standard error; see :func:`hac_standard_error`.
    month : {"mean", "sum"}
        With ``per="month"``: the ratio, or the month's plain sum of scores.
    """
    if per not in _PERS:
        raise ConfigError(f"`per` must be one of {', '.join(_PERS)}; got {per!r}.")
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
