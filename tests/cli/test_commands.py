"""check, simulate, fit and forecast: a good file passes from end to end."""

import json
import shlex
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.cli.forecast_commands import _tell_of_noise
from rvrae_pyro.predictive.storage import read_tree
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import SMALL, content, long_table, write_settings

QUANTILES = ["q05", "q25", "q50", "q75", "q95"]
RISKS = ["var_05", "es_05", "var_01", "es_01", "prob_loss"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".nc"])
def test_a_good_file_passes_end_to_end(rvrae: Command, tmp_path: Path, suffix: str) -> None:
    panel, run = tmp_path / f"panel{suffix}", tmp_path / "run"
    settings = write_settings(tmp_path / "small.toml")
    sizes = ("--n-assets", 9, "--n-times", 20, "--n-characteristics", 3)
    for arguments in (
        ("simulate", "dynamic", "--out", panel, *sizes),
        ("check", panel),
        ("fit", panel, "--out", run, "--config", settings, "--seed", 1),
        ("forecast", run, panel, "--out", tmp_path / "f.csv"),
        ("forecast", run, panel, "--out", tmp_path / "f.nc"),
        ("forecast", run, panel, "--out", tmp_path / "f.parquet", "--times", "all"),
    ):
        outcome = rvrae(*arguments)
        assert outcome.code == 0, outcome
        assert outcome.err == ""
        assert outcome.out != ""
    assert set(content(tmp_path)) == {
        panel.name,
        "small.toml",
        "f.csv",
        "f.nc",
        "f.parquet",
        "run/config.toml",
        *(f"run/model/{name}" for name in ("fit.json", "model.safetensors", "training.nc")),
        "run/model/preparation.json",
    }
    table, every = pd.read_csv(tmp_path / "f.csv"), pd.read_parquet(tmp_path / "f.parquet")
    drawn = read_tree(tmp_path / "f.nc")["predictions"]["returns"]
    listed = rv.data.listed(rv.data.read_panel(panel))
    assert list(table.columns) == ["date", "asset", "mean", "sd", *QUANTILES, *RISKS, "rank"]
    assert set(table["asset"]) == set(listed["asset"].values[listed.values[-1]])
    assert len(every) == int(listed.sum())
    np.testing.assert_allclose(
        table.set_index("asset")["mean"],
        drawn.mean(("chain", "draw")).isel(time=-1).to_series()[table["asset"]],
        rtol=1e-5,
    )


@pytest.mark.parametrize("case", ["gkx-linear", "gkx-nonlinear", "linear-gaussian", "dynamic"])
def test_simulate_writes_what_the_library_simulates(
    rvrae: Command, tmp_path: Path, case: str
) -> None:
    out = tmp_path / "p.nc"
    outcome = rvrae(
        "simulate", case, "--out", out, "--n-assets", 8, "--n-times", 9, "--seed", 4, "--json"
    )
    said = json.loads(outcome.out)
    expected = {
        "gkx-linear": lambda: rv.data.simulate_gkx("linear", 8, 9, seed=4),
        "gkx-nonlinear": lambda: rv.data.simulate_gkx("nonlinear", 8, 9, seed=4),
        "linear-gaussian": lambda: rv.data.simulate_linear_gaussian(8, 9, seed=4),
        "dynamic": lambda: rv.data.simulate_dynamic(8, 9, seed=4),
    }[case]()
    panel = rv.data.read_panel(out)
    xr.testing.assert_identical(panel["returns"], expected["returns"])
    xr.testing.assert_equal(panel["true_beta"], expected["true_beta"])
    assert (said["case"], said["time"], said["asset"], said["seed"]) == (case, 9, 8, 4)


def test_check_counts_what_the_panel_holds(
    rvrae: Command, panel: xr.Dataset, panel_file: Path
) -> None:
    said = json.loads(rvrae("check", panel_file, "--json").out)
    listed = ~np.isnan(panel["characteristics"].values).all(-1)
    assert said["listed_cells"] == listed.sum()
    assert said["returns_of_listed_assets"] == (listed & ~np.isnan(panel["returns"].values)).sum()
    assert (said["rows"], said["live_rows"], said["assets"]) == (24, 1, 12)
    assert (said["last"], said["last_with_returns"]) == ("2001-12-31", "2001-11-30")
    assert said["context"] == ["dispersion", "market_volatility"]
    text = rvrae("check", panel_file).out
    assert "is a panel in order" in text
    assert "2001-11-30" in text


def test_check_reads_a_plain_table_by_its_column_names(rvrae: Command, tmp_path: Path) -> None:
    table = long_table().rename(columns={"date": "month", "asset": "id", "ret": "r"})
    table["rate"] = 0.01
    table["id"] = "0" + table["id"].str[1:]
    table.to_csv(tmp_path / "t.csv", index=False)
    columns = ("--time", "month", "--asset", "id", "--returns", "r", "--risk-free", "rate")
    said = json.loads(rvrae("check", tmp_path / "t.csv", *columns, "--lag", 1, "--json").out)
    assert (said["rows"], said["live_rows"], said["assets"]) == (21, 1, 6)
    assert said["characteristics"] == ["size", "vol_12m", "mom_1m"]
    size = (table["r"] - 0.01).abs().median()
    assert said["median_absolute_return"] == pytest.approx(size)


def test_fit_prepares_raw_tables_and_forecast_repeats_it(rvrae: Command, tmp_path: Path) -> None:
    table = long_table(24)
    table.loc[table["date"] >= "2011-12", "ret"] = np.nan
    path, run = tmp_path / "raw.csv", tmp_path / "run"
    table.to_csv(path, index=False)
    settings = write_settings(tmp_path / "small.toml")
    outcome = rvrae("fit", path, "--excess", "--config", settings, "--out", run, "--json")
    said = json.loads(outcome.out)
    assert said["train"] == ["2010-01-31", "2011-08-31"]
    assert said["valid"] == ["2011-09-30", "2011-11-30"]
    assert said["findings"][0]["question"] == "Did training converge?"
    prepared = json.loads((run / "model" / "preparation.json").read_text())
    assert (prepared["ranked"], prepared["context"]) == (True, "market")
    kept = json.loads(rv.load(run / "model").attrs["panel"])
    assert kept["features"] == ["vol_12m_median", "vol_12m_iqr"]
    assert (kept["context_source"], kept["context_from"]) == ("market_context", "2010-01-31")

    # columns in another order, an asset more, and the months that the fit did not see
    shuffled = table[["name", "mom_1m", "vol_12m", "size", "ret", "asset", "date"]]
    newcomer = shuffled[shuffled["asset"] == "s1"].assign(asset="new", name="NEW")
    newcomer["ret"] *= 0.9  # an asset of its own, no copy
    longer = pd.concat([shuffled, newcomer])
    longer.to_parquet(tmp_path / "raw.parquet")
    out = tmp_path / "f.parquet"
    outcome = rvrae("forecast", run, tmp_path / "raw.parquet", "--excess", "--out", out)
    assert (outcome.code, outcome.err) == (0, "")
    written = pd.read_parquet(out).set_index("asset")

    columns = ["date", "asset", "ret", "size", "vol_12m", "mom_1m"]
    panel = rv.data.from_frame(longer[columns], excess=True)
    panel = rv.data.rank_characteristics(rv.data.market_context(panel))
    fit = rv.load(run / "model")
    tree = fit.forecast(panel, times=[panel["time"].values[-1]])
    direct = tree["predictions"]["returns"].isel(chain=0, time=0)
    assert len(written) == 7
    assert written.loc["new", "name"] == "NEW"
    for asset in written.index:
        draws = direct.sel(asset=asset).values.astype(float)
        assert written.loc[asset, "mean"] == pytest.approx(draws.mean(), rel=1e-6)
        assert written.loc[asset, "q05"] == pytest.approx(np.quantile(draws, 0.05), rel=1e-6)


def test_forecast_warns_where_the_context_starts_elsewhere(rvrae: Command, tmp_path: Path) -> None:
    path, run = tmp_path / "raw.parquet", tmp_path / "run"
    long_table(24).to_parquet(path)
    settings = write_settings(tmp_path / "small.toml")
    assert rvrae("fit", path, "--excess", "--config", settings, "--out", run).code == 0
    table = long_table(24)
    table[table["date"] > "2010-03"].to_parquet(path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        outcome = rvrae("forecast", run, path, "--excess", "--out", tmp_path / "f.csv")
    assert outcome.code == 0
    assert "the market context is standardised from 2010-03-31 on, that of the" in outcome.err
    assert outcome.err.count("warning: ") == 1


def test_data_settings_turn_ranks_and_context_off(rvrae: Command, tmp_path: Path) -> None:
    path, run = tmp_path / "raw.parquet", tmp_path / "run"
    table = long_table()
    table.to_parquet(path)
    text = f"{SMALL}[data]\nrank = false\ncontext = false\n"
    settings = write_settings(tmp_path / "raw.toml", text)
    assert rvrae("fit", path, "--excess", "--config", settings, "--out", run).code == 0
    prepared = json.loads((run / "model" / "preparation.json").read_text())
    assert (prepared["ranked"], prepared["context"]) == (False, "none")
    outcome = rvrae("forecast", run, path, "--excess", "--out", tmp_path / "f.nc")
    assert outcome.code == 0
    fit = rv.load(run / "model")
    direct = fit.forecast(rv.data.from_frame(table, excess=True), times="2011-08")
    drawn = read_tree(tmp_path / "f.nc")["predictions"]["returns"]
    np.testing.assert_array_equal(drawn, direct["predictions"]["returns"])


def test_same_seed_same_numbers(
    rvrae: Command, panel_file: Path, settings_file: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run = tmp_path / name
        fitted = rvrae(
            "fit", panel_file, "--config", settings_file, "--out", run, "--seed", 5, "--json"
        )
        assert json.loads(fitted.out)["seed"] == 5
        table = tmp_path / f"{name}.csv"
        assert rvrae("forecast", run, panel_file, "--out", table, "--seed", 2).code == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    again = rvrae("forecast", tmp_path / "a", panel_file, "--out", tmp_path / "c.csv", "--seed", 3)
    assert again.code == 0
    assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()


def test_a_run_is_replaced_and_files_beside_it_stay(
    rvrae: Command, panel_file: Path, settings_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit = ("fit", panel_file, "--config", settings_file, "--out", run)
    assert rvrae(*fit, "--seed", 1).code == 0
    (run / "notes.txt").write_text("mine")
    first = (run / "model" / "model.safetensors").read_bytes()
    assert rvrae(*fit, "--seed", 2).code == 0
    assert (run / "model" / "model.safetensors").read_bytes() != first
    assert (run / "notes.txt").read_text() == "mine"
    assert sorted(entry.name for entry in run.iterdir()) == ["config.toml", "model", "notes.txt"]


def test_an_interrupted_fit_is_kept_and_is_a_failure(
    rvrae: Command,
    panel_file: Path,
    settings_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = torch.optim.Adam.step
    calls = []

    def interrupt(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupt)
    outcome = rvrae("fit", panel_file, "--config", settings_file, "--out", tmp_path / "run")
    assert outcome.code == 1
    assert "holds the best state so far" in outcome.err
    assert "[BAD ] Did training converge?" in outcome.out
    assert rv.load(tmp_path / "run" / "model").stopped == "interrupted"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("last", ["2001-12-31"]),
        ("2001-03", ["2001-03-31"]),
        ("2001-10:", ["2001-10-31", "2001-11-30", "2001-12-31"]),
        ("2000-11:2000-12", ["2000-11-30", "2000-12-31"]),
    ],
)
def test_months_of_a_forecast(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    tmp_path: Path,
    times: str,
    expected: list[str],
) -> None:
    out = tmp_path / "f.csv"
    outcome = rvrae("forecast", run_folder, panel_file, "--out", out, "--times", times, "--json")
    said = json.loads(outcome.out)
    assert (said["first"], said["last"], said["months"]) == (
        expected[0],
        expected[-1],
        len(expected),
    )
    table = pd.read_csv(out)
    assert sorted(set(table["date"])) == expected
    assert len(table) == said["forecasts"]


def renamed(tmp_path: Path) -> Path:
    """A table under other column names, in a file with a space in its name."""
    table = long_table().rename(columns={"date": "Date", "asset": "PERMNO", "ret": "TotRet"})
    table.assign(Rf=0.001).to_csv(tmp_path / "my table.csv", index=False)
    return tmp_path / "my table.csv"


def test_the_commands_that_fit_names_next_can_be_given_as_they_are(
    rvrae: Command, tmp_path: Path
) -> None:
    table, run = renamed(tmp_path), tmp_path / "run"
    settings = write_settings(tmp_path / "small.toml")
    layout = ("--time", "Date", "--asset", "PERMNO", "--returns", "TotRet", "--risk-free", "Rf")
    made = rvrae("fit", table, *layout, "--lag", 1, "--out", run, "--config", settings)
    assert made.code == 0, made
    forecast = next(line for line in made.out.splitlines() if line.startswith("Next: "))
    words = shlex.split(forecast.removeprefix("Next: "))
    assert words[:2] == ["rvrae", "forecast"]
    outcome = rvrae(*words[1:-1], tmp_path / "f.csv")
    assert outcome.code == 0, outcome
    assert len(pd.read_csv(tmp_path / "f.csv")) == 6
    assert "rvrae report" in made.out


def test_a_run_remembers_how_its_table_was_read(rvrae: Command, tmp_path: Path) -> None:
    table, run = renamed(tmp_path), tmp_path / "run"
    settings = write_settings(tmp_path / "small.toml")
    names = ("--time", "Date", "--asset", "PERMNO", "--returns", "TotRet")
    given = (*names, "--risk-free", "Rf", "--lag", "1")
    assert rvrae("fit", table, *given, "--out", run, "--config", settings).code == 0
    kept = json.loads((run / "model" / "preparation.json").read_text())["layout"]
    assert (kept["lag"], kept["risk_free"], kept["time"]) == (1, "Rf", "Date")

    for name, options in (("told", given), ("silent", ()), ("in part", ("--lag", "1"))):
        out = tmp_path / f"{name}.csv"
        outcome = rvrae("forecast", run, table, *options, "--out", out)
        assert (outcome.code, outcome.err) == (0, "")
        # what is known at the end of the last month forecasts the next
        assert set(pd.read_csv(out)["date"]) == {"2011-09-30"}
        assert out.read_bytes() == (tmp_path / "told.csv").read_bytes()

    outcome = rvrae("check", table, "--run", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"of the kind that {run} was fitted on" in outcome.out

    before = content(tmp_path)
    for options, contradiction in (
        (("--lag", "0"), r"`--lag 0` contradicts the run, .* read with --lag 1\."),
        (("--returns", "other"), "`--returns other` contradicts .* with --returns TotRet"),
        (("--excess",), "`--excess` contradicts .* read with no --excess"),
        (("--weight", "size"), "`--weight size` contradicts .* read with no --weight"),
    ):
        for arguments in (
            ("forecast", run, table, *options, "--out", tmp_path / "f.csv"),
            ("report", run, table, *options, "--out", tmp_path / "r.html"),
            ("check", table, *options, "--run", run),
        ):
            assert_refused(rvrae(*arguments), contradiction)
    assert content(tmp_path) == before


def test_a_later_file_that_describes_itself_needs_no_layout(rvrae: Command, tmp_path: Path) -> None:
    table, run = renamed(tmp_path), tmp_path / "run"
    settings = write_settings(tmp_path / "small.toml")
    names = {"time": "Date", "asset": "PERMNO", "returns": "TotRet", "risk_free": "Rf"}
    options = [word for n, v in names.items() for word in (f"--{n.replace('_', '-')}", v)]
    fitted = rvrae("fit", table, *options, "--lag", "1", "--out", run, "--config", settings)
    assert fitted.code == 0
    assert rvrae("forecast", run, table, "--out", tmp_path / "table.csv").code == 0
    frame = pd.read_csv(table, dtype={"PERMNO": "str"})
    for lag in (1, 0):
        panel = rv.data.from_frame(frame, **names, lag=lag)
        for suffix in (".parquet", ".nc", ".csv"):
            path = tmp_path / f"panel{suffix}"
            rv.data.write_panel(panel, path)
            outcome = rvrae("forecast", run, path, "--out", tmp_path / "f.csv")
            if lag == 0:
                assert_refused(outcome, "`lag` must be 1, got 0")
                continue
            assert (outcome.code, outcome.err) == (0, "")
            assert (tmp_path / "f.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()


def test_a_table_may_follow_a_fit_of_a_panel_file(rvrae: Command, tmp_path: Path) -> None:
    table, run, path = renamed(tmp_path), tmp_path / "run", tmp_path / "panel.parquet"
    settings = write_settings(tmp_path / "small.toml")
    names = {"time": "Date", "asset": "PERMNO", "returns": "TotRet", "risk_free": "Rf"}
    options = [word for n, v in names.items() for word in (f"--{n.replace('_', '-')}", v)]
    frame = pd.read_csv(table, dtype={"PERMNO": "str"})
    rv.data.write_panel(rv.data.from_frame(frame, **names, lag=1), path)
    assert rvrae("fit", path, "--out", run, "--config", settings).code == 0
    out = ("--out", tmp_path / "f.csv")
    assert rvrae("forecast", run, table, *options, "--lag", "1", *out).code == 0
    assert_refused(rvrae("forecast", run, table, *options, *out), "`lag` must be 1, got 0")


@pytest.mark.filterwarnings("always::rvrae_pyro.errors.RvraeWarning")
def test_missing_columns_are_asked_for_by_their_options(rvrae: Command, tmp_path: Path) -> None:
    outcome = rvrae("check", renamed(tmp_path))
    assert outcome.code == 2
    for option in ("--time", "--asset", "--returns"):
        assert f"Pass {option} COLUMN" in outcome.err
    assert "warning" not in outcome.err  # an error about columns comes before advice on them
    names = ("--time", "Date", "--asset", "PERMNO", "--returns", "TotRet")
    assert "--risk-free Rf" in rvrae("check", renamed(tmp_path), *names).err


@pytest.mark.parametrize(("count", "noisy"), [(10, True), (10**6, False)])
def test_a_ranking_of_noise_is_called_one(
    capsys: pytest.CaptureFixture[str], count: int, noisy: bool
) -> None:
    """Means of ten draws with sd 0.1 are off by 3 %; these differ by 1 %."""
    table = pd.DataFrame({"date": ["d"] * 3, "mean": [0.0, 0.01, 0.02], "sd": [0.1] * 3})
    _tell_of_noise(table, count)
    said = capsys.readouterr().out
    assert ("off by 3.16 % (s.e.) and differ by 1.00 %" in said) == noisy
    assert bool(said) == noisy
