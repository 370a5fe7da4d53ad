"""Tests of value at risk and expected shortfall on one series, as plain functions on arrays."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import xlogy

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.data.timeline import stationary_bootstrap
from rvrae_pyro.errors import ConfigError, ShapeError, check_number, warn_user
from rvrae_pyro.risk.draws import Array, exceeds


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

    for x exceptions in n months at tail probability :math:`\alpha`. ``p_exact`` is the binomial
    probability of a likelihood ratio at least as large. NaN without months.

    References
    ----------
    Kupiec (1995), Journal of Derivatives 3(2), 73-84.
    """
    _check_tail(tail)
    if not 0 <= exceptions <= size:
        raise ConfigError(f"`exceptions` must be in 0 to {size}, the months; got {exceptions}.")
    if size == 0:
        return Outcome(np.nan, np.nan, np.nan)
    ratio = float(_ratios(np.array([size]), tail, size)[0, exceptions])
    exact = float(_exact_p_values(size, tail)[exceptions])
    return Outcome(ratio, float(stats.chi2.sf(ratio, 1)), exact)


def christoffersen(hits: ArrayLike, tail: float) -> Christoffersen:
    r"""Test whether exceptions come alone, and whether they also come as often as they should.

    .. math::
        LR_{ind} = -2 \log \frac{(1-\pi)^{n_{00}+n_{10}} \pi^{n_{01}+n_{11}}}
        {(1-\pi_{01})^{n_{00}} \pi_{01}^{n_{01}} (1-\pi_{11})^{n_{10}} \pi_{11}^{n_{11}}}
        \sim \chi^2_1, \quad LR_{cc} = LR_{uc} + LR_{ind} \sim \chi^2_2

    Hits (n_times,) are 1 where the loss exceeded VaR, 0 where not, NaN where unknown, in time
    order; only pairs of consecutive known months count. Without an exception that has a successor
    the statistic of independence is 0.

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


def _ratios(sizes: NDArray[np.int64], tail: float, most: int) -> Array:
    """Kupiec's likelihood ratio (size, exceptions) of 0 to ``most`` exceptions.

    NaN where there are more exceptions than months.
    """
    n, x = sizes[:, None].astype(np.float64), np.arange(most + 1.0)
    with np.errstate(invalid="ignore"):
        best = xlogy(x, x / n) + xlogy(n - x, 1 - x / n)
        null = xlogy(x, tail) + xlogy(n - x, 1 - tail)
    return np.where(x <= n, np.maximum(2.0 * (best - null), 0.0), np.nan)


@functools.lru_cache(maxsize=256)
def _exact_p_values(size: int, tail: float) -> Array:
    """Exact p-value of every number of exceptions in ``size`` months."""
    values: Array = _p_values(np.array([size]), tail, size)[0]
    values.flags.writeable = False
    return values


def _p_values(sizes: NDArray[np.int64], tail: float, most: int) -> Array:
    """Binomial probability of a likelihood ratio at least as large, (size, exceptions).

    Of 0 to ``most`` exceptions; more than ``most`` must have a negligible probability at rate
    ``tail``.
    """
    ratios = _ratios(sizes, tail, most)
    chance = np.nan_to_num(stats.binom.pmf(np.arange(most + 1), sizes[:, None], tail))
    order = np.argsort(-ratios, axis=1, kind="stable")  # NaN last
    ranked = np.take_along_axis(ratios, order, axis=1)
    total = np.cumsum(np.take_along_axis(chance, order, axis=1), axis=1)
    # Ratios that differ by rounding count as equal, and share the largest sum.
    together = ranked[:, :-1] - ranked[:, 1:] < 1e-9
    for column in range(most - 1, -1, -1):
        tied = together[:, column]
        total[tied, column] = total[tied, column + 1]
    values = np.empty_like(total)
    np.put_along_axis(values, order, np.minimum(total, 1.0), axis=1)
    return values


def kupiec_power(size: int, tail: float, true_rate: float, level: float = 0.05) -> float:
    """Probability that Kupiec's exact test rejects when exceptions occur at another rate.

    That is, of an exact p-value below ``level`` with ``size`` months; 0 without months. It moves up
    and down as months are added, because exceptions are whole numbers.
    """
    _check_tail(tail)
    if size == 0:
        return 0.0
    rejected = _exact_p_values(size, tail) < level
    return float(stats.binom.pmf(np.arange(size + 1), size, true_rate)[rejected].sum())


@functools.lru_cache(maxsize=64)
def months_needed(tail: float, power: float = 0.5, level: float = 0.05) -> int:
    """Months from which on Kupiec's exact test detects a doubled rate with this power.

    The test has it with that many months and with any larger number: for one test, 137 months at a
    tail of 5 %, and 684 at 1 %.
    """
    _check_tail(tail)
    check_number("power", power, "(0, 1)")
    check_number("level", level, "(0, 1)")
    doubled = min(2.0 * tail, 1.0)
    # The power swings while the critical count waits for its next step, about 1 / tail months
    # later. Six such steps without a month below the power end the search.
    patience = int(np.ceil(6.0 / tail))
    last, start = 0, 1
    while start <= last + patience:
        sizes = np.arange(start, start + max(64, patience // 4))
        mean = doubled * sizes[-1]
        most = min(int(sizes[-1]), int(mean + 12.0 * np.sqrt(mean) + 12.0))
        rejected = _p_values(sizes, tail, most) < level
        chance = stats.binom.pmf(np.arange(most + 1), sizes[:, None], doubled)
        below = np.where(rejected, chance, 0.0).sum(axis=1) < power
        if below.any():
            last = int(sizes[below][-1])
        start = int(sizes[-1]) + 1
    return last + 1


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
        warn_user(
            f"`es` must be positive, a loss; {int((~(e > 0)).sum())} of {len(e)} months have an ES "
            "of zero or a gain, so Z2 is NaN. Judge such forecasts by their exceptions."
        )
        return float("nan")
    slack = rounding(returns, var) * np.maximum(np.abs(r), np.abs(v))
    ratio = np.where(exceeds(r, v, slack), r / e, 0.0)
    return float(ratio.mean() / tail + 1.0)


def quantile_score(returns: ArrayLike, var: ArrayLike, tail: float) -> Array:
    """Score a VaR: ``(1{y <= q} - tail)(q - y)`` with q = -VaR; lower is better."""
    y, q = np.asarray(returns, dtype=np.float64), -np.asarray(var, dtype=np.float64)
    return ((y <= q) - tail) * (q - y)


def fz0_score(returns: ArrayLike, var: ArrayLike, es: ArrayLike, tail: float) -> Array:
    r"""Score VaR and ES together; lower is better.

    .. math::
        S = -\frac{1}{\alpha e} 1\{y \le v\}(v - y) + \frac{v}{e} + \log(-e) - 1,
        \quad e \le v < 0

    NaN where VaR or ES, positive losses, is not positive: the score is not defined there.

    References
    ----------
    Patton, Ziegel and Chen (2019), Journal of Econometrics 211, eq. (6).
    """
    y = np.asarray(returns, dtype=np.float64)
    v, e = -np.asarray(var, dtype=np.float64), -np.asarray(es, dtype=np.float64)
    v, e = (np.where((v < 0) & (e < 0), each, np.nan) for each in (v, e))
    return (y <= v) * (y - v) / (tail * e) + v / e + np.log(-e) - 1.0


def holm(p_values: ArrayLike) -> Array:
    """Adjust p-values of several tests for their number (Holm 1979); NaN tests do not count."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return adjusted


def _check_tail(tail: float) -> None:
    check_number("tail", tail, "(0, 1)")


BINS: Final = 10
_GRID: Final = np.linspace(0.05, 0.95, 19)


def bootstrap_counts(
    realised: Array, block: float | None, num_samples: int, rng: np.random.Generator
) -> Array:
    """Count each month in each bootstrap sample (sample, time), 0 where unobserved."""
    months = np.flatnonzero(~np.isnan(realised).all(axis=1))
    size = len(months)
    length = max(1.0, size ** (1 / 3)) if block is None else block
    drawn = stationary_bootstrap(size, num_samples, length, rng)
    counts = np.zeros((num_samples, len(realised)))
    np.add.at(counts, (np.arange(num_samples)[:, None], months[drawn]), 1.0)
    return counts


def _pit_parts(pit: Array) -> tuple[Array, Array, Array]:
    """By month: cells, cells below each grid point, cells in each bin."""
    known = ~np.isnan(pit)
    filled = np.where(known, pit, 2.0)
    below = (filled[..., None] <= _GRID).sum(axis=1)
    bins = np.clip(
        (filled * BINS).astype(int), 0, BINS
    )  # unknown cells fall in a bin past the last
    shares = (bins[..., None] == np.arange(BINS)).sum(axis=1)
    return known.sum(axis=1).astype(float), below.astype(float), shares.astype(float)


def pit_test(pit: Array, counts: Array) -> tuple[float, float]:
    """Greatest distance of the PIT's distribution from uniform, and its bootstrap p-value."""
    size, below, _ = _pit_parts(pit)
    if (size > 0).sum() < 10:
        return float("nan"), float("nan")
    own = below.sum(axis=0) / size.sum()
    distance = float(np.abs(own - _GRID).max())
    totals = counts @ size
    samples = (counts @ below)[totals > 0] / totals[totals > 0, None]
    apart = np.abs(samples - own).max(axis=1)
    return distance, float((1 + (apart >= distance).sum()) / (1 + len(apart)))


def pit_band(pit: Array, counts: Array) -> Array:
    """Rows share, lower, upper of every bin; the band holds the share in 95 % of resamples."""
    size, _, bins = _pit_parts(pit)
    if not size.sum():
        return np.full((3, BINS), np.nan)
    totals = counts @ size
    samples = (counts @ bins)[totals > 0] / totals[totals > 0, None]
    lower, upper = np.quantile(samples, [0.025, 0.975], axis=0)
    return np.stack([bins.sum(axis=0) / size.sum(), lower, upper])


def clustered(values: Array) -> tuple[float, float]:
    """Mean of all cells (time, asset), and its standard error with months as clusters."""
    known = ~np.isnan(values)
    size, months = known.sum(), known.any(axis=1).sum()
    if not size:
        return float("nan"), float("nan")
    mean = np.nansum(values) / size
    if months < 2:
        return float(mean), float("nan")
    sums = np.where(known, values - mean, 0.0).sum(axis=1)
    return float(mean), float(np.sqrt((sums**2).sum() * months / (months - 1)) / size)
