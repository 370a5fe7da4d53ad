"""Distributions of a whole factor path: one Pyro site under the ``time`` plate.

A path's months are conditionally, not marginally, independent: ``log_prob`` returns one term a
month, given the months before it. So the plate can carry a KL weight for every month, masks and
particles, and must not be subsampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors import FactorPrior, Transition
from rvrae_pyro.models.priors.base import Updated
from rvrae_pyro.models.scan import Auxiliary, Scan, at_level, auxiliary_along, scan
from rvrae_pyro.nn.gaussian import Dispersion, Potential

_Shape = torch.Size | list[int] | tuple[int, ...]


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
        transition, _ = self.along(value)
        return transition.log_prob(self._path(value)).unsqueeze(-1)

    def along(self, value: Tensor) -> tuple[Transition, Tensor | None]:
        """Prior and idiosyncratic level of every month along a path."""
        if self.walked is not None and self.walked[0] is value:
            return self.walked[1], self.walked[2]
        transition, level = self._unroll(self._path(value))
        self.walked = self._origin.walked = (value, transition, level)
        return transition, level


class FilteredPath(PathDistribution):
    r"""Prior times quadratic likelihood, month by month.

    .. math::
        q(z_t \mid z_{<t}, r_t) \propto p(z_t \mid h_{t-1})\,
        \exp(\eta_t' z_t - \tfrac12 z_t' \Lambda_t z_t)

    For a Gaussian prior: ``Gaussian.update`` and ``Posterior.log_prob`` in ``nn/gaussian.py``. The
    exact conditional given past and present for Normal returns, with no parameter of its own
    (structured recognition in the spirit of Johnson et al. 2016).

    Parameters
    ----------
    prior : FactorPrior
    potential : Potential
        Quadratic log-likelihood of every month, at level 0 or at that of ``dispersion``.
    context : Tensor or None
        With the values of the prior's auxiliary latent, where it has one.
    state : tuple of Tensor
    dispersion : Dispersion, optional
    joint : JointPath, optional
        The draw of auxiliary latent and factors of which this is the factors' part.
    """

    def __init__(
        self,
        prior: FactorPrior,
        potential: Potential,
        context: Tensor | None,
        state: State,
        dispersion: Dispersion | None = None,
        joint: JointPath | None = None,
    ) -> None:
        shift = potential.shift
        super().__init__(prior, shift.shape[-2], context, state, shift.shape[:-2])
        self.potential, self.dispersion, self.joint = potential, dispersion, joint
        self.drawn: tuple[Tensor, Scan, Tensor] | None = None

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths; keeps the pass for the density of the same draw."""
        if self.joint is not None:
            walk, noise = self.joint.walk, self.joint.noise
        else:
            noise = self._noise(sample_shape)
            walk = scan(
                self.prior, self.potential, self.context, self.state, noise, self.dispersion
            )
        value = walk.factors.unsqueeze(-2)
        self.drawn = self._origin.drawn = (value, walk, noise)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """One term per month, of shape (*batch, n_times, 1)."""
        if self.drawn is not None and self.drawn[0] is value:
            return self.drawn[1].posterior.log_prob_of_noise(self.drawn[2]).unsqueeze(-1)
        prior, level = self._unroll(self._path(value))
        posterior = prior.update(at_level(self.potential, level, self.dispersion))
        return posterior.log_prob(self._path(value)).unsqueeze(-1)


@dataclass(frozen=True)
class JointPath:
    """A draw of the auxiliary latent and of the factors, made together month by month.

    Attributes
    ----------
    value : Tensor of shape (*batch, n_times, 1, size)
        The auxiliary latent, as its site has it.
    walk : Scan
    noise : Tensor of shape (*batch, n_times, n_factors)
        Of the factors.
    """

    value: Tensor
    walk: Scan
    noise: Tensor


class AuxiliaryPath(PathDistribution):
    """q(x_1:T | r) of the prior's auxiliary latent, proposed from each month's cross-section.

    A month's value depends on the factors of the months before it. With ``together`` these are
    drawn along, and the factors' own site then takes the same draws (:class:`JointPath`): the
    product of both sites' densities is that of the joint draw. Otherwise the months before are
    represented by the factors' posterior means, and the path has a density of its own, for
    guides that propose the factors in another way.

    Parameters
    ----------
    prior : FactorPrior
        Prior of the factors, whose ``auxiliary`` is the latent's.
    potential : Potential
    dispersion : Dispersion or None
    context, state
        Of the factors' prior.
    latent_context, latent_state
        Of the latent's prior.
    together : bool
    """

    _origin: AuxiliaryPath

    def __init__(
        self,
        prior: FactorPrior,
        potential: Potential,
        dispersion: Dispersion | None,
        context: Tensor | None,
        state: State,
        latent_context: Tensor | None,
        latent_state: State,
        together: bool,
    ) -> None:
        latent, shift = prior.auxiliary, potential.shift
        assert latent is not None  # a guide is asked for a path only where there is a latent
        super().__init__(latent, shift.shape[-2], latent_context, latent_state, shift.shape[:-2])
        self.factor_prior, self.potential, self.dispersion = prior, potential, dispersion
        self.factor_context, self.factor_state, self.together = context, state, together
        self.drawn: tuple[Tensor, Scan, Tensor] | None = None
        self.joint: JointPath | None = None
        self.factors: Tensor | None = None

    def rsample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw paths; keeps the pass for the density of the same draw and for the factors."""
        noise, factor_noise = self._noise(sample_shape), None
        if self.together:
            shape = (*noise.shape[:-1], self.factor_prior.n_factors)
            factor_noise = self.factor_prior.noise(shape, self._like)
        walk = self._scan(factor_noise, noise=noise)
        assert walk.auxiliary is not None
        value = walk.auxiliary.values.unsqueeze(-2)
        self.drawn = self._origin.drawn = (value, walk, noise)
        if factor_noise is not None:
            self.joint = self._origin.joint = JointPath(value, walk, factor_noise)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """One term per month, of shape (*batch, n_times, 1).

        Where the factors are drawn along, given the factors of the months before: those that were
        drawn, or those that :meth:`given_factors` has set for values from elsewhere.
        """
        if self.drawn is not None and self.drawn[0] is value:
            walk, noise = self.drawn[1:]
            assert walk.auxiliary is not None
            return walk.auxiliary.posterior.log_prob_of_noise(noise).unsqueeze(-1)
        path, factors = self._path(value), self._origin.factors
        if not self.together or factors is None:
            latent = self._scan(None, values=path).auxiliary
        else:
            latent = auxiliary_along(
                self.factor_prior,
                self.potential,
                self.factor_context,
                self.factor_state,
                self.dispersion,
                Auxiliary(self.context, self.state, values=path),
                factors,
            )
        assert latent is not None
        return latent.posterior.log_prob(path).unsqueeze(-1)

    def given_factors(self, codes: Tensor) -> None:
        """Set the factors (*batch, n_times, 1, n_factors) that the path belongs to."""
        self._origin.factors = self._path(codes)

    def _scan(self, factor_noise: Tensor | None, **latent: Tensor) -> Scan:
        return scan(
            self.factor_prior,
            self.potential,
            self.factor_context,
            self.factor_state,
            factor_noise,
            self.dispersion,
            Auxiliary(self.context, self.state, **latent),
        )
