"""Wide tables become the panel of the same table in long form, or one clear error."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.data import characteristics_from_prices, from_frame, from_prices, from_wide
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


DAYS = pd.bdate_range("2014-01-01", "2016-12-30")
TICKERS = ["AAPL", "IBM", "NA", "BRK-B"]


def prices(seed=0, days=DAYS):
    """Closes, extremes and volume as yfinance has them, adjusted for splits and dividends."""
    rng = np.random.default_rng(seed)
    shape = len(days), len(TICKERS)
    common = 0.01 * rng.standard_normal((len(days), 1))
    close = 50 * np.exp((common + 0.012 * rng.standard_normal(shape)).cumsum(0))
    up, down = (np.exp(rng.uniform(0, 0.01, shape)) for _ in range(2))
    arrays = {
        "Close": close,
        "High": close * up,
        "Low": close / down,
        "Open": close * up / down,
        "Volume": rng.integers(10_000, 10**6, shape).astype(float),
    }
    return {name: pd.DataFrame(v, days, TICKERS) for name, v in arrays.items()}


def download(fields, order="price"):
    """The frame of yfinance.download: levels Price and Ticker, tickers first with group_by."""
    frame = pd.concat(fields, axis=1, names=["Price", "Ticker"])
    frame.index.name = "Date"
    return frame if order == "price" else frame.swaplevel(axis=1).sort_index(axis=1)


FIELDS = prices()
EXPECTED = characteristics_from_prices(
    FIELDS["Close"], FIELDS["Volume"], FIELDS["High"], FIELDS["Low"], excess=True
)


def _same(panel):
    assert panel.attrs["source"] == "from_prices"
    xr.testing.assert_allclose(panel, EXPECTED.sel(asset=panel["asset"]), rtol=1e-9)


@pytest.mark.parametrize("order", ["price", "ticker"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_a_download_as_it_comes(order, zone):
    frame = download(FIELDS, order)
    if zone:
        frame.index = frame.index.tz_localize(zone)
    _same(from_prices(frame, excess=True))
    frame.columns.names = [None, None]  # older versions name no level
    _same(from_prices(frame, excess=True))


def test_a_download_with_actions_saved_as_csv(tmp_path):
    zero = FIELDS["Close"] * 0.0
    frame = download({**FIELDS, "Dividends": zero, "Stock Splits": zero, "Capital Gains": zero})
    frame.to_csv(tmp_path / "prices.csv")
    back = pd.read_csv(tmp_path / "prices.csv", header=[0, 1], index_col=0)
    _same(from_prices(back, excess=True))


def test_unadjusted_downloads_use_the_adjusted_close():
    """auto_adjust=False: Adj Close has the dividends, Close, High and Low have not."""
    factor = pd.DataFrame(
        np.linspace(0.8, 1.0, len(DAYS))[:, None] * np.ones(len(TICKERS)), DAYS, TICKERS
    )
    raw = {name: FIELDS[name] / factor for name in ("Close", "High", "Low", "Open")}
    panel = from_prices(
        download({"Adj Close": FIELDS["Close"], **raw, "Volume": FIELDS["Volume"]}), excess=True
    )
    names = list(EXPECTED["characteristic"].values)
    # volume in money is made from the prices that were traded, and left out without them
    assert set(panel["characteristic"].values) - set(names) == {"dolvol", "illiq"}
    factor[TICKERS[0]] *= 0.7  # a dividend after the last day
    later = {"Adj Close": raw["Close"] * factor, **raw, "Volume": FIELDS["Volume"]}
    xr.testing.assert_allclose(from_prices(download(later), excess=True), panel, rtol=1e-9)
    np.testing.assert_allclose(panel["returns"], EXPECTED["returns"], rtol=1e-9)
    np.testing.assert_allclose(
        panel["characteristics"].sel(characteristic=names),
        EXPECTED["characteristics"].sel(characteristic=names),
        rtol=1e-8,
    )


@pytest.mark.parametrize(
    "names",
    [
        {"Close": "close", "High": "high", "Low": "low", "Volume": "volume"},
        {"Close": "Adj Close", "High": "High", "Low": "Low", "Volume": "Volume"},
        {"Close": "CLOSE", "High": "HIGH", "Low": "LOW", "Volume": "VOL"},
    ],
)
def test_a_dict_of_wide_tables(names):
    tables = {new: FIELDS[old] for old, new in names.items()}
    if "Adj Close" in tables:
        tables["Close"] = FIELDS["Close"]
        panel = from_prices(tables, excess=True)
        _same(panel.drop_sel(characteristic=["dolvol", "illiq"]))
    else:
        _same(from_prices(tables, excess=True))


def test_a_dict_may_hold_the_closes_at_which_was_traded():
    raw = FIELDS["Close"] * 1.3
    named = {"close": FIELDS["Close"], "unadjusted_close": raw, "volume": FIELDS["Volume"]}
    expected = characteristics_from_prices(
        FIELDS["Close"], FIELDS["Volume"], unadjusted_close=raw, excess=True
    )
    xr.testing.assert_equal(from_prices(named, excess=True), expected)


def test_a_close_alone_is_enough():
    alone = from_prices({"close": FIELDS["Close"]}, excess=True)
    expected = characteristics_from_prices(FIELDS["Close"], excess=True)
    xr.testing.assert_equal(alone, expected)


def test_failed_tickers_and_empty_days_are_left_out():
    gone = {name: table.assign(GONE=np.nan) for name, table in FIELDS.items()}
    holiday = pd.DataFrame(np.nan, [DAYS[5] + pd.Timedelta(hours=0)], [*TICKERS, "GONE"])
    holiday.index = pd.DatetimeIndex(["2014-01-05"])
    gone = {name: pd.concat([table, holiday]).sort_index() for name, table in gone.items()}
    with pytest.warns(RvraeWarning, match=r"without a single price are left out: GONE"):
        panel = from_prices(download(gone), excess=True)
    _same(panel)


def test_a_rate_is_subtracted():
    rate = pd.Series(0.002, pd.period_range("2014-01", periods=40, freq="M"))
    panel = from_prices(download(FIELDS), risk_free=rate)
    np.testing.assert_allclose(panel["returns"], EXPECTED["returns"] - 0.002)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (lambda: FIELDS["Close"], "columns of two levels, prices and tickers; it has one"),
        (lambda: download(FIELDS)["Close"].rename(columns=str), "it has one: AAPL"),
        (lambda: download(FIELDS).xs("IBM", axis=1, level=1), "prices of one asset"),
        (lambda: download(FIELDS).iloc[:0], "is empty: the download failed"),
        (lambda: download(FIELDS) * np.nan, "no close at all"),
        (lambda: download({"High": FIELDS["High"], "Low": FIELDS["Low"]}), "must hold a close"),
        (lambda: download({"ret": FIELDS["Close"], "size": FIELDS["Low"]}), "no level of its"),
        (lambda: FIELDS["Close"].to_numpy(), "a DataFrame or a dict of them; got ndarray"),
        (lambda: {"closing": FIELDS["Close"]}, "has a table 'closing'; the names are close"),
        (lambda: {"close": 1.0}, r"`prices\['close'\]` must be a DataFrame"),
        (lambda: {"vol": FIELDS["Close"], "Volume": FIELDS["Close"]}, "two tables for one price"),
        (
            lambda: download({k: v.resample("ME").last() for k, v in FIELDS.items()}),
            "30 days apart|31 days apart",
        ),
        (lambda: download({k: v.resample("W").last() for k, v in FIELDS.items()}), "7 days apart"),
        (lambda: download(FIELDS) * 0.0, "above zero"),
        (
            lambda: pd.concat([download(FIELDS), download(FIELDS)[[("Close", "IBM")]]], axis=1),
            "repeats Close of IBM",
        ),
    ],
)
def test_downloads_that_are_refused(bad, match):
    with pytest.raises(PanelError, match=match):
        from_prices(bad(), excess=True)


def test_the_other_door_names_the_levels():
    with pytest.raises(PanelError, match=r"levels \['Price', 'Ticker'\].*from_prices"):
        characteristics_from_prices(download(FIELDS), excess=True)
    with pytest.raises(PanelError, match=r"`volume` must have one column per asset"):
        characteristics_from_prices(FIELDS["Close"], download(FIELDS), excess=True)
    for rule in ("ME", "QE", "W"):
        with pytest.raises(PanelError, match=r"a row for each trading day.*days apart.*from_wide"):
            characteristics_from_prices(FIELDS["Close"].resample(rule).last(), excess=True)
