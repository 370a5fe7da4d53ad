"""Characteristics that know their row's return are reported, and those of panels in order not."""

import warnings

import numpy as np
import pandas as pd
import pytest

from rvrae_pyro.data import (
    ColumnMap,
    from_frame,
    load_french,
    market_context,
    rank_characteristics,
    read_long,
    simulate_dynamic,
    simulate_gkx,
    simulate_linear_gaussian,
)
from rvrae_pyro.data.lookahead import find_lookahead, named_like_a_lead
from rvrae_pyro.errors import RvraeWarning


def market(n_times=48, n_assets=30, seed=0):
    """A table of market values that grow with returns, known at the end of the month before."""
    rng = np.random.default_rng(seed)
    months = pd.period_range("2010-01", periods=n_times, freq="M")
    factor = 0.04 * rng.standard_normal((n_times, 1))
    beta = rng.normal(1.0, 0.3, n_assets)
    returns = 0.005 + factor * beta + 0.07 * rng.standard_t(5, (n_times, n_assets)) / np.sqrt(5 / 3)
    value = np.exp(rng.normal(8, 1, n_assets) + np.log1p(np.maximum(returns, -0.9)).cumsum(axis=0))
    known = np.vstack([np.full((1, n_assets), np.nan), value[:-1]])
    before = np.vstack([np.full((1, n_assets), np.nan), returns[:-1]])
    table = pd.DataFrame(
        {
            "date": np.repeat(months.to_timestamp(how="end").normalize(), n_assets),
            "asset": np.tile(np.arange(n_assets) + 10001, n_times),
            "ret": returns.ravel(),
            "me": known.ravel(),
            "mom_1m": before.ravel(),
            "beta": (beta + 0.1 * rng.standard_normal((n_times, n_assets))).ravel(),
            "bm": rng.lognormal(size=n_times * n_assets),
        }
    )
    return table.iloc[n_assets:].reset_index(drop=True)


def _told(table, **kwargs):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        from_frame(table, **({"excess": True} | kwargs))
    return [str(each.message) for each in seen]


def _ahead(table, step):
    return table.groupby("asset")["ret"].shift(-step)


def _ranks(table, name):
    return table.groupby("date")[name].rank(pct=True)


LEAKS = {
    "the return itself": lambda t: t["ret"],
    "in percent": lambda t: 100 * t["ret"],
    "its negative": lambda t: -t["ret"],
    "log return": lambda t: np.log1p(t["ret"]),
    "with the rate": lambda t: t["ret"] + 0.002,
    "without the mean of the month": lambda t: (
        t["ret"] - t.groupby("date")["ret"].transform("mean")
    ),
    "ranked": lambda t: _ranks(t, "ret"),
    "winsorised": lambda t: t["ret"].clip(-0.1, 0.1),
    "rounded": lambda t: t["ret"].round(2),
    "with noise": lambda t: t["ret"] + 0.04 * np.random.default_rng(1).standard_normal(len(t)),
    "in half of the cells": lambda t: t["ret"].where(t.index % 2 == 0, t["bm"]),
    "single precision": lambda t: t["ret"].astype("float32"),
    "of the month after": lambda t: _ahead(t, 1),
    "of the month after, ranked": lambda t: _ahead(t, 1).rank(pct=True),
    "over three months": lambda t: t["ret"] + _ahead(t, 1) + _ahead(t, 2),
    "direction": lambda t: np.sign(t["ret"]),
    "mean of the month": lambda t: t.groupby("date")["ret"].transform("mean"),
    "price at the end of the month": lambda t: t["me"] * (1 + t["ret"]),
    "its logarithm": lambda t: np.log(t["me"] * (1 + t["ret"])),
    "book to price of the end": lambda t: 5.0 / (t["me"] * (1 + t["ret"])),
}


@pytest.mark.parametrize("kind", LEAKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_knows_its_row_is_named(kind, seed):
    table = market(seed=seed).assign(extra=LEAKS[kind])
    told = _told(table)
    assert len(told) == 1, told
    assert "'extra'" in told[0]
    assert not any(f"'{name}'" in told[0] for name in ("me", "mom_1m", "beta", "bm"))


def test_a_year_ahead_is_named_where_there_are_years_enough():
    table = market(180)
    year = sum(_ahead(table, step) for step in range(1, 13))
    assert "'extra'" in _told(table.assign(extra=year))[0]


def test_an_unlagged_table_is_named_and_lag_1_mends_it():
    """On the row of t stands what is known at the end of t: value, and the return of the month."""
    table = market()
    late = table.assign(mom_1m=table["ret"], me=table["me"] * (1 + table["ret"]))
    told = " ".join(_told(late))
    assert "'mom_1m'" in told
    assert "'me'" in told
    assert "lag=1" in told
    assert _told(late, lag=1) == []


def test_what_is_named_though_its_rows_have_moved_is_to_be_dropped():
    table = market()
    late = table.assign(mom_1m=table["ret"], me=table["me"] * (1 + table["ret"]))
    (told,) = _told(late.assign(extra=_ahead(late, 1)), lag=1)
    assert "'extra'" in told
    assert "drop them, as lag=1" in told
    assert "or pass lag=1" not in told


def test_a_table_that_is_lagged_twice_is_named():
    told = _told(market(), lag=1)
    assert len(told) == 1
    assert "'me'" in told[0]
    assert "lag=0" in told[0]


NAMES = [
    "ret_lead1", "ret_exc_lead1m", "lead_ret", "RET_LEAD", "retLead1", "fwd_ret", "fwdret",
    "ret_fwd_1m", "forward_return", "next_ret", "nextRet", "ret_next_month", "future_return",
    "ret_t+1", "ret(t+1)", "r_ret_tplus1", "ret_tp1", "return_1m_ahead", "target", "Target",
    "target_ret", "ret_target", "y", "label", "target_1m", "F.ret", "f1_ret", "excess_return_lead",
    "ret_ahead", "leadret", "retnext", "y_true", "ret_plus_1",
]  # fmt: skip
HARMLESS = [
    "ret_1m", "mom_12m", "fwd_pe", "forward_earnings", "target_price", "leadership", "leverage",
    "beta", "retained_earnings", "return_on_equity_fwd", "ret_lag1", "str_rev", "ret_12_1",
    "next_earnings_days", "yield", "size", "ret_vol", "analyst_target", "excess_cash", "maxret",
]  # fmt: skip


def test_names_of_leads():
    assert [name for name in NAMES if not named_like_a_lead(name)] == []
    assert [name for name in HARMLESS if named_like_a_lead(name)] == []


@pytest.mark.parametrize("name", ["ret_lead1", "fwd_ret", "next_ret", "target"])
def test_a_name_is_enough(name):
    table = market().assign(**{name: np.random.default_rng(2).standard_normal(47 * 30)})
    assert f"'{name}'" in _told(table)[0]


def test_returns_named_like_a_lead_are_pointed_out():
    table = market().rename(columns={"ret": "ret_exc_lead1m"})
    told = _told(table, returns="ret_exc_lead1m")
    assert "'ret_exc_lead1m', is named like a later return" in told[0]


def test_every_reader_tells(tmp_path):
    table = market(24).assign(ret_lead=lambda t: _ahead(t, 1))
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    with pytest.warns(RvraeWarning, match="'ret_lead'"):
        read_long(path, excess=True)
    table.drop(columns="me").to_csv(path, index=False)
    with pytest.warns(RvraeWarning) as seen:
        read_long(path, ColumnMap(lag=1), excess=True)
    told = [str(each.message) for each in seen]
    assert "named like a later return or a target: 'ret_lead'" in told[0]
    assert "equal the return of their own row: 'ret_lead'" in told[1]
    assert {each.filename for each in seen} == {__file__}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.statistical
def test_panels_in_order_are_silent(seed):
    """Zero in 20 panels, of which some are small: a rate above 10 % would fail with chance 88 %."""
    rng = np.random.default_rng(seed)
    table = market(int(rng.integers(6, 60)), int(rng.integers(3, 40)), seed)
    table["persistent"] = rng.standard_normal(table["asset"].max() + 1)[table["asset"]]
    table["trend"] = table.groupby("asset")["ret"].cumsum() - table["ret"]
    assert _told(table) == []


@pytest.mark.parametrize(
    "panel",
    [
        load_french(),
        rank_characteristics(market_context(load_french())),
        simulate_gkx("linear", 60, 60, 10, seed=1),
        simulate_gkx("nonlinear", 60, 60, 10, seed=2),
        simulate_linear_gaussian(seed=0),
        simulate_dynamic(30, 60, 6, 3, seed=0),
    ],
    ids=["french", "ranked", "linear", "nonlinear", "gaussian", "dynamic"],
)
def test_real_and_simulated_panels_are_silent(panel):
    assert find_lookahead(panel) == []
