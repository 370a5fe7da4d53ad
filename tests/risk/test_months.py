"""Risk does not depend on the order of months, nor on the day of the month that dates them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.risk import (
    FactorCovariance,
    backtest,
    portfolio,
    portfolio_draws,
    scenario,
    summarize,
    to_scenarios,
)
from tests.risk.helpers import make_forecast

T = 30
DATES = {
    "business ends": pd.date_range("2020-01-01", periods=T, freq="BME"),
    "month starts": pd.date_range("2020-01-01", periods=T, freq="MS"),
    "Periods": pd.period_range("2020-01", periods=T, freq="M"),
    "YYYYMM": pd.Index(
        pd.period_range("2020-01", periods=T, freq="M").strftime("%Y%m").astype(int)
    ),
    "objects": pd.Index([202001 + k + 88 * (k // 12) for k in range(T)], dtype=object),
    "text": pd.Index(pd.period_range("2020-01", periods=T, freq="M").strftime("%Y-%m")),
}


def given(draws=400):
    """Forecast, what happened (with runs of bad months), and weights by month."""
    tree, _ = make_forecast(draws=draws + 1, n_times=T, seed=4)
    predictions = tree["predictions"].to_dataset()
    truth = predictions["returns"].isel(chain=0, draw=-1, drop=True).copy()
    truth[3:6] -= 0.3
    tree["predictions"] = predictions.isel(draw=slice(0, draws))
    rng = np.random.default_rng(0)
    weights = pd.DataFrame(rng.dirichlet(np.ones(5), T), truth.time.to_index(), truth.asset.values)
    return tree, truth, weights


def shuffled(tree, order):
    return tree.map_over_datasets(lambda x: x.isel(time=order) if "time" in x.dims else x)


def assert_same_trees(found, expected):
    for group in expected.groups:
        xr.testing.assert_allclose(
            found[group].to_dataset(), expected[group].to_dataset(), rtol=1e-10
        )
    assert found.attrs.get("conclusion") == expected.attrs.get("conclusion")


def test_shuffled_months_give_the_backtest_of_sorted_ones():
    tree, truth, weights = given()
    options = {"tail": 0.1, "num_simulations": 150}
    expected = backtest(tree, truth, {"mine": weights}, **options)
    assert expected["asset"]["independence"].max() > 1.0  # bad months come together
    orders = [np.random.default_rng(k).permutation(T) for k in range(3)]
    found = backtest(
        shuffled(tree, orders[0]),
        truth.isel(time=orders[1]),
        {"mine": weights.iloc[orders[2]]},
        **options,
    )
    assert_same_trees(found, expected)


@pytest.mark.parametrize("kind", DATES)
def test_returns_and_weights_are_dated_by_any_day(kind):
    tree, truth, weights = given(100)
    options = {"tail": 0.1, "num_simulations": 100}
    expected = backtest(tree, truth, {"mine": weights}, **options)
    dated = truth.assign_coords(time=("time", DATES[kind]))
    found = backtest(tree, dated, {"mine": weights.set_axis(DATES[kind])}, **options)
    assert_same_trees(found, expected)
    order = np.random.default_rng(0).permutation(T)
    assert_same_trees(
        portfolio(tree, weights.set_axis(DATES[kind]).iloc[order], tail=0.1),
        portfolio(tree, weights, tail=0.1),
    )
    array = xr.DataArray(weights.to_numpy(), {"time": DATES[kind], "asset": weights.columns},
                         ("time", "asset"))  # fmt: skip
    xr.testing.assert_allclose(
        portfolio_draws(tree, array.isel(time=order)), portfolio_draws(tree, weights)
    )


def test_forecasts_dated_by_business_days_meet_calendar_months():
    tree, truth, weights = given(100)
    business = tree.map_over_datasets(
        lambda x: x.assign_coords(time=DATES["business ends"]) if "time" in x.dims else x
    )
    options = {"tail": 0.1, "num_simulations": 100}
    found = backtest(business, truth, {"mine": weights}, **options)
    expected = backtest(tree, truth, {"mine": weights}, **options)
    assert found.attrs["conclusion"] == expected.attrs["conclusion"]
    np.testing.assert_allclose(found["asset"]["z2"], expected["asset"]["z2"])


def test_months_that_the_forecast_lacks_are_errors():
    tree, truth, weights = given(100)
    with pytest.raises(ShapeError, match=r"every time of the forecast; it lacks 1 \(2020-05-31\)"):
        backtest(tree, truth.drop_isel(time=4), tail=0.1)
    with pytest.raises(ShapeError, match=r"got 2 \(2022-07-31, 2022-08-31\) outside"):
        portfolio(tree, weights.set_axis(weights.index + pd.offsets.MonthEnd(2)), tail=0.1)
    twice = weights.set_axis([*weights.index[:-1], weights.index[0]])
    with pytest.raises(ShapeError, match=r"every month once along 'time', got 2020-01-31"):
        portfolio(tree, twice, tail=0.1)
    same_month = weights.set_axis([*weights.index[:-1], pd.Timestamp("2020-01-30")])
    with pytest.raises(ShapeError, match=r"must not repeat|outside"):
        portfolio(tree, same_month, tail=0.1)
    with pytest.raises(ShapeError, match="months as its rows"):
        portfolio(tree, weights.reset_index(drop=True), tail=0.1)


def test_other_answers_of_shuffled_forecasts():
    tree, _, weights = given(100)
    mixed = shuffled(tree, np.random.default_rng(0).permutation(T))
    xr.testing.assert_allclose(summarize(mixed, 0.1), summarize(tree, 0.1))
    one, other = FactorCovariance.from_forecast(mixed), FactorCovariance.from_forecast(tree)
    xr.testing.assert_allclose(one.variance(), other.variance())
    xr.testing.assert_allclose(one.minimum_variance(), other.minimum_variance())
    moved = [scenario(each, factors={1: -2.0}) for each in (mixed, tree)]
    xr.testing.assert_allclose(summarize(moved[0], 0.1), summarize(moved[1], 0.1))
    given_value = {"weights": weights, "value": -0.1, "method": "kernel", "bandwidth": 3.0}
    moved = [scenario(each, **given_value) for each in (mixed, tree)]
    xr.testing.assert_allclose(summarize(moved[0], 0.1), summarize(moved[1], 0.1))
    pd.testing.assert_frame_equal(to_scenarios(mixed, "2020-03"), to_scenarios(tree, 202003))
    parts = other.beta, other.factor_cov, other.idio_var
    again = FactorCovariance(*(each.isel(time=slice(None, None, -1)) for each in parts))
    xr.testing.assert_allclose(again.variance(), other.variance())


def test_covariances_are_picked_by_dates_of_any_kind():
    cov = FactorCovariance.from_forecast(given(50)[0])
    for times, count in (("2020", 12), (202003, 1), (slice("2021", None), 18),
                         (np.datetime64("2021"), 12), (["2020-02", 202101], 2)):  # fmt: skip
        assert cov.sel(times).beta.sizes["time"] == count
    for wrong in ("202013", "2031", slice("soon", None), ["2020-02", "2031-01"]):
        with pytest.raises(ShapeError, match="`times` must name months of the forecast"):
            cov.sel(wrong)
    with pytest.raises(ShapeError, match="must pick one month; got 12"):
        to_scenarios(given(50)[0], "2020")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_hedge_without_risk_has_no_marginals_by_rounding(dtype):
    tree, _ = make_forecast(draws=500, n_times=2, seed=3, dtype=dtype)
    draws = tree["predictions"]["returns"]
    draws.values[..., 1:] = draws.values[..., :1]  # all assets are one
    thirds = pd.Series([0.1, 0.2, 0.3, -0.4, -0.2], draws.asset.values)
    risk = portfolio(tree, thirds, tail=0.1)
    assert np.abs(risk["sd"]).max() < 1e-7
    for name in ("marginal_sd", "marginal_var", "marginal_es"):
        assert risk[name].isnull().all()
