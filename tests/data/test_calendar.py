"""Dates of every kind that tables have: the same month, or one clear error."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.data.calendar import date_spans, infer_frequency, period_ends
from rvrae_pyro.data.readers import ColumnMap, read_long

MONTHS = pd.period_range("2009-11", periods=6, freq="M")
ENDS = MONTHS.to_timestamp(how="end").normalize().as_unit("ns")
YYYYMM = np.array([200911, 200912, 201001, 201002, 201003, 201004])
YYYYMMDD = np.array([20091130, 20091231, 20100129, 20100226, 20100331, 20100430])

SAME_MONTHS = {
    "month ends": ENDS,
    "month starts": pd.date_range("2009-11-01", periods=6, freq="MS"),
    "business month ends": pd.date_range("2009-11-01", periods=6, freq="BME"),
    "business month starts": pd.date_range("2009-11-01", periods=6, freq="BMS"),
    "seconds": ENDS.as_unit("s"),
    "with a time of day": ENDS + pd.Timedelta("16h"),
    "with a time zone": ENDS.tz_localize("America/New_York"),
    "Periods": MONTHS,
    "objects of Periods": pd.Index(list(MONTHS), dtype=object),
    "categories of Periods": pd.Categorical(MONTHS),
    "datetime64[M]": np.arange("2009-11", "2010-05", dtype="datetime64[M]"),
    "dates": [day.date() for day in ENDS],
    "objects of Timestamps": pd.Index(list(ENDS), dtype=object),
    "arrow dates": pd.array([day.date() for day in ENDS], dtype="date32[pyarrow]"),
    "categories of dates": pd.Categorical(ENDS),
    **{f"YYYYMM as {dtype}": YYYYMM.astype(dtype) for dtype in ("int32", "uint32", "f4", "f8")},
    "YYYYMM as Int64": pd.array(YYYYMM, dtype="Int64"),
    "YYYYMM as Float64": pd.array(YYYYMM, dtype="Float64"),
    "YYYYMM as objects": YYYYMM.astype(object),
    "YYYYMM as objects of floats": YYYYMM.astype(float).astype(object),
    "YYYYMM as decimals": [decimal.Decimal(int(v)) for v in YYYYMM],
    "YYYYMM as categories": pd.Categorical(YYYYMM),
    "YYYYMM as text": YYYYMM.astype(str),
    "YYYYMM as text of floats": [f"{v}.0" for v in YYYYMM],
    "YYYYMM as categories of text": pd.Categorical(YYYYMM.astype(str)),
    "YYYYMM as arrow text": pd.array(YYYYMM.astype(str), dtype="string[pyarrow]"),
    "YYYYMMDD": YYYYMMDD,
    "YYYYMMDD as floats": YYYYMMDD.astype(float),
    "YYYYMMDD as objects": YYYYMMDD.astype(object),
    "YYYYMMDD as text": YYYYMMDD.astype(str),
    "YYYYMMDD as categories": pd.Categorical(YYYYMMDD),
    "ISO days": [str(day)[:10] for day in ENDS],
    "ISO times": [day.isoformat() for day in ENDS],
    "UTC": [day.isoformat() + "Z" for day in ENDS],
    "summer time": [f"{d:%Y-%m-%d} 00:00:00-0{4 + (d.month in (11, 12, 1, 2))}:00" for d in ENDS],
    "ISO months": [str(month) for month in MONTHS],
    "slashes": [f"{day:%Y/%m/%d}" for day in ENDS],
    "no leading zeros": [f"{day.year}-{day.month}-{day.day}" for day in ENDS],
    "month and year": [f"{day:%m/%Y}" for day in ENDS],
    "IMF": [f"{day:%YM%m}" for day in ENDS],
    "spaces around": [f" {day:%Y-%m-%d} " for day in ENDS],
    "several kinds": [200911, "2009-12", MONTHS[2], ENDS[3], "20100331", datetime.date(2010, 4, 1)],
}


def same(found):
    """Check for the ends of the six months, in nanoseconds."""
    assert found.dtype == "datetime64[ns]"
    assert (found == ENDS).all()


def table(dates, n_assets=3):
    rng = np.random.default_rng(0)
    rows = len(MONTHS) * n_assets
    each = pd.Series(dates) if not isinstance(dates, pd.Series) else dates
    frame = pd.DataFrame({"asset": np.tile(np.arange(n_assets) + 10001, len(MONTHS))})
    frame["ret"], frame["size"] = rng.normal(0, 0.05, rows), rng.lognormal(size=rows)
    return frame.assign(date=each.repeat(n_assets).reset_index(drop=True))


@pytest.mark.parametrize("kind", SAME_MONTHS)
def test_every_kind_of_date_is_the_month_it_names(kind):
    dates = SAME_MONTHS[kind]
    same(period_ends(dates, "monthly"))
    expected = rv.data.from_frame(table(ENDS), excess=True)
    # a Series of numpy months would become one of seconds: of a table only what it can hold
    if kind != "datetime64[M]":
        xr.testing.assert_identical(rv.data.from_frame(table(dates), excess=True), expected)


@pytest.mark.parametrize("kind", SAME_MONTHS)
def test_rates_have_any_kind_of_date_too(kind):
    index = SAME_MONTHS[kind]
    index = index if isinstance(index, pd.Index) else pd.Index(pd.Series(index))
    rate = pd.Series(np.linspace(0.001, 0.002, 6), index=index)
    panel = rv.data.from_frame(table(ENDS), risk_free=rate)
    np.testing.assert_array_equal(panel["risk_free"], rate.to_numpy())


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["01/31/2010"], "dayfirst=True or"),
        (pd.Categorical(["01/31/2010"]), "dayfirst=True or"),
        (["03.04.2010"], "dayfirst=True or"),
        (["31-Jan-2010"], "date_format="),
        (["10-01-31"], "date_format="),
        (["soon"], "date_format="),
        (["201013"], "month must be in"),
        ([201013], "month must be in"),
        ([20100230], "day is out of range"),
        (["2010-02-30"], "day is out of range"),
        (["2010-01-31 at noon"], "date_format="),
        (["2010.1"], "date_format="),
        ([2010], "YYYYMM or YYYYMMDD only; got 2010"),
        ([40179], "YYYYMM"),
        ([1262304000], "YYYYMM"),
        ([201001.5], "no whole number"),
        ([np.inf], "no whole number"),
        ([True], "no date"),
        ([101201], "years must be in"),
        (np.array([20100131], np.float32), "float32 cannot hold"),
        (["2010"], "2010-01-01 to 2010-12-31 is more than one month"),
        (pd.PeriodIndex(["2010"], freq="Y"), "more than one month"),
        (pd.PeriodIndex(["2010Q1"], freq="Q"), "more than one month"),
        (np.array(["2010"], "datetime64[Y]"), "more than one month"),
        (["2010Q1"], "more than one month"),
        (pd.to_timedelta([1], unit="D"), "no date"),
    ],
)
def test_what_names_no_month_raises(values, match):
    with pytest.raises(ValueError, match=match):
        period_ends(values, "monthly")


@pytest.mark.parametrize("value", [1j, object(), [200101]])
def test_objects_that_are_no_dates_raise(value):
    with pytest.raises(TypeError, match="no date"):
        period_ends([value], "monthly")


def test_text_with_the_day_or_the_month_first_is_read_as_told():
    american, european = ([f"{d:{form}}" for d in ENDS] for form in ("%m/%d/%Y", "%d.%m.%Y"))
    for dates, dayfirst in ((american, False), (european, True)):
        same(period_ends(dates, "monthly", dayfirst=dayfirst))
        panel = rv.data.from_frame(table(dates), excess=True, dayfirst=dayfirst)
        assert (panel["time"].values == ENDS.to_numpy()).all()
        with pytest.raises(rv.PanelError, match="column 'date' holds no dates"):
            rv.data.from_frame(table(dates), excess=True)
        # never one row as day first and the next as month first
        with pytest.raises(ValueError, match="month must be in"):
            period_ends(dates, "monthly", dayfirst=not dayfirst)
    # text with the year first means one thing, whatever is said of other text
    iso = [f"{day:%Y-%m-%d}" for day in ENDS]
    same(period_ends(iso, "monthly", dayfirst=True))


@pytest.mark.parametrize("form", ["%d-%b-%y", "%b %Y", "%B %d, %Y", "%y%m%d", "%m%d%Y"])
def test_text_of_a_format(form):
    dates = [f"{day:{form}}" for day in ENDS]
    same(period_ends(dates, "monthly", date_format=form))
    if form == "%m%d%Y":
        # numbers have lost their leading zeros
        numbers = np.array(dates).astype(int)
        same(period_ends(numbers, "monthly", date_format=form))
    with pytest.raises(ValueError, match="does not fit"):
        period_ends([*dates, "2010-04-30"], "monthly", date_format=form)


def test_files_take_formats_and_spans(tmp_path):
    path = tmp_path / "mine.csv"
    frame = table([f"{day:%m/%d/%Y}" for day in ENDS])
    frame.to_csv(path, index=False)
    columns = ColumnMap()
    expected = read_long(_written(tmp_path, table(ENDS)), columns, excess=True)
    for reading in ({"dayfirst": False}, {"date_format": "%m/%d/%Y"}):
        panel = read_long(path, columns, excess=True, **reading)
        xr.testing.assert_identical(panel["returns"], expected["returns"])
        # a bound coarser than a month is the whole of it
        for start in ("2010", np.datetime64("2010"), pd.Period("2010"), "2010-01", 201001):
            late = read_long(path, columns, excess=True, start=start, **reading)
            assert str(late["time"].values[0])[:10] == "2010-01-31"
        early = read_long(path, columns, excess=True, end="2009", **reading)
        assert str(early["time"].values[-1])[:10] == "2009-12-31"
    for other in (path, tmp_path / "mine.parquet"):
        if other.suffix == ".parquet":
            frame.to_parquet(other)
        with pytest.warns(rv.RvraeWarning, match="taken as excess"):
            panel = rv.data.read_panel(other, dayfirst=False)
        xr.testing.assert_equal(panel["time"], expected["time"])
        with pytest.raises(rv.PanelError, match="dayfirst"):
            rv.data.read_panel(other)
    with pytest.raises(rv.PanelError, match="dayfirst"):
        read_long(path, columns, excess=True)
    for wrong in ("201013", "soon", "01/02/2010", "2010-1-"):
        with pytest.raises(rv.ConfigError, match="`end` must be a month or a year"):
            read_long(path, columns, excess=True, end=wrong, dayfirst=False)


def _written(folder, frame):
    path = folder / "iso.csv"
    frame.to_csv(path, index=False)
    return path


def test_missing_dates_stay_missing():
    for values in (
        [201001, None, 201002],
        ["2010-01", "", "2010-02"],
        ["2010-01", "NaT", "2010-02"],
        pd.Categorical([201001, None, 201002]),
        pd.Categorical(pd.PeriodIndex(["2010-01", "NaT", "2010-02"], freq="M")),
        pd.Series([201001, np.nan, 201002]),
        pd.array([201001, None, 201002], dtype="Int64"),
    ):
        ends = period_ends(values, "monthly")
        assert ends.isna().tolist() == [False, True, False]
        assert ends[2] == pd.Timestamp("2010-02-28")


def test_a_month_is_no_week_and_no_day():
    for frequency, unit in (("weekly", "week"), ("daily", "day")):
        for values in ([201001], ["2010-01"], pd.period_range("2010-01", periods=1, freq="M")):
            with pytest.raises(ValueError, match=f"more than one {unit}"):
                period_ends(values, frequency)
    friday = pd.period_range("2010-01-02", periods=2, freq="W-FRI")
    assert period_ends(friday, "weekly").strftime("%m-%d").tolist() == ["01-10", "01-17"]
    assert period_ends([20100108], "daily")[0] == pd.Timestamp("2010-01-08")


def test_spans_of_bounds():
    def span(value, frequency="monthly"):
        first, last = date_spans(value, frequency)
        return f"{first[0]:%Y-%m-%d}", f"{last[0]:%Y-%m-%d}"

    for year in ("2010", np.datetime64("2010"), pd.Period("2010"), np.array("2010", "M8[Y]")):
        assert span(year) == ("2010-01-01", "2010-12-31")
    for month in ("2010-03", 201003, "20100315", pd.Timestamp("2010-03-01"), pd.Period("2010-03")):
        assert span(month) == ("2010-03-31", "2010-03-31")
    assert span("2010Q2") == ("2010-04-01", "2010-06-30")
    assert span("2010-03", "daily") == ("2010-03-01", "2010-03-31")
    assert span("2010-03-17", "weekly") == ("2010-03-21", "2010-03-21")
    with pytest.raises(ValueError, match="month must be in"):
        date_spans("201013", "monthly")


@pytest.mark.parametrize(
    ("freq", "expected"),
    [("ME", "monthly"), ("BME", "monthly"), ("MS", "monthly"), ("QE", "monthly"),
     ("W-FRI", "weekly"), ("B", "daily"), ("D", "daily")],
)  # fmt: skip
def test_the_frequency_of_dates(freq, expected):
    dates = pd.date_range("2010-01-01", periods=30, freq=freq)
    assert infer_frequency(dates[np.random.default_rng(0).permutation(30)]) == expected
    assert infer_frequency(dates[:1]) is None
