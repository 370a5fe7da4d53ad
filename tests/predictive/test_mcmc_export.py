"""Chains of NUTS as a DataTree, and prior sensitivity of fits and chains by ArviZ."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS

import rvrae_pyro as rv
from rvrae_pyro.data.batch import to_batch
from rvrae_pyro.models import exact
from tests.diagnostics.helpers import UNIT, freeze, known_model, known_panel

arviz_stats = pytest.importorskip("arviz_stats")
CHAINS, DRAWS, T, N = 2, 60, 3, 12


@pytest.fixture(scope="module")
def market():
    panel = known_panel(N, T, 2, seed=4, phi=0.0, missing=0.0)
    panel["returns"][1, 3] = np.nan
    return panel, freeze(known_model(2, phi=0.0))


@pytest.fixture(scope="module")
def run(market):
    """Two chains in this process, from one random stream."""
    panel, model = market
    batch = to_batch(panel, dtype=torch.float64)
    pyro.set_rng_seed(3)
    mcmc = MCMC(
        NUTS(model.model, max_tree_depth=4), num_samples=DRAWS, warmup_steps=30,
        num_chains=1, disable_progbar=True,
    )  # fmt: skip
    parts = []
    for _ in range(CHAINS):
        mcmc.run(batch)
        parts.append(mcmc._samples)
    mcmc._samples = {name: torch.cat([each[name] for each in parts]) for name in parts[0]}
    return mcmc, batch


@pytest.fixture(scope="module")
def tree(market, run):
    return rv.to_datatree(run[0], market[0])


def test_chains_are_kept_with_their_labels(market, run, tree):
    factors = tree["posterior"]["factors"]
    assert dict(factors.sizes) == {"chain": CHAINS, "draw": DRAWS, "time": T, "factor": 2}
    drawn = run[0].get_samples(group_by_chain=True)["factors"]
    np.testing.assert_array_equal(factors, drawn.squeeze(-2))
    np.testing.assert_array_equal(factors["time"], market[0]["time"])
    assert tree["sample_stats"]["diverging"].dtype == bool
    assert tree["log_likelihood"]["returns"].sizes["obs"] == T * N - 1
    summary = arviz_stats.summary(tree, var_names=["factors"])
    assert np.isfinite(summary["r_hat"].astype(float)).all()


def test_densities_are_those_of_the_model(market, tree):
    panel, _ = market
    factors = tree["posterior"]["factors"]
    prior = dist.Normal(0.0, 0.5**0.5).log_prob(torch.as_tensor(factors.values)).sum(-1)
    np.testing.assert_allclose(tree["log_prior"]["factors"], prior, rtol=1e-6)
    loadings = UNIT * panel["characteristics"].values
    mean = np.einsum("tnk,cdtk->cdtn", loadings, factors)
    density = dist.Normal(0.0, UNIT).log_prob(
        torch.as_tensor(panel["returns"].fillna(0.0).values - mean)
    )
    seen = panel["returns"].notnull().values
    found = tree["log_likelihood"]["returns"]
    np.testing.assert_allclose(found, density.numpy()[..., seen], rtol=1e-5, atol=1e-6)


def test_long_chains_agree_with_the_exact_posterior(market, run, tree):
    """120 draws: standard errors of about 0.1 posterior deviations; 5 allowed."""
    _, batch = run
    known = exact.smoother(market[1], batch)
    sd = known.covariance.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    gap = (tree["posterior"]["factors"].mean(("chain", "draw")) - known.mean.numpy()) / sd
    assert float(abs(gap).max()) < 0.5


def conjugate_sensitivity(tree, alphas=(0.99, 1.01)):
    """Shift of posterior means per doubling of the prior's power, from its draws' densities."""
    log_prior = tree["log_prior"].to_dataset().to_stacked_array("all", ("chain", "draw")).sum("all")
    factors, means = tree["posterior"]["factors"], []
    for alpha in alphas:
        weight = np.exp((alpha - 1.0) * (log_prior - log_prior.max()))
        means.append((weight * factors).sum(("chain", "draw")) / weight.sum())
    return (means[1] - means[0]) / np.log2(alphas[1] / alphas[0])


def test_prior_sensitivity_runs_on_chains(tree):
    found = arviz_stats.psense_summary(tree, var_names=["factors"])
    assert len(found) == T * 2
    assert (found["prior"].astype(float) > 0.0).all()
    assert (found["likelihood"].astype(float) > found["prior"].astype(float)).mean() > 0.5


def test_prior_sensitivity_runs_on_the_tree_of_a_fit(market):
    """The group that ArviZ reads, and weights that move means where the prior pulls them."""
    panel, _ = market
    config = rv.FitConfig(max_steps=1, dtype=torch.float64)
    fit = rv.fit(
        freeze(known_model(2, phi=0.0), but="likelihood"), panel, config=config, progress=False
    )
    tree = fit.posterior_predictive(panel, 2000, seed=1)
    density = tree["log_prior"]["factors"]
    assert density.dims == ("chain", "draw", "time")
    stats = tree["sample_stats"]
    likelihood = tree["log_likelihood"]["returns"].groupby("time").sum()
    np.testing.assert_allclose(stats["lp"] - density, likelihood, rtol=1e-4, atol=1e-3)
    found = arviz_stats.psense_summary(tree, var_names=["factors"])
    assert len(found) == T * 2
    assert np.isfinite(found[["prior", "likelihood"]].astype(float)).all(axis=None)
    # a tighter prior pulls the means to zero: by -V S^-1 m log 2 per doubling of the power
    batch = to_batch(panel, dtype=torch.float64)
    known = exact.smoother(fit.model.double(), batch)
    prior = torch.exp(2.0 * fit.model.factor_prior.log_scale.double()).expand(2)
    pull = -(known.covariance @ (known.mean / prior).unsqueeze(-1)).squeeze(-1) * np.log(2.0)
    moved = conjugate_sensitivity(tree)
    # the mean of 2000 draws of a product has an error of about 3 % of the largest pull
    pull = pull.detach().numpy()
    np.testing.assert_allclose(moved, pull, atol=0.15 * np.abs(pull).max())


def test_densities_by_hand_are_labelled(market):
    panel, _ = market
    samples = {"factors": np.zeros((5, T, 1, 2))}
    by_month = rv.to_datatree(samples, panel, log_prior={"factors": np.ones((5, T))})
    assert by_month["log_prior"]["factors"].dims == ("chain", "draw", "time")
    whole = rv.to_datatree(samples, panel, log_prior={"factors": np.ones(5)})
    assert whole["log_prior"]["factors"].dims == ("chain", "draw")
    with pytest.raises(rv.ShapeError, match=r"`log_prior\['factors'\]` must have one number"):
        rv.to_datatree(samples, panel, log_prior={"factors": np.ones((5, T, 2))})


def test_what_is_no_run_is_refused(market):
    panel, model = market
    with pytest.raises(rv.ConfigError, match="Call its run"):
        rv.to_datatree(MCMC(NUTS(model.model), num_samples=1), panel)
    with pytest.raises(rv.ConfigError, match="got list"):
        rv.to_datatree([1.0], panel)


def test_a_kernel_without_a_model_has_draws_alone(market):
    panel, _ = market
    kernel = NUTS(potential_fn=lambda z: 0.5 * z["factors"].square().sum())
    mcmc = MCMC(
        kernel, num_samples=4, warmup_steps=2, disable_progbar=True,
        initial_params={"factors": torch.zeros(T, 1, 2)},
    )  # fmt: skip
    pyro.set_rng_seed(0)
    mcmc.run()
    tree = rv.to_datatree(mcmc, panel)
    assert tree["posterior"]["factors"].shape == (1, 4, T, 2)
    assert {"log_prior", "log_likelihood"}.isdisjoint(tree.children)


@pytest.mark.parametrize("draws", [1, 3])
def test_a_run_of_few_draws_is_read(market, draws):
    panel, _ = market
    kernel = NUTS(potential_fn=lambda z: 0.5 * z["factors"].square().sum())
    mcmc = MCMC(
        kernel, num_samples=draws, warmup_steps=2, disable_progbar=True,
        initial_params={"factors": torch.zeros(T, 1, 2)},
    )  # fmt: skip
    pyro.set_rng_seed(0)
    mcmc.run()
    tree = rv.to_datatree(mcmc, panel)
    assert tree["sample_stats"]["diverging"].shape == (1, draws)
