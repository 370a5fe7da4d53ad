"""Cuts in time order, by counts, fractions and dates."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from rvrae_pyro.data import load_french, split, walk_forward
from rvrae_pyro.data.splits import join_months
from rvrae_pyro.errors import ConfigError, PanelError
from tests.data.helpers import small_panel

PANEL = small_panel(20, 3, missing=0.0)


def _times(parts):
    return [p["time"].values for p in parts]


def _row(panel, k):
    return str(panel["time"].values[k])[:10]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))
def test_counts_end_at_the_last_row_and_follow_each_other(train, valid, test):
    parts = split(PANEL, train, valid, test)
    assert [p.sizes["time"] for p in parts] == [train, valid, test]
    np.testing.assert_array_equal(
        np.concatenate(_times(parts)), PANEL["time"].values[20 - train - valid - test :]
    )
    assert parts.valid is parts[1]


def test_live_rows_are_in_no_part():
    parts = split(load_french(), 180, 36, 36)
    assert parts.test["time"].values[-1] == np.datetime64("2017-03-31")
    assert [p.sizes["time"] for p in parts] == [180, 36, 36]


def test_fractions():
    parts = split(PANEL, 0.6, 0.2, 0.2)
    assert [p.sizes["time"] for p in parts] == [12, 4, 4]
    assert [p.sizes["time"] for p in split(PANEL, 0.5, 0.1, 0.1)] == [10, 2, 2]
    np.testing.assert_array_equal(
        split(PANEL, 0.5, 0.1, 0.1).test["time"].values, PANEL["time"].values[-2:]
    )


def test_last_dates_and_pairs():
    by_last = split(PANEL, _row(PANEL, 9), pd.Timestamp(_row(PANEL, 13)), _row(PANEL, 19)[:7])
    assert [p.sizes["time"] for p in by_last] == [10, 4, 6]
    by_pair = split(
        PANEL,
        (_row(PANEL, 0), _row(PANEL, 9)),
        slice(_row(PANEL, 10), pd.Period(_row(PANEL, 13), "M")),
        (_row(PANEL, 14), _row(PANEL, 19)),
    )
    for one, two in zip(by_last, by_pair, strict=True):
        assert one.identical(two)
    gap = split(
        PANEL,
        (_row(PANEL, 0), _row(PANEL, 9)),
        (_row(PANEL, 12), _row(PANEL, 13)),
        (_row(PANEL, 15), _row(PANEL, 19)),
    )
    assert [p.sizes["time"] for p in gap] == [10, 2, 5]


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ((15, 3, 3), PanelError, "ask for 21 rows; the panel has 20"),
        ((10, -1, 3), ConfigError, "`valid` must be at least 0"),
        ((0, 3, 3), ConfigError, "`train` must be at least 1"),
        ((0.6, 0.3, 0.3), ConfigError, r"add up to 1\.2;"),
        ((0.9, 0.01, 0.02), PanelError, r"`valid` = 0\.01 of 20 rows is less than one"),
        ((1.5, 0.1, 0.1), ConfigError, r"`train` must be in \(0, 1\)"),
        ((10, 0.2, 3), ConfigError, "must be of one kind"),
        ((True, 2, 3), ConfigError, "`train` must be a count"),
        ((10, None, 3), ConfigError, "`valid` must be a count"),
        (("2002-06", "2002-03", "2003-06"), PanelError, "`valid` holds no row"),
        (("2002-06", "2002-12", "2009-06"), PanelError, "`test` ends 2009-06-30; the panel ends"),
        (("soon", "2002-12", "2003-06"), ConfigError, "`train` must hold dates; got 'soon'"),
        (
            (("2001-11", "2002-06"), ("2002-05", "2002-12"), ("2003-01", "2003-06")),
            PanelError,
            "`valid` begins 2002-05-31 and overlaps",
        ),
        (
            (("1999-11", "2002-06"), ("2002-07", "2002-12"), ("2003-01", "2003-06")),
            PanelError,
            "begins 1999-11-30, before the panel",
        ),
    ],
)
def test_misuse(parts, error, match):
    with pytest.raises(error, match=match):
        split(PANEL, *parts)


def test_a_training_span_without_returns():
    panel = PANEL.copy(deep=True)
    panel["returns"][:8] = np.nan
    with pytest.raises(PanelError, match=r"`train` has no observed return between 2001-11-30"):
        split(panel, 8, 6, 6)


def test_walk_forward_covers_the_tests_once():
    splits = list(walk_forward(PANEL, 8, 3, 3))
    tests = np.concatenate([s.test["time"].values for s in splits])
    np.testing.assert_array_equal(tests, PANEL["time"].values[11:20])
    for cut in splits:
        assert [p.sizes["time"] for p in cut] == [8, 3, 3]
        assert cut.train["time"].values[-1] < cut.valid["time"].values[0]
        assert cut.valid["time"].values[-1] < cut.test["time"].values[0]
    assert splits[1].train["time"].values[0] == PANEL["time"].values[3]


def test_walk_forward_options():
    grown = list(walk_forward(PANEL, 8, 3, 3, expanding=True))
    assert [s.train.sizes["time"] for s in grown] == [8, 11, 14]
    assert len(list(walk_forward(PANEL, 8, 3, 3, 1))) == 7
    assert [s.test.sizes["time"] for s in walk_forward(PANEL, 8, 3, 4)] == [4, 4]
    assert [s.test.sizes["time"] for s in walk_forward(PANEL, 8, 3, 4, partial=True)] == [4, 4, 1]


def test_walk_forward_fails_at_once_not_at_the_first_cut():
    with pytest.raises(PanelError, match="need 30 rows; the panel has 20"):
        walk_forward(PANEL, 20, 5, 5)
    with pytest.raises(ConfigError, match="`step` must be at least 1"):
        walk_forward(PANEL, 8, 3, 3, 0)
    with pytest.raises(ConfigError, match=r"`train` must be a whole number of rows; got 0\.5"):
        walk_forward(PANEL, 0.5, 3, 3)


def test_no_validation():
    parts = split(PANEL, 10, 0, 5)
    assert [p.sizes["time"] for p in parts] == [10, 0, 5]
    np.testing.assert_array_equal(
        np.concatenate([parts.train["time"], parts.test["time"]]), PANEL["time"].values[5:20]
    )
    assert [[p.sizes["time"] for p in cut] for cut in walk_forward(PANEL, 8, 0, 6)] == [
        [8, 0, 6]
    ] * 2
    joined, n_train = join_months(parts.train, parts.valid)
    assert joined is parts.train
    assert n_train == 10


def test_join_puts_the_panel_together_again():
    train, valid, _ = split(PANEL, 8, 5, 7)
    joined, n_train = join_months(train, valid)
    assert n_train == 8
    xr.testing.assert_equal(joined, PANEL.isel(time=slice(13))[list(joined.data_vars)])


def test_join_keeps_assets_of_one_side_as_missing_on_the_other():
    train, valid, _ = split(PANEL, 8, 5, 7)
    first, last = PANEL["asset"].values[[0, -1]]
    joined, _ = join_months(train.drop_sel(asset=last), valid.drop_sel(asset=first))
    assert set(joined["asset"].values) == set(PANEL["asset"].values)
    assert joined["returns"].sel(asset=last).isel(time=slice(8)).isnull().all()
    np.testing.assert_array_equal(
        joined["returns"].sel(asset=last).isel(time=slice(8, None)),
        valid["returns"].sel(asset=last),
    )


def test_join_without_validation_months_is_train():
    assert join_months(PANEL, None) == (PANEL, 20)


def test_join_refuses_what_does_not_follow():
    train, valid, _ = split(PANEL, 8, 5, 7)
    with pytest.raises(PanelError, match=r"`valid` must follow `train` in time; it starts at"):
        join_months(valid, train)
    with pytest.raises(PanelError, match=r"`valid` must be a panel"):
        join_months(train, valid.to_array())
    with pytest.raises(PanelError, match=r"`valid` does not match .*; missing: 'c0'"):
        join_months(train, valid.isel(characteristic=slice(1, None)))
    reordered, _ = join_months(train, valid.isel(characteristic=slice(None, None, -1)))
    xr.testing.assert_identical(reordered, join_months(train, valid)[0])
