"""Simulated panels whose loadings and factors are known.

Every simulator returns a panel (an :class:`xarray.Dataset`) with the truth in addition to the
data, draws from its own generator, and leaves the global random state alone.
"""

import json
from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.build import build_panel
from rvrae_pyro.data.calendar import last_days
from rvrae_pyro.errors import ConfigError, check_choice, check_count, check_number
from rvrae_pyro.names import ASSET, CONTEXT, FACTOR, FEATURE, TIME

Array = NDArray[np.float64]

_GKX_CASES = ("linear", "nonlinear")
_MARKET_SCALE, _FACTOR_SCALE = 0.04, 0.03  # innovation sd of the first and the other factors
_MARKET_MEAN, _FACTOR_MEAN = 0.006, 0.003
_IDIO_SCALE = 0.06
_EWMA = 0.7  # memory of the lagged volatility measures


def simulate_gkx(
    case: Literal["linear", "nonlinear"] = "linear",
    n_assets: int = 200,
    n_times: int = 180,
    n_characteristics: int = 50,
    seed: int = 0,
    *,
    start: str = "2000-01",
) -> xr.Dataset:
    r"""Simulate the Monte Carlo design of the conditional autoencoder paper.

    .. math::
        r_{it} = \beta_{i,t-1}' f_t + \varepsilon_{it}, \quad
        f_t \sim N(0.03, (0.1^2 + 0.01^2) I_3), \quad
        \varepsilon_{it} = 0.1\, t_5 .

    Characteristics are monthly ranks, ``2 rank / (N + 1) - 1``, of AR(1) processes with
    coefficients uniform on [0.9, 1]. Loadings are ``(1.2 c1, c2, 0.8 c3)`` in the linear
    case and ``(c1^2, 2 c1 c2, 0.6 sign(c3))`` in the nonlinear one; the other
    characteristics are noise.

    Parameters
    ----------
    case : {"linear", "nonlinear"}
        Cases (a) and (b) of the paper.
    n_assets, n_times, n_characteristics : int
        The paper's 200, 180 and 50; at least 1, 1 and 3.
    seed : int
        Seed of this simulation's own generator.
    start : str
        First month, ``"YYYY-MM"``.

    Returns
    -------
    panel : Dataset
        ``returns (time, asset)``, excess and decimal; ``characteristics (time, asset,
        characteristic)``, already ranked, row t known at the end of t-1; ``true_beta
        (time, asset, factor)``, ``true_factors (time, factor)``. Nothing is missing.

    Raises
    ------
    ConfigError
        For an unknown case or a size that is too small.

    Notes
    -----
    ``t_5(0, 0.1^2)`` means *scale* 0.1, so the noise variance is 0.01 * 5/3; the paper's
    results fit no other reading. A few returns fall below -1 for that reason. The paper's
    :math:`f_t = W x_t + \eta_t` selects three of 50 independent state variables; the other
    47 have weight zero and are not drawn. With the true loadings the share of explained
    variation is 40.4 % (linear) and 39.9 % (nonlinear), 41.3 % and 40.8 % when factors are
    refitted by least squares each month at N = 200. Cost O(T N P log N).

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics
    222, section 4.

    Examples
    --------
    >>> panel = simulate_gkx("nonlinear", n_assets=20, n_times=12, seed=1)
    >>> panel.characteristics.shape
    (12, 20, 50)
    """
    check_choice("case", case, _GKX_CASES)
    n_assets = check_count("n_assets", n_assets)
    n_times = check_count("n_times", n_times)
    n_characteristics = check_count("n_characteristics", n_characteristics, least=3)
    rng = np.random.default_rng(seed)
    ranks = cross_sectional_ranks(
        _persistent(rng, (n_times, n_assets, n_characteristics), low=0.9, high=1.0)
    )
    beta = _gkx_beta(case, ranks)
    factors = rng.normal(0.03, 0.1, (n_times, 3)) + rng.normal(0.0, 0.01, (n_times, 3))
    noise = 0.1 * rng.standard_t(5, size=(n_times, n_assets))
    return make_panel(
        np.einsum("tnk,tk->tn", beta, factors) + noise,
        ranks,
        truth={
            "true_beta": ((TIME, ASSET, FACTOR), beta),
            "true_factors": ((TIME, FACTOR), factors),
        },
        parameters={"case": case, "seed": seed, "noise_scale": 0.1, "degrees_of_freedom": 5},
        source="simulate_gkx",
        transform="rank",
        start=start,
    )


def _persistent(
    rng: np.random.Generator, shape: tuple[int, int, int], low: float, high: float
) -> Array:
    """AR(1) paths, one coefficient per characteristic, standard normal innovations and start."""
    coefficient = rng.uniform(low, high, shape[2])
    paths = rng.normal(size=shape)
    for t in range(1, shape[0]):
        paths[t] += coefficient * paths[t - 1]
    return paths


def _gkx_beta(case: str, ranks: Array) -> Array:
    first, second, third = ranks[..., 0], ranks[..., 1], ranks[..., 2]
    if case == "linear":
        return np.stack([1.2 * first, second, 0.8 * third], axis=-1)
    return np.stack([first**2, 2.0 * first * second, 0.6 * np.sign(third)], axis=-1)


def simulate_linear_gaussian(
    n_assets: int = 60,
    n_times: int = 40,
    n_factors: int = 2,
    phi: float = 0.9,
    q: float = 0.00125,
    noise_scale: float = 0.05,
    missing: float = 0.2,
    seed: int = 0,
    *,
    start: str = "2000-01",
) -> xr.Dataset:
    r"""Simulate a linear-Gaussian dynamic factor model, whose evidence a Kalman filter gives.

    .. math::
        z_t = \phi z_{t-1} + \sqrt q\,\epsilon_t, \quad z_0 \sim N(0, q I), \quad
        r_{it} = \beta_{it}' z_t + \sigma u_{it},

    with standard normal :math:`\beta_{it}`, :math:`\epsilon_t` and :math:`u_{it}`. The
    loadings are the panel's characteristics, so that a linear layer fixed at the identity
    recovers them.

    Parameters
    ----------
    n_assets, n_times, n_factors : int
        Sizes N, T, K, each at least 1.
    phi : float
        Persistence of every factor, in [-1, 1]; at +-1 a random walk.
    q : float
        Innovation variance of every factor, and the variance of its first month.
    noise_scale : float
        Idiosyncratic standard deviation, in return units.
    missing : float
        Probability, in [0, 1), that a return is not observed; its characteristics stay.
    seed, start
        As in :func:`simulate_gkx`.

    Returns
    -------
    panel : Dataset
        ``returns (time, asset)``; ``characteristics (time, asset, characteristic)``;
        ``true_beta (time, asset, factor)``; ``true_factors (time, factor)``.

    Raises
    ------
    ConfigError
        For a size below 1 or a parameter outside its range.

    Notes
    -----
    The order of draws is fixed and part of the contract: loadings (T, N, K), then one
    innovation vector per month, then noise (T, N), then uniforms (T, N), observed where the
    uniform exceeds ``missing``. ``phi=0.9, q=0.5, noise_scale=1`` is the recipe of the
    project's table of reference evidences (12 assets: -606.9307). Those are not the size
    of returns; multiply ``q`` by s**2 and ``noise_scale`` by s, as the defaults do with
    s = 0.05, and every return is multiplied by s, every log evidence lowered by
    ``n_observed * log(s)``.

    Examples
    --------
    >>> panel = simulate_linear_gaussian(12, q=0.5, noise_scale=1.0)
    >>> int(panel.returns.notnull().sum())
    373
    """
    n_assets = check_count("n_assets", n_assets)
    n_times = check_count("n_times", n_times)
    n_factors = check_count("n_factors", n_factors)
    check_number("phi", phi, "[-1, 1]")
    check_number("q", q, "[0, inf)")
    check_number("noise_scale", noise_scale, "(0, inf)")
    check_number("missing", missing, "[0, 1)")
    rng = np.random.default_rng(seed)
    beta = rng.normal(size=(n_times, n_assets, n_factors))
    factors = np.zeros((n_times, n_factors))
    state = np.zeros(n_factors)
    for t in range(n_times):
        state = phi * state + np.sqrt(q) * rng.normal(size=n_factors)
        factors[t] = state
    noise = noise_scale * rng.normal(size=(n_times, n_assets))
    returns = np.einsum("tnk,tk->tn", beta, factors) + noise
    observed = rng.uniform(size=(n_times, n_assets)) > missing
    return make_panel(
        np.where(observed, returns, np.nan),
        beta,
        truth={
            "true_beta": ((TIME, ASSET, FACTOR), beta.copy()),
            "true_factors": ((TIME, FACTOR), factors),
        },
        parameters={
            "phi": phi,
            "q": q,
            "noise_scale": noise_scale,
            "missing": missing,
            "seed": seed,
        },
        source="simulate_linear_gaussian",
        transform="none",
        start=start,
    )


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
    seed, start
        As in :func:`simulate_gkx`.

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
    Returns are floored at -0.99, since losses are limited to the stake. Cost O(T N P log N).

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
    """Draw listed cells (time, asset): late entries, early exits, suspensions of three months."""
    month = np.arange(n_times)[:, None]
    kind = rng.uniform(size=n_assets)
    moment = rng.integers(1, n_times, size=n_assets)
    enters, exits = kind < turnover / 2, (kind >= turnover / 2) & (kind < turnover)
    first = np.where(enters, moment, 0)
    last = np.where(exits, moment - 1, n_times - 1)
    # only assets that stay are suspended, so that every asset is listed at some time
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


def month_ends(n_times: int, start: str = "2000-01") -> NDArray[np.datetime64]:
    """Month-end days of ``n_times`` consecutive months from ``start`` (``YYYY-MM``), in ns."""
    try:
        first = np.datetime64(start, "M")
    except ValueError as error:
        raise ConfigError(f"`start` must be a month such as '2000-01'; got {start!r}.") from error
    return last_days(first + np.arange(n_times)).astype("datetime64[ns]")


def cross_sectional_ranks(values: Array) -> Array:
    """Rank each month's finite values to (-1, 1): 2 rank / (N_t + 1) - 1, NaN kept.

    Values (n_times, n_assets, n_characteristics) are continuous, so that ties need no rule.
    """
    ranks = values.argsort(axis=1).argsort(axis=1) + 1.0  # NaN sorts last
    count = np.isfinite(values).sum(axis=1, keepdims=True)
    return np.where(np.isfinite(values), 2.0 * ranks / (count + 1.0) - 1.0, np.nan)


def _labels(prefix: str, count: int) -> list[str]:
    width = len(str(count - 1))
    return [f"{prefix}{i:0{width}d}" for i in range(count)]


def make_panel(
    returns: Array,
    characteristics: Array,
    *,
    truth: Mapping[str, tuple[tuple[str, ...], Array]],
    parameters: Mapping[str, object],
    source: str,
    transform: str,
    start: str,
    context: Mapping[str, Array] | None = None,
) -> xr.Dataset:
    """Assemble the panel with the true values, and its parameters as JSON."""
    n_times, n_assets, n_characteristics = characteristics.shape
    panel = build_panel(
        returns,
        characteristics,
        time=month_ends(n_times, start),
        asset=_labels("A", n_assets),
        characteristic=_labels("c", n_characteristics),
        transform=transform,
        source=source,
    )
    n_factors = next(v.shape[-1] for dims, v in truth.values() if dims[-1] == FACTOR)
    panel = panel.assign(truth).assign_coords({FACTOR: 1 + np.arange(n_factors)})
    if context is not None:
        panel[CONTEXT] = ((TIME, FEATURE), np.stack(list(context.values()), axis=-1))
        panel = panel.assign_coords({FEATURE: list(context)})
    panel.attrs["parameters"] = json.dumps(dict(parameters), sort_keys=True)
    return panel
