"""The conjugate guide of a heavy-tailed month against quadrature and against NUTS."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, fixed_loadings, random_panel, raw_batch, stir

N_ASSETS = 60


def heavy_tailed_month(seed: int) -> tuple[rv.RVRAE, Batch]:
    """One month of Student-t returns with four degrees of freedom and two factors."""
    g = torch.Generator().manual_seed(seed)
    beta = torch.randn(1, N_ASSETS, 2, generator=g, dtype=torch.float64)
    factors = torch.randn(2, generator=g, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        returns = dist.StudentT(4.0, beta @ factors, 1.0).sample()
    seen = torch.rand(1, N_ASSETS, generator=g) > 0.05
    batch = raw_batch(returns.numpy(), beta.numpy(), seen.numpy())
    model = rv.RVRAE(
        2,
        2,
        loadings=fixed_loadings(2),
        factor_prior=rv.priors.StandardNormal(2),
        likelihood=rv.likelihoods.StudentT(df=4.0, learn_df=False),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        model.likelihood.scale.log_scale.fill_(0.0)
    for weight in model.parts.parameters():
        weight.requires_grad_(False)
    return model, batch


def guide_moments(model: rv.RVRAE, batch: Batch) -> tuple[Tensor, Tensor]:
    potential = model.parts.cross_section(batch).potential
    prior = model.factor_prior.transition(model.factor_prior.initial(), None)
    posterior = prior.update(potential)
    return posterior.mean[0], posterior.covariance()[0].diagonal().sqrt()


def quadrature_moments(model: rv.RVRAE, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Exact means and deviations by summing the joint density over a fine grid; and the grid's."""
    mean, sd = guide_moments(model, batch)
    axis = torch.linspace(-8.0, 8.0, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(mean[0] + sd[0] * axis, mean[1] + sd[1] * axis)
    seen = batch.observed[0]
    loc = grid @ batch.characteristics[0, seen].T
    log_joint = dist.StudentT(4.0, loc, 1.0).log_prob(batch.returns[0, seen]).sum(-1)
    log_joint = log_joint + dist.Normal(0.0, 1.0).log_prob(grid).sum(-1)
    weight = torch.softmax(log_joint, 0).unsqueeze(-1)
    exact = (weight * grid).sum(0)
    cell = math.log((sd * 16.0 / 200).prod().item())
    return exact, (weight * (grid - exact) ** 2).sum(0).sqrt(), log_joint.logsumexp(0) + cell


@pytest.mark.parametrize("seed", range(6))
def test_guide_of_a_heavy_tailed_month_by_quadrature(seed: int) -> None:
    """Means within 3 % of a posterior deviation, deviations within 3 %, averaged over months."""
    model, batch = heavy_tailed_month(seed)
    mean, sd = guide_moments(model, batch)
    exact_mean, exact_sd, _ = quadrature_moments(model, batch)
    assert ((mean - exact_mean) / exact_sd).abs().max() < 0.03
    assert (sd / exact_sd - 1).abs().max() < 0.03


def test_average_bound_is_close_to_the_evidence_by_quadrature() -> None:
    """What the guide leaves on the table in such a month is a hundredth of a nat."""
    model, batch = heavy_tailed_month(1)
    _, _, evidence = quadrature_moments(model, batch)
    bound = -pyro.infer.Trace_ELBO(
        num_particles=4000, vectorize_particles=True, max_plate_nesting=2
    ).loss(model.model, model.guide, batch)
    assert 0.0 < evidence.item() - bound < 0.05


def run_nuts(
    model: rv.RVRAE, batch: Batch, warmup: int, draws: int, *, compiled: bool = False
) -> Tensor:
    kernel = NUTS(model.model, jit_compile=compiled, ignore_jit_warnings=compiled, max_tree_depth=4)
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
    mcmc.run(batch)
    return mcmc.get_samples()["factors"]


def test_nuts_runs_on_the_month() -> None:
    """A short chain: means within half a posterior deviation (about 4 standard errors)."""
    model, batch = heavy_tailed_month(0)
    pyro.set_rng_seed(0)
    drawn = run_nuts(model, batch, 30, 120)
    assert drawn.shape == (120, 1, 1, 2)
    exact, sd, _ = quadrature_moments(model, batch)
    assert ((drawn.mean((0, 1, 2)) - exact) / sd).abs().max() < 0.5


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.filterwarnings("ignore")
def test_guide_of_a_heavy_tailed_month_against_nuts() -> None:
    """Within 3 % of a posterior deviation in mean, 3 % in deviation.

    12,000 draws have errors of about 1.1 % and 0.8 %, so that one seed in some fifty fails; the
    seed is fixed.
    """
    model, batch = heavy_tailed_month(0)
    pyro.set_rng_seed(1)
    drawn = run_nuts(model, batch, 500, 12_000, compiled=True).reshape(-1, 2)
    mean, sd = guide_moments(model, batch)
    assert ((mean - drawn.mean(0)) / drawn.std(0)).abs().max() < 0.03
    assert (sd / drawn.std(0) - 1).abs().max() < 0.03


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nuts_runs_on_the_whole_default_pair() -> None:
    """All months, recurrent prior, entry and exit: a few steps, finite and accepted."""
    model = stir(rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K, hidden=3)).double(), size=0.1)
    for weight in model.parts.parameters():
        weight.requires_grad_(False)
    batch = double(random_panel(5, 8, empty_months=[2]))
    pyro.set_rng_seed(0)
    drawn = run_nuts(model, batch, 5, 5)
    assert drawn.shape == (5, 5, 1, K)
    assert bool(torch.isfinite(drawn).all())
    assert (drawn.std(0) > 0).all()
