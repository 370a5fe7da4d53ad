"""Months walked all at once against months walked one by one."""

from __future__ import annotations

import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.models import scan as walks
from rvrae_pyro.nn.gaussian import Potential
from rvrae_pyro.nn.sequences import together

K, LONG = 2, 60

PRIORS = {
    "recurrent": lambda: rv.priors.Recurrent(K, hidden=4, n_context=3),
    "heavy": lambda: rv.priors.Recurrent(K, hidden=4, n_context=3, innovation="student_t"),
    "plain": lambda: rv.priors.Recurrent(K, hidden=4, n_context=3, skip=False),
    "ar1": lambda: rv.priors.AR1(K),
    "regimes": lambda: rv.priors.RegimeSwitching(K),
}


def setting(name, strength, seed=0, n_times=LONG):
    """A prior with weights in its way, potentials of some strength, noise and context."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    prior = PRIORS[name]().double()
    with torch.no_grad():
        for weight in prior.parameters():
            weight.add_(0.3 * draw(*weight.shape))
    root = strength * draw(n_times, K, 8) / 8**0.5
    potential = Potential(root @ root.mT, 3.0 * strength * draw(n_times, K))
    context = prior.encode(draw(n_times, 3)) if prior.n_context else None
    return prior, potential, context, draw(n_times, K)


def months(prior, potential, context, noise):
    return walks._Months(prior, potential, context, noise)


def slopes(walk, potential, prior):
    """Derivatives of a sum in which every field of the walk has a part of its own."""
    rng = torch.Generator().manual_seed(1)
    fields = [f for f in walks._fields(walk) if f.requires_grad]
    total = sum((f * torch.randn(f.shape, generator=rng, dtype=f.dtype)).sum() for f in fields)
    wanted = [*potential, *(w for w in prior.parameters() if w.requires_grad)]
    return torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("driven", ["by draws", "by means"])
@pytest.mark.parametrize("strength", [10.0, 1.0, 0.1])
@pytest.mark.parametrize("name", PRIORS)
def test_values_and_gradients_are_those_of_the_loop(name, strength, driven):
    prior, potential, context, noise = setting(name, strength)
    noise = noise if driven == "by draws" else None
    context = None if context is None else context.detach()
    potential = Potential(*(each.requires_grad_() for each in potential))
    state = prior.initial()
    loop, _ = walks._loop(months(prior, potential, context, noise), state)
    together = walks.scan(prior, potential, context, state, noise)
    for field, other in zip(walks._fields(together), walks._fields(loop), strict=True):
        torch.testing.assert_close(field, other, rtol=1e-9, atol=1e-11)
    found = slopes(together, potential, prior)
    for slope, other in zip(found, slopes(loop, potential, prior), strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-7, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("strength", [10.0, 1e-4])
@pytest.mark.parametrize("name", PRIORS)
def test_without_gradient_months_are_walked_together_only_where_told(monkeypatch, name, strength):
    prior, potential, context, noise = setting(name, strength)
    calls, loop = [], walks._loop
    monkeypatch.setattr(walks, "_loop", lambda *args: calls.append(1) or loop(*args))
    with torch.no_grad():
        given = prior, potential, context, prior.initial(), noise
        apart = walks.scan(*given)
        expected = loop(months(prior, potential, context, noise), prior.initial())[0]
        assert calls == [1]
        with together():
            found = walks.scan(*given)
    if strength > 1.0 and name != "regimes":  # which has no way through all months at once
        assert calls == [1]
    for field, same, other in zip(*map(walks._fields, (apart, expected, found)), strict=True):
        assert torch.equal(field, same)
        torch.testing.assert_close(other, field, rtol=1e-9, atol=1e-11)


def test_a_subclass_with_its_own_transition_is_heard():
    class Calm(rv.priors.Recurrent):
        def transition(self, state, context):
            ahead = super().transition(state, context)
            return rv.priors.Gaussian(ahead.loc, 0.5 * ahead.scale)

    prior, potential, context, _ = setting("recurrent", 1.0)
    calm = Calm(K, hidden=4, n_context=3).double()
    calm.load_state_dict(prior.state_dict())
    given = potential, context, prior.initial(), None
    with torch.no_grad():
        found, plain = walks.scan(calm, *given), walks.scan(prior, *given)
    torch.testing.assert_close(found.prior.scale[0], 0.5 * plain.prior.scale[0])
    assert torch.equal(found.level[:1], plain.level[:1])


def test_strong_returns_need_few_passes_and_states_agree_to_rounding(monkeypatch):
    prior, potential, context, noise = setting("recurrent", 10.0)
    passes = []
    meet = walks._Months.meet
    monkeypatch.setattr(walks._Months, "meet", lambda *args: passes.append(1) or meet(*args))
    with torch.no_grad():
        before = walks._relax(months(prior, potential, context, noise), prior.initial())
        n_passes = len(passes)
        _, expected = walks._loop(months(prior, potential, context, noise), prior.initial())
    assert before is not None
    assert n_passes <= 20
    for states, other in zip(before, expected, strict=True):
        torch.testing.assert_close(states, other, rtol=0, atol=1e-12)


def test_a_path_that_only_its_past_knows_is_left_to_the_loop():
    prior, potential, context, noise = setting("ar1", 1e-4)
    with torch.no_grad():
        prior.unbounded_coefficient.fill_(3.0)
        assert walks._relax(months(prior, potential, context, noise), prior.initial()) is None


def test_returns_that_are_not_finite_are_left_to_the_loop():
    prior, potential, context, noise = setting("recurrent", 1.0)
    potential.shift[5] = torch.nan
    with torch.no_grad():
        assert walks._relax(months(prior, potential, context, noise), prior.initial()) is None


@pytest.mark.parametrize(
    ("n_times", "hidden", "n_particles", "at_once"),
    [(5, 4, 1, False), (6, 4, 1, True), (60, 4, 1, True), (6, 90, 1, False), (6, 20, 90, False)],
    ids=["few months", "enough", "many", "a wide state", "many particles"],
)
def test_months_are_walked_at_once_where_that_is_cheaper(
    monkeypatch, n_times, hidden, n_particles, at_once
):
    prior = rv.priors.Recurrent(K, hidden=hidden).double()
    one = torch.eye(K, dtype=torch.float64)
    potential = Potential(100.0 * one.expand(n_times, K, K), one[:1].expand(n_times, K))
    noise = torch.zeros(n_particles, n_times, K, dtype=torch.float64)
    calls, relax = [], walks._relax
    monkeypatch.setattr(walks, "_relax", lambda *args: calls.append(1) or relax(*args))
    walks.scan(prior, potential, None, prior.initial(), noise)
    assert bool(calls) == at_once
