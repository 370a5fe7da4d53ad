"""Columns are taken for what they are: two levels, indices, row numbers, weights, rates, names."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.data import (
    check_panel,
    from_frame,
    listed,
    load_french,
    read_long,
    read_panel,
    simulate_dynamic,
    to_frame,
)
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.helpers import long_table, small_panel


def _names(panel):
    return panel["characteristic"].values.tolist()


# ---- two levels


@pytest.mark.parametrize("levels", [["Price", "Ticker"], [None, None], ["date", "asset"]])
def test_two_levels_of_columns_are_named(levels):
    wide = long_table().pivot(index="date", columns="asset", values=["ret", "mom"])
    wide.columns.names = levels
    with pytest.raises(PanelError, match=r"columns have 2 levels.*from_prices.*from_wide"):
        from_frame(wide, excess=True)


@pytest.mark.parametrize("order", [["date", "asset"], ["asset", "date"]])
@pytest.mark.parametrize(
    "names", [None, ("datetime", "instrument"), ("Date", "Ticker"), (None, None)]
)
def test_a_date_and_id_index_is_read_in_either_order(order, names):
    table = long_table()
    frame = table.set_index(order)
    if names is not None:
        frame.index.names = list(names) if order[0] == "date" else list(names[::-1])
    xr.testing.assert_identical(from_frame(frame, excess=True), from_frame(table, excess=True))


@pytest.mark.parametrize(
    "convert",
    [
        lambda d: d.dt.to_period("M"),
        lambda d: d.dt.date.astype(object),
        lambda d: d.dt.to_period("M").astype(object),
        lambda d: d.dt.tz_localize("UTC"),
    ],
)
def test_the_level_of_dates_is_told_by_its_values(convert):
    table = long_table()
    frame = table.assign(date=convert(table["date"])).set_index(["asset", "date"])
    frame.index.names = ["id", "when"]
    assert from_frame(frame, excess=True)["time"].equals(from_frame(table, excess=True)["time"])


def test_the_level_of_dates_is_told_by_its_name():
    table = long_table().assign(month=lambda t: t["date"].dt.strftime("%Y%m").astype(int))
    frame = table.drop(columns="date").set_index(["asset", "month"])
    frame.index.names = ["permno", "month"]
    assert from_frame(frame, excess=True).sizes["time"] == 6
    named = frame.copy()
    named.index.names = ["permno", "ym"]
    assert from_frame(named, time="ym", asset="permno", excess=True).sizes["asset"] == 4
    with pytest.raises(PanelError, match=r"which level of the index \['permno', 'ym'\]"):
        from_frame(named, excess=True)


def test_an_index_beside_columns_of_both_is_no_matter():
    table = long_table()
    frame = table.set_index([table["asset"].rename("a"), table["date"].rename("b")])
    xr.testing.assert_identical(from_frame(frame, excess=True), from_frame(table, excess=True))


# ---- row numbers and nameless columns


@pytest.mark.parametrize("name", ["Unnamed: 0", "index", "level_0", "Unnamed: 7", "X", "rownames"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_row_numbers_are_no_characteristics(name, shuffle):
    table = long_table()
    table.insert(0, name, np.arange(len(table)))
    table = table.sample(frac=1, random_state=0) if shuffle else table
    with pytest.warns(RvraeWarning, match=f"number the rows: '{name}'"):
        panel = from_frame(table, excess=True)
    assert _names(panel) == ["size", "mom"]
    chosen = from_frame(table, excess=True, characteristics=[name])  # what is asked for is taken
    assert _names(chosen) == [name]


def test_a_column_of_any_name_that_counts_all_rows_is_left_out():
    table = long_table(20, 4)
    table["obs_no"] = np.random.default_rng(0).permutation(len(table)) + 1
    with pytest.warns(RvraeWarning, match="number the rows: 'obs_no'"):
        assert "obs_no" not in _names(from_frame(table, excess=True))
    real = long_table(20, 4)
    real["age"] = np.arange(80) // 4 + 1
    real["index"] = np.random.default_rng(0).integers(0, 2, 80)  # a member of the index
    assert _names(from_frame(real, excess=True))[-2:] == ["age", "index"]


def test_saved_indices_are_left_out_by_every_reader(tmp_path):
    table = long_table()
    table.to_csv(tmp_path / "t.csv")  # with its row numbers
    with pytest.warns(RvraeWarning, match="'Unnamed: 0'"):
        assert _names(read_long(tmp_path / "t.csv", excess=True)) == ["size", "mom"]
    with pytest.warns(RvraeWarning, match="'Unnamed: 0'"):
        panel = read_long(tmp_path / "t.csv", excess=True, start="2010-03")
    assert panel.sizes["time"] == 4
    table.reset_index().to_parquet(tmp_path / "t.parquet")
    with (
        pytest.warns(RvraeWarning, match="'index'"),
        pytest.warns(RvraeWarning, match="nothing was subtracted"),
    ):
        assert _names(read_panel(tmp_path / "t.parquet")) == ["size", "mom"]


def test_a_nameless_column_of_nothing_is_left_out(tmp_path):
    path = tmp_path / "t.csv"
    text = long_table().to_csv(index=False)
    path.write_text("\n".join(line + "," for line in text.splitlines()))  # a comma too many
    with pytest.warns(RvraeWarning, match="'Unnamed: 5'"):
        assert _names(read_long(path, excess=True)) == ["size", "mom"]


# ---- the package's own columns


def _panel(**variables):
    panel = simulate_dynamic(n_assets=12, n_times=30, n_characteristics=3, n_factors=2, seed=1)
    panel = panel[["returns", "characteristics"]].drop_vars("feature", errors="ignore")
    panel["returns"].attrs = {"long_name": "simple excess return", "units": "1"}
    panel.attrs = {k: panel.attrs[k] for k in ("frequency", "return_kind", "lag_convention")} | {
        "transform": "rank",
        "source": "here",
        "lag": 0,
    }
    keep = listed(panel).any("time") | panel["returns"].notnull().any("time")
    panel = panel.sel(asset=keep)
    cell = listed(panel) | panel["returns"].notnull()
    rng = np.random.default_rng(0)
    if variables.get("weight"):
        panel["weight"] = (("time", "asset"), rng.lognormal(size=cell.shape))
        panel["weight"] = panel["weight"].where(cell)
    if variables.get("risk_free"):
        panel["risk_free"] = ("time", rng.uniform(0, 0.003, 30))
        panel["risk_free"].attrs["units"] = "1"
    if variables.get("live"):
        panel["returns"][-1] = np.nan
    if variables.get("label"):
        panel = panel.assign_coords(industry=("asset", ["NA", "oil"] * 6))
    return panel


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"weight": True},
        {"risk_free": True},
        {"weight": True, "risk_free": True, "live": True, "label": True},
    ],
)
@pytest.mark.parametrize("way", ["as it is", "shuffled", "parquet", "excess"])
def test_a_table_of_a_panel_gives_it_back(tmp_path, variables, way):
    panel = _panel(**variables)
    table = to_frame(panel)
    if way == "shuffled":
        table = table.sample(frac=1, random_state=3)
    if way == "parquet":
        table.to_parquet(tmp_path / "t.parquet")
        back = read_panel(tmp_path / "t.parquet")
    else:
        back = from_frame(table, excess=way == "excess")
    xr.testing.assert_identical(back, panel)


def test_a_weekly_table_remembers_its_frequency():
    panel = small_panel(frequency="weekly", missing=0.0)
    back = from_frame(to_frame(panel))
    assert back.attrs.pop("lag") == 0
    xr.testing.assert_identical(back, panel)
    french = load_french().sortby("asset")
    xr.testing.assert_equal(from_frame(to_frame(french)), french)


def test_a_changed_table_is_read_as_any_other():
    panel = _panel()
    changed = to_frame(panel).assign(size=1.0)
    with pytest.warns(RvraeWarning, match="nothing was subtracted"):
        back = from_frame(changed)
    assert back.attrs["transform"] == "none"
    rate = to_frame(_panel(risk_free=True)).assign(size=1.0)
    with pytest.raises(PanelError, match=r"without stating whether `ret` is in excess"):
        from_frame(rate)
    assert "risk_free" in from_frame(rate, excess=True)


def test_a_table_of_a_panel_that_would_be_lagged_again_is_pointed_out():
    with pytest.warns(RvraeWarning, match="`lag` is 1, yet `to_frame` made the table"):
        from_frame(to_frame(_panel()), lag=1)


def test_characteristics_named_like_variables_have_no_table():
    for name in ("weight", "risk_free", "date", "asset", "ret"):
        panel = small_panel().assign_coords(characteristic=[name, "c1", "c2"])
        with pytest.raises(PanelError, match=f"named like other columns: {name}"):
            to_frame(panel)


def test_a_column_weight_is_the_weight_everywhere(tmp_path):
    table = long_table().assign(weight=lambda t: np.exp(t["size"]))
    panel = from_frame(table, excess=True)
    assert _names(panel) == ["size", "mom"]
    np.testing.assert_allclose(panel["weight"].values.ravel(), table["weight"])
    table.to_csv(tmp_path / "t.csv", index=False)
    assert "weight" in read_long(tmp_path / "t.csv", excess=True)
    asked = from_frame(table, excess=True, characteristics=["weight", "mom"])
    assert _names(asked) == ["weight", "mom"]
    assert "weight" not in asked
    with pytest.raises(PanelError, match=r"`weight` must be finite and not negative"):
        from_frame(table.assign(weight=table["mom"]), excess=True)


# ---- names


@pytest.mark.parametrize("name", ["returns", "characteristics", "context", "time", "feature"])
def test_numbers_named_like_parts_of_a_panel_are_refused(name):
    table = long_table().assign(**{name: 1.5})
    with pytest.raises(PanelError, match=f"named like parts of a panel: '{name}'"):
        from_frame(table, excess=True)
    assert _names(from_frame(table, excess=True, characteristics=[name])) == [name]


@pytest.mark.parametrize("name", ["factor", "chain", "draw", "obs", "feature", "characteristic"])
def test_labels_named_like_dimensions_are_refused(name):
    table = long_table().assign(**{name: lambda t: t["asset"].str.upper()})
    with pytest.raises(PanelError, match=f"named like parts of a panel: '{name}'"):
        from_frame(table, excess=True)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"ret": "RET"}, r"no column 'ret' for `returns`.*There is 'RET'\."),
        ({"ret": " ret"}, r"There is ' ret'"),
        ({"date": "Date"}, r"no column 'date' for `time`.*There is 'Date'"),
        ({"asset": "\ufeffasset"}, r"no column 'asset'.*There is '\\ufeffasset'"),
    ],
)
def test_a_name_that_is_nearly_right_is_pointed_to(names, match):
    with pytest.raises(PanelError, match=match):
        from_frame(long_table().rename(columns=names), excess=True)


def test_one_column_cannot_have_two_roles():
    with pytest.raises(PanelError, match=r"one column for two roles: 'ret'"):
        from_frame(long_table(), excess=True, weight="ret")


@pytest.mark.parametrize("name", ["permno", "SIC", "year", "yyyymm", "shrcd", "gics"])
def test_ids_dates_and_codes_are_pointed_out(name):
    table = long_table().assign(**{name: 7 + np.arange(24) % 5})
    with pytest.warns(RvraeWarning, match=f"ids, dates or codes become characteristics: '{name}'"):
        from_frame(table, excess=True)
    from_frame(table, excess=True, characteristics=["mom", name])


def test_numbers_in_columns_of_objects_are_read():
    table = long_table()
    exact = table.assign(
        ret=[Decimal(repr(v)) for v in table["ret"]], mom=table["mom"].astype(object)
    )
    xr.testing.assert_identical(from_frame(exact, excess=True), from_frame(table, excess=True))
    nothing = table.assign(mom=pd.Series([None] * 24, dtype=object))
    with pytest.raises(PanelError, match="without a single value: mom"):
        from_frame(nothing, excess=True)


def test_swapped_columns_are_seen():
    table = long_table()
    swapped = table.rename(columns={"date": "asset", "asset": "date"})
    with pytest.raises(PanelError, match="holds no dates"):
        from_frame(swapped, excess=True)
    ids = table["asset"].str[1:].astype(int) + 200001  # they could be months
    swapped = table.assign(asset=table["date"], date=ids)
    with pytest.raises(PanelError, match="holds dates where ids are expected"):
        from_frame(swapped, excess=True)
    swapped = table.assign(asset=table["mom"], mom=ids)
    with pytest.raises(PanelError, match="with a fraction, where ids are expected"):
        from_frame(swapped, excess=True)
    days = table.assign(asset=[datetime.date(2020, 1, 1 + i % 9) for i in range(24)])
    with pytest.raises(PanelError, match="holds dates, such as"):
        from_frame(days, excess=True)


def test_the_panel_of_a_recognised_table_passes_its_checks():
    check_panel(from_frame(long_table().set_index(["asset", "date"]), excess=True))
