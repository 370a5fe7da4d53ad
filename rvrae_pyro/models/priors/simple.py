"""Priors with little memory: none at all, or the last month's factors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.hyperpriors import POSITIVE, REAL, SIGNED_UNIT
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.nn.gaussian import Gaussian

_COEFFICIENT = replace(SIGNED_UNIT, unbounded=True)
"""A number is stationary; a prior may be on the whole line, such as Minnesota's Normal."""


class Memoryless(FactorPrior):
    """Base of priors whose months are independent: a state of zeros, which never moves."""

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.zeros: Tensor
        self.register_buffer("zeros", torch.zeros(n_factors), persistent=False)

    def initial(self) -> State:
        """Zeros; the state never moves."""
        return (self.zeros,)

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Keep the state."""
        return (torch.zeros_like(factors),)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Zeros for every month, without a loop."""
        return (factors.new_zeros(*factors.shape[:-2], factors.shape[-2] + 1, self.n_factors),)


class LastFactors(FactorPrior):
    """Base of priors that remember the last month's factors, and nothing else."""

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Remember the month's factors."""
        return (factors,)

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """Shift the path by one month, without a loop."""
        first = state[0].expand(*factors.shape[:-2], self.n_factors).unsqueeze(-2)
        return (torch.cat([first, factors], dim=-2),)


class StandardNormal(Memoryless):
    """Independent standard normal factors: no memory, the ablation of the learned prior.

    Parameters
    ----------
    n_factors : int
    """

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """``Normal(0, I)`` whatever the state."""
        return Gaussian(state[0], torch.ones_like(state[0]))

    def slope(self) -> Tensor:
        """Zeros."""
        return self.zeros


class AR1(LastFactors):
    r"""Independent first-order autoregressions, :math:`z_t = m + \phi (z_{t-1} - m) + s\,e_t`.

    The chain starts at :math:`z_0 = m`, so that the first month is ``Normal(m, s)``. With Normal
    returns the model is linear and Gaussian and :mod:`rvrae_pyro.models.exact` gives its evidence.

    Parameters
    ----------
    n_factors : int
    coefficient : float or distribution
        :math:`\phi`: a number in (-1, 1) to start training from, or a prior on (-1, 1) or on the
        whole line. Default: 0.
    scale : float or distribution
        s, above 0. Default: 1.
    mean : float or distribution
        Long-run mean m of the factors; in units of their scale, a price of risk. Default: 0.

    Notes
    -----
    A prior of one number stands for ``n_factors`` independent ones. Parameters with a prior are
    Pyro sites with a posterior (``factor_prior.coefficient``); the others are learned.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> import rvrae_pyro as rv
    >>> prior = rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
    >>> rv.RVRAE(4, 2, factor_prior=prior).priors().loc["factor_prior.coefficient", "prior"]
    'dist.Uniform(low=-1.0, high=1.0)'
    """

    def __init__(
        self, n_factors: int, coefficient: Any = 0.0, scale: Any = 1.0, mean: Any = 0.0
    ) -> None:
        super().__init__()
        self.n_factors, shape = n_factors, (n_factors,)
        self.add_hyperparameter("mean", mean, "loc", REAL, shape)
        self.add_hyperparameter(
            "coefficient", coefficient, "unbounded_coefficient", _COEFFICIENT, shape
        )
        self.add_hyperparameter("scale", scale, "log_scale", POSITIVE, shape)

    def initial(self) -> State:
        """Return the long-run mean."""
        return (self.value("mean"),)

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """One step of the autoregression."""
        mean = self.value("mean")
        loc = mean + self.value("coefficient") * (state[0] - mean)
        return Gaussian(loc, self.value("scale").expand_as(loc))

    def slope(self) -> Tensor:
        """Return the coefficients."""
        return self.value("coefficient")
