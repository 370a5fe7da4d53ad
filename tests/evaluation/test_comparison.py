"""Comparisons against hand-made scores, other people's code, and brute force."""

import numpy as np
import pytest
import xarray as xr
from arch.bootstrap import StationaryBootstrap

import rvrae_pyro as rv

T = 60
TIMES = np.datetime64("2000-01", "M") + np.arange(T) * np.timedelta64(1, "M")


def series(values) -> xr.DataArray:
    times = TIMES.astype("datetime64[ns]")[: len(values)]
    return xr.DataArray(np.asarray(values, float), coords={"time": times}, dims="time")


@pytest.fixture
def scores() -> dict[str, xr.DataArray]:
    rng = np.random.default_rng(0)
    base = rng.normal(50, 10, T)
    return {
        "plain": series(base),
        "better": series(base + 1.0 + rng.normal(0, 1, T)),
        "wild": series(base + rng.normal(-3, 9, T)),
    }


class Fitted:
    """Scores of every month of whatever panel it is given."""

    def __init__(self, values: xr.DataArray) -> None:
        self.values = values

    def log_evidence(self, panel, num_samples=1000, seed=0) -> xr.DataArray:
        return self.values.sel(time=panel.time)


def test_ranks_differences_and_errors(scores) -> None:
    found = rv.evaluation.compare(scores)
    assert found["model"].values.tolist() == ["better", "plain", "wild"]
    gap = scores["plain"] - scores["better"]
    row = found.sel(model="plain")
    assert row["difference"].item() == pytest.approx(gap.mean().item())
    dm = rv.evaluation.diebold_mariano(scores["plain"], scores["better"])
    assert row["difference_error"].item() == pytest.approx(dm["standard_error"].item())
    assert row["p_value"].item() == pytest.approx(dm["p_value"].item())
    best = found.drop_vars("log_scores").isel(model=0)
    assert best["difference"] == 0
    assert best["difference_error"] == 0
    assert np.isnan(best["p_value"])
    assert found["weight"].sum().item() == pytest.approx(1.0)
    assert found.attrs["n_times"] == T
    assert len(found.drop_dims("time").to_dataframe()) == 3


def test_bootstrap_errors_are_those_of_arch(scores) -> None:
    """4000 resamples on both sides: standard errors within 5 %."""
    found = rv.evaluation.compare(scores, error="bootstrap", lags=4, num_samples=4000, seed=1)
    gap = (scores["wild"] - scores["better"]).to_numpy()
    arch = StationaryBootstrap(4, gap, seed=np.random.default_rng(2))
    theirs = np.sqrt(arch.cov(np.mean, 4000)).item()
    assert found["difference_error"].sel(model="wild").item() == pytest.approx(theirs, rel=0.05)
    again = rv.evaluation.compare(scores, error="bootstrap", lags=4, num_samples=4000, seed=1)
    assert found.identical(again)


def test_fits_and_scores_side_by_side_over_chosen_months(scores) -> None:
    panel = rv.data.simulate_linear_gaussian(5, T, 1)
    panel = panel.assign_coords(time=scores["plain"].time)
    panel["returns"][10] = np.nan
    fits = {"fit": Fitted(scores["plain"]), "scores": scores["better"].isel(time=slice(5, None))}
    found = rv.evaluation.compare(fits, panel, times=slice(panel.time[8], None))
    assert found.attrs["n_times"] == T - 9
    assert panel.time.values[10] not in found["time"].values
    expected = scores["plain"].isel(time=[8, 9, *range(11, T)]).mean()
    assert found["log_score"].sel(model="fit").item() == pytest.approx(expected.item())


def test_misuse_is_refused(scores) -> None:
    with pytest.raises(rv.ConfigError, match="two names"):
        rv.evaluation.compare({"one": scores["plain"]})
    with pytest.raises(rv.ConfigError, match="'bootstrap'"):
        rv.evaluation.compare(scores, error="exact")
    with pytest.raises(rv.ConfigError, match="`panel` must be given"):
        rv.evaluation.compare({"a": Fitted(scores["plain"]), "b": scores["wild"]})
    with pytest.raises(rv.ConfigError, match="got int"):
        rv.evaluation.compare({"a": 3, "b": scores["wild"]})
    with pytest.raises(rv.ShapeError, match="alone"):
        rv.evaluation.compare({"a": scores["wild"].expand_dims("x"), "b": scores["wild"]})
    with pytest.raises(rv.ShapeError, match="two scored months"):
        rv.evaluation.compare(
            {"a": scores["wild"].isel(time=[0, 1]), "b": scores["plain"].isel(time=[5])}
        )
    with pytest.raises(rv.ConfigError, match="`times`"):
        rv.evaluation.compare(scores, times=["1890-01-31"])
    with pytest.raises(rv.ConfigError, match="`lags`"):
        rv.evaluation.compare(scores, error="bootstrap", lags=0)
