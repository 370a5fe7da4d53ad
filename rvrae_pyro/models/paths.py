"""Distributions of a whole factor path: one Pyro site under the ``time`` plate.

A path's months are conditionally, not marginally, independent: ``log_prob`` returns one term a
month, given the months before it. So the plate can carry a KL weight for every month, masks and
particles, and must not be subsampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors import FactorPrior, Transition
from rvrae_pyro.nn.flows import WarpedPosterior
from rvrae_pyro.nn.gaussian import Posterior, Potential
from rvrae_pyro.nn.transitions import StudentTPosterior

_Shape = torch.Size | list[int] | tuple[int, ...]

Updated = Posterior | StudentTPosterior | WarpedPosterior
"""Distribution of a month's factors given the state before it and the month's returns."""

__all__ = [
    "FilteredPath",
    "IndependentPath",
    "PathDistribution",
    "PriorPath",
    "Scan",
    "Updated",
    "at_level",
    "scan",
]


class Scan(NamedTuple):
    """A walk through the months in which prior and returns meet.

    Attributes
    ----------
    factors : Tensor of shape (*batch, n_times, n_factors)
        What drove the state: draws, or posterior means.
    prior : Transition
        p(z_t | h_{t-1}) along the walk, each (*batch, n_times, n_factors).
    level : Tensor of shape (*batch, n_times) or None
        Log multiplier of the idiosyncratic scales.
    posterior : Updated
        q(z_t | h_{t-1}, r_t) along the walk.
    """

    factors: Tensor
    prior: Transition
    level: Tensor | None
    posterior: Updated


def scan(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
) -> Scan:
    """Walk through the months, conditioning each month's prior on its potential.

    Parameters
    ----------
    prior : FactorPrior
    potential : Potential
        Quadratic log-likelihood of every month at level 0, batch shape (*batch, n_times).
    context : Tensor of shape (*batch or fewer, n_times, n_features) or None
        As the prior's ``encode`` left it, with the months' own latents where it has any.
    state : tuple of Tensor
        State before the first month.
    noise : Tensor of shape (*batch, n_times, n_factors) or None
        Standard normal; the state is driven by ``mean + deviate(noise)``. None drives it by the
        posterior means: the paper's eq. (12), made free of the number of assets.

    Returns
    -------
    Scan
        Month t of it depends on returns up to t only. Costs O(n_times n_factors^3).
    """
    size = sum(s.shape[-1] for s in state)
    if not torch.is_grad_enabled() or potential.shift.shape[-2] <= _LONG * size:
        months, _ = _loop(prior, potential, context, state, noise)
        return months
    with torch.no_grad():
        _, before = _loop(prior, potential, context, state, noise)
    leaves = tuple(s.detach().requires_grad_() for s in before)
    walk, after = _month(prior, potential, context, leaves, noise)
    batch = walk.factors.shape[:-2]
    first = tuple(s.expand(*batch, s.shape[-1]) for s in state)
    linked = AdjointChain.apply(  # type: ignore[no-untyped-call]
        len(state), *leaves, *first, *after, *_fields(walk)
    )
    return _like(walk, linked)


# An adjoint costs as much as one month's backward pass for every entry of the state, whatever
# the number of months; below this many months an entry the plain loop is cheaper.
_LONG = 4


def _month(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
) -> tuple[Scan, State]:
    """One month, or many at once given the state before each."""
    ahead = prior.transition(state, context)
    level = prior.level(state, context)
    posterior = ahead.update(at_level(potential, level))
    factors = posterior.mean if noise is None else posterior.mean + posterior.deviate(noise)
    return Scan(factors, ahead, level, posterior), prior.advance(state, factors, context)


def _loop(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
) -> tuple[Scan, State]:
    """Month after month; also the states before each month."""
    precisions, shifts = potential.precision.unbind(-3), potential.shift.unbind(-2)
    noises = [None] * len(shifts) if noise is None else noise.unbind(-2)
    contexts = [None] * len(shifts) if context is None else context.unbind(-2)
    months, states = [], []
    for precision, shift, eps, moment in zip(precisions, shifts, noises, contexts, strict=True):
        states.append(state)
        month, state = _month(prior, Potential(precision, shift), moment, state, eps)
        months.append(month)
    fields = zip(*(_fields(month) for month in months), strict=True)
    stacked = [
        _stack(field, -1 - dims) for field, dims in zip(fields, _event_dims(months[0]), strict=True)
    ]
    return _like(months[0], stacked), tuple(_stack(s, -2) for s in zip(*states, strict=True))


def _fields(walk: Scan) -> tuple[Tensor, ...]:
    level = () if walk.level is None else (walk.level,)
    return (walk.factors, *walk.prior, *walk.posterior, *level)


def _event_dims(walk: Scan) -> tuple[int, ...]:
    level = () if walk.level is None else (0,)
    return (1, *walk.prior.event_dims, *walk.posterior.event_dims, *level)


def _like(walk: Scan, fields: Sequence[Tensor]) -> Scan:
    """Put fields back into the shape of a walk."""
    n_prior, n_posterior = len(walk.prior), len(walk.posterior)
    prior = type(walk.prior)(*fields[1 : 1 + n_prior])
    posterior = type(walk.posterior)(*fields[1 + n_prior : 1 + n_prior + n_posterior])
    return Scan(fields[0], prior, None if walk.level is None else fields[-1], posterior)


class AdjointChain(torch.autograd.Function):
    """Gradient of a chain whose months were computed at once, given the states between them.

    Forward, the fields of all months pass unchanged. Backward, the gradient with respect to the
    state before month t is the direct one plus ``J_t' g_{t+1}``, with ``J_t`` the Jacobian of
    the step, found for all months at once by one backward pass for every entry of the state; the
    adjoints then enter the months' own graph as gradients of the states after them.
    """

    @staticmethod
    def forward(ctx: Any, n_states: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Pass the fields through. ``tensors``: leaves, first states, states after, fields."""
        ctx.n_states = n_states
        ctx.leaves, ctx.after = tensors[:n_states], tensors[2 * n_states : 3 * n_states]
        ctx.fields = tensors[3 * n_states :]
        return tuple(field.view_as(field) for field in ctx.fields)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Walk the adjoints back in time."""
        leaves, after, n = ctx.leaves, ctx.after, ctx.n_states

        def pull(outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Tensor:
            pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
            if not pairs:
                return torch.cat([torch.zeros_like(leaf) for leaf in leaves], -1)
            pulled = torch.autograd.grad(
                [output for output, _ in pairs],
                leaves,
                [cotangent for _, cotangent in pairs],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            return torch.cat(pulled, -1)

        with torch.enable_grad():
            direct = pull(ctx.fields, grads)
            sizes = [s.shape[-1] for s in after]
            jacobian = _jacobian(after, leaves)
        adjoint = [direct[..., -1, :]]
        for t in range(direct.shape[-2] - 2, -1, -1):
            carried = (adjoint[-1].unsqueeze(-2) @ jacobian[..., t, :, :]).squeeze(-2)
            adjoint.append(direct[..., t, :] + carried)
        total = torch.stack(adjoint[::-1], -2)
        end = torch.zeros_like(total[..., :1, :])
        onward = torch.cat([total[..., 1:, :], end], -2).split(sizes, -1)
        first = total[..., 0, :].split(sizes, -1)
        return (None, *([None] * n), *first, *onward, *grads)


def at_level(potential: Potential, level: Tensor | None) -> Potential:
    """Potential of a month whose idiosyncratic scales are multiplied by ``exp(level)``."""
    if level is None:
        return potential
    shrink = torch.exp(-2.0 * level)
    return Potential(
        potential.precision * shrink[..., None, None], potential.shift * shrink[..., None]
    )


def _stack(tensors: Any, dim: int) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*tensors), dim)


def _jacobian(after: State, before: State) -> Tensor:
    """Return derivatives (..., entry after, entry before) of every month's step at once."""
    flat = torch.cat(after, -1)
    size = flat.shape[-1]
    basis = torch.eye(size, dtype=flat.dtype, device=flat.device)
    basis = basis.reshape(size, *[1] * (flat.ndim - 1), size).expand(size, *flat.shape)
    if not flat.requires_grad:
        return torch.zeros(*flat.shape, size, dtype=flat.dtype, device=flat.device)
    rows = torch.autograd.grad(
        flat,
        before,
        basis,
        retain_graph=True,
        is_grads_batched=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat(rows, -1).movedim(0, -2)


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
        return (
            self.prior.transition(before, self.context),
            self.prior.level(before, self.context),
        )


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
