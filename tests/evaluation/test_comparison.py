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


def table(values):
    return xr.DataArray(values, dims=("model", "time"))


def gap(values, weight):
    """Violation of the optimality conditions (Karush, Kuhn and Tucker), per month.

    With g_m the mean over months of exp(s_mt) / sum_l w_l exp(s_lt): dual feasibility g <= 1, and
    complementarity w (1 - g) = 0. For a concave objective on the simplex they certify the
    optimum: no other weights score more than max(g) - 1 nats per month above these.
    """
    density = np.exp(values - values.max(axis=0))
    gradient = (density / (weight @ density)).mean(axis=1)
    return max(gradient.max() - 1.0, np.abs(weight * (1.0 - gradient)).max())


@pytest.mark.parametrize("scale", [1e-4, 0.02, 1.0, 30.0, 1000.0])
def test_optimality_conditions_hold_to_1e_8(scale):
    rng = np.random.default_rng(0)
    for case in range(40):
        shape = rng.integers(2, 12), rng.integers(1, 200)
        values = scale * (rng.normal(size=shape) + rng.normal(0.0, 0.3, (shape[0], 1)))
        if case % 4 == 0:
            values[1] = values[0]
        if case % 5 == 0:  # some models rule some months out
            values[1:][rng.random((shape[0] - 1, shape[1])) < 0.2] = -np.inf
        weight = rv.evaluation.stacking_weights(table(values)).to_numpy()
        assert weight.sum() == pytest.approx(1.0, abs=1e-12)
        assert (weight >= 0.0).all()
        assert gap(values, weight) < 1e-8


def test_two_models_agree_with_a_fine_grid():
    # nearly equal scores: the objective is flat, and an iteration that stops early is far off
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.001, -0.001, 0.0002):
        values = 0.02 * rng.normal(size=(2, 36)) + [[0.0], [shift]]
        weight = rv.evaluation.stacking_weights(table(values)).to_numpy()
        grid = np.linspace(0.0, 1.0, 100_001)
        density = np.exp(values)
        score = np.log(grid[:, None] * density[0] + (1.0 - grid[:, None]) * density[1]).sum(1)
        assert weight[0] == pytest.approx(grid[score.argmax()], abs=1.1e-5)


def test_two_months_have_a_closed_form():
    # densities (a, 1) and (1, b): derivative (a - 1) / (1 + w (a - 1)) = (b - 1) / (b - w (b - 1))
    a, b = 3.0, 1.7
    weight = rv.evaluation.stacking_weights(table(np.log([[a, 1.0], [1.0, b]]))).to_numpy()
    expected = ((a - 1.0) * b - (b - 1.0)) / (2.0 * (a - 1.0) * (b - 1.0))
    assert weight[0] == pytest.approx(expected, abs=1e-9)
    assert 0.0 < expected < 1.0


def test_identical_forecasts_share_their_weight():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2, 50))
    weight = rv.evaluation.stacking_weights(table(values[[0, 1, 0]])).to_numpy()
    assert weight[0] == pytest.approx(weight[2], abs=1e-9)
    alone = rv.evaluation.stacking_weights(table(values)).to_numpy()
    assert weight[0] + weight[2] == pytest.approx(alone[0], abs=1e-8)


def test_scores_far_below_any_float():
    weights = rv.evaluation.stacking_weights(table([[-5000.0] * 9, [-5003.0] * 9])).to_numpy()
    np.testing.assert_allclose(weights, [1.0, 0.0], atol=1e-9)


def test_misuse_of_stacking_is_refused():
    with pytest.raises(rv.ShapeError, match=r"\(model, time\)"):
        rv.evaluation.stacking_weights(xr.DataArray(np.zeros(3), dims="time"))
    for bad in (np.nan, -np.inf):
        values = np.zeros((2, 4))
        values[:, 2] = bad
        with pytest.raises(rv.ShapeError, match="in every month"):
            rv.evaluation.stacking_weights(table(values))
