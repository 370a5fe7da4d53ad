"""Characteristics from daily prices against pandas, and that no row sees its own month."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.data import characteristics_from_prices, check_panel, listed
from rvrae_pyro.errors import PanelError, RvraeWarning

DAYS = pd.bdate_range("2003-01-01", "2006-12-29")


def _market(n_assets=5, seed=0, days=DAYS):
    rng = np.random.default_rng(seed)
    shape = len(days), n_assets
    common = 0.006 * rng.standard_normal((len(days), 1))
    returns = 0.0003 + common * rng.uniform(0.5, 1.5, n_assets) + 0.01 * rng.standard_normal(shape)
    names = [f"T{i}" for i in range(n_assets)]
    close = pd.DataFrame(20 * np.exp(np.cumsum(returns, axis=0)), days, names)
    up, down = (np.exp(rng.uniform(0.0, 0.01, shape)) for _ in range(2))
    volume = pd.DataFrame(rng.integers(0, 10_000, shape).astype(float), days, names)
    # a dividend of 2 % a quarter: adjusted prices lie below those that were traded
    dividends = np.cumsum(np.arange(len(days)) % 63 == 62)[:, None]
    traded = close * 1.02 ** (dividends.max() - dividends)
    return {
        "close": close,
        "volume": volume,
        "high": close * up,
        "low": close / down,
        "unadjusted_close": traded,
    }


def _panel(market, **kwargs):
    return characteristics_from_prices(**market, excess=True, **kwargs)


FULL = _market()
PANEL = _panel(FULL)


def test_months_and_live_row():
    check_panel(PANEL)
    assert PANEL.sizes["time"] == 48
    assert PANEL["time"].values[0] == np.datetime64("2003-02-28")
    assert PANEL["time"].values[-1] == np.datetime64("2007-01-31")
    assert PANEL["returns"].isel(time=-1).isnull().all()
    assert listed(PANEL).all()
    assert PANEL["characteristics"].isel(time=-1).notnull().all()


def test_returns_are_month_end_to_month_end():
    last = FULL["close"].groupby(FULL["close"].index.to_period("M")).last()
    np.testing.assert_allclose(PANEL["returns"][:-1], last.pct_change().iloc[1:], rtol=1e-12)


@pytest.mark.parametrize(("row", "asset"), [(47, "T0"), (40, "T3"), (12, "T1")])
def test_characteristics_against_pandas(row, asset):
    # known at the end of the month before the row's
    known = {k: v[: str(PANEL["time"].values[row - 1])[:7]] for k, v in FULL.items()}
    close, volume = known["close"], known["volume"][asset]
    daily = close.pct_change()
    market, own = daily.mean(axis=1), daily[asset]
    month = own.index.to_period("M") == own.index[-1].to_period("M")
    monthly = close[asset].groupby(close.index.to_period("M")).last().pct_change()
    year, quarter = slice(-252, None), slice(-63, None)

    def slope(window):
        pair = pd.DataFrame({"r": own, "k": market}).iloc[window].dropna()
        design = np.column_stack([np.ones(len(pair)), pair["k"]])
        coefficient, square, *_ = np.linalg.lstsq(design, pair["r"])
        return coefficient[1], np.sqrt(square[0] / (len(pair) - 2))

    dollars = (known["unadjusted_close"][asset] * volume)[month]
    impact = (own.abs()[month] / dollars)[dollars > 0]
    idle = ((volume == 0) | (own == 0))[own.notna()]
    expected = {
        "mom_1m": monthly.iloc[-1],
        "mom_6m": np.prod(1 + monthly.iloc[-6:-1]) - 1,
        "mom_12m": np.prod(1 + monthly.iloc[-12:-1]) - 1 if row >= 12 else np.nan,
        "mom_36m": np.prod(1 + monthly.iloc[-36:-12]) - 1 if row >= 36 else np.nan,
        "vol_1m": own[month].std(),
        "maxret": own[month].max(),
        "minret": own[month].min(),
        "dolvol": np.log1p(dollars.mean()),
        "illiq": 1e6 * impact.mean(),
        "spread_hl": _spread(known["high"][asset], known["low"][asset])[month].mean(),
        "idiovol": slope(quarter)[1],
        "skew": (own.iloc[quarter] - own.iloc[quarter].mean()).pow(3).mean()
        / own.iloc[quarter].std(ddof=0) ** 3,
        "vol_12m": own.iloc[year].std(),
        "beta_12m": slope(year)[0],
        "high52": close[asset].iloc[-1] / known["high"][asset].iloc[year].max(),
        "zerotrade": idle.iloc[year].mean(),
    }
    got = PANEL["characteristics"].sel(asset=asset).isel(time=row).to_series()
    assert set(got.index) == set(expected)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


def _spread(high, low):
    """Corwin and Schultz (2012), equations 14, 10, 7 and 18, one day at a time."""
    out = {}
    for before, day in zip(high.index[:-1], high.index[1:], strict=True):
        beta = np.log(high[day] / low[day]) ** 2 + np.log(high[before] / low[before]) ** 2
        top, bottom = max(high[day], high[before]), min(low[day], low[before])
        gamma = np.log(top / bottom) ** 2
        k = 3 - 2 * np.sqrt(2)
        alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / k - np.sqrt(gamma / k)
        out[day] = max(0.0, 2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha)))
    return pd.Series(out).reindex(high.index)


SHORT = DAYS[:300]


@settings(max_examples=8)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_later_prices_change_no_earlier_row(seed, month):
    days = SHORT.to_period("M")
    cut = days.unique()[month]
    later = np.repeat(np.asarray(days >= cut)[:, None], 4, axis=1)
    one, two = _market(4, seed, SHORT), _market(4, seed + 1, SHORT)
    mixed = {k: v.mask(later, 3.0 * two[k]) for k, v in one.items()}
    gone = {k: v.mask(later) for k, v in one.items()}
    before, after = _panel(one), _panel(mixed)
    row = before["time"].to_index().to_period("M").get_loc(cut)
    for changed in (after, _panel(gone)):
        values = changed["characteristics"].reindex(characteristic=before["characteristic"].values)
        np.testing.assert_array_equal(
            before["characteristics"].values[: row + 1], values.values[: row + 1]
        )
        np.testing.assert_array_equal(
            before["returns"].values[:row], changed["returns"].values[:row]
        )
    assert not np.array_equal(before["returns"].values[row], after["returns"].values[row])


def test_an_asset_is_listed_while_it_has_a_price_at_the_end_of_the_month_before():
    market = _market(4)
    market = {k: v.copy() for k, v in market.items()}
    for frame in market.values():
        frame.loc["2005-06-10":, "T1"] = np.nan  # leaves within June
        frame.loc[:"2004-03-15", "T2"] = np.nan  # enters within March
        frame.loc["2005-09-29":"2005-09-30", "T3"] = np.nan  # does not trade for two days
    cells = listed(_panel(market)).to_pandas()
    assert cells["T1"].to_numpy().sum() == cells.index.get_loc("2005-06-30") + 1
    assert cells["T2"].idxmax() == pd.Timestamp("2004-04-30")
    assert cells["T2"]["2004-04-30":].all()
    assert cells["T3"].all()


def test_close_alone_and_columns_without_values_are_left_out():
    close = FULL["close"].loc[:"2003-05"]
    panel = characteristics_from_prices(close, excess=True)
    names = set(panel["characteristic"].values)
    assert {"mom_1m", "vol_1m", "maxret", "idiovol"} < names
    assert not names & {"mom_12m", "mom_36m", "vol_12m", "illiq", "spread_hl"}


def test_rate_is_subtracted_and_silence_warns():
    rate = pd.Series(0.002, pd.period_range("2003-01", "2006-12", freq="M"))
    net = characteristics_from_prices(FULL["close"], risk_free=rate)
    raw = characteristics_from_prices(FULL["close"], excess=True)
    np.testing.assert_allclose(net["returns"][:-1], raw["returns"][:-1] - 0.002, atol=1e-15)
    xr.testing.assert_identical(net["characteristics"], raw["characteristics"])
    with pytest.warns(RvraeWarning, match="nothing was subtracted"):
        characteristics_from_prices(FULL["close"])


def test_an_unfinished_month_warns():
    with pytest.warns(RvraeWarning, match="ends on 2006-11-15, within a month"):
        characteristics_from_prices(FULL["close"].loc[:"2006-11-15"], excess=True)


def test_order_of_days_and_columns_is_free():
    shuffled = {k: v.sample(frac=1.0, random_state=1) for k, v in FULL.items()}
    shuffled["volume"] = shuffled["volume"].iloc[:, ::-1]
    xr.testing.assert_identical(_panel(shuffled), PANEL)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m | {"low": None}, "`high` and `low` come together"),
        (lambda m: m | {"volume": m["volume"].iloc[1:]}, "`volume` and `close` must have the same"),
        (lambda m: m | {"close": m["close"] * -1}, "`close` must be finite and above zero"),
        (lambda m: m | {"volume": m["volume"] - 1e9}, "`volume` must be finite and not negative"),
        (lambda m: {"close": pd.concat([m["close"]] * 2)}, "`close` repeats days: 2003-01-01"),
        (lambda m: {"close": m["close"][["T0", "T0"]]}, "`close` repeats assets: T0"),
        (lambda m: {"close": m["close"].astype(str) + "x"}, "`close` must hold numbers"),
        (lambda m: {"close": m["close"].reset_index(drop=True)}, "indexed by date"),
        (lambda m: {"close": m["close"].iloc[:0]}, "`close` must be a DataFrame"),
        (lambda m: {"close": m["close"]["T0"].tolist()}, "`close` must be a DataFrame"),
        (lambda m: {"close": m["close"].loc["2003-01"]}, "span at least two months"),
    ],
)
def test_misuse(change, match):
    with pytest.raises(PanelError, match=match):
        characteristics_from_prices(**change(FULL), excess=True)


@pytest.mark.parametrize("factor", [0.6, 0.98, 1.5])
def test_later_dividends_change_no_characteristic(factor):
    # what a vendor does when an asset pays after the last day: all its adjusted prices are scaled
    market = _market(4, days=SHORT)
    later = {name: frame.copy() for name, frame in market.items()}
    for name in ("close", "high", "low"):
        later[name]["T0"] *= factor
    before, after = _panel(market), _panel(later)
    xr.testing.assert_allclose(after, before, rtol=1e-10, atol=1e-13)
    # without the prices that were traded there is no volume in money
    for each in (market, later):
        del each["unadjusted_close"]
    without, scaled = _panel(market), _panel(later)
    xr.testing.assert_allclose(scaled, without, rtol=1e-10, atol=1e-13)
    assert set(before["characteristic"].values) - set(without["characteristic"].values) == {
        "dolvol", "illiq",
    }  # fmt: skip
    assert "zerotrade" in without["characteristic"].values


@pytest.mark.parametrize("split", [2.0, 0.1])
def test_later_splits_change_no_characteristic(split):
    market = _market(4, days=SHORT)
    later = {name: frame.copy() for name, frame in market.items()}
    for name in ("close", "high", "low", "unadjusted_close"):
        later[name]["T1"] /= split
    later["volume"]["T1"] *= split
    xr.testing.assert_allclose(_panel(later), _panel(market), rtol=1e-10, atol=1e-13)


def test_traded_prices_want_their_volume():
    close = FULL["close"]
    with pytest.raises(PanelError, match="`unadjusted_close` is for use with `volume`"):
        characteristics_from_prices(close, unadjusted_close=close, excess=True)
    with pytest.raises(PanelError, match="same days and assets"):
        _panel({**FULL, "unadjusted_close": close.iloc[1:]})


def test_prices_that_grow_alike_every_day_have_no_skewness():
    market = {"close": FULL["close"].copy()}
    market["close"]["T0"] = 3.0 * 1.0004 ** np.arange(len(DAYS))
    skew = _panel(market)["characteristics"].sel(characteristic="skew")
    assert skew.sel(asset="T0").isnull().all()
    assert skew.sel(asset="T1").notnull().any()
