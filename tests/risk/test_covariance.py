"""Low-rank covariances against dense algebra, draws and a real fit."""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.errors import ConfigError, PanelError, ShapeError
from rvrae_pyro.risk import FactorCovariance, covariance, summarize
from tests.risk.helpers import equal_weights, make_forecast


def random_covariance(n_times=3, n_assets=6, n_factors=2, seed=0, unlisted=()):
    tree, _ = make_forecast(
        draws=200,
        n_times=n_times,
        n_assets=n_assets,
        n_factors=n_factors,
        seed=seed,
        unlisted=unlisted,
    )
    return FactorCovariance.from_forecast(tree)


def dense_of(cov, t):
    """Write out month t from its parts, listed assets only."""
    listed = cov.listed.values[t]
    beta = cov.beta.values[t][listed]
    noise = np.diag(cov.idio_var.values[t][listed])
    return beta @ cov.factor_cov.values[t] @ beta.T + noise, listed


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    n_assets=st.integers(1, 9),
    n_factors=st.integers(1, 4),
    gap=st.booleans(),
)
def test_algebra_is_that_of_the_dense_matrix(seed, n_assets, n_factors, gap):
    unlisted = [(1, 0)] if gap else []
    cov = random_covariance(2, n_assets, n_factors, seed, unlisted)
    x = xr.DataArray(np.random.default_rng(seed).normal(size=(2, n_assets)), cov.idio_var.coords)
    x = x.where(cov.listed)
    product, answer, logdet, dense = cov.dot(x), cov.solve(x), cov.logdet(), cov.to_dense()
    for t in range(2):
        full, listed = dense_of(cov, t)
        part = x.values[t][listed]
        np.testing.assert_allclose(product.values[t][listed], full @ part, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(answer.values[t][listed], np.linalg.solve(full, part), rtol=1e-7)
        np.testing.assert_allclose(logdet.values[t], np.linalg.slogdet(full)[1], rtol=1e-9)
        np.testing.assert_allclose(dense.values[t][np.ix_(listed, listed)], full, rtol=1e-9)
        assert np.isnan(product.values[t][~listed]).all()
        assert np.isnan(answer.values[t][~listed]).all()
        assert np.isnan(dense.values[t][~listed]).all()
    np.testing.assert_allclose(cov.dot(cov.solve(x)), x, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(cov.variance(), np.diagonal(dense, axis1=1, axis2=2), rtol=1e-12)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(6)))
def test_the_order_of_assets_does_not_matter(seed, order):
    cov = random_covariance(seed=seed)
    moved = FactorCovariance(
        cov.beta.isel(asset=order), cov.factor_cov, cov.idio_var.isel(asset=order)
    )
    x = pd.Series(np.random.default_rng(seed).normal(size=6), [f"a{i}" for i in range(6)])
    np.testing.assert_allclose(moved.dot(x), cov.dot(x).isel(asset=order), rtol=1e-9)
    np.testing.assert_allclose(moved.solve(x), cov.solve(x).isel(asset=order), rtol=1e-9)
    np.testing.assert_allclose(moved.logdet(), cov.logdet(), rtol=1e-9)


def test_agrees_with_the_variance_of_the_draws():
    # 40000 draws: the relative s.e. of a variance is 0.7 %; 4 sd allowed on 15 cells
    tree, _ = make_forecast(draws=40_000, unlisted=[(1, 2)])
    cov = FactorCovariance.from_forecast(tree)
    summary = summarize(tree)
    np.testing.assert_allclose(cov.variance(), summary["sd"] ** 2, rtol=0.03)
    np.testing.assert_allclose(cov.variance() - cov.idio_var, summary["factor_var"], rtol=1e-9)
    draws = tree["predictions"]["returns"].values[0, :, 0]
    expected = np.cov(draws.T, ddof=0)
    sd = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(cov.to_dense().values[0], expected, atol=4 * sd.max() ** 2 / 200)


def test_samples_have_the_covariance():
    # 20000 draws; each entry has s.e. at most sqrt(2) sd_i sd_j / 141; 4.5 sd on 15 entries
    cov = random_covariance(1, 5, 2, unlisted=[(0, 3)])
    draws = cov.sample(20_000, seed=3)
    assert draws.dims == ("draw", "time", "asset")
    dense, listed = dense_of(cov, 0)
    assert np.isnan(draws.values[:, 0, ~listed]).all()
    sample = draws.values[:, 0, listed]
    sd = np.sqrt(np.diag(dense))
    error = (np.cov(sample.T) - dense) / np.outer(sd, sd)
    assert np.abs(error).max() < 0.045
    assert np.abs(sample.mean(0) / sd).max() < 4.5 / 141
    xr.testing.assert_identical(draws, cov.sample(20_000, seed=3))
    assert not np.array_equal(draws.values[:, 0, 0], cov.sample(20_000, seed=4).values[:, 0, 0])


def test_arguments_align_by_label_and_keep_their_dims():
    cov = random_covariance()
    assets = cov.beta.asset.values
    series = pd.Series(np.arange(1.0, 7.0), assets)
    expected = cov.dot(series)
    assert expected.dims == ("time", "asset")
    np.testing.assert_array_equal(cov.dot(series[::-1]), expected)
    frame = pd.DataFrame([series] * 3, index=cov.beta.time.values)
    np.testing.assert_array_equal(cov.dot(frame), expected)
    many = xr.DataArray(
        np.stack([series, 2 * series]), {"book": ["x", "y"], "asset": assets}, ("book", "asset")
    )
    both = cov.solve(many)
    assert both.dims == ("time", "asset", "book")
    np.testing.assert_allclose(both.sel(book="y"), 2 * cov.solve(series))
    np.testing.assert_allclose(cov.dot(2.0), cov.dot(series * 0 + 2.0))
    one = cov.sel("2020-02")
    assert one.beta.sizes["time"] == 1
    np.testing.assert_allclose(one.dot(series)[0], expected[1])
    np.testing.assert_allclose(
        one.to_dense(["a4", "a1"])[0], cov.to_dense()[1].values[np.ix_([4, 1], [4, 1])]
    )


def test_minimum_variance_weights_have_the_least_variance():
    cov = random_covariance(unlisted=[(1, 2)])
    weights = cov.minimum_variance()
    np.testing.assert_allclose(weights.sum("asset"), 1.0)
    least = (weights * cov.dot(weights)).sum("asset")
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = xr.DataArray(rng.normal(size=weights.shape), weights.coords).where(cov.listed)
        other = weights + 0.1 * (step - step.mean("asset"))
        assert bool(((other * cov.dot(other)).sum("asset") > least).all())


def test_beats_sample_and_shrunk_covariances_at_minimum_variance():
    # 60 months of 40 assets with 3 factors; the model's parts are the truth here, so this asks
    # only that solve() turns them into portfolios with less variance than estimates can
    ledoit = pytest.importorskip("sklearn.covariance")
    tree, truth = make_forecast(draws=4000, n_times=1, n_assets=40, n_factors=3, seed=5)
    cov = FactorCovariance.from_forecast(tree)
    root, beta, scale = truth["root"][0], truth["beta"][0], truth["scale"][0]
    true = beta @ root @ root.T @ beta.T + np.diag(scale**2)
    history = np.random.default_rng(1).multivariate_normal(np.zeros(40), true, size=60)
    ones = np.ones(40)

    def realised(matrix):
        weights = np.linalg.solve(matrix, ones)
        weights /= weights.sum()
        return np.sqrt(weights @ true @ weights)

    ours = cov.minimum_variance().values[0]
    ours = np.sqrt(ours @ true @ ours)
    best = realised(true)
    assert ours < 1.02 * best
    assert ours < realised(np.cov(history.T))
    assert ours < realised(ledoit.ledoit_wolf(history)[0])


def test_5000_assets_take_milliseconds():
    rng = np.random.default_rng(0)
    coords = {
        "time": pd.date_range("2020-01-31", periods=1, freq="ME"),
        "asset": [f"s{i}" for i in range(5000)],
        "factor": np.arange(5),
    }
    beta = xr.DataArray(rng.normal(size=(1, 5000, 5)), coords, ("time", "asset", "factor"))
    square = xr.DataArray(
        np.eye(5)[None],
        {"time": coords["time"], "factor": np.arange(5), "other_factor": np.arange(5)},
        ("time", "factor", "other_factor"),
    )
    cov = FactorCovariance(beta, square, beta.isel(factor=0, drop=True) ** 2 + 0.1)
    x = pd.Series(rng.normal(size=5000), coords["asset"])
    cov.solve(x), cov.dot(x), cov.logdet()
    start = time.perf_counter()
    for _ in range(5):
        cov.solve(x), cov.dot(x), cov.logdet()
    # a few milliseconds each on a free core; a dense 5000 x 5000 solve takes seconds
    assert (time.perf_counter() - start) / 15 < 0.1


class FakeFit:
    """Moments that a forecast was made of, and a record of what was asked."""

    def __init__(self, cov):
        self.cov, self.asked = cov, []

    def moments(self, panel, num_samples=1000, seed=0, times=None):
        self.asked.append((panel.sizes["time"], num_samples, seed))
        cov = self.cov.sel(list(times))
        parts = {"beta": cov.beta, "factor_cov": cov.factor_cov, "idio_var": cov.idio_var}
        return xr.Dataset(parts).expand_dims("chain")


def test_a_fit_is_asked_for_its_moments_and_for_no_later_months():
    tree, _ = make_forecast(draws=300)
    panel = xr.Dataset(coords={"time": tree["predictions"].time})
    whole = FactorCovariance.from_forecast(tree)
    fit = FakeFit(whole)
    cov = covariance(fit, panel, "2020-02", num_samples=77, seed=5)
    assert fit.asked == [(2, 77, 5)]
    xr.testing.assert_allclose(cov.to_dense(), whole.sel("2020-02").to_dense())
    assert covariance(fit, panel).beta.sizes["time"] == 3
    with pytest.raises(ShapeError, match="`times` must name months of the forecast, 2020-01-31 to"):
        covariance(fit, panel, "2021-05")
    with pytest.raises(PanelError, match="`panel` must be a Dataset with coordinate 'time'"):
        covariance(fit, SimpleNamespace())
    with pytest.raises(ConfigError, match="`fit` must have `moments`"):
        covariance(SimpleNamespace(), panel)


def test_a_real_fit_agrees_with_its_forecast():
    pytest.importorskip("torch")
    import rvrae_pyro as rv

    panel = rv.data.simulate_gkx(n_assets=12, n_times=24, n_characteristics=3, seed=1)
    panel = panel[["returns", "characteristics"]]
    fit = rv.fit(rv.RVRAE(3, 2), panel, config=rv.FitConfig(max_steps=3), progress=False)
    cov = covariance(fit, panel, slice("2001-06", None), num_samples=20_000)
    tree = fit.forecast(panel, num_samples=20_000, times=slice("2001-06", None))
    # the one averages particles' covariances, the other is that of 20,000 draws: 5 errors
    scale = float(cov.variance().mean())
    drawn = FactorCovariance.from_forecast(tree).to_dense()
    assert float(abs(cov.to_dense() - drawn).max()) < 0.05 * scale
    # Student-t draws: the mean over 84 cells of the ratio of variances is near 1
    ratio = (summarize(tree, 0.05)["sd"] ** 2 / cov.variance()).mean().item()
    assert ratio == pytest.approx(1.0, abs=0.1)
    risk = (equal_weights(tree) * cov.dot(equal_weights(tree))).sum("asset")
    assert bool((risk > 0).all())


def test_parts_that_do_not_fit_are_refused():
    cov = random_covariance()
    beta, square, noise = cov.beta, cov.factor_cov, cov.idio_var
    with pytest.raises(ShapeError, match=r"`beta` must be a DataArray with dims .*; got ndarray"):
        FactorCovariance(beta.values, square, noise)
    with pytest.raises(ShapeError, match="`idio_var` must have the labels of `beta` along 'asset'"):
        FactorCovariance(beta, square, noise.isel(asset=slice(None, None, -1)))
    with pytest.raises(ShapeError, match="must be missing for the same cells"):
        FactorCovariance(beta, square, noise.where(noise.asset != "a1"))
    with pytest.raises(ConfigError, match="`idio_var` must be positive"):
        FactorCovariance(beta, square, noise * 0.0)
    with pytest.raises(ConfigError, match="`factor_cov` must be finite and symmetric"):
        FactorCovariance(beta, square + np.array([[0, 1], [0, 0]]), noise)
    with pytest.raises(ConfigError, match="positive semi-definite"):
        FactorCovariance(beta, -square, noise)


def test_bad_arguments_are_refused():
    cov = random_covariance(unlisted=[(1, 2)])
    with pytest.raises(ShapeError, match=r"`assets` must be different assets .* unknown: 1 \(zz\)"):
        cov.to_dense(["a1", "zz"])
    with pytest.raises(ShapeError, match="some are repeated"):
        cov.to_dense(["a1", "a1"])
    with pytest.raises(ConfigError, match="`num_samples` must be at least 1; got 0"):
        cov.sample(0)
    with pytest.raises(ConfigError, match=r"`x` must be 0 or NaN where .* 1 \(2020-02-29 a2\) is"):
        cov.dot(pd.Series(1.0, cov.beta.asset.values))
    with pytest.raises(ShapeError, match="cover the months of the covariance: 1 of 3"):
        cov.dot(equal_weights(make_forecast(n_assets=6)[0]).isel(time=[0]))
    tree, _ = make_forecast(draws=200)
    del tree["predictions_constant_data"]
    with pytest.raises(ShapeError, match="`tree` must hold 'factors' with its returns"):
        FactorCovariance.from_forecast(tree)
