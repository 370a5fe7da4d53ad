"""The flow prior: its map, its density, and what conditioning makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

import rvrae_pyro as rv
from rvrae_pyro.models.registry import build_model, describe_model
from rvrae_pyro.nn.gaussian import Potential
from tests.helpers import double, fixed_loadings, random_panel, raw_batch, stir


def bent(k: int = 3, seed: int = 0) -> rv.priors.Warped:
    """Return a flow of two layers with every kind of bend."""
    prior = rv.priors.Flow(k, rv.priors.StandardNormal(k), n_layers=2).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.add_(0.4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    months = prior.transition((torch.zeros(5, k, dtype=torch.float64),), None)
    scale = torch.rand(5, k, generator=generator, dtype=torch.float64) + 0.5
    return months._replace(loc=months.loc + 0.3, scale=scale)


def test_map_inverse_and_jacobian_are_those_of_each_other() -> None:
    flow = bent()
    base = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow.pull(flow.push(base)), base)
    whole = torch.autograd.functional.jacobian(lambda e: flow.push(e), base)
    each = torch.stack([whole[t, :, t, :] for t in range(5)])
    torch.testing.assert_close(flow.jacobian(base), each)
    torch.testing.assert_close(flow.log_det(base), torch.linalg.slogdet(each)[1])


def test_density_integrates_to_one_and_is_that_of_its_draws() -> None:
    flow = bent(1)
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    one = rv.priors.Warped(*(field[0] for field in flow))
    density = one.log_prob(grid.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-6)
    draws = one.sample(
        torch.randn(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )
    at = torch.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    for edge in at:
        below = torch.trapezoid(density[grid <= edge], grid[grid <= edge]).item()
        # standard error 0.0016 at the most
        assert (draws < edge).double().mean().item() == pytest.approx(below, abs=0.007)


def test_no_return_gives_the_prior_itself() -> None:
    flow = bent()
    nothing = Potential(torch.zeros(5, 3, 3).double(), torch.zeros(5, 3).double())
    posterior = flow.update(nothing)
    z = flow.sample(torch.randn(5, 3, generator=torch.Generator().manual_seed(3)).double())
    torch.testing.assert_close(posterior.log_prob(z), flow.log_prob(z), rtol=1e-12, atol=1e-12)
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)).double()
    torch.testing.assert_close(posterior.mean + posterior.deviate(noise), flow.sample(noise))


def test_draws_know_their_own_density() -> None:
    flow = bent()
    rng = torch.Generator().manual_seed(5)
    root = torch.randn(5, 3, 6, generator=rng, dtype=torch.float64)
    potential = Potential(root @ root.mT, torch.randn(5, 3, generator=rng, dtype=torch.float64))
    noise = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    posterior = flow.update(potential)
    draw, log_q = flow.propose(potential, noise)
    torch.testing.assert_close(draw, posterior.mean + posterior.deviate(noise))
    torch.testing.assert_close(log_q, posterior.log_prob(draw))


def test_without_bends_the_update_is_exact() -> None:
    """A map of mixes alone is a Gaussian with correlation, which the update conditions exactly."""
    prior = rv.priors.Flow(2, rv.priors.StandardNormal(2), n_layers=2).double()
    with torch.no_grad():
        prior.ties.copy_(torch.tensor([[[0.0, 0.0], [0.7, 0.0]], [[0.0, -0.4], [0.0, 0.0]]]))
    flow = prior.transition((torch.zeros(2, dtype=torch.float64),), None)
    mix = flow.mixes[1] @ flow.mixes[0]
    precision = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0], dtype=torch.float64)
    posterior = flow.update(Potential(precision, shift))
    exact = torch.linalg.inv(torch.linalg.inv(mix @ mix.mT) + precision)
    torch.testing.assert_close(posterior.covariance(), exact)
    torch.testing.assert_close(posterior.mean, exact @ shift)


def test_with_bends_the_update_is_close_to_a_grid() -> None:
    grid = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    flow = rv.priors.Warped(*(field[0] for field in bent(1, seed=3)))
    for precision, shift in [(2.0, 3.0), (20.0, -15.0), (0.3, 0.5)]:
        potential = Potential(torch.tensor([[precision]]).double(), torch.tensor([shift]).double())
        log_density = (
            flow.log_prob(grid.unsqueeze(-1)) + shift * grid - 0.5 * precision * grid.square()
        )
        weight = torch.softmax(log_density, 0)
        mean = (weight * grid).sum()
        sd = (weight * (grid - mean).square()).sum().sqrt()
        noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(6)).double()
        posterior = flow.update(potential)
        draws = posterior.mean + posterior.deviate(noise)
        assert draws.mean().item() == pytest.approx(mean.item(), abs=0.1 * sd.item())
        assert draws.std().item() == pytest.approx(sd.item(), rel=0.1)


def test_it_starts_as_its_base() -> None:
    base = stir(rv.RVRAE(2, 2, factor_prior=rv.priors.AR1(2)).double()).factor_prior
    flow = rv.priors.Flow(2, base).double()
    state = (torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double(),)
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(
        flow.transition(state, None).log_prob(z), base.transition(state, None).log_prob(z)
    )


def test_evidence_of_one_month_without_bends_is_met_exactly() -> None:
    rng = np.random.default_rng(0)
    beta = rng.normal(size=(1, 6, 2))
    batch = raw_batch(rng.normal(size=(1, 6)), beta, np.ones((1, 6), bool))
    prior = rv.priors.Flow(2, rv.priors.StandardNormal(2), n_layers=1)
    model = rv.RVRAE(
        2, 2, loadings=fixed_loadings(2), factor_prior=prior, likelihood=rv.likelihoods.Normal()
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        model.likelihood.scale.log_scale.zero_()
        prior.ties[0, 1, 0] = 0.8
    mix = torch.tensor([[1.0, 0.0], [0.8, 1.0]], dtype=torch.float64)
    b = torch.as_tensor(beta[0]) @ mix
    law = torch.distributions.MultivariateNormal(
        torch.zeros(6).double(), b @ b.mT + torch.eye(6).double()
    )
    exact = law.log_prob(batch.returns[0]).item()
    for _ in range(3):
        bound = -Trace_ELBO().loss(model.model, model.guide, batch)
        assert bound == pytest.approx(exact, abs=1e-9)


def test_fit_save_and_load_with_a_nested_base(tmp_path: Path) -> None:
    panel = random_panel(9, 8)
    prior = rv.priors.Flow(2, rv.priors.Recurrent(2, hidden=3), n_layers=1)
    model = rv.RVRAE(4, 2, loadings=rv.loadings.Linear(4, 2), factor_prior=prior)
    assert model.log_weights().item() != 0.0  # the base's weight prior is found
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=3, window=4), progress=False)
    fit.save(tmp_path / "fit")
    again = rv.load(tmp_path / "fit")
    draws = [f.forecast(panel, num_samples=20)["predictions"]["returns"] for f in (fit, again)]
    np.testing.assert_array_equal(*draws)
    spec = describe_model(model)
    assert spec["factor_prior"]["base"]["kind"] == "Recurrent"
    assert describe_model(build_model(spec)) == spec
    bound = Trace_ELBO().loss(model.model, model.guide, double(panel).to(dtype=torch.float32))
    assert np.isfinite(bound)


def test_a_base_that_is_not_gaussian_is_refused() -> None:
    for base in (
        rv.priors.RegimeSwitching(2),
        rv.priors.Recurrent(2, innovation="student_t"),
        rv.priors.Recurrent(2, recurrence="observed"),
        rv.priors.StochasticVolatility(2),
    ):
        with pytest.raises(rv.ConfigError, match=r"`base` must have Gaussian.*Use StandardNormal"):
            rv.priors.Flow(2, base)
    with pytest.raises(rv.ShapeError, match="build both with the same number"):
        rv.priors.Flow(2, rv.priors.AR1(3))
    with pytest.raises(rv.ConfigError, match="`n_layers` must be 1 to 4"):
        rv.priors.Flow(2, n_layers=0)
