"""Six faults planted in real fits: the page names each, and says nothing bad of a sound fit."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.diagnostics.check_panel import check_calibration, check_skill, check_tails
from tests.diagnostics.helpers import freeze, known_model, known_panel

PANEL = known_panel(20, 40, 1, seed=4)
QUICK = {
    "window": 10,
    "learning_rate": 0.01,
    "dtype": torch.float64,
    "kl_schedule": rv.schedules.Constant(),
}


def page(fit: rv.Fit, panel: xr.Dataset = PANEL) -> dict[str, rv.diagnostics.Finding]:
    found = fit.check(panel, num_particles=200)
    assert all(finding.question in str(found) for finding in found.findings)
    return {finding.question: finding for finding in found.findings}


def fitted(model: rv.RVRAE, panel: xr.Dataset = PANEL, **config: object) -> rv.Fit:
    settings = rv.FitConfig(**{**QUICK, "max_steps": 4, **config})
    return rv.fit(model, panel, config=settings, progress=False)


def test_a_sound_fit_is_not_blamed() -> None:
    """The truth itself, with a prior whose months cannot be foretold."""
    panel = known_panel(20, 40, 1, seed=4, phi=0.0)
    model = freeze(known_model(1, phi=0.0), but="likelihood")
    found = page(fitted(model, panel), panel)
    bad = {q for q, f in found.items() if f.verdict == "bad"} - {"Did training converge?"}
    assert not bad
    for question in (
        "Is the guide good enough?",
        "Can the guide's draws be used as they are?",
        "Is the guide as sure as it should be?",
        "Are forecasts calibrated, one month ahead?",
        "Does the likelihood have the right tails?",
        "Is the skill believable?",
    ):
        assert found[question].verdict == "good", found[question]
    # every month of it was in the training: the reader is told
    for question in ("Are forecasts calibrated, one month ahead?", "Is the skill believable?"):
        assert "40 months, 40 of them trained on" in found[question].answer


def test_a_collapsed_posterior_is_named() -> None:
    """A guide that cannot see: weights at zero, its answer is the prior of every month."""
    model = known_model(
        1, guide=rv.guides.Recurrent(1, 4), factor_prior=rv.priors.StandardNormal(1)
    )
    with torch.no_grad():
        for weight in model.guide_part.parameters():
            weight.zero_()
    found = page(fitted(freeze(model, but="likelihood")))
    assert found["Are all factors in use?"].verdict == "bad"
    assert "1 of 1 carries nothing" in found["Are all factors in use?"].answer
    assert found["Is the guide good enough?"].verdict == "bad"


def test_a_weighted_kl_is_named_with_its_figure() -> None:
    """Trained under 1/T, the guide is too sure: in its objective, its width and its weights."""
    model = freeze(
        known_model(1, guide=rv.guides.Recurrent(1, 8), factor_prior=rv.priors.StandardNormal(1)),
        but="guide",
    )
    found = page(fitted(model, kl_reduction="mean", learning_rate=0.05, window=20, max_steps=150))
    assert found["Was the objective a bound on the evidence?"].verdict == "bad"
    sure = found["Is the guide as sure as it should be?"]
    assert sure.verdict == "bad"
    assert "too sure" in sure.answer
    assert found["Can the guide's draws be used as they are?"].verdict == "bad"


def test_too_few_steps_are_named() -> None:
    panel = rv.data.rank_characteristics(rv.data.simulate_dynamic(40, 40, 4, 2, seed=2))
    model = rv.RVRAE(4, 2, loadings=rv.loadings.MLP(4, 2))
    found = page(fitted(model, panel, max_steps=12, window=4), panel)
    assert found["Did training converge?"].verdict == "bad"
    assert "max_steps" in found["Did training converge?"].remedy


def test_a_wrong_likelihood_is_named() -> None:
    """Normal returns assumed, Student-t with three degrees of freedom seen."""
    rng = np.random.default_rng(0)
    panel = known_panel(60, 40, 1, seed=4, missing=0.0)
    noise = rng.standard_t(3, size=(40, 60)) * 0.05 / 3**0.5
    common = (panel["true_beta"] * panel["true_factors"]).sum("factor")
    panel["returns"] = common + xr.zeros_like(common).copy(data=noise)
    found = page(fitted(freeze(known_model(1), but="likelihood")), panel)
    finding = found["Does the likelihood have the right tails?"]
    assert finding.verdict == "bad"
    assert "too thin" in finding.answer
    assert "StudentT" in finding.remedy


def test_a_leak_is_named() -> None:
    """A characteristic that is the month's own return, ranked: dates are one month off."""
    panel = known_panel(20, 40, 1, seed=4, missing=0.0)
    peek = panel["returns"].to_numpy().argsort(1).argsort(1) / 9.5 - 1
    values = panel["characteristics"].copy(data=peek[..., None])
    leaky = panel.assign(characteristics=values)
    model = known_model(1, phi=0.9, factor_prior=rv.priors.AR1(1))
    found = page(fitted(model, leaky, max_steps=60), leaky)
    finding = found["Is the skill believable?"]
    assert finding.verdict == "bad"
    assert "lag=1" in finding.remedy


def test_a_rotation_between_members_is_named() -> None:
    """One fit and its mirror image with factors exchanged: every return is told alike."""
    panel = known_panel(20, 40, 2, seed=4)
    members = []
    for turn in (torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]])):
        model = known_model(2, phi=0.0)
        with torch.no_grad():
            model.loadings.layer.weight.copy_(turn.double())
        members.append(fitted(freeze(model, but="likelihood"), panel, max_steps=1))
    ensemble = rv.Ensemble.of(members, panel)
    found = {f.question: f for f in ensemble.check(panel, num_particles=100).findings}
    finding = found["Do members have the same factors?"]
    assert finding.verdict == "look"
    assert "Never average raw factors" in finding.answer
    assert "1.00 once aligned" in finding.answer
    assert found["Do members say the same of returns?"].verdict == "good"


def test_members_that_found_other_factors_are_named() -> None:
    rng = np.random.default_rng(0)
    means = xr.DataArray(rng.normal(size=(2, 40, 2)), dims=("chain", "time", "factor"))
    alignment = rv.diagnostics.align(means)
    fitted_returns = xr.DataArray(rng.normal(size=(2, 40, 9)), dims=("chain", "time", "asset"))
    pages = [rv.diagnostics.Check([], ()), rv.diagnostics.Check([], ())]
    found = rv.diagnostics.check_members(pages, alignment, fitted_returns).findings
    assert found[0].verdict == "bad"
    assert "Read no factor" in found[0].answer
    assert found[1].verdict != "good"


@pytest.mark.parametrize(("extra", "way"), [(0.35, "small"), (-0.35, "large")])
def test_tails_a_little_off_are_not_condemned(extra: float, way: str) -> None:
    """Kurtosis off by less than a half: which way risk errs, and a comparison to make."""
    made = xr.Dataset(
        {"tails": ("draw", np.full(50, 0.02)), "kurtosis": ("draw", np.full(50, 0.6))}
    )
    seen = xr.Dataset({"tails": 0.02, "kurtosis": 0.6 + extra})
    p_value = xr.Dataset({"tails": 0.5, "kurtosis": 0.0})
    tree = xr.DataTree.from_dict(
        {"posterior_predictive": made, "observed_data": seen, "p_value": p_value}
    )
    finding = check_tails(tree)
    assert finding.verdict == "look"
    assert f"somewhat {way}" in finding.answer
    assert "compare" in finding.remedy


def test_too_few_months_cannot_be_judged() -> None:
    returns = xr.DataArray(np.zeros((3, 5)), dims=("time", "asset"))
    draws = xr.DataArray(np.ones((1, 50, 3, 5)), dims=("chain", "draw", "time", "asset"))
    assert "too few" in check_calibration(returns, draws).answer


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "good"), (0.7, "bad"), (1.8, "look")])
def test_coverage_is_judged(scale, verdict) -> None:
    rng = np.random.default_rng(0)
    returns = xr.DataArray(rng.normal(size=(60, 40)), dims=("time", "asset"))
    draws = xr.DataArray(
        scale * rng.normal(size=(1, 400, 60, 40)), dims=("chain", "draw", "time", "asset")
    )
    finding = check_calibration(returns, draws)
    assert finding.verdict == verdict, finding
    assert ("narrow" in finding.answer) == (scale < 1)


def test_forecasts_far_worse_than_zero_are_not_called_fine() -> None:
    generator = np.random.default_rng(0)
    returns = xr.DataArray(generator.normal(size=(12, 9)), dims=("time", "asset"))
    wild = 100.0 * generator.normal(size=(12, 9))  # as means of draws that have no mean
    finding = check_skill(returns, returns.copy(data=wild))
    assert finding.verdict == "look"
    assert "far more than a forecast of zero" in finding.answer
    plain = check_skill(returns, 0.0 * returns)
    assert plain.verdict == "good"
    assert plain.answer.startswith("No skill in the means, and none claimed. Predictive R2 0.0 %")


def test_skill_has_the_standard_error_of_its_months() -> None:
    rng = np.random.default_rng(1)
    returns = xr.DataArray(rng.normal(size=(40, 25)), dims=("time", "asset"))
    forecast = 0.1 * returns + 0.05 * rng.normal(size=(40, 25))
    finding = check_skill(returns, forecast)
    gain, size = (returns**2 - (returns - forecast) ** 2).sum("asset"), (returns**2).sum("asset")
    r2 = float(gain.sum() / size.sum())
    error = float((gain - r2 * size).std(ddof=1) / size.mean()) / 40**0.5
    assert f"Predictive R2 {100 * r2:.1f} % (s.e. {100 * error:.1f})" in finding.answer
    ranks = np.array(
        [stats.spearmanr(a, b).statistic for a, b in zip(returns, forecast, strict=True)]
    )
    spread = f"{ranks.mean():.2f} per month (s.e. {ranks.std(ddof=1) / 40**0.5:.2f}"
    assert spread in finding.answer


def test_months_of_the_training_show_no_skill() -> None:
    """Twelve later months or two: only those are called skill; without one, it is not known."""
    panel = known_panel(20, 50, 1, seed=4, phi=0.0)
    model = freeze(known_model(1, phi=0.0), but="likelihood")
    train = panel.isel(time=slice(40))
    fit = fitted(model, train)
    for later, judged in ((50, 10), (42, 2)):
        finding = page(fit, panel.isel(time=slice(later)))["Is the skill believable?"]
        assert f"; {judged} months)" in finding.answer
    finding = page(fit, train)["Is the skill believable?"]
    assert finding.answer.startswith("Not known out of sample. In training:")


def test_a_leak_shows_in_the_forecasts() -> None:
    rng = np.random.default_rng(2)
    returns = xr.DataArray(rng.normal(size=(24, 30)), dims=("time", "asset"))
    leaked = 0.5 * returns + 0.3 * rng.normal(size=(24, 30))
    finding = check_skill(returns, leaked)
    assert finding.verdict == "bad"
    assert "suspect a characteristic that knows the month" in finding.answer


def test_forecasts_worse_than_zero_are_named() -> None:
    rng = np.random.default_rng(3)
    returns = xr.DataArray(rng.normal(size=(60, 30)), dims=("time", "asset"))
    finding = check_skill(returns, returns.copy(data=0.5 * rng.normal(size=(60, 30))))
    assert finding.verdict == "look"
    assert "err more than a forecast of zero" in finding.answer
    few = check_skill(returns[:3], returns[:3].copy(data=0.01 * rng.normal(size=(3, 30))))
    assert few.verdict == "good"
