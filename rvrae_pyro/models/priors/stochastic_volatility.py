"""Stochastic volatility: the log variance of every factor is a latent path of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import check_number
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.names import LOG_VARIANCE
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.log_variance import LogVariance

__all__ = ["StochasticVolatility"]

_LIMIT = 20.0
"""Log variances beyond this are held there: numbers stay finite wherever training goes."""


class _LogVariancePath(FactorPrior):
    """AR(1) log variances, and the mean of the factors that tells of them."""

    site = LOG_VARIANCE

    def __init__(self, n_factors: int, persistence: float, volatility: float) -> None:
        super().__init__()
        self.n_factors, self.persistence, self.volatility = n_factors, persistence, volatility
        self.mean = nn.Parameter(torch.zeros(n_factors))
        self.unbounded_coefficient = nn.Parameter(torch.full((n_factors,), math.atanh(persistence)))
        self.log_scale = nn.Parameter(torch.full((n_factors,), math.log(volatility)))
        self.factor_mean = nn.Parameter(torch.zeros(n_factors))

    def initial(self) -> State:
        return (self.mean,)

    def transition(self, state: State, context: Tensor | None) -> LogVariance:
        coefficient = torch.tanh(self.unbounded_coefficient)
        loc = self.mean + coefficient * (state[0] - self.mean)
        return LogVariance(
            loc.clamp(-_LIMIT, _LIMIT),
            self.log_scale.exp().expand_as(loc),
            self.factor_mean.expand_as(loc),
        )

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        return (factors,)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        first = state[0].expand(*factors.shape[:-2], self.n_factors).unsqueeze(-2)
        return (torch.cat([first, factors], dim=-2),)

    def reading(self, state: State) -> dict[str, Tensor]:
        return {LOG_VARIANCE: state[0]}


class StochasticVolatility(FactorPrior):
    r"""Factors whose log variances are first-order autoregressions of their own.

    .. math::
        x_t = \mu + \phi (x_{t-1} - \mu) + s\,\epsilon_t, \qquad
        z_t = m + e^{x_t / 2}\, e_t,

    with independent standard normal shocks, factor by factor, and :math:`x_0 = \mu`.

    Parameters
    ----------
    n_factors : int
    persistence : float
        :math:`\phi` to start training from, in (-1, 1).
    volatility : float
        :math:`s` to start training from, above 0.

    Notes
    -----
    **Sites.** ``log_variance`` under the time plate, event n_factors, before ``factors``; the
    KL weight applies to both. The conjugate guide proposes it causally from the month's own
    factor estimate, then the factors given it.

    **When not to use it.** Variances move on their own, whatever last month's factors did, and
    leave the idiosyncratic scales alone; :class:`Recurrent` ties all three together. Wants more
    draws a step than a prior with one latent (``FitConfig(num_particles=4)``).

    References
    ----------
    Taylor (1986); Harvey, Ruiz and Shephard (1994), Review of Economic Studies 61.
    """

    gaussian = False
    degrees_of_freedom = None  # of Normal noise

    def __init__(self, n_factors: int, persistence: float = 0.9, volatility: float = 0.3) -> None:
        super().__init__()
        check_number("persistence", persistence, "(-1, 1)")
        check_number("volatility", volatility, "(0, inf)")
        self.n_factors, self.persistence, self.volatility = n_factors, persistence, volatility
        self.auxiliary: _LogVariancePath = _LogVariancePath(n_factors, persistence, volatility)
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(n_factors), persistent=False)

    @property
    def coefficient(self) -> Tensor:
        """Autoregressive coefficients of the log variances in (-1, 1), of shape (n_factors,)."""
        return torch.tanh(self.auxiliary.unbounded_coefficient)

    def initial(self) -> State:
        """Zeros; given their variances, factors have no memory."""
        return (self.zeros,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """``Normal(m, exp(x / 2))``; ``context`` ends with the month's log variances."""
        assert context is not None  # `drive` has put the log variances there
        x = context[..., -self.n_factors :].clamp(-_LIMIT, _LIMIT)
        return Gaussian(self.auxiliary.factor_mean.expand_as(x), (0.5 * x).exp())

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Keep the state."""
        return (torch.zeros_like(factors),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Zeros for every month, without a loop."""
        return (factors.new_zeros(*factors.shape[:-2], factors.shape[-2] + 1, self.n_factors),)
