"""Stacking of predictive distributions."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.names import TIME

Array = NDArray[np.float64]
MODEL: Final = "model"

_GAP: Final = 1e-13  # complementarity per month, in nats
_ITERATIONS: Final = 200


def stacking_weights(scores: xr.DataArray) -> xr.DataArray:
    r"""Weights of the mixture of forecasts with the highest log score.

    .. math:: \max_w \sum_t \log \sum_m w_m \exp(s_{mt}), \quad w \ge 0, \; \sum_m w_m = 1

    Parameters
    ----------
    scores : DataArray (model, time)
        Log scores. At least one must be finite in every month.

    Returns
    -------
    DataArray (model,)
        Weights on the simplex. Identical forecasts share their weight equally.

    Raises
    ------
    ShapeError
        If the dims are others, or a month has a NaN or no finite score.

    Notes
    -----
    The problem is convex. With :math:`g_m = \frac1T \sum_t \exp(s_{mt}) / \sum_l w_l
    \exp(s_{lt})`, weights are optimal if and only if :math:`g_m \le 1` for all models, with
    equality where :math:`w_m > 0`. A primal-dual interior-point method (Boyd and Vandenberghe,
    Convex Optimization, section 11.7) iterates until both hold to about 1e-13, so that the
    score is within 1e-12 nats per month of the optimum. Cost O(T M^2) per iteration.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), Using stacking to average Bayesian predictive
    distributions, Bayesian Analysis 13; Kim, Carbonetto, Stephens and Anitescu (2020), A fast
    algorithm for maximum likelihood estimation of mixture proportions using sequential quadratic
    programming, JCGS 29 (the form without the equality constraint).
    """
    if set(scores.dims) != {MODEL, TIME}:
        raise ShapeError(f"`scores` must have dims (model, time); got {scores.dims}.")
    values = scores.transpose(MODEL, TIME).to_numpy().astype(np.float64)
    if not values.size or np.isnan(values).any() or not np.isfinite(values.max(axis=0)).all():
        raise ShapeError(
            "`scores` must hold at least one month and, in every month, a number for each model "
            "of which one or more are finite. Drop the months that lack one."
        )
    density = np.exp(values - values.max(axis=0)).T
    return scores.isel({TIME: 0}, drop=True).copy(data=_maximise(density)).rename("weight")


def _maximise(density: Array) -> Array:
    r"""Maximise the mean log of ``density @ w`` (months, models) over the simplex.

    In the form :math:`\min_{w \ge 0} \sum_m w_m - \frac1T \sum_t \log (P w)_t`, whose solution
    sums to one by itself.
    """
    n_times, n_models = density.shape
    weight = np.full(n_models, 1.0 / n_models)
    slack = np.full(n_models, 1.0)
    for _ in range(_ITERATIONS):
        share = density / (density @ weight)[:, None]
        excess = 1.0 - share.mean(axis=0)
        # Complementarity implies feasibility here: at the central path, slack = excess.
        if np.abs(weight * excess).max() < _GAP and excess.min() > -10.0 * _GAP:
            break
        target = 0.1 * float(weight @ slack) / n_models
        hessian = share.T @ share / n_times
        system = hessian + np.diag(slack / weight)
        move = np.linalg.lstsq(system, target / weight - excess, rcond=None)[0]
        change = target / weight - slack - slack / weight * move
        step = min(1.0, 0.99 * _room(weight, move), 0.99 * _room(slack, change))
        before = _residual(density, weight, slack, target)
        while step > 1e-12:
            after = _residual(density, weight + step * move, slack + step * change, target)
            if after <= (1.0 - 0.01 * step) * before:
                break
            step /= 2.0
        weight, slack = weight + step * move, slack + step * change
    optimum: Array = weight / weight.sum()
    return optimum


def _residual(density: Array, weight: Array, slack: Array, target: float) -> float:
    """Norm of the optimality conditions, complementarity relaxed to ``target``."""
    mixture = density @ weight
    if not (mixture > 0.0).all():
        return float("inf")
    gradient = 1.0 - (density / mixture[:, None]).mean(axis=0)
    both = np.concatenate([gradient - slack, weight * slack - target])
    return float(np.linalg.norm(both))


def _room(value: Array, move: Array) -> float:
    """Largest step that keeps ``value + step * move`` nonnegative."""
    shrinking = move < 0.0
    return float((-value[shrinking] / move[shrinking]).min()) if shrinking.any() else np.inf
