"""Downloads of prices, as yfinance gives them and as dicts, to one panel or one clear error."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.data import characteristics_from_prices, from_prices
from rvrae_pyro.errors import PanelError, RvraeWarning

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
