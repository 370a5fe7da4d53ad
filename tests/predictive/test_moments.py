"""Filtered regimes against Hamilton's filter, and what has no reading."""

import numpy as np
import pytest
import torch

import rvrae_pyro as rv
from tests.helpers import fixed_loadings, random_panel


def fitted(prior: rv.priors.FactorPrior, panel: object, k: int = 2) -> rv.Fit:
    model = rv.RVRAE(4, k, loadings=rv.loadings.Linear(4, k), factor_prior=prior)
    config = rv.FitConfig(max_steps=1, window=4)
    return rv.fit(model, panel, config=config, progress=False)


def test_regime_probabilities_are_those_of_hamilton_s_filter() -> None:
    """Factors measured almost without noise: the filter of the factors themselves is exact."""
    rng = np.random.default_rng(0)
    wild = np.repeat([False, True, False], [12, 10, 8])
    factors = rng.normal(size=(30, 1)) * np.where(wild, 3.0, 0.5)[:, None]
    panel = rv.data.simulate_linear_gaussian(40, 30, 1, seed=0)
    beta = panel["characteristics"].to_numpy()
    noise = 1e-3 * rng.normal(size=beta.shape[:2])
    panel["returns"].values[:] = 0.01 * ((beta * factors[:, None]).sum(-1) + noise)
    prior = rv.priors.RegimeSwitching(1, 2)
    model = rv.RVRAE(
        1, 1, loadings=fixed_loadings(1), factor_prior=prior, likelihood=rv.likelihoods.Normal()
    )
    with torch.no_grad():
        # calm is the second regime here, and comes first in the answer all the same
        prior.log_scales.copy_(torch.tensor([[3.0], [0.5]]).log())
        prior.levels.zero_()
        prior.switching.copy_(torch.tensor([[0.9, 0.1], [0.05, 0.95]]).log())
        model.likelihood.scale.log_scale.fill_(np.log(1e-3))
        model.return_scale.fill_(0.01)
    fit = rv.fit(
        model,
        panel,
        config=rv.FitConfig(max_steps=1, window=10, learning_rate=1e-12),
        progress=False,
    )
    found = fit.prior_state(panel, num_samples=200)["regime_probability"].to_numpy()
    filtered = np.array([0.5, 0.5])
    scales, move = np.array([3.0, 0.5]), np.array([[0.9, 0.1], [0.05, 0.95]])
    for t in range(30):
        density = np.exp(-0.5 * (factors[t, 0] / scales) ** 2) / scales
        filtered = (filtered @ move) * density
        filtered /= filtered.sum()
        np.testing.assert_allclose(found[t], filtered[::-1], atol=0.02)
    assert found[wild, 1].mean() > 0.6 > 0.4 > found[~wild, 1].mean()


def test_months_know_nothing_of_what_follows() -> None:
    panel = random_panel(8, 9)
    fit = fitted(rv.priors.StochasticVolatility(2), panel)
    later = panel.copy(deep=True)
    later["returns"][5:] *= -3.0
    states = [fit.prior_state(p, num_samples=60)["log_variance"] for p in (panel, later)]
    np.testing.assert_array_equal(states[0][:5], states[1][:5])
    assert not np.array_equal(states[0][5:], states[1][5:])
    assert list(states[0]["factor"].values) == [1, 2]


def test_a_prior_without_a_reading_says_so() -> None:
    panel = random_panel(6, 8)
    with pytest.raises(rv.ConfigError, match=r"AR1 has a state without a reading.*fit\.factors"):
        fitted(rv.priors.AR1(2), panel).prior_state(panel, num_samples=5)


@pytest.mark.parametrize(
    "prior",
    [
        rv.priors.RegimeSwitching(2, 2),
        rv.priors.Recurrent(2, hidden=4, innovation="student_t"),
        rv.priors.CommonVolatility(rv.priors.Recurrent(2, hidden=4, idio_level=False)),
        rv.priors.Flow(2),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_moments_are_those_of_many_draws(prior: rv.priors.FactorPrior) -> None:
    """40,000 draws: means within 0.03 sd, 6 standard errors; covariances within 0.1 sd^2.

    Draws are of one filter, so that both share its particles; the seed is fixed.
    """
    panel = random_panel(6, 5)
    fit = fitted(prior, panel)
    if isinstance(prior, rv.priors.Flow):
        with torch.no_grad():  # a skewed factor, whose mean is not the image of the base's mean
            for name, weight in prior.named_parameters():
                if "skew" in name:
                    weight.add_(0.4)
    found = fit.moments(panel, num_samples=40_000)
    drawn = fit.factors(panel, num_samples=40_000, kind="predicted")["factors"]
    values = drawn.stack(sample=("chain", "draw")).transpose("time", "factor", "sample").to_numpy()
    sd = values.std(-1)
    mean = fit.factors(panel, num_samples=40_000, kind="predicted")["mean"]
    mean = mean.transpose("time", "factor").to_numpy()
    assert (abs(mean - values.mean(-1)) < 0.03 * sd).all()
    covariance = found["factor_cov"].sel(chain=0).to_numpy()
    exact = np.stack([np.cov(month) for month in values])
    assert (abs(covariance - exact) < 0.1 * sd[:, :, None] * sd[:, None, :]).all()
