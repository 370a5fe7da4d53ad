"""One predictive interface for fits, ensembles and every baseline."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.forecast_tree import Fitted, Forecaster, forecast_tree
from tests.baselines.helpers import MAKE, RISK_MODELS, WITH_FACTORS, market, parts

MARKET = market()
PARTS = parts(MARKET)
TIMES = PARTS.test.time.values
DRAWS = 24
CONFIG = rv.FitConfig(max_steps=3, window=6)
MODELS = ("Fit", "Ensemble")
KINDS = (*MODELS, *MAKE)
DISTRIBUTIONS = (*MODELS, *WITH_FACTORS, *RISK_MODELS)
FACTORS = (*MODELS, *WITH_FACTORS)
N_CHAINS = {"Ensemble": 2, "ConditionalAutoencoder": 2}


def _model() -> rv.RVRAE:
    return rv.RVRAE(MARKET.sizes["characteristic"], 2, factor_prior=rv.priors.Recurrent(2))


def _make(kind: str) -> Fitted:
    train, valid, _ = PARTS
    if kind == "Fit":
        return rv.fit(_model(), train, valid, config=CONFIG, progress=False)
    if kind == "Ensemble":
        return rv.fit_ensemble(_model, train, valid, seeds=2, config=CONFIG, progress=False)
    return MAKE[kind]().fit(train, valid, seed=0)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Fitted]:
    return {kind: _make(kind) for kind in KINDS}


def test_every_baseline_is_here() -> None:
    assert set(MAKE) == set(rv.baselines.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_predict_gives_labelled_months(fitted, kind) -> None:
    model = fitted[kind]
    assert isinstance(model, Forecaster)
    found = model.predict(MARKET, TIMES)
    assert found.dims == ("time", "asset")
    assert list(found.coords) == ["time", "asset"]
    xr.testing.assert_equal(found.time, PARTS.test.time)
    np.testing.assert_array_equal(found.asset, MARKET.asset)
    xr.testing.assert_equal(found, model.predict(MARKET).sel(time=TIMES))
    np.testing.assert_array_equal(found.notnull(), rv.data.listed(PARTS.test))


@pytest.mark.parametrize("kind", KINDS)
def test_a_filtered_panel_gives_what_the_model_gives(fitted, kind) -> None:
    model = fitted[kind]
    filtered = model.filter(MARKET, DRAWS, seed=2)
    asked = {"num_samples": DRAWS, "seed": 2}
    if kind in MODELS:
        expected = model.predict(MARKET, TIMES, **asked)
    else:
        expected = model.predict(MARKET, TIMES)
    xr.testing.assert_identical(filtered.predict(TIMES), expected)
    if model.has_distribution:
        tree, alone = filtered.forecast(TIMES), model.forecast(MARKET, times=TIMES, **asked)
        xr.testing.assert_identical(tree["predictions"].ds, alone["predictions"].ds)
        assert tree.attrs == alone.attrs
        evidence = model.log_evidence(MARKET, **asked)
        xr.testing.assert_identical(filtered.log_evidence(), evidence)
        moments = model.moments(MARKET, times=TIMES, **asked)
        xr.testing.assert_identical(filtered.moments(TIMES), moments)
    if model.has_factors:
        expected = model.factor_parts(MARKET, **asked)
        xr.testing.assert_identical(filtered.factor_parts(), expected)


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_distribution_gives_draws_densities_and_moments(fitted, kind) -> None:
    model = fitted[kind]
    assert model.has_distribution
    tree = model.forecast(MARKET, num_samples=DRAWS, seed=1, times=TIMES)
    drawn = tree["predictions"]["returns"]
    assert drawn.dims == ("chain", "draw", "time", "asset")
    assert drawn.sizes["chain"] == N_CHAINS.get(kind, 1)
    listed = rv.data.listed(PARTS.test)
    np.testing.assert_array_equal(drawn.notnull().all(("chain", "draw")), listed)
    evidence = model.log_evidence(MARKET, num_samples=DRAWS, seed=1)
    assert evidence.dims == ("time",)
    assert evidence.sel(time=TIMES).notnull().all()
    assert abs(float(evidence[MARKET.sizes["time"] // 2])) < 1e-12  # a month without returns
    moments = model.moments(MARKET, num_samples=DRAWS, seed=1, times=TIMES)
    assert moments["mean"].dims == ("chain", "time", "asset")
    mean = (moments["share"] * moments["mean"]).sum("chain", skipna=False)
    asked = (DRAWS, 1) if kind in MODELS else ()
    np.testing.assert_allclose(mean, model.predict(MARKET, TIMES, *asked), atol=1e-6)
    dense = rv.risk.covariance(model, MARKET, TIMES[-1:], DRAWS, 1).to_dense()
    known = listed[-1].to_numpy()
    assert float(np.linalg.eigvalsh(dense[0].to_numpy()[np.ix_(known, known)]).min()) > 0.0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(DISTRIBUTIONS)))
def test_a_point_forecast_names_predict(fitted, kind) -> None:
    model = fitted[kind]
    assert not model.has_distribution
    for method in (model.forecast, model.log_evidence, model.moments):
        with pytest.raises(ConfigError, match=r"predict\(panel\)"):
            method(MARKET)


@pytest.mark.parametrize("kind", FACTORS)
def test_factors_give_fits_and_parts(fitted, kind) -> None:
    model = fitted[kind]
    assert model.has_factors
    rebuilt = model.reconstruct(MARKET)
    assert rebuilt.dims == ("time", "asset")
    filled = model.factor_parts(MARKET)
    assert {"alpha", "beta", "idio_scale", "factors"} == set(filled.data_vars)
    fit = filled["alpha"] + xr.dot(filled["beta"], filled["factors"], dim="factor")
    fit = fit.mean("chain") if "chain" in fit.dims else fit
    np.testing.assert_allclose(fit, rebuilt.transpose(*fit.dims), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(FACTORS)))
def test_without_factors_fits_name_predict(fitted, kind) -> None:
    model = fitted[kind]
    assert not model.has_factors
    for method in (model.reconstruct, model.factor_parts):
        with pytest.raises(ConfigError, match=r"predict\(panel\)"):
            method(MARKET)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_predicts_the_same(fitted, kind, tmp_path: Path) -> None:
    model = fitted[kind]
    copy = rv.load(model.save(tmp_path / "model"))
    assert type(copy) is type(model)
    xr.testing.assert_identical(copy.predict(MARKET, TIMES), model.predict(MARKET, TIMES))


@pytest.mark.parametrize("kind", KINDS)
def test_one_tree_of_forecasts_for_all(fitted, kind) -> None:
    model = fitted[kind]
    tree = forecast_tree(model, MARKET, TIMES, 200, 2)
    said = tree["forecasts"].to_dataset()
    asked = (200, 2) if kind in MODELS else ()
    np.testing.assert_array_equal(said["mean"], model.predict(MARKET, TIMES, *asked))
    assert all(each.dims in (("time",), ("time", "asset")) for each in said.values())
    assert ("log_evidence" in said) == ("predictions" in tree) == (kind in DISTRIBUTIONS)
    assert ("fitted_ols" in said) == ("mean_running" in said) == (kind in FACTORS)
    scored = rv.experiments.score(tree, PARTS.test.returns).estimates
    assert ("crps" in scored) == (kind in DISTRIBUTIONS)
    assert ("total_r2_gls" in scored) == (kind in FACTORS)
    assert all(np.isfinite(estimate) for estimate, _ in scored.values())


def test_variants_of_an_ensemble_are_means_over_members(fitted) -> None:
    ensemble = fitted["Ensemble"]
    filtered = ensemble.filter(MARKET, DRAWS, 2)
    whole = forecast_tree(ensemble, MARKET, TIMES, DRAWS, 2)["forecasts"]
    parts = filtered.factor_parts()
    for name in ("mean", "mean_running", "fitted", "fitted_ols"):
        each = []
        for chain, member in enumerate(filtered.by_member()):
            mine = member.factor_parts()
            xr.testing.assert_equal(parts.isel(chain=chain, drop=True), mine)
            own = rv.experiments.build_outlook(
                MARKET["returns"], member.predict(), TIMES, **mine, fitted=member.reconstruct()
            )
            each.append(own[name])
        np.testing.assert_allclose(whole[name], sum(each) / len(each), atol=1e-12)


def test_an_ensemble_takes_part_in_comparisons(tmp_path: Path) -> None:
    class Seeds:
        """An entrant whose fit is an ensemble."""

        name = "two seeds"

        def describe(self, panel):
            return {"kind": "two seeds"}

        def fit(self, train, valid, seed):
            return rv.fit_ensemble(_model, train, valid, seeds=2, config=CONFIG, progress=False)

    found = rv.experiments.compare(MARKET, [Seeds()], split=(12, 4, 4), num_samples=200)
    assert not found.failures
    assert np.isfinite(found.tables["2"]["estimate"]).all()
    joined = rv.experiments.walk_forward(
        MARKET, Seeds(), train=12, valid=4, test=2, num_samples=DRAWS
    )
    drawn = joined["predictions"]["returns"]
    assert drawn.sizes["chain"] == 2
    assert drawn.sizes["time"] == 4
    np.testing.assert_array_equal(
        drawn.notnull().all(("chain", "draw")), rv.data.listed(PARTS.test)
    )


def test_anything_else_is_named() -> None:
    with pytest.raises(ConfigError, match="got dict"):
        forecast_tree({}, MARKET, TIMES)
