"""Factors of several fits in one rotation, order and sign; factors in use."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rvrae_pyro.errors import ShapeError, check_choice
from rvrae_pyro.names import CHAIN, DRAW, FACTOR, FACTORS, TIME
from rvrae_pyro.predictive.chains import REFERENCE, rotate

Array = NDArray[np.float64]
Freedom = Literal["linear", "rotation", "signs"]


def align(
    factors: xr.DataArray,
    loadings: xr.DataArray | None = None,
    *,
    to: xr.DataArray | None = None,
    freedom: Freedom = "rotation",
) -> xr.Dataset:
    r"""Rotate each chain's factors to those of a reference.

    .. math:: \min_{A_c} \| F_c A_c - F_{ref} \|, \qquad B_c \to B_c A_c^{-\top}

    which leaves every :math:`B_c f_c` unchanged.

    Parameters
    ----------
    factors : DataArray (chain, draw, time, factor) or (chain, time, factor)
        Draws or means of the same months.
    loadings : DataArray (chain, time, asset, factor), optional
        Loadings of each chain; rotated likewise.
    to : DataArray (time, factor), optional
        The reference. Default: the first chain's mean.
    freedom : {"rotation", "signs", "linear"}
        What A may be: orthogonal (Procrustes, reflections included), order and sign alone, or
        any invertible matrix that gives a chain the reference's covariance over time
        (Procrustes of whitened factors): for fits whose factors differ in scale.

    Returns
    -------
    Dataset
        ``factors``, rotated. ``rotation`` (chain, factor, reference): A, to be applied to other
        months by :func:`rotate`. ``before`` and ``agreement`` (chain, factor): correlation over
        time with the reference's factor, before and after. ``misfit`` (chain,): residual share
        of the reference's variance. ``loadings``, if given.

    Raises
    ------
    ShapeError
        If dims, months or the number of factors do not match.
    ConfigError
        For an unknown ``freedom``.

    Notes
    -----
    One A per chain, from means over draws, the same for all draws. A depends on all months given;
    to keep forecasts free of later months, find it on the training months and apply it with
    :func:`rotate`. Never average factors that are not aligned. Cost O(T K^2) per chain.

    References
    ----------
    Schönemann (1966), A generalized solution of the orthogonal Procrustes problem,
    Psychometrika 31; Papastamoulis and Ntzoufras (2022), On the identifiability of Bayesian
    factor analytic models, Statistics and Computing 32 (order and signs).
    """
    check_choice("freedom", freedom, ("rotation", "signs", "linear"))
    means = _means(factors)
    target = means.isel({CHAIN: 0}, drop=True) if to is None else to
    target = _matching(target, means)
    reference = target.to_numpy().astype(np.float64)
    labels = factors[FACTOR].to_numpy() if FACTOR in factors.coords else None
    turns = np.stack([_turn(chain, reference, freedom) for chain in means.to_numpy()])
    coords: dict[str, Any] = {CHAIN: means[CHAIN]} if CHAIN in means.coords else {}
    if labels is not None:
        coords |= {FACTOR: labels, REFERENCE: labels}
    rotation = xr.DataArray(turns, coords=coords, dims=(CHAIN, FACTOR, REFERENCE), name="rotation")
    turned = rotate(factors, rotation)
    result = xr.Dataset({FACTORS: turned, "rotation": rotation})
    after = _means(turned)
    result["before"] = xr.corr(means, target, TIME)
    result["agreement"] = xr.corr(after, target, TIME)
    spread = ((target - target.mean(TIME)) ** 2).sum()
    gap = after - target
    left = ((gap - gap.mean(TIME)) ** 2).sum((TIME, FACTOR))
    result["misfit"] = left / spread.where(spread > 0)
    if loadings is not None:
        result["loadings"] = rotate(loadings, rotation, loadings=True)
    result.attrs["freedom"] = freedom
    return result


def _means(factors: xr.DataArray) -> xr.DataArray:
    expected = {CHAIN, TIME, FACTOR}
    if not isinstance(factors, xr.DataArray) or set(factors.dims) - {DRAW} != expected:
        got = getattr(factors, "dims", type(factors).__name__)
        raise ShapeError(
            f"`factors` must have dims (chain, draw, time, factor) or (chain, time, factor); got "
            f"{got}. Draws of several fits: xr.concat([...], 'chain')."
        )
    means = factors.mean(DRAW) if DRAW in factors.dims else factors
    return means.transpose(CHAIN, TIME, FACTOR)


def _matching(target: xr.DataArray, means: xr.DataArray) -> xr.DataArray:
    if not isinstance(target, xr.DataArray) or set(target.dims) != {TIME, FACTOR}:
        got = getattr(target, "dims", type(target).__name__)
        raise ShapeError(f"`to` must have dims (time, factor); got {got}.")
    same = target.sizes == {d: means.sizes[d] for d in (TIME, FACTOR)} and all(
        np.array_equal(target[d].to_numpy(), means[d].to_numpy()) for d in (TIME, FACTOR)
    )
    if not same:
        raise ShapeError(
            "`to` must have the months and factors of `factors`; got sizes "
            f"{dict(target.sizes)} against {dict(means.sizes)}. Select common months from both."
        )
    return target.transpose(TIME, FACTOR)


def _turn(factors: Array, reference: Array, freedom: Freedom) -> Array:
    """Best A of the freedom allowed, (factor, reference)."""
    mine, theirs = (values - values.mean(0) for values in (factors, reference))
    if freedom == "rotation":
        return _orthogonal(mine, theirs)
    if freedom == "signs":
        return _signs(mine, theirs)
    white, _ = _roots(mine)
    to_white, colour = _roots(theirs)
    return white @ _orthogonal(mine @ white, theirs @ to_white) @ colour


def _orthogonal(mine: Array, theirs: Array) -> Array:
    left, _, right = np.linalg.svd(mine.T @ theirs)
    turn: Array = left @ right
    return turn


def _signs(mine: Array, theirs: Array) -> Array:
    scale = np.outer(np.linalg.norm(mine, axis=0), np.linalg.norm(theirs, axis=0))
    correlation = np.divide(mine.T @ theirs, scale, out=np.zeros_like(scale), where=scale > 0)
    rows, columns = linear_sum_assignment(-np.abs(correlation))
    turn = np.zeros_like(correlation)
    turn[rows, columns] = np.where(correlation[rows, columns] < 0, -1.0, 1.0)
    return turn


def _roots(centred: Array) -> tuple[Array, Array]:
    """Inverse and root of the covariance; unused directions get a small variance of their own."""
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    values, vectors = np.linalg.eigh(covariance)
    largest = float(values.max())
    values = np.maximum(values, 1e-6 * largest if largest > 0.0 else 1.0)
    return (vectors / np.sqrt(values)) @ vectors.T, (vectors * np.sqrt(values)) @ vectors.T


def active_units(means: xr.DataArray, threshold: float = 0.01) -> xr.DataArray:
    """Which factors the posterior uses: those whose mean varies over time.

    Parameters
    ----------
    means : DataArray (time, factor)
        Posterior means of the latent codes, of order one.
    threshold : float
        Smallest variance over time that counts.

    Returns
    -------
    DataArray (factor,)
        True where the variance over time exceeds the threshold.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), section 5.
    """
    if TIME not in means.dims:
        raise ShapeError(f"`means` must have a dimension {TIME!r}; got {means.dims}.")
    return means.var(TIME) > threshold
