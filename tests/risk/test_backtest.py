"""Backtests of forecasts that are right, and of forecasts that are wrong in known ways."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro import evaluation
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.risk import backtest, portfolio, summarize
from rvrae_pyro.risk import coverage_tests as ct
from tests.risk.helpers import equal_weights, make_forecast


def with_truth(seed=0, scale=1.0, missing=0.0, **sizes):
    """Split one more draw off a forecast, as what happened; ``scale`` is how much wilder it is."""
    draws = sizes.pop("draws", 1000)
    tree, _ = make_forecast(draws=draws + 1, seed=seed, **sizes)
    predictions = tree["predictions"].to_dataset()
    truth = predictions["returns"].isel(chain=0, draw=-1, drop=True) * scale
    if missing:
        gone = np.random.default_rng(seed).uniform(size=truth.shape) < missing
        truth = truth.where(~gone)
    tree["predictions"] = predictions.isel(draw=slice(0, draws))
    return tree, truth


def test_cells_and_statistics_are_those_of_the_plain_functions():
    tree, truth = with_truth(n_times=60, missing=0.1, unlisted=[(3, 1)])
    books = {"equal": equal_weights(tree), "tilted": equal_weights(tree) * [3, 1, -1, 0, 2]}
    result = backtest(tree, truth, books, num_simulations=200)
    risk, assets = summarize(tree), result["asset"]
    seen = truth.notnull()
    for name in ("var", "es"):
        xr.testing.assert_allclose(assets[name], risk[name].where(seen))
    np.testing.assert_array_equal(assets["hit"].sum("time"), assets["exceptions"])
    draws = tree["predictions"]["returns"]
    np.testing.assert_allclose(assets["pit"], evaluation.pit(truth, draws))
    for tail in (0.05, 0.01):
        here = assets.to_dataset().sel(tail=tail, asset="a2")
        hits = (truth <= -risk["var"].sel(tail=tail)).where(seen).sel(asset="a2")
        one = ct.kupiec(int(hits.sum()), int(seen.sel(asset="a2").sum()), tail)
        assert (here["kupiec"], here["kupiec_p"], here["kupiec_p_exact"]) == pytest.approx(one)
        two = ct.christoffersen(hits, tail)
        assert here["conditional_p"] == pytest.approx(two.conditional.p_value)
        assert here["independence"] == pytest.approx(two.independence.statistic)
        y, var, es = truth.sel(asset="a2"), here["var"], here["es"]
        assert here["z2"] == pytest.approx(ct.acerbi_szekely(y, var, es, tail))
        assert here["fz0"] == pytest.approx(np.nanmean(ct.fz0_score(y, var, es, tail)))
        score = ct.quantile_score(y, var, tail)
        assert here["quantile_score"] == pytest.approx(np.nanmean(score))
    np.testing.assert_allclose(assets["z2_p_holm"][0], ct.holm(assets["z2_p"][0]), rtol=1e-12)
    assert result["portfolio"]["portfolio"].values.tolist() == ["equal", "tilted"]


def test_portfolios_agree_with_portfolio():
    tree, truth = with_truth(n_times=30)
    weights = pd.Series([0.5, 0.3, 0.2, 0.1, -0.1], tree["predictions"]["asset"].values)
    result = backtest(tree, truth, {"mine": weights}, num_simulations=100)["portfolio"]
    risk = portfolio(tree, weights)
    for name in ("var", "es"):
        np.testing.assert_allclose(result[name].squeeze("portfolio"), risk[name])
    np.testing.assert_allclose(
        result["realised"].squeeze(), truth.values @ weights.to_numpy(), rtol=1e-12
    )


def test_right_forecasts_pass_at_the_stated_rate():
    # 200 unrelated assets, 60 months: rejections at 5 % have s.e. 1.5 %; 3 sd allowed
    tree, truth = with_truth(n_times=60, n_assets=200, draws=500, seed=1)
    draws = tree["predictions"]["returns"]
    rng = np.random.default_rng(2)
    draws.values[:] = rng.standard_t(4, draws.shape)
    truth.values[:] = rng.standard_t(4, truth.shape)
    result = backtest(tree, truth, tail=0.05)
    assert float((result["asset"]["z2_p"] < 0.05).mean()) == pytest.approx(0.05, abs=0.046)
    assert float((result["asset"]["kupiec_p_exact"] < 0.05).mean()) < 0.05 + 0.046
    assert float((result["asset"]["pit_p"] < 0.05).mean()) < 0.12  # bands are narrow at 60 months
    # 12000 cells, independent: s.e. of the rate 0.002
    assert result["pooled"]["rate"].item() == pytest.approx(0.05, abs=0.006)
    assert result["pooled"]["rate_se"].item() == pytest.approx(0.002, rel=0.3)
    assert result["pooled"]["z2"].item() == pytest.approx(0.0, abs=0.15)
    assert result["pooled"]["verdict"].item() == "not rejected"


def test_understated_risk_is_rejected():
    tree, truth = with_truth(n_times=150, scale=1.7)
    result = backtest(tree, truth, tail=0.05, num_simulations=400)
    book = result["portfolio"].to_dataset().squeeze("portfolio")
    assert book["verdict"].item().startswith("rejected (kupiec, ")
    assert book["z2_p"].item() < 0.01
    assert book["z2"].item() < -0.7
    assert result["pooled"]["verdict"].item() == "rejected (rate, z2)"
    assert result["pooled"]["pit_p"].item() < 0.05
    outside = (book["pit_share"] > 0.1) & (book["pit_lower"] > 0.1)
    assert outside.values[[0, -1]].all()
    assert "rejected" in result.attrs["conclusion"]


def test_a_shared_surprise_is_no_news_from_every_asset():
    # assets that move as one: 100 assets tell no more than one, and the errors say so
    tree, truth = with_truth(n_times=40, n_assets=1, seed=5)
    many = [tree["predictions"]["returns"].values.repeat(100, axis=-1), truth.values.repeat(100, 1)]
    labels = [f"a{i:03}" for i in range(100)]
    wide = xr.DataTree.from_dict(
        {
            "predictions": xr.Dataset(
                {"returns": (("chain", "draw", "time", "asset"), many[0])},
                {"time": truth.time, "asset": labels, "chain": [0], "draw": np.arange(1000)},
            )
        }
    )
    outcome = xr.DataArray(many[1], {"time": truth.time, "asset": labels}, ("time", "asset"))
    one = backtest(tree, truth, tail=0.05, num_simulations=500)["pooled"]
    hundred = backtest(wide, outcome, tail=0.05, num_simulations=500)["pooled"]
    for name in ("rate", "rate_se", "rate_p_simulated", "z2", "z2_p", "pit_p", "fz0_se"):
        assert hundred[name].item() == pytest.approx(one[name].item(), rel=1e-9), name
    assert hundred["verdict"].item() == one["verdict"].item()
    assert hundred["n_cells"].item() == 100 * one["n_cells"].item()


def test_too_few_months_are_said():
    tree, truth = with_truth(n_times=36, seed=2)
    result = backtest(tree, truth, tail=0.05, num_simulations=100)
    book = result["portfolio"].to_dataset().squeeze()
    assert book["verdict"].item() == "too few months to tell"
    assert book["power"].item() == pytest.approx(ct.kupiec_power(36, 0.05, 0.1))
    assert book["months_needed"].item() == ct.months_needed(0.05)
    assert f"from {ct.months_needed(0.05)} months on" in result.attrs["conclusion"]
    short = backtest(*with_truth(n_times=6), tail=0.05, num_simulations=100)
    assert bool(short["asset"]["pit_p"].isnull().all())


def test_power_is_that_of_the_test_that_decides():
    """Kupiec's exact test at the level of Holm's first step, over series that have months."""
    tree, truth = with_truth(n_times=40, n_assets=6, seed=3)
    truth[:, 2] = np.nan
    truth[10:, 1] = np.nan
    found = backtest(tree, truth, tail=0.05, num_simulations=100)["asset"].to_dataset().squeeze()
    size = [40, 10, 0, 40, 40, 40]
    expected = [ct.kupiec_power(n, 0.05, 0.1, 0.05 / 5) for n in size]
    np.testing.assert_allclose(found["power"], expected)
    assert (found["months_needed"] == ct.months_needed(0.05, 0.5, 0.05 / 5)).all()
    # the power is what it says: a series that loses twice as often, four that are as they should
    rng = np.random.default_rng(4)
    exceptions = np.stack([rng.binomial(40, rate, 4000) for rate in (0.1, *[0.05] * 4)], -1)
    p = np.array([ct.kupiec(k, 40, 0.05).p_exact for k in range(41)])[exceptions]
    rejected = np.mean([ct.holm(row)[0] < 0.05 for row in p])
    # 4000 samples: s.e. below 0.006; Holm's later steps add a little
    assert rejected == pytest.approx(expected[0], abs=0.02)
    assert rejected > expected[0] - 0.018


def test_verdicts_do_not_swing_with_the_number_of_months():
    """Once there are enough months, one more month is never too few."""
    tree, truth = with_truth(n_times=170, n_assets=1, draws=400, seed=6)
    needed = ct.months_needed(0.05)
    verdicts = []
    for size in range(needed - 42, 170, 7):
        part = tree.isel(time=slice(0, size))
        few = truth.isel(time=slice(0, size))
        result = backtest(part, few, tail=0.05, num_simulations=100)
        verdicts.append((size, result["portfolio"]["verdict"].item()))
    for size, verdict in verdicts:
        assert verdict.startswith("rejected") or (size < needed) == (verdict[:7] == "too few")
    assert any(v == "not rejected" for _, v in verdicts)


@pytest.mark.statistical
def test_pooled_tests_have_the_size_they_state():
    """Right forecasts of dependent assets: rejections come as often as the result states.

    150 histories of 30 months and 8 assets. The rejection rate has s.e. up to 0.027; 2.6 sd
    allowed: failure rate below 0.01.
    """
    rng = np.random.default_rng(7)
    T, N, S = 30, 8, 1000
    labels = {"time": pd.date_range("2000-01-31", periods=T, freq="ME"), "asset": list("abcdefgh")}

    def market(*shape):
        shared = rng.standard_normal((*shape, T, 1))
        return shared + 0.7 * rng.standard_normal((*shape, T, N))

    tree = xr.DataTree.from_dict(
        {"predictions": xr.Dataset({"returns": (("chain", "draw", "time", "asset"), market(1, S))},
                                   {**labels, "chain": [0], "draw": np.arange(S)})}
    )  # fmt: skip
    rejected = {"rate_p": [], "rate_p_simulated": []}
    stated = {"rate_p": [], "rate_p_simulated": []}
    for seed in range(150):
        truth = xr.DataArray(market(), labels, ("time", "asset"))
        pooled = backtest(tree, truth, tail=0.05, num_simulations=300, seed=seed)["pooled"]
        for name in rejected:
            rejected[name].append(pooled[name].item() < 0.05)
            stated[name].append(pooled[f"{name}_size"].item())
    for name in rejected:
        assert np.mean(rejected[name]) == pytest.approx(np.mean(stated[name]), abs=0.069), name
    assert np.mean(stated["rate_p"]) > 0.08  # months as clusters: too often, and it says so
    assert np.mean(stated["rate_p_simulated"]) <= 0.05


def test_what_was_not_observed_does_not_count():
    tree, truth = with_truth(n_times=24)
    expected = backtest(
        tree, truth.isel(time=slice(0, 23)).reindex_like(truth), num_simulations=100
    )
    live = truth.copy()
    live[23] = np.nan
    result = backtest(tree, xr.Dataset({"returns": live}), num_simulations=100)
    xr.testing.assert_identical(result, expected)
    assert result["asset"]["n_months"].values.tolist() == [23] * 5
    assert result["pooled"]["n_months"].values.tolist() == [23, 23]
    # one fifth of the weight is more than a tenth, less than a quarter
    truth[4, 2] = np.nan
    assert backtest(tree, truth, num_simulations=100)["portfolio"]["n_months"].item() == 23
    more = backtest(tree, truth, max_missing=0.25, num_simulations=100)["portfolio"]
    assert more["n_months"].item() == 24
    rest = truth[4].fillna(0.0).sum().item() / 5
    assert more["realised"].values[4, 0] == pytest.approx(rest)


def test_the_order_of_assets_does_not_matter():
    tree, truth = with_truth(n_times=20, unlisted=[(2, 2)])
    order = [3, 1, 4, 0, 2]
    moved = tree.map_over_datasets(lambda d: d.isel(asset=order) if "asset" in d.dims else d)
    first = backtest(tree, truth, num_simulations=100)
    again = backtest(moved, truth, num_simulations=100)
    xr.testing.assert_allclose(
        again["asset"].to_dataset(), first["asset"].to_dataset().isel(asset=order)
    )
    xr.testing.assert_allclose(again["pooled"].to_dataset(), first["pooled"].to_dataset())


def test_portfolios_may_have_months_of_their_own():
    tree, truth = with_truth(n_times=20)
    books = {"all": equal_weights(tree), "late": equal_weights(tree).isel(time=slice(12, None))}
    result = backtest(tree, truth, books, num_simulations=100)["portfolio"]
    assert result["n_months"].values.tolist() == [20, 8]
    np.testing.assert_allclose(result["realised"][12:, 0], result["realised"][12:, 1])


def test_bad_input_is_refused():
    tree, truth = with_truth(n_times=5)
    good = equal_weights(tree)
    cases = [
        (ShapeError, (tree, truth.values), {}, r"`returns` must be a DataArray .* got ndarray"),
        (ShapeError, (tree, truth.isel(time=slice(1, None))), {}, r"lacks 1 \(2020-01-31\)"),
        (ShapeError, (tree, truth.isel(asset=slice(1, None))), {}, r"every asset .* 1 \(a0\)"),
        (ShapeError, (tree, truth * np.nan), {}, "must hold a return"),
        (ShapeError, (tree, xr.Dataset()), {}, "must have a variable 'returns'"),
        (ConfigError, (tree, truth, {}), {}, "must name at least one"),
        (ConfigError, (tree, truth, {"x": good * np.nan}), {}, r"`portfolios\['x'\]` must be fini"),
        (ShapeError, (tree, truth, {"x": xr.concat([good, good], "b")}), {}, "be one portfolio"),
        (ConfigError, (tree, truth), {"num_simulations": 5}, "at least 100; got 5"),
        (ConfigError, (tree, truth), {"block": 0.5}, "`block` must be at least 1"),
        (ConfigError, (tree, truth), {"max_missing": 1.0}, r"`max_missing` must be in \[0, 1\)"),
        (ConfigError, (tree, truth), {"tail": 0.0001}, "holds none of 1000 draws"),
    ]
    for error, arguments, settings, match in cases:
        with pytest.raises(error, match=match):
            backtest(*arguments, **settings)


def test_results_are_written_and_read(tmp_path):
    tree, truth = with_truth(n_times=12)
    result = backtest(tree, truth, num_simulations=100)
    result.to_netcdf(tmp_path / "backtest.nc")
    again = xr.load_datatree(tmp_path / "backtest.nc")
    assert (
        again["portfolio"]["verdict"].values.tolist()
        == result["portfolio"]["verdict"].values.tolist()
    )
    assert again.attrs["conclusion"] == result.attrs["conclusion"]
