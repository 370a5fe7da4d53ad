"""Rows of a calendar, picked by dates of any kind."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.data.timeline import in_time_order, labels_like, pick_rows

MONTHS = pd.date_range("2009-11-30", periods=30, freq="ME", unit="ns")
DAYS = pd.bdate_range("2010-01-04", "2010-12-30")
FRIDAYS = pd.date_range("2010-01-01", periods=60, freq="W-FRI")


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        (None, range(30)),
        ("2010-03", [4]),
        ("2010-03-15", [4]),
        ("201003", [4]),
        (201003, [4]),
        (np.int64(20100301), [4]),
        (np.datetime64("2010-03"), [4]),
        (np.datetime64("2010-03-31"), [4]),
        (pd.Timestamp("2010-03-31"), [4]),
        (pd.Period("2010-03"), [4]),
        (xr.DataArray(np.datetime64("2010-03-31", "ns")), [4]),
        ("2010", range(2, 14)),
        (np.datetime64("2010"), range(2, 14)),
        (pd.Period("2010Q1"), [2, 3, 4]),
        ("2010Q1", [2, 3, 4]),
        (["2010-03", "2010-01", 201003], [2, 4]),
        (("2010-03", "2010-01"), [2, 4]),
        (MONTHS[[5, 2]], [2, 5]),
        (MONTHS[[5, 2]].to_numpy(), [2, 5]),
        (MONTHS[[5, 2]].to_period("M"), [2, 5]),
        (xr.DataArray(MONTHS[[5, 2]].to_numpy()), [2, 5]),
        (slice("2010", "2010"), range(2, 14)),
        (slice("2009", "2010-02"), range(4)),
        (slice(None, "2009"), range(2)),
        (slice("2012", None), range(26, 30)),
        (slice(201001, 201003), [2, 3, 4]),
        (slice(pd.Period("2010-01"), np.datetime64("2010-03-05")), [2, 3, 4]),
        (slice("1950", "2050"), range(30)),
        (slice("2010", "2010", 3), [2, 5, 8, 11]),
    ],
)
def test_rows_of_months(wanted, rows):
    assert pick_rows(MONTHS, wanted).tolist() == list(rows)


@pytest.mark.parametrize(
    "wanted",
    ["201013", "2031", "2010-13", "soon", "03/04/2010", ["2010-03", "2031-03"], [], [None],
     slice("2031", None), slice("soon", None), slice(0, 5), 5, True, np.array([True] * 30), 1.5,
     pd.NaT, ["2010-03", pd.NaT]],
)  # fmt: skip
def test_what_names_no_row_is_an_error(wanted):
    match = r"`times` must name months of the panel, 2009-11-30 to 2012-04-30; got "
    with pytest.raises(rv.ConfigError, match=match):
        pick_rows(MONTHS, wanted)


def test_rows_of_weeks_and_days():
    assert pick_rows(DAYS, "2010-03").tolist() == [
        k for k, day in enumerate(DAYS) if day.month == 3
    ]
    assert len(pick_rows(DAYS, "2010")) == len(DAYS)
    assert pick_rows(DAYS, "2010-01-05").tolist() == [1]
    with pytest.raises(rv.ConfigError, match="`times` must name months"):
        pick_rows(DAYS, "2010-01-09")  # a Saturday
    assert pick_rows(DAYS, slice("2010-01-09", "2010-01-12")).tolist() == [5, 6]
    # any day of the week is its Friday's
    assert pick_rows(FRIDAYS, "2010-01-06").tolist() == [1]
    assert pick_rows(FRIDAYS, slice("2010-01-04", "2010-01-17")).tolist() == [1, 2]


def test_order():
    values = xr.Dataset({"x": ("time", np.arange(30.0))}, {"time": MONTHS})
    shuffled = values.isel(time=np.random.default_rng(0).permutation(30))
    xr.testing.assert_identical(in_time_order(shuffled, "x"), values)
    assert in_time_order(values, "x") is values
    bare = values.drop_vars("time")
    assert in_time_order(bare, "x") is bare


def test_labels_are_written_as_the_reference_writes_them():
    business = pd.date_range("2009-11-01", periods=31, freq="BME")
    found = labels_like(business, MONTHS, "mine", "theirs")
    assert (found[:30] == MONTHS).all()
    assert found[30] == pd.Timestamp("2012-05-31")


def test_splits_take_dates_of_any_kind():
    panel = rv.data.simulate_linear_gaussian(5, 48, 1)
    first = int(str(panel.time.values[0])[:4])
    years = [str(first + k) for k in range(4)]
    expected = rv.data.split(panel, 24, 12, 12)
    kinds = (
        years,
        [np.datetime64(year) for year in years],
        [pd.Period(year) for year in years],
        [f"{year}-12" for year in years],
        [f"{year}12" for year in years],
        [f"{year}1231" for year in years],
        [pd.Timestamp(f"{year}-12-01") for year in years],
    )
    for kind in kinds:
        found = rv.data.split(panel, *kind[1:])
        for one, other in zip(found, expected, strict=True):
            assert one.identical(other)
    pairs = [(years[0], years[1]), (years[2], years[2]), (f"{years[3]}-01", years[3])]
    for one, other in zip(rv.data.split(panel, *pairs), expected, strict=True):
        assert one.identical(other)
    numbers = [(100 * first + 1, 100 * first + 112), (f"{years[2]}01", years[2]), (years[3],) * 2]
    assert rv.data.split(panel, *numbers).train.identical(expected.train)
    for wrong, match in (
        (f"{first + 1}13", "month must be in"),
        ("soon", "no date"),
        ("12/31/2001", "dayfirst"),
    ):
        with pytest.raises(rv.ConfigError, match=match):
            rv.data.split(panel, wrong, years[2], years[3])
    # a year of which the panel has a part only is no year of it
    with pytest.raises(rv.PanelError, match=r"begins .*, before the panel"):
        rv.data.split(panel.isel(time=slice(2, None)), *pairs)
    with pytest.raises(rv.PanelError, match="the panel ends"):
        rv.data.split(panel.isel(time=slice(0, 45)), *pairs)


@pytest.mark.parametrize(("frequency", "dates"), [("daily", DAYS), ("weekly", FRIDAYS[:52])])
def test_splits_of_days_and_weeks_by_months(frequency, dates):
    whole = rv.data.simulate_linear_gaussian(5, len(dates), 1)
    panel = whole.assign_coords(time=dates).assign_attrs(frequency=frequency)
    cut = rv.data.split(
        panel, ("2010-01", "2010-06"), ("2010-07", "2010-09"), ("2010-10", "2010-12")
    )
    months = [set(pd.DatetimeIndex(part.time.values).month) for part in cut]
    if frequency == "daily":
        assert months == [set(range(1, 7)), {7, 8, 9}, {10, 11, 12}]
        assert sum(part.sizes["time"] for part in cut) == len(dates)
    else:
        # the week of Friday 1 January is dated by its Sunday
        assert sum(part.sizes["time"] for part in cut) >= 50
