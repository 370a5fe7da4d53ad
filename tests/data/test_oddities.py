"""Codes of missing values, mixed units, levels, copies: told before any fit."""

import numpy as np
import pandas as pd
import pytest

from rvrae_pyro.data import from_frame
from rvrae_pyro.data.oddities import find_oddities
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.test_lookahead import _told, market


@pytest.mark.parametrize(
    "code", [-0.9999, -9.99, -0.99, -0.88, -0.66, -99.0, -99.99, -999.0, 9.99, 1.7, -0.5, -0.875]
)
@pytest.mark.parametrize("count", [3, 30])
def test_a_value_that_stands_for_a_missing_return(code, count):
    table = market()
    table["ret"] = 0.4 * table["ret"]
    table.loc[np.random.default_rng(0).choice(len(table), count, replace=False), "ret"] = code
    told = [text for text in _told(table) if "repeats a value far from the others" in text]
    assert len(told) == 1
    assert f"column 'ret' repeats a value far from the others: {code:g} ({count} times)" in told[0]


def test_extremes_that_are_no_codes():
    rng = np.random.default_rng(0)
    table = market(60, 40)
    assert _told(table.assign(ret=table["ret"].clip(-0.15, 0.15))) == []  # winsorised
    heavy = 0.05 * rng.standard_t(2.1, len(table))
    assert _told(table.assign(ret=np.clip(heavy, -0.99, None), me=1.0 + table["bm"])) == []
    lost = table.copy()
    lost.loc[rng.choice(len(table), 5, replace=False), "ret"] = -1.0  # bankruptcies
    assert _told(lost) == []
    assert _told(table.assign(ret=table["ret"].round(2)).drop(columns="me")) == []


@pytest.mark.parametrize("code", [-99.99, -999.0, -9999.0, 9999.0, -99.0])
@pytest.mark.parametrize("name", ["mom_1m", "bm", "beta"])
def test_codes_in_characteristics_are_named(code, name):
    table = market()
    table.loc[np.random.default_rng(1).choice(len(table), 8, replace=False), name] = code
    told = [text for text in _told(table) if "marks a missing one" in text]
    assert told
    assert f"'{name}' ({code:g}, " in told[0]


def test_numbers_that_only_look_like_codes():
    table = market()
    rng = np.random.default_rng(0)
    table["age"] = rng.integers(0, 1200, len(table)).astype(float)
    table["employees"] = rng.choice([500.0, 999.0, 1500.0], len(table))
    table["change"] = -rng.integers(0, 200, len(table)).astype(float)
    assert _told(table) == []


def test_percent_in_some_months_or_assets():
    table = market()
    late = table["date"] >= "2013-01"
    told = _told(table.assign(ret=table["ret"].where(~late, 100 * table["ret"])))
    assert any("'ret' looks like percent on 2013-01-31" in text for text in told)
    some = table["asset"] < 10006
    told = _told(table.assign(ret=table["ret"].where(~some, 100 * table["ret"])))
    assert any("'ret' looks like percent on 10001, 10002" in text for text in told)
    one = table.copy()
    one.loc[77, "ret"] = 480.0
    assert any("has a return of 480 on" in text for text in _told(one))


@pytest.mark.parametrize(
    ("factor", "shift", "match"),
    [
        (100.0, 0.0, "Divide by 100"),
        (1.0, 1.0, "1 plus the return"),
        (1e4, 0.0, "look like percent"),
    ],
)
def test_returns_of_another_unit_are_refused(factor, shift, match):
    table = market()
    with pytest.raises(PanelError, match=match):
        from_frame(table.assign(ret=factor * table["ret"] + shift), excess=True)


def test_levels_and_characteristics_in_the_column_of_returns():
    table = market()
    total = table.groupby("asset")["ret"].cumsum()
    year = table.groupby("asset")["ret"].transform(lambda r: r.rolling(12, 1).sum())
    for wrong in (total, 0.1 * np.log(table["me"]) - 0.8, year):
        told = _told(table.assign(ret=np.asarray(wrong)))
        assert any("'ret' is persistent" in text or "percent" in text for text in told), told


def test_filled_returns():
    table = market()
    gone = np.random.default_rng(0).random(len(table)) < 0.5
    assert any("'ret' is 0 in" in t for t in _told(table.assign(ret=table["ret"].mask(gone, 0.0))))
    forward = table.assign(ret=table["ret"].mask(gone)).groupby("asset")["ret"].ffill()
    told = _told(table.assign(ret=forward))
    assert any("'ret' repeats the value of the row before" in text for text in told)


def test_copies_of_assets_and_months():
    table = market()
    twin = table[table["asset"] == 10003].assign(asset=99999)
    told = _told(pd.concat([table, twin]))
    assert any("returns of another asset, in every row: 99999" in text for text in told)
    months = sorted(table["date"].unique())
    copied = table.set_index(["date", "asset"])["ret"].copy()
    copied.loc[months[20]] = copied.loc[months[19]].to_numpy()
    told = _told(table.assign(ret=copied.to_numpy()))
    assert any("repeats the whole row before" in text and "2011-10" in text for text in told)


@pytest.mark.parametrize("step", [3, 6])
def test_assets_of_a_lower_frequency(step):
    table = market()
    months = {date: k for k, date in enumerate(sorted(table["date"].unique()))}
    sparse = (table["asset"] < 10004) & (table["date"].map(months) % step > 0)
    told = _told(table[~sparse])
    assert any(f"a return every {step} rows only: 10001, 10002, 10003" in t for t in told), told


def test_rows_a_month_apart_are_no_daily_panel():
    with pytest.raises(PanelError, match=r"rows are 31 days apart.*frequency='monthly'"):
        from_frame(market(), excess=True, frequency="daily")


def test_a_warning_shows_the_line_of_the_user():
    with pytest.warns(RvraeWarning) as seen:
        from_frame(market().assign(target=1.0), excess=True)
    assert {each.filename for each in seen} == {__file__}


def test_a_panel_without_returns_has_nothing_to_tell():
    panel = from_frame(market(), excess=True)
    assert (
        find_oddities(panel.isel(time=[-1]).assign(returns=panel["returns"][[-1]] * np.nan)) == []
    )


def test_copies_of_characteristics_and_breaks_of_units():
    table = market()
    told = _told(table.assign(size=table["me"]))
    assert any("values of another: 'size' (as 'me')" in text for text in told)
    assert _told(table.assign(size=table["me"].where(table.index != 700, 1.0))) == []
    late = table["date"] >= "2012-07"
    told = _told(table.assign(bm=table["bm"].where(~late, 1000 * table["bm"])))
    assert any("'bm' is " in text and "larger from 2012-07-31 on" in text for text in told)
    growing = table.assign(bm=table["bm"] * np.exp(np.arange(len(table)) / 100))
    assert _told(growing) == []
    assert _told(table.assign(bm=table["bm"].where(table["date"] != "2012-07-31", 5e3))) == []


def test_ids_that_differ_by_case_or_zeros_only():
    rng = np.random.default_rng(0)
    table = market()
    text = table.assign(asset="T" + table["asset"].astype(str))
    mixed = text["asset"].where(rng.random(len(text)) < 0.5, text["asset"].str.lower())
    told = _told(text.assign(asset=mixed))
    assert any(
        "differ by case or leading zeros only" in t and "'T10001' and 't10001'" in t for t in told
    )
    padded = table["asset"].astype(str)
    padded = padded.where(rng.random(len(table)) < 0.5, "00" + padded)
    assert any("'0010001' and '10001'" in t for t in _told(table.assign(asset=padded)))
    both = pd.concat([text, text.assign(asset=text["asset"].str.lower(), ret=-text["ret"])])
    assert [t for t in _told(both) if "case" in t] == []  # two classes of shares
