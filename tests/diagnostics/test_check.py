"""What ``fit.check`` says of training runs with a known fault, and of one without."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.diagnostics import Check, active_units, check_training
from rvrae_pyro.diagnostics.check_panel import check_filter
from rvrae_pyro.diagnostics.check_training import check_evidence


def run(bounds, *, weight=1.0, kl=1.0, valid=True):
    """Records of a run whose bound took the given values, 10 steps an epoch."""
    steps = np.arange(len(bounds)) * 10
    history = pd.DataFrame(
        {
            "step": steps,
            "elbo": np.asarray(bounds, float),
            "valid_elbo": np.asarray(bounds, float) if valid else np.nan,
            "kl_weight": weight,
        }
    )
    shape = (len(bounds), 4, 2)
    curve = xr.DataArray(
        np.broadcast_to(kl, shape), coords={"step": steps}, dims=("step", "time", "factor")
    )
    return history, curve


def judge(history, kl, stopped="max_steps", best_step=None, reduction="sum", n_valid=100):
    best = int(history["step"].iloc[-1]) if best_step is None else best_step
    found = check_training(history, kl, stopped, best, reduction, 100, n_valid)
    return {finding.question: finding for finding in found}


RISING = list(range(100, 200, 5))
SETTLED = [100, 150, 190, *[200] * 17]


def test_a_finished_run_is_trusted():
    found = judge(*run(SETTLED), stopped="converged", best_step=30)
    assert all(finding.verdict == "good" for finding in found.values())
    assert Check(list(found.values()), ()).trusted


def test_too_few_steps_are_named():
    finding = judge(*run(RISING))["Did training converge?"]
    assert finding.verdict == "bad"
    assert "max_steps" in finding.remedy


def test_a_best_state_long_ago_is_no_reason_to_go_on():
    finding = judge(*run(SETTLED), best_step=30)["Did training converge?"]
    assert (finding.verdict, finding.remedy) == ("good", "")
    assert "step 30 of 190" in finding.answer


def test_convergence_does_not_hang_on_the_unit_of_returns():
    """Returns in percent move every log density by log 100, and no judgement with it."""
    for bounds in (RISING, SETTLED):
        shifted = [value - 100 * np.log(100) for value in bounds]
        first, second = (judge(*run(b))["Did training converge?"] for b in (bounds, shifted))
        assert first == second


def test_noise_of_the_bound_is_no_progress():
    """A bound that has settled, estimated with an error: however its last value fell out."""
    rng = np.random.default_rng(0)
    for case in range(40):
        settled = 130.0 + rng.normal(0.0, 1.0, 18)  # 100 returns: noise of 0.01 nats each
        finding = judge(*run(settled))["Did training converge?"]
        assert finding.verdict == "good", (case, finding)
        rising = settled + np.linspace(0.0, 30.0, 18)  # 0.1 nats per return in the last third
        assert judge(*run(rising))["Did training converge?"].verdict == "bad", case


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_bound_that_falls_is_not_converged(noise):
    """100 returns: it falls by 0.1 nats per return in the last third."""
    rng = np.random.default_rng(1)
    falling = 130.0 + noise * rng.normal(0.0, 1.0, 18) - np.linspace(0.0, 30.0, 18)
    finding = judge(*run(falling, valid=False), n_valid=0)["Did training converge?"]
    assert finding.verdict == "look"
    assert "fell by 0.1" in finding.answer
    assert "learning_rate" in finding.remedy
    assert "max_steps" not in finding.remedy


def test_a_fall_within_the_limit_is_reported_as_a_fall():
    falling = 130.0 - np.linspace(0.0, 0.3, 18)  # 0.001 nats per return in the last third
    finding = judge(*run(falling, valid=False), n_valid=0)["Did training converge?"]
    assert finding.verdict == "good"
    assert "fell by 0.001 over the last third" in finding.answer


def test_an_interrupted_run_is_named():
    assert judge(*run(SETTLED), stopped="interrupted")["Did training converge?"].verdict == "bad"


@pytest.mark.parametrize(("reduction", "weight"), [("mean", 1 / 36), ("sum", 0.25)])
def test_an_objective_that_is_no_bound_is_named(reduction, weight):
    found = judge(*run(SETTLED, weight=weight), stopped="converged", reduction=reduction)
    finding = found["Was the objective a bound on the evidence?"]
    assert finding.verdict == "bad"
    assert f"{1 / np.sqrt(weight):.0f} times too narrow" in finding.answer


def test_a_warm_up_cut_short_asks_for_steps_and_not_for_what_is_set_already():
    history, kl = run(SETTLED)
    history["kl_weight"] = np.linspace(0.1, 0.775, len(history))
    finding = judge(history, kl)["Was the objective a bound on the evidence?"]
    assert "still rising, at 0.775 of 1" in finding.answer
    assert "up to 1.1 times too narrow" in finding.answer
    assert "max_steps" in finding.remedy
    assert "kl_reduction" not in finding.remedy


@pytest.mark.parametrize(
    ("kl", "verdict"), [([1.0, 1.0], "good"), ([1.0, 0.0], "look"), ([0.0, 0.0], "bad")]
)
def test_a_collapsed_posterior_is_named(kl, verdict):
    found = judge(*run(SETTLED, kl=np.array(kl)), stopped="converged")
    assert found["Are all factors in use?"].verdict == verdict


def test_a_bound_that_falls_outside_training_is_named():
    history, kl = run(SETTLED)
    history["valid_elbo"] -= 60.0
    found = judge(history, kl, stopped="converged")
    assert found["Does it hold outside the training months?"].verdict == "look"
    assert "Does it hold outside the training months?" not in judge(history, kl, n_valid=0)


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "good"), (2.0, "look"), (9.0, "bad")])
def test_a_guide_far_under_the_evidence_is_named(gap, verdict):
    evidence = xr.DataArray(np.random.default_rng(0).normal(50, 5, 40), dims="time")
    assert check_evidence(evidence - gap, evidence).verdict == verdict


@pytest.mark.parametrize(("excess", "verdict"), [(0.05, "good"), (0.6, "look"), (3.0, "bad")])
def test_a_bound_above_the_evidence_is_put_into_words(excess, verdict):
    evidence = xr.DataArray(np.random.default_rng(0).normal(50, 5, 40), dims="time")
    finding = check_evidence(evidence + excess, evidence)
    assert finding.verdict == verdict
    assert f"lies {excess:.2f} nats per month (s.e. 0.00) above the evidence" in finding.answer
    assert ("No lower bound can" in finding.answer) == (verdict != "good")
    assert ("particles" in finding.remedy) == (verdict != "good")


@pytest.mark.parametrize(
    ("ess", "verdict", "words"),
    [
        ([400.0] * 40, "good", "smallest 400"),
        ([400.0] * 38 + [19.0, 300.0], "look", "1 of 40 months has fewer than 20"),
        ([400.0] * 30 + [3.0] * 10, "bad", "10 of 40 months have fewer than 20"),
        ([400.0] * 39 + [1.6], "look", "smallest 1.6 ("),
    ],
)
def test_a_filter_that_degenerates_is_named(ess, verdict, words):
    months = pd.date_range("2000-01-31", periods=len(ess), freq="ME", unit="ns")
    finding = check_filter(xr.DataArray(ess, {"time": months}, "time"), 1000)
    assert finding.verdict == verdict
    assert words in finding.answer
    assert str(months[int(np.argmin(ess))])[:10] in finding.answer
    exact = check_filter(xr.DataArray(ess, {"time": months}, "time"), 1000, exact=True)
    assert exact.verdict == "good"


def test_the_page_says_what_is_bad_what_to_try_and_what_stays_unknown():
    found = judge(*run(RISING))
    page = str(Check(list(found.values()), ("the weather",)))
    assert "[BAD ] Did training converge?" in page
    assert "Try: a larger `max_steps`" in page
    assert page.endswith("- the weather")


def test_a_real_fit_is_judged_with_and_without_a_panel():
    panel = rv.data.simulate_linear_gaussian(n_assets=12, n_times=30, n_factors=2, seed=1)
    panel = rv.data.rank_characteristics(panel)
    model = rv.RVRAE(2, 2, factor_prior=rv.priors.AR1(2), likelihood=rv.likelihoods.Normal())
    fit = rv.fit(model, panel, config=rv.FitConfig(max_steps=20), progress=False)
    assert len(fit.check(panel, num_particles=50).findings) > len(fit.check().findings)


def test_active_units_vary_over_time():
    means = xr.DataArray([[0.0, 1.0], [0.01, -1.0]], dims=("time", "factor"))
    assert active_units(means).values.tolist() == [False, True]
    with pytest.raises(rv.ShapeError, match="'time'"):
        active_units(means.rename(time="month"))
