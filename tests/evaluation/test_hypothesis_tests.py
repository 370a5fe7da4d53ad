"""Tests of forecasts and factors against textbook formulas and simulation."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.evaluation import (
    diebold_mariano,
    fama_macbeth,
    grs,
    hac_standard_error,
    model_confidence_set,
)


def months(n):
    return pd.date_range("2010-01-31", periods=n, freq="ME", unit="ns")


def series(values):
    return xr.DataArray(values, {"time": months(len(values))}, ("time",))


def test_diebold_mariano_without_lags_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(0.3, size=40)
    result = diebold_mariano(series(a), series(b), lags=0)
    expected = stats.ttest_rel(a, b)
    assert float(result.statistic) == pytest.approx(expected.statistic)
    assert float(result.p_value) == pytest.approx(expected.pvalue)
    assert float(result.difference) == pytest.approx((a - b).mean())


def test_diebold_mariano_averages_cells_to_months_first():
    rng = np.random.default_rng(1)
    cells = rng.normal(size=(2, 30, 5))
    cells[:, 3] = np.nan
    cells[0, rng.uniform(size=(30, 5)) < 0.2] = np.nan
    coords = {"time": months(30), "asset": list("abcde")}
    first, second = (xr.DataArray(c, coords, ("time", "asset")) for c in cells)
    result = diebold_mariano(first, second)
    monthly = (first - second).mean("asset")
    assert int(result.n_times) == int(monthly.notnull().sum()) <= 29
    error = float(hac_standard_error(monthly))
    assert float(result.statistic) == pytest.approx(float(monthly.mean()) / error)


@pytest.mark.statistical
def test_diebold_mariano_holds_its_size_under_dependence():
    # 2000 tests at 5 % of autocorrelated differences: 0.05 with s.e. 0.005, and some excess
    # of the kernel; without lags the rate would be above 0.12. Failure rate below 1e-4
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2000, 202))
    loss = xr.DataArray(noise[:, 2:] + noise[:, 1:-1], dims=("run", "time"))
    rate = float((diebold_mariano(loss, xr.zeros_like(loss)).p_value < 0.05).mean())
    naive = float((diebold_mariano(loss, xr.zeros_like(loss), lags=0).p_value < 0.05).mean())
    assert 0.03 < rate < 0.09
    assert naive > 0.12


def test_diebold_mariano_has_no_opinion_on_equal_forecasts():
    result = diebold_mariano(series(np.ones(10)), series(np.ones(10)))
    assert float(result.difference) == 0.0
    assert np.isnan(result.p_value)


def test_diebold_mariano_refuses_what_does_not_match():
    left = series(np.ones(5))
    with pytest.raises(ShapeError, match="no label in common"):
        diebold_mariano(left, left.assign_coords(time=left.time + np.timedelta64(900, "D")))
    with pytest.raises(ShapeError, match=r"must have dims \('time',\)"):
        diebold_mariano(left, left.rename(time="month"))
    with pytest.raises(ConfigError, match="`lags`"):
        diebold_mariano(left, left, lags=-1)


def test_confidence_set_keeps_the_best_and_drops_the_worst():
    pytest.importorskip("arch")
    rng = np.random.default_rng(3)
    shift = np.array([0.5, 0.0, 1.5, 0.01])
    losses = xr.DataArray(
        rng.normal(size=(80, 1)) + shift + 0.2 * rng.normal(size=(80, 4)),
        {"time": months(80), "model": list("abcd")},
        ("time", "model"),
    )
    result = model_confidence_set(losses, 0.1, num_samples=100)
    assert result.included.to_series().to_dict() == {"a": False, "b": True, "c": False, "d": True}
    assert float(result.p_value.max()) == 1.0
    again = model_confidence_set(losses[:, ::-1], 0.1, num_samples=100)
    assert list(again.included.values) == list(result.included.values[::-1])
    xr.testing.assert_equal(result, model_confidence_set(losses, 0.1, num_samples=100))


def test_confidence_set_says_what_is_wrong(monkeypatch):
    losses = xr.DataArray(np.eye(4), dims=("time", "model"))
    with pytest.raises(ConfigError, match="`size` must be in"):
        model_confidence_set(losses, 1.0)
    with pytest.raises(ShapeError, match="two models"):
        model_confidence_set(losses[:, :1])
    with pytest.raises(ConfigError, match="`num_samples`"):
        model_confidence_set(losses, num_samples=0)
    monkeypatch.setitem(sys.modules, "arch.bootstrap", None)
    with pytest.raises(ConfigError, match="pip install arch"):
        model_confidence_set(losses)


def priced_portfolios(alpha=0.0, n_times=120, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(0.005, 0.04, size=(n_times, 2))
    beta = rng.normal(size=(6, 2))
    returns = alpha + factors @ beta.T + 0.02 * rng.normal(size=(n_times, 6))
    time = {"time": months(n_times)}
    return (
        xr.DataArray(
            returns, {**time, "portfolio": [f"p{i}" for i in range(6)]}, ("time", "portfolio")
        ),
        xr.DataArray(factors, {**time, "factor": [1, 2]}, ("time", "factor")),
    )


def test_grs_is_the_textbook_statistic():
    returns, factors = priced_portfolios(0.002)
    result = grs(returns, factors)
    r, f = returns.values, factors.values
    design = np.column_stack([np.ones(len(f)), f])
    beta, *_ = np.linalg.lstsq(design, r, rcond=None)
    e = r - design @ beta
    sigma = e.T @ e / (len(f) - 3)
    omega = np.cov(f.T, ddof=0)
    mean = f.mean(0)
    # with the unbiased residual covariance
    t, n, k = len(f), 6, 2
    quadratic = beta[0] @ np.linalg.inv(sigma) @ beta[0] / (1 + mean @ np.linalg.inv(omega) @ mean)
    expected = t * (t - n - k) / (n * (t - k - 1)) * quadratic
    assert float(result.statistic) == pytest.approx(expected, rel=1e-6)
    assert float(result.p_value) == pytest.approx(stats.f.sf(expected, n, t - n - k), rel=1e-5)
    np.testing.assert_allclose(result.alpha, beta[0], atol=1e-10)
    assert list(result.portfolio.values) == list(returns.portfolio.values)


@pytest.mark.statistical
def test_grs_finds_alphas_and_holds_its_size():
    # exact F: 50 tests at 10 %, 5 expected with s.d. 2.1; failure rate 0.006
    count = sum(float(grs(*priced_portfolios(seed=s)).p_value) < 0.1 for s in range(50))
    assert 0 < count < 13
    assert float(grs(*priced_portfolios(0.02)).p_value) < 1e-6


def test_grs_refuses_too_few_months():
    returns, factors = priced_portfolios(n_times=8)
    with pytest.raises(ShapeError, match="share more months"):
        grs(returns, factors)
    with pytest.raises(ShapeError, match="must have dims"):
        grs(returns.expand_dims("model"), factors)


def test_fama_macbeth_averages_monthly_slopes():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 20, 2))
    y = 0.01 + x @ np.array([0.02, -0.01]) + 0.05 * rng.normal(size=(30, 20))
    y[rng.uniform(size=y.shape) < 0.2] = np.nan
    y[7, 3:] = np.nan  # three assets for three coefficients
    coords = {"time": months(30), "asset": [f"a{i}" for i in range(20)]}
    returns = xr.DataArray(y, coords, ("time", "asset"))
    predictors = xr.DataArray(
        x, {**coords, "characteristic": ["size", "value"]}, ("time", "asset", "characteristic")
    )
    slopes = []
    for t in range(30):
        seen = ~np.isnan(y[t])
        if seen.sum() > 3:
            design = np.column_stack([np.ones(seen.sum()), x[t, seen]])
            slopes.append(np.linalg.lstsq(design, y[t, seen], rcond=None)[0])
    result = fama_macbeth(returns, predictors)
    np.testing.assert_allclose(result.premium, np.mean(slopes, axis=0), atol=1e-12)
    assert result.attrs["n_times"] == len(slopes) == 29
    assert list(result.characteristic.values) == ["constant", "size", "value"]
    error = hac_standard_error(xr.DataArray(np.array(slopes), dims=("time", "slope")))
    np.testing.assert_allclose(result.standard_error, error, rtol=1e-10)


def test_fama_macbeth_takes_a_forecast_and_refuses_thin_months():
    rng = np.random.default_rng(5)
    coords = {"time": months(12), "asset": list("abcdef")}
    forecast = xr.DataArray(rng.normal(size=(12, 6)), coords, ("time", "asset"), name="forecast")
    returns = 0.5 * forecast + 0.1 * rng.normal(size=(12, 6))
    result = fama_macbeth(returns, forecast)
    assert list(result.characteristic.values) == ["constant", "forecast"]
    assert float(result.premium[1]) == pytest.approx(0.5, abs=0.15)
    with pytest.raises(ShapeError, match="more than 2 complete"):
        fama_macbeth(returns[:, :2], forecast)


@pytest.mark.parametrize("shift", [0.07, 1e3])
def test_diebold_mariano_is_silent_where_the_difference_never_varies(shift):
    scores = np.random.default_rng(4).normal(size=30)
    result = diebold_mariano(series(scores + shift), series(scores))
    assert float(result.difference) == pytest.approx(shift)
    assert np.isnan(result.p_value)
    assert np.isnan(result.standard_error)


def test_models_of_equal_losses_share_a_verdict():
    pytest.importorskip("arch")
    rng = np.random.default_rng(5)
    good, bad = rng.normal(size=60), rng.normal(1.0, size=60)
    table = xr.DataArray(
        np.stack([bad, good, good], 1),
        {"time": months(60), "model": ["bad", "good", "its twin"]},
        ("time", "model"),
    )
    found = model_confidence_set(table, num_samples=200)
    assert found.included.values.tolist() == [False, True, True]
    assert float(found.p_value[1]) == float(found.p_value[2])
    assert model_confidence_set(table[:, 1:], num_samples=200).included.all()
    with pytest.raises(ShapeError, match="and no other"):
        model_confidence_set(table.expand_dims(seed=2))


def _cross_sections(seed=6, n_times=24, n_assets=30):
    rng = np.random.default_rng(seed)
    labels = {"time": months(n_times), "asset": [f"a{i}" for i in range(n_assets)]}
    returns = xr.DataArray(rng.normal(size=(n_times, n_assets)), labels, ("time", "asset"))
    predictors = xr.DataArray(
        rng.normal(size=(n_times, n_assets, 2)),
        {**labels, "characteristic": ["p", "q"]},
        ("time", "asset", "characteristic"),
    )
    return returns, predictors


def test_months_that_do_not_determine_the_slopes_are_dropped_and_not_counted():
    returns, predictors = _cross_sections()
    flat = predictors.copy(deep=True)
    flat[3, :, 0] = 1.0
    found = fama_macbeth(returns, flat)
    keep = np.arange(24) != 3
    expected = fama_macbeth(returns[keep], predictors[keep])
    assert found.attrs["n_times"] == 23
    xr.testing.assert_allclose(found, expected)


def test_regressions_refuse_in_words_what_they_cannot_tell_apart():
    returns, predictors = _cross_sections()
    twins = predictors.copy(deep=True)
    twins[..., 1] = twins[..., 0]
    with pytest.raises(ShapeError, match=r"share two months .* combination of others; got 0"):
        fama_macbeth(returns, twins)
    with pytest.raises(ShapeError, match=r"share two months .* got 1"):
        fama_macbeth(returns[:1], predictors[:1])
    with pytest.raises(ShapeError, match="must not be called 'constant'"):
        fama_macbeth(returns, predictors.assign_coords(characteristic=["constant", "q"]))
    portfolios = returns[:, :3].rename(asset="portfolio")
    factors = predictors[:, 0].rename(characteristic="factor").reset_coords(drop=True)
    assert grs(portfolios.assign_coords(portfolio=["a", "a", "b"]), factors).attrs["n_times"] == 24
    with pytest.raises(ShapeError, match="`returns` must not hold"):
        grs(xr.concat([portfolios, portfolios[:, :1]], "portfolio"), factors)
