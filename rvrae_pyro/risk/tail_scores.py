"""Scores of tail forecasts by month, with a null simulated from the draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rvrae_pyro.risk.coverage_tests import fz0_score, quantile_score
from rvrae_pyro.risk.draws import Array, exceeds, tail_limits, tail_losses


@dataclass(frozen=True)
class Scores:
    """Scores of every cell, and statistics of months simulated from the forecast.

    Leading axes are (tail, time, column); ``pit`` lacks the tail. The null of a statistic is a
    sum over months, (tail, simulation, column), and pooled over columns (tail, simulation).
    ``expected`` is the probability of an exception under the forecast: the tail, or less where
    draws tie with VaR. ``shortfall`` and its null are NaN where ES is not positive; pooled sums
    leave these cells out. ``pooled_null_squares`` and ``pooled_null_products`` are sums over
    months of the squared number of hits, and of that number times the month's cells;
    ``pooled_doubled_hits`` are hits of a history in which they occur at twice the rate.
    """

    var: Array
    es: Array
    hit: Array
    expected: Array
    shortfall: Array
    quantile_score: Array
    fz0: Array
    pit: Array
    null_shortfall: Array
    pooled_null_shortfall: Array
    pooled_null_hits: Array
    pooled_null_squares: Array
    pooled_null_products: Array
    pooled_doubled_hits: Array


class TailScorer:
    """Scores months in order; only one month's draws are in memory.

    ``picks`` (n_times, n_simulations) are the draws that serve as the truth, the same for every
    column, so that simulated months depend across columns as in the forecast. Differences within
    the relative ``rounding`` are ties. With ``ratios`` shortfalls are ratios of returns to ES, else
    sums of return and ES, for an ES of any sign.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tails: tuple[float, ...],
        picks: NDArray[np.intp],
        rounding: float,
        *,
        ratios: bool = True,
    ) -> None:
        self.tails, self.picks, self.rounding = tails, picks, rounding
        self.ratios = ratios
        full = (len(tails), *shape)
        names = ("var", "es", "hit", "expected", "shortfall", "quantile_score", "fz0")
        self.cells = {name: np.full(full, np.nan) for name in names}
        self.pit = np.full(shape, np.nan)
        n_simulations = picks.shape[1]
        self.null = np.zeros((len(tails), n_simulations, shape[1]))
        pooled = np.zeros((5, len(tails), n_simulations))
        self.pooled, self.pooled_hits, self.pooled_squares = pooled[:3]
        self.pooled_products, self.doubled_hits = pooled[3:]
        self.doubled = tuple(min(2.0 * tail, 1.0) for tail in tails)

    def add(self, t: int, draws: Array, realised: Array, size: Array | None = None) -> None:
        """Score month ``t``: draws (draw, column), realised (column,), NaN if not observed.

        ``size`` (column,) is the size of the numbers that a column was summed from. Default:
        that of its largest draw.
        """
        known = ~(np.isnan(realised) | np.isnan(draws[0]))
        if not known.any():
            return
        columns = np.ascontiguousarray(draws[:, known].T)
        y = realised[known]
        at_risk, shortfall = tail_losses(columns, self.tails)
        limits = tail_limits(columns, self.tails)
        deeper = tail_limits(columns, self.doubled)
        largest = np.abs(columns).max(axis=1) if size is None else size[known]
        slack = self.rounding * np.maximum(largest, np.abs(y))
        count = columns.shape[1]
        below = (columns < (y - slack)[:, None]).sum(axis=1)
        ties = (columns <= (y + slack)[:, None]).sum(axis=1) - below
        # a place among ties at random, the same for all columns, so that an atom stays uniform
        place = np.where(ties > 0, (self.picks[t, 0] + 0.5) / count * (ties + 1), 0.5)
        self.pit[t, known] = (below + place) / (count + 1.0)
        for k, tail in enumerate(self.tails):
            var, es = at_risk[k], shortfall[k]
            hit = exceeds(y, var, slack)
            beyond = columns < (limits[k] - slack)[:, None]
            lowest = (columns <= -var[:, None] + slack[:, None]).sum(axis=1)
            share = beyond.sum(axis=1)
            # a loss over an ES that is a gain, or nothing, would reward the worst months
            positive = np.where(es > slack, es, np.nan)
            scored = {
                "var": var,
                "es": es,
                "hit": hit,
                "expected": np.where(share < lowest, share / count, tail),
                "shortfall": self._shortfall(y, es, positive, hit),
                "quantile_score": quantile_score(y, var, tail),
                "fz0": fz0_score(y, var, positive, tail),
            }
            for name, values in scored.items():
                self.cells[name][k, t, known] = values
            losses = self._shortfall(columns, es[:, None], positive[:, None], beyond)
            picked = self.picks[t]
            self.null[k][:, known] += losses[:, picked].T
            self.pooled[k] += np.nansum(losses, axis=0)[picked]
            hits = beyond.sum(axis=0)[picked]
            self.pooled_hits[k] += hits
            self.pooled_squares[k] += hits**2
            self.pooled_products[k] += hits * len(columns)
            doubled = columns < (deeper[k] - slack)[:, None]
            self.doubled_hits[k] += doubled.sum(axis=0)[picked]

    def _shortfall(
        self, returns: Array, es: Array, positive: Array, beyond: NDArray[np.bool_]
    ) -> Array:
        """Size of losses beyond VaR against ES, 0 for other returns; NaN without a ratio."""
        if self.ratios:
            return np.where(beyond, returns, 0.0) / positive
        return np.where(beyond, returns + es, 0.0)

    def scores(self) -> Scores:
        """Everything seen so far."""
        return Scores(
            **self.cells,
            pit=self.pit,
            null_shortfall=self.null,
            pooled_null_shortfall=self.pooled,
            pooled_null_hits=self.pooled_hits,
            pooled_null_squares=self.pooled_squares,
            pooled_null_products=self.pooled_products,
            pooled_doubled_hits=self.doubled_hits,
        )
