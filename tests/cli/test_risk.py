"""``rvrae risk``: figures are those of ``rv.risk.portfolio``, whatever the file looks like."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.risk.draws import centred
from tests.cli.conftest import Command, assert_refused
from tests.cli.helpers import content, long_table, write_settings


@pytest.fixture(scope="module")
def ids(panel: xr.Dataset) -> list[str]:
    """Assets with a forecast in the live month."""
    listed = rv.data.listed(panel).isel(time=-1)
    return [str(name) for name in panel["asset"].values[listed.values]]


def _write(path: Path, **columns: Any) -> Path:
    frame = pd.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def _ask(rvrae: Command, *arguments: object) -> dict[str, Any]:
    outcome = rvrae("risk", *arguments, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_figures_are_those_of_the_library(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    panel: xr.Dataset,
    ids: list[str],
    tmp_path: Path,
) -> None:
    held = _write(tmp_path / "w.csv", asset=ids[:3], weight=[0.5, 0.7, -0.2])
    index = _write(tmp_path / "b.parquet", Ticker=ids[:4], share=[0.25] * 4)
    files = ("--portfolio", held, "--benchmark", index)
    found = _ask(rvrae, run_folder, panel_file, *files, "--seed", 3)

    month = panel["time"].values[-1]
    tree = centred(rv.load(run_folder / "model").forecast(panel, seed=3, times=[month]))
    weights = pd.Series(0.0, panel["asset"].values)
    weights[ids[:3]] = [0.5, 0.7, -0.2]
    other = pd.Series(0.0, panel["asset"].values)
    other[ids[:4]] = 0.25
    book = rv.risk.portfolio(tree, weights, other)
    assert found["date"] == str(month)[:10]
    assert (found["value"], found["cash"], found["rule"]) == (None, 0.0, "weights as given")
    for name, data in (
        ("portfolio", book.to_dataset()),
        ("benchmark", book["benchmark"].to_dataset()),
        ("active", book["active"].to_dataset()),
    ):
        mine = found[name]
        assert mine["sd"] == pytest.approx(data["sd"].item(), rel=1e-12)
        assert mine["mean"] == pytest.approx(data["mean"].item(), rel=1e-12)
        assert mine["es_01"] == pytest.approx(data["es"].sel(tail=0.01).item(), rel=1e-12)
        assert mine["var_05"] == pytest.approx(data["var"].sel(tail=0.05).item(), rel=1e-12)
        parts = mine["factor_var"] + mine["idio_var"] + mine["parameter_var"]
        assert parts == pytest.approx(mine["sd"] ** 2, rel=1e-6)
    assert [row["asset"] for row in found["positions"]] != []
    assert {row["asset"]: row["weight"] for row in found["positions"]} == dict(
        zip(ids[:3], [0.5, 0.7, -0.2], strict=True)
    )
    for part, whole in (("sd", "sd"), ("var_05", "var_05"), ("es_05", "es_05")):
        total = sum(row[f"component_{part}"] for row in found["positions"])
        assert total == pytest.approx(found["portfolio"][whole], rel=1e-9)


def test_positions_in_currency(
    rvrae: Command, run_folder: Path, panel_file: Path, ids: list[str], tmp_path: Path
) -> None:
    weights = _write(tmp_path / "w.csv", asset=[*ids[:2], "cash"], weight=[0.6, 0.2, 0.2])
    amounts = _write(
        tmp_path / "p.csv", note=["a", "b", "c"], ID=[*ids[:2], "Cash"], EUR=[600.0, 200.0, 200.0]
    )
    by_weight = _ask(rvrae, run_folder, panel_file, "--portfolio", weights)
    by_amount = _ask(rvrae, run_folder, panel_file, "--portfolio", amounts)
    assert by_weight["cash"] == by_amount["cash"] == pytest.approx(0.2)
    assert by_amount["value"] == 1000.0
    assert by_amount["rule"] == "positions divided by their sum"
    for name, figure in by_weight["portfolio"].items():
        assert by_amount["portfolio"][name] == pytest.approx(figure, rel=1e-9)
    money = by_amount["portfolio"]["in_currency"]
    assert money["var_05"] == pytest.approx(1000.0 * by_weight["portfolio"]["var_05"], rel=1e-9)
    assert "in_currency" not in by_weight["portfolio"]
    assert sorted(row["position"] for row in by_amount["positions"]) == pytest.approx([200, 600])

    # cash has no excess return: it only scales the rest
    fully = _write(tmp_path / "f.csv", asset=ids[:2], weight=[0.75, 0.25])
    invested = _ask(rvrae, run_folder, panel_file, "--portfolio", fully)["portfolio"]
    assert by_weight["portfolio"]["sd"] == pytest.approx(0.8 * invested["sd"], rel=1e-9)

    spread = _write(tmp_path / "s.csv", asset=ids[:2], value=[500.0, -500.0])
    neutral = _ask(rvrae, run_folder, panel_file, "--portfolio", spread)
    assert (neutral["value"], neutral["rule"][:10]) == (1000.0, "long-short")
    assert sorted(row["weight"] for row in neutral["positions"]) == [-0.5, 0.5]


def test_the_table(
    rvrae: Command, run_folder: Path, panel_file: Path, ids: list[str], tmp_path: Path
) -> None:
    held = _write(tmp_path / "w.csv", asset=ids[:2], value=[300.0, 100.0])
    outcome = rvrae("risk", run_folder, panel_file, "--portfolio", held)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("2 positions: positions divided by their sum of 400.00; cash")
    for text in ("VaR 5 %", "ES 1 %", "in currency", "variance from factors", "Parts of the risk"):
        assert text in outcome.out
    last = next(line for line in outcome.out.splitlines() if line.strip().startswith("sum"))
    assert last.split() == ["sum", "100.00", "100.0", "100.0"]


def test_many_positions_are_summed_up(rvrae: Command, tmp_path: Path) -> None:
    table, run = tmp_path / "t.csv", tmp_path / "run"
    long_table(20, 14).to_csv(table, index=False)
    settings = write_settings(tmp_path / "small.toml")
    fitted = rvrae("fit", table, "--excess", "--lag", 1, "--config", settings, "--out", run)
    assert fitted.code == 0
    held = _write(tmp_path / "w.csv", asset=[f"s{i}" for i in range(14)], weight=[1.0] * 14)
    outcome = rvrae("risk", run, table, "--portfolio", held)
    assert outcome.code == 0, outcome
    assert "2011-09, excess returns in %" in outcome.out  # the run remembers the lag
    assert "4 others" in outcome.out


def test_one_month_and_its_assets(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    panel: xr.Dataset,
    ids: list[str],
    tmp_path: Path,
) -> None:
    held = _write(tmp_path / "w.csv", asset=ids[:1], weight=[1.0])
    command = (run_folder, panel_file, "--portfolio", held)
    month = str(panel["time"].values[-2])[:7]
    assert _ask(rvrae, *command, "--times", month)["date"].startswith(month)
    assert_refused(
        rvrae("risk", *command, "--times", "all"), "`--times` must pick one month; got 24"
    )
    assert_refused(rvrae("risk", *command, "--times", "1990-01"), "`--times`")


def test_files_that_are_no_portfolio(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    panel: xr.Dataset,
    ids: list[str],
    tmp_path: Path,
) -> None:
    unlisted = [str(a) for a in panel["asset"].values if str(a) not in ids]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"asset": [ids[0], ids[0]], "weight": [0.5, 0.5]}, f"repeats {ids[0]}"),
        ({"asset": [ids[0], "XYZ"], "weight": [0.5, 0.5]}, "panel does not have: XYZ"),
        ({"asset": ids[:2], "weight": [0.5, np.nan]}, f"no finite number for {ids[1]}"),
        ({"asset": ids[:2], "weight": [0.0, 0.0]}, "all numbers are zero"),
        ({"asset": ids[:2], "weight": ["a lot", "little"]}, "must have one column of numbers"),
        ({"asset": ids[:2], "x": [1.0, 2.0], "y": [1.0, 2.0]}, "must have one column of numbers"),
    ]
    if unlisted:
        bad.append(({"asset": unlisted[:1], "weight": [1.0]}, "without characteristics in"))
    good = _write(tmp_path / "good.csv", asset=ids[:1], weight=[1.0])
    for number, (columns, message) in enumerate(bad):
        path = _write(tmp_path / f"{number}.csv", **columns)
        before = content(tmp_path)
        asked = rvrae("risk", run_folder, panel_file, "--portfolio", path)
        assert_refused(asked, f"`--portfolio` .*{message}")
        files = ("--portfolio", good, "--benchmark", path)
        assert_refused(rvrae("risk", run_folder, panel_file, *files), f"`--benchmark` .*{message}")
        assert content(tmp_path) == before
    missing = ("--portfolio", tmp_path / "none.csv")
    assert_refused(rvrae("risk", run_folder, panel_file, *missing), "is missing or no file")
    assert_refused(rvrae("risk", run_folder, panel_file, "--portfolio", "w.xlsx"), "got '.xlsx'")


def test_horizon_is_that_of_the_library(
    rvrae: Command,
    run_folder: Path,
    panel_file: Path,
    panel: xr.Dataset,
    ids: list[str],
    tmp_path: Path,
) -> None:
    held = _write(tmp_path / "w.csv", asset=ids[:2], value=[3000.0, 1000.0])
    asked = (run_folder, panel_file, "--portfolio", held, "--horizon", 3)
    found = _ask(rvrae, *asked)
    month = panel["time"].values[-1]
    tree = centred(rv.load(run_folder / "model").forecast(panel, times=[month], horizon=3))
    weights = pd.Series(0.0, panel["asset"].values)
    weights[ids[:2]] = [0.75, 0.25]
    book = rv.risk.portfolio(tree, weights).isel(time=0)
    assert (found["horizon"], found["value"]) == (3, 4000.0)
    assert [each["step"] for each in found["steps"]] == [1, 2, 3]
    for step, each in enumerate(found["steps"], 1):
        es = book["compounded_es"].sel(tail=0.05, step=step).item()
        assert each["es_05"] == pytest.approx(es, rel=1e-12)
    assert found["portfolio"] == {k: v for k, v in found["steps"][-1].items() if k != "step"}
    assert found["portfolio"]["in_currency"]["es_05"] == pytest.approx(4000.0 * es, rel=1e-12)
    parts = sum(row["component_es_05"] for row in found["positions"])
    assert parts == pytest.approx(es, rel=1e-9)
    assert "factor_var" not in found["portfolio"]
    shown = rvrae("risk", *asked)
    assert shown.code == 0
    assert "3 periods from" in shown.out
    assert "Compounded up to each period" in shown.out
    assert_refused(rvrae("risk", *asked[:-1], 0), "--horizon")
