"""Distributions of a whole factor path: one Pyro site under the ``time`` plate.

A path's months are conditionally, not marginally, independent: ``log_prob`` returns one term a
month, given the months before it. So the plate can carry a KL weight for every month, masks and
particles, and must not be subsampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors import FactorPrior, Transition
from rvrae_pyro.models.scan import Scan, Updated, at_level, scan
from rvrae_pyro.nn.gaussian import Potential

_Shape = torch.Size | list[int] | tuple[int, ...]

__all__ = [
    "FilteredPath",
    "IndependentPath",
    "PathDistribution",
    "PriorPath",
]


class PathDistribution(TorchDistribution):
    """Base of distributions over factor paths: batch (*particles, n_times, 1), event n_factors.

    Parameters
    ----------
    prior : FactorPrior
    n_times : int
    context : Tensor of shape (*batch or fewer, n_times, n_features) or None
        As the prior's ``encode`` left it, with the months' own latents where it has any.
    state : tuple of Tensor
        State before the first month.
    particles : tuple of int
        Particle dimensions that the parameters already have.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch declares it so)
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        prior: FactorPrior,
        n_times: int,
        context: Tensor | None,
        state: State,
        particles: Sequence[int] = (),
    ) -> None:
        self.prior, self.n_times, self.context, self.state = prior, n_times, context, state
        like = state[0]
        self._like = like
        # an expanded copy made by a plate shares what it computes with the original
        self._origin = self
        super().__init__(
            torch.Size((*particles, n_times, 1)),
            torch.Size((prior.n_factors,)),
            validate_args=False,
        )

    def expand(self, batch_shape: _Shape, _instance: Any = None) -> PathDistribution:
        """Add particle dimensions on the left; the object itself for its own shape."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        expanded = copy.copy(self)
        expanded._batch_shape = batch_shape
        return expanded

    def _noise(self, sample_shape: _Shape) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape[:-2]
        return self.prior.noise((*shape, self.n_times, self.prior.n_factors), self._like)

    def _path(self, value: Tensor) -> Tensor:
        """Drop the asset dimension, of size 1."""
        return value.squeeze(-2)

    def _unroll(self, path: Tensor) -> tuple[Transition, Tensor | None]:
        """Prior and level of every month, given the path."""
        states = self.prior.unroll(path, self.context, self.state)
        before = tuple(s[..., :-1, :] for s in states)
        return self.prior.ahead(before, self.context)


class IndependentPath(PathDistribution):
    """Months that are independent given the data, whatever the shape of their density.

    Parameters
    ----------
    prior : FactorPrior
        Source of the noise.
    months : Transition or Updated
        Density of every month, batch shape (n_times,).
    """

    def __init__(self, prior: FactorPrior, months: Transition | Updated, state: State) -> None:
        mean = months.mean
        super().__init__(prior, mean.shape[-2], None, state, mean.shape[:-2])
        self.months = months

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw every month."""
        noise = self._noise(sample_shape)
        if isinstance(self.months, Updated):
            return (self.months.mean + self.months.deviate(noise)).unsqueeze(-2)
        return self.months.sample(noise).unsqueeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """One term a month, of shape (*batch, n_times, 1)."""
        return self.months.log_prob(self._path(value)).unsqueeze(-1)


class PriorPath(PathDistribution):
    """p(z_1:T) = prod_t p(z_t | h_{t-1}), h driven by z (eqs. 4 and 6).

    A path drawn by the guide comes with the prior it met on its way (``walked``); the density
    of that very path reuses it instead of walking again.
    """

    walked: tuple[Tensor, Transition, Tensor | None] | None = None
    _origin: PriorPath

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths by ancestral sampling."""
        noise = self._noise(sample_shape)
        state, months = self.state, []
        contexts = [None] * self.n_times if self.context is None else self.context.unbind(-2)
        for eps, moment in zip(noise.unbind(-2), contexts, strict=True):
            factors = self.prior.transition(state, moment).sample(eps)
            state = self.prior.advance(state, factors, moment)
            months.append(factors)
        return torch.stack(months, -2).unsqueeze(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """One term a month, of shape (*batch, n_times, 1)."""
        gaussian, _ = self.along(value)
        return gaussian.log_prob(self._path(value)).unsqueeze(-1)

    def along(self, value: Tensor) -> tuple[Transition, Tensor | None]:
        """Prior and idiosyncratic level of every month along a path."""
        if self.walked is not None and self.walked[0] is value:
            return self.walked[1], self.walked[2]
        gaussian, level = self._unroll(self._path(value))
        self.walked = self._origin.walked = (value, gaussian, level)
        return gaussian, level


class FilteredPath(PathDistribution):
    """q(z_1:T | r) = prod_t p(z_t | h_{t-1}, r_t) up to the quadratic form of each month.

    The exact conditional given past and present for Normal returns, with no parameter of its
    own (literature: structured recognition in the spirit of Johnson et al. 2016).

    Parameters
    ----------
    potential : Potential
        Quadratic log-likelihood of every month at level 0.
    """

    def __init__(
        self,
        prior: FactorPrior,
        potential: Potential,
        context: Tensor | None,
        state: State,
    ) -> None:
        shift = potential.shift
        super().__init__(prior, shift.shape[-2], context, state, shift.shape[:-2])
        self.potential = potential
        self.drawn: tuple[Tensor, Scan, Tensor] | None = None

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths; remembers the walk for the density of the same draw."""
        noise = self._noise(sample_shape)
        walk = scan(self.prior, self.potential, self.context, self.state, noise)
        value = walk.factors.unsqueeze(-2)
        self.drawn = self._origin.drawn = (value, walk, noise)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """One term a month, of shape (*batch, n_times, 1)."""
        if self.drawn is not None and self.drawn[0] is value:
            return self.drawn[1].posterior.log_prob_of_noise(self.drawn[2]).unsqueeze(-1)
        prior, level = self._unroll(self._path(value))
        posterior = prior.update(at_level(self.potential, level))
        return posterior.log_prob(self._path(value)).unsqueeze(-1)
