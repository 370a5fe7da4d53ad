"""Weights with a posterior, brought up to date by importance, against exact refits."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import logsumexp

import rvrae_pyro as rv
from tests.diagnostics.helpers import UNIT
from tests.one_weight import SITE, T, best_normal, market, on_grid, one_weight, posterior

DRAWS, START = 150, 10


def exact_refits(panel: xr.Dataset) -> np.ndarray:
    """Log score of every month from START on, by the exact posterior of the months before it."""
    rows = on_grid(panel)
    return np.array([logsumexp(posterior(rows[:, :t]) + rows[:, t]) for t in range(START, T)])


def by_draw(fitted: rv.Fit, panel: xr.Dataset) -> xr.DataArray:
    return fitted.log_evidence(panel, by_weights=DRAWS)


def test_density_under_each_draw_is_that_of_dense_algebra() -> None:
    panel = market()
    fit = best_normal(panel)
    each = fit.log_evidence(panel, by_weights=30, seed=3)
    assert each.dims == ("weight_draw", "time")
    assert each.shape == (30, T)
    # evidence is smooth in the weight: each row is the grid's row of one value of it
    table = on_grid(panel)
    nearest = np.abs(table[None] - each.values[:, None]).max(-1).min(-1)
    assert nearest.max() < 0.02
    # the first draws are those of the mixture that forecasts come from
    mixed = logsumexp(fit.log_evidence(panel, by_weights=20, seed=3), axis=0) - np.log(20)
    np.testing.assert_allclose(fit.log_evidence(panel, seed=3), mixed, rtol=1e-10)
    with pytest.raises(rv.ConfigError, match="`by_weights` must be a whole number"):
        fit.log_evidence(panel, by_weights=0)


def test_shortcut_agrees_with_exact_refits() -> None:
    """18 months on one fit of ten: within 0.08 nats in each month and 0.5 in all.

    What is left is the Normal's misfit and the error of 150 draws. The draws as they were at the
    fit are off three times as far in the month that says most about the weight.
    """
    panel = market()
    exact = exact_refits(panel)
    found = rv.evaluation.leave_future_out(best_normal, panel, start=START, step=T, score=by_draw)
    gap = found["log_score"].values - exact
    assert found.attrs["n_refits"] == 1
    assert (found["khat"][1:] < 0.54).all()
    assert np.abs(gap).max() < 0.08
    assert abs(gap.sum()) < 0.5
    stale = rv.evaluation.leave_future_out(best_normal, panel, start=START, step=T)
    assert np.abs(stale["log_score"].values - exact).max() > 3 * np.abs(gap).max()


@pytest.mark.slow
def test_a_break_fires_the_refit() -> None:
    """From month 12 on, loadings are six times what they were: no old draw is near them."""
    panel = market(1)
    rng = np.random.default_rng(5)
    x = panel["characteristics"].values[12:, :, 0]
    values = UNIT * (6 * x * rng.normal(size=(T - 12, 1)) + rng.normal(size=x.shape))
    panel["returns"][12:] = np.where(panel["returns"][12:].isnull(), np.nan, values)
    found = rv.evaluation.leave_future_out(best_normal, panel, start=START, step=T, score=by_draw)
    fired = found.isel(time=found["refit"].values).isel(time=slice(1, None))
    assert 1 <= fired.sizes["time"] <= 8
    assert fired["time"][0] > panel.time[12]
    assert (fired["khat"] > 0.54).all()  # min(1 - 1 / log10(150), 0.7)
    assert (fired["age"] == 0).all()
    assert not (found["khat"].where(~found["refit"]) > 0.55).any()
    never = rv.evaluation.leave_future_out(
        best_normal, panel, start=START, step=T, score=by_draw, threshold=np.inf
    )
    assert never.attrs["n_refits"] == 1
    # and it was worth it: without it, scores are off by more than twice as much
    exact = exact_refits(panel)
    kept, lost = (np.abs(each["log_score"].values - exact).sum() for each in (found, never))
    assert lost > 2 * kept


@pytest.mark.slow
def test_trained_posteriors_agree_with_exact_refits() -> None:
    """Posterior of 12 months by SVI, then 16 months by importance: 0.1 nats a month on average.

    In one month, whose returns say most about the weight, it is off by up to 0.6. A refit made
    every six months agrees with it as closely.
    """
    panel = market(2)
    config = rv.FitConfig(
        max_steps=150,
        window=None,
        learning_rate=0.05,
        patience=150,
        weights_warmup=0.0,
        kl_schedule=rv.schedules.Constant(),
        dtype=torch.float64,
    )

    def make(past: xr.Dataset) -> rv.Fit:
        model = one_weight()
        for name, weight in model.parts.named_parameters():
            weight.requires_grad_(name == SITE or "log_scales" in name)
        return rv.fit(model, past, config=config, progress=False)

    found, often = (
        rv.evaluation.leave_future_out(make, panel, start=12, step=step, score=by_draw)
        for step in (T, 6)
    )
    for each in (found, often):
        gap = np.abs(each["log_score"].values - exact_refits(panel)[12 - START :])
        assert gap.max() < 0.6
        assert gap.mean() < 0.1
    assert found.attrs["n_refits"] == 1
    assert often.attrs["n_refits"] == 3
