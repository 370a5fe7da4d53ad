"""Stochastic volatility: densities, the causal guide, evidence, windows, forecasts, files."""

import math
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.kl import month_kl
from rvrae_pyro.inference.particle_filter import smc_filter
from rvrae_pyro.models.registry import build_model, describe_model
from rvrae_pyro.nn.gaussian import Potential
from tests.helpers import double, fixed_loadings, random_panel, raw_batch, stir


def volatile(k: int = 2, guide: object = None) -> rv.RVRAE:
    """Build a model in plain units whose log variances move a lot."""
    prior = rv.priors.StochasticVolatility(k, persistence=0.8, volatility=0.7)
    model = rv.RVRAE(
        k,
        k,
        loadings=fixed_loadings(k),
        factor_prior=prior,
        likelihood=rv.likelihoods.Normal(),
        guide=guide or rv.guides.Conjugate(),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        model.likelihood.scale.log_scale.zero_()
        prior.auxiliary.mean.fill_(0.3)
        prior.auxiliary.factor_mean.fill_(0.2)
    return model


def simulate(n_times: int, n_assets: int, k: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    beta = rng.normal(size=(n_times, n_assets, k))
    factors = rng.normal(size=(n_times, k)) * np.exp(rng.normal(size=(n_times, k)))
    returns = np.einsum("tnk,tk->tn", beta, factors) + rng.normal(size=(n_times, n_assets))
    return raw_batch(returns, beta, rng.uniform(size=returns.shape) > 0.2)


def logs(model: rv.RVRAE, batch: Batch, kl_weight: float | Tensor = 1.0) -> poutine.Trace:
    guide = poutine.trace(model.guide).get_trace(batch, kl_weight)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch, kl_weight)
    trace.compute_log_prob()
    guide.compute_log_prob()
    return trace, guide


def test_sites_have_the_densities_of_the_equations() -> None:
    model, batch = volatile(), simulate(5, 6, 2)
    trace, guide = logs(model, batch)
    x = trace.nodes["log_variance"]["value"].squeeze(-2)
    z = trace.nodes["factors"]["value"].squeeze(-2)
    own, last = model.factor_prior.auxiliary, torch.full((2,), 0.3, dtype=torch.float64)
    for t in range(5):
        moved = torch.distributions.Normal(0.3 + 0.8 * (last - 0.3), 0.7).log_prob(x[t]).sum()
        assert trace.nodes["log_variance"]["log_prob"][t, 0].item() == pytest.approx(moved.item())
        given = torch.distributions.Normal(0.2, (0.5 * x[t]).exp()).log_prob(z[t]).sum()
        assert trace.nodes["factors"]["log_prob"][t, 0].item() == pytest.approx(given.item())
        last = x[t]
    assert list(own.parameters())
    assert trace.nodes["log_variance"]["fn"].batch_shape == (5, 1)
    assert {"log_variance", "factors"} <= set(guide.stochastic_nodes)


def test_the_model_alone_and_a_conditioned_one_use_the_log_variances_they_are_given() -> None:
    """What the guide's walk met holds for the guide's own draw only."""
    model, batch = volatile(), simulate(4, 5, 2)
    guide = poutine.trace(model.guide).get_trace(batch)
    other = torch.full((4, 1, 2), 1.5, dtype=torch.float64)
    fixed = poutine.condition(model.model, {"log_variance": other})
    trace = poutine.trace(poutine.replay(fixed, guide)).get_trace(batch)
    trace.compute_log_prob()
    z = trace.nodes["factors"]["value"].squeeze(-2)
    expected = torch.distributions.Normal(0.2, math.exp(0.75)).log_prob(z).sum(-1)
    torch.testing.assert_close(trace.nodes["factors"]["log_prob"].squeeze(-1), expected)


def test_update_is_close_to_the_posterior_on_a_grid() -> None:
    """Exact up to quadrature: x given one measured factor, far, near and in between."""
    grid = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    for loc, scale, measured, precision in [
        (0.0, 0.5, 2.5, 50.0),
        (0.5, 1.0, 0.1, 50.0),
        (-1.0, 0.7, 1.5, 1.0),
        (0.0, 0.5, 0.0, 0.2),
    ]:
        one = torch.ones(1, dtype=torch.float64)
        ahead = rv.priors.LogVariance(loc * one, scale * one, 0.0 * one)
        found = ahead.update(Potential(precision * one[:, None], precision * measured * one))
        log_density = torch.distributions.Normal(loc, scale).log_prob(
            grid
        ) + torch.distributions.Normal(0.0, (grid.exp() + 1 / precision).sqrt()).log_prob(
            torch.tensor(measured, dtype=torch.float64)
        )
        weight = torch.softmax(log_density, 0)
        mean = (weight * grid).sum()
        sd = (weight * (grid - mean).square()).sum().sqrt()
        assert found.mean.item() == pytest.approx(mean.item(), abs=0.08 * sd.item())
        assert found.covariance().sqrt().item() == pytest.approx(sd.item(), rel=0.06)


def test_a_month_without_returns_leaves_the_prior_as_it_is() -> None:
    model, batch = volatile(), simulate(6, 5, 2)
    batch.observed[3] = False
    kl = month_kl(model.walk(batch))
    assert kl[3].item() == 0.0
    assert bool((kl[:3] > 0).all())


def test_filter_bounds_and_quadrature_agree_on_the_evidence() -> None:
    """Two months, one factor: log variances by quadrature, factors in closed form."""
    model, batch = volatile(1), simulate(2, 4, 1, seed=3)
    grid = torch.linspace(-9, 9, 601, dtype=torch.float64)
    step = grid[1] - grid[0]
    seen = [batch.observed[t] for t in range(2)]
    likelihood = []
    for t in range(2):
        beta = batch.characteristics[t, seen[t], 0]
        r = batch.returns[t, seen[t]]
        covariance = grid.exp()[:, None, None] * torch.outer(beta, beta) + torch.eye(len(beta))
        law = torch.distributions.MultivariateNormal((0.2 * beta).expand(601, -1), covariance)
        likelihood.append(law.log_prob(r))
    first = torch.distributions.Normal(0.3, 0.7).log_prob(grid) + likelihood[0]
    moves = torch.distributions.Normal(0.3 + 0.8 * (grid[:, None] - 0.3), 0.7).log_prob(grid)
    exact = torch.logsumexp(first[:, None] + moves + likelihood[1] + 2 * step.log(), (0, 1)).item()
    cloud = smc_filter(model, batch, 20_000, seed=1)
    # the estimate's own standard error is below 0.01
    assert cloud.log_evidence.sum().item() == pytest.approx(exact, abs=0.03)
    pyro.set_rng_seed(0)
    elbo = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=2)
    bound = -elbo.loss(model.model, model.guide, batch)
    assert exact - 0.25 < bound < exact
    state = cloud.readings["log_variance"]
    posterior = torch.softmax(first, 0)
    assert state[0].mean().item() == pytest.approx((posterior * grid).sum().item(), abs=0.03)


def test_weight_of_the_kl_applies_to_both_latents_in_model_and_guide() -> None:
    model, batch = volatile(), simulate(4, 5, 2)
    weights = torch.tensor([0.2, 0.5, 1.0, 0.7], dtype=torch.float64)
    for trace in logs(model, batch, weights):
        for site in ("log_variance", "factors"):
            scale = trace.nodes[site]["scale"].expand(4, 1).squeeze(-1)
            torch.testing.assert_close(scale, weights)


def test_states_are_carried_into_windows_and_months_know_no_later_return() -> None:
    model, batch = volatile(), simulate(8, 5, 2)
    walk = model.walk(batch, [0, 3, 8])
    assert walk.draw.auxiliary is not None
    for start in (3, 8):
        torch.testing.assert_close(
            walk.carries[start]["auxiliary"][0], walk.draw.auxiliary.path[start - 1]
        )
    trace, _ = logs(model, batch.window(3, 6, walk.carries[3]))
    first = trace.nodes["log_variance"]["fn"].along(trace.nodes["log_variance"]["value"])[0]
    torch.testing.assert_close(first.loc[0], 0.3 + 0.8 * (walk.draw.auxiliary.path[2] - 0.3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = model.walk(batch)
        changed = raw_batch(
            batch.returns.numpy().copy(), batch.characteristics.numpy(), batch.observed.numpy()
        )
        changed.returns[5:] *= -3.0
        torch.manual_seed(1)
        after = model.walk(changed)
    assert torch.equal(before.draw.auxiliary.path[:5], after.draw.auxiliary.path[:5])
    assert not torch.equal(before.draw.auxiliary.path[5], after.draw.auxiliary.path[5])


def test_predictive_and_nuts_see_an_ordinary_model() -> None:
    model, batch = volatile(), simulate(3, 4, 2)
    for parallel in (False, True):
        drawn = Predictive(model.model, guide=model.guide, num_samples=5, parallel=parallel)(
            batch.without_returns()
        )
        assert drawn["log_variance"].reshape(5, 3, 2).isfinite().all()
    kernel = NUTS(lambda: model.model(batch), max_tree_depth=3)
    pyro.set_rng_seed(0)
    chain = MCMC(kernel, num_samples=4, warmup_steps=4, disable_progbar=True)
    chain.run()
    assert chain.get_samples()["log_variance"].shape == (4, 3, 1, 2)


@pytest.mark.parametrize("guide", ["conjugate", "recurrent", "smoothing"])
def test_fit_forecast_save_and_load(guide: str, tmp_path: Path) -> None:
    choices = {
        "conjugate": rv.guides.Conjugate(),
        "recurrent": rv.guides.Recurrent(2, hidden=3),
        "smoothing": rv.guides.Smoothing(2, hidden=3),
    }
    panel = random_panel(10, 9)
    model = rv.RVRAE(
        4,
        2,
        loadings=rv.loadings.Linear(4, 2),
        factor_prior=rv.priors.StochasticVolatility(2),
        guide=choices[guide],
    )
    config = rv.FitConfig(max_steps=3, window=4)
    fit = rv.fit(model, panel.isel(time=slice(8)), panel.isel(time=slice(8, 10)), config=config)
    fit.save(tmp_path / "fit")
    again = rv.load(tmp_path / "fit")
    draws = [f.forecast(panel, num_samples=20)["predictions"]["returns"] for f in (fit, again)]
    np.testing.assert_array_equal(*draws)
    state = fit.prior_state(panel, num_samples=50)
    assert state["log_variance"].dims == ("time", "factor")
    assert bool((state["log_variance_sd"] > 0).all())
    replicates = fit.posterior_predictive(panel, num_samples=6)
    assert replicates["posterior"]["log_variance"].sizes["factor"] == 2
    assert np.isfinite(replicates["sample_stats"]["lp"]).all()


def test_description_is_read_back_and_bad_settings_are_refused() -> None:
    model = stir(volatile())
    spec = describe_model(model)
    assert spec["factor_prior"]["kind"] == "StochasticVolatility"
    assert describe_model(build_model(spec)) == spec
    with pytest.raises(rv.ConfigError, match="`persistence` must be in"):
        rv.priors.StochasticVolatility(2, persistence=1.0)
    with pytest.raises(rv.ConfigError, match="`volatility` must be above 0"):
        rv.priors.StochasticVolatility(2, volatility=0.0)
    prior = rv.priors.StochasticVolatility(2)
    prior.observed = True
    with pytest.raises(rv.ConfigError, match=r"auxiliary latent.*leave `observed` and"):
        rv.RVRAE(4, 2, factor_prior=prior)


def test_panels_with_context_and_single_precision_work() -> None:
    batch = double(random_panel(6, 7))
    model = rv.RVRAE(4, 2, factor_prior=rv.priors.StochasticVolatility(2))
    model = stir(model.double(), size=0.1)
    assert batch.context is not None
    assert math.isfinite(Trace_ELBO().loss(model.model, model.guide, batch))
