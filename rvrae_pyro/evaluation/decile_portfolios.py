"""Portfolios sorted on forecasts, their costs and their Sharpe ratio."""

from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.rounding import constant, rounding
from rvrae_pyro.data.timeline import match_months
from rvrae_pyro.errors import ConfigError, ShapeError, check_number
from rvrae_pyro.evaluation.scoring import (
    check_array,
    estimate_dataset,
    hac_standard_error,
    pair,
    point,
    to_wide,
    varying,
)
from rvrae_pyro.names import ASSET, TIME

Array = NDArray[np.float64]

_VARIABLES = {
    "gross": ("long less short leg", "1"),
    "net": ("gross return less costs", "1"),
    "turnover": ("value traded over capital, both sides of both legs", "1"),
    "long": ("return of the leg with the highest forecasts", "1"),
    "short": ("return of the assets sold short", "1"),
}


def long_short(
    forecast: xr.DataArray,
    returns: xr.DataArray,
    quantile: float = 0.1,
    cost: float = 0.0,
    weight: xr.DataArray | None = None,
) -> xr.Dataset:
    r"""Buy the assets with the highest forecasts, sell those with the lowest.

    .. math:: \text{net}_t = R_t - c \sum_i | w_{it} - w^+_{i,t-1} |

    with weights of +1 in all on the long and -1 on the short leg, and :math:`w^+` the weights
    that last month's positions have drifted to.

    Parameters
    ----------
    forecast : DataArray of dims (time, asset) or (obs,)
        Made from data to t-1 only. Draws (``chain``, ``draw``) are averaged first; further
        dims (models) are kept.
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns, decimal; NaN where not observed.
    quantile : float
        Share of the assets in each leg, in (0, 0.5]; at least one asset.
    cost : float
        Cost of trading one unit of value: 0.003 is 30 basis points.
    weight : DataArray of dims (time, asset), optional
        Known at t-1, such as market value: legs are weighted by it instead of equally, and
        assets without a positive weight are left out.

    Returns
    -------
    Dataset
        ``gross``, ``net``, ``turnover``, ``long``, ``short`` by ``time``: excess returns of a
        zero-cost portfolio (subtract no risk-free rate again), and value traded over capital.

    Raises
    ------
    ShapeError
        If dims or labels do not match.
    ConfigError
        If ``quantile`` or ``cost`` is outside its range.

    Notes
    -----
    Legs are formed from forecasts and weights alone: whether a return was then observed plays
    no part. A member without a return earns the return of the rest of its leg. Ties go by the
    asset's label. Months with a constant forecast, too few assets, or a leg without any return
    are NaN; positions wait until the next month that has a portfolio. Positions drift by
    :math:`w_i (1 + r_i) / (1 + R)`, with excess returns standing for total ones. The first
    month trades 2, the set-up. Cost O(T N log N).
    """
    check_number("quantile", quantile, "(0, 0.5]")
    check_number("cost", cost, "[0, inf)", "30 basis points are 0.003.")
    realised, guess = pair(returns, point(forecast, "forecast"), "forecast")
    # in label order, so that ties do not depend on the order of the assets
    realised, guess = (to_wide(each).sortby([TIME, ASSET]) for each in (realised, guess))
    if weight is None:
        size = xr.ones_like(realised)
    else:
        check_array(weight, "weight", TIME, ASSET)
        realised, guess, size = match_months(
            {"returns": realised, "forecast": guess, "weight": weight}
        )
        size = _weights(size, realised)
    results = xr.apply_ufunc(
        _run,
        guess,
        realised,
        size,
        input_core_dims=[[TIME, ASSET]] * 3,
        output_core_dims=[[TIME]] * len(_VARIABLES),
        vectorize=True,
        output_dtypes=[np.float64] * len(_VARIABLES),
        kwargs={"quantile": float(quantile), "cost": float(cost), "relative": rounding(forecast)},
    )
    named = dict(zip(_VARIABLES, results, strict=True))
    for name, (description, units) in _VARIABLES.items():
        named[name].attrs = {"long_name": description, "units": units}
    weighting = "equal" if weight is None else "by weight"
    return xr.Dataset(named, attrs={"quantile": quantile, "cost": cost, "weighting": weighting})


def _weights(weight: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    wide = weight.reindex_like(like).transpose(TIME, ASSET)
    if not bool((wide > 0).any()):
        raise ShapeError(
            "`weight` must be positive somewhere in the months and assets of the returns; got "
            "none. Compare their coordinates."
        )
    return wide


def _run(
    forecast: Array, returns: Array, size: Array, *, quantile: float, cost: float, relative: float
) -> tuple[Array, ...]:
    """One strategy through all months; arrays (n_times, n_assets)."""
    n_times, n_assets = forecast.shape
    out = np.full((len(_VARIABLES), n_times), np.nan)
    held = np.zeros(n_assets)
    for t in range(n_times):
        legs = _legs(forecast[t], size[t], quantile, relative)
        if legs is None:
            continue
        (buy, up), (sell, down) = (_leg_return(leg, returns[t]) for leg in legs)
        gross = buy - sell
        if np.isnan(gross):
            continue
        target = legs[0] - legs[1]
        turnover = np.abs(target - held).sum()
        out[:, t] = gross, gross - cost * turnover, turnover, buy, sell
        earned = np.where(legs[0] > 0, up, down)
        held = target * (1.0 + earned) / (1.0 + gross) if gross > -1.0 else np.zeros(n_assets)
    return tuple(out)


def _legs(
    forecast: Array, size: Array, quantile: float, relative: float
) -> tuple[Array, Array] | None:
    """Weights of the long and the short leg, each adding up to one; None without a ranking."""
    able = np.flatnonzero(np.isfinite(forecast) & (size > 0))
    count = max(1, int(quantile * len(able) + 1e-9))
    if len(able) < 2 * count or constant(forecast[able], relative=relative):
        return None
    order = able[np.argsort(forecast[able], kind="stable")]
    legs = []
    for members in (order[-count:], order[:count]):
        leg = np.zeros(len(forecast))
        leg[members] = size[members] / size[members].sum()
        legs.append(leg)
    return legs[0], legs[1]


def _leg_return(leg: Array, returns: Array) -> tuple[float, Array]:
    """Return of a leg, and of every asset with the leg's in place of a missing one."""
    seen = (leg > 0) & np.isfinite(returns)
    if not seen.any():
        return float("nan"), returns
    mean = float(leg[seen] @ returns[seen] / leg[seen].sum())
    return mean, np.where(np.isfinite(returns), returns, mean)


def sharpe_ratio(
    returns: xr.DataArray,
    periods: float = 12,
    *,
    standard_error: bool | Literal["hac", "normal"] = False,
) -> xr.DataArray | xr.Dataset:
    r"""Mean over standard deviation of excess returns, annualised.

    .. math:: SR = \sqrt p \, \bar r / s, \qquad
        \mathrm{se}_{\text{normal}} = \sqrt{p \, (1 + SR_m^2 / 2) / T}

    Parameters
    ----------
    returns : DataArray with dim ``time``
        Excess returns or those of a zero-cost portfolio, decimal; NaN months are dropped,
        further dims are kept.
    periods : float
        Rows a year: 12 for months, 52 for weeks; 1 does not annualise.
    standard_error : bool or {"hac", "normal"}
        Return a Dataset with ``estimate`` and ``standard_error``. ``"normal"`` is the formula
        above, for independent normal returns; ``"hac"``, the meaning of True, is Lo's general
        one: delta method on mean and variance with Newey-West, which allows for skewness, fat
        tails and dependence over time.

    Returns
    -------
    DataArray or Dataset
        Standard deviation with ddof 1; NaN with fewer than two months or without any spread.

    Raises
    ------
    ShapeError
        Without a dim ``time``.
    ConfigError
        If ``periods`` is not positive or ``standard_error`` unknown.

    Notes
    -----
    Scaling by the square root of time holds for returns without autocorrelation. With three
    years of months the standard error is about 0.6: differences of a Sharpe ratio or so
    are not informative.

    References
    ----------
    Lo (2002), The statistics of Sharpe ratios, Financial Analysts Journal 58, eqs. (9) and (A8).
    Wang and Guo (2024), arXiv 2403.02500, eq. (34).
    """
    check_array(returns, "returns", TIME)
    check_number("periods", periods, "(0, inf)", "12 is for months.")
    if standard_error not in (True, False, "hac", "normal"):
        raise ConfigError(
            f"`standard_error` must be a bool, 'hac' or 'normal'; got {standard_error!r}."
        )
    given, returns = returns, returns.astype(np.float64)
    months = returns.notnull().sum(TIME)
    spread = returns.where(months > 1).std(TIME, ddof=1)
    mean, spread = returns.mean(TIME), varying(spread, abs(returns).max(TIME), given)
    monthly = mean / spread
    root = float(periods) ** 0.5
    ratio: xr.DataArray = monthly * root
    if standard_error is False:
        return ratio
    if standard_error == "normal":
        error = ((1.0 + 0.5 * monthly**2) / months) ** 0.5 * root
        return _sharpe_dataset(ratio, error, "independent normal returns")
    deviation = (returns - mean) / spread
    influence = deviation - 0.5 * monthly * (deviation**2 - 1.0)
    error = hac_standard_error(influence) * root
    return _sharpe_dataset(ratio, error, "Newey-West over months")


def _sharpe_dataset(ratio: xr.DataArray, error: xr.DataArray, method: str) -> xr.Dataset:
    bundled = estimate_dataset(ratio, error.where(ratio.notnull()))
    return bundled.assign_attrs(standard_error=method)
