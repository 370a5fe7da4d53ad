"""Files give back the panel they were given, or one clear error."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.data import (
    fingerprint,
    from_frame,
    load_french,
    market_context,
    rank_characteristics,
    read_panel,
    to_frame,
    write_panel,
)
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.helpers import long_table, small_panel

SUFFIXES = [".parquet", ".csv", ".nc"]


def _rich_panel(frequency="monthly"):
    """Every optional variable, labels without a value, odd floats, odd names."""
    panel = small_panel(30, 6, 3, frequency=frequency)
    panel["characteristics"] = panel["characteristics"].astype(np.float32)
    panel["characteristics"][:, 4] = np.nan
    panel["returns"][:, 4] = np.nan
    panel["characteristics"][7] = np.nan
    panel["returns"][7] = np.nan
    panel["returns"][0, :2] = [-0.0, 5e-324]
    panel["weight"] = (("time", "asset"), np.full((30, 6), 1 / 3))
    panel["risk_free"] = ("time", np.r_[np.linspace(0.0, 0.01, 29), np.nan])
    panel["true_beta"] = (("time", "asset", "factor"), np.random.default_rng(1).random((30, 6, 2)))
    panel["true_factors"] = (("time", "factor"), np.random.default_rng(2).random((30, 2)))
    panel["true_factors"][:3, 0] = [np.nan, np.inf, -np.inf]
    panel["seen"] = (("time", "asset"), np.arange(180).reshape(30, 6) % 2 == 0)
    panel = panel.assign_coords(
        asset=["z", 'quo"te', "com,ma", "NA", "0017", "ümlaut"],
        factor=[0, 1],
        industry=("asset", ["oil", "", "oil", "steel", "x", "y"]),
        listed_since=("asset", np.arange(6)),
        first=("asset", panel["time"].values[:6]),
    )
    panel.attrs |= {"horizon": 1, "scale": 0.1, "checked": True, "parameters": json.dumps([1, 2])}
    panel["returns"].attrs["note"] = "json:looks nested"
    return panel


def assert_same(one, two):
    xr.testing.assert_identical(one, two)
    for name in one.variables:
        assert one[name].dtype == two[name].dtype, name
        np.testing.assert_array_equal(one[name].values, two[name].values)
    assert list(one.data_vars) == list(two.data_vars)
    for name in (None, *one.variables):
        pair = (one, two) if name is None else (one[name], two[name])
        kinds = [{k: type(v) for k, v in p.attrs.items()} for p in pair]
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("frequency", ["monthly", "weekly"])
def test_round_trip_of_everything_a_panel_may_hold(tmp_path, suffix, frequency):
    panel = _rich_panel(frequency)
    write_panel(panel, tmp_path / f"panel{suffix}")
    back = read_panel(tmp_path / f"panel{suffix}")
    assert_same(panel, back)
    assert np.signbit(back["returns"].values[0, 0])
    assert os.listdir(tmp_path) == [f"panel{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_of_real_data_and_of_what_is_read(tmp_path, suffix):
    panel = rank_characteristics(market_context(load_french()))
    first, second = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    write_panel(panel, str(first))
    write_panel(read_panel(str(first)), second)
    assert_same(panel, read_panel(second))
    assert fingerprint(read_panel(second)) == fingerprint(panel)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    n_times=st.integers(1, 5),
    n_assets=st.integers(1, 4),
    missing=st.floats(0.0, 0.9),
    suffix=st.sampled_from(SUFFIXES),
)
def test_round_trip_of_random_panels(tmp_path_factory, seed, n_times, n_assets, missing, suffix):
    panel = small_panel(n_times, n_assets, 2, seed=seed, missing=missing)
    path = tmp_path_factory.mktemp("io") / f"panel{suffix}"
    write_panel(panel, path)
    assert_same(panel, read_panel(path))


def test_the_live_month_alone_can_be_kept(tmp_path):
    live = load_french().isel(time=[-1])
    write_panel(live, tmp_path / "live.parquet")
    assert_same(live, read_panel(tmp_path / "live.parquet"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_written_tables_are_ordinary_tables(tmp_path, suffix):
    panel = small_panel()
    path = tmp_path / f"panel{suffix}"
    write_panel(panel, path)
    table = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, skiprows=1)
    expected = to_frame(panel)
    assert list(table) == list(expected)
    np.testing.assert_array_equal(table["ret"], expected["ret"])
    assert table["asset"].tolist() == expected["asset"].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_tables_of_others_are_read_by_from_frame(tmp_path, suffix):
    table = long_table().assign(weight=2.0)
    table["asset"] = "00" + table["asset"].str[1:]
    path = tmp_path / f"own{suffix}"
    write = table.to_parquet if suffix == ".parquet" else table.to_csv
    write(path, index=False)
    with pytest.warns(RvraeWarning, match="nothing was subtracted"):
        panel = read_panel(path)
    expected = from_frame(table, weight="weight", excess=True)
    xr.testing.assert_equal(panel, expected)
    assert panel["asset"].values[0] == "000"


def test_an_index_of_labels_is_read_too(tmp_path):
    long_table().set_index(["date", "asset"]).to_parquet(tmp_path / "own.parquet")
    with pytest.warns(RvraeWarning):
        assert read_panel(tmp_path / "own.parquet").sizes["asset"] == 4


def test_a_rate_beside_returns_of_unknown_kind_is_refused(tmp_path):
    long_table().assign(risk_free=0.001).to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(PanelError, match=r"without stating whether `ret` is in excess"):
        read_panel(tmp_path / "own.csv")


def test_rows_may_be_reordered_but_not_dropped(tmp_path):
    panel, path = small_panel(), tmp_path / "panel.csv"
    write_panel(panel, path)
    head, names, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, names, *reversed(rows)]) + "\n")
    assert_same(panel, read_panel(path))
    path.write_text("\n".join([head, names, *rows[:-1]]) + "\n")
    with pytest.raises(PanelError, match=rf"states {len(rows)} rows; there are {len(rows) - 1}"):
        read_panel(path)
    path.write_text("\n".join([head, names, *rows])[:-3])
    with pytest.raises(PanelError, match="the last line has no end"):
        read_panel(path)


def _spoil(path, kind):
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(bytes(range(256)) * 8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["truncated", "empty", "noise"])
def test_damaged_files(tmp_path, suffix, kind):
    path = tmp_path / f"panel{suffix}"
    write_panel(small_panel(), path)
    _spoil(path, kind)
    with pytest.raises(PanelError, match=r"panel\.(parquet|csv|nc)") as caught:
        read_panel(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", [read_panel, lambda path: write_panel(small_panel(), path)])
@pytest.mark.parametrize("name", ["panel.feather", "panel", "panel.pkl"])
def test_unknown_suffix(tmp_path, operation, name):
    with pytest.raises(PanelError, match=r"unknown suffix.*use one of \.parquet, \.csv, \.nc"):
        operation(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file_and_folder(tmp_path, suffix):
    with pytest.raises(PanelError, match=rf"none\{suffix}: it does not exist"):
        read_panel(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(PanelError, match="it is a folder"):
        read_panel(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unwritable_output_leaves_nothing(tmp_path, suffix):
    with pytest.raises(PanelError, match="cannot write"):
        write_panel(small_panel(), tmp_path / "no" / f"panel{suffix}")
    (tmp_path / f"taken{suffix}").mkdir()
    (tmp_path / f"taken{suffix}" / "file").touch()
    with pytest.raises(PanelError, match="cannot write"):
        write_panel(small_panel(), tmp_path / f"taken{suffix}")
    assert os.listdir(tmp_path) == [f"taken{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bad_panel_does_not_replace_a_good_file(tmp_path, suffix):
    path = tmp_path / f"panel{suffix}"
    write_panel(small_panel(), path)
    before = path.read_bytes()
    bad = small_panel()
    bad["returns"][0, 0] = np.inf
    with pytest.raises(PanelError, match="infinite"):
        write_panel(bad, path)
    assert path.read_bytes() == before


def test_a_file_with_a_bad_panel_names_itself_and_the_problem(tmp_path):
    bad = small_panel()
    bad["returns"][0, 0] = np.inf
    bad.to_netcdf(tmp_path / "bad.nc")
    with pytest.raises(PanelError, match=r"bad\.nc: `panel`: `returns` are infinite at 2001-11-30"):
        read_panel(tmp_path / "bad.nc")


def test_headers_of_other_versions_and_strange_rows(tmp_path):
    path = tmp_path / "panel.csv"
    write_panel(small_panel(), path)
    text = path.read_text()
    path.write_text(text.replace('"version": 1', '"version": 9', 1))
    with pytest.raises(PanelError, match="header has version 9; this package reads 1"):
        read_panel(path)
    path.write_text(text.replace('"a0"', '"b0"').replace('"b0"', '"a0"', 1))
    with pytest.raises(PanelError, match=r"labels that the header does not know: \(2001-11-30, b0"):
        read_panel(path)
    head, names, first, _, *rest = text.splitlines()
    path.write_text("\n".join([head, names, first, first, *rest]) + "\n")
    with pytest.raises(PanelError, match=r"repeated \(date, asset\): \(2001-11-30, a0\)"):
        read_panel(path)


def test_columns_that_would_share_a_name(tmp_path):
    panel = small_panel().assign_coords(characteristic=["ret", "c1", "c2"])
    with pytest.raises(PanelError, match="two columns would be named ret"):
        write_panel(panel, tmp_path / "panel.csv")
    write_panel(panel, tmp_path / "panel.nc")
    assert_same(panel, read_panel(tmp_path / "panel.nc"))
