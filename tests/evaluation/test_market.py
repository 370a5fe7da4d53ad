"""Market statistics against plain definitions and known markets."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import rvrae_pyro as rv


def table(values):
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
    return table(values)


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
        share = float(rv.evaluation.market_statistics(table(given))["top_eigenvalue_share"])
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
    alone = rv.evaluation.market_statistics(table([[0.1], [0.2]]))
    for name in ("cross_sectional_sd", "top_eigenvalue_share", "market_autocorrelation"):
        assert np.isnan(float(alone[name]))
    rng = np.random.default_rng(2)
    loud = np.repeat([1.0, 4.0] * 50, 10)[:, None]
    values = loud * rng.choice([-1.0, 1.0], size=(1000, 1)) * np.ones(5)
    clusters = rv.evaluation.market_statistics(table(values))
    mixed = rv.evaluation.market_statistics(table(rng.permutation(values)))
    # spells of ten months: 0.9 of them go on and 0.1 end, against 0 with a standard error of 0.03
    assert float(clusters["market_autocorrelation"]) == pytest.approx(0.8, abs=0.02)
    assert abs(float(mixed["market_autocorrelation"])) < 0.1


def test_other_dims_are_refused(returns):
    with pytest.raises(rv.ShapeError, match="Select one entry of each"):
        rv.evaluation.market_statistics(returns.expand_dims("factor"))
    with pytest.raises(rv.ShapeError, match="must have dims"):
        rv.evaluation.market_statistics(returns.isel(asset=0, drop=True))
