"""Realised returns over several periods, in the form of a forecast's steps."""

import xarray as xr

from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.errors import check_count
from rvrae_pyro.evaluation.matching import check_array
from rvrae_pyro.names import COMPOUNDED_RETURNS, STEP, TIME

__all__ = ["compounded_returns"]


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
