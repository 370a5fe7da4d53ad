"""What each factor prior expects of a market, in market statistics, before any return is seen."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.helpers import fixed_loadings

N_ASSETS, N_TIMES, DRAWS = 30, 80, 60
NOISE = 0.5


def market(prior: rv.priors.FactorPrior) -> xr.Dataset:
    """Mean over draws of the statistics of markets of one factor with unit loadings."""
    panel = rv.data.simulate_linear_gaussian(N_ASSETS, N_TIMES, 1, missing=0.0, seed=0)
    panel["characteristics"].values[:] = 1.0
    model = rv.RVRAE(
        1, 1, loadings=fixed_loadings(1), factor_prior=prior, likelihood=rv.likelihoods.Normal()
    )
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        model.likelihood.scale.log_scale.fill_(np.log(NOISE))
    tree = rv.prior_predictive(model, panel, num_samples=DRAWS, seed=1)
    return rv.evaluation.market_statistics(tree["prior_predictive"]["returns"]).mean()


def changed(prior: rv.priors.FactorPrior, **values: float) -> rv.priors.FactorPrior:
    with torch.no_grad():
        for name, value in values.items():
            prior.get_parameter(name).fill_(value)
    return prior


def regimes() -> rv.priors.FactorPrior:
    prior = rv.priors.RegimeSwitching(1)
    with torch.no_grad():
        prior.log_scales.copy_(torch.tensor([[0.5], [3.0]]).log())
        prior.switching.copy_(4.0 * torch.eye(2))
        prior.levels.zero_()
    return prior


CALM: dict[str, Callable[[], rv.priors.FactorPrior]] = {
    "standard": lambda: rv.priors.StandardNormal(1),
    "recurrent": lambda: rv.priors.Recurrent(1),  # its read-out starts at zero
    "observed": lambda: rv.priors.Recurrent(1, recurrence="observed"),
    "flow": lambda: rv.priors.Flow(1),  # starts as its base
}


@pytest.mark.parametrize("kind", list(CALM))
def test_priors_that_start_as_standard_normal(kind: str) -> None:
    """One factor of unit variance, no memory: every statistic has a closed form."""
    found = market(CALM[kind]())
    assert float(found["cross_sectional_sd"]) == pytest.approx(NOISE, rel=0.01)
    # the market is the factor plus noise of sd 0.5 / sqrt(30); standard error of the sd 0.01
    expected = np.hypot(1.0, NOISE / np.sqrt(N_ASSETS))
    assert float(found["market_volatility"]) == pytest.approx(expected, abs=0.05)
    assert float(found["kurtosis"]) == pytest.approx(0.0, abs=0.25)
    # shares 1 / (1 + 0.25) of the variance are the factor's, in large samples
    assert float(found["top_eigenvalue_share"]) == pytest.approx(0.8, abs=0.03)
    # the first sample autocorrelation is biased by -1 / T; standard error 0.014
    assert float(found["market_autocorrelation"]) == pytest.approx(-1 / N_TIMES, abs=0.06)


def test_an_autoregression_raises_volatility_by_its_memory() -> None:
    prior = changed(rv.priors.AR1(1), unbounded_coefficient=float(np.arctanh(0.8)))
    found = market(prior)
    # 1 / sqrt(1 - 0.64) = 1.67 in the long run, less in 80 months about their own mean
    assert 1.35 < float(found["market_volatility"]) < 1.72
    assert float(found["market_autocorrelation"]) > 0.35  # 0.64 in the long run


@pytest.mark.parametrize("kind", ["volatility", "regimes"])
def test_volatility_that_remembers_shows_in_tails_and_clusters(kind: str) -> None:
    prior = regimes() if kind == "regimes" else rv.priors.StochasticVolatility(1, 0.95, 0.4)
    found = market(prior)
    assert float(found["kurtosis"]) > 0.6
    assert float(found["market_autocorrelation"]) > 0.04
    assert float(found["cross_sectional_sd"]) == pytest.approx(NOISE, rel=0.01)


def test_heavy_tails_without_memory_show_in_tails_alone() -> None:
    heavy = changed(rv.priors.Recurrent(1, innovation="student_t"), log_excess_df=0.7)
    bent = changed(rv.priors.Flow(1, rv.priors.StandardNormal(1)), unbounded_tails=0.6)
    for prior in (heavy, bent):
        found = market(prior)
        assert float(found["kurtosis"]) > 1.0
        assert abs(float(found["market_autocorrelation"])) < 0.1
