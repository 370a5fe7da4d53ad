"""Scores do not depend on the order of months, nor on the day of the month that dates them."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro import evaluation as ev
from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError

T, N = 60, 12
CALENDAR = pd.date_range("2010-01-31", periods=T, freq="ME", unit="ns")
ASSETS = [f"s{i:02d}" for i in range(N)]

# every way to date the same months
DATES = {
    "calendar ends": CALENDAR,
    "business ends": pd.date_range("2010-01-01", periods=T, freq="BME"),
    "month starts": pd.date_range("2010-01-01", periods=T, freq="MS"),
    "business starts": pd.date_range("2010-01-01", periods=T, freq="BMS"),
    "Periods": pd.period_range("2010-01", periods=T, freq="M"),
    "YYYYMM": np.array(CALENDAR.strftime("%Y%m")).astype(int),
    "YYYYMM as floats": np.array(CALENDAR.strftime("%Y%m")).astype(float),
    "objects of YYYYMM": np.array(CALENDAR.strftime("%Y%m")).astype(int).astype(object),
    "text": np.array(CALENDAR.strftime("%Y-%m")).astype(str),
    "objects of Timestamps": np.array(list(CALENDAR), dtype=object),
    "mid-month": CALENDAR - pd.Timedelta(days=14),
}


def inputs(seed=0):
    """Returns with memory over months, a forecast, draws, weights and factors."""
    rng = np.random.default_rng(seed)
    common = np.zeros(T)
    for t in range(1, T):
        common[t] = 0.7 * common[t - 1] + rng.normal(0, 0.02)
    cells, rows = {"time": CALENDAR, "asset": ASSETS}, {"time": CALENDAR}
    returns = xr.DataArray(
        rng.normal(0, 0.05, (T, N)) + common[:, None], cells, ("time", "asset"), name="returns"
    )
    forecast = returns.copy(data=0.2 * returns.values + rng.normal(0, 0.05, (T, N)))
    # one month is foreseen far better than others, so that losing months shows
    forecast[::7] = 0.9 * returns[::7].values
    sizes = {"chain": [0], "draw": np.arange(40)}
    draws = xr.DataArray(
        0.2 * returns.values + rng.normal(0, 0.05, (1, 40, T, N)), {**sizes, **cells},
        ("chain", "draw", "time", "asset"),
    )  # fmt: skip
    return {
        "returns": returns,
        "forecast": forecast,
        "draws": draws,
        "weight": returns.copy(data=rng.lognormal(size=(T, N))),
        "series": xr.DataArray(common + 0.01, rows, ("time",)),
        "other": xr.DataArray(0.5 * common + rng.normal(0, 0.01, T), rows, ("time",)),
        "factors": xr.DataArray(
            rng.normal(0, 0.04, (T, 2)), {**rows, "factor": ["a", "b"]}, ("time", "factor")
        ),
        "losses": xr.DataArray(
            rng.normal(size=(T, 3)) + common[:, None] * [10, 20, 30],
            {**rows, "model": list("xyz")}, ("time", "model"),
        ),
    }  # fmt: skip


def long(values, by="obs"):
    """List the cells along ``obs``, in an order of their own."""
    values = values.sortby("time").transpose(..., "time", "asset")
    time = np.repeat(values.indexes["time"].to_numpy(), N)
    asset = np.tile(values["asset"].values, T)
    order = np.random.default_rng(5).permutation(T * N)
    flat = values.values.reshape(*values.shape[:-2], -1)[..., order]
    coords = {"time": (by, time[order]), "asset": (by, asset[order])}
    return xr.DataArray(flat, coords, (*values.dims[:-2], by))


# name: what is computed, and the arrays that a join has
SCORES = {
    "hac": lambda x: ev.hac_standard_error(x["series"]),
    "sharpe": lambda x: ev.sharpe_ratio(x["series"], standard_error=True),
    "sharpe normal": lambda x: ev.sharpe_ratio(x["series"], standard_error="normal"),
    "total r2": lambda x: ev.total_r2(x["returns"], x["forecast"], standard_error=True),
    "predictive r2": lambda x: ev.predictive_r2(x["returns"], x["forecast"], standard_error=True),
    "r2 by month": lambda x: ev.predictive_r2(x["returns"], x["forecast"], per="month"),
    "r2 of draws": lambda x: ev.predictive_r2(x["returns"], x["draws"], standard_error=True),
    "rank ic": lambda x: ev.rank_ic(x["returns"], x["forecast"]),
    "rank ic se": lambda x: ev.rank_ic(x["returns"], x["forecast"], standard_error=True),
    "rank icir": lambda x: ev.rank_icir(x["returns"], x["forecast"], standard_error=True),
    "crps": lambda x: ev.crps(x["returns"], x["draws"], standard_error=True),
    "crps by cell": lambda x: ev.crps(x["returns"], x["draws"], per="cell"),
    "crps normal": lambda x: ev.crps_normal(
        x["returns"], x["forecast"], 0.05, standard_error=True
    ),
    "crps t": lambda x: ev.crps_student_t(
        x["returns"], 5.0, x["forecast"], 0.05, standard_error=True
    ),
    "coverage": lambda x: ev.coverage(x["returns"], x["draws"], 0.8, standard_error=True),
    "pit": lambda x: ev.pit(x["returns"], x["draws"]),
    "long forms": lambda x: ev.total_r2(
        long(x["returns"]), long(x["forecast"]), standard_error=True
    ),
    "long and wide": lambda x: ev.total_r2(
        x["returns"], long(x["forecast"]), standard_error=True
    ),
    "wide and long": lambda x: ev.rank_icir(
        long(x["returns"]), x["forecast"], standard_error=True
    ),
    "diebold mariano": lambda x: ev.diebold_mariano(x["series"], x["other"]),
    "diebold mariano of cells": lambda x: ev.diebold_mariano(
        x["returns"] ** 2, x["forecast"] ** 2
    ),
    "confidence set": lambda x: ev.model_confidence_set(x["losses"], num_samples=50),
    "fama macbeth": lambda x: ev.fama_macbeth(x["returns"], x["forecast"]),
    "grs": lambda x: ev.grs(x["returns"].isel(asset=slice(0, 4)), x["factors"]),
    "long short": lambda x: ev.long_short(x["forecast"], x["returns"], cost=0.003),
    "long short weighted": lambda x: ev.long_short(
        x["forecast"], x["returns"], 0.25, weight=x["weight"]
    ),
    "market": lambda x: ev.market_statistics(x["returns"]),
    "market long": lambda x: ev.market_statistics(long(x["returns"])),
    "prevailing mean": lambda x: ev.prevailing_mean(x["factors"]),
    "profile": lambda x: ev.factor_profile(
        x["factors"],
        x["losses"].rename(model="characteristic"),
        x["factors"].rename(factor="known_factor"),
    ),
    "compare": lambda x: ev.compare({"a": x["series"], "b": x["other"]}),
    "compare by bootstrap": lambda x: ev.compare(
        {"a": x["series"], "b": x["other"]}, error="bootstrap", num_samples=20
    ),
}  # fmt: skip


def without_time(result):
    return result.drop_vars("time", errors="ignore")


@pytest.mark.parametrize("name", SCORES)
def test_shuffled_months_give_the_figures_of_sorted_ones(name):
    if name == "confidence set":
        pytest.importorskip("arch")
    given = inputs()
    rng = np.random.default_rng(1)
    expected = SCORES[name](given)
    # all in one other order, then each in an order of its own
    together = rng.permutation(T)
    for orders in (dict.fromkeys(given, together), {key: rng.permutation(T) for key in given}):
        shuffled = {key: each.isel(time=orders[key]) for key, each in given.items()}
        found = SCORES[name](shuffled)
        if "obs" in expected.dims:
            continue
        xr.testing.assert_allclose(found, expected, rtol=1e-9)


# every kind of date for some scores, two kinds for all
DATED = [
    (name, kind)
    for name in SCORES
    for kind in DATES
    if name in ("hac", "total r2", "diebold mariano", "long and wide", "profile")
    or kind in ("business ends", "objects of YYYYMM")
]


@pytest.mark.parametrize(("name", "kind"), DATED)
def test_any_day_of_the_month_dates_it(name, kind):
    if name == "confidence set":
        pytest.importorskip("arch")
    given = inputs()
    # an array about once in two has the other dates, so that joins meet both
    dated = {
        key: each.assign_coords(time=("time", DATES[kind]))
        if key in ("forecast", "draws", "other", "factors", "weight")
        else each
        for key, each in given.items()
    }
    xr.testing.assert_allclose(
        without_time(SCORES[name](dated)), without_time(SCORES[name](given)), rtol=1e-9
    )


JOINS = {
    "total r2": lambda a, b: ev.total_r2(a, b),
    "rank ic": lambda a, b: ev.rank_ic(a, b),
    "crps normal": lambda a, b: ev.crps_normal(a, b, 0.1),
    "diebold mariano": lambda a, b: ev.diebold_mariano(a, b),
    "fama macbeth": lambda a, b: ev.fama_macbeth(a, b),
    "long short": lambda a, b: ev.long_short(b, a),
    "weights": lambda a, b: ev.long_short(a, a, weight=abs(b)),
    "grs": lambda a, b: ev.grs(
        a.isel(asset=slice(0, 3)), b.isel(asset=slice(3, 5)).rename(asset="factor")
    ),
    "compare": lambda a, b: ev.compare({"a": a.mean("asset"), "b": b.mean("asset")}),
}


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize(
    ("rows", "lost"),
    [
        ((slice(0, 50), slice(0, 60)), {"10 of 60"}),
        ((slice(0, 60), slice(20, 60)), {"20 of 60"}),
        ((slice(0, 50), slice(10, 60)), {"10 of 50"}),
        ((slice(0, 60, 2), slice(0, 45)), {"7 of 30", "22 of 45"}),
    ],
)
@pytest.mark.parametrize("kind", ["calendar ends", "business ends"])
def test_months_that_only_one_has_are_counted(name, rows, lost, kind):
    given = inputs()
    first = given["returns"].isel(time=rows[0])
    second = given["forecast"].assign_coords(time=("time", DATES[kind])).isel(time=rows[1])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        JOINS[name](first, second)
    texts = " ".join(str(each.message) for each in seen)
    assert all(isinstance(each.message, RvraeWarning) for each in seen)
    assert all(f"{count} rows of" in texts for count in lost)
    # at the line that called, not inside the package
    assert {each.filename for each in seen} == {__file__}


@pytest.mark.parametrize("name", JOINS)
def test_no_month_in_common_is_an_error(name):
    given = inputs()
    early, late = (
        given["returns"].isel(time=slice(0, 30)),
        given["forecast"].isel(time=slice(30, 60)),
    )
    with pytest.raises(ShapeError, match=r"no label in common|share two scored months"):
        JOINS[name](early, late)
    days = early.assign_coords(time=pd.bdate_range("2011-01-03", periods=30))
    with pytest.raises(ShapeError, match=r"one frequency|no label in common"):
        JOINS[name](days, late.assign_coords(time=late["time"] - np.timedelta64(1, "D")))


def test_a_month_without_numbers_is_no_loss():
    given = inputs()
    live = given["returns"].copy()
    live[-1] = np.nan
    expected = float(ev.total_r2(live, given["forecast"]))
    # the row is gone, the other has it but knows nothing
    shorter = given["forecast"].isel(time=slice(0, -1))
    assert float(ev.total_r2(live, shorter)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["hac", "prevailing mean", "market", "total r2", "long short"])
def test_repeated_and_missing_months_are_errors(name):
    given = inputs()
    twice = {key: each.isel(time=[*range(T), 3]) for key, each in given.items()}
    with pytest.raises(ShapeError, match=r"every month once.*2010-04-30"):
        SCORES[name](twice)
    gone = CALENDAR.to_numpy().copy()
    gone[4] = np.datetime64("NaT", "ns")
    undated = {key: each.assign_coords(time=gone) for key, each in given.items()}
    with pytest.raises(ShapeError, match=r"date for every row.*1 missing"):
        SCORES[name](undated)
    thirteen = {key: each.assign_coords(time=201001 + np.arange(T)) for key, each in given.items()}
    with pytest.raises(ShapeError, match=r"must hold dates along 'time': 2010-13-01 is no date"):
        SCORES[name](thirteen)
    soon = {
        key: each.assign_coords(time=[f"soon {t}" for t in range(T)]) for key, each in given.items()
    }
    with pytest.raises(ShapeError, match="must hold dates along 'time'"):
        SCORES[name](soon)


def test_rows_without_labels_and_counted_rows_keep_working():
    given = inputs()
    bare = {key: each.drop_vars("time") for key, each in given.items()}
    counted = {key: each.assign_coords(time=np.arange(T)) for key, each in given.items()}
    order = np.random.default_rng(0).permutation(T)
    for name in ("hac", "total r2", "rank icir", "diebold mariano", "long short", "market"):
        expected = without_time(SCORES[name](given))
        xr.testing.assert_allclose(SCORES[name](bare), expected)
        mixed = {key: each.isel(time=order) for key, each in counted.items()}
        xr.testing.assert_allclose(without_time(SCORES[name](mixed)), expected)


def test_weeks_and_days_match_by_their_own_periods():
    rng = np.random.default_rng(0)
    fridays = pd.date_range("2010-01-01", periods=40, freq="W-FRI")
    returns = xr.DataArray(
        rng.normal(size=(40, 5)), {"time": fridays, "asset": list("abcde")}, ("time", "asset")
    )
    forecast = returns.copy(data=rng.normal(size=(40, 5)))
    expected = float(ev.total_r2(returns, forecast))
    sundays = forecast.assign_coords(time=fridays + pd.Timedelta(days=2))
    assert float(ev.total_r2(returns, sundays)) == pytest.approx(expected)
    # days are matched by the day alone
    daily = returns.assign_coords(time=pd.bdate_range("2010-01-01", periods=40))
    with pytest.warns(RvraeWarning, match="1 of 40 rows of `returns`.*2010-01-01"):
        ev.total_r2(daily, daily[1:])


@pytest.mark.parametrize("kind", DATES)
def test_known_factors_have_any_kind_of_date(kind):
    given = inputs()
    managed = given["losses"].rename(model="characteristic")
    known = pd.DataFrame(
        {"MktRF": 0.04 * given["factors"].values[:, 0]}, index=pd.Index(DATES[kind])
    )
    for order in (np.arange(T), np.random.default_rng(2).permutation(T)):
        profile = ev.factor_profile(given["factors"], managed, known.iloc[order])
        assert profile["name"].values[0] == "like MktRF (1.00)"
        assert int(profile["known_months"]) == T


def test_known_factors_that_cannot_be_matched_are_errors():
    given = inputs()
    managed = given["losses"].rename(model="characteristic")
    known = pd.DataFrame({"MktRF": given["factors"].values[:, 0]}, index=CALENDAR)
    for wrong, match in (
        (known.reset_index(drop=True), "dates as rows"),
        (known.set_axis(["soon"] * T), "dates as rows"),
        (known.set_axis(CALENDAR - pd.DateOffset(years=30)), "`known` must share months"),
        (known.set_axis(pd.bdate_range("2010-01-01", periods=T)), "one frequency"),
        (pd.concat([known, known]), "every month once"),
    ):
        with pytest.raises(ShapeError, match=match):
            ev.factor_profile(given["factors"], managed, wrong)
    with pytest.warns(RvraeWarning, match="12 of 60 months of `factors` are left out"):
        ev.factor_profile(given["factors"], managed, known.iloc[12:])


def test_months_to_compare_are_dates_of_any_kind():
    given = inputs()
    scores = {"a": given["series"], "b": given["other"]}
    for times, count in (
        ("2011", 12),
        (np.datetime64("2011"), 12),
        (pd.Period("2011Q2"), 3),
        (slice("2011", "2012"), 24),
        (slice(201101, None), 48),
        (["2011-03", 201104, pd.Timestamp("2011-05-02")], 3),
        (CALENDAR[5:15], 10),
        (given["series"].time[-6:], 6),
    ):
        assert ev.compare(scores, times=times).attrs["n_times"] == count
    for wrong in ("201113", "1999", "soon", ["2011-01", "2031-01"], slice("soon", None), [True]):
        with pytest.raises(ConfigError, match="`times` must name months"):
            ev.compare(scores, times=wrong)


class Scored:
    """Log scores that know their panel's months."""

    def log_evidence(self, panel, num_samples=1000, seed=0):
        return panel["returns"].sum("asset").rename("log_evidence")


def test_left_out_months_are_picked_and_sorted():
    panel = rv.data.simulate_linear_gaussian(5, 24, 1)
    shuffled = panel.isel(time=np.random.default_rng(0).permutation(24))
    expected = ev.leave_month_out(Scored(), panel)
    xr.testing.assert_allclose(ev.leave_month_out(Scored(), shuffled), expected)
    year = str(panel.time.values[0])[:4]
    assert ev.leave_month_out(Scored(), shuffled, times=year).sizes["time"] == 12
    with pytest.raises(ConfigError, match="`times` must name months"):
        ev.leave_month_out(Scored(), panel, times="1950")
    ahead = ev.leave_future_out(lambda past: Scored(), panel, start=12)
    xr.testing.assert_allclose(
        ev.leave_future_out(lambda past: Scored(), shuffled, start=12), ahead
    )


def test_cells_that_only_one_long_array_lists_are_counted():
    given = inputs()
    numbered = np.arange(T * N)
    returns, forecast = (
        long(given[name]).assign_coords(obs=numbered) for name in ("returns", "forecast")
    )
    for score in (ev.total_r2, lambda a, b: ev.diebold_mariano(a**2, b**2)):
        with pytest.warns(RvraeWarning, match="20 of 720 cells of `returns` are left out|`first`"):
            score(returns, forecast.isel(obs=slice(20, None)))
