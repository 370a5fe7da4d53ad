"""The walk through the months in which a factor prior meets the months' returns.

Month t's prior needs the state that the months before it left. Without gradient the walk is a
loop, so that no bit of a month hangs on how many follow it. With gradient, or where a caller lets
go of those bits (:func:`~rvrae_pyro.nn.sequences.together`), long panels are walked all months at
once, over and over, until the path and the states it drives agree; a gradient then runs through
one more pass and a chain of adjoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors import FactorPrior, Transition
from rvrae_pyro.nn.flows import WarpedPosterior
from rvrae_pyro.nn.gaussian import Posterior, Potential
from rvrae_pyro.nn.sequences import months_apart
from rvrae_pyro.nn.transitions import StudentTPosterior

__all__ = ["Scan", "Updated", "at_level", "scan"]

Updated = Posterior | StudentTPosterior | WarpedPosterior
"""Distribution of a month's factors given the state before it and the month's returns."""


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
    differentiable = torch.is_grad_enabled()
    n_times = potential.shift.shape[-2]
    if differentiable:
        by_month = n_times < _FEW or _wide(potential, state, noise)
    else:
        by_month = n_times <= _PASSES
    if by_month or months_apart():
        return _loop(prior, potential, context, state, noise)[0]
    if not differentiable:
        before = _relax(prior, potential, context, state, noise)
        if before is None:
            return _loop(prior, potential, context, state, noise)[0]
        return _meet(prior, potential, context, before, noise)
    with torch.no_grad():
        before = _relax(prior, potential, context, state, noise)
        if before is None:
            _, before = _loop(prior, potential, context, state, noise)
    leaves = tuple(s.detach().requires_grad_() for s in before)
    walk = _meet(prior, potential, context, leaves, noise)
    # the step of the state hangs on a copy, so that its derivatives by state and factors are two
    factors = walk.factors.detach().requires_grad_()
    after = prior.advance(leaves, factors, context)
    batch = walk.factors.shape[:-2]
    first = tuple(s.expand(*batch, s.shape[-1]) for s in state)
    linked = AdjointChain.apply(  # type: ignore[no-untyped-call]
        factors, len(state), *leaves, *first, *after, *_fields(walk)
    )
    return _like(walk, linked)


# With gradient, months at once cost about as much as five in a loop, and then less for each
# further one as long as the Jacobians of a month's state are small: measured, both ways cost the
# same where particles x entries of the state cubed are half a million to a million.
_FEW, _WIDE = 6, 2**19


def _wide(potential: Potential, state: State, noise: Tensor | None) -> bool:
    """Whether a month's Jacobians, one for each particle, are dearer than its step in a loop."""
    size, batch = sum(s.shape[-1] for s in state), potential.shift.shape[:-2]
    if noise is not None:
        batch = torch.broadcast_shapes(batch, noise.shape[:-2])
    return math.prod(batch) * size**3 > _WIDE


# Passes over all months that are worth a loop through them, and the change of a factor, in units
# of rounding, that ends them.
_PASSES, _ROUNDING = 24, 16.0


def _relax(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
) -> State | None:
    """States before every month from a path that no longer changes; None if that takes long.

    Waveform relaxation: the states that a path drives give the next path, all months at once.
    Month t is right after t passes at the latest, and far sooner where its returns say more of
    its factors than its past does: each pass shrinks the error by the prior's share in the
    posterior, so that a thousand assets take four.
    """
    if type(prior).unroll is FactorPrior.unroll:
        return None  # it would loop through the months itself
    n_times = potential.shift.shape[-2]
    before = tuple(s.unsqueeze(-2).expand(*s.shape[:-1], n_times, s.shape[-1]) for s in state)
    path = _meet(prior, potential, context, before, noise).factors
    unit, last = _ROUNDING * torch.finfo(path.dtype).eps, math.inf
    for n_passes in range(_PASSES):
        before = tuple(s[..., :-1, :] for s in prior.unroll(path, context, state))
        known, path = path, _meet(prior, potential, context, before, noise).factors
        change = float(((path - known).abs() / (1.0 + path.abs())).max()) / unit
        # a change that no longer falls is rounding, if it is small
        if change <= 1.0 or last <= change <= _ROUNDING:
            return before
        # with half of the passes, half of the digits should be there
        slow = n_passes == _PASSES // 2 and change > unit**-0.5
        if slow or not math.isfinite(change):
            return None
        last = change
    return None


def _meet(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
) -> Scan:
    """One month's prior and returns, or those of many at once given the state before each."""
    ahead, level = prior.ahead(state, context)
    posterior = ahead.update(at_level(potential, level))
    factors = posterior.mean if noise is None else posterior.mean + posterior.deviate(noise)
    return Scan(factors, ahead, level, posterior)


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
        month = _meet(prior, Potential(precision, shift), moment, state, eps)
        state = prior.advance(state, month.factors, moment)
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
    the step, found for all months at once; the adjoints then enter the months' own graph as
    gradients of the states after them, and of the factors that moved these.
    """

    @staticmethod
    def forward(ctx: Any, factors: Tensor, n_states: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Pass the fields through, the factors first of them.

        ``factors``: what the states after were advanced by, a leaf. ``tensors``: states before,
        which are leaves, first states, states after, fields.
        """
        ctx.factors = factors
        ctx.leaves, ctx.after = tensors[:n_states], tensors[2 * n_states : 3 * n_states]
        ctx.fields = tensors[3 * n_states :]
        return tuple(field.view_as(field) for field in ctx.fields)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Walk the adjoints back in time."""
        leaves, after = ctx.leaves, ctx.after
        sizes = [s.shape[-1] for s in after]
        with torch.enable_grad():
            direct = _pull(ctx.fields, leaves, grads)
            by_all = _derivatives(torch.cat(after, -1), (*leaves, ctx.factors))
            by_state, by_factors = by_all.split([sum(sizes), ctx.factors.shape[-1]], -1)
            through = _derivatives(ctx.fields[0], leaves)
        jacobian = by_state + by_factors @ through
        adjoint = [direct[..., -1, :]]
        steps = zip(direct.unbind(-2)[-2::-1], jacobian.unbind(-3)[-2::-1], strict=True)
        for own, step in steps:
            adjoint.append(own + (adjoint[-1].unsqueeze(-2) @ step).squeeze(-2))
        total = torch.stack(adjoint[::-1], -2)
        onward = torch.cat([total[..., 1:, :], torch.zeros_like(total[..., :1, :])], -2)
        moved = (onward.unsqueeze(-2) @ by_factors).squeeze(-2)
        first = total[..., 0, :].split(sizes, -1)
        nothing = [None] * (2 + len(leaves))
        return (*nothing, *first, *onward.split(sizes, -1), grads[0] + moved, *grads[1:])


def _pull(outputs: Sequence[Tensor], inputs: State, cotangents: Sequence[Tensor]) -> Tensor:
    """Carry cotangents back to inputs, side by side."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return torch.cat([torch.zeros_like(each) for each in inputs], -1)
    pulled = torch.autograd.grad(
        [output for output, _ in pairs],
        inputs,
        [cotangent for _, cotangent in pairs],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat(pulled, -1)


def _derivatives(output: Tensor, inputs: State) -> Tensor:
    """Compute derivatives (..., entry of output, entry of inputs) of every month at once."""
    size = output.shape[-1]
    if not output.requires_grad:
        return output.new_zeros(*output.shape, sum(each.shape[-1] for each in inputs))
    basis = torch.eye(size, dtype=output.dtype, device=output.device)
    basis = basis.reshape(size, *[1] * (output.ndim - 1), size).expand(size, *output.shape)
    rows = torch.autograd.grad(
        output, inputs, basis, retain_graph=True, is_grads_batched=True, allow_unused=True
    )
    known = [
        each.new_zeros(size, *each.shape) if row is None else row
        for each, row in zip(inputs, rows, strict=True)
    ]
    return torch.cat(known, -1).movedim(0, -2)


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
