"""Scores of draws against scoringrules, closed forms and calibrated forecasts."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.evaluation import (
    coverage,
    crps,
    crps_normal,
    crps_student_t,
    hac_standard_error,
    log_score,
    pit,
    scoring,
)

T, N, CHAINS, DRAWS = 9, 7, 2, 60


def wide(values):
    values = np.asarray(values, dtype=float)
    coords = {
        "time": pd.date_range("2010-01-31", periods=values.shape[-2], freq="ME", unit="ns"),
        "asset": [f"a{i}" for i in range(values.shape[-1])],
    }
    lead = ("chain", "draw")[4 - values.ndim :]
    return xr.DataArray(values, coords, (*lead, "time", "asset"))


def long(values, mask):
    time, asset = np.nonzero(mask.values)
    labels = {"time": ("obs", mask.time.values[time]), "asset": ("obs", mask.asset.values[asset])}
    return xr.DataArray(values.values[..., time, asset], labels, (*values.dims[:-2], "obs"))


@pytest.fixture
def draws():
    rng = np.random.default_rng(1)
    values = rng.standard_t(4, size=(CHAINS, DRAWS, T, N)) * 0.1
    values[:, :, 2, 3:] = np.nan  # not forecast
    return wide(values)


@pytest.fixture
def returns():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(T, N)) * 0.1
    values[rng.uniform(size=(T, N)) < 0.2] = np.nan
    return wide(values)


def pooled(draws):
    return draws.values.reshape(-1, *draws.shape[-2:])


@pytest.mark.parametrize(("estimator", "theirs"), [("fair", "fair"), ("empirical", "nrg")])
def test_crps_equals_scoringrules(returns, draws, estimator, theirs):
    sr = pytest.importorskip("scoringrules")
    ours = crps(returns, draws, estimator=estimator, per="cell")
    expected = sr.crps_ensemble(
        returns.values, np.moveaxis(pooled(draws), 0, -1), estimator=theirs, backend="numpy"
    )
    np.testing.assert_allclose(ours.values, expected, rtol=1e-11)
    both = returns.notnull() & draws.notnull().all(("chain", "draw"))
    assert bool((ours.notnull() == both).all())
    assert float(crps(returns, draws, estimator=estimator)) == pytest.approx(np.nanmean(expected))


def test_crps_equals_its_definition_by_a_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=5), 0.3
    pairs = np.abs(x[:, None] - x).sum()
    r = xr.DataArray([[y]], dims=("time", "asset"))
    d = xr.DataArray(x[:, None, None], dims=("draw", "time", "asset"))
    distance = np.abs(x - y).mean()
    assert float(crps(r, d)) == pytest.approx(distance - pairs / 40, rel=1e-13)
    assert float(crps(r, d, estimator="empirical")) == pytest.approx(distance - pairs / 50)


def test_closed_forms_equal_scoringrules_and_integrals(returns):
    sr = pytest.importorskip("scoringrules")
    loc, scale = (
        0.1 * returns.fillna(0.0) + 0.01,
        wide(np.full((T, N), 0.08)) + returns.fillna(0) ** 2,
    )
    ours = crps_normal(returns, loc, scale, per="cell")
    np.testing.assert_allclose(
        ours, sr.crps_normal(returns.values, loc.values, scale.values), rtol=1e-10
    )
    ours = crps_student_t(returns, 4.5, loc, scale, per="cell")
    np.testing.assert_allclose(
        ours, sr.crps_t(returns.values, 4.5, loc.values, scale.values), rtol=1e-9
    )
    # the integral of (F(x) - 1{x >= y})^2, on a grid
    grid = np.linspace(-40, 40, 800_001)
    for law, score in (
        (stats.norm(), crps_normal(wide([[0.7]]), wide([[0.0]]), 1.0)),
        (stats.t(6), crps_student_t(wide([[0.7]]), 6, wide([[0.0]]), 1.0)),
    ):
        integral = np.trapezoid((law.cdf(grid) - (grid >= 0.7)) ** 2, grid)
        assert float(score) == pytest.approx(integral, abs=2e-4)


def test_fair_crps_is_unbiased_for_the_sampled_law():
    # 20000 forecasts of 5 draws: s.e. of the mean difference is about 0.0025; 4 sd
    rng = np.random.default_rng(4)
    r = wide(rng.normal(size=(100, 200)))
    d = wide(rng.normal(size=(1, 5, 100, 200)))
    exact = crps_normal(r, 0 * r, 1.0, per="cell")
    difference = crps(r, d, per="cell") - exact
    error = float(difference.std()) / np.sqrt(difference.size)
    assert error < 0.004
    assert abs(float(difference.mean())) < 4 * error
    assert float(crps(r, d, estimator="empirical") - exact.mean()) > 20 * error


@pytest.mark.parametrize("block", [1, 500, 10**9])
def test_blocks_of_any_size_agree(returns, draws, block, monkeypatch):
    expected = crps(returns, draws, per="cell")
    monkeypatch.setattr(scoring, "_BLOCK", block)
    xr.testing.assert_identical(crps(returns, draws, per="cell"), expected)
    mask = returns.notnull()
    along = crps(long(returns, mask), long(draws, mask), per="cell")
    np.testing.assert_allclose(along, long(expected, mask), rtol=1e-12)


def test_blocks_bound_the_numbers_in_memory(monkeypatch):
    seen = []

    def kernel(y, x):
        seen.append(x.size)
        return y

    monkeypatch.setattr(scoring, "_BLOCK", 4000)
    d = wide(np.zeros((1, 100, 30, 10)))
    scoring.score_cells(d, kernel)
    assert max(seen) == 4000
    assert sum(seen) == d.size


@pytest.mark.parametrize("score", [crps, coverage, pit])
def test_dimension_orders_and_single_sample_dims_agree(returns, draws, score):
    expected = score(returns, draws)
    xr.testing.assert_allclose(
        score(returns, draws.transpose("asset", "draw", "time", "chain")), expected
    )
    one = draws.stack(sample=("chain", "draw")).drop_vars(["sample", "chain", "draw"])
    xr.testing.assert_allclose(score(returns, one.rename(sample="draw")), expected)
    single = draws.astype(np.float32)
    xr.testing.assert_allclose(score(returns, single), expected, rtol=1e-4)


@pytest.mark.parametrize("score", [crps, coverage])
def test_months_panel_and_standard_error_fit_together(returns, draws, score):
    cells = score(returns, draws, per="cell")
    monthly = score(returns, draws, per="month")
    xr.testing.assert_allclose(monthly, cells.mean("asset").rename(monthly.name))
    result = score(returns, draws, standard_error=True)
    assert float(result.estimate) == pytest.approx(float(cells.mean()))
    count = cells.notnull().sum("asset")
    shares = (monthly - result.estimate) * count / count.mean()
    assert float(result.standard_error) == pytest.approx(
        float(hac_standard_error(shares)), rel=1e-10
    )
    mask = returns.notnull()
    along = score(long(returns, mask), long(draws, mask), standard_error=True)
    xr.testing.assert_allclose(along, result)


def test_log_score_is_the_log_of_the_mean_density(returns, draws):
    log_density = -0.5 * ((returns - draws) / 0.05) ** 2 * 40  # far below the range of exp
    log_density = log_density.transpose("chain", "draw", "time", "asset")
    cells = log_score(log_density, per="cell")
    expected = logsumexp(pooled(log_density), axis=0) - np.log(CHAINS * DRAWS)
    np.testing.assert_allclose(cells.values, expected, rtol=1e-12)
    assert float(log_score(log_density)) == pytest.approx(np.nanmean(expected))
    np.testing.assert_allclose(log_score(log_density, per="month"), np.nansum(expected, axis=1))
    mask = cells.notnull()
    along = log_score(long(log_density, mask), standard_error=True)
    xr.testing.assert_allclose(along, log_score(log_density, standard_error=True))


def test_log_score_of_whole_months_and_of_impossible_returns():
    values = xr.DataArray(np.log([[[1.0, 4.0], [3.0, 4.0]]]), dims=("chain", "draw", "time"))
    np.testing.assert_allclose(log_score(values, per="cell"), np.log([2.0, 4.0]))
    np.testing.assert_allclose(log_score(values, per="month"), np.log([2.0, 4.0]))
    assert float(log_score(values)) == pytest.approx(np.log(8.0) / 2)
    assert float(log_score(xr.full_like(values, -np.inf))) == -np.inf


def test_coverage_of_calibrated_draws_is_nominal_whatever_their_number():
    # 40000 independent cells: binomial sd 0.0015 (0.9) and 0.0025 (0.5); 4 sd
    rng = np.random.default_rng(6)
    r = wide(rng.standard_t(5, size=(200, 200)))
    for size in (19, 40):
        d = wide(rng.standard_t(5, size=(1, size, 200, 200)))
        assert float(coverage(r, d)) == pytest.approx(0.9, abs=0.006)
        assert float(coverage(r, d, prob=0.5)) == pytest.approx(0.5, abs=0.010)
    narrow = coverage(r, 0.5 * d)
    assert float(narrow) < 0.75


def test_coverage_interval_on_known_draws():
    d = wide(np.arange(1.0, 20.0)[None, :, None, None] * np.ones((1, 1, 1, 4)))
    inside = coverage(wide([[0.99, 1.0, 19.0, 19.01]]), d, 0.9, per="cell")
    np.testing.assert_array_equal(inside, [[0, 1, 1, 0]])


def test_pit_counts_draws_below():
    d = wide(np.array([1.0, 2.0, 2.0, 4.0])[None, :, None, None] * np.ones((1, 1, 1, 5)))
    result = pit(wide([[0.0, 1.5, 2.0, 9.0, np.nan]]), d)
    np.testing.assert_allclose(result, [[0.1, 0.3, 0.5, 0.9, np.nan]])


def test_pit_is_uniform_if_calibrated_and_not_if_too_narrow():
    # Kolmogorov-Smirnov at 1e-3 on 5000 independent cells, grid of 1/1001
    rng = np.random.default_rng(8)
    r, d = wide(rng.normal(size=(50, 100))), wide(rng.normal(size=(1, 1000, 50, 100)))
    assert stats.kstest(pit(r, d).values.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(pit(r, 0.8 * d).values.ravel(), "uniform").pvalue < 1e-6


@settings(max_examples=15)
@given(shift=st.floats(-5, 5), scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_scores_follow_a_change_of_units(shift, scale, seed):
    rng = np.random.default_rng(seed)
    r, d = wide(rng.normal(size=(3, 4))), wide(rng.normal(size=(1, 30, 3, 4)))
    moved = shift + scale * r, shift + scale * d
    assert float(crps(*moved)) == pytest.approx(scale * float(crps(r, d)), rel=1e-7)
    np.testing.assert_allclose(pit(*moved), pit(r, d), atol=1e-12)


@settings(max_examples=12)
@given(seed=st.integers(0, 1000))
def test_missing_cells_and_unlisted_assets_change_nothing(seed):
    rng = np.random.default_rng(seed)
    r, d = wide(rng.normal(size=(4, 5))), wide(rng.normal(size=(1, 25, 4, 5)))
    padded_r = r.pad(asset=(0, 2), time=(1, 0)).assign_coords(
        time=pd.date_range("2009-12-31", periods=5, freq="ME", unit="ns"), asset=list("vwxyzpq")
    )
    renamed = {"asset": list("vwxyz")}
    padded_d = d.pad(asset=(0, 2), time=(1, 0)).assign_coords(padded_r.coords)
    for score in (crps, coverage):
        expected = score(r.assign_coords(renamed), d.assign_coords(renamed), standard_error=True)
        xr.testing.assert_allclose(score(padded_r, padded_d, standard_error=True), expected)


def test_misuse_is_named(returns, draws):
    with pytest.raises(ConfigError, match="`estimator` must be 'fair' or 'empirical'; got 'pwm'"):
        crps(returns, draws, estimator="pwm")
    with pytest.raises(ConfigError, match="needs two draws or more; got 1"):
        crps(returns, draws.isel(chain=[0], draw=[0]))
    with pytest.raises(ConfigError, match=r"`prob` must be in \(0, 1\); got 90"):
        coverage(returns, draws, 90)
    with pytest.raises(ConfigError, match=r"A 0.99 interval needs 199 draws or more; got 120"):
        coverage(returns, draws, 0.99)
    with pytest.raises(ShapeError, match=r"`draws` must have a dim 'draw'"):
        crps(returns, draws.isel(chain=0, draw=0), estimator="empirical")
    with pytest.raises(ShapeError, match=r"`draws` must have dims \('chain', 'draw', 'time'"):
        pit(returns, draws.expand_dims(model=2))
    with pytest.raises(ShapeError, match=r"NaN in all draws of a cell or in none; 1 cells"):
        crps(returns.fillna(0.0), draws.where(draws != draws.values[1, 5, 0, 0]))
    with pytest.raises(ShapeError, match="`log_density` must have a dim 'draw'"):
        log_score(draws.mean(("chain", "draw")))
    with pytest.raises(ConfigError, match="`degrees_of_freedom` must be above 1"):
        crps_student_t(returns, 1.0, returns, 1.0)
    with pytest.raises(ConfigError, match="`scale` must be positive"):
        crps_normal(returns, returns, 0.0)
