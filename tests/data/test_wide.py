"""Wide tables become the panel of the same table in long form, or one clear error."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.data import from_frame, from_wide
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.test_lookahead import market


def _wide(table=None):
    table = market(30, 12) if table is None else table
    return {
        name: table.pivot(index="date", columns="asset", values=name) for name in table.columns[2:]
    }


def _pair():
    table = market(30, 12)
    wide = _wide(table)
    return table, wide.pop("ret"), wide


def test_the_long_and_the_wide_table_give_one_panel():
    table, returns, others = _pair()
    rate = pd.Series(0.001, pd.period_range("2010-01", periods=30, freq="M"))
    wide = from_wide(returns, risk_free=rate, **others)
    xr.testing.assert_identical(wide, from_frame(table, risk_free=rate))
    weight = others.pop("me")
    wide = from_wide(returns, excess=True, weight=weight, **others)
    xr.testing.assert_identical(wide, from_frame(table, excess=True, weight="me"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.sample(frac=1, random_state=0),
        lambda t: t.sample(frac=1, axis=1, random_state=0),
        lambda t: t.set_axis(t.index.to_period("M")),
        lambda t: t.set_axis(t.index.strftime("%Y%m").astype(int)),
        lambda t: t.set_axis(t.index - pd.offsets.BDay(1)),
        lambda t: t.set_axis(t.columns.astype(float), axis=1),
        lambda t: t.set_axis(t.columns.astype(str), axis=1),
        lambda t: t.astype(object),
        lambda t: t.astype("Float64"),
        lambda t: t.map(lambda v: "." if np.isnan(v) else repr(float(v))),
        lambda t: t.rename_axis(index="Date", columns="Ticker"),
    ],
)
def test_order_dates_ids_and_types_are_free(change):
    _, returns, others = _pair()
    returns = returns.mask(returns > 0.2)
    expected = from_wide(returns, excess=True, **others)
    changed = {name: change(table) for name, table in others.items()}
    xr.testing.assert_allclose(from_wide(change(returns), excess=True, **changed), expected)


def test_tables_of_other_spans_are_joined_by_date_and_id():
    _, returns, others = _pair()
    others["me"] = others["me"].iloc[3:]
    others["bm"] = others["bm"].drop(columns=10003)
    later = returns.iloc[:-1]  # the last month is live: known, and without returns
    panel = from_wide(later, excess=True, **others)
    assert panel.sizes["time"] == 29
    assert panel["returns"].isel(time=-1).isnull().all()
    known = panel["characteristics"]
    assert known.sel(characteristic="me").isel(time=2).isnull().all()
    assert known.sel(characteristic="bm", asset="10003").isnull().all()
    assert known.sel(characteristic="beta").notnull().all()


def test_lag_moves_characteristics_and_not_returns():
    _, returns, _ = _pair()
    panel = from_wide(returns, excess=True, lag=1, mom_1m=returns)
    np.testing.assert_array_equal(
        panel["characteristics"].values[1:, :, 0], panel["returns"].values[:-1]
    )
    with pytest.warns(RvraeWarning, match="equal the return of their own row: 'mom_1m'"):
        from_wide(returns, excess=True, mom_1m=returns)


@pytest.mark.parametrize("frequency", ["weekly", "daily"])
def test_other_frequencies(frequency):
    rng = np.random.default_rng(0)
    days = pd.date_range("2020-01-03", periods=40, freq="W-FRI" if frequency == "weekly" else "B")
    returns = pd.DataFrame(0.01 * rng.standard_normal((40, 6)), days, list("abcdef"))
    panel = from_wide(
        returns, excess=True, frequency=frequency, size=returns.abs() * 0 + 1 + rng.random((40, 6))
    )
    assert (panel.sizes["time"], panel.attrs["frequency"]) == (40, frequency)
    with pytest.raises(PanelError, match="repeats dates"):
        from_wide(returns, excess=True, size=returns)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.stack(), "`size` must be a DataFrame.*it is a Series"),
        (lambda t: t.iloc[:0], "it is empty"),
        (lambda t: pd.concat({"a": t}, axis=1), r"its columns have 2 .*from_prices"),
        (lambda t: pd.concat({"a": t}), r"its index 2"),
        (lambda t: t.reset_index(drop=True), "its index only counts rows"),
        (lambda t: pd.concat([t, t.iloc[:2]]), r"`size` repeats dates: 2010-02-28"),
        (lambda t: pd.concat([t, t.iloc[:, :1]], axis=1), r"`size` repeats assets: 10001"),
        (lambda t: t.set_axis(t.columns + 500, axis=1), "no assets in common"),
        (lambda t: t.set_axis(t.index + pd.DateOffset(years=9)), "no dates in common"),
        (lambda t: t.set_axis([f"soon {i}" for i in range(29)]), "`size`: "),
        (lambda t: t.set_axis(np.linspace(0, 1, 12), axis=1), "with a fraction"),
        (lambda t: t.astype(str).replace({"1": "x"}).mask(t > t.median(), "n.a."), r"'n\.a\.'"),
        (lambda t: t * np.nan, "without a single value: size"),
        (lambda t: t.mask(t == t.iloc[3, 3], np.inf), "infinite characteristics in size"),
    ],
)
def test_tables_that_are_refused(change, match):
    _, returns, others = _pair()
    with pytest.raises(PanelError, match=match):
        from_wide(returns, excess=True, size=change(others["me"]), beta=others["beta"])


def test_few_common_labels_are_pointed_out():
    _, returns, others = _pair()
    few = others["me"].rename(columns=lambda c: c if c < 10004 else c + 50)
    with pytest.warns(RvraeWarning, match="`me` and `returns` share 3 assets only, of 12 and 12"):
        from_wide(returns, excess=True, me=few, beta=others["beta"])


def test_misuse():
    _, returns, others = _pair()
    with pytest.raises(PanelError, match=r"none given\. Pass a table for each by name"):
        from_wide(returns, excess=True)
    with pytest.raises(rv.ConfigError, match="`frequency`"):
        from_wide(returns, excess=True, frequency="yearly", me=others["me"])
    with pytest.raises(PanelError, match="look like percent"):
        from_wide(100 * returns, excess=True, me=others["me"])
    with pytest.warns(RvraeWarning, match="nothing was subtracted"):
        from_wide(returns, me=others["me"])


def test_text_dates_are_read_as_told():
    months = pd.period_range("2020-01", periods=6, freq="M")
    rng = np.random.default_rng(0)
    values = pd.DataFrame(rng.normal(0, 0.05, (6, 4)), months, list("ABCD"))
    expected = rv.data.from_wide(values, excess=True, size=values.shift(2, fill_value=0.5))
    days = months.to_timestamp(how="end")
    for form, reading in (
        ("%m/%d/%Y", {"dayfirst": False}),
        ("%d.%m.%Y", {"dayfirst": True}),
        ("%d-%b-%y", {"date_format": "%d-%b-%y"}),
    ):
        text = values.set_axis(days.strftime(form))
        found = rv.data.from_wide(text, excess=True, size=text.shift(2, fill_value=0.5), **reading)
        xr.testing.assert_identical(found, expected)
        with pytest.raises(rv.PanelError, match=r"dayfirst=True or|date_format="):
            rv.data.from_wide(text, excess=True, size=text.shift(2, fill_value=0.5))
