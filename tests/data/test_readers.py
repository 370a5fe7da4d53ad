"""Files of other people's layout."""

import numpy as np
import pandas as pd
import pytest

import rvrae_pyro as rv
from rvrae_pyro.data import ColumnMap, load_sp500, read_gkx, read_long

RNG = np.random.default_rng(0)
NAMES = ["mvel1", "beta", *(f"c{k:02d}" for k in range(92))]  # 94, as in the published file


def datashare(n_times=5, permnos=(10001, 10002, 93436), *, with_returns=True):
    """A file of the exact layout: permno, DATE (last trading day, YYYYMMDD), RET, 94, sic2."""
    days = [19570329, 19570430, 19570531, 19570628, 19570731][:n_times]
    rows = []
    for day in days:
        for permno in permnos:
            values = RNG.normal(size=94)
            values[0] = RNG.uniform(1e4, 1e6)
            rows.append([permno, day, 0.01 * RNG.normal(), *values, float(permno % 90)])
    frame = pd.DataFrame(rows, columns=["permno", "DATE", "RET", *NAMES, "sic2"])
    frame.loc[frame.index[2], NAMES[5]] = np.nan
    return frame if with_returns else frame.drop(columns="RET")


def test_read_gkx_keeps_timing_and_values(tmp_path):
    frame = datashare()
    frame.to_csv(tmp_path / "datashare.csv", index=False)
    panel = read_gkx(tmp_path / "datashare.csv", excess=True)
    rv.data.check_panel(panel)
    assert dict(panel.sizes) == {"time": 5, "asset": 3, "characteristic": 94}
    assert panel["characteristic"].values.tolist() == NAMES  # sic2 is no characteristic
    assert str(panel["time"].values[0])[:10] == "1957-03-31"
    # a row's characteristics are lagged by the authors: they stand beside the month's return
    row = frame[(frame["permno"] == 10002) & (frame["DATE"] == 19570531)].iloc[0]
    cell = panel.sel(asset="10002", time="1957-05-31")
    assert float(cell["returns"]) == pytest.approx(row["RET"])
    np.testing.assert_allclose(cell["characteristics"], row[NAMES].astype(float), rtol=1e-6)
    assert float(cell["weight"]) == pytest.approx(row["mvel1"], rel=1e-6)
    assert panel["characteristics"].dtype == np.float32
    assert float(panel["sic2"].sel(asset="93436")) == 93436 % 90
    hole = panel["characteristics"].isel(time=0).sel(asset="93436", characteristic=NAMES[5])
    assert np.isnan(hole)
    assert rv.data.rank_characteristics(panel)["characteristics"].notnull().all()


def test_read_gkx_chooses_months_and_characteristics(tmp_path):
    datashare().to_parquet(tmp_path / "datashare.parquet")
    panel = read_gkx(
        tmp_path / "datashare.parquet",
        excess=True,
        characteristics=("beta", "c03"),
        start="1957-04",
        end="1957-06",
    )
    assert panel["characteristic"].values.tolist() == ["beta", "c03"]
    assert [str(t)[:7] for t in panel["time"].values] == ["1957-04", "1957-05", "1957-06"]
    assert panel["weight"].dims == ("time", "asset")  # whatever characteristics were chosen


def test_read_gkx_without_returns_takes_yours(tmp_path):
    frame = datashare(with_returns=False)
    frame.to_csv(tmp_path / "datashare.csv", index=False)
    with pytest.raises(rv.PanelError, match=r"has no returns\. Pass returns="):
        read_gkx(tmp_path / "datashare.csv", excess=True)
    # the first of the month: only the month counts
    dates = pd.to_datetime(frame["DATE"].astype(str)).dt.to_period("M").dt.to_timestamp()
    index = pd.MultiIndex.from_arrays([frame["permno"], dates])
    mine = pd.Series(0.001 * np.arange(len(frame)), index=index).iloc[:-1]
    panel = read_gkx(tmp_path / "datashare.csv", returns=mine, excess=True)
    assert float(panel["returns"].sel(asset="10002", time="1957-03-31")) == pytest.approx(0.001)
    assert np.isnan(panel["returns"].values[-1, -1])  # the live row
    strangers = index.set_levels(index.levels[0] + 7, level=0)[:-1]
    other = pd.Series(mine.to_numpy(), index=strangers)
    with pytest.raises(rv.PanelError, match="matches no row"):
        read_gkx(tmp_path / "datashare.csv", returns=other, excess=True)
    with pytest.raises(rv.PanelError, match=r"indexed by \(asset, date\)"):
        read_gkx(tmp_path / "datashare.csv", returns=mine.droplevel(0), excess=True)
    with pytest.raises(rv.PanelError, match="several values for one asset"):
        read_gkx(tmp_path / "datashare.csv", returns=pd.concat([mine, mine]), excess=True)


def test_letters_in_the_returns_are_missing(tmp_path):
    frame = datashare().astype({"RET": object})
    frame.loc[0, "RET"] = "C"
    frame.to_csv(tmp_path / "datashare.csv", index=False)
    panel = read_gkx(tmp_path / "datashare.csv", excess=True)
    assert np.isnan(panel["returns"].values[0, 0])
    assert int(panel["returns"].isnull().sum()) == 1


def test_a_column_map_reads_other_names(tmp_path):
    table = pd.DataFrame(
        {
            "month": ["2020-01-31", "2020-02-29", "2020-03-31"] * 2,
            "isin": ["007"] * 3 + ["AB1"] * 3,
            "r": [0.01, 0.02, -0.01, 0.0, 0.01, 0.02],
            "value": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "noise": range(6),
            "rf": [0.001] * 6,
        }
    )
    table.to_csv(tmp_path / "own.csv", index=False)
    columns = ColumnMap("month", "isin", "r", drop=("noise",), risk_free="rf", lag=1)
    panel = read_long(tmp_path / "own.csv", columns)
    assert panel["asset"].values.tolist() == ["007", "AB1"]  # leading zeros stay
    assert panel["characteristic"].values.tolist() == ["value"]
    assert panel.sizes["time"] == 4  # lag 1 appends the live month
    assert float(panel["returns"].sel(asset="007").isel(time=1)) == pytest.approx(0.019)
    assert panel["characteristics"].sel(asset="AB1").isel(time=1).item() == 4.0


def test_misuse(tmp_path):
    with pytest.raises(rv.PanelError, match="it is missing"):
        read_gkx(tmp_path / "absent.csv")
    pd.DataFrame({"a": [1], "b": [2]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(rv.PanelError, match=r"lacks the columns \['DATE', 'permno'\]"):
        read_gkx(tmp_path / "other.csv")
    (tmp_path / "broken.parquet").write_bytes(b"not a parquet file")
    with pytest.raises(rv.PanelError, match="damaged or no table"):
        read_long(tmp_path / "broken.parquet")
    datashare().to_csv(tmp_path / "datashare.csv", index=False)
    with pytest.raises(rv.PanelError, match="no row between the requested months"):
        read_gkx(tmp_path / "datashare.csv", start="1990-01")
    with pytest.raises(rv.ConfigError, match="`start` must be a month or a year"):
        read_gkx(tmp_path / "datashare.csv", start="soon")


def test_sp500():
    pytest.importorskip("skfolio", reason="the extra 'stocks' is not installed")
    panel = load_sp500()
    rv.data.check_panel(panel)
    assert panel.sizes["asset"] == 20
    assert (str(panel.time.values[0])[:7], str(panel.time.values[-1])[:7]) == ("1990-02", "2023-01")
    assert panel["returns"].isel(time=-1).isnull().all()
    assert panel["returns"].isel(time=slice(-1)).notnull().all()
    assert panel.attrs["return_kind"] == "simple, taken as excess"
    panel["returns"][0, 0] = 9.0  # a copy of its own
    assert float(load_sp500()["returns"][0, 0]) != 9.0


def test_sp500_without_skfolio(monkeypatch):
    import importlib.util

    from rvrae_pyro.data import datasets

    datasets._sp500.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(rv.PanelError, match=r"pip install 'rvrae-pyro\[stocks\]'"):
        load_sp500()


def _table():
    months = ["2000-01", "2000-02", "2000-03"]
    rows = [
        (month, asset, 0.01, k + 1.0, industry)
        for k, month in enumerate(months)
        for asset, industry in (("a", f"tech {k}"), ("b", "oil"))
    ]
    return pd.DataFrame(rows, columns=["date", "asset", "ret", "size", "industry"])


def test_labels_may_be_words_and_are_the_last_ones_in_time(tmp_path):
    columns = ColumnMap(label="industry")
    for name, table in (("a", _table()), ("b", _table()[::-1])):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        panel = read_long(tmp_path / f"{name}.csv", columns, excess=True)
        assert panel["industry"].values.tolist() == ["tech 2", "oil"]


def test_dates_are_read_as_everywhere(tmp_path):
    table = _table().drop(columns="industry")
    table["date"] = table["date"].str.replace("-", "").astype(int)
    table.to_csv(tmp_path / "t.csv", index=False)
    panel = read_long(tmp_path / "t.csv", excess=True)
    assert str(panel.time.values[-1])[:10] == "2000-03-31"
    table["date"] = 17
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(rv.PanelError, match=r"column 'date' of .* cannot be read"):
        read_long(tmp_path / "t.csv", excess=True)
    table = _table().drop(columns=["industry", "ret"])
    table.to_csv(tmp_path / "t.csv", index=False)
    index = pd.MultiIndex.from_arrays([["a", "b"], ["soon", "later"]])
    with pytest.raises(rv.PanelError, match="index of `returns` holds dates that cannot be read"):
        read_long(tmp_path / "t.csv", ColumnMap(returns=None), returns=pd.Series([1.0, 2.0], index))
