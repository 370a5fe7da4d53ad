"""Sorted portfolios against plain loops; Sharpe ratios against formulas and simulation."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.evaluation import long_short, sharpe_ratio


def table(values, assets=None):
    values = np.asarray(values, dtype=float)
    coords = {
        "time": pd.date_range("2010-01-31", periods=len(values), freq="ME", unit="ns"),
        "asset": assets or [f"a{i:02d}" for i in range(values.shape[1])],
    }
    return xr.DataArray(values, coords, ("time", "asset"))


def market(seed=0, n_times=12, n_assets=23):
    rng = np.random.default_rng(seed)
    returns = 0.1 * rng.normal(size=(n_times, n_assets))
    forecast = 0.3 * returns + 0.05 * rng.normal(size=returns.shape)
    returns[rng.uniform(size=returns.shape) < 0.1] = np.nan
    forecast[rng.uniform(size=returns.shape) < 0.1] = np.nan
    return table(forecast), table(returns)


def plain(forecast, returns, quantile, cost, weight=None):
    """One asset at a time, with dictionaries."""
    rows, held = [], {}
    for t in range(forecast.sizes["time"]):
        guess = forecast[t].dropna("asset").to_series()
        if weight is not None:
            size = weight[t].to_series()
            guess = guess[[a for a in guess.index if size[a] > 0]]
        else:
            size = pd.Series(1.0, guess.index)
        ranked = guess.sort_values(kind="stable").index
        n = max(1, int(quantile * len(ranked)))
        legs = {}
        for name, members in (("long", ranked[-n:]), ("short", ranked[:n])):
            realised = returns[t].sel(asset=list(members)).to_series()
            known = realised.dropna()
            below = sum(size[a] for a in known.index)
            mean = sum(size[a] * known[a] for a in known.index) / below if below else np.nan
            total = sum(size[a] for a in members)
            legs[name] = mean, {a: size[a] / total for a in members}, realised.fillna(mean)
        gross = legs["long"][0] - legs["short"][0]
        if np.isnan(gross):  # a leg without a return: positions wait
            rows.append([np.nan] * 5)
            continue
        target = dict(legs["long"][1])
        target |= {a: -w for a, w in legs["short"][1].items()}
        names = set(target) | set(held)
        turnover = sum(abs(target.get(a, 0.0) - held.get(a, 0.0)) for a in names)
        earned = pd.concat([legs["long"][2], legs["short"][2]])
        held = {a: w * (1 + earned[a]) / (1 + gross) for a, w in target.items()}
        rows.append([gross, gross - cost * turnover, turnover, legs["long"][0], legs["short"][0]])
    return np.array(rows)


@pytest.mark.parametrize("quantile", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_short_equals_a_plain_loop(quantile, weighted):
    forecast, returns = market()
    weight = None
    if weighted:
        rng = np.random.default_rng(5)
        weight = table(rng.exponential(size=returns.shape))
        weight[:, 3] = 0.0
        weight[2, 4] = np.nan
    result = long_short(forecast, returns, quantile, 0.003, weight)
    expected = plain(forecast, returns, quantile, 0.003, weight)
    for column, name in enumerate(("gross", "net", "turnover", "long", "short")):
        np.testing.assert_allclose(result[name], expected[:, column], atol=1e-14, err_msg=name)


def test_holding_on_costs_nothing_when_prices_stand_still():
    forecast = table([[1.0, 0.0, 2.0, 3.0]] * 3)
    result = long_short(forecast, table(np.zeros((3, 4))), 0.25, 0.003)
    np.testing.assert_allclose(result.turnover, [2.0, 0.0, 0.0])
    np.testing.assert_allclose(result.net, [-0.006, 0.0, 0.0])


def test_drift_is_traded_back_by_hand():
    # long b earns 10 %, short a loses 10 %: capital 1.2, weights 1.1 / 1.2 and -0.9 / 1.2
    forecast = table([[0.0, 1.0]] * 2)
    result = long_short(forecast, table([[-0.1, 0.1], [0.0, 0.0]]), 0.5, 0.01)
    assert result.gross[0] == pytest.approx(0.2)
    assert result.turnover[1] == pytest.approx((1 - 1.1 / 1.2) + (1 - 0.9 / 1.2))
    assert result.net[1] == pytest.approx(-0.01 * float(result.turnover[1]))


def test_formation_does_not_know_which_returns_are_missing():
    forecast, returns = market()
    gone = returns.copy()
    gone[4, :] = np.where(np.arange(23) % 3 == 0, np.nan, gone[4])
    before, after = (long_short(forecast, r, 0.3) for r in (returns, gone))
    assert before.turnover[4] == after.turnover[4]
    xr.testing.assert_equal(before.isel(time=slice(4)), after.isel(time=slice(4)))


def test_months_without_a_ranking_are_skipped_and_positions_wait():
    forecast = table([[0.0, 1.0], [2.0, 2.0], [np.nan, 1.0], [0.0, 1.0]])
    result = long_short(forecast, table(np.zeros((4, 2))), 0.5)
    np.testing.assert_allclose(result.turnover, [2.0, np.nan, np.nan, 0.0])
    assert np.isnan(result.gross[1:3]).all()


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_order_of_assets_and_monotone_maps_of_forecasts_do_not_matter(seed):
    forecast, returns = market(seed, n_times=4, n_assets=11)
    forecast = forecast.round(1)  # ties
    order = np.random.default_rng(seed).permutation(11)
    expected = long_short(forecast, returns, 0.2, 0.003)
    mixed = long_short(forecast[:, order], returns[:, order[::-1]], 0.2, 0.003)
    xr.testing.assert_allclose(expected, mixed)
    xr.testing.assert_allclose(expected, long_short(np.exp(forecast), returns, 0.2, 0.003))


def test_models_draws_and_long_form_are_understood():
    forecast, returns = market()
    both = xr.concat([forecast, -forecast], xr.Variable("model", ["a", "b"]))
    result = long_short(both, returns, 0.2)
    np.testing.assert_allclose(result.gross.sel(model="a"), -result.gross.sel(model="b"))
    draws = xr.concat([forecast - 0.1, forecast + 0.1], "draw")
    np.testing.assert_allclose(long_short(draws, returns, 0.2).gross, result.gross[0])
    time, asset = np.nonzero(forecast.notnull().values)
    cells = forecast.values[time, asset]
    coords = {"time": ("obs", forecast.time.values[time])}
    coords["asset"] = ("obs", forecast.asset.values[asset])
    long = xr.DataArray(cells, coords, ("obs",))
    np.testing.assert_allclose(long_short(long, returns, 0.2).gross, result.gross[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": 0.6}, "`quantile` must be in"),
        ({"quantile": 0.0}, "`quantile` must be in"),
        ({"cost": -0.1}, "`cost` must be at least 0"),
    ],
)
def test_long_short_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        long_short(*market(), **arguments)


def test_long_short_refuses_weights_of_other_assets():
    forecast, returns = market()
    other = abs(returns).assign_coords(asset=[f"x{i}" for i in range(23)])
    with pytest.raises(ShapeError, match="`weight` must be positive"):
        long_short(forecast, returns, weight=other)


def test_sharpe_ratio_is_mean_over_standard_deviation():
    values = np.random.default_rng(0).normal(0.01, 0.04, size=36)
    returns = xr.DataArray(np.append(values, np.nan), dims="time")
    expected = values.mean() / values.std(ddof=1)
    assert float(sharpe_ratio(returns, 1)) == pytest.approx(expected)
    result = sharpe_ratio(returns, standard_error="normal")
    assert float(result.estimate) == pytest.approx(expected * 12**0.5)
    error = np.sqrt((1 + expected**2 / 2) / 36 * 12)
    assert float(result.standard_error) == pytest.approx(error)


@pytest.mark.statistical
def test_standard_errors_of_the_sharpe_ratio_match_its_spread():
    # 2000 ratios: their spread is known to 1.6 %; 10 % tolerance, failure rate below 1e-6
    rng = np.random.default_rng(1)
    skewed = 0.06 - 0.05 * rng.exponential(size=(2000, 240))
    draws = xr.DataArray(skewed, dims=("run", "time"))
    spread = float(sharpe_ratio(draws, 12).std("run"))
    hac = float(sharpe_ratio(draws, 12, standard_error=True).standard_error.mean())
    normal = float(sharpe_ratio(draws, 12, standard_error="normal").standard_error.mean())
    assert hac == pytest.approx(spread, rel=0.1)
    assert normal < 0.95 * spread  # skewness matters, and the formula leaves it out


def test_sharpe_ratio_is_missing_without_spread_and_refuses_nonsense():
    flat = xr.DataArray(np.full(5, 0.01), dims="time")
    assert np.isnan(sharpe_ratio(flat))
    assert np.isnan(sharpe_ratio(flat[:1]))
    with pytest.raises(ConfigError, match="`periods` must be above 0"):
        sharpe_ratio(flat, 0)
    with pytest.raises(ConfigError, match="`standard_error` must be"):
        sharpe_ratio(flat, standard_error="bootstrap")
    with pytest.raises(ShapeError, match="must have dims"):
        sharpe_ratio(flat.rename(time="month"))


def test_order_of_months_does_not_matter():
    forecast, returns = market(3)
    backwards = long_short(forecast[::-1], returns[::-1], cost=0.003)
    xr.testing.assert_allclose(backwards.sortby("time"), long_short(forecast, returns, cost=0.003))


@pytest.mark.parametrize("constant", [0.1, 1e-3, -7.0])
def test_rounding_is_no_spread(constant):
    ratio = sharpe_ratio(table(np.full((40, 1), constant)).isel(asset=0), standard_error=True)
    assert np.isnan(ratio["estimate"])
    assert np.isnan(ratio["standard_error"])
