"""Shrunk moments of returns with gaps, and one common scale filtered from month to month."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rvrae_pyro.baselines.joint_t import Array, Distances, JointT
from rvrae_pyro.errors import FitError, check_count, check_number

_LARGEST: Final = 0.99  # of an average correlation
_LEAST: Final = 0.01  # share of a variance that no factor explains
_CONSTANT: Final = 1e-8  # share of the average variance below which an asset counts as constant


@dataclass(frozen=True)
class MomentOptions:
    """Settings of :func:`estimate_moments`."""

    shrinkage: float = 0.05  # weight of the constant correlation, in (0, 1]
    n_factors: int = 5  # principal components kept where assets outnumber months
    min_history: int = 24  # months with a return below which an asset counts as new

    def __post_init__(self) -> None:
        check_number(
            "shrinkage",
            self.shrinkage,
            "(0, 1]",
            "Some shrinkage keeps the covariance positive definite for any number of assets.",
        )
        check_count("n_factors", self.n_factors)
        check_count("min_history", self.min_history)


@dataclass(frozen=True, eq=False)
class ShrunkMoments:
    """Mean and covariance B B' + diag(d) of known assets and of a new one."""

    # (n_assets,), assets with a history, in the order of the returns that were given
    known: NDArray[np.bool_]
    mean: Array  # (n_known + 1,), of the known assets, and last of any other asset
    # (n_known + 1, n_factors), loadings on uncorrelated unit factors. New assets share the last row
    beta: Array
    idio_var: Array  # (n_known + 1,), positive; independent between assets, new ones included

    def law(self, positions: NDArray[np.intp], n_times: int, df: float = math.inf) -> JointT:
        """Student-t law of scale 1 of assets by position among the known ones, -1 for new."""
        return JointT(
            self.mean[positions],
            self.beta[positions],
            np.ones((1, self.beta.shape[1])),
            self.idio_var[None, positions],
            np.ones(n_times),
            df,
        )

    def positions(self) -> NDArray[np.intp]:
        """Rows of the assets that were given: a known asset's own, -1 of a new one."""
        return np.where(self.known, np.cumsum(self.known) - 1, -1)


def effective_months(weights: Array) -> float:
    """Kish's effective sample size of weighted months."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def estimate_moments(
    returns: Array, observed: NDArray[np.bool_], weights: Array, options: MomentOptions
) -> ShrunkMoments:
    r"""Estimate mean and covariance of returns (n_times, n_assets) from weighted months.

    Means and variances are each asset's own, over its observed months. The correlation matrix
    is that of standardised returns, in which a missing return is replaced by its conditional
    mean and covariance given the month's observed returns, under one constant correlation (one
    E step); it is positive semi-definite for any pattern of gaps, and the sample correlation
    without gaps. It is then shrunk:

    .. math:: R = (1 - a) \hat R + a \, (\bar\rho \, 11' + (1 - \bar\rho) I)

    with :math:`\bar\rho` the average off-diagonal correlation, between 0 and 0.99.

    Assets with a return in fewer than ``min_history`` months (in short histories: in fewer than
    half of the months) count as new. A new asset is one without any return: the same E step
    gives its correlation with the others, which is near :math:`\bar\rho`; its mean and variance
    are the averages of the known assets.

    With more assets than effective months (Kish), :math:`\hat R` keeps its first ``n_factors``
    principal components, and the rest of each variance is idiosyncratic.

    Cost O(T N^2), or O(T^2 N + T^3) with more assets than months.

    Raises
    ------
    FitError
        If no asset has a history, or none of them varies.
    """
    parts = correlation_parts(returns, observed, weights, options.min_history)
    n_known = int(parts.known.sum())
    if effective_months(weights[weights > 0]) > n_known:
        root, idio = _dense(parts)
    else:
        root, idio = principal_components(parts, options.n_factors)
    rho = _average_correlation(root[:n_known])
    a = options.shrinkage
    idio = (1.0 - a) * idio + a * (1.0 - rho)
    # the last factor is the constant correlation of the target
    target = np.full((n_known + 1, 1), math.sqrt(a * rho))
    beta = np.concatenate([math.sqrt(1.0 - a) * root, target], axis=1)
    return ShrunkMoments(parts.known, parts.mean, beta * parts.sd[:, None], idio * parts.sd**2)


@dataclass(frozen=True, eq=False)
class CorrelationParts:
    """Correlation matrix of known assets and a new one, C'C + diag(d), with gaps filled."""

    known: NDArray[np.bool_]  # (n_assets,)
    mean: Array  # (n_known + 1,), of the known assets, and last of a new one
    sd: Array  # (n_known + 1,), of the known assets, and last of a new one
    rows: Array  # (n_rows, n_known + 1), C
    rest: Array  # (n_known + 1,), d, the independent variance of missing returns


def correlation_parts(
    returns: Array, observed: NDArray[np.bool_], weights: Array, min_history: int
) -> CorrelationParts:
    """Standardise weighted returns and replace the missing ones by their expectation.

    Parameters and errors as those of :func:`estimate_moments`, whose notes state the rule.
    """
    used = weights > 0
    returns, observed, share = returns[used], observed[used], weights[used]
    share = share / share.sum()
    months = observed.sum(0)
    known = months >= max(2, min(min_history, math.ceil(len(returns) / 2)))
    if not known.any():
        raise FitError(
            "`train` must hold an asset with returns in at least half of the months, or in "
            f"`min_history`={min_history}; got {int(months.max(initial=0))} of {len(returns)} "
            "months at most. Use a longer history, or drop empty months."
        )
    returns, observed = returns[:, known], observed[:, known]
    mean, sd, scores = _standardise(returns, observed, share)
    filled, gaps, rest = _fill(scores, observed, share)
    rows = np.concatenate([np.sqrt(share)[:, None] * filled, gaps])
    size = 1.0 / np.sqrt(np.einsum("ti,ti->i", rows, rows) + rest)
    return CorrelationParts(
        known,
        np.append(mean, mean.mean()),
        np.append(sd, math.sqrt(float((sd**2).mean()))),
        rows * size,
        rest * size**2,
    )


def _standardise(
    returns: Array, observed: NDArray[np.bool_], share: Array
) -> tuple[Array, Array, Array]:
    """Weighted mean and standard deviation by asset, and standard scores, 0 where missing."""
    by_cell = share[:, None] * observed
    weight = by_cell.sum(0)
    mean = (by_cell * returns).sum(0) / weight
    error = np.where(observed, returns - mean, 0.0)
    variance = (by_cell * error**2).sum(0) / weight
    average = float(variance.mean())
    if not average > 0:
        raise FitError(
            "`train` must hold returns that vary; those of every asset are constant. Check the "
            "units and the span."
        )
    sd = np.sqrt(np.maximum(variance, _CONSTANT * average))
    return mean, sd, error / sd


def _fill(scores: Array, observed: NDArray[np.bool_], share: Array) -> tuple[Array, Array, Array]:
    """Fill in expected standard scores, those of a new asset last, and find their covariance.

    Returns
    -------
    filled : ndarray of shape (n_times, n_known + 1)
    gaps : ndarray of shape (n_gap_months, n_known + 1)
        Rows whose outer products add up to the common covariance of missing scores.
    rest : ndarray of shape (n_known + 1,)
        Independent variance of missing scores.
    """
    count = observed.sum(1)
    total = scores.sum(1)
    pairs = float((share * count * (count - 1)).sum())
    products = float((share * (total**2 - (scores**2).sum(1))).sum())
    rho = min(max(products / pairs, 0.0), _LARGEST) if pairs > 0 else 0.0
    spread = 1.0 + (count - 1) * rho
    expected = rho * total / spread
    missing = np.column_stack([~observed, np.ones(len(observed), bool)])
    filled = np.column_stack([scores, np.zeros(len(scores))])
    filled = np.where(missing, expected[:, None], filled)
    gaps = np.sqrt(share * rho * (1.0 - rho) / spread)[:, None] * missing
    some = missing[:, :-1].any(1)
    # months without gaps concern the new asset alone, so that one row sums them up
    alone = np.zeros((1, gaps.shape[1]))
    alone[0, -1] = math.sqrt(float((gaps[~some, -1] ** 2).sum()))
    rest = (1.0 - rho) * (share[:, None] * missing).sum(0)
    return filled, np.concatenate([gaps[some], alone]), rest


def _dense(parts: CorrelationParts) -> tuple[Array, Array]:
    """Symmetric root of the whole common correlation, and the independent variances."""
    values, vectors = np.linalg.eigh(parts.rows.T @ parts.rows)
    # symmetric, so that the root of permuted assets is the permuted root
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, parts.rest


def principal_components(parts: CorrelationParts, n_factors: int) -> tuple[Array, Array]:
    """Take the first principal components of a correlation matrix.

    Returns
    -------
    root : ndarray of shape (n_known + 1, n_factors)
        Loadings on uncorrelated unit factors, the largest first.
    idio_var : ndarray of shape (n_known + 1,)
        Remaining share of each variance, at least 0.01.
    """
    rows, kept = parts.rows, min(n_factors, *parts.rows.shape)
    if rows.shape[0] < rows.shape[1]:
        _, left = np.linalg.eigh(rows @ rows.T)
        root = rows.T @ left[:, -kept:]
    else:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        root = vectors[:, -kept:] * np.sqrt(np.maximum(values[-kept:], 0.0))
    return root[:, ::-1], np.maximum(1.0 - (root**2).sum(1), _LEAST)


def _average_correlation(root: Array) -> float:
    """Average off-diagonal correlation of root root', between 0 and 0.99."""
    n = len(root)
    if n < 2:
        return 0.0
    off = float((root.sum(0) ** 2).sum() - (root**2).sum())
    return min(max(off / (n * (n - 1)), 0.0), _LARGEST)


@dataclass(frozen=True)
class History:
    """Months of training from which a scale has a history."""

    burn_in: int  # months before the scale starts to move
    every: int  # months between two estimates of the moments that distances are taken from

    def __post_init__(self) -> None:
        check_count("burn_in", self.burn_in, 2)
        check_count("scale_refit", self.every)

    def refits(self, n_times: int) -> list[int]:
        """Months (positions) before which the moments are estimated, counted back from the end."""
        if n_times <= self.burn_in:
            return []
        first = self.burn_in + (n_times - self.burn_in) % self.every
        return sorted({self.burn_in, *range(first, n_times, self.every)})


def history_distances(
    returns: Array,
    observed: NDArray[np.bool_],
    weights: Callable[[int], Array],
    options: MomentOptions,
    history: History,
) -> Distances:
    """Distances of training months from moments of the months before them; NaN before ``burn_in``.

    ``weights`` maps a number of months to their weights, the latest last.
    """
    n_times = len(returns)
    squared, logdet = np.full((2, n_times), np.nan)
    for start, stop in pairwise([*history.refits(n_times), n_times]):
        past = slice(start)
        found = estimate_moments(returns[past], observed[past], weights(start), options)
        law = found.law(found.positions(), n_times)
        distances = law.distances(returns, observed, range(start, stop))
        squared[start:stop] = distances.squared[start:stop]
        logdet[start:stop] = distances.logdet[start:stop]
    return Distances(squared, logdet, observed.sum(1).astype(np.float64))


def filter_scale(found: Distances, decay: float, cap: float, start: float = 1.0) -> Array:
    r"""Filter the common scale of the covariance through months.

    .. math:: h_{t+1} = \lambda h_t + (1 - \lambda) \min(q_t / n_t, c)

    with :math:`q_t` the squared distance of month t's :math:`n_t` returns at scale 1.

    Entry t of the result (n_times + 1,) knows months before t only. Months with NaN or without
    returns leave the scale as it is; ``decay`` :math:`\lambda` = 1 keeps it constant.
    """
    path = np.empty(len(found.squared) + 1)
    path[0] = start
    for t, (squared, count) in enumerate(zip(found.squared, found.n_observed, strict=True)):
        path[t + 1] = path[t]
        if count > 0 and not np.isnan(squared):
            path[t + 1] = decay * path[t] + (1.0 - decay) * min(squared / count, cap)
    return path


def known_states(
    kept: Array, trained: NDArray[np.int64], stamps: NDArray[np.int64], start: float
) -> tuple[Array, list[int]]:
    """States (n_times,) of a panel's months as far as training knows them, and later months.

    ``kept`` (n_trained + 1,) are the states of the months of training, and of the month after them,
    which all later months have; ``start`` is that of months before.
    """
    rows = np.searchsorted(trained, stamps, side="left")
    states = np.where(stamps < trained[0], start, kept[rows])
    return states, np.flatnonzero(stamps > trained[-1]).tolist()


def continue_scale(
    found: Distances, kept: Array, later: list[int], states: Array, decay: float, cap: float
) -> Array:
    """Filter the scale on through the panel's months after training."""
    rest = Distances(found.squared[later], found.logdet[later], found.n_observed[later])
    scale = states.copy()
    scale[later] = filter_scale(rest, decay, cap, float(kept[-1]))[:-1]
    return scale
