"""Tests of value at risk and expected shortfall on one series, as plain functions on arrays."""

from __future__ import annotations

import functools
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import xlogy

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError, check_number
from rvrae_pyro.risk._draws import exceeds

__all__ = [
    "Christoffersen",
    "Outcome",
    "acerbi_szekely",
    "christoffersen",
    "fz0_score",
    "holm",
    "kupiec",
    "kupiec_power",
    "months_needed",
    "quantile_score",
    "stationary_bootstrap",
]

Array = NDArray[np.float64]


class Outcome(NamedTuple):
    """A test statistic and its p-values.

    ``p_value`` is asymptotic; ``p_exact`` is exact in small samples where that is known, else
    NaN.
    """

    statistic: float
    p_value: float
    p_exact: float = float("nan")


class Christoffersen(NamedTuple):
    """Tests of independence, and of conditional coverage (Kupiec and independence together)."""

    independence: Outcome
    conditional: Outcome


def kupiec(exceptions: int, size: int, tail: float) -> Outcome:
    r"""Test whether losses exceed VaR as often as they should (proportion of failures).

    .. math::
        LR = -2 \log \frac{(1-\alpha)^{n-x} \alpha^x}{(1-\hat p)^{n-x} \hat p^x}
        \sim \chi^2_1, \quad \hat p = x / n

    Parameters
    ----------
    exceptions, size : int
        ``x`` losses beyond VaR in ``n`` months.
    tail : float
        Tail probability of the VaR, in (0, 1).

    Returns
    -------
    Outcome
        ``p_exact`` is the binomial probability of a likelihood ratio at least as large. NaN
        without months.

    Raises
    ------
    ConfigError
        If ``tail`` is outside (0, 1), or there are more exceptions than months.

    References
    ----------
    Kupiec (1995), Journal of Derivatives 3(2), 73-84.
    """
    _check_tail(tail)
    if not 0 <= exceptions <= size:
        raise ConfigError(f"`exceptions` must be in 0 to {size}, the months; got {exceptions}.")
    if size == 0:
        return Outcome(np.nan, np.nan, np.nan)
    ratios = _ratios(size, tail)
    ratio = float(ratios[exceptions])
    chance = stats.binom.pmf(np.arange(size + 1), size, tail)
    exact = float(chance[ratios >= ratio - 1e-9].sum())
    return Outcome(ratio, float(stats.chi2.sf(ratio, 1)), min(exact, 1.0))


def christoffersen(hits: ArrayLike, tail: float) -> Christoffersen:
    r"""Test whether exceptions come alone, and whether they also come as often as they should.

    .. math::
        LR_{ind} = -2 \log \frac{(1-\pi)^{n_{00}+n_{10}} \pi^{n_{01}+n_{11}}}
        {(1-\pi_{01})^{n_{00}} \pi_{01}^{n_{01}} (1-\pi_{11})^{n_{10}} \pi_{11}^{n_{11}}}
        \sim \chi^2_1, \quad LR_{cc} = LR_{uc} + LR_{ind} \sim \chi^2_2

    Parameters
    ----------
    hits : array of shape (n_times,)
        1 where the loss exceeded VaR, 0 where not, NaN where unknown, in time order. Only pairs
        of consecutive known months count as transitions.
    tail : float
        Tail probability of the VaR, in (0, 1).

    Returns
    -------
    Christoffersen
        With no exception that has a successor, independence has statistic 0: there is nothing
        to judge it by.

    Raises
    ------
    ShapeError
        If ``hits`` is not one-dimensional.
    ConfigError
        If it holds anything but 0, 1 and NaN, or ``tail`` is outside (0, 1).

    References
    ----------
    Christoffersen (1998), International Economic Review 39(4), 841-862.
    """
    values = np.asarray(hits, dtype=np.float64)
    if values.ndim != 1:
        raise ShapeError(f"`hits` must have one dimension, months; got {values.ndim}.")
    known = values[~np.isnan(values)]
    if not np.isin(known, (0.0, 1.0)).all():
        raise ConfigError("`hits` must hold 0, 1 and NaN only.")
    coverage = kupiec(int(known.sum()), len(known), tail)
    before, after = values[:-1], values[1:]
    pair = ~(np.isnan(before) | np.isnan(after))
    counts = np.zeros((2, 2))
    np.add.at(counts, (before[pair].astype(int), after[pair].astype(int)), 1)
    ratio = max(0.0, 2.0 * (_log_likelihood(counts).sum() - _log_likelihood(counts.sum(0)).item()))
    joint = coverage.statistic + ratio
    return Christoffersen(
        Outcome(ratio, float(stats.chi2.sf(ratio, 1))),
        Outcome(joint, float(stats.chi2.sf(joint, 2))),
    )


def _log_likelihood(counts: Array) -> Array:
    """Bernoulli log-likelihood at its maximum, of (..., [misses, hits])."""
    totals = counts.sum(axis=-1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    value: Array = xlogy(counts, share).sum(axis=-1)
    return value


@functools.lru_cache(maxsize=256)
def _ratios(size: int, tail: float) -> Array:
    """Kupiec's likelihood ratio for every number of exceptions."""
    x = np.arange(size + 1.0)
    best = xlogy(x, x / size) + xlogy(size - x, 1 - x / size)
    null = xlogy(x, tail) + xlogy(size - x, 1 - tail)
    ratios: Array = np.maximum(2.0 * (best - null), 0.0)
    ratios.flags.writeable = False
    return ratios


def kupiec_power(size: int, tail: float, true_rate: float, level: float = 0.05) -> float:
    """Probability that Kupiec's test rejects when exceptions come at another rate.

    Parameters
    ----------
    size : int
        Months.
    tail : float
        Tail probability that is tested.
    true_rate : float
        Rate at which exceptions really come, in [0, 1].
    level : float
        Level of the test.

    Returns
    -------
    float
        Exact, by counting; 0 without months.
    """
    _check_tail(tail)
    if size == 0:
        return 0.0
    rejected = _ratios(size, tail) > stats.chi2.isf(level, 1)
    return float(stats.binom.pmf(np.arange(size + 1), size, true_rate)[rejected].sum())


@functools.lru_cache(maxsize=64)
def months_needed(tail: float, power: float = 0.5, level: float = 0.05) -> int:
    """Months from which Kupiec's test notices a doubled rate of exceptions with this power."""
    size = 10
    while size < 100_000:
        if kupiec_power(size, tail, min(2.0 * tail, 1.0), level) >= power:
            return size
        size += max(1, size // 50)
    return size


def acerbi_szekely(returns: ArrayLike, var: ArrayLike, es: ArrayLike, tail: float) -> float:
    r"""Acerbi and Szekely's second statistic of expected shortfall.

    .. math::
        Z_2 = \sum_t \frac{R_t 1\{R_t < -\mathrm{VaR}_t\}}{n \alpha \mathrm{ES}_t} + 1

    Parameters
    ----------
    returns, var, es : array of shape (n_times,)
        Realised returns, and VaR and ES as positive losses. NaN months are dropped.
    tail : float
        Tail probability, in (0, 1).

    Returns
    -------
    float
        0 on average if the forecasts are right, negative if risk is understated. Rule of thumb
        at 5 %: below -0.7 is significant. NaN without months, or where an ES is not positive.

    Warns
    -----
    RvraeWarning
        If an ES is zero or negative: a ratio to a gain would reward the worst losses.

    References
    ----------
    Acerbi and Szekely (2014), Backtesting expected shortfall, Risk, eq. (6).
    """
    _check_tail(tail)
    r, v, e = (np.asarray(each, dtype=np.float64) for each in (returns, var, es))
    known = ~(np.isnan(r) | np.isnan(v) | np.isnan(e))
    if not known.any():
        return float("nan")
    r, v, e = r[known], v[known], e[known]
    if not (e > 0).all():
        warnings.warn(
            f"`es` must be positive, a loss; {int((~(e > 0)).sum())} of {len(e)} months have an ES "
            "of zero or a gain, so Z2 is NaN. Judge such forecasts by their exceptions.",
            RvraeWarning,
            stacklevel=2,
        )
        return float("nan")
    slack = rounding(returns, var) * np.maximum(np.abs(r), np.abs(v))
    ratio = np.where(exceeds(r, v, slack), r / e, 0.0)
    return float(ratio.mean() / tail + 1.0)


def quantile_score(returns: ArrayLike, var: ArrayLike, tail: float) -> Array:
    """Score a VaR: ``(1{y <= q} - tail)(q - y)`` with q = -VaR; lower is better."""
    y, q = np.asarray(returns, dtype=np.float64), -np.asarray(var, dtype=np.float64)
    score: Array = ((y <= q) - tail) * (q - y)
    return score


def fz0_score(returns: ArrayLike, var: ArrayLike, es: ArrayLike, tail: float) -> Array:
    r"""Score VaR and ES together; lower is better.

    .. math::
        S = -\frac{1}{\alpha e} 1\{y \le v\}(v - y) + \frac{v}{e} + \log(-e) - 1,
        \quad e \le v < 0

    Parameters
    ----------
    returns, var, es : array
        Realised returns, and VaR and ES as positive losses.
    tail : float
        Tail probability, in (0, 1).

    Returns
    -------
    array
        NaN where VaR or ES is not positive: the score is not defined there.

    References
    ----------
    Patton, Ziegel and Chen (2019), Journal of Econometrics 211, eq. (6).
    """
    y = np.asarray(returns, dtype=np.float64)
    v, e = -np.asarray(var, dtype=np.float64), -np.asarray(es, dtype=np.float64)
    v, e = (np.where((v < 0) & (e < 0), each, np.nan) for each in (v, e))
    score: Array = (y <= v) * (y - v) / (tail * e) + v / e + np.log(-e) - 1.0
    return score


def holm(p_values: ArrayLike) -> Array:
    """Adjust p-values of several tests so that they may be read side by side (Holm 1979).

    Parameters
    ----------
    p_values : array of shape (n_tests,)
        NaN tests do not count.

    Returns
    -------
    array
        Adjusted p-values, in the same order.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return adjusted


def stationary_bootstrap(
    size: int, num_samples: int, block: float, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Draw indices (num_samples, size) of the stationary bootstrap: blocks of random length.

    Parameters
    ----------
    size : int
        Months.
    num_samples : int
    block : float
        Mean length of a block, at least 1.
    rng : Generator

    References
    ----------
    Politis and Romano (1994), Journal of the American Statistical Association 89, 1303-1313.
    """
    check_number("block", block, "[1, inf)", "It counts months.")
    starts = rng.uniform(size=(num_samples, size)) < 1.0 / block
    starts[:, 0] = True
    jumps = rng.integers(size, size=(num_samples, size))
    months = np.arange(size)
    begun = np.maximum.accumulate(np.where(starts, months, 0), axis=1)
    base = np.take_along_axis(jumps, begun, axis=1)
    indices: NDArray[np.intp] = (base + months - begun) % size
    return indices


def _check_tail(tail: float) -> None:
    check_number("tail", tail, "(0, 1)")
