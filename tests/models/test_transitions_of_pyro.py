"""Priors whose ``transition`` returns a distribution of Pyro: converted, and drawn from right."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import rvrae_pyro as rv
from rvrae_pyro.nn.transitions import from_pyro
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel

DF = 5.0


class Walk(rv.priors.FactorPrior):
    """Autoregression whose innovations are what ``make`` returns of mean and scale."""

    def __init__(self, n_factors: int, make: Callable[..., object], gaussian: bool = True) -> None:
        super().__init__()
        self.n_factors, self.make, self.gaussian = n_factors, make, gaussian
        self.log_scale = nn.Parameter(torch.linspace(-0.5, 0.2, n_factors))

    def initial(self) -> tuple[Tensor, ...]:
        return (torch.zeros_like(self.log_scale),)

    def transition(self, state: tuple[Tensor, ...], context: Tensor | None) -> object:
        return self.make(0.4 * state[0], self.log_scale.exp().expand_as(state[0]))

    def advance(
        self, state: tuple[Tensor, ...], factors: Tensor, context: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (factors,)


def joint_t(loc: Tensor, scale: Tensor) -> rv.priors.StudentT:
    return rv.priors.StudentT(loc, scale, torch.full_like(loc[..., 0], DF))


GAUSSIAN = {
    "Normal": dist.Normal,
    "Normal, one event": lambda loc, scale: dist.Normal(loc, scale).to_event(1),
    "MultivariateNormal": lambda loc, scale: dist.MultivariateNormal(
        loc, scale_tril=torch.diag_embed(scale)
    ),
}
HEAVY = {
    "StudentT": lambda loc, scale: dist.StudentT(torch.full_like(loc, DF), loc, scale),
    "StudentT, one event": lambda loc, scale: dist.StudentT(DF, loc, scale).to_event(1),
    "MultivariateStudentT": lambda loc, scale: dist.MultivariateStudentT(
        torch.full_like(loc[..., 0], DF), loc, torch.diag_embed(scale)
    ),
}
CASES = [(name, make, rv.priors.Gaussian, True) for name, make in GAUSSIAN.items()]
CASES += [(name, make, joint_t, False) for name, make in HEAVY.items()]


@pytest.mark.parametrize(("name", "make", "own", "gaussian"), CASES, ids=[c[0] for c in CASES])
def test_a_distribution_of_pyro_is_the_transition_it_names(
    name: str, make: Callable[..., object], own: Callable[..., object], gaussian: bool
) -> None:
    """Same bound and gradient as with the package's own transition, at the same draw."""
    batch, found = double(random_panel(8, 10)), []
    for each in (make, own):
        torch.manual_seed(0)
        model = rv.RVRAE(P, K, factor_prior=Walk(K, each, gaussian)).double()
        pyro.set_rng_seed(1)
        loss = Trace_ELBO().differentiable_loss(model.model, model.guide, batch)
        scale = model.factor_prior.log_scale
        found.append((loss, torch.autograd.grad(loss, scale)[0]))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    assert found[0][1].abs().min() > 0


@pytest.mark.parametrize("name", ["Normal", "StudentT"])
def test_such_priors_pass_the_checks_of_a_part(name: str) -> None:
    make, gaussian = {**GAUSSIAN, **HEAVY}[name], name in GAUSSIAN
    rv.testing.check_part("factor_prior", lambda: Walk(rv.testing.N_FACTORS, make, gaussian))


def test_noise_of_a_student_t_prior_is_student_t() -> None:
    """Second moment of t(5) is 5/3 and of a common shock; 4 standard errors of 200,000 draws."""
    prior = Walk(K, HEAVY["StudentT"], gaussian=False)
    torch.manual_seed(0)
    noise = prior.noise((200_000, K), torch.zeros(()))
    square = noise.square()
    error = square.std(0) / math.sqrt(len(noise))
    assert bool(((square.mean(0) - DF / (DF - 2)).abs() < 4 * error).all())
    # one shock for both factors: their squares move together, the factors do not
    assert float(torch.corrcoef(square.T.clamp(max=20))[0, 1]) > 0.1
    assert abs(float(torch.corrcoef(noise.T)[0, 1])) < 0.03
    gaussian = Walk(K, dist.Normal)
    assert gaussian.degrees_of_freedom is None


def test_other_distributions_are_refused() -> None:
    loc = torch.zeros(3, K)
    with pytest.raises(rv.ConfigError, match="got Laplace"):
        from_pyro(dist.Laplace(loc, 1.0).to_event(1))
    tril = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    with pytest.raises(rv.ConfigError, match="make the scale diagonal"):
        from_pyro(dist.MultivariateNormal(loc, scale_tril=tril))
    with pytest.raises(rv.ConfigError, match="`df` differs between factors"):
        from_pyro(dist.StudentT(torch.tensor([3.0, 4.0]), loc, 1.0))
    assert from_pyro(None) is None
