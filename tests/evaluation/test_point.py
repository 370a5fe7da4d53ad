"""R squared and rank correlations against plain loops and closed forms."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rvrae_pyro.data.simulators import simulate_gkx
from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.evaluation import (
    hac_standard_error,
    predictive_r2,
    prevailing_mean,
    rank_ic,
    rank_icir,
    total_r2,
)


def table(values, start="2010-01-31"):
    values = np.asarray(values, dtype=float)
    coords = {
        "time": pd.date_range(start, periods=values.shape[0], freq="ME", unit="ns"),
        "asset": [f"a{i}" for i in range(values.shape[1])],
    }
    return xr.DataArray(values, coords, ("time", "asset"))


@pytest.fixture
def returns():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 12)) * 0.1
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    values[7] = np.nan  # a month without a single return
    return table(values)


@pytest.fixture
def forecast(returns):
    rng = np.random.default_rng(1)
    values = 0.3 * returns.fillna(0.0).values + rng.normal(size=returns.shape) * 0.05
    values[3, 4:] = np.nan
    return table(values)


def long(values, mask):
    """The observed cells along obs, with their labels."""
    time, asset = np.nonzero(mask.values)
    return xr.DataArray(
        values.values[..., time, asset],
        {
            "time": ("obs", mask.time.values[time]),
            "asset": ("obs", mask.asset.values[asset]),
            "obs": np.arange(len(time)),
        },
        (*values.dims[:-2], "obs"),
    )


@pytest.mark.parametrize("score", [total_r2, predictive_r2])
def test_r2_is_the_sum_over_cells_that_have_both(score, returns, forecast):
    above = below = 0.0
    for r, f in zip(returns.values.ravel(), forecast.values.ravel(), strict=True):
        if not (np.isnan(r) or np.isnan(f)):
            above += (r - f) ** 2
            below += r**2
    assert float(score(returns, forecast)) == pytest.approx(1 - above / below, rel=1e-12)


def test_r2_of_no_forecast_and_of_a_perfect_one(returns):
    assert float(predictive_r2(returns, xr.zeros_like(returns))) == 0.0
    assert float(total_r2(returns, returns)) == 1.0


def test_r2_does_not_demean():
    returns = table(np.full((5, 3), 0.02))
    assert float(predictive_r2(returns, returns * 0 + 0.01)) == pytest.approx(0.75)


def test_r2_a_month_and_a_cell(returns, forecast):
    monthly = total_r2(returns, forecast, per="month")
    assert monthly.dims == ("time",)
    assert np.isnan(monthly.values[7])
    one = total_r2(returns.isel(time=[4]), forecast.isel(time=[4]))
    assert float(monthly[4]) == pytest.approx(float(one))
    cells = total_r2(returns, forecast, per="cell")
    both = returns.notnull() & forecast.notnull()
    assert bool((cells.notnull() == both).all())
    assert float(cells.sum() / (returns**2).where(both).sum()) == pytest.approx(
        float(total_r2(returns, forecast))
    )


def test_r2_averages_draws_and_keeps_models(returns, forecast):
    noise = xr.DataArray([[-0.5, 0.0, 0.5]], dims=("chain", "draw"))
    two = xr.concat([forecast, 0 * forecast], "model") + noise
    scores = total_r2(returns, two)
    assert scores.dims == ("model",)
    assert float(scores[0]) == pytest.approx(float(total_r2(returns, forecast)))
    assert float(scores[1]) == pytest.approx(0.0, abs=1e-12)


def test_labels_decide_and_not_positions(returns, forecast):
    shuffled = forecast.isel(asset=[5, 2, 0, 1, 3, 4, 11, 10, 9, 8, 7, 6])
    assert float(total_r2(returns, shuffled)) == pytest.approx(float(total_r2(returns, forecast)))
    part = forecast.isel(time=slice(10, 20))
    expected = float(total_r2(returns.isel(time=slice(10, 20)), part))
    with pytest.warns(RvraeWarning, match=r"\d+ of 30 rows of `returns` are left out"):
        assert float(total_r2(returns, part)) == pytest.approx(expected)
    assert float(total_r2(returns.T, forecast)) == pytest.approx(float(total_r2(returns, forecast)))


@pytest.mark.parametrize("which", ["both", "returns", "forecast"])
def test_long_and_wide_forms_agree(returns, forecast, which):
    mask = returns.notnull()
    r = long(returns, mask) if which in ("both", "returns") else returns
    f = long(forecast, mask) if which in ("both", "forecast") else forecast
    for score in (total_r2, rank_icir):
        expected = score(returns, forecast, standard_error=True)
        xr.testing.assert_allclose(score(r, f, standard_error=True), expected)
    xr.testing.assert_allclose(
        rank_ic(r, f).dropna("time"), rank_ic(returns, forecast).dropna("time")
    )


def test_standard_error_is_the_newey_west_one_of_a_ratio(returns, forecast):
    import statsmodels.api as sm

    result = total_r2(returns, forecast, standard_error=True)
    assert set(result.data_vars) == {"estimate", "standard_error"}
    both = returns.notnull() & forecast.notnull()
    a = (returns**2 - (returns - forecast) ** 2).where(both, 0.0).sum("asset")
    b = (returns**2).where(both, 0.0).sum("asset")
    ratio = float(a.sum() / b.sum())
    shares = (a - ratio * b).values[b.values > 0]
    lags = int(4 * (len(shares) / 100) ** (2 / 9))
    fit = sm.OLS(shares, np.ones(len(shares))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True}
    )
    expected = fit.bse[0] * len(shares) / float(b.sum())
    assert float(result.estimate) == pytest.approx(ratio)
    assert float(result.standard_error) == pytest.approx(expected, rel=1e-10)


# mean Spearman correlation of the design below, from 2 million simulated months (error 0.0004)
TRUE_IC = 0.0539


def test_standard_error_covers_under_dependence_within_months():
    # 95 % intervals for the Rank IC of 400 panels of 60 months whose assets share a shock.
    # Newey-West undercovers a little: 0.930 over 6000 panels. Bounds: 4 binomial sds of 0.0128
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(24000, 20))
    common = rng.normal(size=(24000, 1))
    r = signal * (0.1 + common) + rng.normal(size=signal.shape)
    days = {"time": np.arange(24000)}
    monthly = rank_ic(*(xr.DataArray(x, days, ("time", "asset")) for x in (r, signal)))
    panels = xr.DataArray(monthly.values.reshape(400, 60), dims=("panel", "time"))
    error = abs(panels.mean("time") - TRUE_IC)
    inside = float((error < 1.96 * hac_standard_error(panels)).mean())
    assert 0.879 < inside < 0.981


def test_hac_standard_error_of_white_noise_and_of_a_moving_average():
    rng = np.random.default_rng(2)
    shocks = rng.normal(size=5001)
    white = xr.DataArray(shocks[1:], dims="time")
    assert float(hac_standard_error(white, lags=0)) == pytest.approx(
        float(white.std()) / np.sqrt(4999), rel=1e-9
    )
    # MA(1) with coefficient 1 has long-run variance 4; 5 % sampling error at 8 lags, 4 sd
    series = xr.DataArray(shocks[1:] + shocks[:-1], dims="time")
    assert float(hac_standard_error(series)) == pytest.approx(2 / np.sqrt(5000), rel=0.2)
    assert np.isnan(hac_standard_error(white[:1]))
    gaps = xr.where(np.arange(5000) < 10, np.nan, white)
    assert float(hac_standard_error(gaps)) == pytest.approx(float(hac_standard_error(white[10:])))


def test_prevailing_mean_uses_strictly_earlier_months():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 2))
    values[3, 1] = np.nan
    factors = xr.DataArray(values, {"time": np.arange(8), "factor": [0, 1]}, ("time", "factor"))
    result = prevailing_mean(factors)
    assert result.dims == factors.dims
    assert np.isnan(result.values[0]).all()
    for t in range(1, 8):
        np.testing.assert_allclose(result.values[t], np.nanmean(values[:t], axis=0), rtol=1e-12)


@settings(max_examples=15)
@given(month=st.integers(0, 9), seed=st.integers(0, 100))
def test_prevailing_mean_is_blind_to_its_own_month_and_later(month, seed):
    rng = np.random.default_rng(seed)
    factors = xr.DataArray(rng.normal(size=(10, 3)), dims=("time", "factor"))
    changed = factors.copy()
    changed[month:] = rng.normal(size=(10 - month, 3)) * 100
    before, after = prevailing_mean(factors), prevailing_mean(changed)
    np.testing.assert_array_equal(before.values[: month + 1], after.values[: month + 1])


def test_published_predictive_ceiling_and_no_leak():
    # true loadings, least-squares factors, prevailing mean, last 60 of 180 months: 3.12 % (se
    # 0.13) over 150 draws in the linear case. One draw has sd 1.6 points: mean of 12, 4 sd
    scores = []
    for seed in range(12):
        panel = simulate_gkx(n_characteristics=3, seed=seed)
        r, beta = panel.returns, panel.true_beta
        factors = np.stack(
            [
                np.linalg.lstsq(b, y, rcond=None)[0]
                for b, y in zip(beta.values, r.values, strict=True)
            ]
        )
        factors = panel.true_factors.copy(data=factors)
        forecast = xr.dot(beta, prevailing_mean(factors), dim="factor").isel(time=slice(120, None))
        scores.append(float(predictive_r2(r.isel(time=slice(120, None)), forecast)))
    assert np.mean(scores) == pytest.approx(0.0312, abs=4 * 0.016 / np.sqrt(12) + 0.004)
    # the fitted values use the month's own returns and score far higher
    assert float(total_r2(r, xr.dot(beta, factors, dim="factor"))) > 0.3


def test_rank_ic_is_spearman_over_the_pairs(returns, forecast):
    forecast = forecast.round(1)  # ties
    result = rank_ic(returns, forecast)
    assert result.dims == ("time",)
    for t in range(returns.sizes["time"]):
        r, f = returns.values[t], forecast.values[t]
        both = ~(np.isnan(r) | np.isnan(f))
        if both.sum() < 3 or len(set(f[both])) == 1:
            assert np.isnan(result[t])
        else:
            expected = stats.spearmanr(r[both], f[both]).statistic
            assert float(result[t]) == pytest.approx(expected, abs=1e-12)


def test_rank_ic_undefined_months_are_nan():
    returns = table([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    forecast = table([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(rank_ic(returns, forecast), [np.nan, np.nan, -1.0])


def test_rank_ic_summary_and_icir(returns, forecast):
    monthly = rank_ic(returns, forecast)
    result = rank_ic(returns, forecast, standard_error=True)
    assert float(result.estimate) == pytest.approx(float(monthly.mean()))
    assert float(result.standard_error) == pytest.approx(float(hac_standard_error(monthly)))
    values = monthly.dropna("time").values
    ratio = values.mean() / values.std(ddof=1)
    assert float(rank_icir(returns, forecast)) == pytest.approx(ratio)


def test_icir_standard_error_matches_its_asymptotic_formula():
    # independent months: T Var(ratio) = 1 - ratio * skewness + ratio^2 (kurtosis - 1) / 4;
    # the 8 lags of the window add a sampling error of 3 %, 4 sd allowed
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(3000, 5))
    r, f = table(signal + rng.normal(size=(3000, 5)) * 2), table(signal)
    result = rank_icir(r, f, standard_error=True)
    monthly, ratio = rank_ic(r, f).values, float(result.estimate)
    skewness, kurtosis = stats.skew(monthly), stats.kurtosis(monthly, fisher=False)
    variance = 1 - ratio * skewness + ratio**2 * (kurtosis - 1) / 4
    assert float(result.standard_error) == pytest.approx(np.sqrt(variance / 3000), rel=0.12)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_rank_ic_ignores_monotone_maps_and_asset_order(seed):
    rng = np.random.default_rng(seed)
    r, f = table(rng.normal(size=(4, 9))), table(rng.normal(size=(4, 9)))
    order = rng.permutation(9)
    expected = rank_ic(r, f)
    np.testing.assert_allclose(rank_ic(r, np.exp(f)), expected, atol=1e-12)
    np.testing.assert_allclose(rank_ic(-r, f.isel(asset=order)), -expected, atol=1e-12)


def test_misuse_is_named(returns, forecast):
    with pytest.raises(ShapeError, match=r"`returns` must be an xarray.DataArray; got ndarray"):
        total_r2(returns.values, forecast)
    with pytest.raises(ShapeError, match=r"`fitted` must be an xarray.DataArray; got Dataset"):
        total_r2(returns, forecast.to_dataset(name="x"))
    with pytest.raises(ShapeError, match=r"`forecast` must have dims .* without \['asset'\]"):
        predictive_r2(returns, forecast.rename(asset="stock"))
    with pytest.raises(ShapeError, match=r"`returns` must have dims .* and no others"):
        total_r2(returns.expand_dims(model=2), forecast)
    with pytest.raises(ShapeError, match="no label in common along \\['time'\\]"):
        total_r2(returns, forecast.assign_coords(time=forecast.time + np.timedelta64(9999, "D")))
    with pytest.raises(ShapeError, match="cannot be matched"):
        total_r2(returns.drop_vars("asset"), forecast.isel(asset=slice(3)).drop_vars("asset"))
    with pytest.raises(ShapeError, match="nothing to score"):
        total_r2(returns, forecast * np.nan)
    with pytest.raises(ConfigError, match="`per` must be 'panel', 'month' or 'cell'; got 'year'"):
        total_r2(returns, forecast, per="year")
    with pytest.raises(ConfigError, match="`standard_error` is for per='panel'"):
        total_r2(returns, forecast, per="month", standard_error=True)
    with pytest.raises(ShapeError, match="`factors` must have dims \\('time',\\)"):
        prevailing_mean(xr.DataArray([1.0], dims="month"))
    with pytest.raises(ConfigError, match="`lags` must be a whole number of at least 0"):
        hac_standard_error(returns.isel(asset=0), lags=-1)


def test_long_forms_with_other_cells_are_refused(returns, forecast):
    first = long(returns, returns.notnull())
    other = long(forecast, forecast.notnull())
    with pytest.raises(ShapeError, match="different 'time' labels along 'obs'"):
        total_r2(first, other)
    with pytest.raises(ShapeError, match="no coordinates \\['time', 'asset'\\] along it"):
        total_r2(returns, other.drop_vars(["time", "asset"]))
    with pytest.raises(ShapeError, match="lacks a cell that `fitted` has"):
        total_r2(returns.isel(time=slice(5)), other)
    bare = [x.drop_vars(["time", "asset"]) for x in (first, first * 0.5)]
    assert float(total_r2(*bare)) == pytest.approx(0.75)
    with pytest.raises(ShapeError, match="carries no coordinate 'time'"):
        total_r2(*bare, standard_error=True)
    with pytest.raises(ShapeError, match="carries no coordinate 'time'"):
        rank_ic(*bare)
