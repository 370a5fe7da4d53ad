"""Checks of arguments: what passes, and how what does not is told."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import xarray as xr

from rvrae_pyro.errors import ConfigError, check_choice, check_number


@pytest.mark.parametrize(
    "value",
    [0.5, 1, np.float32(0.5), np.int64(1), Fraction(1, 2), np.array(0.5), torch.tensor(0.5)],
)
def test_every_kind_of_number_passes(value):
    assert check_number("x", value, "(0, 1]") == float(value)
    assert check_number("x", xr.DataArray(0.5), "[0.5, inf)") == 0.5


@pytest.mark.parametrize(
    ("value", "interval", "told"),
    [
        (0, "(0, 1]", "`x` must be in (0, 1]; got 0."),
        (1.5, "(0, 1]", "`x` must be in (0, 1]; got 1.5."),
        (1, "[0, 1)", "`x` must be in [0, 1); got 1."),
        (0.0, "(0, inf)", "`x` must be above 0; got 0.0."),
        (-1, "[0, inf)", "`x` must be at least 0; got -1."),
        (float("inf"), "[0, inf)", "`x` must be at least 0 and finite; got inf."),
        (float("nan"), "(0, inf)", "`x` must be above 0; got nan."),
        ("1", "(0, inf)", "`x` must be above 0; got '1'."),
        (True, "(0, inf)", "`x` must be above 0; got True."),
        (None, "(0, inf)", "`x` must be above 0; got None."),
        (np.ones(2), "(0, inf)", "`x` must be above 0; got array([1., 1.])."),
    ],
)
def test_what_is_wrong_is_told(value, interval, told):
    with pytest.raises(ConfigError) as caught:
        check_number("x", value, interval)
    assert str(caught.value) == told


def test_infinite_numbers_pass_where_they_are_asked_for():
    assert check_number("x", float("inf"), "(0, inf]") == float("inf")
    with pytest.raises(ConfigError, match=r"above 2; got 1\. Two is enough\."):
        check_number("x", 1, "(2, inf)", "Two is enough.")


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (("mean",), "`x` must be 'mean'; got "),
        ({"mean": 1, "sum": 2}, "`x` must be 'mean' or 'sum'; got "),
        (["a", "b", "c"], "`x` must be 'a', 'b' or 'c'; got "),
    ],
)
@pytest.mark.parametrize("value", ["max", "", None, 1, ["mean"]])
def test_a_name_that_is_none_of_the_choices_is_told(choices, told, value):
    choices = list(choices)
    check_choice("x", choices[-1], choices)
    with pytest.raises(ConfigError) as caught:
        check_choice("x", value, choices)
    assert str(caught.value) == f"{told}{value!r}."
