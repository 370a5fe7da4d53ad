"""Ids, numbers and text of plain tables, and their files."""

import datetime
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rvrae_pyro.data import ColumnMap, from_frame, plain_tables, read_long, read_panel, readers
from rvrae_pyro.data.plain_tables import asset_ids
from rvrae_pyro.errors import PanelError, RvraeWarning
from tests.data.helpers import long_table

NUMBERS = pd.Series([10001, 10002, 93436])
DTYPES = ["int64", "int32", "uint32", "float64", "float32", "Int64", "Float64", "int64[pyarrow]"]
DTYPES += ["double[pyarrow]", "str", "object", "category", "string[pyarrow]"]


def test_every_dtype_of_whole_numbers_gives_the_same_ids():
    for dtype in DTYPES:
        assert asset_ids(NUMBERS.astype(dtype), "ids").tolist() == ["10001", "10002", "93436"]
    decimals = NUMBERS.astype(pd.ArrowDtype(pa.decimal128(20, 0)))
    assert asset_ids(decimals, "ids").tolist() == ["10001", "10002", "93436"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10001.0, "10001"),
        (np.float32(7.0), "7"),
        (Decimal("10001"), "10001"),
        (Decimal("10001.00"), "10001"),
        ("10001.0", "10001"),
        ("0017", "0017"),
        ("0017.00", "0017"),
        (" AAPL\t", "AAPL"),
        ("\ufeffAAPL", "AAPL"),
        (b"IBM", "IBM"),
        ("NA", "NA"),
        ("nan", "nan"),
        ("NULL", "NULL"),
        ("None", "None"),
        ("TRUE", "TRUE"),
        ("BRK.B", "BRK.B"),
        ("600000.SS", "600000.SS"),
        ("1E5", "1E5"),
        ("", None),
        ("   ", None),
        (None, None),
        (float("nan"), None),
        (pd.NA, None),
        (pd.NaT, None),
    ],
)
def test_single_ids(value, text):
    assert asset_ids(pd.Series(["x", value], dtype=object), "ids").tolist() == ["x", text]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (pd.Series([1.5, 2.0]), "1.5, a number with a fraction"),
        (pd.Series([Decimal("1.5")], dtype=object), "with a fraction"),
        (pd.Series([2.0**60]), "too large a float"),
        (pd.Series([123456789.0], dtype="float32"), "too large a float"),
        (pd.Series(pd.to_datetime(["2020-01-31"])), "holds dates"),
        (pd.Series(pd.period_range("2020-01", periods=2, freq="M")), "holds dates"),
        (pd.Series([datetime.date(2020, 1, 1)], dtype=object), "holds dates, such as 2020-01-01"),
        (pd.Series([["AAPL"], ["IBM"]]), "holds objects that are no ids"),
    ],
)
def test_what_cannot_be_an_id(values, match):
    with pytest.raises(PanelError, match=match):
        asset_ids(values, "column 'permno'")


def _readers(table, folder):
    """The ids that each way in gives a table."""
    ways = {"from_frame": from_frame(table, excess=True)}
    for suffix, write in ((".csv", "to_csv"), (".parquet", "to_parquet")):
        path = folder / f"t{suffix}"
        getattr(table, write)(path, index=False)
        with pytest.warns(match="nothing was subtracted"):
            ways[f"read_panel {suffix}"] = read_panel(path)
        ways[f"read_long {suffix}"] = read_long(path, excess=True)
        without = table.drop(columns="ret")
        getattr(without, write)(path, index=False)
        returns = table.set_index(["asset", "date"])["ret"]
        ways[f"returns= {suffix}"] = read_long(
            path, ColumnMap(returns=None), returns=returns, excess=True
        )
    return {name: panel["asset"].values.tolist() for name, panel in ways.items()}


@pytest.mark.parametrize("dtype", ["int64", "float64", "str", "object", "Int64", "category"])
def test_all_readers_agree_on_numbers(tmp_path, dtype):
    table = long_table()
    table["asset"] = (table["asset"].str[1:].astype(int) + 10001).astype(dtype)
    for name, ids in _readers(table, tmp_path).items():
        assert ids == ["10001", "10002", "10003", "10004"], name


def test_all_readers_agree_on_words_that_pandas_takes_for_missing(tmp_path):
    words = ["NA", "NULL", "TRUE", "nan"]
    table = long_table()
    table["asset"] = table["asset"].map(dict(zip(["s0", "s1", "s2", "s3"], words, strict=True)))
    for name, ids in _readers(table, tmp_path).items():
        assert ids == words, name


def test_one_asset_written_in_two_ways_is_one():
    table = long_table().astype({"asset": object})
    table.loc[::2, "asset"] = table.loc[::2, "asset"] + " "
    assert from_frame(table, excess=True).sizes["asset"] == 4
    numbers = table["asset"].str.strip().str[1:].astype(int) + 10001
    mixed = table.assign(asset=numbers.astype(object))
    mixed.loc[1::2, "asset"] = mixed.loc[1::2, "asset"].astype(float).astype(str)
    assert from_frame(mixed, excess=True)["asset"].values.tolist()[0] == "10001"
    assert from_frame(mixed, excess=True).sizes["asset"] == 4


def test_a_missing_id_is_reported_with_its_row():
    table = long_table().astype({"asset": object})
    table.loc[5, "asset"] = ""
    with pytest.raises(PanelError, match=r"'asset' is missing \(NaN or NaT\) in rows 5"):
        from_frame(table, excess=True)


def _write(table, path, **kwargs):
    write = table.to_parquet if path.suffix == ".parquet" else table.to_csv
    write(path, index=False, **kwargs)
    return path


def _read_both(path):
    """The panel of either reader, or the error that both raise."""
    panels, errors = [], []
    for read in (lambda p: read_long(p, excess=True), lambda p: _quiet(read_panel, p)):
        try:
            panels.append(read(path))
        except PanelError as error:
            errors.append(str(error))
    assert len(panels) in (0, 2), errors
    return panels or errors


def _quiet(read, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*nothing was subtracted")
        return read(path)


FORMS = {
    "typeset minus": (lambda v: f"{v:.6f}".replace("-", "\u2212"), "a typeset minus"),
    "en dash": (lambda v: f"{v:.6f}".replace("-", "\u2013"), "a typeset minus"),
    "brackets": (lambda v: f"({-v:.6f})" if v < 0 else f"{v:.6f}", "brackets for losses"),
    "per cent": (lambda v: f"{100 * v:.2f}%", "per cent signs"),
    "decimal comma": (lambda v: f"{v:.6f}".replace(".", ","), "commas; write 0.05"),
    "stray text": (lambda v: "n.a." if v < -0.05 else f"{v:.6f}", r"'n\.a\.'"),
    "currency": (lambda v: f"${v:.6f}", r"'\$"),
    "footnote": (lambda v: f"{v:.6f}*" if v < 0 else f"{v:.6f}", r"\*'"),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_returns_that_cannot_be_read_are_counted(tmp_path, form, suffix):
    write, match = FORMS[form]
    table = long_table()
    text = table["ret"].map(write)
    bad = int(pd.to_numeric(text, errors="coerce").isna().sum())
    path = _write(table.assign(ret=text), tmp_path / f"t{suffix}")
    for message in _read_both(path):
        assert "'ret' must be numeric" in message
        assert f"({bad} in all)" in message
    with pytest.raises(PanelError, match=match):
        read_long(path, excess=True)
    with pytest.raises(PanelError, match="'ret' must be numeric"):
        from_frame(table.assign(ret=text), excess=True)


@pytest.mark.parametrize("code", ["A", "B", "C", "D", "E", "P", "S", "T", ".B", ".C"])
def test_letters_of_crsp_are_missing_returns_in_every_file(tmp_path, code):
    table = long_table()
    text = table["ret"].astype(str)
    text.iloc[[1, 7]] = code
    for suffix in (".csv", ".parquet"):
        for panel in _read_both(_write(table.assign(ret=text), tmp_path / f"t{suffix}")):
            assert int(panel["returns"].isnull().sum()) == 2


@pytest.mark.parametrize("code", ["X", "R", "c", "-", "--", "?", "missing"])
def test_other_codes_are_reported(tmp_path, code):
    table = long_table()
    text = table["ret"].astype(str)
    text.iloc[[1, 7]] = code
    for message in _read_both(_write(table.assign(ret=text), tmp_path / "t.csv")):
        assert repr(code) in message
        assert "(2 in all)" in message


@pytest.mark.parametrize("mark", ["NA", ".", "NaN", "NULL", "#N/A", "n/a", "", " "])
def test_marks_of_missing_numbers(tmp_path, mark):
    table = long_table()
    expected = table.copy()
    text = table.astype({"ret": str, "mom": str})
    for name, row in (("ret", 3), ("mom", 5)):
        text.loc[row, name] = mark
        expected.loc[row, name] = np.nan
    for panel in _read_both(_write(text, tmp_path / "t.csv")):
        wanted = from_frame(expected, excess=True)
        np.testing.assert_allclose(panel["returns"], wanted["returns"])
        np.testing.assert_allclose(panel["characteristics"], wanted["characteristics"], rtol=1e-6)


def test_a_label_may_be_any_word(tmp_path):
    words = {"s0": "NA", "s1": "null", "s2": "nan", "s3": "None"}
    table = long_table().assign(country=lambda t: t["asset"].map(words))
    for suffix in (".csv", ".parquet"):
        for panel in _read_both(_write(table, tmp_path / f"t{suffix}")):
            assert panel["country"].values.tolist() == list(words.values())
    labelled = read_long(tmp_path / "t.csv", ColumnMap(label="country"), excess=True)
    assert labelled["country"].values.tolist() == list(words.values())


def test_a_characteristic_with_some_text_is_left_out_by_name(tmp_path):
    table = long_table()
    text = table["mom"].round(4).astype(str)
    text.iloc[[2, 9]] = ["1,234.5", "n.a."]
    path = _write(table.assign(mom=text), tmp_path / "t.csv")
    with pytest.warns(
        RvraeWarning, match=r"'mom' is left out: some of it is no number.*\(2 in all"
    ):
        panel = read_long(path, excess=True)
    assert panel["characteristic"].values.tolist() == ["size"]
    with pytest.raises(PanelError, match="'mom' must be numeric"):
        read_long(path, ColumnMap(characteristics=("mom",)), excess=True)


def test_pieces_of_a_large_file_agree_with_the_whole(tmp_path, monkeypatch):
    table = long_table(12, 4).assign(country="NA")
    table["mom"] = table["mom"].astype(str)
    table.loc[:20, "mom"] = "NA"  # nothing known in the first pieces
    path = _write(table, tmp_path / "t.csv")
    whole = read_long(path, excess=True)
    pieces = plain_tables.read_in_pieces

    def small(*args, **kwargs):
        return pieces(*args, **kwargs, rows=7)

    monkeypatch.setattr(readers, "read_in_pieces", small)
    assert read_long(path, excess=True).identical(whole)
    assert whole["country"].values.tolist() == ["NA"] * 4
    assert whole["characteristics"].dtype == np.float32


def test_dates_that_are_missing_are_reported(tmp_path):
    table = long_table().astype({"date": object})
    table.loc[[2, 5], "date"] = None
    path = _write(table, tmp_path / "t.csv")
    with pytest.raises(PanelError, match="'date' is missing in 2 rows"):
        read_long(path, excess=True)


def test_an_index_with_names_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    long_table().set_index(["date", "asset"]).to_parquet(path)
    for panel in _read_both(path):
        assert panel.sizes["asset"] == 4


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("date;asset;ret;size\n2010-01-31;a;0,1;1\n", "separated by ';'"),
        ("date\tasset\tret\tsize\n2010-01-31\ta\t0.1\t1\n", "separated by '.t'"),
        ("date,asset,ret,size,size\n2010-01-31,a,0.1,1,2\n", "repeated columns: size"),
        ("Price,Close,Close\nTicker,AAA,BBB\nDate,,\n2020-01-02,1,2\n", "from_prices"),
        ("date,asset,ret\n2010-01-31,a,0.1,1\n", "damaged or no table"),
        ("", "damaged"),
    ],
)
def test_headers_that_are_none_of_a_long_table(tmp_path, text, match):
    path = tmp_path / "t.csv"
    path.write_text(text)
    for message in _read_both(path):
        assert "t.csv" in message
    with pytest.raises(PanelError, match=match):
        read_long(path, excess=True)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252"])
def test_other_encodings_are_named(tmp_path, encoding):
    table = long_table().assign(name=lambda t: t["asset"] + " Zürich")
    path = _write(table, tmp_path / "t.csv", encoding=encoding)
    for message in _read_both(path):
        assert "UTF-8" in message


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = _write(long_table(), tmp_path / "t.csv", encoding="utf-8-sig")
    for panel in _read_both(path):
        assert panel["characteristic"].values.tolist() == ["size", "mom"]


def test_returns_beside_a_file_are_read_as_those_in_it(tmp_path):
    table = long_table()
    path = _write(table.drop(columns="ret"), tmp_path / "t.csv")
    returns = table.set_index(["asset", "date"])["ret"]
    columns = ColumnMap(returns=None)
    expected = read_long(path, columns, returns=returns, excess=True)
    text = returns.astype(str)
    text.iloc[[0, 4]] = ["C", "B"]
    panel = read_long(path, columns, returns=text, excess=True)
    assert int(panel["returns"].isnull().sum()) == 2
    np.testing.assert_array_equal(
        panel["returns"].where(panel["returns"].notnull(), expected["returns"]), expected["returns"]
    )
    text.iloc[2] = "\u22120.05"
    with pytest.raises(PanelError, match=r"`returns`: column 'ret'.*\(1 in all\).*typeset minus"):
        read_long(path, columns, returns=text, excess=True)
    with pytest.warns(RvraeWarning, match="a value for 8 of the 24 rows"):
        read_long(path, columns, returns=returns.iloc[:8], excess=True)


def test_a_return_counts_where_the_file_has_no_row_for_its_month(tmp_path):
    """What is known at the end of t meets the return of t + 1, with or without a row there."""
    table = long_table()
    known = table[~((table["asset"] == "s1") & (table["date"].dt.month == 4))]
    path = _write(known.drop(columns="ret"), tmp_path / "t.csv")
    returns = table.set_index(["asset", "date"])["ret"]
    panel = read_long(path, ColumnMap(returns=None, lag=1), returns=returns, excess=True)
    wanted = table[(table["asset"] == "s1") & (table["date"].dt.month == 4)]["ret"].item()
    cell = panel.sel(asset="s1", time="2010-04-30")
    assert float(cell["returns"]) == wanted
    size = table[(table["asset"] == "s1") & (table["date"].dt.month == 3)]["size"].item()
    assert float(cell["characteristics"].sel(characteristic="size")) == pytest.approx(
        size, rel=1e-6
    )
    assert panel["returns"].isel(time=-1).isnull().all()  # the live month


def test_the_rate_keeps_its_month_where_characteristics_move_on(tmp_path):
    table = long_table()
    table["rf"] = table["date"].dt.month / 10_000
    path = _write(table.drop(columns="ret"), tmp_path / "t.csv")
    returns = table.set_index(["asset", "date"])["ret"]
    columns = ColumnMap(returns=None, lag=1, risk_free="rf")
    panel = read_long(path, columns, returns=returns)
    february = panel.sel(time="2010-02-28")
    assert float(february["risk_free"]) == pytest.approx(0.0002)
    raw = table[table["date"].dt.month == 2].set_index("asset")["ret"]
    np.testing.assert_allclose(february["returns"], raw - 0.0002)
