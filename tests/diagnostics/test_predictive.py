"""Predictive checks: statistics by hand, faults that show, trees that ArviZ plots."""

import arviz_plots as azp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import rvrae_pyro as rv
from rvrae_pyro.diagnostics.predictive import statistics
from tests.diagnostics.helpers import freeze, known_model, known_panel

PANEL = known_panel(20, 30, 1, seed=4)
MONTHLY = ["spread", "skewness", "kurtosis", "tails"]


@pytest.fixture(scope="module")
def fit() -> rv.Fit:
    model = freeze(known_model(1), but="likelihood")
    return rv.fit(model, PANEL, config=rv.FitConfig(max_steps=1), progress=False)


def test_statistics_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_t(4, (6, 25))
    values[0, 3:9] = np.nan
    values[2] = np.nan
    found = rv.diagnostics.statistics(xr.DataArray(values, dims=("time", "asset")))
    kept = np.delete(values, 2, axis=0)
    omit = {"axis": 1, "nan_policy": "omit"}
    np.testing.assert_allclose(found["skewness"], stats.skew(kept, **omit))
    np.testing.assert_allclose(found["kurtosis"], stats.kurtosis(kept, **omit))
    np.testing.assert_allclose(found["spread"], np.nanstd(kept, axis=1))
    row = kept[1]
    far = np.abs(row - np.median(row)) > 3 * np.median(np.abs(row - np.median(row))) / 0.6745
    assert found["tails"][1] == far.mean()
    market = np.nanmean(kept, axis=1)
    size = (market - market.mean()) ** 2
    assert found["clustering"].item() == pytest.approx(np.corrcoef(size[1:], size[:-1])[0, 1])
    assert found["volatility"].item() == pytest.approx(market.std())
    assert found["market_skewness"].item() == pytest.approx(stats.skew(market))
    assert found["common_shocks"].item() == pytest.approx(np.log(np.nanmean(kept**2, 1)).std())
    assert np.isnan(found["tail_dependence"])  # of few months


def test_comovement_is_the_share_of_the_first_eigenvalue() -> None:
    values = np.random.default_rng(1).normal(size=(50, 5))
    found = rv.diagnostics.statistics(xr.DataArray(values, dims=("time", "asset")))
    eigenvalues = np.linalg.eigvalsh(values.T @ values)
    assert found["comovement"].item() == pytest.approx(eigenvalues[-1] / eigenvalues.sum())
    one = xr.DataArray(np.outer(values[:, 0], np.ones(5)), dims=("time", "asset"))
    assert rv.diagnostics.statistics(one + 1e-9 * values)["comovement"] > 0.999


@pytest.mark.parametrize("when", ["in_sample", "ahead", "prior"])
def test_the_truth_is_not_rejected(fit: rv.Fit, when: str) -> None:
    """Five figures between 0.5 and 99.5 %: at a fresh seed one check in some twenty fails."""
    tree = rv.diagnostics.predictive_check(fit, PANEL, when=when, num_samples=100)
    group = "prior_predictive" if when == "prior" else "posterior_predictive"
    made, seen = tree[group].to_dataset(), tree["observed_data"].to_dataset()
    assert made["spread"].dims == ("chain", "draw", "time")
    assert made["comovement"].dims == ("chain", "draw")
    assert seen["spread"].dims == ("time",)
    known = [name for name in tree["p_value"].data_vars if name not in ("clustering", "volatility")]
    for name in known:
        assert 0.005 < float(tree["p_value"][name]) < 0.995, name
    assert tree.attrs["when"] == when


def test_thin_tails_and_missing_factors_show(fit: rv.Fit) -> None:
    heavy = PANEL.copy(deep=True)
    rng = np.random.default_rng(0)
    heavy["returns"] = heavy["returns"] * rng.standard_t(2, heavy["returns"].shape)
    found = rv.diagnostics.predictive_check(fit, heavy, num_samples=60)["p_value"]
    assert found["kurtosis"] < 0.02
    assert found["tails"] < 0.02
    alike = PANEL.copy(deep=True)
    alike["returns"] = 0 * alike["returns"] + alike["returns"].mean("asset") * 3
    alike["returns"] += 0.01 * rng.normal(size=alike["returns"].shape)
    found = rv.diagnostics.predictive_check(fit, alike, when="ahead", num_samples=60)["p_value"]
    assert found["comovement"] < 0.02
    assert found["spread"] > 0.98


def test_trees_and_chosen_months(fit: rv.Fit) -> None:
    months = PANEL.time[10:16]
    direct = rv.diagnostics.predictive_check(fit, PANEL, num_samples=20, times=months)
    tree = fit.posterior_predictive(PANEL, 20, 0, times=months)
    again = rv.diagnostics.predictive_check(tree, PANEL)
    xr.testing.assert_identical(direct["p_value"].to_dataset(), again["p_value"].to_dataset())
    np.testing.assert_array_equal(direct["observed_data"]["time"], months)
    assert again.attrs["when"] == "posterior_predictive"
    one = rv.diagnostics.predictive_check(fit, PANEL, num_samples=20, times=months.values[0])
    assert one["observed_data"].sizes["time"] == 1
    assert np.isnan(one["p_value"]["clustering"])


def test_arviz_plots_the_tree(fit: rv.Fit) -> None:
    tree = rv.diagnostics.predictive_check(fit, PANEL, num_samples=30)
    plotted = azp.plot_ppc_tstat(
        tree, var_names=["kurtosis"], t_stat="mean", backend="none", data_pairs=None
    )
    assert plotted is not None
    drawn = azp.plot_ppc_dist(tree, var_names=["spread"], num_samples=20, backend="none")
    assert drawn is not None


def test_misuse_is_refused(fit: rv.Fit) -> None:
    check = rv.diagnostics.predictive_check
    with pytest.raises(rv.ConfigError, match="'ahead'"):
        check(fit, PANEL, when="later")
    with pytest.raises(rv.ConfigError, match="use when='prior'"):
        check(fit.model, PANEL)
    with pytest.raises(rv.ConfigError, match="one model"):
        check(rv.Ensemble.of([fit], PANEL), PANEL, when="prior")
    with pytest.raises(rv.ShapeError, match="groups"):
        check(xr.DataTree(), PANEL)
    with pytest.raises(rv.ShapeError, match="four returns"):
        check(fit.model, PANEL.isel(asset=slice(0, 3)), when="prior")
    with pytest.raises(rv.ShapeError, match=r"\(time, asset\)"):
        rv.diagnostics.statistics(PANEL["returns"].isel(asset=0))
    assert len(check(fit.model, PANEL, when="prior", num_samples=5)["p_value"].data_vars) == 10


def test_statistics_do_not_depend_on_the_order_or_dates_of_months():
    rng = np.random.default_rng(0)
    time = pd.date_range("2010-01-31", periods=40, freq="ME", unit="ns")
    market = np.repeat(rng.normal(0, [[0.02], [0.1]], (2, 20)).ravel(), 1)
    returns = xr.DataArray(
        market[:, None] + rng.normal(0, 0.03, (40, 8)),
        {"time": time, "asset": list("abcdefgh")},
        ("time", "asset"),
    )
    expected = statistics(returns)
    order = rng.permutation(40)
    xr.testing.assert_allclose(statistics(returns.isel(time=order)), expected)
    numbers = returns.assign_coords(time=np.array(time.strftime("%Y%m")).astype(int))
    xr.testing.assert_allclose(statistics(numbers.isel(time=order)), expected)
    for dtype in (np.float64, np.float32):
        flat = returns.copy(data=np.full((40, 8), 0.1)).astype(dtype)
        assert statistics(flat)["clustering"].isnull().all()
        assert statistics(flat)["kurtosis"].isnull().all()


def test_tail_dependence_separates_common_from_separate_crashes() -> None:
    rng = np.random.default_rng(2)
    alone = rng.standard_t(3, (400, 10))
    common = alone * 0.1 + rng.standard_t(3, (400, 1))
    separate, joint = (
        float(statistics(xr.DataArray(r, dims=("time", "asset")))["tail_dependence"])
        for r in (alone, common)
    )
    assert separate < 0.5
    assert joint > 0.9
    wild = alone * np.exp(rng.normal(size=(400, 1)))
    calm, shaken = (
        float(statistics(xr.DataArray(r, dims=("time", "asset")))["common_shocks"])
        for r in (alone, wild)
    )
    assert shaken > 1.5 * calm


def test_own_functions_by_asset_and_period(fit: rv.Fit) -> None:
    check = rv.diagnostics.predictive_check(
        fit,
        PANEL,
        when="ahead",
        statistics={
            "sd": lambda r: r.std("time"),
            "worst": lambda r: float(r.mean("asset").min()),
            "market": lambda r: r.mean("asset"),
            "tails": "tails",
        },
        num_samples=40,
    )
    p, error = check["p_value"].to_dataset(), check["p_value_error"].to_dataset()
    assert [p[name].dims for name in ("sd", "worst", "market", "tails")] == [
        ("asset",),
        (),
        ("time",),
        (),
    ]
    np.testing.assert_allclose(error["sd"], np.sqrt(p["sd"] * (1 - p["sd"]) / 40))
    tree = fit.forecast(PANEL, 40, 0)
    made = tree["predictions"]["returns"].where(PANEL["returns"].notnull())
    larger = (made.std("time") > PANEL["returns"].std("time")).mean(("chain", "draw"))
    np.testing.assert_allclose(p["sd"].sel(asset=larger.asset), larger)
    label = PANEL.asset.values[3]
    one = rv.diagnostics.predictive_check(
        tree, PANEL, assets=label, statistics={"sd": lambda r: r.std("time")}
    )
    np.testing.assert_array_equal(one["p_value"]["sd"], p["sd"].sel(asset=[label]))
    periods = {"early": slice(None, PANEL.time[9]), "late": PANEL.time[10:]}
    halves = rv.diagnostics.predictive_check(
        tree, PANEL, periods=periods, statistics=["spread", "volatility"]
    )
    assert halves["p_value"]["spread"].dims == ("period",)
    early = fit.forecast(PANEL, 40, 0, times=PANEL.time[:10])
    alone = rv.diagnostics.predictive_check(early, PANEL, statistics="volatility")
    assert halves["p_value"]["volatility"].sel(period="early") == alone["p_value"]["volatility"]


def test_a_fault_of_one_asset_and_period_is_found_there(fit: rv.Fit) -> None:
    wild = PANEL.copy(deep=True)
    label = wild.asset.values[2]
    late = wild["returns"].loc[{"time": wild.time[10:], "asset": label}]
    wild["returns"].loc[{"time": wild.time[10:], "asset": label}] = 10 * late
    check = rv.diagnostics.predictive_check(
        fit,
        wild,
        when="prior",
        statistics={"sd": lambda r: r.std("time")},
        periods={"early": slice(None, wild.time[9]), "late": slice(wild.time[10], None)},
        num_samples=60,
    )
    p = check["p_value"]["sd"]
    assert p.dims == ("period", "asset")
    assert p.sel(asset=label, period="late") < 0.02
    assert 0.005 < p.sel(asset=label, period="early") < 0.995


def test_arviz_draws_ecdf_and_pit_of_statistics_and_returns(fit: rv.Fit) -> None:
    check = rv.diagnostics.predictive_check(
        fit, PANEL, when="ahead", num_samples=30, keep_returns=True
    )
    returns = check["posterior_predictive"]["returns"]
    assert returns.dims == ("chain", "draw", "obs")
    assert check["observed_data"]["returns"].notnull().all()
    for name in ("returns", "spread"):
        azp.plot_ppc_pit(check, var_names=[name], backend="none")
        azp.plot_ppc_dist(check, var_names=[name], kind="ecdf", num_samples=10, backend="none")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"statistics": "speed"}, "`statistics` must hold functions"),
        ({"statistics": {}}, "at least one"),
        ({"statistics": lambda r: r.mean()}, "without a name"),
        ({"statistics": {"x": lambda r: "high"}}, "must return a number"),
        ({"statistics": {"x": lambda r: [1.0, 2.0]}}, "must return a number"),
        ({"assets": ["nobody"]}, "`assets` must name"),
        ({"periods": ["1990"]}, "`periods` must map"),
        ({"periods": {"x": "1890"}}, "`periods` must name"),
    ],
)
def test_misuse_of_statistics(fit: rv.Fit, given: dict, message: str) -> None:
    with pytest.raises(rv.ConfigError, match=message):
        rv.diagnostics.predictive_check(fit, PANEL, num_samples=3, **given)
