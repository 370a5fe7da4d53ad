"""The posterior of the weights against one that a grid gives."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import rvrae_pyro as rv
from tests.diagnostics.helpers import Holder, known_model, known_panel
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel, stir
from tests.one_weight import GRID, PRIOR_SCALE, SITE, best_normal, market, on_grid


def test_the_best_normal_passes_and_gives_the_evidence() -> None:
    """200 draws: the estimate of the evidence has an error near 0.02 nats."""
    panel = market()
    found = rv.diagnostics.psis_weights(best_normal(panel), panel, 200)
    assert found["khat"] < found.attrs["good_khat"]
    assert found["ess"] > 0.8
    # the guide covers one of two mirror images
    prior = stats.norm.logpdf(GRID, 0, PRIOR_SCALE)
    exact = logsumexp(on_grid(panel).sum(1) + prior) + np.log(GRID[1] - GRID[0])
    assert found["log_evidence"].item() == pytest.approx(exact, abs=0.1)
    assert found["log_ratio"].dims == ("weight_draw",)


def test_a_posterior_that_is_too_sure_fails() -> None:
    panel = market()
    fit = best_normal(panel)
    with torch.no_grad():
        for scale in fit.model.parts.weight_guide.log_scales.parameters():
            scale.sub_(np.log(6))
    found = rv.diagnostics.psis_weights(fit, panel, 200)
    assert found["khat"] > found.attrs["good_khat"] + 0.1
    # the factors' guide is judged at the mean of the weights, and is exact whatever their spread
    factors = rv.diagnostics.psis(fit, panel, 50)
    assert factors.attrs["weights"] == "posterior mean"
    assert factors["khat_path"] == 0
    mean = fit.model.parts.get_parameter(SITE).item()
    at_mean = on_grid(panel).sum(1)[np.abs(GRID - mean).argmin()]
    assert factors["log_evidence"].item() == pytest.approx(at_mean, abs=0.1)


def test_particles_and_every_part_take_part() -> None:
    weights = rv.weights.GroupLog(inference="posterior")
    model = stir(rv.RVRAE(P, K, loadings=rv.loadings.MLP(P, K, (3,), weights=weights)), size=0.1)
    found = rv.diagnostics.psis_weights(Holder(model), random_panel(5, 8, seed=2), 25, 40)
    assert np.isfinite(found["log_ratio"]).all()
    assert np.ptp(found["log_ratio"].values) > 0


def test_misuse_is_refused() -> None:
    panel = known_panel(6, 6, 1)
    with pytest.raises(rv.ConfigError, match="weights with a posterior"):
        rv.diagnostics.psis_weights(Holder(known_model(1)), panel)
    with pytest.raises(rv.ShapeError, match="`num_draws` must be at least 25; got 24"):
        rv.diagnostics.psis_weights(Holder(known_model(1)), panel, 24)
