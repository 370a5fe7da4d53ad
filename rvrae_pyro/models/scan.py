"""The pass through the months in which a factor prior meets the months' returns.

Month t's prior needs the state that the months before it left. Without gradient the pass is a
loop, so that no bit of a month depends on how many follow it. With gradient, or where a caller
gives up those bits (:func:`~rvrae_pyro.nn.sequences.together`), long panels are computed all
months at once, again and again, until the path and the states it drives agree; a gradient then
runs through one more pass and a chain of adjoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.data.batch import State
from rvrae_pyro.models.priors import FactorPrior, Transition
from rvrae_pyro.models.priors.base import Updated
from rvrae_pyro.nn.gaussian import Dispersion, Potential
from rvrae_pyro.nn.sequences import months_apart


class AuxiliaryScan(NamedTuple):
    """The part of a filter pass that is the prior's auxiliary latent.

    Attributes
    ----------
    values : Tensor of shape (*batch, n_times, size)
        Drawn, or given.
    prior : Transition
        p(x_t | x_{t-1}) along the pass.
    posterior : Updated
        Proposal of x_t given the past and the month's cross-section.
    """

    values: Tensor
    prior: Transition
    posterior: Updated


class Scan(NamedTuple):
    """A pass through the months in which prior and returns meet.

    Attributes
    ----------
    factors : Tensor of shape (*batch, n_times, n_factors)
        Draws, or posterior means; they drive the prior's state.
    prior : Transition
        p(z_t | h_{t-1}) along the pass, each (*batch, n_times, n_factors).
    level : Tensor of shape (*batch, n_times) or None
        Log multiplier of the idiosyncratic scales.
    posterior : Updated
        q(z_t | h_{t-1}, r_t) along the pass.
    auxiliary : AuxiliaryScan or None
        The same for the prior's auxiliary latent, if it is drawn along.
    """

    factors: Tensor
    prior: Transition
    level: Tensor | None
    posterior: Updated
    auxiliary: AuxiliaryScan | None = None


@dataclass(frozen=True)
class Auxiliary:
    """The prior's auxiliary latent, to be drawn month by month together with the factors.

    Attributes
    ----------
    context : Tensor of shape (*batch or fewer, n_times, n_features) or None
        Context of the latent's own prior, as its ``encode`` left it.
    state : tuple of Tensor
        Its state before the first month.
    noise : Tensor of shape (*batch, n_times, size) or None
        Standard normal.
    values : Tensor of shape (*batch, n_times, size) or None
        Values to evaluate instead of drawing them.
    """

    context: Tensor | None
    state: State
    noise: Tensor | None = None
    values: Tensor | None = None


def scan(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    noise: Tensor | None,
    dispersion: Dispersion | None = None,
    auxiliary: Auxiliary | None = None,
) -> Scan:
    """Pass through the months, conditioning each month's prior on its potential.

    Parameters
    ----------
    prior : FactorPrior
    potential : Potential
        Quadratic log-likelihood of every month, batch shape (*batch, n_times), at level 0 or at
        the level of ``dispersion``.
    context : Tensor of shape (*batch or fewer, n_times, n_features) or None
        As the prior's ``encode`` left it; with the auxiliary latent's values where the prior has
        one that is not drawn along.
    state : tuple of Tensor
        State before the first month.
    noise : Tensor of shape (*batch, n_times, n_factors) or None
        Standard normal; the state is driven by ``mean + deviate(noise)``. None drives it by the
        posterior means: the paper's eq. (12), made free of the number of assets.
    dispersion : Dispersion, optional
        What each month's returns tell of the common idiosyncratic scale.
    auxiliary : Auxiliary, optional
        The prior's auxiliary latent: each month's value is drawn before the month's factors,
        given all earlier values and factors.

    Returns
    -------
    Scan
        Month t of it depends on returns up to t only. Costs O(n_times n_factors^3).
    """
    months = _Months(prior, potential, context, noise, dispersion, auxiliary)
    states = state if auxiliary is None else (*state, *auxiliary.state)
    differentiable = torch.is_grad_enabled()
    n_times = potential.shift.shape[-2]
    if differentiable:
        by_month = n_times < _FEW or _wide(potential, states, noise)
    else:
        by_month = n_times <= _PASSES
    if by_month or months_apart():
        return _loop(months, states)[0]
    if not differentiable:
        before = _relax(months, states)
        return _loop(months, states)[0] if before is None else months.meet(before)
    with torch.no_grad():
        before = _relax(months, states)
        if before is None:
            _, before = _loop(months, states)
    leaves = tuple(s.detach().requires_grad_() for s in before)
    walk = months.meet(leaves)
    # the step of the state depends on a copy, so that its derivatives by state and path are two
    path = _path(walk).detach().requires_grad_()
    after = months.advance(leaves, path)
    batch = path.shape[:-2]
    first = tuple(s.expand(*batch, s.shape[-1]) for s in states)
    linked = AdjointChain.apply(  # type: ignore[no-untyped-call]
        path, len(states), *leaves, *first, *after, _path(walk), *_fields(walk)
    )
    return _like(walk, linked[1:])


def auxiliary_along(
    prior: FactorPrior,
    potential: Potential,
    context: Tensor | None,
    state: State,
    dispersion: Dispersion | None,
    auxiliary: Auxiliary,
    factors: Tensor,
) -> AuxiliaryScan:
    """Prior and proposal of given values of the auxiliary latent along given factors.

    Arguments as for :func:`scan`; ``auxiliary`` has the values, ``factors`` is of shape (*batch,
    n_times, n_factors).
    """
    months = _Months(prior, potential, context, None, dispersion, auxiliary)
    assert auxiliary.values is not None
    states = months.unroll(_join(auxiliary.values, factors), (*state, *auxiliary.state))
    found = months.meet(tuple(s[..., :-1, :] for s in states)).auxiliary
    assert found is not None
    return found


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


def _relax(months: _Months, state: State) -> State | None:
    """States before every month from a path that no longer changes; None if that takes long.

    Waveform relaxation: the states that a path drives give the next path, all months at once.
    Month t is right after t passes at the latest, and far sooner where its returns say more of
    its factors than its past does: each pass shrinks the error by the prior's share in the
    posterior, so that a thousand assets take four.
    """
    if months.loops:
        return None
    n_times = months.potential.shift.shape[-2]
    before = tuple(s.unsqueeze(-2).expand(*s.shape[:-1], n_times, s.shape[-1]) for s in state)
    path = _path(months.meet(before))
    unit, last = _ROUNDING * torch.finfo(path.dtype).eps, math.inf
    for n_passes in range(_PASSES):
        before = tuple(s[..., :-1, :] for s in months.unroll(path, state))
        known, path = path, _path(months.meet(before))
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


@dataclass(frozen=True)
class _Months:
    """Prior and inputs of some months, or of one; the states are those of both latents in turn.

    The one place in which a month is drawn: auxiliary latent, then the factors' prior given it,
    then the factors given the month's returns.
    """

    prior: FactorPrior
    potential: Potential
    context: Tensor | None
    noise: Tensor | None
    dispersion: Dispersion | None = None
    auxiliary: Auxiliary | None = None

    @property
    def loops(self) -> bool:
        """Whether unrolling a path would loop through the months itself."""
        priors = [self.prior]
        if self.auxiliary is not None and self.prior.auxiliary is not None:
            priors.append(self.prior.auxiliary)
        return any(type(each).unroll is FactorPrior.unroll for each in priors)

    def unbind(self) -> Iterator[_Months]:
        """Yield one month after another."""
        n_times = self.potential.shift.shape[-2]

        def each(tensor: Tensor | None, dim: int) -> Sequence[Tensor | None]:
            return [None] * n_times if tensor is None else tensor.unbind(dim)

        contexts, noises = each(self.context, -2), each(self.noise, -2)
        dispersions: Sequence[Dispersion | None] = [None] * n_times
        if self.dispersion is not None:
            parts = (field.unbind(-1) for field in self.dispersion)
            dispersions = [Dispersion(*month) for month in zip(*parts, strict=True)]
        auxiliaries: Sequence[Auxiliary | None] = [None] * n_times
        if self.auxiliary is not None:
            own = self.auxiliary
            inputs = zip(
                each(own.context, -2), each(own.noise, -2), each(own.values, -2), strict=True
            )
            auxiliaries = [Auxiliary(context, (), *rest) for context, *rest in inputs]
        potentials = zip(
            self.potential.precision.unbind(-3), self.potential.shift.unbind(-2), strict=True
        )
        for potential, context, noise, dispersion, auxiliary in zip(
            potentials, contexts, noises, dispersions, auxiliaries, strict=True
        ):
            yield _Months(self.prior, Potential(*potential), context, noise, dispersion, auxiliary)

    def meet(self, states: State) -> Scan:
        """Draw the months given the states before each of them."""
        state, context, drawn = states, self.context, None
        if self.auxiliary is not None:
            state, of_latent = self._split(states)
            drawn = self._draw_auxiliary(state, of_latent)
            context = self.prior.drive(context, drawn.values)
        ahead, level = self.prior.ahead(state, context)
        posterior = ahead.update(self.at(level))
        factors = posterior.mean
        if self.noise is not None:
            factors = factors + posterior.deviate(self.noise)
        return Scan(factors, ahead, level, posterior, drawn)

    def _draw_auxiliary(self, state: State, of_latent: State) -> AuxiliaryScan:
        own, latent = self.auxiliary, self.prior.auxiliary
        assert own is not None
        assert latent is not None
        ahead = latent.transition(of_latent, own.context)
        posterior = self.prior.propose_auxiliary(
            ahead, state, self.context, self.potential, self.dispersion
        )
        if own.values is not None:
            return AuxiliaryScan(own.values, ahead, posterior)
        assert own.noise is not None
        return AuxiliaryScan(posterior.mean + posterior.deviate(own.noise), ahead, posterior)

    def at(self, level: Tensor | None) -> Potential:
        """Potential at a level of the idiosyncratic scales."""
        return at_level(self.potential, level, self.dispersion)

    def advance(self, states: State, path: Tensor) -> State:
        """States after the months, given what was drawn in them."""
        if self.auxiliary is None:
            return self.prior.advance(states, path, self.context)
        state, of_latent = self._split(states)
        values, factors = self._parts(path)
        context, latent = self.prior.drive(self.context, values), self.prior.auxiliary
        assert latent is not None
        after = self.prior.advance(state, factors, context)
        return (*after, *latent.advance(of_latent, values, self.auxiliary.context))

    def unroll(self, path: Tensor, states: State) -> State:
        """States before each month of a path, and after its last."""
        if self.auxiliary is None:
            return self.prior.unroll(path, self.context, states)
        state, of_latent = self._split(states)
        values, factors = self._parts(path)
        context, latent = self.prior.drive(self.context, values), self.prior.auxiliary
        assert latent is not None
        along = self.prior.unroll(factors, context, state)
        return (*along, *latent.unroll(values, self.auxiliary.context, of_latent))

    def _split(self, states: State) -> tuple[State, State]:
        latent = self.prior.auxiliary
        assert latent is not None
        n_own = len(latent.initial())
        return states[:-n_own], states[-n_own:]

    def _parts(self, path: Tensor) -> tuple[Tensor, Tensor]:
        n_factors = self.prior.n_factors
        return path[..., :-n_factors], path[..., -n_factors:]


def _loop(months: _Months, state: State) -> tuple[Scan, State]:
    """Month after month; also the states before each month."""
    found, states = [], []
    for month in months.unbind():
        states.append(state)
        walk = month.meet(state)
        state = month.advance(state, _path(walk))
        found.append(walk)
    fields = zip(*(_fields(walk) for walk in found), strict=True)
    stacked = [
        _stack(field, -1 - dims) for field, dims in zip(fields, _event_dims(found[0]), strict=True)
    ]
    return _like(found[0], stacked), tuple(_stack(s, -2) for s in zip(*states, strict=True))


def _path(walk: Scan) -> Tensor:
    """All that was drawn and drives the states: the auxiliary latent, then the factors."""
    if walk.auxiliary is None:
        return walk.factors
    return _join(walk.auxiliary.values, walk.factors)


def _join(values: Tensor, factors: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(values.shape[:-1], factors.shape[:-1])
    both = (values.expand(*batch, values.shape[-1]), factors.expand(*batch, factors.shape[-1]))
    return torch.cat(both, -1)


def _fields(walk: Scan) -> tuple[Tensor, ...]:
    level = () if walk.level is None else (walk.level,)
    own: tuple[Tensor, ...] = ()
    if walk.auxiliary is not None:
        own = (walk.auxiliary.values, *walk.auxiliary.prior, *walk.auxiliary.posterior)
    return (walk.factors, *walk.prior, *walk.posterior, *level, *own)


def _event_dims(walk: Scan) -> tuple[int, ...]:
    level = () if walk.level is None else (0,)
    own: tuple[int, ...] = ()
    if walk.auxiliary is not None:
        prior, posterior = walk.auxiliary.prior, walk.auxiliary.posterior
        own = (1, *prior.event_dims, *posterior.event_dims)
    return (1, *walk.prior.event_dims, *walk.posterior.event_dims, *level, *own)


def _like(walk: Scan, fields: Sequence[Tensor]) -> Scan:
    """Put fields back into the shape of a pass."""
    left = iter(fields)

    def take(like: Any) -> Any:
        return type(like)(*(next(left) for _ in like))

    factors = next(left)
    prior, posterior = take(walk.prior), take(walk.posterior)
    level = None if walk.level is None else next(left)
    own = walk.auxiliary
    if own is not None:
        own = AuxiliaryScan(next(left), take(own.prior), take(own.posterior))
    return Scan(factors, prior, level, posterior, own)


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
        # a view of a field without gradient would give its base one
        return tuple(f.view_as(f) if f.requires_grad else f.clone() for f in ctx.fields)

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


def at_level(
    potential: Potential, level: Tensor | None, dispersion: Dispersion | None = None
) -> Potential:
    """Potential of a month whose idiosyncratic scales are multiplied by ``exp(level)``.

    Parameters
    ----------
    potential : Potential
        At level 0, or at the level of ``dispersion``.
    level : Tensor of shape (*batch,) or None
        None for 0.
    dispersion : Dispersion, optional
    """
    if dispersion is not None:
        level = -dispersion.level if level is None else level - dispersion.level
    if level is None:
        return potential
    shrink = torch.exp(-2.0 * level)
    return Potential(
        potential.precision * shrink[..., None, None], potential.shift * shrink[..., None]
    )


def _stack(tensors: Any, dim: int) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*tensors), dim)
