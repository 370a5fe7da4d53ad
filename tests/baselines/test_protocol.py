"""What every baseline promises: no look-ahead, labels, seeds, files, clear errors."""

import json
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import rvrae_pyro as rv
from rvrae_pyro.baselines import KINDS, TrainConfig, load
from rvrae_pyro.data import listed
from rvrae_pyro.errors import CheckpointError, ConfigError, FitError, PanelError
from tests.baselines.helpers import MAKE, RISK_MODELS, SHORT, WITH_FACTORS, market, parts


@pytest.fixture(scope="module")
def panel():
    return market()


@pytest.fixture(scope="module")
def fitted(panel):
    train, valid, _ = parts(panel)
    return {name: make().fit(train, valid, seed=3) for name, make in MAKE.items()}


def test_every_kind_is_tested():
    assert set(MAKE) == set(KINDS)
    assert rv.baselines.KINDS is KINDS


@pytest.mark.parametrize("name", MAKE)
def test_forecast_has_a_number_for_every_listed_cell_and_no_other(name, panel, fitted):
    test = parts(panel).test
    forecast = fitted[name].predict(test)
    assert forecast.dims == ("time", "asset")
    xr.testing.assert_equal(forecast.notnull(), listed(test).rename(forecast.name))
    live = test.copy(deep=True)
    live["returns"][-1] = np.nan  # the live month
    np.testing.assert_array_equal(fitted[name].predict(live), forecast)


@pytest.mark.parametrize("name", MAKE)
@given(data=st.data())
@settings(max_examples=3)
def test_forecasts_do_not_know_what_comes_after(name, panel, fitted, data):
    """Bit-equal whatever happens to returns of month t and all that follows."""
    model = fitted[name]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    t = data.draw(st.integers(0, panel.sizes["time"] - 1))
    changed = panel.copy(deep=True)
    returns, values = changed["returns"].values, changed["characteristics"].values
    returns[t:] = np.where(rng.uniform(size=returns[t:].shape) < 0.3, np.nan, 0.1)
    values[t + 1 :] = rng.uniform(-1, 1, size=values[t + 1 :].shape)
    values[t + 1 :][rng.uniform(size=returns[t + 1 :].shape) < 0.3] = np.nan
    before, after = model.predict(panel), model.predict(changed)
    np.testing.assert_array_equal(before[: t + 1], after[: t + 1])
    np.testing.assert_array_equal(before[: t + 1], model.predict(panel.isel(time=slice(t + 1))))
    if name in WITH_FACTORS:
        np.testing.assert_array_equal(model.reconstruct(panel)[:t], model.reconstruct(changed)[:t])
    if name in (*WITH_FACTORS, *RISK_MODELS):
        np.testing.assert_array_equal(
            model.moments(panel).sd[: t + 1], model.moments(changed).sd[: t + 1]
        )


@pytest.mark.parametrize("name", sorted(set(MAKE) - set(RISK_MODELS)))
def test_forecasts_follow_characteristics_of_the_month(name, panel, fitted):
    """The opposite of the causality test: what is known at t-1 must matter."""
    changed = panel.copy(deep=True)
    changed["characteristics"][-1] = -changed["characteristics"][-1]
    before, after = (fitted[name].predict(p) for p in (panel, changed))
    assert float(abs(before - after)[-1].max()) > 1e-6


@pytest.mark.parametrize("name", MAKE)
def test_order_of_assets_does_not_matter(name, panel, fitted):
    order = np.random.default_rng(0).permutation(panel.sizes["asset"])
    mixed = fitted[name].predict(panel.isel(asset=order)).reindex_like(panel)
    np.testing.assert_allclose(mixed, fitted[name].predict(panel), atol=1e-10)


@pytest.mark.parametrize("name", MAKE)
def test_same_seed_same_numbers_and_the_callers_stream_is_left_alone(name, panel, fitted):
    train, valid, test = parts(panel)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = MAKE[name]().fit(train, valid, seed=3, progress=True)
    np.testing.assert_array_equal(torch.rand(3), expected)
    np.testing.assert_array_equal(again.predict(test), fitted[name].predict(test))
    other = MAKE[name]().fit(train, valid, seed=4).predict(test)
    same = np.array_equal(other, again.predict(test), equal_nan=True)
    assert same == (name in ("IPCA", *RISK_MODELS))


@pytest.mark.parametrize("name", MAKE)
def test_refitting_forgets_the_first_fit(name, panel, fitted):
    train, valid, test = parts(panel)
    model = MAKE[name]().fit(train.isel(asset=slice(8)), seed=9).fit(train, valid, seed=3)
    np.testing.assert_array_equal(model.predict(test), fitted[name].predict(test))


@pytest.mark.parametrize("name", MAKE)
def test_saved_and_loaded_says_the_same(name, panel, fitted, tmp_path):
    model, path = fitted[name], tmp_path / "model"
    model.save(path)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}
    for copy in (load(path), KINDS[name].load(path), pickle.loads(pickle.dumps(model))):
        assert type(copy) is type(model)
        np.testing.assert_array_equal(copy.predict(panel), model.predict(panel))
        assert copy.attrs == model.attrs
        assert copy.settings() == model.settings()
        assert copy.history.to_dict() == model.history.to_dict()
    model.save(path)  # over itself
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_that_are_no_baselines_are_refused(fitted, tmp_path):
    path = fitted["IPCA"].save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds a IPCA, not a ALSTM"):
        KINDS["ALSTM"].load(path)
    with pytest.raises(CheckpointError, match="no baseline in"):
        load(tmp_path / "nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not a baseline"):
        fitted["IPCA"].save(tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    meta = json.loads((path / "baseline.json").read_text())
    for change, message in (
        ({"format": 99}, "reads up to 1"),
        ({"kind": "Oracle"}, "kind 'Oracle'"),
        ({"settings": {"n_factors": 0}}, "is damaged"),
        ({"settings": {**meta["settings"], "n_factors": 3}}, "is damaged: `gamma` must have shape"),
        ({"characteristics": ["c0"]}, r"must have shape \(2, 2\); got \(5, 2\). Restore"),
        ({"history": {"iteration": [1], "largest_change": []}}, "is damaged"),
        ({"package": "other"}, "not written by this package"),
    ):
        (path / "baseline.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(CheckpointError, match=message):
            load(path)
    (path / "baseline.json").write_text(json.dumps(meta))
    (path / "baseline.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(path)


@pytest.mark.parametrize("name", MAKE)
def test_misuse_is_explained(name, panel, fitted):
    train, valid, test = parts(panel)
    model = MAKE[name]()
    with pytest.raises(FitError, match=r"has not been fitted; call \.fit"):
        model.predict(test)
    with pytest.raises(FitError, match=r"has not been fitted"):
        model.save("nowhere")
    with pytest.raises(PanelError, match=r"`valid` must follow `train`"):
        model.fit(valid, train)
    with pytest.raises(PanelError, match=r"`train` must be a panel"):
        model.fit(train.returns)
    with pytest.raises(FitError, match="at least one observed return"):
        model.fit(train.assign(returns=train.returns * np.nan), valid)
    gaps = train.copy(deep=True)
    gaps["characteristics"][3, :, 0] = np.nan
    with pytest.raises(PanelError, match="rank_characteristics"):
        model.fit(gaps)
    assert not model.is_fitted
    with pytest.raises(PanelError, match=r"`panel` does not match .*; missing: "):
        fitted[name].predict(test.isel(characteristic=[1, 0]))
    with pytest.raises(PanelError, match=r"`valid` does not match .*; missing: "):
        model.fit(train, valid.isel(characteristic=slice(2)))
    reordered = test.isel(characteristic=[1, 0, 2, 3])
    xr.testing.assert_equal(fitted[name].predict(reordered), fitted[name].predict(test))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rv.baselines.IPCA(0), "`n_factors` must be a whole number"),
        (lambda: rv.baselines.IPCA(1, tol=0.0), "`tol` must be above 0"),
        (lambda: rv.baselines.ConditionalAutoencoder(1, (0,)), "`hidden` must be"),
        (lambda: rv.baselines.ConditionalAutoencoder(1, l1=-1.0), "`l1` must be at least 0"),
        (lambda: rv.baselines.FactorVAE(1, kl_weight=0.0), "`kl_weight` must be above 0"),
        (lambda: rv.baselines.ALSTM(window=0), "`window` must be"),
        (lambda: rv.baselines.Transformer(6, n_heads=4), "must be a multiple of `n_heads`"),
        (lambda: TrainConfig(patience=0), "`patience` must be"),
        (lambda: TrainConfig(learning_rate=0.0), "`learning_rate` must be above 0"),
        (lambda: TrainConfig(weight_decay=-1.0), "`weight_decay` must be at least 0"),
        (lambda: TrainConfig(learning_rate="fast"), "`learning_rate` must be above 0; got 'fast'"),
        (lambda: rv.baselines.IPCA(1, tol="low"), "`tol` must be above 0; got 'low'"),
        (lambda: rv.baselines.ConditionalAutoencoder(1, 32), "`hidden` must be a sequence"),
        (lambda: rv.baselines.ConditionalAutoencoder(1, "32"), "`hidden` must be a sequence"),
        *(
            (lambda make=make: make(config={"max_epochs": 3}), "`config` must be a TrainConfig")
            for make in (
                rv.baselines.ALSTM,
                rv.baselines.Transformer,
                lambda config: rv.baselines.FactorVAE(1, config=config),
                lambda config: rv.baselines.ConditionalAutoencoder(1, config=config),
            )
        ),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(MAKE))
def test_a_history_is_a_table_of_ones_own(name, fitted):
    table = fitted[name].history
    assert len(table) > 0
    table.iloc[0, 0] = -9
    assert fitted[name].history.iloc[0, 0] != -9


def test_best_state_on_validation_is_kept(panel):
    """Epochs after the best one leave no trace: fewer of them give the same network."""
    train, valid, test = parts(panel)
    long = TrainConfig(max_epochs=30, patience=4, months=4, learning_rate=0.03)
    model = rv.baselines.ALSTM(4, 1, 3, config=long).fit(train, valid)
    best = int(model.history.valid_loss.argmin()) + 1
    assert best < len(model.history) < 30  # it did stop early
    short = TrainConfig(max_epochs=best, patience=4, months=4, learning_rate=0.03)
    again = rv.baselines.ALSTM(4, 1, 3, config=short).fit(train, valid)
    np.testing.assert_array_equal(again.predict(test), model.predict(test))


def test_exploding_training_says_where(panel):
    train, valid, _ = parts(panel)
    wild = TrainConfig(max_epochs=20, learning_rate=1e30, months=4)
    with pytest.raises(FitError, match="The loss is not finite in months"):
        rv.baselines.ConditionalAutoencoder(2, (), n_members=1, config=wild).fit(train, valid)


@pytest.mark.parametrize("name", sorted(set(MAKE) - {"IPCA"}))
def test_missing_returns_are_ignored_exactly(name, panel):
    """What stands in an unobserved or unlisted cell never matters."""
    train, valid, test = parts(panel)
    model = MAKE[name]().fit(train, valid)
    hidden = train.copy(deep=True)
    unlisted = ~listed(train)
    hidden["returns"] = hidden.returns.where(~unlisted, 0.9)
    again = MAKE[name]().fit(hidden, valid)
    np.testing.assert_array_equal(again.predict(test), model.predict(test))


def test_window_bounds_what_a_sequence_forecast_knows(panel, fitted):
    changed = panel.copy(deep=True)
    changed["characteristics"][: -3 - 1] *= -1.0
    for name in ("ALSTM", "Transformer", "FactorVAE"):
        same = (fitted[name].predict(p)[-1] for p in (panel, changed))
        np.testing.assert_array_equal(*same)
    closer = panel.copy(deep=True)
    closer["characteristics"][-3] *= -1.0
    for name in ("ALSTM", "Transformer", "FactorVAE"):
        before, after = (fitted[name].predict(p)[-1] for p in (panel, closer))
        assert float(abs(before - after).max()) > 1e-9


def test_config_survives_the_round_trip_of_settings():
    model = rv.baselines.FactorVAE(2, config=SHORT)
    assert model.settings()["config"]["max_epochs"] == 2


@pytest.mark.parametrize("name", MAKE)
def test_seeds_and_devices_are_checked_in_words(name):
    model = MAKE[name]()
    with pytest.raises(ConfigError, match="`seed` must be a whole number of at least 0; got -1"):
        model.fit(market(), seed=-1)
    with pytest.raises(ConfigError, match="`device` must be one that torch can use here"):
        model.fit(market(), device="nowhere")
    assert not model.is_fitted


class OwnIPCA(rv.baselines.IPCA):
    """A class that the package does not know."""


def test_a_class_of_ones_own_is_loaded_by_name(panel, tmp_path):
    train, valid, test = parts(panel)
    path = OwnIPCA(1).fit(train, valid).save(tmp_path / "model")
    assert type(load(path)) is OwnIPCA
    np.testing.assert_array_equal(load(path).predict(test), OwnIPCA.load(path).predict(test))


@pytest.mark.parametrize("name", MAKE)
def test_one_loader_reads_every_kind(name, panel, fitted, tmp_path):
    test = parts(panel).test
    again = rv.load(fitted[name].save(tmp_path / name))
    assert type(again) is type(fitted[name])
    months = test.time.values[-2:]
    xr.testing.assert_identical(
        again.predict(test, times=months), fitted[name].predict(test).sel(time=months)
    )
    with pytest.raises(ConfigError, match="baseline"):
        rv.load(tmp_path / name, config=rv.FitConfig())


@pytest.mark.parametrize("name", sorted(set(MAKE) - set(WITH_FACTORS)))
@pytest.mark.parametrize("method", ["forecast", "log_evidence", "moments", "reconstruct"])
def test_what_a_baseline_does_not_define_is_one_error(name, method, panel, fitted):
    if name in RISK_MODELS and method != "reconstruct":
        assert getattr(fitted[name], method)(parts(panel).test) is not None
        return
    with pytest.raises(ConfigError, match=r"predict\(panel\)"):
        getattr(fitted[name], method)(parts(panel).test)
