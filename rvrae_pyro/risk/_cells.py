"""Scoring forecasts of many columns month by month, with a null simulated from their draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvrae_pyro.risk._draws import Array, tail_losses
from rvrae_pyro.risk.coverage_tests import fz0_score, quantile_score

__all__ = ["Scores", "Walk"]


@dataclass(frozen=True)
class Scores:
    """Scores of every cell, and statistics of months simulated from the forecast.

    Leading axes are (tail, time, column); ``pit`` lacks the tail. The null of a statistic is a
    sum over months, (tail, simulation, column), and pooled over columns (tail, simulation).
    """

    var: Array
    es: Array
    hit: Array
    shortfall: Array
    quantile_score: Array
    fz0: Array
    pit: Array
    null_shortfall: Array
    pooled_null_shortfall: Array
    pooled_null_hits: Array


class Walk:
    """Visits months in order; only one month's draws are in memory.

    Parameters
    ----------
    shape : (n_times, n_columns)
    tails : tuple of float
    picks : int array of shape (n_times, n_simulations)
        Which draw stands for the truth, by month and simulation: the same one for every column,
        so that simulated months depend across columns as the forecast says.
    """

    def __init__(
        self, shape: tuple[int, int], tails: tuple[float, ...], picks: NDArray[np.intp]
    ) -> None:
        self.tails, self.picks = tails, picks
        full = (len(tails), *shape)
        names = ("var", "es", "hit", "shortfall", "quantile_score", "fz0")
        self.cells = {name: np.full(full, np.nan) for name in names}
        self.pit = np.full(shape, np.nan)
        n_simulations = picks.shape[1]
        self.null = np.zeros((len(tails), n_simulations, shape[1]))
        self.pooled = np.zeros((len(tails), n_simulations))
        self.pooled_hits = np.zeros((len(tails), n_simulations))

    def visit(self, t: int, draws: Array, realised: Array) -> None:
        """Score month ``t``: draws (draw, column), realised (column,), NaN if not observed."""
        known = ~(np.isnan(realised) | np.isnan(draws[0]))
        if not known.any():
            return
        columns = np.ascontiguousarray(draws[:, known].T)
        y = realised[known]
        at_risk, shortfall = tail_losses(columns, self.tails)
        size = columns.shape[1]
        below = (columns < y[:, None]).sum(axis=1) + 0.5 * (columns == y[:, None]).sum(axis=1)
        self.pit[t, known] = (below + 0.5) / (size + 1.0)
        for k, tail in enumerate(self.tails):
            var, es = at_risk[k], shortfall[k]
            hit = y <= -var
            scored = {
                "var": var,
                "es": es,
                "hit": hit,
                "shortfall": np.where(hit, y, 0.0) / es,
                "quantile_score": quantile_score(y, var, tail),
                "fz0": fz0_score(y, var, es, tail),
            }
            for name, values in scored.items():
                self.cells[name][k, t, known] = values
            beyond = columns <= -var[:, None]
            losses = np.where(beyond, columns / es[:, None], 0.0)
            picked = self.picks[t]
            self.null[k][:, known] += losses[:, picked].T
            self.pooled[k] += losses.sum(axis=0)[picked]
            self.pooled_hits[k] += beyond.sum(axis=0)[picked]

    def scores(self) -> Scores:
        """Everything seen so far."""
        return Scores(
            **self.cells,
            pit=self.pit,
            null_shortfall=self.null,
            pooled_null_shortfall=self.pooled,
            pooled_null_hits=self.pooled_hits,
        )
