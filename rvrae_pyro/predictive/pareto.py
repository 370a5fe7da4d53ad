"""Pareto-smoothed importance weights, with the answers that degenerate cases deserve."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rvrae_pyro.errors import ShapeError

FEWEST = 25
"""Draws below which the tail is too short for a shape to be estimated."""


def good_khat(num_samples: int) -> float:
    """Largest k-hat at which smoothed weights of so many draws can be relied on.

    ``min(1 - 1 / log10(S), 0.7)``: Vehtari et al. (2024), Pareto smoothed importance sampling,
    JMLR 25(72), section 3.2.4.
    """
    return float(min(1.0 - 1.0 / np.log10(max(num_samples, 11)), 0.7))


def smooth_weights(log_ratios: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth the largest importance ratios by a generalised Pareto distribution.

    Parameters
    ----------
    log_ratios : array of shape (..., num_samples)
        Log of target over proposal density, up to a constant.

    Returns
    -------
    log_weights : array of shape (..., num_samples)
        Log weights that sum to one.
    khat : array of shape (...)
        Estimated shape of the tail; 0 where all ratios are equal (the proposal is the target),
        infinite where a ratio is not finite.

    Raises
    ------
    ShapeError
        With fewer than 25 draws.
    """
    from arviz_stats.base.array import array_stats

    ratios = np.asarray(log_ratios, dtype=np.float64)
    if ratios.ndim < 1 or ratios.shape[-1] < FEWEST:
        raise ShapeError(
            f"`log_ratios` must hold at least {FEWEST} draws along its last axis to estimate a "
            f"tail; got shape {ratios.shape}."
        )
    rows = ratios.reshape(-1, ratios.shape[-1])
    weights, khat = np.empty_like(rows), np.empty(len(rows))
    for i, row in enumerate(rows):
        finite = np.isfinite(row)
        if not finite.all():
            known = np.where(finite, row, -np.inf)
            weights[i] = _normalised(known) if finite.any() else -np.log(row.size)
            khat[i] = np.inf
        elif np.ptp(row) < 1e-8 * max(1.0, np.abs(row).max()):
            weights[i], khat[i] = -np.log(row.size), 0.0
        else:
            # ArviZ takes log densities of what is left out, the negative of log ratios
            smoothed, khat[i] = array_stats.psislw(row.max() - row)  # type: ignore[no-untyped-call]
            weights[i] = _normalised(smoothed)
    return weights.reshape(ratios.shape), khat.reshape(ratios.shape[:-1])


def _normalised(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    top = log_weights.max()
    normal: NDArray[np.float64] = log_weights - top - np.log(np.exp(log_weights - top).sum())
    return normal
