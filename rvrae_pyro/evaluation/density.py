"""Scores and checks of whole predictive distributions, given by their draws."""

from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import betaln, gammaln, ndtr, stdtr

from rvrae_pyro.errors import ConfigError, check_choice, check_number
from rvrae_pyro.evaluation.scoring import Per, aggregate, pair, sample_dims, score_cells

Array = NDArray[np.float64]


def crps(
    returns: xr.DataArray,
    draws: xr.DataArray,
    *,
    estimator: Literal["fair", "empirical"] = "fair",
    per: Per = "panel",
    standard_error: bool = False,
    lags: int | None = None,
) -> xr.DataArray | xr.Dataset:
    r"""Continuous ranked probability score of predictive draws; lower is better.

    .. math:: E|X - y| - \tfrac12 E|X - X'|

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns, decimal; NaN where not observed.
    draws : DataArray of dims (chain, draw, time, asset) or (chain, draw, obs)
        Predictive draws; ``chain`` or ``draw`` alone will do. NaN in all draws of a cell
        where there is no forecast. All chains are pooled.
    estimator : {"fair", "empirical"}
        ``"fair"`` divides the pairs by S (S - 1), unbiased for the distribution that was
        sampled; ``"empirical"`` by S^2, the score of the S draws themselves, higher.
    per : {"panel", "month", "cell"}
        Mean over the panel, over each month's assets, or every cell.
    standard_error : bool
        Return a Dataset with ``estimate`` and ``standard_error`` (months, Newey-West).
    lags : int, optional
        Lags of the standard error: about twice the horizon where ``returns`` are compounded over
        several periods, as those of consecutive months overlap. Default: a rule of thumb.

    Returns
    -------
    DataArray or Dataset
        In return units.

    Raises
    ------
    ShapeError
        If dims or labels do not match, no cell has both, or a cell has NaN in some draws.
    ConfigError
        For an unknown estimator, or a single draw with the fair one.

    Notes
    -----
    Information set: that of the draws. The standard error is that of a mean over months. It holds
    the Monte-Carlo error of the draws only as far as that differs from month to month, and
    no uncertainty about the weights. Sorts once: O(S log S) per cell, a block of cells
    at a time, so memory does not grow with the panel.

    References
    ----------
    Gneiting and Raftery (2007), Journal of the American Statistical Association 102, eq.
    (21); Ferro (2014), Quarterly Journal of the Royal Meteorological Society 140 (fair).
    """
    returns, draws = pair(returns, draws, "draws")
    size = _sample_size(draws)
    check_choice("estimator", estimator, ("fair", "empirical"))
    if estimator == "fair" and size < 2:
        raise ConfigError("`estimator` 'fair' needs two draws or more; got 1. Use 'empirical'.")
    pairs = size * (size - 1.0) if estimator == "fair" else size**2
    weights = (2.0 * np.arange(1, size + 1) - size - 1.0) / pairs

    def kernel(y: Array, x: Array) -> Array:
        distance = np.abs(x - y[:, None]).mean(axis=1)
        x.sort(axis=1)
        x *= weights  # no matrix product: its rounding depends on the size of the block
        score: Array = distance - x.sum(axis=1)
        return score

    cells = score_cells(draws, kernel, returns)
    return aggregate(cells.rename("crps"), per=per, standard_error=standard_error, lags=lags)


def crps_normal(
    returns: xr.DataArray,
    loc: xr.DataArray,
    scale: xr.DataArray | float,
    *,
    per: Per = "panel",
    standard_error: bool = False,
) -> xr.DataArray | xr.Dataset:
    """Continuous ranked probability score of Normal forecasts, in closed form.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns.
    loc : DataArray with the cells of ``returns``
        Predictive means.
    scale : DataArray or float
        Predictive standard deviations, positive.
    per, standard_error
        As in :func:`crps`, as is the result.

    Raises
    ------
    ShapeError
        If dims or labels do not match.
    ConfigError
        If a scale is not positive.

    References
    ----------
    Gneiting and Raftery (2007), Journal of the American Statistical Association 102, p. 367.
    """
    z, width = _standardise(returns, loc, scale)
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    cells = width * (z * (2.0 * xr.apply_ufunc(ndtr, z) - 1.0) + 2.0 * density - np.pi**-0.5)
    return aggregate(cells.rename("crps"), per=per, standard_error=standard_error)


def crps_student_t(
    returns: xr.DataArray,
    degrees_of_freedom: float,
    loc: xr.DataArray,
    scale: xr.DataArray | float,
    *,
    per: Per = "panel",
    standard_error: bool = False,
) -> xr.DataArray | xr.Dataset:
    """Continuous ranked probability score of Student-t forecasts, in closed form.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns.
    degrees_of_freedom : float
        Above 1: below, the score is infinite.
    loc : DataArray with the cells of ``returns``
        Predictive locations.
    scale : DataArray or float
        Predictive *scales*, positive; the standard deviation is larger.
    per, standard_error
        As in :func:`crps`, as is the result.

    Raises
    ------
    ShapeError
        If dims or labels do not match.
    ConfigError
        If a scale is not positive or ``degrees_of_freedom`` not above 1.

    References
    ----------
    Jordan, Krueger and Lerch (2019), Evaluating probabilistic forecasts with scoringRules,
    Journal of Statistical Software 90(12), appendix A.
    """
    nu = check_number("degrees_of_freedom", degrees_of_freedom, "(1, inf)")
    z, width = _standardise(returns, loc, scale)
    log_norm = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi)
    density = np.exp(log_norm - (nu + 1) / 2 * np.log1p(z**2 / nu))
    constant = 2 * np.sqrt(nu) * np.exp(betaln(0.5, nu - 0.5) - 2 * betaln(0.5, nu / 2))
    probability = xr.apply_ufunc(stdtr, nu, z)
    cells = width * (z * (2 * probability - 1) + (2 * density * (nu + z**2) - constant) / (nu - 1))
    return aggregate(cells.rename("crps"), per=per, standard_error=standard_error)


def _standardise(
    returns: xr.DataArray, loc: xr.DataArray, scale: xr.DataArray | float
) -> tuple[xr.DataArray, xr.DataArray]:
    """(r - loc) / scale and the scale, on the cells that all have."""
    realised, loc = pair(returns, loc, "loc")
    width = xr.full_like(loc, scale) if not isinstance(scale, xr.DataArray) else scale
    realised, width = pair(realised, width, "scale")
    if bool((width <= 0).any()):
        raise ConfigError("`scale` must be positive everywhere; NaN marks a missing forecast.")
    return (realised - loc) / width, width


def log_score(
    log_density: xr.DataArray, *, per: Per = "panel", standard_error: bool = False
) -> xr.DataArray | xr.Dataset:
    r"""Log predictive density of what happened, from log-density draws; higher is better.

    .. math:: \log \frac1S \sum_s p(r \mid \theta_s)

    Parameters
    ----------
    log_density : DataArray
        Log density of each realised return under each draw, dims (chain, draw, time, asset)
        or (chain, draw, obs): *marginal* scores, asset by asset. Dims (chain, draw, time),
        the log density of a whole month under each draw, give the month's *joint* score.
        NaN in all draws where nothing was realised.
    per : {"panel", "month", "cell"}
        Mean over the cells of the panel, *sum* over the cells of each month, or every cell.
    standard_error : bool
        Return a Dataset with ``estimate`` and ``standard_error`` (months, Newey-West).

    Returns
    -------
    DataArray or Dataset
        In nats, of decimal returns: a cell (or a month, where that is the cell); with
        ``per="month"`` of the month.

    Raises
    ------
    ShapeError
        If there is no sample dim, or a cell has NaN in some draws.

    Notes
    -----
    The draws must not know the month they score, else this is a fit and not a forecast. The
    mean of densities over draws is dominated by the best ones: for the joint density of a
    large cross-section it needs very many draws, or importance sampling. The log of a mean over
    draws is too low on average, by about half the relative variance of that mean: a bias, which
    no standard error over months shows. The latter is as for :func:`crps`. Cost O(S) per cell.
    """
    cells = score_cells(log_density, _log_mean_exp, name="log_density")
    return aggregate(cells.rename("log_score"), per=per, standard_error=standard_error, month="sum")


def _log_mean_exp(_: Array, x: Array) -> Array:
    top = x.max(axis=1, keepdims=True)
    finite = np.where(np.isfinite(top), top, 0.0)  # all -inf: the score is -inf, not NaN
    with np.errstate(divide="ignore"):
        result: Array = np.log(np.exp(x - finite).mean(axis=1)) + finite[:, 0]
    return result


def coverage(
    returns: xr.DataArray,
    draws: xr.DataArray,
    prob: float = 0.9,
    *,
    per: Per = "panel",
    standard_error: bool = False,
    lags: int | None = None,
) -> xr.DataArray | xr.Dataset:
    """Share of returns inside the central predictive interval.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns; NaN where not observed.
    draws : DataArray of dims (chain, draw, time, asset) or (chain, draw, obs)
        Predictive draws, all chains pooled; NaN in all draws without a forecast.
    prob : float
        Nominal probability of the equal-tailed interval, in (0, 1).
    per : {"panel", "month", "cell"}
        Share of the panel, of each month, or 0/1 for each cell.
    standard_error, lags
        As in :func:`crps`.

    Returns
    -------
    DataArray or Dataset
        In [0, 1]; calibrated forecasts give ``prob``.

    Raises
    ------
    ShapeError
        If dims or labels do not match, no cell has both, or a cell has NaN in some draws.
    ConfigError
        If ``prob`` is outside (0, 1), or the draws are too few for the interval's ends.

    Notes
    -----
    Ends are quantiles at plotting position k / (S + 1), so that a calibrated forecast covers
    with probability ``prob`` exactly, for any number of draws. Cost O(S) per cell.
    """
    check_number("prob", prob, "(0, 1)")
    returns, draws = pair(returns, draws, "draws")
    tail, size = (1.0 - prob) / 2.0, _sample_size(draws)
    if (size + 1) * tail < 1 - 1e-9:
        raise ConfigError(
            f"A {prob:g} interval needs {int(np.ceil(1 / tail - 1e-9)) - 1} draws or more; got "
            f"{size}. Draw more, or lower `prob`."
        )

    def kernel(y: Array, x: Array) -> Array:
        low, high = np.quantile(x, [tail, 1.0 - tail], axis=1, method="weibull")
        inside: Array = ((low <= y) & (y <= high)).astype(np.float64)
        return inside

    cells = score_cells(draws, kernel, returns)
    return aggregate(cells.rename("coverage"), per=per, standard_error=standard_error, lags=lags)


def pit(returns: xr.DataArray, draws: xr.DataArray) -> xr.DataArray:
    """Probability integral transform: where each return falls among its draws.

    Parameters
    ----------
    returns : DataArray of dims (time, asset) or (obs,)
        Realised excess returns; NaN where not observed.
    draws : DataArray of dims (chain, draw, time, asset) or (chain, draw, obs)
        Predictive draws, all chains pooled; NaN in all draws without a forecast.

    Returns
    -------
    DataArray
        The cells, in (0, 1): (number below + half the ties + 1/2) / (S + 1). Uniform, up to
        the grid of S + 1 values, if the forecasts are calibrated. NaN for missing pairs.

    Raises
    ------
    ShapeError
        If dims or labels do not match, or a cell has NaN in some draws.

    Notes
    -----
    One value per cell, so there is no standard error; assets of one month share its factors,
    so test uniformity across months and never pool cells as if independent. Cost O(S) per cell.
    """
    returns, draws = pair(returns, draws, "draws")
    size = _sample_size(draws)

    def kernel(y: Array, x: Array) -> Array:
        below = (x < y[:, None]).sum(axis=1)
        ties = (x == y[:, None]).sum(axis=1)
        ranks: Array = (below + 0.5 * ties + 0.5) / (size + 1.0)
        return ranks

    return score_cells(draws, kernel, returns).rename("pit")


def _sample_size(draws: xr.DataArray) -> int:
    return int(np.prod([draws.sizes[dim] for dim in sample_dims(draws)], dtype=int))
