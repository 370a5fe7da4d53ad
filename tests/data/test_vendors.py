"""Published files of characteristics, generated in their exact layout."""

import zipfile

import numpy as np
import pandas as pd
import pytest

import rvrae_pyro as rv
from rvrae_pyro.data import check_panel, listed, read_jkp, read_openap
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.test_lookahead import market

IDS = ["id", "date", "eom", "source_crsp", "size_grp", "obs_main", "exch_main", "primary_sec"]
IDS += ["gvkey", "iid", "permno", "permco", "excntry", "curcd", "fx", "common", "comp_tpci"]
IDS += ["crsp_shrcd", "comp_exchg", "crsp_exchcd", "adjfct", "shares"]
MONEY = ["me", "me_company", "prc", "prc_local", "dolvol", "ret", "ret_local", "ret_exc"]
MONEY += ["ret_lag_dif", "ret_exc_lead1m", "market_equity", "enterprise_value", "book_equity"]
MONEY += ["assets", "sales", "net_income", "sic", "naics", "gics", "ff49"]
CHARACTERISTICS = ["at_gr1", "be_me", "ret_1_0", "ret_12_1", "beta_60m", "ivol_capm_252d", "age"]


def global_factor(n_times=20, n_assets=8, seed=0):
    """The layout of contrib.global_factor: one row an id and month, the return after it beside."""
    rng = np.random.default_rng(seed)
    months = pd.period_range("2001-01", periods=n_times, freq="M")
    shape = n_times, n_assets
    returns = 0.08 * rng.standard_normal(shape)
    value = np.exp(rng.normal(6, 1, n_assets) + np.log1p(np.clip(returns, -0.9, None)).cumsum(0))
    wide = {
        "date": np.repeat(
            [int((m.to_timestamp("M") - pd.offsets.BDay(0)).strftime("%Y%m%d")) for m in months],
            n_assets,
        ).reshape(shape),
        "eom": np.repeat(
            [int(m.strftime("%Y%m") + str(m.days_in_month)) for m in months], n_assets
        ),
        "id": np.tile(np.r_[np.arange(n_assets - 2) + 10001, 101234501, 105678901], n_times),
        "ret": returns + 0.001,
        "ret_exc": returns,
        "ret_exc_lead1m": np.vstack([returns[1:], np.full((1, n_assets), np.nan)]),
        "ret_1_0": returns,
        "me": value,
        "market_equity": value,
        "prc": value / 100,
    }
    table = pd.DataFrame({name: np.ravel(v) for name, v in wide.items()})
    for name in [*IDS, *MONEY, *CHARACTERISTICS]:
        if name not in table:
            table[name] = rng.standard_normal(len(table))
    for name in ("source_crsp", "obs_main", "exch_main", "primary_sec", "common", "ret_lag_dif"):
        table[name] = 1
    table["permno"] = table["id"].where(table["id"] < 10**6).astype(float)
    table["gvkey"] = (table["id"] % 1_000_000).map("{:06d}".format)
    table["iid"], table["curcd"], table["excntry"] = "01", "USD", "USA"
    table["size_grp"] = rng.choice(["mega", "large", "small", "micro", "nano"], len(table))
    table["ff49"] = table["id"] % 49 + 1.0
    table["sic"] = 3571.0
    table.loc[rng.random(len(table)) < 0.1, "be_me"] = np.nan
    return table[[*IDS, *MONEY, *CHARACTERISTICS]], returns


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("dates", [int, str, "datetime64[ns]"])
def test_jkp_rows_are_dated_by_their_return(tmp_path, suffix, dates):
    table, returns = global_factor()
    eom = pd.to_datetime(table["eom"].astype(str))
    table["eom"] = {int: table["eom"], str: eom.dt.strftime("%Y-%m-%d")}.get(dates, eom)
    path = tmp_path / f"usa{suffix}"
    table.to_parquet(path) if suffix == ".parquet" else table.to_csv(path, index=False)
    panel = read_jkp(path)
    check_panel(panel)
    # known at the end of 2001-01 .. 2002-08, for the returns of the months after
    assert (str(panel.time.values[0])[:7], str(panel.time.values[-1])[:7]) == ("2001-02", "2002-09")
    assert panel["asset"].values.tolist()[:2] == ["10001", "10002"]
    assert "101234501" in panel["asset"].values
    assert panel["characteristic"].values.tolist() == ["prc", "market_equity", *CHARACTERISTICS]
    ids = [str(v) for v in table["id"].unique()]
    here = panel.sel(asset=ids)
    np.testing.assert_allclose(here["returns"].values[:-1], returns[1:])
    assert here["returns"].isel(time=-1).isnull().all()
    past = here["characteristics"].sel(characteristic="ret_1_0")
    np.testing.assert_allclose(past, returns, rtol=1e-6)  # of the month before the row's
    np.testing.assert_allclose(here["weight"].values.ravel(), table["me"])
    assert panel.attrs["return_kind"] == "simple excess"
    assert panel["characteristics"].dtype == np.float32
    assert panel["excntry"].values.tolist() == ["USA"] * 8
    np.testing.assert_array_equal(here["ff49"], table["ff49"][:8])
    assert listed(panel).all()


def test_jkp_screens_countries_months_and_choice(tmp_path):
    table, _ = global_factor()
    table.loc[table["id"] == 10002, "obs_main"] = 0
    table.loc[table["id"] == 10003, "common"] = 0
    table.loc[table["id"] == 10004, "exch_main"] = 0
    table.loc[table["id"] == 105678901, "excntry"] = "NA"  # Namibia, among others
    path = tmp_path / "world.csv"
    table.to_csv(path, index=False)
    assert read_jkp(path).sizes["asset"] == 5
    assert read_jkp(path, screens=False).sizes["asset"] == 8
    assert read_jkp(path, countries=["NA"])["asset"].values.tolist() == ["105678901"]
    panel = read_jkp(
        path, countries=["USA"], characteristics=["be_me"], start="2001-06", end="2001"
    )
    assert panel["characteristic"].values.tolist() == ["be_me"]
    assert (str(panel.time.values[0])[:7], str(panel.time.values[-1])[:7]) == ("2001-06", "2001-12")
    assert panel["returns"].notnull().all()
    with pytest.raises(PanelError, match="no row that passes the screens"):
        read_jkp(path, countries=["DNK"])


def test_jkp_without_what_it_needs(tmp_path):
    table, _ = global_factor()
    path = tmp_path / "t.csv"
    table.drop(columns="ret_exc_lead1m").to_csv(path, index=False)
    with pytest.raises(PanelError, match=r"lacks the columns \['ret_exc_lead1m'\]"):
        read_jkp(path)
    table.drop(columns=["me", "ff49", "excntry"]).to_csv(path, index=False)
    panel = read_jkp(path)
    assert "weight" not in panel
    assert set(panel.coords) == {"time", "asset", "characteristic"}
    with pytest.raises(PanelError, match="no column 'excntry'"):
        read_jkp(path, countries=["USA"])
    spoilt = table.astype({"ret_exc_lead1m": str})
    spoilt.loc[3, "ret_exc_lead1m"] = "\u22120.04"
    spoilt.to_csv(path, index=False)
    with pytest.raises(PanelError, match=r"\(1 in all\).*typeset minus"):
        read_jkp(path)
    pd.concat([table, table.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(PanelError, match=r"repeated \(date, asset\): \(2001-02-28, 10001\)"):
        read_jkp(path)


SIGNALS = ["AM", "BMdec", "Mom12m", "Beta", "DivInit", "zerotrade1M"]


def signed_predictors(n_times=24, n_assets=9, seed=0):
    """The layout of signed_predictors_dl_wide.csv: permno, yyyymm, signals, many cells empty."""
    table = market(n_times + 1, n_assets, seed).rename(columns={"asset": "permno"})
    rng = np.random.default_rng(seed)
    out = table[["permno"]].assign(yyyymm=table["date"].dt.strftime("%Y%m").astype(int))
    for name in SIGNALS:
        out[name] = rng.standard_normal(len(out))
    out["DivInit"] = rng.integers(0, 2, len(out)).astype(float)
    out = out.mask(rng.random(out.shape) < [0, 0, *[0.4] * len(SIGNALS)])
    out = out.astype({"permno": int, "yyyymm": int}).sort_values(["permno", "yyyymm"])
    returns = table.set_index(["permno", "date"])["ret"]
    return out.reset_index(drop=True), returns


@pytest.mark.parametrize("suffix", [".csv", ".zip", ".parquet"])
def test_openap_signals_meet_the_return_of_the_month_after(tmp_path, suffix):
    table, returns = signed_predictors()
    path = tmp_path / f"signed_predictors_dl_wide{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("signed_predictors_dl_wide.csv", table.to_csv(index=False))
    else:
        table.to_csv(path, index=False)
    panel = read_openap(path, returns, excess=True)
    check_panel(panel)
    assert panel["characteristic"].values.tolist() == SIGNALS
    # signals of 2010-02 .. 2012-01 for returns of 2010-03 .. 2012-02, of which the last is live
    assert (str(panel.time.values[0])[:7], str(panel.time.values[-1])[:7]) == ("2010-03", "2012-02")
    assert panel["returns"].isel(time=-1).isnull().all()
    row = table[(table["permno"] == 10004) & (table["yyyymm"] == 201105)].iloc[0]
    cell = panel.sel(asset="10004", time="2011-06-30")
    np.testing.assert_allclose(cell["characteristics"], row[SIGNALS].astype(float), rtol=1e-6)
    assert float(cell["returns"]) == returns[10004, pd.Timestamp("2011-06-30")]
    assert panel["characteristics"].dtype == np.float32
    assert rv.data.rank_characteristics(panel).attrs["transform"] == "rank"


def test_openap_returns_of_other_forms(tmp_path):
    table, returns = signed_predictors()
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    expected = read_openap(path, returns, excess=True)
    other = returns.copy()  # float ids, any day of the month, letters for missing returns
    other.index = pd.MultiIndex.from_arrays(
        [
            returns.index.get_level_values(0).astype(float),
            returns.index.get_level_values(1).strftime("%Y%m").astype(int),
        ]
    )
    text = other.map(repr)
    text.iloc[40] = "C"
    panel = read_openap(path, text, excess=True)
    same = panel["returns"].notnull()
    assert int(expected["returns"].notnull().sum() - same.sum()) == 1
    np.testing.assert_array_equal(panel["returns"].where(same), expected["returns"].where(same))
    rate = pd.Series(0.002, pd.period_range("2010-01", periods=40, freq="M"))
    net = read_openap(path, returns, risk_free=rate)["returns"]
    np.testing.assert_allclose(net, expected["returns"] - 0.002)


def test_openap_choices_and_misuse(tmp_path):
    table, returns = signed_predictors()
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    panel = read_openap(
        path, returns, excess=True, characteristics=["BMdec", "AM"], start="2011-01", end="2011-06"
    )
    assert panel["characteristic"].values.tolist() == ["BMdec", "AM"]
    assert (str(panel.time.values[0])[:7], str(panel.time.values[-1])[:7]) == ("2011-01", "2011-06")
    assert panel["returns"].notnull().any("asset").all()
    with pytest.raises(PanelError, match="matches no row"):
        read_openap(path, returns.rename(index=lambda v: v + 500, level=0), excess=True)
    with pytest.raises(PanelError, match=r"Series indexed by \(asset, date\)"):
        read_openap(path, returns.droplevel(0), excess=True)
    with pytest.raises(PanelError, match=r"lacks the columns \['Size'\]"):
        read_openap(path, returns, characteristics=["Size"])
    with pytest.warns(RvraeWarning, match="nothing was subtracted"):
        read_openap(path, returns)
    percent = 100 * returns
    with pytest.raises(PanelError, match="look like percent"):
        read_openap(path, percent, excess=True)
