"""One rule for the ids of assets, whatever reader and dtype they come through."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rvrae_pyro.data import ColumnMap, from_frame, read_long, read_panel
from rvrae_pyro.data.ids import asset_ids
from rvrae_pyro.errors import PanelError
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
