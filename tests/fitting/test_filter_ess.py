"""Effective sample sizes of the particle filter, where they are low, and what they do to errors."""

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.diagnostics.helpers import freeze, known_model, known_panel

T = 16


@pytest.fixture(scope="module")
def panel():
    return known_panel(12, T, 1, seed=4, missing=0.0)


def fitted(panel, **parts):
    model = freeze(known_model(1, **parts), but="likelihood")
    config = rv.FitConfig(max_steps=2, window=8, dtype=torch.float64)
    return rv.fit(model, panel, config=config, progress=False)


@pytest.fixture(scope="module")
def fit(panel):
    """A fit whose evidence needs particles."""
    return fitted(panel, likelihood=rv.likelihoods.StudentT())


@pytest.fixture(scope="module")
def exact(panel):
    return fitted(panel)


def with_ess(filtered, ess):
    """The same filter pass with other sample sizes."""
    draw = filtered.chains[0][0]
    states = dataclasses.replace(draw.states, ess=torch.as_tensor(ess, dtype=torch.float64))
    return dataclasses.replace(filtered, chains=((dataclasses.replace(draw, states=states),),))


def test_the_error_of_the_evidence_is_its_spread_over_seeds(fit, panel):
    """60 seeds give a deviation to 9 %; the first month has no earlier errors; 4 sd allowed."""
    passes = [fit.filter(panel, 300, seed) for seed in range(60)]
    first = np.array([float(each.log_evidence()[0]) for each in passes])
    stated = np.array([float(each.evidence_error[0]) for each in passes])
    assert first.std(ddof=1) == pytest.approx(np.sqrt((stated**2).mean()), rel=0.36)
    filtered = passes[0]
    expected = np.sqrt(1.0 / filtered.ess - 1.0 / 300)
    np.testing.assert_allclose(filtered.evidence_error, expected, rtol=1e-10)


def test_an_exact_model_has_no_error_and_no_warning_from_few_draws(exact, panel):
    filtered = exact.filter(panel, 5)
    assert (filtered.evidence_error == 0.0).all()
    assert filtered.warning() == {}
    assert "warning" not in filtered.log_evidence().attrs


def test_months_with_few_particles_carry_a_warning(fit, panel):
    filtered = fit.filter(panel, 400)
    assert filtered.warning() == {}
    low = np.full(T, 350.0)
    low[[3, 7]] = 12.0, 4.5
    poor = with_ess(filtered, low)
    with pytest.warns(rv.RvraeWarning, match="2 of 16 months have fewer than 20") as caught:
        evidence = poor.log_evidence()
    assert caught[0].filename == __file__
    assert evidence.attrs["warning"].endswith("More particles need a larger `num_samples`.")
    many = dataclasses.replace(poor, chains=(poor.chains[0] * 8,))
    assert "Each of 8 draws of the weights has a filter of its own" in many.warning()["warning"]
    assert "where `num_samples` is above 800." in many.warning()["warning"]
    assert "smallest 4.5" in evidence.attrs["warning"]
    assert str(panel["time"].values[3])[:10] in evidence.attrs["warning"]
    assert poor.factors().attrs["warning"] == evidence.attrs["warning"]
    # who asks for few particles knows: the result says it, without a warning
    rough = with_ess(fit.filter(panel, 50), np.full(T, 10.0))
    assert "16 of 16 months" in rough.log_evidence().attrs["warning"]


def test_check_states_the_sample_size(fit, exact, panel):
    question = "Does the particle filter hold?"
    found = {f.question: f for f in fit.check(panel, num_particles=400).findings}[question]
    assert found.verdict == "good"
    ess = fit.filter(panel, 400, fit.seed).ess
    assert f"smallest {float(ess.min()):.0f} (" in found.answer
    low = np.full(T, 350.0)
    low[5] = 3.0
    poor = with_ess(fit.filter(panel, 400), low)
    found = {f.question: f for f in fit.check(poor).findings}[question]
    assert found.verdict == "look"
    assert f"smallest 3.0 ({str(panel['time'].values[5])[:10]})" in found.answer
    found = {f.question: f for f in exact.check(panel, num_particles=100).findings}[question]
    assert "exact" in found.answer


def test_comparison_states_and_adds_the_error_of_the_filter(fit, exact, panel):
    table = rv.evaluation.compare({"t": fit, "normal": exact}, panel, num_samples=300, seed=1)
    filtered = fit.filter(panel, 300, 1)
    np.testing.assert_allclose(table["ess"].sel(model="t"), filtered.ess)
    error = float((filtered.evidence_error**2).sum() ** 0.5) / T
    one = table.sel(model="t")
    assert float(one["filter_error"]) == pytest.approx(error, rel=1e-10)
    assert float(one["smallest_ess"]) == pytest.approx(float(filtered.ess.min()))
    months = float(rv.evaluation.hac_standard_error(filtered.log_evidence()))
    assert float(one["standard_error"]) == pytest.approx(np.hypot(months, error), rel=1e-10)
    assert float(table["filter_error"].sel(model="normal")) == 0.0
    gap = table["log_scores"].isel(model=1) - table["log_scores"].isel(model=0)
    apart = float(rv.evaluation.hac_standard_error(gap.reset_coords(drop=True)))
    last = table.isel(model=1)
    assert float(last["difference_error"]) == pytest.approx(np.hypot(apart, error), rel=1e-8)
    assert float(table["difference_error"][0]) == 0.0
    assert "warning" not in table.attrs


class Poor:
    """A fit whose filter has few effective particles in a month."""

    def __init__(self, fit):
        self.fit = fit

    def filter(self, panel, num_samples=1000, seed=0):
        low = np.full(T, 100.0)
        low[2] = 7.0
        return with_ess(self.fit.filter(panel, 150, seed), low)


def test_comparison_warns_of_few_particles(fit, exact, panel):
    table = rv.evaluation.compare({"poor": Poor(fit), "normal": exact}, panel)
    assert "poor in 1 months" in table.attrs["warning"]
    later = rv.evaluation.compare({"poor": Poor(fit), "normal": exact}, panel, times=panel.time[3:])
    assert "warning" not in later.attrs  # of months that count alone
    scores = xr.DataArray(np.zeros(T), {"time": panel["time"].values}, ("time",))
    mixed = rv.evaluation.compare({"poor": Poor(fit), "elsewhere": scores}, panel)
    assert bool(mixed["ess"].sel(model="elsewhere").isnull().all())
    assert float(mixed["filter_error"].sel(model="elsewhere")) == 0.0
