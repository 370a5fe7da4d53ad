"""What competitors say, and how it is scored."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.baselines import ConditionalAutoencoder, FactorVAE, TrainConfig
from rvrae_pyro.experiments import METRICS, Oracle, Rules, as_entrant, score
from rvrae_pyro.experiments.forecast_tree import forecast_tree, refit
from tests.experiments.helpers import SHORT, panel, small_model

MARKET = panel(34, 12)
PARTS = rv.data.split(MARKET, 20, 6, 8)
TIMES = PARTS.test.time.values
DRAWS = 200


def _outlook(model, seed=0):
    config = rv.FitConfig(max_steps=3) if isinstance(model, rv.RVRAE) else None
    fitted = as_entrant(model, config=config).fit(PARTS.train, PARTS.valid, seed)
    return forecast_tree(fitted, MARKET, TIMES, DRAWS, seed)


def test_refit_is_weighted_least_squares():
    rng = np.random.default_rng(1)
    beta, returns = rng.normal(size=(3, 9, 2)), rng.normal(size=(3, 9))
    scale = rng.uniform(0.5, 2.0, size=(3, 9))
    returns[0, 4] = np.nan
    returns[2] = np.nan
    beta[1, 3] = np.nan
    coords = {"time": np.arange(3), "asset": np.arange(9), "factor": [1, 2]}
    b = xr.DataArray(beta, coords=coords, dims=("time", "asset", "factor"))
    r = xr.DataArray(
        returns, dims=("time", "asset"), coords={k: coords[k] for k in ("time", "asset")}
    )
    got = refit(r, b, r.copy(data=scale))
    for t in (0, 1):
        seen = np.isfinite(returns[t]) & np.isfinite(beta[t]).all(1)
        x, w = beta[t, seen], 1 / scale[t, seen] ** 2
        normal = np.linalg.solve((x * w[:, None]).T @ x, (x * w[:, None]).T @ returns[t, seen])
        np.testing.assert_allclose(got[t], normal)
    assert got[2].isnull().all()


@pytest.mark.parametrize(
    "model",
    [
        rv.baselines.IPCA(2, constant=True),
        ConditionalAutoencoder(2, (4,), n_members=2, config=SHORT),
        FactorVAE(2, hidden=4, n_portfolios=3, window=3, config=SHORT),
    ],
    ids=lambda m: type(m).__name__,
)
def test_baselines_agree_with_their_own_methods(model):
    tree = _outlook(model)
    fitted = model.__class__(**model._read_settings(model.settings())).fit(PARTS.train, PARTS.valid)
    said = tree["forecasts"].to_dataset()
    np.testing.assert_allclose(said["mean"], fitted.predict(MARKET).sel(time=TIMES))
    np.testing.assert_allclose(said["fitted"], fitted.reconstruct(MARKET).sel(time=TIMES))
    ols = fitted.reconstruct(MARKET, kind="ols").sel(time=TIMES)
    np.testing.assert_allclose(said["fitted_ols"], ols, atol=1e-9)
    draws = fitted.forecast(MARKET, DRAWS, 0, times=TIMES)["predictions"]["returns"]
    np.testing.assert_array_equal(tree["predictions"]["returns"], draws)
    if not isinstance(
        model, FactorVAE
    ):  # it forecasts by its prior instead; IPCA stops its iteration at 1e-5
        np.testing.assert_allclose(said["mean_running"], said["mean"], atol=1e-6)


def test_an_rvrae_agrees_with_its_own_methods():
    tree = _outlook(small_model(MARKET))
    config = rv.FitConfig(max_steps=3)
    fit = rv.fit(small_model(MARKET), PARTS.train, PARTS.valid, config=config, progress=False)
    said = tree["forecasts"].to_dataset()
    np.testing.assert_array_equal(said["fitted"], fit.reconstruct(MARKET, DRAWS).sel(time=TIMES))
    np.testing.assert_array_equal(
        said["log_evidence"], fit.log_evidence(MARKET, 60).sel(time=TIMES)
    )
    factors = fit.factors(MARKET, num_samples=DRAWS)["mean"]
    premia = rv.evaluation.prevailing_mean(factors)
    running = xr.dot(fit.loadings(MARKET), premia, dim="factor", optimize=True).sel(time=TIMES)
    np.testing.assert_allclose(said["mean_running"], running, atol=1e-9)
    # the mean of the prior, not of 200 noisy draws of returns
    many = fit.forecast(MARKET, num_samples=4000, times=TIMES)["predictions"]["returns"]
    gap = np.abs(said["mean"] - many.mean(("chain", "draw")))
    assert float(gap.max()) < 5 * float(many.std()) / DRAWS**0.5


def test_a_risk_model_has_densities_and_draws_and_no_factors():
    tree = _outlook(rv.baselines.EWMA(burn_in=10))
    fitted = rv.baselines.EWMA(burn_in=10).fit(PARTS.train, PARTS.valid)
    said = tree["forecasts"].to_dataset()
    np.testing.assert_array_equal(said["mean"], fitted.predict(MARKET, TIMES))
    evidence = fitted.log_evidence(MARKET).sel(time=TIMES)
    np.testing.assert_array_equal(said["log_evidence"], evidence)
    draws = fitted.forecast(MARKET, DRAWS, 0, times=TIMES)["predictions"]["returns"]
    np.testing.assert_array_equal(tree["predictions"]["returns"], draws)
    result = score(tree, PARTS.test.returns)
    assert {"log_score", "crps", "coverage", "exceedance", "rank_ic"} <= set(result.estimates)
    assert not {"total_r2", "total_r2_ols", "predictive_r2_running"} & set(result.estimates)


def test_a_forecaster_has_no_total_r2():
    tree = _outlook(rv.baselines.ALSTM(4, 1, 3, config=SHORT))
    result = score(tree, PARTS.test.returns)
    assert list(tree.children) == ["forecasts"]
    assert {"predictive_r2", "sharpe_net", "rank_ic"} <= set(result.estimates)
    undefined = {"total_r2", "total_r2_ols", "predictive_r2_running", "log_score", "crps"}
    assert not undefined & set(result.estimates)


def test_oracle_needs_the_truth():
    fitted = Oracle().fit(PARTS.train, PARTS.valid, 0)
    tree = forecast_tree(fitted, MARKET, TIMES, 1, 0)
    own = float(score(tree, PARTS.test.returns, metrics=("total_r2",)).estimates["total_r2"][0])
    other = _outlook(rv.baselines.IPCA(2, constant=True))
    assert (
        own > score(other, PARTS.test.returns, metrics=("total_r2",)).estimates["total_r2"][0] - 0.1
    )
    with pytest.raises(rv.ConfigError, match="the variable 'true_beta'"):
        Oracle().fit(PARTS.train.drop_vars("true_beta"), None, 0)


def test_scores_are_those_of_the_evaluation():
    tree = _outlook(rv.baselines.IPCA(2, constant=True))
    returns = PARTS.test.returns
    got = score(tree, returns, Rules(quantile=0.2, cost=0.01))
    said, draws = tree["forecasts"].to_dataset(), tree["predictions"]["returns"]
    total = rv.evaluation.total_r2(returns, said["fitted"], standard_error=True)
    assert got.estimates["total_r2"] == (float(total.estimate), float(total.standard_error))
    legs = rv.evaluation.long_short(said["mean"], returns, 0.2, 0.01)
    sharpe = rv.evaluation.sharpe_ratio(legs["net"], standard_error=True)
    assert got.estimates["sharpe_net"] == (float(sharpe.estimate), float(sharpe.standard_error))
    assert got.estimates["crps"][0] == float(rv.evaluation.crps(returns, draws))
    # joint log score: nats of all months over returns of all months
    count = returns.notnull().sum()
    assert got.estimates["log_score"][0] == pytest.approx(float(said["log_evidence"].sum() / count))
    limit = -rv.risk.summarize(tree, 0.05)["var"].squeeze("tail", drop=True)
    below = float((returns < limit).sum() / count)
    assert got.estimates["exceedance"][0] == pytest.approx(below)
    assert set(got.estimates) == set(METRICS)
    np.testing.assert_allclose(got.monthly["net"], legs["net"])
    assert len(got.times) == 8


def test_only_the_assets_asked_for_are_scored():
    tree = _outlook(small_model(MARKET))
    few = PARTS.test.returns.isel(asset=slice(5))
    got = score(tree, few, metrics=("rank_ic", "crps"))
    assert set(got.estimates) == {"rank_ic", "crps"}
    draws = tree["predictions"]["returns"].isel(asset=slice(5))
    assert got.estimates["crps"][0] == float(rv.evaluation.crps(few, draws))


def test_settings_reach_the_description():
    slow = rv.baselines.ALSTM(config=TrainConfig(learning_rate=1e-5))
    described = as_entrant(slow).describe(MARKET)
    assert described["kind"] == "ALSTM"
    assert described["config"]["learning_rate"] == 1e-5
    model = as_entrant(small_model(MARKET), config=rv.FitConfig(window=7)).describe(MARKET)
    assert model["config"]["window"] == 7
    assert model["model"]["loadings"]["kind"] == "MLP"
