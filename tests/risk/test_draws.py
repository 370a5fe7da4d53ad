"""Risk of forecasts over several periods: per step, compounded, portfolios, scenarios."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.risk.helpers import make_forecast

STEPS, ASSETS = 3, 5


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """Paths of two chains whose steps are independent forecasts."""
    each = [
        make_forecast(draws=600, chains=2, n_assets=ASSETS, seed=s, unlisted=[(1, 0)])[0]
        for s in range(STEPS)
    ]
    groups = {}
    for name in ("predictions", "predictions_constant_data"):
        joined = xr.concat([one[name].to_dataset() for one in each], "step")
        groups[name] = joined.assign_coords(step=np.arange(1, STEPS + 1))
    returns = groups["predictions"]["returns"]
    compounded = (1 + returns).cumprod("step") - 1
    groups["predictions"]["compounded_returns"] = compounded.where(returns.notnull())
    found = xr.DataTree.from_dict(groups)
    found.attrs["seed"] = 3
    return found


@pytest.fixture(scope="module")
def weights() -> "pd.Series[float]":
    return pd.Series([0.0, 0.4, 0.3, 0.5, -0.2], [f"a{i}" for i in range(ASSETS)])


def test_summary_is_that_of_every_step(tree: xr.DataTree) -> None:
    found = rv.risk.summarize(tree, 0.05)
    assert found["sd"].dims == ("time", "step", "asset")
    assert found["var"].dims == ("tail", "time", "step", "asset")
    assert found.attrs["seed"] == 3
    for step in (1, 3):
        own = rv.risk.summarize(rv.risk.at_step(tree, step, compounded=False), 0.05)
        whole = rv.risk.summarize(rv.risk.at_step(tree, step), 0.05)
        for name in own.data_vars:
            np.testing.assert_array_equal(found[name].sel(step=step), own[name], err_msg=name)
        for name in ("mean", "sd", "var", "es", "prob_loss", "parameter_var"):
            np.testing.assert_array_equal(found[f"compounded_{name}"].sel(step=step), whole[name])
    draws = tree["predictions"]["compounded_returns"].sel(step=3).stack(s=("chain", "draw"))
    np.testing.assert_allclose(found["compounded_sd"].sel(step=3), draws.std("s"))
    assert "compounded_factor_var" not in found


def test_portfolio_is_bought_and_held(tree: xr.DataTree, weights: "pd.Series[float]") -> None:
    book = rv.risk.portfolio(tree, weights, pd.Series(0.25, weights.index).where(weights != 0, 0.0))
    draws = book["predictions"]["compounded_portfolio_returns"]
    held = (
        tree["predictions"]["compounded_returns"].fillna(0.0)
        * weights.to_xarray().rename(index="asset")
    ).sum("asset")
    xr.testing.assert_allclose(
        draws.drop_attrs(), held.transpose(*draws.dims).rename(draws.name).drop_attrs()
    )
    xr.testing.assert_allclose(
        rv.risk.portfolio_draws(tree, weights).drop_attrs(),
        draws.rename("portfolio_returns").drop_attrs(),
    )
    for name in ("sd", "es", "var"):
        parts = book[f"compounded_component_{name}"].sum("asset")
        np.testing.assert_allclose(
            parts, book[f"compounded_{name}"].transpose(*parts.dims), rtol=1e-9
        )
    assert book["weights"].dims == ("time", "asset")
    assert book["exposure"].dims == ("time", "step", "factor")
    assert book["active"]["compounded_sd"].dims == ("time", "step")
    own = rv.risk.portfolio(rv.risk.at_step(tree, 2, compounded=False), weights)
    np.testing.assert_allclose(book["component_es"].sel(step=2), own["component_es"])


def test_scenario_weighs_whole_paths(tree: xr.DataTree, weights: "pd.Series[float]") -> None:
    base = rv.risk.portfolio_draws(tree, weights)
    target = float(base.isel(time=0).sel(step=3).quantile(0.2))
    given = rv.risk.scenario(tree, weights=weights, value=target, bandwidth=0.1)
    draws = rv.risk.portfolio_draws(given, weights).isel(time=0)
    sd = float(base.isel(time=0).sel(step=3).std())
    assert abs(float(draws.sel(step=3).mean()) - target) < 0.1 * sd
    # the way there is part of the scenario: earlier steps fall, too
    assert float(draws.sel(step=1).mean()) < float(base.isel(time=0).sel(step=1).mean())
    assert given["scenario"].attrs["step"] == 3
    first = rv.risk.scenario(tree, factors={1: -1.0}, step=1, seed=1)
    moved = first["predictions"]["factors"].sel(step=1, factor=1).mean(("chain", "draw"))
    was = tree["predictions"]["factors"].sel(step=1, factor=1)
    expected = was.mean(("chain", "draw")) - was.std(("chain", "draw"))
    assert (np.abs(moved - expected) < 0.25 * was.std(("chain", "draw"))).all()
    assert rv.risk.summarize(first, 0.05).sizes["step"] == STEPS


def test_misuse(tree: xr.DataTree, weights: "pd.Series[float]") -> None:
    single = rv.risk.at_step(tree, 1)
    with pytest.raises(rv.ShapeError, match="`tree` must be a forecast over several periods"):
        rv.risk.at_step(single, 1)
    for step in (0, 4, "last", True):
        with pytest.raises(rv.ConfigError, match="`step` must be one of the steps"):
            rv.risk.at_step(tree, step)
    with pytest.raises(rv.ShapeError, match="Take one step"):
        rv.risk.to_scenarios(tree, tree["predictions"]["time"].values[0])
    with pytest.raises(rv.ConfigError, match="`method` must be 'kernel'"):
        rv.risk.scenario(tree, weights=weights, value=-0.1, method="gaussian")
    with pytest.raises(rv.ConfigError, match="`step` is for a forecast over several"):
        rv.risk.scenario(single, weights=weights, value=-0.1, step=2)
    with pytest.raises(rv.ConfigError, match="`step` must be one"):
        rv.risk.scenario(tree, weights=weights, value=-0.1, step=9)


def test_realised_returns_compound_alike() -> None:
    months = pd.date_range("2020-01-31", periods=5, freq="ME")
    values = np.array([[0.1, 0.2], [0.1, np.nan], [-0.5, 0.1], [0.0, 0.1], [0.3, 0.1]])
    returns = xr.DataArray(values, {"time": months, "asset": ["a", "b"]}, ("time", "asset"))
    found = rv.evaluation.compounded_returns(returns, 3)
    assert found.dims == ("time", "step", "asset")
    np.testing.assert_allclose(found.sel(asset="a")[0], [0.1, 0.21, 1.21 * 0.5 - 1])
    np.testing.assert_allclose(found.sel(asset="b")[2], [0.1, 0.21, 0.331])
    assert found.sel(asset="b")[0, 1:].isnull().all()
    assert found[3, 2].isnull().all()
    np.testing.assert_array_equal(rv.evaluation.compounded_returns(returns[::-1], 3), found)
    with pytest.raises(rv.ConfigError, match="`horizon` must be a whole number"):
        rv.evaluation.compounded_returns(returns, 0)


def test_scores_of_overlapping_origins_take_lags() -> None:
    rng = np.random.default_rng(0)
    months = pd.date_range("2000-01-31", periods=120, freq="ME")
    base = rng.normal(size=(125, 1))
    moving = np.stack([base[i : i + 120] for i in range(6)]).sum(0) + np.zeros((120, 3))
    coords = {"time": months, "asset": list("abc")}
    returns = xr.DataArray(moving, coords, ("time", "asset"))
    draws = xr.DataArray(
        rng.normal(size=(1, 99, 120, 3)) * 6**0.5,
        {"chain": [0], "draw": np.arange(99), **coords},
        ("chain", "draw", "time", "asset"),
    )
    for score in (rv.evaluation.crps, rv.evaluation.coverage):
        short, long = (score(returns, draws, standard_error=True, lags=lags) for lags in (0, 12))
        assert float(short["estimate"]) == float(long["estimate"])
        assert float(long["standard_error"]) > 1.3 * float(short["standard_error"])
        cells = score(returns, draws, per="month")
        direct = rv.evaluation.hac_standard_error(cells, lags=12)
        assert float(long["standard_error"]) == pytest.approx(float(direct), rel=1e-6)
