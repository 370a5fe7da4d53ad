"""Risk in closed form, where the predictive distribution has one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.risk.draws import Array, check_tails
from rvrae_pyro.risk.summary import DESCRIPTIONS

_NODES = 200


def summarize_analytic(
    mean: xr.DataArray,
    factor_var: xr.DataArray,
    idio_scale: xr.DataArray,
    df: float | None = None,
    tail: float | Sequence[float] = (0.05, 0.01),
) -> xr.Dataset:
    r"""Summarise returns whose factors are normal, and whose noise is normal or Student-t.

    .. math:: r = \mu + \sqrt{v} Z + s T, \quad Z \sim N(0, 1), \; T \sim t_\nu

    Parameters
    ----------
    mean, factor_var, idio_scale : DataArray
        Of the same dims and labels, such as (time, asset): predictive mean, variance from the
        factors :math:`\beta' S \beta`, and *scale* of the noise, which is its standard deviation
        only where it is normal. NaN in any is NaN in the answer.
    df : float, optional
        Degrees of freedom of the noise, above 2; None for normal noise.
    tail : float or sequence of float
        Tail probabilities, each in (0, 1).

    Returns
    -------
    Dataset
        ``mean``, ``sd``, ``prob_loss``, ``factor_var``, ``idio_var``, and ``var``, ``es`` with a
        leading dim ``tail``, as :func:`summarize` has them.

    Raises
    ------
    ShapeError
        If the arrays do not have the same dims and labels.
    ConfigError
        If ``df`` is 2 or less, a tail is outside (0, 1), or a variance is negative.

    Notes
    -----
    Student-t noise is a normal with a random variance, so the return is a mixture of normals;
    the mixture is summed at 200 points of the log of the variance, which is accurate to about
    1e-8 for ``df >= 2.5``. VaR is found by bisection. Cost O(cells).
    """
    tails = check_tails(tail, 2**62)
    arrays = {"mean": mean, "factor_var": factor_var, "idio_scale": idio_scale}
    for name, values in arrays.items():
        if not isinstance(values, xr.DataArray) or set(values.dims) != set(mean.dims):
            raise ShapeError(f"`{name}` must be a DataArray with the dims of `mean`.")
        if any(not np.array_equal(values[d].values, mean[d].values) for d in mean.dims):
            raise ShapeError(f"`{name}` must have the labels of `mean`.")
        if name != "mean" and bool((values < 0).any()):
            raise ConfigError(f"`{name}` must not be negative.")
    if df is not None and not df > 2:
        raise ConfigError(f"`df` must be above 2, so that returns have a variance; got {df!r}.")
    loc = mean.values.astype(np.float64)
    common = factor_var.transpose(*mean.dims).values.astype(np.float64)
    scale = idio_scale.transpose(*mean.dims).values.astype(np.float64)
    idio = scale**2 * (1.0 if df is None else df / (df - 2.0))
    points, weights = _mixture(df)
    spread = np.sqrt(common[..., None] + scale[..., None] ** 2 * points)
    sd = np.sqrt(common + idio)
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = [_tail(loc, sd, spread, weights, each) for each in tails]
        prob_loss = _cdf(-loc, spread, weights)
    over = ("tail", *mean.dims)
    result = xr.Dataset(
        {
            "mean": mean,
            "sd": (mean.dims, sd),
            "var": (over, np.stack([each[0] for each in losses])),
            "es": (over, np.stack([each[1] for each in losses])),
            "prob_loss": (mean.dims, prob_loss),
            "factor_var": (mean.dims, common),
            "idio_var": (mean.dims, idio),
        },
        {"tail": list(tails), **mean.coords},
    )
    for key, variable in result.data_vars.items():
        text, units = DESCRIPTIONS[str(key)]
        variable.attrs = {"long_name": text, "units": units}
    return result


def _mixture(df: float | None) -> tuple[Array, Array]:
    """Variances of the noise per squared scale, and their probabilities."""
    if df is None:
        return np.ones(1), np.ones(1)
    half = df / 2.0
    # x of a gamma variable with shape df/2, evenly spaced in log x: exponentially accurate
    low = math.log(stats.gamma.ppf(1e-15, half))
    high = math.log(stats.gamma.isf(1e-16, half))
    grid = np.linspace(low, high, _NODES)
    density = np.exp(half * grid - np.exp(grid) - math.lgamma(half))
    return half / np.exp(grid), density / density.sum()


def _cdf(distance: Array, spread: Array, weights: Array) -> Array:
    value: Array = (stats.norm.cdf(distance[..., None] / spread) * weights).sum(axis=-1)
    return value


def _tail(loc: Array, sd: Array, spread: Array, weights: Array, tail: float) -> tuple[Array, Array]:
    """VaR and ES: the quantile by bisection, the tail mean of each normal in closed form."""
    low, high = -sd / math.sqrt(tail), sd / math.sqrt(1.0 - tail)  # Chebyshev's inequality
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = _cdf(middle, spread, weights) > tail
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    quantile = 0.5 * (low + high)
    z = quantile[..., None] / spread
    shortfall = (stats.norm.pdf(z) * spread * weights).sum(axis=-1) / tail
    return -(loc + quantile), shortfall - loc
