"""The command ``paper``."""

import json

import numpy as np
import pandas as pd
import pytest

import rvrae_pyro as rv
from tests.cli.helpers import content, long_table

SIZES = (
    "--split",
    "14,4,4",
    "--factors",
    "2",
    "--jobs",
    "1",
    "--num-samples",
    "200",
    "--seeds",
    "1",
)


@pytest.fixture
def quick(monkeypatch):
    """A baseline that is quick stands for every model; the panels that they were given."""
    from rvrae_pyro.experiments.model_comparison import compare

    seen = []

    def stand_in(panel, models, split, **settings):
        seen.append(panel)
        few = rv.data.Split(*(part.isel(characteristic=slice(3)) for part in split))
        models = {name: rv.baselines.IPCA(1) for name in models}
        return compare(panel.isel(characteristic=slice(3)), models, split=few, **settings)

    monkeypatch.setattr("rvrae_pyro.experiments.replication.compare", stand_in)
    return seen


def test_paper_prints_and_writes_tables_1_to_3(rvrae, quick, tmp_path):
    long_table(24, 20).to_csv(tmp_path / "table.csv", index=False)
    out = tmp_path / "out"
    chosen = ("--excess", *SIZES, "--omit", "4,6", "--out", out)
    done = rvrae("paper", tmp_path / "table.csv", *chosen)
    assert (done.code, done.err) == (0, "")
    assert all(f"Table {number}. " in done.out for number in (1, 2, 3))
    assert "Table 4" not in done.out
    assert "RVRAE (paper)" in done.out
    assert "[printed]" in done.out
    assert {"report.md", "table1.csv", "table3.csv"} <= set(content(out))
    said = json.loads(rvrae("paper", tmp_path / "table.csv", *chosen, "--json").out)
    assert {row["model"] for row in said["tables"]["1"]} == set(rv.experiments.PAPER_MODELS)
    assert said["omit"] == [4, 6]


def datashare(folder, n_times=24, n_assets=12):
    """A file of the published layout without RET, and its returns in a file of their own."""
    rng = np.random.default_rng(0)
    days = pd.date_range("2001-01-31", periods=n_times, freq="ME")
    index = pd.MultiIndex.from_product([days, range(10001, 10001 + n_assets)])
    table = pd.DataFrame(index=index.set_names(["DATE", "permno"])).reset_index()
    for name in (*rv.data.PAPER_CHARACTERISTICS, "age", "tb"):
        table[name] = rng.normal(size=len(table))
    table["mvel1"] = table["mvel1"].abs() + 1.0
    returns = table[["permno", "DATE"]].rename(columns={"permno": "PERMNO"})
    returns["RET"] = 0.004 + 0.05 * rng.normal(size=len(table))
    returns["rf"] = 0.004
    table["DATE"] = table["DATE"].dt.strftime("%Y%m%d")
    table.to_csv(folder / "datashare.csv", index=False)
    returns.rename(columns={"DATE": "date"}).to_csv(folder / "crsp.csv", index=False)
    return folder / "datashare.csv", folder / "crsp.csv", returns


def test_paper_reads_datashare_and_its_returns(rvrae, quick, tmp_path):
    chars, returns, table = datashare(tmp_path)
    done = rvrae(
        "paper", chars, "--gkx-returns", returns, "--risk-free", "rf", "--end", "2002-11",
        *SIZES, "--omit", "4", "--out", tmp_path / "out",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    (panel,) = quick
    assert panel["characteristic"].values.tolist() == list(rv.data.PAPER_CHARACTERISTICS)
    assert panel.sizes["time"] == 23
    first = table[(table["PERMNO"] == 10001)].iloc[0]
    assert float(panel["returns"].sel(asset="10001")[0]) == pytest.approx(first["RET"] - 0.004)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gkx",), r"has no returns"),
        (("--gkx", "--risk-free", "rf"), "`--risk-free` names a column of the returns file"),
        (("--gkx-returns", "{returns}", "--returns", "PRC"), "has no column 'PRC'"),
        (("--gkx-returns", "missing.csv"), "cannot read missing.csv"),
        (("--gkx-returns", "{returns}", "--omit", "few"), "`--omit` must be whole numbers"),
    ],
)
def test_bad_input_is_told_and_nothing_written(rvrae, tmp_path, options, message):
    chars, returns, _ = datashare(tmp_path, 6, 4)
    chosen = [each.format(returns=returns) for each in options]
    done = rvrae("paper", chars, *chosen, "--excess", *SIZES, "--out", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()
