"""One common scale of all assets' covariance, filtered from month to month."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rvrae_pyro.baselines.joint_t import Array, Distances
from rvrae_pyro.baselines.shrunk_moments import MomentOptions, estimate_moments
from rvrae_pyro.errors import check_count


@dataclass(frozen=True)
class History:
    """Months of training from which a scale has a history.

    Attributes
    ----------
    burn_in : int
        Months before the scale starts to move.
    every : int
        Months between two estimates of the moments that distances are taken from.
    """

    burn_in: int
    every: int

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
    """Distances of training months from moments of the months before them.

    Parameters
    ----------
    returns, observed : ndarray of shape (n_times, n_assets)
    weights : callable
        From a number of months to their weights, the latest last.
    options : MomentOptions
    history : History

    Returns
    -------
    Distances
        NaN before ``burn_in``.
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

    Parameters
    ----------
    found : Distances
        Months with NaN or without returns leave the scale as it is.
    decay : float
        :math:`\lambda`; 1 keeps the scale constant.
    cap : float
        Largest squared distance per return, c.
    start : float
        Scale of the first month.

    Returns
    -------
    ndarray of shape (n_times + 1,)
        Entry t knows months before t only.
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
    """States of a panel's months as far as training knows them.

    Parameters
    ----------
    kept : ndarray of shape (n_trained + 1,)
        States of the months of training, and of the month after them.
    trained, stamps : ndarray of int64
        Months of training and of the panel.
    start : float
        State of months before training.

    Returns
    -------
    states : ndarray of shape (n_times,)
        In months after training, the state after training.
    later : list of int
        Positions of the panel's months after training.
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
