"""Prior predictive draws: no return is used, and moments are those of the prior."""

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir

PRIORS = {
    "standard": lambda: rv.priors.StandardNormal(K),
    "ar1": lambda: rv.priors.AR1(K),
    "latent": lambda: rv.priors.Recurrent(K, hidden=3, n_context=2),
    "observed": lambda: rv.priors.Recurrent(K, hidden=3, recurrence="observed", n_context=2),
    "both": lambda: rv.priors.Recurrent(K, hidden=3, recurrence="both", n_context=2),
}


def build(kind: str) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stir(rv.RVRAE(P, K, factor_prior=PRIORS[kind]()), size=0.2)


@pytest.mark.parametrize("kind", list(PRIORS))
def test_groups_labels_and_listing(kind: str) -> None:
    panel = random_panel(6, 9, seed=1)
    tree = rv.prior_predictive(build(kind), panel, num_samples=5, seed=1)
    assert tree["prior"]["factors"].dims == ("chain", "draw", "time", "factor")
    returns = tree["prior_predictive"]["returns"]
    assert returns.dims == ("chain", "draw", "time", "asset")
    assert returns.shape == (1, 5, 6, 9)
    listed = panel["characteristics"].notnull().any("characteristic")
    assert bool((returns.notnull().all(("chain", "draw")) == listed).all())
    again = rv.prior_predictive(build(kind), panel, num_samples=5, seed=1)
    np.testing.assert_array_equal(again["prior_predictive"]["returns"], returns)
    other = rv.prior_predictive(build(kind), panel, num_samples=5, seed=2)
    assert not np.array_equal(other["prior"]["factors"], tree["prior"]["factors"])


@pytest.mark.parametrize("kind", list(PRIORS))
def test_no_return_is_used(kind: str) -> None:
    panel = random_panel(6, 9, seed=1)
    blind = panel.copy(deep=True)
    blind["returns"][:] = np.nan
    ours, theirs = (rv.prior_predictive(build(kind), p, num_samples=4) for p in (panel, blind))
    for group in ("prior", "prior_predictive"):
        xr.testing.assert_identical(ours[group].to_dataset(), theirs[group].to_dataset())


@pytest.mark.statistical
def test_moments_of_an_autoregression() -> None:
    """20,000 paths of two factors over 6 months, within 5 standard errors (1 seed in 30,000)."""
    n = 20_000
    model = rv.RVRAE(P, K, factor_prior=rv.priors.AR1(K))
    with torch.no_grad():
        model.factor_prior.loc.copy_(torch.tensor([0.5, -0.3]))
        model.factor_prior.unbounded_coefficient.fill_(float(np.arctanh(0.8)))
        model.factor_prior.log_scale.copy_(torch.tensor([0.0, -0.5]))
    panel = random_panel(6, 3, seed=1)
    drawn = rv.prior_predictive(model, panel, num_samples=n)["prior"]["factors"][0].to_numpy()
    months = np.arange(1, 7)
    variance = (1 - 0.8 ** (2 * months)) / (1 - 0.8**2)
    sd = np.sqrt(variance)[:, None] * np.exp([0.0, -0.5])
    assert np.abs((drawn.mean(0) - [0.5, -0.3]) / sd).max() < 5 / math.sqrt(n)
    assert np.abs(drawn.std(0) / sd - 1).max() < 5 / math.sqrt(2 * n)
    centred = (drawn - [0.5, -0.3]) / sd
    lagged = (centred[:, :-1] * centred[:, 1:]).mean(0)
    expected = 0.8 * np.sqrt(variance[:-1] / variance[1:])[:, None]
    assert np.abs(lagged - expected).max() < 6 / math.sqrt(n)


@pytest.mark.statistical
def test_returns_have_the_spread_of_factors_and_noise() -> None:
    """Standard normal factors: Var r = |b|^2 + sd^2, within 5 standard errors of 20,000 draws."""
    n = 20_000
    likelihood = rv.likelihoods.Normal()
    model = rv.RVRAE(P, K, factor_prior=rv.priors.StandardNormal(K), likelihood=likelihood)
    panel = random_panel(3, 5, seed=1)
    drawn = rv.prior_predictive(model, panel, num_samples=n)["prior_predictive"]["returns"][0]
    batch = double(panel)
    with torch.no_grad():
        cross = model.double().parts.cross_section(batch)
        sd = (cross.beta.square().sum(-1) + cross.scale.square()).sqrt()
    listed = batch.listed.numpy()
    ratio = drawn.to_numpy().std(0)[listed] / sd.numpy()[listed]
    assert np.abs(ratio - 1).max() < 5 / math.sqrt(2 * n)


def test_draws_say_where_they_come_from() -> None:
    panel = random_panel(4, 5)
    tree = rv.prior_predictive(rv.RVRAE(P, K), panel, 2, seed=7)
    assert tree.attrs["seed"] == 7
    assert {"versions", "config", "data_fingerprint"} <= set(tree.attrs)
    assert json.loads(tree.attrs["config"])["model"]["n_factors"] == K
