"""Pictures: round ticks, gaps where numbers are missing, nothing outside the axes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rvrae_pyro.report.html import number
from rvrae_pyro.report.svg import Plot, nice_ticks, years


@given(
    low=st.floats(-1e4, 1e4, allow_nan=False),
    width=st.floats(1e-3, 1e5, allow_nan=False),
    most=st.integers(2, 9),
)
def test_ticks_are_few_round_and_inside(low, width, most):
    ticks = nice_ticks(low, low + width, most)
    assert len(ticks) <= most
    slack = 1e-6 * width + 1e-12
    assert all(low - slack <= each <= low + width + slack for each in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        digits = step / 10 ** np.floor(np.log10(step) + 1e-9)
        assert min(abs(digits - k) for k in (1, 2, 5, 10)) < 1e-3


def test_missing_numbers_break_a_line():
    plot = Plot((0, 3), (0, 1))
    plot.line(np.arange(4.0), np.array([0.0, 1.0, np.nan, 0.5]), "own")
    drawn = re.search(r' d="([^"]+)"', plot.marks[0])[1]
    assert drawn.count("M") == 2
    assert "nan" not in drawn


def test_a_point_lies_where_it_should():
    plot = Plot((0, 10), (0, 2), height=250)
    plot.points(np.array([0.0, 10.0]), np.array([0.0, 2.0]), "dot")
    places = [tuple(map(float, re.findall(r'c[xy]="([\d.]+)"', mark))) for mark in plot.marks]
    assert places == [(50.0, 210.0), (448.0, 12.0)]


@pytest.mark.parametrize("ends", [(1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_axes_without_extent_are_widened(ends):
    drawn = Plot((0, 1), ends).svg("t", "d", "n")
    assert "nan" not in drawn
    assert drawn.count("<text") > 4


def test_titles_are_escaped():
    assert "<b>" not in Plot((0, 1), (0, 1)).svg("<b>", "<b>", "n")


def test_dates_become_decimal_years():
    dates = np.array(["2000-01-01", "2000-07-01", "2001-12-31"], dtype="datetime64[ns]")
    np.testing.assert_allclose(years(dates), [2000, 2000 + 182 / 366, 2001 + 364 / 365])


def test_numbers_read_as_numbers():
    assert number(-1234.567) == "−1,234.57"
    assert number(-0.001) == "0.00"
    assert number(0.001, sign=True) == "0.00"
    assert number(0.5, 1, sign=True) == "+0.5"
    assert number(float("nan")) == "–"
