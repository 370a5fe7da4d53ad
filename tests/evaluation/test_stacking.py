"""Stacking weights against optimality conditions, closed forms and a grid."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv


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


def test_misuse_is_refused():
    with pytest.raises(rv.ShapeError, match=r"\(model, time\)"):
        rv.evaluation.stacking_weights(xr.DataArray(np.zeros(3), dims="time"))
    for bad in (np.nan, -np.inf):
        values = np.zeros((2, 4))
        values[:, 2] = bad
        with pytest.raises(rv.ShapeError, match="in every month"):
            rv.evaluation.stacking_weights(table(values))
