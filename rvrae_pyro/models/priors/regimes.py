"""Calm and wild markets: factors whose regime is a hidden Markov chain."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.hyperpriors import POSITIVE, REAL, UNIT
from rvrae_pyro.models.priors.base import FactorPrior, Transition
from rvrae_pyro.names import REGIME_PROBABILITY
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.transitions import Mixture


class RegimeSwitching(FactorPrior):
    """Markov-switching factors: calm and wild markets, each with a mean, scale and idio level.

    The regime is integrated out exactly: the state is the filtered log probability of every
    regime given past factors (Hamilton's filter), and a month's prior is the mixture over
    regimes that it implies. The conjugate guide matches its posterior's moments by one
    Gaussian; filters draw from the exact mixture.

    Parameters
    ----------
    n_factors : int
    n_regimes : int
        2 to 4.
    staying : float or distribution, optional
        Probability (n_regimes,) of staying in each regime for another month: a number in (0, 1)
        to start training from, or a prior. Default: the whole transition matrix is learned.
    mean : float or distribution
        Mean (n_regimes, n_factors) of the factors. Default: 0.
    scale : float or distribution
        Scale (n_regimes, n_factors) of the factors, above 0. Regimes start apart, from calm to
        wild. Default: 1.

    References
    ----------
    Hamilton (1989), Econometrica 57.
    """

    gaussian = False
    degrees_of_freedom = None  # of Normal noise

    optional = ("staying",)
    log_scales: Tensor

    def __init__(
        self,
        n_factors: int,
        n_regimes: int = 2,
        staying: Any = None,
        mean: Any = 0.0,
        scale: Any = 1.0,
    ) -> None:
        super().__init__()
        if not 2 <= n_regimes <= 4:
            raise ConfigError(f"`n_regimes` must be 2 to 4; got {n_regimes}.")
        self.n_factors, self.n_regimes = n_factors, n_regimes
        stay = 2.0 * torch.eye(n_regimes)
        self.switching = nn.Parameter(stay)
        self.staying, shape = staying, (n_regimes, n_factors)
        if staying is not None:
            path = "unbounded_staying"
            self.add_hyperparameter("staying", staying, path, UNIT, (n_regimes,), keep=False)
        self.add_hyperparameter("mean", mean, "locs", REAL, shape)
        self.add_hyperparameter("scale", scale, "log_scales", POSITIVE, shape)
        # regimes start apart in scale, from calm to wild, or none would ever differ
        spread = torch.linspace(-0.5, 0.5, n_regimes)
        with torch.no_grad():
            self.log_scales.add_(spread.unsqueeze(-1))
        self.levels = nn.Parameter(0.2 * spread)

    @property
    def transition_matrix(self) -> Tensor:
        """Probability of moving from one regime (row) to another (column) within a month."""
        return self._log_moves().exp()

    def _log_moves(self) -> Tensor:
        """Log of the transition matrix."""
        if self.staying is None:
            return torch.log_softmax(self.switching, -1)
        stay = self.value("staying").unsqueeze(-1)
        eye = torch.eye(self.n_regimes, dtype=torch.bool, device=self.switching.device)
        away = torch.log_softmax(self.switching.masked_fill(eye, -math.inf), -1)
        return torch.where(eye, stay.log(), torch.log1p(-stay) + away)

    def initial(self) -> State:
        """Equal probabilities."""
        return (self.switching.new_full((self.n_regimes,), -math.log(self.n_regimes)),)

    def transition(self, state: State, context: Tensor | None) -> Transition:
        """Mixture over the regimes that the month may be in."""
        batch = state[0].shape[:-1]
        shape = (*batch, self.n_regimes, self.n_factors)
        return Mixture(
            self._predict(state[0]),
            self.value("mean").expand(shape),
            self.value("scale").expand(shape),
        )

    def level(self, state: State, context: Tensor | None) -> Tensor | None:
        """Return the expected log multiplier of the idiosyncratic scales."""
        return (self._predict(state[0]).exp() * self.levels).sum(-1)

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Hamilton's update of the regime probabilities by the month's factors."""
        within = Gaussian(self.value("mean"), self.value("scale")).log_prob(factors.unsqueeze(-2))
        return (torch.log_softmax(self._predict(state[0]) + within, -1),)

    def reading(self, state: State) -> dict[str, Tensor]:
        """Probability of every regime, in the order of their factors' mean scale, calm first."""
        order = self.value("scale").log().mean(-1).argsort()
        return {REGIME_PROBABILITY: state[0].exp()[..., order]}

    def _predict(self, log_filtered: Tensor) -> Tensor:
        moved = log_filtered.unsqueeze(-1) + self._log_moves()
        return torch.logsumexp(moved, -2)
