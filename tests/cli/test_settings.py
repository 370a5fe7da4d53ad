"""Settings: what is printed can be read, and gives the same model."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.cli.settings import Settings, cut, read_settings, to_toml
from rvrae_pyro.fitting.saved import describe_config
from rvrae_pyro.models.registry import describe_model
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import SMALL, long_table, write_settings

RICH = """
[model]
n_factors = 3
[model.loadings]
kind = "MLP"
hidden = [8, 4]
weights = "none"
[model.factor_prior]
kind = "Recurrent"
recurrence = "observed"
[model.likelihood]
kind = "Normal"
[model.likelihood.scale]
kind = "CharacteristicScale"
[fit]
learning_rate = 1e-5
window = "none"
dtype = "float64"
[fit.kl_schedule]
kind = "Linear"
start = 0.5
profile = [0.5, 1.5]
[split]
train = 2001-03-31
valid = "2001-08"
test = "2001-11"
"""


PRIORS = """
[model]
n_factors = 2
[model.loadings]
kind = "LSTM"
[model.factor_prior]
kind = "CommonVolatility"
persistence = {distribution = "Beta", concentration1 = 20, concentration0 = 2}
[model.factor_prior.base]
kind = "AR1"
coefficient = {distribution = "Uniform", low = -1, high = 1}
scale = {distribution = "LogNormal", loc = [0.0, 0.1], scale = 0.5}
[model.likelihood]
kind = "StudentT"
excess_df = {distribution = "Gamma", concentration = 2.0, rate = 0.1}
[model.hyper_guide]
kind = "MeanField"
[model.weight_priors."loadings.path"]
kind = "Horseshoe"
inference = "posterior"
"""


def test_settings_state_priors(panel: xr.Dataset, tmp_path: Path) -> None:
    model = read_settings(write_settings(tmp_path / "a.toml", PRIORS)).build_model(panel)
    assert model.drawn_sites == (
        "loadings.path.0.weight",
        "loadings.path.2.weight",
        "factor_prior.base.coefficient",
        "factor_prior.base.scale",
        "factor_prior.persistence",
        "likelihood.excess_df",
    )
    priors = model.priors()
    assert priors.loc["factor_prior.base.scale", "prior"] == (
        "dist.LogNormal(loc=[0.0, 0.1], scale=0.5)"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Uniform"', '"Unifrom"', "`distribution` must be 'Beta', "),
        ("low = -1", "lower = -1", "`distribution` Uniform takes low, high"),
        ("low = -1", "low = -2", r"must have a prior on \(-1, 1\)"),
        ('"loadings.path"', '"loadings.pth"', "`weight_priors` must name weights"),
        ('"MeanField"', '"Mean"', "`hyper_guide` must have a `kind`"),
    ],
)
def test_priors_that_cannot_be_are_one_error(
    panel: xr.Dataset, tmp_path: Path, old: str, new: str, message: str
) -> None:
    settings = read_settings(write_settings(tmp_path / "a.toml", PRIORS.replace(old, new)))
    with pytest.raises(rv.ConfigError, match=message):
        settings.build_model(panel)


@pytest.mark.parametrize(
    "text", ["", SMALL, RICH, PRIORS], ids=["defaults", "small", "rich", "priors"]
)
def test_printed_settings_give_the_same_model_and_configuration(
    panel: xr.Dataset, tmp_path: Path, text: str
) -> None:
    first = read_settings(write_settings(tmp_path / "a.toml", text))
    model, config = first.build_model(panel), first.build_config()
    printed = to_toml(first, model, config)
    second = read_settings(write_settings(tmp_path / "b.toml", printed))
    assert describe_model(second.build_model(panel)) == describe_model(model)
    assert describe_config(second.build_config()) == describe_config(config)
    assert to_toml(second, second.build_model(panel), second.build_config()) == printed
    assert "n_characteristics" not in printed


def test_settings_choose_the_parts(panel: xr.Dataset, tmp_path: Path) -> None:
    settings = read_settings(write_settings(tmp_path / "a.toml", RICH))
    model, config = settings.build_model(panel), settings.build_config()
    assert isinstance(model.loadings, rv.loadings.MLP)
    assert model.loadings.weights is None
    assert list(model.loadings.hidden) == [8, 4]
    assert model.factor_prior.observed
    assert model.factor_prior.n_context == 2
    assert isinstance(model.likelihood, rv.likelihoods.Normal)
    assert config.window is None
    assert config.dtype is torch.float64
    assert (config.learning_rate, config.kl_schedule.profile) == (1e-5, (0.5, 1.5))


def test_defaults_are_those_of_the_library(panel: xr.Dataset) -> None:
    built = describe_model(Settings().build_model(panel))
    assert built == describe_model(rv.RVRAE.for_panel(panel))
    assert Settings().build_config() == rv.FitConfig()


def test_print_config_writes_nothing_but_settings(
    rvrae: Command, panel_file: Path, tmp_path: Path
) -> None:
    settings = write_settings(tmp_path / "a.toml", SMALL)
    run = ("--config", settings, "--out", tmp_path / "run", "--print-config")
    outcome = rvrae("fit", panel_file, *run)
    assert outcome.code == 0
    assert not (tmp_path / "run").exists()
    content = tomllib.loads(outcome.out)
    assert content["model"]["factor_prior"]["kind"] == "AR1"
    assert content["fit"]["max_steps"] == 6
    assert rvrae("fit", panel_file, "--print-config").code == 0


def test_added_factors_are_stated(rvrae: Command, tmp_path: Path) -> None:
    shown = rvrae("fit", "french", "--factors", 2, "--print-config").out
    assert tomllib.loads(shown)["model"] == {"n_factors": 2}
    assert "# factors: 2 + 8 for what single assets share\n" in shown
    table = tmp_path / "mine.csv"
    long_table(70, 9).to_csv(table, index=False)
    settings = write_settings(tmp_path / "a.toml", "[fit]\nmax_steps = 2\n")
    run = ("--config", settings, "--out", tmp_path / "run", "--factors", 2)
    said = rvrae("fit", table, "--excess", *run).out
    assert re.search(r"factors +2 \+ 3 for what single assets share\n", said)
    assert rv.load(tmp_path / "run" / "model").model.n_factors == 5
    # parts that a file chooses have the factors asked for
    settings = write_settings(tmp_path / "b.toml", SMALL)
    run = ("--config", settings, "--out", tmp_path / "other")
    said = rvrae("fit", table, "--excess", *run).out
    assert re.search(r"factors +2\n", said)


def test_cut_keeps_the_last_months_with_returns_for_validation(panel: xr.Dataset) -> None:
    train, valid = cut(panel, {})
    # 23 months with returns, one live; 15 % of 23 is 3.45
    assert valid is not None
    assert (train.sizes["time"], valid.sizes["time"]) == (20, 3)
    assert str(valid["time"].values[-1])[:10] == "2001-11-30"
    alone, none = cut(panel.isel(time=slice(1)), {})
    assert (alone.sizes["time"], none) == (1, None)


def test_cut_of_a_fixed_universe_trains_on_all_months() -> None:
    market = rv.data.simulate_linear_gaussian(5, 70, 2, 1, seed=0)
    train, valid = cut(market, {})
    assert valid is None
    assert str(train["time"].values[-1]) == str(market["time"].values[-1])
    train, valid = cut(market.isel(time=slice(40)), {})  # too short for effects by asset
    assert valid is not None


def test_cut_follows_the_split_that_is_asked_for(panel: xr.Dataset) -> None:
    wanted = {"train": 10, "valid": 4, "test": 6}
    train, valid = cut(panel, wanted)
    expected = rv.data.split(panel, 10, 4, 6)
    assert valid is not None
    np.testing.assert_array_equal(train["time"], expected.train["time"])
    np.testing.assert_array_equal(valid["time"], expected.valid["time"])


def test_split_and_factors_are_options_of_fit(rvrae: Command, tmp_path: Path) -> None:
    table, run = tmp_path / "t.csv", tmp_path / "run"
    long_table(20).to_csv(table, index=False)
    settings = write_settings(tmp_path / "small.toml")
    command = ("fit", table, "--excess", "--config", settings)
    made = rvrae(*command, "--split", "12,4,4", "--factors", 3, "--out", run, "--json")
    assert made.code == 0, made
    said = json.loads(made.out)
    assert (said["factors"], said["train"][1], said["valid"][1]) == (3, "2010-12-31", "2011-04-30")
    kept = tomllib.loads((run / "config.toml").read_text())
    assert kept["split"] == {"train": 12, "valid": 4, "test": 4}
    assert kept["model"]["n_factors"] == 3
    dates = ("--split", "2010-12,2011-04,2011-08", "--print-config")
    shown = tomllib.loads(rvrae(*command, *dates).out)
    assert shown["split"] == {"train": "2010-12", "valid": "2011-04", "test": "2011-08"}
    assert shown["model"]["n_factors"] == 2  # of the file
    assert_refused(
        rvrae(*command, "--split", "12,4", "--out", run), "`--split` must be TRAIN,VALID"
    )
    assert_refused(rvrae(*command, "--factors", 0, "--out", run), "`--factors` must be a whole")
