"""Tables that a new user has: returns only, wide, in percent; and portfolios without a header."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import content, long_table, write_settings

pytestmark = pytest.mark.filterwarnings("always::rvrae_pyro.errors.RvraeWarning")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Dates, ids and returns of 30 months, nothing else."""
    return long_table(30)[["date", "asset", "ret"]]


@pytest.fixture(scope="module")
def expected(table: pd.DataFrame) -> xr.Dataset:
    returns = table.pivot(index="date", columns="asset", values="ret")
    return rv.data.characteristics_from_returns(returns, excess=True)


def _run(rvrae: Command, folder: Path, path: Path, *options: str) -> pd.DataFrame:
    """Fit and forecast; the forecast repeats the options of the fit by itself."""
    settings = write_settings(folder / "small.toml")
    fitted = rvrae("fit", path, *options, "--config", settings, "--out", folder / "run")
    assert fitted.code == 0, fitted.err
    done = rvrae("forecast", folder / "run", path, "--out", folder / "f.csv", "--num-samples", 1000)
    assert done.code == 0, done.err
    return pd.read_csv(folder / "f.csv")


def test_returns_only(
    rvrae: Command, table: pd.DataFrame, expected: xr.Dataset, tmp_path: Path
) -> None:
    table.to_csv(tmp_path / "mine.csv", index=False)
    outcome = rvrae("check", tmp_path / "mine.csv", "--excess", "--json")
    assert outcome.code == 0
    assert "no characteristic: mom_1m" in outcome.err
    assert json.loads(outcome.out)["characteristics"] == expected["characteristic"].values.tolist()
    forecast = _run(rvrae, tmp_path, tmp_path / "mine.csv", "--excess")
    assert set(forecast["date"]) == {"2012-07-31"}
    assert len(forecast) == 6


@pytest.mark.parametrize("name", ["Date", ""])
def test_wide_and_in_percent(
    rvrae: Command, table: pd.DataFrame, expected: xr.Dataset, tmp_path: Path, name: str
) -> None:
    wide = 100 * table.pivot(index="date", columns="asset", values="ret")
    path = tmp_path / "wide.csv"
    wide.to_csv(path, index_label=name)
    assert_refused(rvrae("check", path, "--excess"), r"looks wide: .*add --wide")
    assert_refused(rvrae("check", path, "--excess", "--wide"), "look like percent.*add --percent")
    options = ("--excess", "--wide", "--percent")
    forecast = _run(rvrae, tmp_path, path, *options)
    assert len(forecast) == 6
    again = rvrae("check", path, "--run", tmp_path / "run", "--json")
    described = json.loads(again.out)
    assert described["characteristics"] == expected["characteristic"].values.tolist()
    median = float(np.nanmedian(np.abs(expected["returns"])))
    assert described["median_absolute_return"] == pytest.approx(median)
    other = rvrae("check", path, "--run", tmp_path / "run", "--lag", 1)
    assert_refused(other, "`--lag 1` contradicts the run")
    narrow = tmp_path / "long.csv"
    table.to_csv(narrow, index=False)
    refused = rvrae("check", narrow, "--run", tmp_path / "run")
    assert refused.code == 2


def test_percent_divides_returns_and_rate(
    rvrae: Command, table: pd.DataFrame, tmp_path: Path
) -> None:
    rated = long_table(30).assign(rf=0.2)
    rated["ret"] *= 100
    path = tmp_path / "percent.csv"
    rated.to_csv(path, index=False)
    assert_refused(rvrae("check", path, "--risk-free", "rf"), "risk_free. looks like percent")
    outcome = rvrae("check", path, "--risk-free", "rf", "--percent", "--json")
    assert outcome.code == 0
    median = np.median(np.abs(table["ret"] - 0.002))
    assert json.loads(outcome.out)["median_absolute_return"] == pytest.approx(median)


def test_wide_takes_a_column_for_the_rate_and_no_other(
    rvrae: Command, table: pd.DataFrame, tmp_path: Path
) -> None:
    wide = table.pivot(index="date", columns="asset", values="ret").assign(rf=0.002)
    path = tmp_path / "wide.parquet"
    wide.reset_index().to_parquet(path)
    outcome = rvrae("check", path, "--wide", "--risk-free", "rf", "--json")
    assert (outcome.code, json.loads(outcome.out)["assets"]) == (0, 6)
    refused = rvrae("check", path, "--wide", "--asset", "s0")
    assert_refused(refused, "`--wide` reads every column .* takes no --asset")
    assert_refused(rvrae("check", path, "--wide", "--time", "day"), "no column 'day'; it has date")
    assert_refused(rvrae("check", tmp_path / "none.csv", "--wide"), "missing or no file")
    assert not [name for name in content(tmp_path) if not name.endswith(".parquet")]


@pytest.mark.parametrize("sizes", [("0.5", "0.5"), ("2000", "6000")])
def test_a_portfolio_without_a_header_keeps_its_first_row(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    panel: xr.Dataset,
    tmp_path: Path,
    sizes: tuple[str, str],
) -> None:
    ids = panel["asset"].values[rv.data.listed(panel).isel(time=-1).values][:2]
    rows = [f"{name},{size}" for name, size in zip(ids, sizes, strict=True)]
    found = []
    for header in ([], ["asset,weight"]):
        path = tmp_path / f"p{len(header)}.csv"
        path.write_text("\n".join([*header, *rows]) + "\n")
        outcome = rvrae("risk", run_folder, panel_file, "--portfolio", path, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found.append(json.loads(outcome.out))
    assert found[0] == found[1]
    assert len(found[0]["positions"]) == 2


@pytest.mark.parametrize("row", ["{0},0.5,long", "0.5,{0}", "{0},{1}"])
def test_other_rows_in_place_of_a_header_raise(
    rvrae: Command, run_folder: Path, panel_file: Path, panel: xr.Dataset, tmp_path: Path, row: str
) -> None:
    ids = panel["asset"].values[rv.data.listed(panel).isel(time=-1).values]
    path = tmp_path / "p.csv"
    path.write_text(row.format(*ids[:2]) + "\n" + row.format(*ids[2:4]) + "\n")
    outcome = rvrae("risk", run_folder, panel_file, "--portfolio", path)
    assert_refused(outcome, "has no row of column names: its first row is .*asset,weight")


def test_one_position_of_cash_and_ids_of_digits(
    rvrae: Command, run_folder: Path, panel_file: Path, panel: xr.Dataset, tmp_path: Path
) -> None:
    name = panel["asset"].values[rv.data.listed(panel).isel(time=-1).values][0]
    path = tmp_path / "p.csv"
    path.write_text(f"cash,0.4\n{name},0.6\n")
    outcome = rvrae("risk", run_folder, panel_file, "--portfolio", path, "--json")
    assert json.loads(outcome.out)["cash"] == pytest.approx(0.4)
    assert json.loads(outcome.out)["positions"][0]["weight"] == pytest.approx(0.6)
