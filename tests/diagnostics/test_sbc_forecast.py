"""Joint calibration of parameters: functionals of the forecast under their posterior."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.models.random_weights import SiteGuide

NAMES = ("factor_prior.coefficient", "factor_prior.scale", "portfolio_sd", "tail_probability")


def build() -> rv.RVRAE:
    model = rv.RVRAE(
        1,
        1,
        loadings=rv.loadings.Linear(1, 1),
        factor_prior=rv.priors.AR1(1, dist.Uniform(-1.0, 1.0), dist.LogNormal(0.0, 0.5)),
        likelihood=rv.likelihoods.Normal(),
    )
    with torch.no_grad():
        model.loadings.layer.weight.fill_(1.0)
        model.loadings.layer.bias.zero_()
    return model


def spreads(num_datasets: int, seed: int) -> dict[str, tuple[float, float]]:
    panel = rv.data.simulate_linear_gaussian(4, 30, 1, seed=2)
    tree = rv.diagnostics.sbc_forecast(
        build(), panel, num_datasets, num_samples=99, num_draws=500, seed=seed
    )
    judged = tree["uniformity"]
    return {
        name: (float(judged[f"p_value_{name}"].min()), float(judged[f"spread_{name}"].max()))
        for name in NAMES
    }


@pytest.mark.statistical
def test_ranks_of_a_few_panels_are_not_far_from_uniform() -> None:
    """16 panels; each of four tests fails one seed in 10,000. Seed fixed."""
    for p_value, spread in spreads(16, seed=1).values():
        assert p_value > 1e-4
        assert 0.3 < spread < 2.2


@pytest.mark.slow
@pytest.mark.statistical
def test_ranks_are_uniform() -> None:
    """200 panels; each of four tests fails one seed in 1000. Seed fixed."""
    for p_value, spread in spreads(200, seed=1).values():
        assert p_value > 1e-3
        assert 0.75 < spread < 1.3


@pytest.mark.slow
@pytest.mark.statistical
def test_a_posterior_that_is_too_narrow_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SiteGuide.set_moments

    def narrow(self: SiteGuide, parts: torch.nn.Module, mean: object, root: object) -> None:
        kept(self, parts, mean, 0.5 * root)  # type: ignore[arg-type, operator]

    monkeypatch.setattr(SiteGuide, "set_moments", narrow)
    found = spreads(100, seed=1)
    assert found["factor_prior.scale"][1] > 1.5
    assert found["portfolio_sd"][1] > 1.4


def test_a_model_without_a_closed_form_is_refused() -> None:
    panel = rv.data.simulate_linear_gaussian(4, 12, 1)
    model = rv.RVRAE(1, 1, factor_prior=rv.priors.AR1(1, scale=dist.LogNormal(0.0, 0.5)))
    with pytest.raises(rv.ConfigError, match="an evidence in closed form"):
        rv.diagnostics.sbc_forecast(model, panel, 2)


def test_same_seed_same_ranks() -> None:
    panel = rv.data.simulate_linear_gaussian(4, 12, 1)
    one, two = (
        rv.diagnostics.sbc_forecast(build(), panel, 2, num_samples=9, num_draws=100, seed=3)
        for _ in range(2)
    )
    for name in NAMES:
        np.testing.assert_array_equal(one["ranks"][name], two["ranks"][name])
