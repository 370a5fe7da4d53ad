"""Dates that methods of a fit take: any kind, whole years, or one clear error."""

import numpy as np
import pandas as pd
import pytest

import rvrae_pyro as rv

PANEL = rv.data.rank_characteristics(rv.data.simulate_linear_gaussian(8, 36, 3, seed=0))
YEAR = int(str(PANEL.time.values[0])[:4]) + 2


@pytest.fixture(scope="module")
def fit():
    model = rv.RVRAE(3, 2)
    config = rv.FitConfig(max_steps=1)
    return rv.fit(model, PANEL.isel(time=slice(0, 24)), config=config, progress=False)


def ways(fit, times):
    """Months that methods of a fit give for ``times``."""
    yield fit.forecast(PANEL, num_samples=3, times=times)["predictions"]
    yield fit.moments(PANEL, num_samples=3, times=times)
    yield rv.risk.covariance(fit, PANEL, times=times, num_samples=3).beta


@pytest.mark.parametrize(
    ("times", "count"),
    [
        (f"{YEAR}", 12),
        (np.datetime64(f"{YEAR}"), 12),
        (pd.Period(f"{YEAR}Q2"), 3),
        (f"{YEAR}-03", 1),
        (YEAR * 100 + 3, 1),
        (pd.Timestamp(f"{YEAR}-03-05"), 1),
        ([f"{YEAR}-03", YEAR * 10000 + 501], 2),
        (slice(f"{YEAR}", f"{YEAR}-06"), 6),
        (PANEL.time[-2:], 2),
        (pd.date_range(f"{YEAR}-01-01", periods=3, freq="BME"), 3),
    ],
)
def test_times_are_dates_of_any_kind(fit, times, count):
    for found in ways(fit, times):
        assert found.sizes["time"] == count
        assert set(found["time"].values) <= set(PANEL.time.values)


@pytest.mark.parametrize("times", [f"{YEAR}13", "1950", "soon", "03/04/2002", [f"{YEAR}", "1950"]])
def test_dates_that_name_no_month_are_errors(fit, times):
    for call in (fit.forecast, fit.moments):
        with pytest.raises(rv.ConfigError, match="`times` must name months of the panel"):
            call(PANEL, num_samples=3, times=times)


def test_known_factors_of_other_dates(fit):
    rng = np.random.default_rng(0)
    known = pd.DataFrame(
        {"M": rng.normal(size=36)}, pd.period_range(f"{YEAR - 2}-01", periods=36, freq="M")
    )
    expected = fit.factor_profile(PANEL, known, num_samples=20)
    starts = known.set_axis(known.index.to_timestamp()).sample(frac=1, random_state=0)
    found = fit.factor_profile(PANEL, starts, num_samples=20)
    assert int(found["known_months"]) == 36
    np.testing.assert_allclose(found["known"], expected["known"])
