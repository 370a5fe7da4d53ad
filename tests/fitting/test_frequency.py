"""Weeks and days go the whole way: table, panel, fit, forecast of the live row, risk, scores."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import rvrae_pyro as rv

CONFIG = rv.FitConfig(max_steps=4, window=8)
CALENDARS = {
    "monthly": pd.date_range("2015-01-31", periods=41, freq="ME"),
    "weekly": pd.date_range("2015-01-02", periods=41, freq="W-FRI"),
    "daily": pd.bdate_range("2015-01-02", periods=41),
}
# a week is dated by the Sunday that ends it, whatever day the table names
ROWS = CALENDARS | {"weekly": CALENDARS["weekly"] + pd.Timedelta(2, "D")}


def table(frequency: str) -> pd.DataFrame:
    """The same numbers on another calendar; the row of t holds what is known at its end."""
    rng = np.random.default_rng(5)
    dates = CALENDARS[frequency][:40]
    frame = pd.DataFrame({"date": np.repeat(dates, 12), "asset": np.tile(np.arange(12), 40)})
    frame["vol"] = rng.lognormal(-3.0, 0.3, len(frame))
    frame["size"] = rng.lognormal(3.0, 1.0, len(frame))
    frame["ret"] = 0.03 * rng.standard_normal(len(frame))
    return frame


def prepared(frequency: str) -> xr.Dataset:
    panel = rv.data.from_frame(table(frequency), frequency=frequency, lag=1, excess=True)
    return rv.data.rank_characteristics(rv.data.market_context(panel))


def fitted(panel: xr.Dataset) -> rv.Fit:
    train, valid, _ = rv.data.split(panel, 23, 8, 8)
    model = rv.RVRAE(2, 2, n_context=panel.sizes["feature"])
    return rv.fit(model, train, valid, config=CONFIG, seed=3, progress=False)


@pytest.fixture(scope="module")
def monthly() -> rv.Fit:
    return fitted(prepared("monthly"))


@pytest.mark.parametrize("frequency", ["weekly", "daily"])
def test_the_calendar_does_not_move_the_fit(frequency: str, monthly: rv.Fit) -> None:
    """Training knows rows, not how long they last: the same numbers give the same history."""
    fit = fitted(prepared(frequency))
    columns = ["elbo", "log_likelihood", "kl", "valid_elbo"]
    pd.testing.assert_frame_equal(fit.history[columns], monthly.history[columns])
    assert (fit.kl_total["time"].values == ROWS[frequency].values[1:24]).all()


@pytest.mark.parametrize("frequency", ["weekly", "daily"])
def test_the_live_row_is_forecast(frequency: str) -> None:
    """The row after the last return: on its own date, with risk for every asset."""
    panel = prepared(frequency)
    live = panel["time"].values[-1]
    assert live == ROWS[frequency].values[40]
    assert panel["returns"].sel(time=live).isnull().all()
    forecast = fitted(panel).forecast(panel, num_samples=200, times=live)
    risk = rv.risk.summarize(forecast, tail=0.05)
    assert (risk["time"].values == [live]).all()
    assert risk["sd"].notnull().all()
    assert (risk["es"] >= risk["var"]).all()


def test_scores_are_annualised_by_the_panels_own_calendar() -> None:
    """A Sharpe ratio of weekly returns grows by the root of 52 over 12 against monthly ones."""
    panel = prepared("weekly")
    market = panel["returns"].mean("asset").dropna("time")
    periods = rv.data.periods_per_year(panel)
    assert periods == 52
    weekly = rv.evaluation.sharpe_ratio(market, periods=periods)
    assert float(weekly) == pytest.approx(
        float(market.mean() / market.std(ddof=1)) * np.sqrt(52), rel=1e-12
    )


def test_a_model_of_weeks_keeps_weeks_through_a_file(tmp_path: object) -> None:
    """Panel and fit come back, and the next week is forecast from the longer table."""
    panel = prepared("weekly")
    rv.data.write_panel(panel, f"{tmp_path}/weeks.parquet")
    again = rv.data.read_panel(f"{tmp_path}/weeks.parquet")
    assert again.identical(panel)
    fit = fitted(panel)
    fit.save(f"{tmp_path}/fit")
    live = panel["time"].values[-1]
    first = fit.forecast(panel, num_samples=50, times=live)
    second = rv.load(f"{tmp_path}/fit").forecast(again, num_samples=50, times=live)
    assert first["predictions"]["returns"].identical(second["predictions"]["returns"])
