"""Prior sensitivity of forecasts and risk by power scaling."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.errors import ConfigError, ShapeError, check_number
from rvrae_pyro.names import ASSET, CHAIN, DRAW, LOG_PRIOR, RETURNS, TIME
from rvrae_pyro.predictive.pareto import smooth_weights

Array = NDArray[np.float64]


def psense(
    forecast: xr.DataTree, *, tail: float = 0.05, alphas: tuple[float, float] = (0.8, 1.25)
) -> xr.Dataset:
    r"""Power-scale the factor prior of the month, and see what moves.

    .. math:: p_\alpha(z_t \mid h_{t-1}) \propto p(z_t \mid h_{t-1})^\alpha

    by weighting the draws with :math:`p^{\alpha - 1}`: a prior that is surer of itself for
    :math:`\alpha > 1`, and less sure below.

    Parameters
    ----------
    forecast : DataTree
        As from ``Fit.forecast`` or ``Ensemble.forecast``.
    tail : float
        Tail probability of the loss measures, in (0, 1).
    alphas : (float, float)
        Powers below and above 1.

    Returns
    -------
    Dataset
        By (time, asset): ``sensitivity``, the distance between the scaled forecasts and the
        forecast (as ArviZ's ``psense``; above 0.05 the prior matters). ``mean``, ``sd``,
        ``var``, ``es``: changes of the forecast's figures for a doubling of the power, in
        return units. ``khat`` (time,): of the weights, the larger of the two; above 0.7 the
        figures of the month cannot be relied on.

    Raises
    ------
    ShapeError
        If the tree has no draws with ``log_prior``.
    ConfigError
        If ``alphas`` do not lie on both sides of 1, or ``tail`` is outside (0, 1).

    Notes
    -----
    Information set: that of the forecast. The scaled density is the prior of the month forecast,
    given the state that the months before left; what those months taught is left alone. A
    sensitive standard deviation is no fault: it shows that the factor prior, and not the
    data of the month, decides about risk, as it must one month ahead. A sensitive mean shows
    that the forecast of returns is the prior's. Draws of each chain are weighted apart.
    Cost O(S log S) per cell.

    References
    ----------
    Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and
    likelihood sensitivity with power-scaling, Statistics and Computing 34.
    """
    low, high = alphas
    if not 0 < low < 1 < high:
        raise ConfigError(f"`alphas` must lie below and above 1; got {alphas!r}.")
    check_number("tail", tail, "(0, 1)")
    group = getattr(forecast, "children", {}).get("predictions")
    if group is None or not {RETURNS, LOG_PRIOR} <= set(group.data_vars):
        raise ShapeError(
            "`forecast` must be a DataTree with 'returns' and 'log_prior' in its group "
            "'predictions', as fit.forecast makes it."
        )
    returns = group.to_dataset()[RETURNS].transpose(CHAIN, DRAW, TIME, ASSET)
    log_prior = group.to_dataset()[LOG_PRIOR].transpose(CHAIN, DRAW, TIME)
    names = ("sensitivity", "mean", "sd", "var", "es")
    cells = {name: np.full(returns.shape[2:], np.nan) for name in names}
    khat = np.empty(returns.sizes[TIME])
    for t in range(returns.sizes[TIME]):
        weights, khat[t] = _weights(log_prior.isel({TIME: t}).to_numpy(), alphas)
        month = returns.isel({TIME: t}).to_numpy().astype(np.float64)
        for i in np.flatnonzero(np.isfinite(month).all(axis=(0, 1))):
            found = _asset(month[..., i], weights, alphas, tail)
            for name, value in found.items():
                cells[name][t, i] = value
    coords = {TIME: returns[TIME], ASSET: returns[ASSET]}
    variables = {name: ((TIME, ASSET), values) for name, values in cells.items()}
    return xr.Dataset(
        {**variables, "khat": (TIME, khat)},
        coords=coords,
        attrs={"tail": tail, "alpha_low": low, "alpha_high": high},
    )


def _weights(log_prior: Array, alphas: tuple[float, float]) -> tuple[tuple[Array, Array], float]:
    """Weights (chain, draw) under both powers, summing to one, and the worst k-hat."""
    both, worst = [], 0.0
    for alpha in alphas:
        log_weights, khat = smooth_weights((alpha - 1.0) * log_prior)
        both.append(np.exp(log_weights) / len(log_prior))
        worst = max(worst, float(khat.max()))
    return (both[0], both[1]), worst


def _asset(
    draws: Array, weights: tuple[Array, Array], alphas: tuple[float, float], tail: float
) -> dict[str, float]:
    from arviz_stats.base.array import array_stats

    distance = array_stats.power_scale_sense(  # type: ignore[no-untyped-call]
        draws, weights[0], weights[1], lower_alpha=alphas[0], upper_alpha=alphas[1]
    )
    lower, upper = (_figures(draws.ravel(), w.ravel(), tail) for w in weights)
    width = np.log2(alphas[1]) - np.log2(alphas[0])
    moved = {name: (upper[name] - lower[name]) / width for name in lower}
    return {"sensitivity": float(distance), **moved}


def _figures(draws: Array, weights: Array, tail: float) -> dict[str, float]:
    """Weighted mean, deviation, value at risk and expected shortfall."""
    mean = float(weights @ draws)
    order = np.argsort(draws, kind="stable")
    ranked, reached = draws[order], np.cumsum(weights[order])
    last = min(int(np.searchsorted(reached, tail)), len(ranked) - 1)
    # the draw at the tail's end counts in part, so that the tail holds exactly its probability
    share = np.diff(np.minimum(reached, tail), prepend=0.0)
    return {
        "mean": mean,
        "sd": float(weights @ (draws - mean) ** 2) ** 0.5,
        "var": -float(ranked[last]),
        "es": -float(share @ ranked) / tail,
    }
