"""``rv.risk.ForecastPrior`` in skfolio: protocol, walk-forward, information set, misuse."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv

pytest.importorskip("skfolio", reason="the extra `stocks` is not installed", exc_type=ImportError)
pytest.importorskip("torch")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sklearn.base
    from skfolio import RiskMeasure
    from skfolio.model_selection import WalkForward, cross_val_predict
    from skfolio.optimization import MeanRisk

PANEL = rv.data.simulate_linear_gaussian(6, 40, 2, missing=0.0, seed=1)
PAST = PANEL.isel(time=slice(0, 24))
X = PANEL["returns"].to_pandas()


@pytest.fixture(scope="module")
def fit() -> Any:
    return rv.baselines.MultivariateT(window=24).fit(PAST)


def test_scenarios_are_the_forecast_after_the_last_row(fit: Any) -> None:
    prior = rv.risk.ForecastPrior(fit, PANEL, num_samples=300, seed=2)
    columns = list(X.columns[[3, 0, 4]])
    found = prior.fit(X.iloc[:30][columns]).return_distribution_
    assert prior.time_ == PANEL.indexes["time"][30]
    tree = fit.forecast(PANEL, 300, 2, times=PANEL.time[30])
    draws = tree["predictions"]["returns"][0, :, 0].sel(asset=columns)
    np.testing.assert_allclose(found.returns, draws, rtol=1e-6)
    np.testing.assert_allclose(found.mu, draws.mean("draw"), rtol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(draws.T), rtol=1e-4)
    assert prior.feature_names_in_.tolist() == columns


def test_nothing_after_the_last_row_is_read(fit: Any) -> None:
    other = PANEL.copy(deep=True)
    other["returns"][30:] = 5.0
    other["characteristics"][31:] = 0.0
    mine, theirs = (
        rv.risk.ForecastPrior(fit, p, num_samples=50).fit(X.iloc[:30]) for p in (PANEL, other)
    )
    np.testing.assert_array_equal(
        mine.return_distribution_.returns, theirs.return_distribution_.returns
    )


def test_protocol_of_estimators(fit: Any) -> None:
    prior = rv.risk.ForecastPrior(fit, PANEL, num_samples=50, horizon=1)
    assert set(prior.get_params(deep=False)) == {
        "fitted",
        "panel",
        "num_samples",
        "seed",
        "horizon",
    }
    copied = sklearn.base.clone(prior)
    assert copied is not prior
    assert copied.fitted is fit
    assert copied.set_params(seed=3).seed == 3
    assert prior.seed == 0
    assert not hasattr(copied, "return_distribution_")


@pytest.mark.filterwarnings("ignore")
def test_rebalanced_in_a_walk_forward(fit: Any) -> None:
    """Weights of every test span are those of an optimiser fitted by hand on the rows before."""

    def optimiser(fitted: Any) -> Any:
        prior = rv.risk.ForecastPrior(fitted, PANEL, num_samples=200)
        return MeanRisk(risk_measure=RiskMeasure.CVAR, prior_estimator=prior)

    cut = WalkForward(test_size=4, train_size=28)
    # bound to the panel once, and forecast fold by fold
    for fitted in (fit, fit.filter(PANEL, 200, 0)):
        walked = cross_val_predict(optimiser(fitted), X, cv=cut)
        assert len(walked.portfolios) == 3
        for number, portfolio in enumerate(walked.portfolios):
            direct = optimiser(fit).fit(X.iloc[4 * number : 28 + 4 * number])
            np.testing.assert_allclose(portfolio.weights, direct.weights_, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_paths_of_a_fit_and_refits(fit: Any) -> None:
    model = rv.RVRAE(2, 2)
    config = rv.FitConfig(max_steps=2)
    trained = rv.fit(model, PAST, config=config, progress=False)
    prior = rv.risk.ForecastPrior(trained, PANEL, num_samples=60, horizon=3).fit(X.iloc[:30])
    tree = trained.forecast(PANEL.isel(time=slice(0, 31)), 60, times=PANEL.time[30], horizon=3)
    expected = tree["predictions"]["compounded_returns"].sel(step=3)[0, :, 0]
    np.testing.assert_allclose(prior.return_distribution_.returns, expected, rtol=1e-5)
    seen: list[int] = []

    def make(panel: xr.Dataset) -> Any:
        seen.append(panel.sizes["time"])
        return rv.baselines.MultivariateT(window=24).fit(panel)

    rv.risk.ForecastPrior(make, PANEL, num_samples=60).fit(X.iloc[:30])
    assert seen == [30]


def test_a_model_that_has_seen_later_months_warns() -> None:
    config = rv.FitConfig(max_steps=1)
    trained = rv.fit(rv.RVRAE(2, 2), PANEL, config=config, progress=False)
    with pytest.warns(rv.RvraeWarning, match="in sample"):
        rv.risk.ForecastPrior(trained, PANEL, num_samples=30).fit(X.iloc[:30])


def test_misuse(fit: Any) -> None:
    prior = rv.risk.ForecastPrior(fit, PANEL, num_samples=30)
    with pytest.raises(rv.ConfigError, match="`X` must be a DataFrame"):
        prior.fit(X.to_numpy())
    with pytest.raises(rv.ConfigError, match="dates as index"):
        prior.fit(X.reset_index(drop=True))
    with pytest.raises(rv.ConfigError, match="no assets of the panel"):
        prior.fit(X.rename(columns={X.columns[0]: "other"}))
    with pytest.raises(rv.PanelError, match="a row after the last one"):
        prior.fit(X)
    with pytest.raises(rv.ConfigError, match="`fitted` must be"):
        rv.risk.ForecastPrior(3, PANEL).fit(X.iloc[:30])
    unlisted = PANEL.copy(deep=True)
    unlisted["characteristics"][30, 2] = np.nan
    unlisted["returns"][30, 2] = np.nan
    found = rv.risk.ForecastPrior(fit, unlisted, num_samples=30).fit(X.iloc[:30])
    assert np.isnan(found.return_distribution_.mu).tolist() == [False, False, True, *[False] * 3]
    business = X.iloc[:30].set_axis(X.index[:30] - pd.offsets.BDay(1))
    assert prior.fit(business).time_ == PANEL.indexes["time"][30]
