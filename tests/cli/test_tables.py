"""Forecast tables against plain numpy."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.cli.files import write_table
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.risk.summary import forecast_table, risk_table

N_DRAWS = 1000


@pytest.fixture
def tree() -> xr.DataTree:
    rng = np.random.default_rng(7)
    returns = rng.normal(0.01, 0.05, (1, N_DRAWS, 2, 3)).astype(np.float32)
    returns[..., 1, 0] = np.nan
    coords = {
        "chain": [0],
        "draw": np.arange(N_DRAWS),
        "time": np.array(["2020-01-31", "2020-02-29"], dtype="datetime64[ns]"),
        "asset": ["a", "b", "c"],
    }
    dims = ("chain", "draw", "time", "asset")
    return xr.DataTree.from_dict({"predictions": xr.Dataset({"returns": (dims, returns)}, coords)})


@pytest.fixture
def panel() -> xr.Dataset:
    """Only its labels matter here."""
    return xr.Dataset(
        coords={"asset": ["c", "a", "b"], "name": ("asset", ["Gamma", "Alpha", "Beta"])}
    )


def test_forecast_table(tree: xr.DataTree, panel: xr.Dataset) -> None:
    table = forecast_table(tree, panel)
    assert len(table) == 5  # the unlisted cell is left out
    draws = tree["predictions"]["returns"].values[0].astype(float)
    for _, row in table.iterrows():
        month, asset = row["date"].month - 1, "abc".index(row["asset"])
        mine = np.sort(draws[:, month, asset])
        assert row["name"] == {"a": "Alpha", "b": "Beta", "c": "Gamma"}[row["asset"]]
        assert row["mean"] == pytest.approx(mine.mean())
        assert row["sd"] == pytest.approx(mine.std())
        for level in (5, 25, 50, 75, 95):
            assert row[f"q{level:02d}"] == pytest.approx(np.quantile(mine, level / 100))
        for tail, count in (("05", 50), ("01", 10)):
            assert row[f"var_{tail}"] == pytest.approx(-mine[count - 1])
            assert row[f"es_{tail}"] == pytest.approx(-mine[:count].mean())
        assert row["prob_loss"] == (mine < 0).mean()
    first = table[table["date"] == "2020-01-31"]
    assert first["rank"].tolist() == [1, 2, 3]
    assert first["mean"].is_monotonic_decreasing
    assert table[table["date"] == "2020-02-29"]["rank"].tolist() == [1, 2]


def test_equal_means_share_a_rank(tree: xr.DataTree, panel: xr.Dataset) -> None:
    returns = tree["predictions"]["returns"]
    returns.values[..., 0, 1] = returns.values[..., 0, 0]
    table = forecast_table(tree, panel)
    first = table[table["date"] == "2020-01-31"]
    ranks = dict(zip(first["asset"], first["rank"], strict=True))
    assert ranks["a"] == ranks["b"]
    assert sorted(ranks.values()) in ([1, 1, 3], [1, 2, 2])


def test_risk_table_keeps_the_order_of_the_forecast(tree: xr.DataTree) -> None:
    table = risk_table(tree)
    assert table["asset"].tolist() == ["a", "b", "c", "b", "c"]
    assert table["factor_var"].isna().all()  # the tree does not say


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_come_back_from_files(
    tree: xr.DataTree, panel: xr.Dataset, tmp_path: Path, suffix: str
) -> None:
    table, path = forecast_table(tree, panel), tmp_path / f"t{suffix}"
    write_table(table, path)
    back = pd.read_csv(path, parse_dates=["date"]) if suffix == ".csv" else pd.read_parquet(path)
    rtol = 5e-6 if suffix == ".csv" else 1e-14  # six significant digits in text
    pd.testing.assert_frame_equal(back, table, check_dtype=False, rtol=rtol)
    if suffix == ".csv":
        cells = re.findall(r"(?<=,)-?0\.0*(\d+)(?=[,\n])", path.read_text())
        assert max(map(len, cells)) <= 6
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_table(
    tree: xr.DataTree, panel: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")

    def fail(self: pd.DataFrame, target: Path, **_: object) -> None:
        Path(target).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(ConfigError, match="disk full"):
        write_table(forecast_table(tree, panel), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]
