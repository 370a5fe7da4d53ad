"""Priors with little memory: none at all, or the last month's factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.nn.gaussian import Gaussian

__all__ = ["AR1", "StandardNormal"]


class StandardNormal(FactorPrior):
    """Independent standard normal factors: no memory, the ablation of the learned prior.

    Parameters
    ----------
    n_factors : int
    """

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(n_factors), persistent=False)

    def initial(self) -> State:
        """Zeros; the state never moves."""
        return (self.zeros,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """``Normal(0, I)`` whatever the state."""
        return Gaussian(state[0], torch.ones_like(state[0]))

    def slope(self) -> Tensor:
        """Zeros."""
        return self.zeros

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Keep the state."""
        return (torch.zeros_like(factors),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Zeros for every month, without a loop."""
        return (factors.new_zeros(*factors.shape[:-2], factors.shape[-2] + 1, self.n_factors),)


class AR1(FactorPrior):
    r"""Independent first-order autoregressions, :math:`z_t = m + \phi (z_{t-1} - m) + s\,e_t`.

    The chain starts at :math:`z_0 = m`, so that the first month is ``Normal(m, s)``. With Normal
    returns the model is linear and Gaussian and :mod:`rvrae_pyro.models.exact` gives its evidence.

    Parameters
    ----------
    n_factors : int
    """

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.loc = nn.Parameter(torch.zeros(n_factors))
        self.unbounded_coefficient = nn.Parameter(torch.zeros(n_factors))
        self.log_scale = nn.Parameter(torch.zeros(n_factors))

    @property
    def coefficient(self) -> Tensor:
        """Autoregressive coefficients in (-1, 1), of shape (n_factors,)."""
        return torch.tanh(self.unbounded_coefficient)

    def initial(self) -> State:
        """Return the long-run mean."""
        return (self.loc,)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """One step of the autoregression."""
        loc = self.loc + self.coefficient * (state[0] - self.loc)
        return Gaussian(loc, self.log_scale.exp().expand_as(loc))

    def slope(self) -> Tensor:
        """Return the coefficients."""
        return self.coefficient

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Remember the month's factors."""
        return (factors,)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Shift the path by one month, without a loop."""
        first = state[0].expand(*factors.shape[:-2], self.n_factors).unsqueeze(-2)
        return (torch.cat([first, factors], dim=-2),)
