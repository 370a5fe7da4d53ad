"""Characteristics of returns alone: their definitions, their past, and every way to them."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.data import characteristics_from_returns, from_frame, from_wide, listed
from rvrae_pyro.data.past_returns import past_characteristics
from rvrae_pyro.errors import ConfigError, PanelError, RvraeWarning

NAMES = ["mom_1m", "mom_6m", "mom_12m", "mom_36m", "vol_12m", "maxret_12m", "beta_36m"]


def wide(n_times: int = 48, n_assets: int = 5, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    months = pd.period_range("2010-01", periods=n_times, freq="M")
    market = 0.04 * rng.standard_normal((n_times, 1))
    values = 0.01 + market + 0.05 * rng.standard_normal((n_times, n_assets))
    return pd.DataFrame(values, months, [f"s{k}" for k in range(n_assets)])


def long(returns: pd.DataFrame) -> pd.DataFrame:
    table = returns.rename_axis("date").reset_index().melt("date", var_name="asset")
    return table.rename(columns={"value": "ret"}).assign(date=lambda t: t["date"].astype(str))


def test_definitions_against_plain_numpy() -> None:
    returns = wide()
    panel = characteristics_from_returns(returns, excess=True)
    assert panel["characteristic"].values.tolist() == NAMES
    assert str(panel["time"].values[-1])[:7] == "2014-01"
    assert panel["returns"].isel(time=-1).isnull().all()
    row, past = 40, returns.to_numpy()[:40]
    found = panel["characteristics"].isel(time=row)
    grown = 1.0 + past
    market = past.mean(axis=1)[-36:]
    expected = {
        "mom_1m": past[-1],
        "mom_6m": grown[-6:-1].prod(axis=0) - 1.0,
        "mom_12m": grown[-12:-1].prod(axis=0) - 1.0,
        "mom_36m": grown[-36:-12].prod(axis=0) - 1.0,
        "vol_12m": past[-12:].std(axis=0, ddof=1),
        "maxret_12m": past[-12:].max(axis=0),
        "beta_36m": [np.polyfit(market, each, 1)[0] for each in past[-36:].T],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.sel(characteristic=name), values, rtol=1e-10, err_msg=name)


def test_short_history_is_missing_and_unknown_characteristics_are_left_out() -> None:
    panel = characteristics_from_returns(wide(48), excess=True)
    known = panel["characteristics"].notnull().all("asset")
    first = {name: int(known.sel(characteristic=name).argmax("time")) for name in NAMES}
    assert first == {
        "mom_1m": 1, "mom_6m": 6, "mom_12m": 12, "mom_36m": 36, "vol_12m": 6, "maxret_12m": 6,
        "beta_36m": 18,
    }  # fmt: skip
    assert not listed(panel).isel(time=0).any()
    short = characteristics_from_returns(wide(10), excess=True)
    assert short["characteristic"].values.tolist() == ["mom_1m", "mom_6m", "vol_12m", "maxret_12m"]


def test_an_asset_is_listed_the_month_after_a_return() -> None:
    returns = wide()
    returns.iloc[:20, 0] = np.nan  # enters
    returns.iloc[30:, 1] = np.nan  # leaves
    returns.iloc[25, 2] = np.nan  # a hole
    seen = returns.notna().to_numpy()
    panel = characteristics_from_returns(returns, excess=True)
    np.testing.assert_array_equal(listed(panel).values[1:], seen)


@settings(max_examples=25, deadline=None)
@given(
    cut=st.integers(5, 44),
    seed=st.integers(0, 2**16),
    frequency=st.sampled_from(["monthly", "weekly"]),
)
def test_later_rows_change_nothing(cut: int, seed: int, frequency: str) -> None:
    rng = np.random.default_rng(seed)
    returns = 0.1 * rng.standard_normal((45, 4))
    returns[rng.random(returns.shape) < 0.1] = np.nan
    returns[:5, 0] = 0.01  # a month of weeks
    other = returns.copy()
    other[cut:] = rng.standard_normal(other[cut:].shape)
    known, changed = (past_characteristics(each, frequency) for each in (returns, other))
    shortened = past_characteristics(returns[:cut], frequency)
    for name in set(known) | set(changed):
        missing = np.full((cut + 1, 4), np.nan)
        upto = known.get(name, missing)[: cut + 1]
        np.testing.assert_array_equal(upto, changed.get(name, missing)[: cut + 1])
        np.testing.assert_array_equal(upto, shortened.get(name, missing))


def test_a_long_table_of_returns_gives_the_same_panel_and_a_note() -> None:
    returns = wide()
    with pytest.warns(RvraeWarning, match="no characteristic: mom_1m.*from the returns of earlier"):
        panel = from_frame(long(returns), excess=True)
    expected = characteristics_from_returns(returns, excess=True)
    xr.testing.assert_equal(panel, expected)
    with pytest.warns(RvraeWarning, match="no characteristic"):
        live = from_frame(
            pd.concat([long(returns), pd.DataFrame({"date": ["2014-01"], "asset": ["s0"]})]),
            excess=True,
        )
    xr.testing.assert_equal(live, expected)  # no second live row


@pytest.mark.filterwarnings("ignore:the table has no characteristic")
def test_the_rate_the_weight_and_lags_keep_their_rows() -> None:
    returns, rng = wide(), np.random.default_rng(1)
    table = long(returns).assign(rf=0.002)
    table["weight"] = rng.lognormal(size=len(table))
    panel = from_frame(table, risk_free="rf")
    rate = pd.Series(0.002, returns.index)
    expected = characteristics_from_returns(returns, risk_free=rate)
    xr.testing.assert_equal(panel["returns"], expected["returns"])
    xr.testing.assert_equal(panel["characteristics"], expected["characteristics"])
    lagged = from_frame(table, risk_free="rf", lag=1)
    xr.testing.assert_equal(lagged["characteristics"], panel["characteristics"])
    np.testing.assert_array_equal(lagged["weight"].values[1:], panel["weight"].values[:-1])
    assert panel["weight"].isel(time=-1).isnull().all()


def test_misuse() -> None:
    returns = wide(12)
    with pytest.raises(PanelError, match="holds no observed return"):
        characteristics_from_returns(returns * np.nan, excess=True)
    with pytest.raises(PanelError, match="indexed by date"):
        characteristics_from_returns(returns.reset_index(drop=True), excess=True)
    with pytest.raises(PanelError, match="look like percent"):
        characteristics_from_returns(100 * returns, excess=True)
    with pytest.raises(PanelError, match="skips months: 2010-05"):
        characteristics_from_returns(returns.drop(index="2010-05"), excess=True)
    with pytest.raises(ConfigError, match="frequency"):
        characteristics_from_returns(returns, excess=True, frequency="yearly")  # type: ignore[arg-type]
    with pytest.raises(PanelError, match="characteristics_from_returns"):
        from_wide(returns, excess=True)
    with pytest.raises(PanelError, match="`characteristics` is empty"):
        from_frame(long(returns), characteristics=[], excess=True)


@pytest.mark.parametrize("form", ["column", "index", "unnamed", "yyyymm"])
def test_a_wide_table_is_recognised(form: str) -> None:
    table = wide(60).rename_axis("Date")
    if form == "index":
        table.index = table.index.to_timestamp()
    elif form == "yyyymm":
        table = table.set_axis(table.index.strftime("%Y%m").astype(int)).reset_index()
    else:
        table = table.set_axis(table.index.astype(str)).reset_index()
    if form == "unnamed":
        table = table.rename(columns={"index": "Unnamed: 0"})
    with pytest.raises(PanelError, match=r"looks wide: .*5 columns.*from_wide.*add --wide"):
        from_frame(table, excess=True)


def test_a_long_table_of_other_names_is_not_called_wide() -> None:
    table = long(wide()).assign(beta=1.0, size=2.0)
    table["asset"] = table["asset"].str[1:].astype(int)
    table = table.rename(columns={"date": "Date", "asset": "PERMNO", "ret": "RET"})
    with pytest.raises(PanelError, match=r"no column 'asset' for `asset`.*Pass asset="):
        from_frame(table, excess=True)
