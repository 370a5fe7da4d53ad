"""Refits as time goes on."""

import json

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.experiments import ModelEntrant, walk_forward
from tests.experiments.helpers import Slope, panel, small_model


def test_months_are_forecast_once_from_the_refit_before_them():
    market, entrant = panel(), Slope()
    tree = walk_forward(market, entrant, train=12, valid=4, test=6, num_samples=5)
    spans = json.loads(tree.attrs["refits"])
    assert [r["train"][0] for r in spans] == [str(market.time.values[0])[:10]] * len(spans)
    lengths = [train.sizes["time"] for train, *_ in entrant.trained]
    assert lengths == [12, 18, 24, 30]  # expanding, the last test span shorter
    forecast = tree["forecasts"]["mean"]
    np.testing.assert_array_equal(forecast.time, market.time[16:])
    assert forecast["refit"].values.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    for number, (_, valid, _) in enumerate(entrant.trained):
        mine = forecast.time[forecast["refit"] == number]
        assert valid.time.values[-1] < mine.values[0]
    expected = market["characteristics"].isel(characteristic=0, time=slice(16, None), drop=True)
    np.testing.assert_array_equal(forecast, expected)
    np.testing.assert_array_equal(tree["observed_data"]["returns"], market["returns"][16:])


def test_refits_without_validation_train_on_the_last_months():
    market, entrant = panel(), Slope()
    tree = walk_forward(market, entrant, train=12, valid=0, test=6, num_samples=5)
    assert [valid for _, valid, _ in entrant.trained] == [None] * len(entrant.trained)
    spans = json.loads(tree.attrs["refits"])
    assert {span["valid"] for span in spans} == {None}
    for number, (train, *_) in enumerate(entrant.trained):
        mine = tree["forecasts"].time[tree["forecasts"]["refit"] == number]
        ahead = market.time.to_index().get_loc(mine.values[0])
        assert train.time.values[-1] == market.time.values[ahead - 1]


def test_rolling_windows_and_small_steps():
    market, entrant = panel(), Slope()
    tree = walk_forward(
        market, entrant, train=12, valid=4, test=6, step=3, expanding=False, partial=False
    )
    assert {train.sizes["time"] for train, *_ in entrant.trained} == {12}
    refit = tree["forecasts"]["refit"].values
    counts = np.bincount(refit)
    assert (counts[:-1] == 3).all()
    assert counts[-1] == 6
    # what a refit is shown ends with the last month it forecasts
    for number, shown in enumerate(entrant.shown):
        last = tree["forecasts"].time.values[refit == number][-1]
        assert shown.time.values[-1] == last


def test_an_rvrae_gives_the_draws_of_its_own_forecast():
    market = panel(30, 8)
    config = rv.FitConfig(max_steps=3)
    tree = walk_forward(
        market,
        small_model(market),
        train=14,
        valid=4,
        test=6,
        config=config,
        num_samples=200,
        seed=3,
    )
    parts = rv.data.split(market.isel(time=slice(24)), 14, 4, 6)
    fit = rv.fit(
        small_model(market), parts.train, parts.valid, config=config, seed=3, progress=False
    )
    expected = fit.forecast(
        market.isel(time=slice(24)), num_samples=200, seed=3, times=parts.test.time.values
    )
    joined = tree["predictions"].to_dataset()
    assert joined["returns"].dims == ("chain", "draw", "time", "asset")
    first = joined["returns"].isel(time=slice(6)).drop_vars("refit")
    xr.testing.assert_allclose(first, expected["predictions"]["returns"])
    risk = rv.risk.summarize(tree, 0.05)
    assert risk["sd"].sizes["time"] == 12
    assert {"fitted", "fitted_gls", "fitted_ols", "mean_running", "log_evidence"} <= set(
        tree["forecasts"].data_vars
    )
    assert (
        json.loads(tree.attrs["refits"])[0]["attrs"]["data_fingerprint"]
        == fit.attrs["data_fingerprint"]
    )


@pytest.mark.parametrize("name", ["rvrae", "warm", "ipca"])
def test_nothing_looks_ahead(name):
    """Later returns leave every forecast up to their month, its refit included, bit-equal."""
    market = panel(26, 8)
    config = rv.FitConfig(max_steps=2)
    models = {
        "rvrae": ModelEntrant("RVRAE", small_model(market), config),
        "warm": ModelEntrant("RVRAE", small_model(market), config),
        "ipca": rv.baselines.IPCA(2),
    }

    def run(shown: xr.Dataset) -> xr.DataTree:
        warm = name == "warm" and config
        return walk_forward(
            shown, models[name], train=12, valid=3, test=4, num_samples=10, warm_start=warm
        )

    month = market.time.values[20]  # of the second test span
    changed = market.copy(deep=True)
    later = changed.time >= month
    changed["returns"] = changed["returns"].where(~later, -0.5 * changed["returns"] - 0.01)
    before, after = run(market), run(changed)
    upto = slice(None, month)
    for variable in ("mean", "mean_running", "mean_ols"):
        xr.testing.assert_equal(
            before["forecasts"][variable].sel(time=upto),
            after["forecasts"][variable].sel(time=upto),
        )
    xr.testing.assert_equal(
        before["predictions"]["returns"].sel(time=upto),
        after["predictions"]["returns"].sel(time=upto),
    )
    changes = before["forecasts"]["mean"] != after["forecasts"]["mean"]
    assert changes.sel(time=slice(market.time.values[22], None)).any()


def test_misuse():
    market = panel()
    with pytest.raises(rv.ConfigError, match="`step` must be at most `test`, 6"):
        walk_forward(market, Slope(), train=12, valid=4, test=6, step=7)
    with pytest.raises(rv.PanelError, match="need 101 rows"):
        walk_forward(market, Slope(), train=90, valid=10, test=6)
    with pytest.raises(rv.ConfigError, match="a competitor must be an RVRAE, a baseline"):
        walk_forward(market, 3, train=12, valid=4, test=6)
    with pytest.raises(rv.ConfigError, match="Did you mean 'IPCA'"):
        walk_forward(market, "ipcaa", train=12, valid=4, test=6)
    trained = small_model(market)
    rv.fit(trained, market, config=rv.FitConfig(max_steps=1), progress=False)
    with pytest.raises(rv.ConfigError, match="must be untrained"):
        walk_forward(market, trained, train=12, valid=4, test=6)
    with pytest.raises(rv.ConfigError, match="`n_jobs` must be a whole number"):
        walk_forward(market, Slope(), train=12, valid=4, test=6, n_jobs=0)
    with pytest.raises(RuntimeError, match="no luck with 0"):
        walk_forward(market, Slope(fails=(0,)), train=12, valid=4, test=6)


def test_a_configuration_holds_for_models_by_name_too(monkeypatch):
    jobs = {}

    def spy(run, named, **kwargs):
        jobs.update(named)
        yield from ()

    monkeypatch.setattr("rvrae_pyro.experiments.rolling_refits.outcomes", spy)
    config = rv.FitConfig(max_steps=7)
    with pytest.raises(KeyError):  # nothing was run
        walk_forward(panel(), "RVRAE", train=12, valid=4, test=6, config=config)
    assert jobs[0].entrant.config is config
    with pytest.raises(rv.ConfigError, match="`config` is of an RVRAE; IPCA has settings"):
        walk_forward(panel(), "IPCA", train=12, valid=4, test=6, config=config)
