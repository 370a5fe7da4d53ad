"""Baselines with factors: expected factors, refits, moments, draws."""

import warnings

import arviz_stats
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

import rvrae_pyro as rv
from rvrae_pyro import risk
from rvrae_pyro.baselines import IPCA
from rvrae_pyro.data import split
from rvrae_pyro.data.simulators import simulate_gkx
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.evaluation import prevailing_mean, total_r2
from tests.baselines.helpers import MAKE, WITH_FACTORS, market, parts


@pytest.fixture(scope="module")
def panel():
    return market()


@pytest.fixture(scope="module")
def fitted(panel):
    train, valid, _ = parts(panel)
    return {name: MAKE[name]().fit(train, valid) for name in WITH_FACTORS}


@pytest.mark.parametrize("name", ["IPCA", "ConditionalAutoencoder"])
def test_forecasts_are_loadings_times_the_mean_of_all_earlier_factors(name, panel, fitted):
    model = fitted[name]
    premia = prevailing_mean(model.factors(panel))
    expected = xr.dot(model.loadings(panel), premia, dim="factor", optimize=True)
    if "chain" in expected.dims:
        expected = expected.mean("chain")
    forecast = model.predict(panel)
    np.testing.assert_allclose(
        forecast.transpose("time", "asset"), expected.transpose("time", "asset"), atol=1e-6
    )
    assert np.isnan(forecast[0]).all()  # nothing to average


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_test_months_alone_forecast_like_the_whole_panel(name, panel, fitted):
    """The months fitted are remembered (a recurrent network knows the panel's months only)."""
    test = parts(panel).test
    if name == "FactorVAE":
        test = panel.isel(time=slice(-6, None))
    whole, alone = fitted[name].predict(panel), fitted[name].predict(test)
    np.testing.assert_array_equal(whole[-4:], alone[-4:])


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_least_squares_factors_fit_best(name, panel, fitted):
    model = fitted[name]
    if name == "ConditionalAutoencoder":  # one member: an average of refits is no refit
        model = MAKE[name]()
        model.n_members = 1
        train, valid, _ = parts(panel)
        model.fit(train, valid)
    own, refit = (
        float(total_r2(panel.returns, model.reconstruct(panel, kind))) for kind in ("model", "ols")
    )
    assert refit >= own - 1e-12
    assert (name == "IPCA") == (abs(refit - own) < 1e-9)
    with pytest.raises(ConfigError, match="`kind` must be 'model' or 'ols'"):
        model.factors(panel, "gls")


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_month_without_returns_has_a_forecast_and_no_factors(name, panel, fitted):
    month = panel.sizes["time"] // 2
    model = fitted[name]
    assert np.isnan(model.factors(panel)[..., month, :]).all()
    assert np.isnan(model.reconstruct(panel)[month]).all()
    assert model.predict(panel)[month].notnull().any()
    assert not np.isnan(model.factors(panel)[..., month + 1, :]).any()


@pytest.mark.statistical
@pytest.mark.parametrize("name", WITH_FACTORS)
def test_draws_have_the_moments_that_the_model_states(name, panel, fitted):
    # 4000 draws a cell: means within 5 s.e., sd within 8 %; about 100 cells, failure below 1e-4
    model, test = fitted[name], parts(panel).test
    tree = model.forecast(test, num_samples=4000, seed=1)
    returns, stated = tree["predictions"]["returns"].astype(float), model.moments(test)
    pooled = returns.stack(sample=("chain", "draw"))
    error = (pooled.mean("sample") - model.predict(test)) / (stated["sd"] / 4000**0.5)
    assert float(abs(error).max()) < 5
    assert float(abs(pooled.std("sample") / stated["sd"] - 1).max()) < 0.08
    xr.testing.assert_equal(returns.notnull().any(("chain", "draw")), stated["sd"].notnull())
    mean = xr.dot(stated["mean"], stated["share"], dim="chain")
    np.testing.assert_allclose(mean, model.predict(test), rtol=1e-12)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_risk_takes_a_baseline_as_it_takes_a_fit(name, panel, fitted):
    model, times = fitted[name], panel["time"].values[-3:-1]
    cov = risk.covariance(model, panel, times)
    stated = model.moments(panel, times=times)
    listed = stated["sd"].notnull().values
    assert listed.any()
    assert not listed.all()
    for t, cells in enumerate(listed):
        month = stated.isel(time=t, asset=cells)
        expected = 0.0
        for _, one in month.groupby("chain"):
            one = one.squeeze("chain")
            apart = one["mean"] - (month["mean"] * month["share"]).sum("chain")
            inside = one["beta"].values @ one["factor_cov"].values @ one["beta"].values.T
            inside = inside + np.diag(one["idio_var"]) + np.outer(apart, apart)
            expected = expected + float(one["share"]) * inside
        dense = cov.sel([times[t]]).to_dense().isel(time=0, asset=cells, other_asset=cells)
        np.testing.assert_allclose(dense, expected, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(np.diag(dense) ** 0.5, month["sd"], rtol=1e-9)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_draws_share_factors_and_feed_risk(name, panel, fitted):
    model, test = fitted[name], parts(panel).test
    tree = model.forecast(test, num_samples=600, seed=1)
    groups = tree["predictions"], tree["predictions_constant_data"]
    fit = groups[1].alpha + (groups[1].beta * groups[0].factors).sum("factor", skipna=False)
    residual = (groups[0].returns - fit) / groups[1].idio_scale
    assert float(residual.std()) == pytest.approx(1.0, abs=0.05)
    summary = risk.summarize(tree, tail=0.05)
    explained = summary.factor_var.where(summary.sd.notnull()).dropna("asset", how="all")
    assert float(explained.mean()) > 0
    members = 2 if name == "ConditionalAutoencoder" else 1
    assert tree["predictions"].sizes["chain"] == members
    assert tree["predictions"].sizes["draw"] == 600 // members
    assert {"seed", "config", "data_fingerprint", "draw_seed"} <= set(tree.attrs)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_what_draws_take_as_given_comes_without_draws_too(name, panel, fitted):
    model = fitted[name]
    drawn = model.forecast(panel, num_samples=2)["predictions_constant_data"].to_dataset()
    xr.testing.assert_identical(model.constant_data(panel), drawn)
    last = panel.time.values[-1]
    xr.testing.assert_identical(model.constant_data(panel, last), drawn.sel(time=[last]))
    with pytest.raises(ConfigError, match="`times`"):
        model.constant_data(panel, "1999-01-31")


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_draws_are_keyed_by_date_and_label(name, panel, fitted):
    model, test = fitted[name], parts(panel).test

    def draws(p, **options):
        return model.forecast(p, num_samples=4, **options)["predictions"]["returns"]

    first = draws(panel)
    last = draws(panel, times=test.time.values[-1])
    np.testing.assert_array_equal(first[..., [-1], :], last)
    order = np.random.default_rng(0).permutation(panel.sizes["asset"])
    mixed = draws(panel.isel(asset=order)).reindex(asset=panel.asset)
    np.testing.assert_allclose(mixed, first, atol=1e-6)
    assert not np.array_equal(first, draws(panel, seed=1), equal_nan=True)


def test_draws_stream_to_disk(panel, fitted, tmp_path):
    test = parts(panel).test
    five, seed = np.int64(5), np.int64(0)  # as they come out of arrays
    tree = fitted["IPCA"].forecast(test, five, seed, out=tmp_path / "draws.zarr")
    here = fitted["IPCA"].forecast(test, num_samples=5)
    np.testing.assert_array_equal(tree["predictions"]["returns"], here["predictions"]["returns"])
    with pytest.raises(ConfigError, match="`num_samples` must be"):
        fitted["IPCA"].forecast(test, num_samples=0)


def test_members_disagree_and_their_mean_is_the_forecast(panel, fitted):
    model = fitted["ConditionalAutoencoder"]
    assert model.loadings(panel).dims == ("chain", "time", "asset", "factor")
    fits = xr.dot(model.loadings(panel), model.factors(panel), dim="factor")
    assert float(fits.std("chain").max()) > 1e-4
    expected = fits.mean("chain", skipna=False).transpose("time", "asset")
    np.testing.assert_allclose(model.reconstruct(panel), expected, atol=1e-12)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_months_of_which_nothing_is_expected_have_no_covariance(name, panel, fitted):
    cov, stated = risk.covariance(fitted[name], panel), fitted[name].moments(panel)
    known = stated["sd"].notnull()
    assert bool(known[0].any()) == (name == "FactorVAE")  # which knows its prior
    np.testing.assert_array_equal(cov.listed.values, known.values)
    np.testing.assert_allclose(cov.variance() ** 0.5, stated["sd"], rtol=1e-9)
    assert np.isnan(cov.minimum_variance().values[~known.values]).all()


@pytest.mark.statistical
def test_intervals_of_ipca_cover_on_its_own_kind_of_data():
    # 12,000 cells of 60 months with common factors; the oracle covers 0.908 (s.e. 0.001)
    train, valid, test = split(simulate_gkx("linear", seed=1), 60, 60, 60)
    from rvrae_pyro.baselines import IPCA

    model = IPCA(3).fit(train, valid)
    inside = abs(test.returns - model.predict(test)) < 1.6449 * model.moments(test)["sd"]
    assert float(inside.mean()) == pytest.approx(0.905, abs=0.02)


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_log_evidence_is_the_density_of_a_mixture_of_gaussians(name, panel, fitted):
    """Against scipy's Normal with a dense covariance, member by member."""
    model = fitted[name]
    batch = model._batch(panel)
    with torch.no_grad():
        views = list(model._views(panel, batch))
    got = model.log_evidence(panel).values
    for t in range(16, 20):  # the test months
        seen = batch.observed[t].numpy()
        each = []
        for view in views:
            beta, spread = view.beta[t].numpy()[seen], view.factor_scale[t].numpy()
            mean = view.alpha[t].numpy()[seen] + beta @ view.loc[t].numpy()
            noise = np.diag(view.idio_scale[t].numpy()[seen] ** 2)
            covariance = beta @ spread @ spread.T @ beta.T + noise
            density = multivariate_normal(mean, covariance)
            each.append(density.logpdf(batch.returns[t].numpy()[seen]))
        assert got[t] == pytest.approx(logsumexp(each) - np.log(len(each)), rel=1e-9)


def test_log_evidence_of_a_month_without_returns_is_nothing(panel, fitted):
    empty = panel.returns.isnull().all("asset").values
    assert empty.any()
    assert (fitted["IPCA"].log_evidence(panel).values[empty] == 0).all()


@pytest.mark.statistical
@pytest.mark.parametrize("name", WITH_FACTORS)
def test_replicates_follow_the_exact_posterior_of_the_factors(name, panel, fitted):
    """4000 draws and fewer than 200 entries, 5 standard errors: fails once in 10,000 seeds."""
    model, test = fitted[name], parts(panel).test
    tree = model.posterior_predictive(
        test, num_samples=4000 * (2 if name == "ConditionalAutoencoder" else 1), seed=2
    )
    known, drawn = tree["constant_data"], tree["posterior"]["factors"]
    seen = test.returns.transpose("time", "asset")
    with torch.no_grad():
        views = list(model._views(test, model._batch(test)))
    for chain, view in enumerate(views):
        for t, month in enumerate(drawn.time.values):
            root, prior = view.factor_scale[t].numpy(), view.loc[t].numpy()
            here = seen.sel(time=month).notnull().values
            beta, scale, alpha = (
                known[v].sel(chain=chain, time=month).values[here]
                for v in ("beta", "idio_scale", "alpha")
            )
            # the Kalman gain, from the covariance of returns
            spread = root @ root.T
            whole = beta @ spread @ beta.T + np.diag(scale**2)
            gain = np.linalg.solve(whole, beta @ spread).T
            mean = prior + gain @ (seen.sel(time=month).values[here] - alpha - beta @ prior)
            sd = np.sqrt(np.diag(spread - gain @ beta @ spread).clip(1e-300))
            got = drawn.sel(chain=chain, time=month).transpose("draw", "factor").values
            assert (np.abs(got.mean(0) - mean) < 5 * sd / 4000**0.5 + 1e-12).all()
            assert (np.abs(got.std(0) - sd) < 5 * sd / 8000**0.5 + 1e-12).all()


def test_arviz_compares_a_baseline_with_a_fit(panel, fitted, tmp_path):
    train, valid, test = parts(panel)
    ipca = fitted["IPCA"]
    fit = rv.fit(
        rv.RVRAE(panel.sizes["characteristic"], 2),
        train,
        valid,
        config=rv.FitConfig(max_steps=30),
        progress=False,
    )
    trees = {"IPCA": ipca, "RVRAE": fit}
    trees = {name: each.posterior_predictive(test, 400, seed=1) for name, each in trees.items()}
    for group in ("posterior_predictive", "log_likelihood", "observed_data"):
        xr.testing.assert_equal(trees["IPCA"][group].time, trees["RVRAE"][group].time)
        assert (trees["IPCA"][group].asset == trees["RVRAE"][group].asset).all()
    np.testing.assert_allclose(
        trees["IPCA"]["observed_data"]["returns"], trees["RVRAE"]["observed_data"]["returns"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto shapes: factors hang on single cells
        table = arviz_stats.compare(trees, var_name="returns")
    assert set(table.index) == {"IPCA", "RVRAE"}
    assert np.isfinite(table["elpd"]).all()
    # density of a cell given its month's factors
    tree = trees["IPCA"]
    cells = tree["observed_data"]["returns"]
    known = tree["constant_data"].to_dataset().isel(chain=0).sel(time=cells.time, asset=cells.asset)
    loc = known.alpha + (known.beta * tree["posterior"].factors.sel(time=cells.time)).sum("factor")
    expected = norm.logpdf(cells, loc.transpose("chain", "draw", "obs"), known.idio_scale)
    np.testing.assert_allclose(tree["log_likelihood"]["returns"], expected, rtol=2e-5, atol=2e-5)
    # enough particles that no month has few effective ones, which warns
    scores = rv.evaluation.compare({"IPCA": ipca, "RVRAE": fit}, test, num_samples=4000)
    assert set(scores.model.values) == {"IPCA", "RVRAE"}
    written = ipca.posterior_predictive(test, 400, seed=1, out=tmp_path / "draws.zarr")
    xr.testing.assert_equal(
        written["posterior"].to_dataset().load(), tree["posterior"].to_dataset()
    )


def test_replicates_know_no_month_before_the_first_factor(panel):
    model = IPCA(1).fit(panel)
    tree = model.posterior_predictive(panel, 4)
    assert tree["posterior"].time[0] > panel.time[0]
    with pytest.raises(ConfigError, match="before which factors are known"):
        model.posterior_predictive(panel, 4, times=panel.time.values[:1])
