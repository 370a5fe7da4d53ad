"""The particle filter against exact filters, quadrature and itself."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models import cross_section
from rvrae_pyro.models.path_distributions import PriorPath
from tests.helpers import (
    CHARACTERISTICS,
    FACTORS,
    double,
    fixed_loadings,
    linear_gaussian,
    log_weights,
    random_panel,
    raw_batch,
    simulate_linear_gaussian,
    stir,
)


@pytest.mark.statistical
@pytest.mark.parametrize("n_assets", [4, 12])
def test_evidence_is_unbiased_and_close(n_assets: int) -> None:
    """Forty filters: their mean likelihood ratio is 1 within 4 standard errors (1 in 10,000)."""
    batch = simulate_linear_gaussian(n_assets, 0.9, 0.5, n_times=12)
    model = linear_gaussian(batch)
    with torch.no_grad():
        exact = rv.exact.evidence(model, batch)
    runs = torch.stack(
        [rv.inference.smc_filter(model, batch, 200, seed).log_evidence.sum() for seed in range(40)]
    )
    ratio = (runs - exact).exp()
    assert abs(ratio.mean().item() - 1.0) < 4 * ratio.std().item() / math.sqrt(40)
    assert (runs - exact).abs().max() < 2.0
    assert ratio.std() > 0


@pytest.mark.statistical
def test_moments_equal_the_exact_filter() -> None:
    """Within 6 standard errors of 5000 draws in 40 months and 2 factors: 1 seed in a million."""
    batch = simulate_linear_gaussian(12, 0.9, 0.5)
    model = linear_gaussian(batch)
    n = 5000
    with torch.no_grad():
        exact = rv.exact.filtered(model, batch)
        smoothed = rv.exact.smoother(model, batch)
    cloud = rv.inference.smc_filter(model, batch, n, seed=1, lag=20)
    for draws, mean, covariance, slack in (
        (cloud.predicted, exact.predicted_mean, exact.predicted_covariance, 1.5),
        (cloud.filtered, exact.mean, exact.covariance, 1.5),
        (cloud.smoothed[:20], smoothed.mean[:20], smoothed.covariance[:20], 6.0),
    ):
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        error = slack * 4 / math.sqrt(n)
        assert ((draws.mean(1) - mean).abs() / sd).max() < error
        assert (draws.std(1) / sd - 1).abs().max() < error
    gap = cloud.log_evidence - exact.log_evidence
    assert gap.abs().max() < 0.2
    assert (cloud.ess > 100).all()
    assert (cloud.ess <= n + 1e-6).all()


def test_lag_zero_smooths_nothing() -> None:
    batch = simulate_linear_gaussian(4, 0.9, 0.5)
    model = linear_gaussian(batch)
    cloud = rv.inference.smc_filter(model, batch, 50, lag=0)
    torch.testing.assert_close(cloud.smoothed, cloud.filtered, rtol=0, atol=0)


def heavy_tailed(n_times: int = 4) -> tuple[rv.RVRAE, Batch]:
    """One factor, Student-t returns, an autoregression: quadrature can follow it."""
    g = torch.Generator().manual_seed(0)
    beta = torch.randn(n_times, 8, 1, generator=g, dtype=torch.float64)
    returns = torch.randn(n_times, 8, generator=g, dtype=torch.float64) * 2
    seen = torch.rand(n_times, 8, generator=g) > 0.2
    seen[2] = False
    batch = raw_batch(returns.numpy(), beta.numpy(), seen.numpy())
    model = rv.RVRAE(
        1,
        1,
        loadings=fixed_loadings(1),
        factor_prior=rv.priors.AR1(1),
        likelihood=rv.likelihoods.StudentT(df=4.0),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        model.factor_prior.unbounded_coefficient.fill_(1.0)
    return model, batch


def test_heavy_tailed_filter_equals_quadrature() -> None:
    """A chain of integrals on a grid gives each month's predictive density and moments."""
    model, batch = heavy_tailed()
    phi = math.tanh(1.0)
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    step = (grid[1] - grid[0]).item()
    kernel = dist.Normal(phi * grid.unsqueeze(1), 1.0).log_prob(grid).exp()
    scale = model.likelihood.scale.log_scale.exp().detach()
    ahead = dist.Normal(0.0, 1.0).log_prob(grid).exp()
    evidence, means, deviations = [], [], []
    for t in range(batch.n_times):
        seen = batch.observed[t]
        loc = grid.unsqueeze(1) * batch.characteristics[t, seen, 0]
        density = dist.StudentT(4.0, loc, scale).log_prob(batch.returns[t, seen]).sum(1).exp()
        joint = ahead * density
        evidence.append(math.log(joint.sum().item() * step))
        posterior = joint / joint.sum()
        means.append((posterior * grid).sum().item())
        deviations.append(((posterior * grid**2).sum().item() - means[-1] ** 2) ** 0.5)
        ahead = posterior @ kernel
    cloud = rv.inference.smc_filter(model, batch, 20_000, seed=0)
    np.testing.assert_allclose(cloud.log_evidence, evidence, atol=0.03)
    np.testing.assert_allclose(cloud.filtered.mean(1)[:, 0], means, atol=0.03)
    np.testing.assert_allclose(cloud.filtered.std(1)[:, 0], deviations, rtol=0.03)
    assert cloud.log_evidence[2].abs() < 1e-12


def test_filter_is_no_worse_than_importance_sampling_with_a_recurrent_prior() -> None:
    batch = double(random_panel(10, 15))
    model = stir(
        rv.RVRAE(CHARACTERISTICS, FACTORS, factor_prior=rv.priors.Recurrent(FACTORS)).double(),
        size=0.2,
    )
    weights = log_weights(model, batch, 20_000)
    importance = (torch.logsumexp(weights, 0) - math.log(20_000)).item()
    spread = (weights - importance).exp().std().item() / math.sqrt(20_000)
    runs = [
        rv.inference.smc_filter(model, batch, 2000, seed).log_evidence.sum().item()
        for seed in range(4)
    ]
    assert np.mean(runs) == pytest.approx(importance, abs=5 * spread + 5 * np.std(runs))


def test_decoded_model_is_filtered_by_the_exact_density() -> None:
    """A recurrent decoder: the mixture proposal agrees with importance sampling from the prior."""
    batch = double(random_panel(4, 12))
    model = stir(rv.RVRAE.paper(CHARACTERISTICS, FACTORS, hidden=3).double(), size=0.3)
    prior_guide = _PriorGuide()
    reference = rv.RVRAE(
        CHARACTERISTICS,
        FACTORS,
        loadings=model.loadings,
        factor_prior=model.factor_prior,
        decoder=model.decoder,
        likelihood=model.likelihood,
        guide=prior_guide,
    ).double()
    reference.return_scale.copy_(model.return_scale)
    weights = log_weights(reference, batch, 20_000)
    importance = (torch.logsumexp(weights, 0) - math.log(20_000)).item()
    spread = (weights - importance).exp().std().item() / math.sqrt(20_000)
    runs = [
        rv.inference.smc_filter(model, batch, 2000, seed).log_evidence.sum().item()
        for seed in range(4)
    ]
    assert np.mean(runs) == pytest.approx(importance, abs=5 * spread + 5 * np.std(runs))


def test_a_month_without_returns_says_nothing_behind_a_decoder() -> None:
    batch = double(random_panel(5, 9, seed=2, empty_months=[1, 3]))
    model = stir(
        rv.RVRAE(
            CHARACTERISTICS,
            FACTORS,
            decoder=rv.decoders.MLP(FACTORS),
            guide=rv.guides.Recurrent(FACTORS),
        )
    ).double()
    cloud = rv.inference.smc_filter(model, batch, 50, seed=0)
    for t in (1, 3):
        assert cloud.log_evidence[t].abs() < 1e-12
        assert cloud.ess[t] == pytest.approx(50)
        assert cloud.log_evidence[t - 1].abs() > 1e-3


class _PriorGuide(rv.guides.Guide):
    def forward(self, batch, potential, view, kl_weight):
        return PriorPath(view.prior, batch.n_times, view.context, view.state)


def test_months_have_random_streams_of_their_own() -> None:
    january, february = np.datetime64("2020-01-31", "ns"), np.datetime64("2020-02-29", "ns")

    def draw(seed: int, month: np.datetime64, purpose: str) -> float:
        with month_random(seed, month, purpose):
            return torch.rand(()).item()

    state = torch.get_rng_state()
    values = {
        draw(seed, month, purpose)
        for seed in (0, 1)
        for month in (january, february)
        for purpose in ("filter", "returns")
    }
    assert len(values) == 8
    assert draw(0, january, "filter") == draw(0, january, "filter")
    assert torch.equal(torch.get_rng_state(), state)


def test_no_particles_are_refused() -> None:
    batch = simulate_linear_gaussian(4, 0.9, 0.5)
    with pytest.raises(rv.ConfigError, match="`num_particles` must be at least 1"):
        rv.inference.smc_filter(linear_gaussian(batch), batch, 0)


@pytest.mark.parametrize("likelihood", [rv.likelihoods.StudentT, rv.likelihoods.SkewStudentT])
def test_particles_are_scored_alike_however_many_at_a_time(
    likelihood: type[rv.likelihoods.Likelihood], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a level for each particle and an alpha, one by one, some and all at once."""
    alpha = rv.likelihoods.Alpha(CHARACTERISTICS)
    model = stir(rv.RVRAE(CHARACTERISTICS, FACTORS, likelihood=likelihood(alpha=alpha))).double()
    batch = double(random_panel(6, 9, seed=3, empty_months=[2]))
    clouds = []
    for cells in (1, 40, 10_000):
        monkeypatch.setattr(cross_section, "_CELLS", cells)
        clouds.append(rv.inference.smc_filter(model, batch, 11, seed=4))
    assert clouds[0].predicted_level is not None
    for cloud in clouds[1:]:
        torch.testing.assert_close(cloud.log_evidence, clouds[0].log_evidence)
        torch.testing.assert_close(cloud.filtered, clouds[0].filtered)
