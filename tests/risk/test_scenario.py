"""Scenarios: exact Gaussian conditioning against dense algebra, and kernel weights."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.risk import FactorCovariance, portfolio_draws, scenario, summarize
from tests.risk.helpers import equal_weights, make_forecast


def dense_conditional(cov, t, rows, surprise):
    """Condition the joint of factors and listed returns by dense algebra."""
    listed = cov.listed.values[t]
    beta, square = cov.beta.values[t][listed], cov.factor_cov.values[t]
    noise = np.diag(cov.idio_var.values[t][listed])
    joint = np.block([[square, square @ beta.T], [beta @ square, beta @ square @ beta.T + noise]])
    between = joint @ rows.T
    gain = between @ np.linalg.inv(rows @ between)
    return gain @ surprise, np.sqrt(np.maximum(np.diag(joint - gain @ between.T), 0)), listed


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), size=st.floats(-3, 3), value=st.floats(-0.2, 0.2))
def test_conditions_a_covariance_exactly(seed, size, value):
    tree, _ = make_forecast(draws=200, seed=seed, unlisted=[(1, 2)])
    cov, weights = FactorCovariance.from_forecast(tree), equal_weights(tree)
    result = scenario(cov, factors={2: size}, weights=weights, value=value)
    for t in range(3):
        held = weights.values[t][cov.listed.values[t]]
        rows = np.stack([np.r_[0, 1, 0 * held], np.r_[0, 0, held]])
        sd = np.sqrt(cov.factor_cov.values[t, 1, 1])
        shift, left, listed = dense_conditional(cov, t, rows, np.array([size * sd, value]))
        here = result.isel(time=t)
        np.testing.assert_allclose(here["mean_shift"].values[listed], shift[2:], atol=1e-10)
        np.testing.assert_allclose(here["sd"].values[listed], left[2:], rtol=1e-6)
        np.testing.assert_allclose(here["factor_shift"], shift[:2], atol=1e-10)
        np.testing.assert_allclose(here["factor_sd"], left[:2], atol=1e-6)
        assert np.isnan(here["mean_shift"].values[~listed]).all()
        assert (weights * result["mean_shift"]).sum("asset").values[t] == pytest.approx(value)
    alone = scenario(cov, factors={2: size})
    np.testing.assert_allclose(alone["distance"], abs(size), rtol=1e-9, atol=1e-12)


def test_moved_draws_meet_the_condition_and_have_the_conditional_moments():
    # 40000 normal draws: a mean has s.e. sd / 200 and an sd a relative s.e. of 0.4 %; 4 sd, plus
    # the error of the mean that the covariance's shift starts from
    tree, truth = make_forecast(draws=40_000)
    market = pd.Series(0.2, tree["predictions"]["asset"].values)
    moved = scenario(tree, weights=market, value=-0.10)
    np.testing.assert_allclose(portfolio_draws(moved, market), -0.10, atol=1e-12)
    cov = FactorCovariance.from_forecast(tree)
    mean = np.einsum("tnk,tk->tn", truth["beta"], truth["centre"])
    surprise = -0.10 - mean @ market.to_numpy()
    unit = scenario(cov, weights=market, value=1.0)
    expected = mean + surprise[:, None] * unit["mean_shift"].values
    result = summarize(moved)
    assert np.abs((result["mean"] - expected) / result["sd"]).max() < 0.03
    np.testing.assert_allclose(result["sd"], unit["sd"], rtol=0.02)
    split = result["factor_var"] + result["idio_var"] + result["parameter_var"]
    np.testing.assert_allclose(split, result["sd"] ** 2, rtol=1e-9)
    np.testing.assert_allclose(
        moved["scenario"]["distance"], np.abs(surprise) * unit["distance"], rtol=0.03
    )


def test_a_factor_that_falls_by_two_sd():
    tree, _ = make_forecast(draws=5000)
    moved = scenario(tree, factors={1: -2.0})
    before, after = tree["predictions"]["factors"], moved["predictions"]["factors"]
    expected = before.sel(factor=1).mean(["chain", "draw"]) - 2 * before.sel(factor=1).std(
        ["chain", "draw"]
    )
    np.testing.assert_allclose(after.sel(factor=1) - expected, 0.0, atol=1e-12)
    np.testing.assert_allclose(moved["scenario"]["distance"], 2.0, rtol=1e-9)
    shift = (moved["predictions"]["returns"] - tree["predictions"]["returns"]).mean(
        ["chain", "draw"]
    )
    np.testing.assert_allclose(
        shift, scenario(FactorCovariance.from_forecast(tree), factors={1: -2.0})["mean_shift"]
    )


def test_kernel_weights_agree_with_the_exact_answer():
    # normal draws: 40000 at a kernel of width 0.12 sd, one sd out: about 2900 effective draws,
    # s.e. of a mean 0.019 sd; bias of the kernel is below 0.02 sd; 0.1 sd allowed
    tree, _ = make_forecast(draws=40_000, n_times=2, chains=1)
    market = pd.Series(0.2, tree["predictions"]["asset"].values)
    spread = portfolio_draws(tree, market)
    value = float(spread.mean() - spread.std())
    exact = summarize(scenario(tree, weights=market, value=value))
    near = scenario(tree, weights=market, value=value, method="kernel")
    result = summarize(near)
    assert np.abs((result["mean"] - exact["mean"]) / exact["sd"]).max() < 0.1
    np.testing.assert_allclose(result["sd"], exact["sd"], rtol=0.06)
    assert bool((near["scenario"]["effective_draws"] > 1500).all())
    xr.testing.assert_identical(near, scenario(tree, weights=market, value=value, method="kernel"))


def test_kernel_draws_are_draws_of_the_forecast():
    tree, _ = make_forecast(draws=800, chains=2, unlisted=[(1, 0)])
    near = scenario(tree, factors={2: -1.0}, method="kernel", bandwidth=0.5, seed=1)
    old, new = tree["predictions"]["returns"].values, near["predictions"]["returns"].values
    assert new.shape == old.shape
    assert set(new[..., 1, 2].ravel()) <= set(old[..., 1, 2].ravel())
    assert np.isnan(new[:, :, 1, 0]).all()
    assert (
        near["predictions"]["factors"].sel(factor=2).mean()
        < -0.5 * tree["predictions"]["factors"].sel(factor=2).std()
    )


def test_far_scenarios_warn_or_fail():
    tree, _ = make_forecast(draws=500)
    with pytest.warns(RvraeWarning, match="fewer than 50 effective draws .* 3 .2020-01-31") as seen:
        scenario(tree, factors={1: -2.5}, method="kernel")
    assert seen[0].filename == __file__
    with pytest.raises(ConfigError, match=r"No draw comes near the condition in 3 .* Use method="):
        scenario(tree, factors={1: -9.0}, method="kernel")


def test_months_are_those_of_the_weights():
    tree, _ = make_forecast(draws=500)
    later = equal_weights(tree).isel(time=[2])
    moved = scenario(tree, weights=later, value=-0.05)
    assert moved["predictions"].time.values == tree["predictions"].time.values[2:]
    np.testing.assert_allclose(portfolio_draws(moved, later), -0.05)
    cov = FactorCovariance.from_forecast(tree)
    assert scenario(cov, weights=later, value=-0.05).sizes["time"] == 1


def test_members_with_their_own_loadings_need_kernels():
    tree, _ = make_forecast(draws=600, chains=2)
    constant = tree["predictions_constant_data"].to_dataset()
    beta = xr.concat([constant["beta"], 1.1 * constant["beta"]], "chain").assign_coords(
        chain=[0, 1]
    )
    tree["predictions_constant_data"] = constant.assign(beta=beta)
    with pytest.raises(ShapeError, match="its members have their own"):
        scenario(tree, factors={1: -1.0})
    near = scenario(tree, weights=equal_weights(tree), value=-0.02, method="kernel")
    assert "factors" not in near["predictions"].data_vars
    assert "no factors" in summarize(near, 0.05)["factor_var"].attrs["note"]


def test_bad_conditions_are_refused():
    tree, _ = make_forecast(draws=300)
    market = equal_weights(tree)
    cases = [
        ({}, "Give `factors`, or `weights` with `value`"),
        ({"weights": market}, "`weights` and `value` belong together"),
        ({"factors": {1: np.nan}}, "must be finite"),
        ({"factors": {7: -1.0}}, r"must name factors of the forecast, \[1, 2\]; got 1 \(7\)"),
        ({"factors": {1: -1.0}, "method": "exact"}, "`method` must be 'gaussian' or 'kernel'"),
        ({"factors": {1: -1.0}, "bandwidth": 0.0}, "`bandwidth` must be positive"),
        ({"weights": market * 0, "value": -0.1}, "must have risk in every month"),
        ({"weights": market * 0, "value": -0.1, "method": "kernel"}, "must have risk in every"),
    ]
    for arguments, match in cases:
        with pytest.raises(ConfigError, match=match):
            scenario(tree, **arguments)
    with pytest.raises(ShapeError, match="`weights` must be one portfolio; got 2"):
        scenario(tree, weights=xr.concat([market, market], "book"), value=-0.1)
    with pytest.raises(ConfigError, match="must be 'gaussian' for a covariance"):
        scenario(FactorCovariance.from_forecast(tree), factors={1: -1.0}, method="kernel")
    del tree["predictions_constant_data"]
    with pytest.raises(ShapeError, match="must hold 'factors' and 'beta' to condition on a factor"):
        scenario(tree, factors={1: -1.0}, method="kernel")
