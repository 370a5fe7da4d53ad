"""Rank of the common variation and the part of characteristics in it: known cases."""

import copy

import numpy as np
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.data.batch import to_batch
from rvrae_pyro.diagnostics.check_training import common_variation
from tests.diagnostics.helpers import UNIT, freeze, known_model, known_panel

FACTORS = "Are all factors in use?"
MOVED = "Do characteristics move the loadings?"


def standard_draws(n_times, n_factors, scale):
    """Draws whose covariance is ``scale scale'`` to rounding."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(400, n_factors))
    draws -= draws.mean(0)
    draws = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / 400)).T
    return torch.as_tensor(draws @ np.asarray(scale).T).expand(n_times, -1, -1)


def linear_model(weight, bias, n_characteristics):
    """Fixed linear loadings and noise of scale 1, in return units of ``UNIT``."""
    n_factors = len(bias)
    model = rv.RVRAE(
        n_characteristics,
        n_factors,
        loadings=rv.loadings.Linear(n_characteristics, n_factors),
        factor_prior=rv.priors.StandardNormal(n_factors),
        likelihood=rv.likelihoods.Normal(),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(UNIT)
        model.likelihood.scale.log_scale.fill_(0.0)
        model.loadings.layer.weight.copy_(torch.as_tensor(weight))
        model.loadings.layer.bias.copy_(torch.as_tensor(bias))
    return model


def judged(model, panel, scale):
    batch = to_batch(panel, dtype=torch.float64)
    draws = standard_draws(batch.n_times, model.n_factors, scale)
    return common_variation(model, batch, draws, model.parts.online_cross_section(batch))


@pytest.fixture(scope="module")
def panel():
    return rv.data.rank_characteristics(rv.data.simulate_dynamic(20, 6, 3, 2, seed=3))


def test_information_is_that_of_the_closed_form(panel):
    rng = np.random.default_rng(1)
    weight, bias, scale = rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=(2, 2))
    found = judged(linear_model(weight, bias, 3), panel, scale)
    batch = to_batch(panel, dtype=torch.float64)
    expected, moved, total = [], 0.0, 0.0
    for x, listed in zip(batch.characteristics.numpy(), batch.listed.numpy(), strict=True):
        beta = (x[listed] @ weight.T + bias) @ scale
        expected.append(0.5 * np.log1p(np.linalg.eigvalsh(beta.T @ beta)[::-1]))
        moved += (((x[listed] - x[listed].mean(0)) @ weight.T @ scale) ** 2).sum()
        total += (beta**2).sum()
    np.testing.assert_allclose(found["information"], np.mean(expected, 0), rtol=1e-8)
    assert float(found["moved"]) == pytest.approx(moved / total, rel=1e-8)


def test_neither_rotation_nor_scale_of_the_factors_matters(panel):
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(3, 3)), rng.normal(size=3)
    first = judged(linear_model(weight, bias, 3), panel, np.eye(3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ np.diag([1e-4, 1.0, 1e5])
    other = np.linalg.inv(turn).T  # loadings B A^-T for factors f A
    second = judged(linear_model(other.T @ weight, other.T @ bias, 3), panel, turn.T)
    np.testing.assert_allclose(first["information"], second["information"], rtol=1e-6, atol=1e-9)
    assert float(first["moved"]) == pytest.approx(float(second["moved"]), rel=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_rank_is_found_though_every_raw_factor_is_in_use(panel, rank):
    """Loadings of low rank, turned so that no column is zero."""
    rng = np.random.default_rng(rank)
    thin = rng.normal(size=(3, rank)) @ rng.normal(size=(rank, 3))
    found = judged(linear_model(thin, np.zeros(3), 3), panel, np.eye(3))
    assert int((found["information"] > 1e-6).sum()) == rank
    assert float(found["moved"]) == (0.0 if rank == 0 else pytest.approx(1.0, abs=0.2))


def findings(fit, panel=None):
    """Judge by question; without a panel as if the characteristics had been ranked."""
    if panel is None:
        fit = copy.deepcopy(fit)
        fit.attrs["panel"] = '{"transform": "rank"}'
    return {each.question: each for each in fit.check(panel, num_particles=100).findings}


@pytest.fixture(scope="module")
def fit():
    """Fit of two factors, all of whose raw axes have a KL."""
    market = known_panel(20, 30, 2, seed=4, phi=0.0)
    config = rv.FitConfig(
        max_steps=3, window=10, dtype=torch.float64, kl_schedule=rv.schedules.Constant()
    )
    model = freeze(known_model(2, phi=0.0), but="likelihood")
    return rv.fit(model, market, config=config, progress=False), market


def test_a_fit_whose_loadings_differ_is_not_blamed(fit):
    for found in (findings(*fit), findings(fit[0])):
        assert found[FACTORS].verdict == "good", found[FACTORS]
        assert found[MOVED].verdict == "good", found[MOVED]


def zero(layer):
    layer.weight.zero_()


def constant(layer):
    """One exposure for all assets, seen by both raw factors."""
    layer.weight.zero_()
    layer.bias = torch.nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))


def one_direction(layer):
    """Both raw factors load on the same direction."""
    layer.weight.copy_(torch.tensor([[1.0, 0.5], [2.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("plant", "factors", "moved", "words"),
    [
        (zero, "bad", "bad", "2 of 2 carry nothing"),
        (constant, "look", "bad", "1 of 2 carries nothing"),
        (one_direction, "look", "good", "1 of 2 carries nothing"),
    ],
)
def test_loadings_changed_after_training_are_seen(fit, plant, factors, moved, words):
    """The records of training say nothing of them, and every raw factor had a KL."""
    trained, market = fit
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        plant(broken.model.loadings.layer)
    for found in (findings(broken, market), findings(broken)):
        assert found[FACTORS].verdict == factors, found[FACTORS]
        assert words in found[FACTORS].answer
        assert found[MOVED].verdict == moved, found[MOVED]
        assert ("No characteristic moves any loading" in found[MOVED].answer) == (moved == "bad")


@pytest.mark.parametrize(
    "make",
    [
        lambda: rv.loadings.MLP(3, 2, hidden=(4,)),
        lambda: rv.loadings.LSTM(3, 2, hidden=4),
        lambda: rv.loadings.LSTM(3, 2, hidden=4, skip=False),
        lambda: rv.loadings.Augmented(rv.loadings.MLP(3, 2, hidden=(4,))),
    ],
)
def test_every_kind_of_loadings_can_be_found_constant(panel, make):
    """A first layer of zeros: no input reaches the loadings, and small factors do not count."""
    loadings = make()
    prior = rv.priors.StandardNormal(2)
    if isinstance(loadings, rv.loadings.Augmented):
        prior = rv.priors.Augmented(prior, 3)
    model = rv.RVRAE(
        3, loadings.n_factors, loadings=loadings, factor_prior=prior,
        likelihood=rv.likelihoods.Normal(),
    ).double()  # fmt: skip
    config = rv.FitConfig(max_steps=1, dtype=torch.float64)
    trained = rv.fit(model, panel, config=config, progress=False)
    matrices = getattr(loadings, "learned", loadings).weight_matrices()
    with torch.no_grad():
        for weight in (*matrices.inputs, *matrices.others):
            weight.copy_(0.3 * torch.randn_like(weight))
    assert findings(trained, panel)[MOVED].verdict == "good"
    with torch.no_grad():
        for weight in matrices.inputs:
            weight.zero_()
    found = findings(trained, panel)
    assert found[MOVED].verdict == "bad"
    assert found[FACTORS].verdict in ("look", "bad")


@pytest.fixture(scope="module")
def with_effects(panel):
    """Fit whose characteristics move nothing, with effects by asset of full rank."""
    assets = panel["asset"].values.astype(str).tolist()
    base = rv.loadings.MLP(3, 2, hidden=(4,))
    loadings = rv.loadings.AssetEffects(base, assets)
    model = rv.RVRAE(
        3, 2, loadings=loadings, factor_prior=rv.priors.StandardNormal(2),
        likelihood=rv.likelihoods.Normal(),
    ).double()  # fmt: skip
    config = rv.FitConfig(max_steps=1, dtype=torch.float64)
    trained = rv.fit(model, panel, config=config, progress=False)
    loadings = trained.model.loadings
    with torch.no_grad():
        for weight in loadings.base.weight_matrices().inputs:
            weight.zero_()
        loadings.effects.copy_(torch.randn_like(loadings.effects))
    return trained


def test_exposures_that_differ_by_asset_alone_are_no_failure(with_effects, panel):
    """The effects count with a panel and without one: both give the same verdicts."""
    for found in (findings(with_effects, panel), findings(with_effects)):
        assert found[MOVED].verdict == "good"
        assert "Exposures differ by asset, not by characteristic" in found[MOVED].answer
        assert "less than 0.01 % with their characteristics" in found[MOVED].answer
        assert "same exposures" not in found[MOVED].answer
        assert found[FACTORS].verdict == "good", found[FACTORS]


def test_effects_that_are_zero_leave_one_exposure_for_all(with_effects, panel):
    flat = copy.deepcopy(with_effects)
    with torch.no_grad():
        flat.model.loadings.effects.zero_()
    for found in (findings(flat, panel), findings(flat)):
        assert found[MOVED].verdict == "bad"
        assert "All assets have the same exposures" in found[MOVED].answer
        assert "effects by asset" in found[MOVED].remedy


def test_raw_characteristics_are_not_judged_without_a_panel(fit):
    trained, _ = fit
    assert '"none"' in trained.attrs["panel"]
    assert all(each.question != MOVED for each in trained.check().findings)
