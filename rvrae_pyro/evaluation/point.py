"""Scores of fitted values and point forecasts: R squared, rank correlation."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import rankdata

from rvrae_pyro.data.rounding import constant, rounding
from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.evaluation.scoring import (
    Per,
    aggregate,
    check_array,
    estimate_dataset,
    hac_standard_error,
    pair,
    point,
    to_wide,
    varying,
)
from rvrae_pyro.names import ASSET, TIME

_LEAST_PAIRS = 3  # two pairs always correlate by -1 or 1


def total_r2(
    returns: xr.DataArray, fitted: xr.DataArray, *, per: Per = "panel", standard_error: bool = False
) -> xr.DataArray | xr.Dataset:
    r"""Share of the returns' second moment that contemporaneous factors explain.

    .. math:: R^2 = 1 - \sum (r_{it} - \hat r_{it})^2 \,/\, \sum r_{it}^2

    over every observed cell that has a fit; the denominator is not demeaned.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns, decimal; NaN where not observed.
    fitted : DataArray
        Loadings known at t-1 times factors *estimated with month t's returns*. Draws
        (``chain``, ``draw``) are averaged first; further dims (models) are kept.
    per : {"panel", "month", "cell"}
        One number for the panel, one per month, or each cell's contribution
        ``r^2 - (r - fit)^2``, which is not a ratio.
    standard_error : bool
        Return a Dataset with ``estimate`` and ``standard_error`` (months, Newey-West).

    Returns
    -------
    DataArray or Dataset
        Dimensionless.

    Raises
    ------
    ShapeError
        If dims or labels do not match, or no cell has both.

    Notes
    -----
    Measures fit, not foresight: the factor of month t knows month t. A fit of zero scores
    exactly zero. Cost O(T N).

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, eq. (20).
    Wang and Guo (2024), arXiv 2403.02500, eq. (32).
    """
    return _r2(returns, fitted, "fitted", per, standard_error)


def predictive_r2(
    returns: xr.DataArray,
    forecast: xr.DataArray,
    *,
    per: Per = "panel",
    standard_error: bool = False,
) -> xr.DataArray | xr.Dataset:
    r"""Share of the returns' second moment that forecasts explain, against a forecast of zero.

    .. math:: R^2 = 1 - \sum (r_{it} - \hat r_{it})^2 \,/\, \sum r_{it}^2

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns, decimal; NaN where not observed.
    forecast : DataArray
        Made from *data to t-1 only*, such as loadings times :func:`prevailing_mean`, or the
        predictive mean. Draws (``chain``, ``draw``) are averaged first; further dims are kept.
    per, standard_error
        As in :func:`total_r2`.

    Returns
    -------
    DataArray or Dataset
        Dimensionless; for monthly stock returns a few tenths of a per cent is much.

    Raises
    ------
    ShapeError
        If dims or labels do not match, or no cell has both.

    Notes
    -----
    The formula is that of :func:`total_r2`; the information set differs, and no function
    can check that. A forecast of zero scores exactly zero. Cost O(T N).

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, eq. (21).
    Wang and Guo (2024), arXiv 2403.02500, eq. (33).
    """
    return _r2(returns, forecast, "forecast", per, standard_error)


def _r2(
    returns: xr.DataArray, guess: xr.DataArray, name: str, per: Per, standard_error: bool
) -> xr.DataArray | xr.Dataset:
    returns, guess = pair(returns, point(guess, name), name)
    square = returns**2
    return aggregate(
        square - (returns - guess) ** 2, square, per=per, standard_error=standard_error
    )


def prevailing_mean(factors: xr.DataArray) -> xr.DataArray:
    r"""Average every factor over strictly earlier months.

    .. math:: \hat\lambda_{t-1} = \frac{1}{t-1} \sum_{s<t} \hat f_s

    Parameters
    ----------
    factors : DataArray with dim ``time``
        Estimates that know no later month than their own (filtered or refitted month by
        month), in any order, from the first month that may be averaged: training months
        included. Further dims are kept; NaN months are skipped.

    Returns
    -------
    DataArray
        The same dims, months sorted; row t uses months before t only. The first month is NaN
        (there is nothing to average), not 0.

    Raises
    ------
    ShapeError
        Without a dim ``time``.

    Notes
    -----
    Multiply with loadings so that the NaN survives: ``xr.dot`` does, ``.sum("factor")``
    turns it into a forecast of zero. Cost O(T K).

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, section 3.

    Examples
    --------
    >>> factors = xr.DataArray([[1.0], [3.0], [8.0]], dims=("time", "factor"))
    >>> prevailing_mean(factors).values.ravel()
    array([nan,  1.,  2.])
    """
    check_array(factors, "factors", TIME)
    factors = in_time_order(factors, "factors").astype(np.float64)
    count = factors.notnull().cumsum(TIME).shift({TIME: 1}, fill_value=0)
    total = factors.fillna(0.0).cumsum(TIME).shift({TIME: 1}, fill_value=0.0)
    mean = total / count.where(count > 0)
    return mean.assign_coords(factors.coords).rename(factors.name)


def rank_ic(
    returns: xr.DataArray, forecast: xr.DataArray, *, standard_error: bool = False
) -> xr.DataArray | xr.Dataset:
    """Spearman rank correlation of forecasts and returns across assets, month by month.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns; NaN where not observed.
    forecast : DataArray
        Made from data to t-1 only. Draws (``chain``, ``draw``) are averaged first; further
        dims (models) are kept.
    standard_error : bool
        Return the mean over months instead, as a Dataset with ``estimate`` and
        ``standard_error`` (Newey-West).

    Returns
    -------
    DataArray or Dataset
        With dim ``time``, in [-1, 1]: assets with both values, ties ranked by their average.
        NaN in months with fewer than three pairs, or forecasts that differ by rounding alone.

    Raises
    ------
    ShapeError
        If dims or labels do not match.

    Notes
    -----
    The mean over months, ``rank_ic(...).mean()``, is the Rank IC of the literature. Cost
    O(T N log N).
    """
    realised, guess = pair(returns, point(forecast, "forecast"), "forecast")
    monthly: xr.DataArray = xr.apply_ufunc(
        _spearman,
        to_wide(realised),
        to_wide(guess),
        input_core_dims=[[ASSET], [ASSET]],
        output_dtypes=[np.float64],
        kwargs={"relative": rounding(returns, forecast)},
    ).transpose(..., TIME)
    if not standard_error:
        return monthly
    return estimate_dataset(monthly.mean(TIME), hac_standard_error(monthly))


def _spearman(left: NDArray[Any], right: NDArray[Any], *, relative: float) -> NDArray[np.float64]:
    """Rank correlation over the last axis, over the pairs without NaN."""
    left, right = np.broadcast_arrays(left, right)
    both = np.isfinite(left) & np.isfinite(right)
    count = both.sum(axis=-1)
    centred = []
    for values in (left, right):
        ranks = rankdata(np.where(both, values, np.inf), axis=-1)  # the missing rank last
        centred.append(np.where(both, ranks - (count[..., None] + 1) / 2, 0.0))
    x, y = centred
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    usable = (count >= _LEAST_PAIRS) & (scale > 0)
    for values in (left, right):
        usable &= ~constant(np.where(both, values, np.nan), relative=relative)
    return np.where(usable, (x * y).sum(axis=-1) / np.where(usable, scale, 1.0), np.nan)


def rank_icir(
    returns: xr.DataArray, forecast: xr.DataArray, *, standard_error: bool = False
) -> xr.DataArray | xr.Dataset:
    """Mean of the monthly rank correlation over its standard deviation.

    Parameters
    ----------
    returns, forecast : DataArray
        As in :func:`rank_ic`.
    standard_error : bool
        Return a Dataset with ``estimate`` and ``standard_error`` (delta method with
        Newey-West over months).

    Returns
    -------
    DataArray or Dataset
        Monthly ratio, *not* annualised; standard deviation with ddof 1. NaN with fewer
        than two months.

    Raises
    ------
    ShapeError
        If dims or labels do not match.
    """
    monthly = rank_ic(returns, forecast)
    assert isinstance(monthly, xr.DataArray)
    months = monthly.notnull().sum(TIME)
    spread = monthly.where(months > 1).std(TIME, ddof=1)
    mean, spread = monthly.mean(TIME), varying(spread, abs(monthly).max(TIME))
    ratio = mean / spread
    if not standard_error:
        return ratio
    deviation = (monthly - mean) / spread
    influence = deviation - 0.5 * ratio * (deviation**2 - 1.0)
    return estimate_dataset(ratio, hac_standard_error(influence))
