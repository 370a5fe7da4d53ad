"""A simulated market: factor dynamics, entry and exit, heavy tails, volatility clusters."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data._synthetic import (
    Array,
    cross_sectional_ranks,
    make_panel,
)
from rvrae_pyro.errors import ConfigError, check_count, check_number
from rvrae_pyro.names import ASSET, FACTOR, TIME

_MARKET_SCALE, _FACTOR_SCALE = 0.04, 0.03  # innovation sd of the first and the other factors
_MARKET_MEAN, _FACTOR_MEAN = 0.006, 0.003
_IDIO_SCALE = 0.06
_EWMA = 0.7  # memory of the lagged volatility measures


def simulate_dynamic(
    n_assets: int = 300,
    n_times: int = 120,
    n_characteristics: int = 10,
    n_factors: int = 3,
    *,
    ar: float = 0.5,
    volatility_ar: float = 0.9,
    volatility_scale: float = 0.2,
    degrees_of_freedom: float = 5.0,
    turnover: float = 0.5,
    missing: float = 0.02,
    seed: int = 0,
    start: str = "2000-01",
) -> xr.Dataset:
    r"""Simulate an unbalanced market with everything the recurrent model can learn from.

    .. math::
        \log v_t &= a \log v_{t-1} + s\,\xi_t, \\
        f_t &= \mu + \phi (f_{t-1} - \mu) + v_t D \eta_t, \\
        r_{it} &= \beta(x_{i,t-1})' f_t + v_t\, \sigma(x_{i,t-1})\, t_\nu .

    The loadings are a fixed smooth function of the ranked characteristics; the first
    factor is a market factor with loadings around one. Some assets enter late, some exit
    early, some of the others are suspended for three months (no characteristics, no
    return), and single returns are missing.

    Parameters
    ----------
    n_assets, n_times, n_characteristics, n_factors : int
        Sizes; ``n_characteristics`` must be at least ``n_factors``.
    ar : float
        Autoregression of the factors, in [0, 1).
    volatility_ar, volatility_scale : float
        Autoregression, in [0, 1), and innovation scale of the common log volatility.
    degrees_of_freedom : float
        Of the idiosyncratic Student-t noise, above 2.
    turnover : float
        Share of the assets, in [0, 1), that enter late or exit early (half each).
    missing : float
        Probability, in [0, 1), that a listed asset's return is not observed.
    seed : int
        Seed of this simulation's own generator.
    start : str
        First month, ``"YYYY-MM"``.

    Returns
    -------
    panel : Dataset
        ``returns (time, asset)``; ``characteristics (time, asset, characteristic)``,
        ranked within the listed assets of the month, NaN where unlisted; ``context (time,
        feature)``; and the truth: ``true_beta (time, asset, factor)``, ``true_factors
        (time, factor)``, ``true_idio_scale (time, asset)`` and ``true_volatility (time,)``,
        the common multiplier :math:`v_t`.

    Raises
    ------
    ConfigError
        For a size that is too small or a parameter outside its range.

    Notes
    -----
    Information set: row t of ``characteristics`` and ``context`` is known at the end of
    t-1. Both features of ``context`` are noisy measures of volatility, computed from the
    observed returns of earlier months only: the log of an exponentially weighted mean of
    the cross-sectional dispersion, and of the absolute mean return; 0 in the first month.
    Returns are floored at -0.99, since nobody loses more than the stake. Cost O(T N P log N).

    Examples
    --------
    >>> panel = simulate_dynamic(n_assets=30, n_times=24, seed=1)
    >>> sorted(panel.data_vars)[:3]
    ['characteristics', 'context', 'returns']
    """
    n_assets = check_count("n_assets", n_assets, least=2)
    n_times = check_count("n_times", n_times, least=2)
    n_factors = check_count("n_factors", n_factors)
    n_characteristics = check_count("n_characteristics", n_characteristics)
    if n_characteristics < n_factors:
        raise ConfigError(
            f"`n_characteristics` must be at least `n_factors` ({n_factors}), "
            f"as loadings are built from characteristics; got {n_characteristics}."
        )
    for name, value in (("ar", ar), ("volatility_ar", volatility_ar), ("turnover", turnover)):
        check_number(name, value, "[0, 1)")
    check_number("missing", missing, "[0, 1)")
    check_number("volatility_scale", volatility_scale, "[0, inf)")
    check_number("degrees_of_freedom", degrees_of_freedom, "(2, inf)")

    rng = np.random.default_rng(seed)
    listed = _listing(rng, n_times, n_assets, turnover)
    raw = _stationary_ar(rng, 0.95, (n_times, n_assets, n_characteristics))
    ranks = cross_sectional_ranks(np.where(listed[..., None], raw, np.nan))
    beta = _loadings(ranks, n_factors)
    log_volatility = volatility_scale * _stationary_ar(rng, volatility_ar, (n_times,), scaled=False)
    volatility = np.exp(log_volatility)
    factors = _factors(rng, volatility, n_factors, ar)
    idio_scale = _IDIO_SCALE * volatility[:, None] * np.exp(0.4 * ranks[..., -1])
    noise = rng.standard_t(degrees_of_freedom, size=(n_times, n_assets))
    returns = np.maximum(np.einsum("tnk,tk->tn", beta, factors) + idio_scale * noise, -0.99)
    returns[rng.uniform(size=returns.shape) < missing] = np.nan
    return make_panel(
        returns,  # unlisted cells are NaN already, through the loadings
        ranks,
        truth={
            "true_beta": ((TIME, ASSET, FACTOR), beta),
            "true_factors": ((TIME, FACTOR), factors),
            "true_idio_scale": ((TIME, ASSET), idio_scale),
            "true_volatility": ((TIME,), volatility),
        },
        parameters={
            "ar": ar,
            "volatility_ar": volatility_ar,
            "volatility_scale": volatility_scale,
            "degrees_of_freedom": degrees_of_freedom,
            "turnover": turnover,
            "missing": missing,
            "seed": seed,
        },
        source="simulate_dynamic",
        transform="rank",
        start=start,
        context=_context(returns),
    )


def _listing(
    rng: np.random.Generator, n_times: int, n_assets: int, turnover: float
) -> NDArray[np.bool_]:
    """Which assets are listed when: late entries, early exits, suspensions of three months."""
    month = np.arange(n_times)[:, None]
    kind = rng.uniform(size=n_assets)
    moment = rng.integers(1, n_times, size=n_assets)
    enters, exits = kind < turnover / 2, (kind >= turnover / 2) & (kind < turnover)
    first = np.where(enters, moment, 0)
    last = np.where(exits, moment - 1, n_times - 1)
    # only assets that stay are suspended, so that nobody is never listed
    suspended = (rng.uniform(size=n_assets) < turnover / 5) & (kind >= turnover)
    gap = rng.integers(1, n_times, size=n_assets)
    in_gap = suspended & (month >= gap) & (month < gap + 3)
    return (month >= first) & (month <= last) & ~in_gap


def _stationary_ar(
    rng: np.random.Generator, coefficient: float, shape: tuple[int, ...], *, scaled: bool = True
) -> Array:
    """AR(1) paths along the first axis, started from the stationary law.

    The stationary variance is one if ``scaled``, else the innovation variance is.
    """
    spread = np.sqrt(1.0 - coefficient**2)
    paths = rng.normal(size=shape) * (spread if scaled else 1.0)
    paths[0] /= spread
    for t in range(1, shape[0]):
        paths[t] += coefficient * paths[t - 1]
    return paths


def _factors(rng: np.random.Generator, volatility: Array, n_factors: int, ar: float) -> Array:
    scale = np.full(n_factors, _FACTOR_SCALE)
    mean = np.full(n_factors, _FACTOR_MEAN)
    scale[0], mean[0] = _MARKET_SCALE, _MARKET_MEAN
    innovations = rng.normal(size=(len(volatility), n_factors))
    deviations: Array = volatility[:, None] * scale * innovations
    deviations[0] /= np.sqrt(1.0 - ar**2)
    for t in range(1, len(deviations)):
        deviations[t] += ar * deviations[t - 1]
    deviations += mean
    return deviations


def _loadings(ranks: Array, n_factors: int) -> Array:
    """Market loading 1 + 0.5 c_0; the others c_k + 0.75 (c_{k-1}^2 - 1/3): smooth, centred."""
    beta = ranks[..., :n_factors].copy()
    beta[..., 1:] += 0.75 * (ranks[..., : n_factors - 1] ** 2 - 1.0 / 3.0)
    beta[..., 0] = 1.0 + 0.5 * beta[..., 0]
    return beta


def _context(returns: Array) -> dict[str, Array]:
    """Lagged measures of volatility; a month without returns repeats the last one."""
    observed = np.isfinite(returns)
    count = observed.sum(axis=1)
    mean = np.where(observed, returns, 0.0).sum(axis=1) / np.maximum(count, 1)
    spread = np.abs(np.where(observed, returns - mean[:, None], 0.0)).sum(axis=1)
    spread /= np.maximum(count, 1)
    return {
        "dispersion": _lagged_log_ewma(spread, count > 0, _IDIO_SCALE),
        "market_volatility": _lagged_log_ewma(np.abs(mean), count > 0, _MARKET_SCALE),
    }


def _lagged_log_ewma(measure: Array, known: NDArray[np.bool_], level: float) -> Array:
    lagged = np.zeros_like(measure)
    state = level
    for t in range(1, len(measure)):
        if known[t - 1]:
            state = _EWMA * state + (1.0 - _EWMA) * measure[t - 1]
        lagged[t] = np.log(state / level)
    return lagged
