"""Long tables of every kind become the same panel, or one clear error."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.data import check_panel, from_frame, listed, load_french, to_frame
from rvrae_pyro.errors import ConfigError, PanelError, RvraeWarning
from tests.data.helpers import long_table, small_panel


def test_values_land_in_their_cells():
    table = long_table()
    panel = from_frame(table, excess=True)
    wide = table.pivot(index="date", columns="asset", values="mom")
    np.testing.assert_array_equal(
        panel["characteristics"].sel(characteristic="mom").values, wide.to_numpy()
    )
    assert panel["time"].values[1] == np.datetime64("2010-02-28")
    assert panel["characteristic"].values.tolist() == ["size", "mom"]
    assert panel.attrs["return_kind"] == "simple excess"


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_row_order_is_free(random):
    table = long_table(4, 3).iloc[:-2]
    order = list(range(len(table)))
    random.shuffle(order)
    xr.testing.assert_identical(
        from_frame(table, excess=True), from_frame(table.iloc[order], excess=True)
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda d: d,
        lambda d: d.dt.to_period("M"),
        lambda d: d.dt.to_period("D"),
        lambda d: d.dt.to_period("M").astype(object),
        lambda d: d.dt.strftime("%Y-%m-%d"),
        lambda d: d.dt.strftime("%Y%m").astype(int),
        lambda d: d.dt.strftime("%Y%m%d").astype(int),
        lambda d: d.dt.strftime("%Y%m"),
        lambda d: d.dt.strftime("%Y-%m"),
        lambda d: d.dt.tz_localize("US/Eastern"),
        lambda d: d + pd.to_timedelta(np.arange(len(d)) % 13, unit="D"),
        lambda d: d.astype("datetime64[ms]"),
        lambda d: d.dt.date,
    ],
)
def test_any_day_of_the_month_and_any_kind_of_date(convert):
    table = long_table()
    expected = from_frame(table, excess=True)
    xr.testing.assert_identical(
        from_frame(table.assign(date=convert(table["date"])), excess=True), expected
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda s: s,
        lambda s: s.astype("category"),
        lambda s: s.astype(float),
        lambda s: s.astype("Int64"),
        lambda s: s.astype(str),
        lambda s: s.astype("string"),
    ],
)
def test_ids_become_strings(convert):
    table = long_table()
    ids = table["asset"].str[1:].astype(int) + 10001
    panel = from_frame(table.assign(asset=convert(ids)), excess=True)
    assert panel["asset"].values.tolist() == ["10001", "10002", "10003", "10004"]
    assert panel["asset"].dtype.kind == "U"


def test_columns_by_other_names_and_chosen_ones():
    table = long_table().rename(columns={"date": "month", "asset": "permno", "ret": "r"})
    panel = from_frame(
        table, time="month", asset="permno", returns="r", characteristics=["mom"], excess=True
    )
    assert panel["characteristic"].values.tolist() == ["mom"]


def test_risk_free_as_column_and_as_series_agree():
    table = long_table()
    rate = pd.Series(np.linspace(0.001, 0.006, 6), pd.period_range("2010-01", periods=6, freq="M"))
    by_series = from_frame(table, risk_free=rate)
    month = table["date"].dt.to_period("M")
    by_column = from_frame(table.assign(rf=month.map(rate)), risk_free="rf")
    xr.testing.assert_identical(by_series, by_column)
    raw = from_frame(table, excess=True)
    np.testing.assert_allclose(
        by_series["returns"].values, raw["returns"].values - rate.to_numpy()[:, None], rtol=1e-14
    )
    np.testing.assert_array_equal(by_series["risk_free"].values, rate.to_numpy())


def test_a_longer_rate_in_any_order_is_cut_to_the_panel():
    months = pd.date_range("2009-01-01", periods=40, freq="MS")[::-1]
    rate = pd.Series(0.001, months)
    assert from_frame(long_table(), risk_free=rate)["risk_free"].shape == (6,)


def test_excess_keeps_the_rate_and_subtracts_nothing():
    table = long_table().assign(rf=0.003)
    panel = from_frame(table, risk_free="rf", excess=True)
    expected = from_frame(table.drop(columns="rf"), excess=True)["returns"]
    xr.testing.assert_identical(panel["returns"], expected)
    assert (panel["risk_free"] == 0.003).all()


@pytest.mark.parametrize(("frequency", "annual"), [("monthly", 0.03), ("daily", 0.002)])
def test_a_rate_that_looks_annual_warns_once_and_is_used(frequency, annual):
    table = long_table().assign(rf=annual)
    with pytest.warns(RvraeWarning) as caught:
        panel = from_frame(table, risk_free="rf", excess=True, frequency=frequency)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    periods = {"monthly": 12, "daily": 252}[frequency]
    assert f"annual rate: its median is {annual} per period" in text
    assert f"{annual * periods:.0%} per year" in text
    assert f"divide it by {periods}" in text
    assert (panel["risk_free"].dropna("time") == annual).all()


def test_a_dear_year_is_no_annual_rate():
    """The median month of the dearest US bills; what is above for a month or two does not count."""
    rate = pd.Series(0.0115, pd.period_range("2010-01", periods=6, freq="M"))
    rate.iloc[:2] = 0.0135
    from_frame(long_table(), risk_free=rate)


def test_returns_of_unknown_kind_warn():
    with pytest.warns(RvraeWarning, match=r"nothing was subtracted.*excess=True"):
        panel = from_frame(long_table())
    assert panel.attrs["return_kind"] == "simple, taken as excess"


@pytest.mark.parametrize(
    ("rate", "match"),
    [
        (pd.Series([0.001], pd.to_datetime(["2010-01-31"])), "no rate for 2010-02-28"),
        (pd.Series([0.3] * 6, pd.period_range("2010-01", periods=6, freq="M")), "percent"),
        (pd.Series([0.001] * 6), "only counts rows"),
        (pd.Series([0.1, 0.2], pd.to_datetime(["2010-01-04", "2010-01-05"])), "several rates"),
        (pd.Series(["a"], pd.to_datetime(["2010-01-04"])), "must be numeric"),
        (0.002, "column name or a Series by date, such as .*; got float"),
    ],
)
def test_rates_that_are_refused(rate, match):
    with pytest.raises(PanelError, match=match):
        from_frame(long_table(), risk_free=rate)


def test_a_rate_column_must_agree_within_a_month():
    table = long_table().assign(rf=np.linspace(0.001, 0.002, 24))
    with pytest.raises(PanelError, match="'rf' differs between assets on 2010-01-31"):
        from_frame(table, risk_free="rf")


def test_a_rate_that_nobody_named_is_pointed_out(recwarn):
    table = long_table().assign(RF=0.001)
    with pytest.warns(RvraeWarning, match=r"'RF' becomes a characteristic.*risk_free='RF'"):
        panel = from_frame(table, excess=True)
    assert "RF" in panel["characteristic"].values
    recwarn.clear()
    from_frame(table, excess=True, risk_free="RF")
    from_frame(table, excess=True, characteristics=["RF"])
    assert not recwarn.list


@pytest.mark.parametrize("lag", [0, 1])
def test_market_values_are_characteristic_and_weight_alike_where_both_are_asked_for(lag):
    table = long_table().assign(cap=lambda d: np.exp(d["size"]))
    wanted = {"weight": "cap", "excess": True, "lag": lag}
    panel = from_frame(table, characteristics=["size", "cap"], **wanted)
    assert list(panel["characteristic"].values) == ["size", "cap"]
    np.testing.assert_array_equal(
        panel["weight"], panel["characteristics"].sel(characteristic="cap")
    )
    left = from_frame(table, **wanted)  # unasked it is the weight alone
    assert "cap" not in left["characteristic"].values
    with pytest.raises(PanelError, match=r"named twice: cap .*Name each once"):
        from_frame(table, characteristics=["cap", "cap"], **wanted)


def test_lag_moves_characteristics_one_calendar_month_within_the_asset():
    table = long_table().assign(cap=lambda d: np.exp(d["size"]))
    gap = table[~((table["asset"] == "s1") & (table["date"].dt.month == 3))]
    same = from_frame(gap, weight="cap", excess=True)
    moved = from_frame(gap, weight="cap", excess=True, lag=1)
    assert moved.sizes["time"] == same.sizes["time"] + 1
    assert moved["time"].values[-1] == np.datetime64("2010-07-31")
    for name in ("characteristics", "weight"):
        np.testing.assert_array_equal(moved[name].values[1:], same[name].values)
        assert np.isnan(moved[name].values[0]).all()
    np.testing.assert_array_equal(moved["returns"].values[:-1], same["returns"].values)
    assert np.isnan(moved["returns"].values[-1]).all()
    # nothing was known of s1 at the end of March, though it has a return in April
    assert not listed(moved).sel(asset="s1", time="2010-04-30")
    assert listed(moved).isel(time=-1).all()


def test_lag_takes_the_rate_of_the_live_month_where_it_is_known():
    rate = pd.Series(0.001, pd.period_range("2010-01", periods=7, freq="M"))
    assert from_frame(long_table(), risk_free=rate, lag=1)["risk_free"].notnull().all()
    column = from_frame(long_table().assign(rf=0.001), risk_free="rf", lag=1)["risk_free"]
    assert column.isnull().values.tolist() == [False] * 6 + [True]


@pytest.mark.parametrize("lag", [2, -1, True, "1"])
def test_other_lags_are_refused(lag):
    with pytest.raises(ConfigError, match="`lag` must be 0 or 1"):
        from_frame(long_table(), excess=True, lag=lag)


def test_live_rows_without_returns_stay():
    table = long_table()
    table.loc[table["date"] == table["date"].max(), "ret"] = np.nan
    panel = from_frame(table, excess=True)
    assert panel["returns"].isel(time=-1).isnull().all()
    assert listed(panel).isel(time=-1).all()


def test_text_that_is_constant_becomes_a_coordinate_and_the_rest_is_named():
    table = long_table()
    table["industry"] = table["asset"].map({"s0": "oil", "s1": "oil", "s2": "steel"})
    table["rating"] = [str(i) for i in range(len(table))]
    with pytest.warns(RvraeWarning, match=r"columns left out.*: rating \(1 in all\)"):
        panel = from_frame(table, excess=True)
    assert panel["industry"].values.tolist() == ["oil", "oil", "steel", ""]
    assert panel["industry"].dtype.kind == "U"
    assert panel["characteristic"].values.tolist() == ["size", "mom"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.iloc[:0], "it is empty"),
        (lambda t: t.drop(columns="ret"), r"no column 'ret' for `returns`.*Pass returns="),
        (lambda t: t.drop(columns="date"), "no column 'date' for `time`"),
        (lambda t: t[["date", "asset", "ret"]].assign(size=t["date"].astype(str)), "drop them"),
        (lambda t: t[["date", "asset", "ret"]].assign(ret=np.nan), "no observed return"),
        (lambda t: pd.concat([t, t.iloc[:2]]), r"repeated \(date, asset\): \(2010-01-31, s0\)"),
        (lambda t: t.assign(date=t["date"].where(t.index != 3)), r"'date' is missing.*rows 3 "),
        (lambda t: t.assign(asset=t["asset"].where(t.index > 1)), r"'asset' is missing.*rows 0, 1"),
        (lambda t: t.assign(ret=t["ret"].astype(str)), "'ret' must be numeric"),
        (lambda t: t.assign(ret=t["ret"].astype(object).mask(t.index == 2, "C")), "such as 'C' "),
        (lambda t: t.assign(ret=t["ret"] * 100), "look like percent"),
        (lambda t: t.assign(ret=np.nan), "no observed return"),
        (lambda t: t.assign(size=np.nan), "without a single value: size"),
        (lambda t: t.assign(size=t["size"].mask(t.index == 5, np.inf)), "infinite .* in size"),
        (lambda t: t[t["date"].dt.month != 3], "skips months: 2010-03"),
        (lambda t: t.assign(date="soon"), "column 'date' holds no dates"),
        (lambda t: t.assign(date="03/04/2010"), r"dayfirst=True or dayfirst=False"),
        (lambda t: t.assign(date=1.5), "no dates"),
        (lambda t: t.assign(date=12), "YYYYMM"),
        (lambda t: pd.concat([t, t["ret"]], axis=1), "repeated columns: ret"),
        (lambda t: t.rename(columns={"size": 7}), "column names must be strings; got 7"),
        (lambda t: t.set_index("date"), r"'date' is in the index; use frame.reset_index"),
        (lambda t: t.to_dict(), r"pandas\.DataFrame; got dict"),
    ],
)
def test_tables_that_are_refused(change, match):
    with pytest.raises(PanelError, match=match):
        from_frame(change(long_table()), excess=True)


def test_asked_for_characteristics_must_exist_be_numeric_and_free():
    table = long_table().assign(word="x")
    with pytest.raises(PanelError, match=r"no columns for `characteristics`: beta"):
        from_frame(table, characteristics=["beta"], excess=True)
    with pytest.raises(PanelError, match="'word' must be numeric"):
        from_frame(table, characteristics=["word"], excess=True)
    with pytest.raises(PanelError, match="named twice: ret"):
        from_frame(table, characteristics=["ret"], excess=True)
    with pytest.raises(PanelError, match="must be a list of columns; got 'size'"):
        from_frame(table, characteristics="size", excess=True)


def test_unknown_frequency():
    with pytest.raises(ConfigError, match="monthly, weekly, daily; got 'yearly'"):
        from_frame(long_table(), excess=True, frequency="yearly")


def test_small_floats_stay_small_and_exact():
    table = long_table()
    small = table.astype({"size": "float32", "mom": "float32", "ret": "float32"})
    panel = from_frame(small, excess=True)
    assert panel["characteristics"].dtype == np.float32
    assert panel["returns"].dtype == np.float64
    np.testing.assert_array_equal(
        panel["characteristics"].values[..., 0].ravel(), small["size"].to_numpy()
    )
    assert from_frame(table, excess=True)["characteristics"].dtype == np.float64


def test_nullable_and_arrow_columns():
    table = long_table()
    panel = from_frame(table, excess=True)
    for backend in ("numpy_nullable", "pyarrow"):
        xr.testing.assert_identical(
            from_frame(table.convert_dtypes(dtype_backend=backend), excess=True), panel
        )


@pytest.mark.parametrize("frequency", ["monthly", "weekly"])
def test_to_frame_and_back(frequency):
    panel = small_panel(frequency=frequency)
    panel["weight"] = (("time", "asset"), np.where(listed(panel), 2.0, np.nan))
    panel["risk_free"] = ("time", np.linspace(0.0, 0.004, 18), {"units": "1"})
    panel = panel.assign_coords(industry=("asset", list("aabbcca")))
    table = to_frame(panel)
    assert list(table) == [
        "date",
        "asset",
        "ret",
        "c0",
        "c1",
        "c2",
        "weight",
        "risk_free",
        "industry",
    ]
    back = from_frame(
        table, weight="weight", risk_free="risk_free", excess=True, frequency=frequency
    )
    xr.testing.assert_identical(back, panel.assign_attrs(lag=0))


def test_the_shift_of_a_table_is_stated_and_survives_a_round_trip():
    table = to_frame(small_panel())
    assert from_frame(table, excess=True).attrs["lag"] == 0
    shifted = from_frame(table.rename(columns={"c0": "size"}), excess=True, lag=1)
    assert shifted.attrs["lag"] == 1
    assert from_frame(to_frame(shifted), excess=True).attrs["lag"] == 1


def test_to_frame_keeps_the_live_month():
    panel = load_french()
    table = to_frame(panel)
    assert table["date"].max() == pd.Timestamp("2017-04-30")
    assert table.loc[table["date"] == "2017-04-30", "ret"].isna().all()


def test_to_frame_refuses_clashing_names():
    panel = small_panel().assign_coords(characteristic=["ret", "c1", "c2"])
    check_panel(panel)
    with pytest.raises(PanelError, match="named like other columns: ret"):
        to_frame(panel)
