"""Many small factors beside a few large ones: what characteristics share that those do not span."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.models.hyperpriors import POSITIVE
from rvrae_pyro.models.kinds import require_instance
from rvrae_pyro.models.priors.around import Around
from rvrae_pyro.models.priors.base import FactorPrior
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.month_summary import summary_size

# a tenth of the unit of returns for a characteristic at its highest rank: about 1 % a month
_START = math.exp(-2.3)


class Augmented(Around):
    r"""A prior over the first factors, and independent ``Normal(0, s_j^2)`` ones after them.

    Made for :class:`rvrae_pyro.models.loadings.Augmented`, whose last loadings are the
    characteristics themselves: together the idiosyncratic returns of eq. (1) become
    ``u_t = X_{t-1} g_t + e_t``, correlated between assets of like characteristics. The small
    factors g have no memory and a mean of zero, and their deviations move with the month's
    level of idiosyncratic scales where the base has one: ``s_j exp(level_t)``.

    Parameters
    ----------
    base : FactorPrior
        Prior over the first ``base.n_factors`` factors: any with Gaussian transitions and no
        auxiliary latent. It alone has memory.
    n_small : int
        Small factors, the last ones.
    scale : float or distribution
        Their deviations :math:`s_j`: a number above 0 to start training from, or a prior. Default:
        0.1 units of returns.

    Notes
    -----
    A month costs O((base.n_factors + n_small)^3).

    References
    ----------
    Wang and Guo (2024), arXiv 2403.02500, eq. (1), whose ``u_t`` is independent between assets.
    Fan, Liao and Mincheva (2013), JRSS B 75: residual covariance beyond a few factors.
    """

    log_scale: Tensor

    def __init__(self, base: FactorPrior, n_small: int, scale: Any = _START) -> None:
        super().__init__()
        choices = ("rv.priors.StandardNormal", "rv.priors.AR1", "rv.priors.Recurrent")
        require_instance("base", base, FactorPrior, choices)
        check_count("n_small", n_small)
        if not base.gaussian or base.auxiliary is not None:
            raise ConfigError(
                "`base` must have Gaussian transitions and no auxiliary latent; got "
                f"{type(base).__name__}. Use StandardNormal, AR1, or Recurrent with "
                "innovation='normal'."
            )
        self.base, self.n_small = base, n_small
        self.n_factors, self.n_context = base.n_factors + n_small, base.n_context
        self.observed, self.summarises = base.observed, base.summarises
        self.add_hyperparameter("scale", scale, "log_scale", POSITIVE, (n_small,))

    def transition(self, state: State, context: Tensor | None) -> Gaussian:
        """Join the base's transition and the small factors' own."""
        return self.ahead(state, context)[0]

    def ahead(self, state: State, context: Tensor | None) -> tuple[Gaussian, Tensor | None]:
        """Join the base's transition and the small factors' own; the base's level."""
        large, level = self.base_ahead(state, context)
        log_scale = self.log_value("scale")
        log_scale = log_scale if level is None else log_scale + level.unsqueeze(-1)
        small = log_scale.exp().expand(*large.loc.shape[:-1], self.n_small)
        loc = torch.cat([large.loc, torch.zeros_like(small)], -1)
        return Gaussian(loc, torch.cat([large.scale.expand_as(large.loc), small], -1)), level

    def advance(self, state: State, factors: Tensor, context: Tensor | None) -> State:
        """Move the base by its own factors; the small ones are forgotten."""
        return self.base.advance(state, self._large(factors), self._of_base(context))

    def slope(self) -> Tensor | None:
        """Slopes of the base, and zeros; None where the base is not linear."""
        large = self.base.slope()
        return None if large is None else torch.cat([large, torch.zeros_like(self.log_scale)])

    def unroll(self, factors: Tensor, context: Tensor | None, state: State) -> State:
        """States of the base."""
        return self.base.unroll(self._large(factors), self._of_base(context), state)

    def volatility_powers(self, elasticity: Tensor) -> Tensor:
        """1 for the large factors; the small ones follow the idiosyncratic scales."""
        large = self.base.volatility_powers(elasticity).expand(self.base.n_factors)
        return torch.cat([large, elasticity.expand(self.n_small)])

    def log_density(self) -> Tensor | None:
        """Log prior density of the base's parameters."""
        return self.base.log_density()

    def noise(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw the base's noise, then the small factors' own."""
        batch = tuple(shape)[:-1]
        large = self.base.noise((*batch, self.base.n_factors), like)
        small = torch.randn((*batch, self.n_small), dtype=like.dtype, device=like.device)
        return torch.cat([large, small], -1)

    def _of_base(self, context: Tensor | None) -> Tensor | None:
        """Context whose summary of the month's returns is of the base's factors alone."""
        if context is None or not self.summarises:
            return context
        encoded, summary = context.split(
            [context.shape[-1] - summary_size(self.n_factors), summary_size(self.n_factors)], -1
        )
        estimate, log_precision, residual = summary.split([self.n_factors, self.n_factors, 1], -1)
        return torch.cat([encoded, self._large(estimate), self._large(log_precision), residual], -1)

    def _large(self, factors: Tensor) -> Tensor:
        return factors[..., : self.base.n_factors]
