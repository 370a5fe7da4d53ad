"""k-hat against guides that are exact, good and bad, and against someone else's estimate."""

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats

import rvrae_pyro as rv
from rvrae_pyro.inference.importance import guide_paths
from rvrae_pyro.predictive.pareto import good_khat, smooth_weights
from tests.diagnostics.helpers import Holder, known_model, known_panel
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, log_weights, random_panel, stir

PANEL = known_panel(12, 10, 2, seed=3)


def test_an_exact_guide_has_equal_weights() -> None:
    model = known_model(2, factor_prior=rv.priors.StandardNormal(2))
    found = rv.diagnostics.psis(Holder(model), PANEL, 200)
    assert (found["khat"] == 0).all()
    assert found["khat_path"] == 0
    np.testing.assert_allclose(found["ess"], 1.0)
    assert found.identical(rv.diagnostics.psis(model, PANEL, 200))  # or the model itself
    exact = rv.exact.evidence(model, double(PANEL)).item()
    assert found["log_evidence"].item() == pytest.approx(exact, abs=1e-8)


def test_a_filtering_guide_is_good_by_month_and_its_evidence_right() -> None:
    """The importance estimate of 4000 draws is within 0.3 nats: its error is about 0.05."""
    model = known_model(2)
    found = rv.diagnostics.psis(Holder(model), PANEL, 4000)
    assert (found["khat"] < found.attrs["good_khat"]).all()
    exact = rv.exact.evidence(model, double(PANEL)).item()
    assert found["log_evidence"].item() == pytest.approx(exact, abs=0.3)


def test_a_guide_that_is_too_narrow_is_bad() -> None:
    """What is optimal under KL weight 1/10 has a tenth of the variance that the weights need."""
    model = known_model(2)
    paths = guide_paths(model, double(PANEL), 1000, kl_weight=0.1)
    _, khat = smooth_weights(paths.log_ratios.numpy().T)
    honest = rv.diagnostics.psis(Holder(model), PANEL, 1000)["khat"]
    assert np.median(khat) > good_khat(1000)
    assert np.median(khat) > float(honest.median()) + 0.5


def test_ratios_are_those_of_the_pyro_pair() -> None:
    """Every part at work: recurrent prior, Student-t, scales from characteristics."""
    model = stir(rv.RVRAE(P, K).double(), size=0.1)
    batch = double(random_panel(6, 10, empty_months=[2]))
    paths = guide_paths(model, batch, 50, seed=1)
    ours = paths.log_ratios.sum(1)
    theirs = log_weights(model, batch, 4000)
    # other draws of the same distribution: means of 50 and of 4000 within five standard errors
    error = ours.std() / 50**0.5
    assert abs(ours.mean() - theirs.mean()) < 5 * error


def test_paths_are_those_of_the_replicates() -> None:
    panel = random_panel(8, 10, seed=2)
    fit = rv.fit(rv.RVRAE(P, K), panel, config=rv.FitConfig(max_steps=3), progress=False)
    tree = fit.posterior_predictive(panel, num_samples=40, seed=5)
    paths = guide_paths(fit.model.double(), double(panel), 40, seed=5)
    stats = tree["sample_stats"].isel(chain=0)
    np.testing.assert_allclose(paths.log_q, stats["log_q"], rtol=1e-8)
    total = paths.log_prior + paths.log_likelihood
    np.testing.assert_allclose(total, stats["lp"], rtol=1e-8)
    np.testing.assert_allclose(paths.factors, tree["posterior"]["factors"].isel(chain=0))


def test_smoothing_is_that_of_arviz() -> None:
    ratios = np.random.default_rng(0).standard_t(4, size=(3, 500))
    weights, khat = smooth_weights(ratios)
    for row, w, k in zip(ratios, weights, khat, strict=True):
        theirs, shape = array_stats.psislw(-row)
        assert k == pytest.approx(shape)
        np.testing.assert_allclose(w, theirs - np.log(np.exp(theirs).sum()))
    np.testing.assert_allclose(np.exp(weights).sum(-1), 1.0)


def test_degenerate_ratios() -> None:
    weights, khat = smooth_weights(np.full((2, 30), 7.0))
    np.testing.assert_allclose(weights, -np.log(30))
    assert (khat == 0).all()
    broken = np.zeros(30)
    broken[3] = -np.inf
    weights, khat = smooth_weights(broken)
    assert np.isinf(khat)
    assert weights[3] == -np.inf
    assert np.exp(weights).sum() == pytest.approx(1.0)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(rv.ShapeError, match="at least 25"):
        rv.diagnostics.psis(Holder(known_model(2)), PANEL, 24)
    with pytest.raises(rv.ShapeError, match="at least 25"):
        smooth_weights(np.zeros(10))
    with pytest.raises(rv.ConfigError, match="num_samples"):
        guide_paths(known_model(2), double(PANEL), 0)


def test_same_seed_same_numbers_and_the_callers_stream_is_left_alone() -> None:
    model = known_model(2)
    before = torch.random.get_rng_state()
    first = rv.diagnostics.psis(Holder(model), PANEL, 50, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.identical(rv.diagnostics.psis(Holder(model), PANEL, 50, seed=3))
    assert not first.identical(rv.diagnostics.psis(Holder(model), PANEL, 50, seed=4))
