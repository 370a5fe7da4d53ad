"""Market statistics and factor profiles against plain calculations."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.data import load_french_factors
from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.evaluation import factor_profile


def market_table(values):
    values = np.asarray(values, dtype=float)
    coords = {
        "time": pd.date_range("2010-01-31", periods=values.shape[-2], freq="ME", unit="ns"),
        "asset": [f"a{i}" for i in range(values.shape[-1])],
    }
    return xr.DataArray(values, coords, (*("chain", "draw")[: values.ndim - 2], "time", "asset"))


@pytest.fixture
def returns():
    rng = np.random.default_rng(0)
    values = 0.1 * rng.normal(size=(30, 12)) + 0.05 * rng.normal(size=(30, 1))
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    values[7] = np.nan
    return market_table(values)


def test_statistics_agree_with_pandas_and_scipy(returns):
    found = rv.evaluation.market_statistics(returns)
    frame = returns.to_pandas()
    market = frame.mean(axis=1).dropna()
    assert float(found["cross_sectional_sd"]) == pytest.approx(frame.std(axis=1).mean())
    assert float(found["market_volatility"]) == pytest.approx(market.std())
    pooled = returns.values[~np.isnan(returns.values)]
    assert float(found["kurtosis"]) == pytest.approx(stats.kurtosis(pooled))
    squares = ((market - market.mean()) ** 2).to_numpy()
    deviation = squares - squares.mean()
    expected = (deviation[1:] * deviation[:-1]).sum() / (deviation**2).sum()
    assert float(found["market_autocorrelation"]) == pytest.approx(expected)


def test_top_share_is_that_of_the_correlation_matrix_of_a_full_table():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 8)) + rng.normal(size=(60, 1))
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(values.T))
    for given in (values, np.hstack([values] * 9)):  # more assets than months, too
        share = float(rv.evaluation.market_statistics(market_table(given))["top_eigenvalue_share"])
        assert share == pytest.approx(eigenvalues[-1] / eigenvalues.sum())


def test_every_draw_gets_its_own_answer(returns):
    draws = xr.concat([returns, 2.0 * returns], "draw").expand_dims("chain")
    found = rv.evaluation.market_statistics(draws)
    assert found["kurtosis"].dims == ("chain", "draw")
    np.testing.assert_allclose(
        found["market_volatility"][0, 1], 2 * found["market_volatility"][0, 0]
    )
    np.testing.assert_allclose(found["kurtosis"][0, 1], found["kurtosis"][0, 0])


def test_the_long_form_of_observed_cells_gives_the_same(returns):
    long = returns.stack(obs=("time", "asset")).dropna("obs").reset_index("obs")
    expected = rv.evaluation.market_statistics(returns)
    xr.testing.assert_allclose(rv.evaluation.market_statistics(long), expected)


def test_too_little_is_nan_and_clusters_show():
    alone = rv.evaluation.market_statistics(market_table([[0.1], [0.2]]))
    for name in ("cross_sectional_sd", "top_eigenvalue_share", "market_autocorrelation"):
        assert np.isnan(float(alone[name]))
    rng = np.random.default_rng(2)
    loud = np.repeat([1.0, 4.0] * 50, 10)[:, None]
    values = loud * rng.choice([-1.0, 1.0], size=(1000, 1)) * np.ones(5)
    clusters = rv.evaluation.market_statistics(market_table(values))
    mixed = rv.evaluation.market_statistics(market_table(rng.permutation(values)))
    # spells of ten months: 0.9 of them go on and 0.1 end, against 0 with a standard error of 0.03
    assert float(clusters["market_autocorrelation"]) == pytest.approx(0.8, abs=0.02)
    assert abs(float(mixed["market_autocorrelation"])) < 0.1


def test_other_dims_are_refused(returns):
    with pytest.raises(rv.ShapeError, match="Select one entry of each"):
        rv.evaluation.market_statistics(returns.expand_dims("factor"))
    with pytest.raises(rv.ShapeError, match="must have dims"):
        rv.evaluation.market_statistics(returns.isel(asset=0, drop=True))


def table(values, dim, labels, start="1990-01-31"):
    times = pd.date_range(start, periods=len(values), freq="ME", unit="ns")
    return xr.DataArray(np.asarray(values, float), {"time": times, dim: labels}, ("time", dim))


def simulate(n_times=120, seed=0, start="1990-01-31"):
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(n_times, 2))
    noise = rng.normal(size=(n_times, 3))
    factors = np.stack(
        [known[:, 0] + 0.3 * noise[:, 0], -known[:, 1] + 0.8 * noise[:, 1], noise[:, 2]], axis=1
    )
    managed = np.stack([known.sum(axis=1), noise[:, 2] + 0.2 * noise[:, 0]], axis=1)
    return (
        table(factors, "factor", [1, 2, 3], start),
        table(managed, "characteristic", ["constant", "size"], start),
        table(known, "known_factor", ["MKT", "HML"], start),
    )


def test_correlations_are_those_of_pandas():
    factors, managed, known = simulate()
    managed[5, 1] = np.nan
    profile = factor_profile(factors, managed, known)
    joint = pd.concat([factors.to_pandas(), managed.to_pandas(), known.to_pandas()], axis=1).corr()
    np.testing.assert_allclose(profile["known"], joint.loc[[1, 2, 3], ["MKT", "HML"]], rtol=1e-10)
    np.testing.assert_allclose(
        profile["managed"], joint.loc[[1, 2, 3], ["constant", "size"]], rtol=1e-10
    )


def test_names_say_sign_and_strength_and_prefer_known_factors():
    profile = factor_profile(*simulate())
    names = profile["name"].values.tolist()
    assert names[0].startswith("like MKT (0.9")
    assert names[1].startswith("like minus HML (-0.")
    assert names[2].startswith("like the size portfolio (0.9")
    without = factor_profile(*simulate()[:2])
    assert without["name"].values[0].startswith("like the average asset (0.")
    assert "known" not in without


def test_noise_has_no_name():
    """Of 300 pairs of noise over 60 months the largest correlation stays under 0.5."""
    rng = np.random.default_rng(1)
    noise = table(rng.normal(size=(60, 6)), "factor", range(1, 7))
    managed = table(rng.normal(size=(60, 50)), "characteristic", [f"c{i}" for i in range(50)])
    assert set(factor_profile(noise, managed)["name"].values) == {"no name"}


def test_r2_is_that_of_the_regression():
    factors, managed, known = simulate()
    profile = factor_profile(factors, managed, known)
    x = np.column_stack([np.ones(120), known.values])
    y = factors.values[:, 1]
    fitted = x @ np.linalg.solve(x.T @ x, x.T @ y)
    expected = 1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert profile["r2"].values[1] == pytest.approx(expected, rel=1e-10)


def test_scale_and_sign_of_a_factor_change_signs_alone():
    factors, managed, known = simulate()
    once = factor_profile(factors, managed, known)
    again = factor_profile(-7.0 * factors, managed, known)
    np.testing.assert_allclose(again["known"], -once["known"])
    np.testing.assert_allclose(again["r2"], once["r2"])
    assert again["name"].values[0] == once["name"].values[0].replace("MKT (", "minus MKT (-")


def test_only_common_months_count():
    factors, managed, known = simulate()
    late = known.isel(time=slice(100, None))
    with pytest.warns(RvraeWarning, match="100 of 120 months of `factors` are left out"):
        few = factor_profile(factors, managed, late)
    assert int(few["known_months"]) == 20
    assert "known" not in few
    with pytest.warns(RvraeWarning, match="100 of 120 months"):
        enough = factor_profile(factors, managed, late, least_months=20)
    alone = [part.isel(time=slice(100, None)) for part in (factors, managed, known)]
    np.testing.assert_allclose(enough["known"], factor_profile(*alone, least_months=20)["known"])
    frame = known.to_pandas()
    xr.testing.assert_identical(
        factor_profile(factors, managed, frame), factor_profile(factors, managed, known)
    )


def test_french_factors_are_returns_in_decimals():
    known = load_french_factors()
    assert known.dims == ("time", "known_factor")
    assert known["known_factor"].values.tolist() == ["MktRF", "SMB", "HML", "Mom"]
    assert 0.03 < float(known.sel(known_factor="MktRF").std()) < 0.06
    assert known["time"].values[-1] == np.datetime64("2017-03-31", "ns")


def test_bad_input_is_refused():
    factors, managed, known = simulate()
    with pytest.raises(ConfigError, match="`least_months` must be at least 3"):
        factor_profile(factors, managed, least_months=2)
    with pytest.raises(ShapeError, match="`factors` must have dims"):
        factor_profile(factors.rename(factor="k"), managed)
    with pytest.raises(ShapeError, match="`managed` must share months"):
        factor_profile(factors, simulate(start="1950-01-31")[1])
    with pytest.raises(ShapeError, match="`known` must be a DataArray"):
        factor_profile(factors, managed, known.to_pandas().reset_index(drop=True))
