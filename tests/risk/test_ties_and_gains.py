"""Backtests where draws tie with VaR, or where the tail is a gain: exceptions and ratios."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro.errors import RvraeWarning
from rvrae_pyro.risk import backtest
from rvrae_pyro.risk.coverage_tests import acerbi_szekely


def tree_of(draws, names):
    """Build a forecast of draws (draw, time, asset)."""
    size, n_times, _ = draws.shape
    coords = {
        "chain": [0],
        "draw": np.arange(size),
        "time": pd.date_range("2005-01-31", periods=n_times, freq="ME", unit="ns"),
        "asset": names,
    }
    dims = ("chain", "draw", "time", "asset")
    return xr.DataTree.from_dict(
        {"predictions": xr.Dataset({"returns": (dims, draws[None])}, coords)}
    )


def outcome(tree, values):
    like = tree["predictions"]["returns"].isel(chain=0, draw=0, drop=True)
    return like.copy(data=values).rename("realised")


def judge(tree, values, portfolios=None, **options):
    """Backtest at 5 %, and the warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        options = {"tail": 0.05, "num_simulations": 200, **options}
        result = backtest(tree, outcome(tree, values), portfolios, **options)
    return result, [str(each.message) for each in seen]


def normal_and(atom, n_times=120, size=1000, seed=0, dtype=np.float64):
    """Forecasts and outcomes of a stock and of one more column, whose draws ``atom`` makes."""
    rng = np.random.default_rng(seed)
    draws = rng.normal(0, 0.05, (size, n_times, 2))
    truth = rng.normal(0, 0.05, (n_times, 2))
    draws[..., 1], truth[:, 1] = atom(rng, (size, n_times)), atom(rng, (n_times,))
    return draws.astype(dtype), truth


CASH = {
    "zero": lambda rng, shape: np.zeros(shape),
    "a rate": lambda rng, shape: np.full(shape, 0.0017),
    "a certain loss": lambda rng, shape: np.full(shape, -0.0017),
    "never loses": lambda rng, shape: np.where(
        rng.random(shape) < 0.6, 0.0, np.abs(rng.normal(0, 0.02, shape))
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", CASH)
def test_a_loss_equal_to_var_is_no_exception(kind, dtype):
    draws, truth = normal_and(CASH[kind], dtype=dtype)
    tree = tree_of(draws, ["stock", "cash"])
    result, _ = judge(tree, truth)
    found = result["asset"].to_dataset().sel(tail=0.05)
    own = np.quantile(draws[..., 0], 0.05, axis=0, method="inverted_cdf")
    assert found["exceptions"].values.tolist() == [int((truth[:, 0] < own).sum()), 0]
    assert found["verdict"].values.tolist() == ["too few months to tell", "not rejected"]
    # what has nothing to test does not weigh on the tests of the stock
    alone, _ = judge(tree_of(draws[..., :1], ["stock"]), truth[:, :1])
    stock = alone["asset"].to_dataset().sel(tail=0.05)
    for name in ("kupiec_p_exact_holm", "conditional_p_holm", "z2"):
        assert found[name].values[0] == stock[name].values[0]
    assert result["pooled"]["verdict"].item() == "not rejected"
    assert result["asset"]["pit_p"].sel(asset="cash").item() > 0.05
    assert result["pooled"]["pit_p"].item() > 0.05
    assert result["pooled"]["z2"].item() == pytest.approx(
        alone["pooled"]["z2"].item() if kind != "a certain loss" else result["pooled"]["z2"].item()
    )


def test_one_loss_of_what_never_loses_rejects():
    draws, truth = normal_and(CASH["zero"])
    truth[17, 1] = -0.01
    result, _ = judge(tree_of(draws, ["stock", "cash"]), truth)
    cash = result["asset"].to_dataset().sel(tail=0.05, asset="cash")
    assert int(cash["exceptions"]) == 1
    assert cash["verdict"].item().startswith("rejected (kupiec")


def test_a_portfolio_of_cash_has_no_exceptions_by_rounding():
    # sums of thirds in other orders differ in the last digits
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.001, 0.003, 7)
    draws = np.broadcast_to(rates, (200, 40, 7)).copy()
    tree = tree_of(draws, [f"bill {i}" for i in range(7)])
    weights = {
        "mixed": pd.Series(1 / 3, tree["predictions"]["asset"].values),
        "hedged": pd.Series(
            [0.3, -0.3, 0.1, 0.1, 0.1, -0.1, 0.2], tree["predictions"]["asset"].values
        ),
    }
    result, _ = judge(tree, draws[0], weights)
    assert result["portfolio"]["exceptions"].values.tolist() == [[0, 0]]
    assert not (result["portfolio"]["verdict"] == "rejected").any()


def test_rare_losses_below_an_atom_are_tested_against_their_own_probability():
    # 2 % of months lose 10 %, all others nothing: VaR at 5 % is 0 and is exceeded in 2 %, not 5 %
    def stale(rng, shape):
        return np.where(rng.random(shape) < 0.02, -0.1, 0.0)

    draws, truth = normal_and(stale, n_times=600, seed=3)
    result, _ = judge(tree_of(draws, ["stock", "stale"]), truth)
    stale_one = result["asset"].to_dataset().sel(tail=0.05, asset="stale")
    assert float(stale_one["rate"]) == pytest.approx(0.02, abs=0.018)  # 3 s.e. of 600 months
    assert stale_one["kupiec_p_exact"] > 0.05
    assert stale_one["verdict"].item() == "not rejected"
    # a pooled rate of (5 + 2) / 2 % is what the forecast says, and no surprise
    assert result["pooled"]["rate_p"].item() > 0.05


@pytest.mark.parametrize("months", [120, 1])
def test_an_es_that_is_a_gain_makes_z2_nan_and_is_reported(months):
    rng = np.random.default_rng(0)
    centre = np.where(np.arange(120)[:, None] < months, 0.004, 0.0)
    draws = centre + rng.normal(0, 0.0005, (500, 120, 2))
    truth = centre + rng.normal(0, 0.0005, (120, 2))
    truth[0, 0] = -0.5
    draws[..., 1] -= 0.004
    truth[:, 1] -= 0.004
    result, said = judge(tree_of(draws, ["fund", "bond"]), truth)
    found = result["asset"].to_dataset().sel(tail=0.05)
    assert np.isnan(found["z2"].values[0])
    assert np.isfinite(found["z2"].values[1])
    # a loss of 50 % beyond an ES that says gain: rejected in return units
    assert found["z2_p"].values[0] < 0.05
    assert found["verdict"].values[0].startswith("rejected (")
    assert len([text for text in said if "ES is not positive" in text and "fund" in text]) == 1
    assert "bond" not in " ".join(said)
    # pooled figures are of the cells that have a ratio
    assert np.isfinite(result["pooled"]["z2"].item())


@pytest.mark.parametrize("es", [-0.003, 0.0])
def test_plain_z2_is_nan_for_an_es_that_is_no_loss(es):
    with pytest.warns(RvraeWarning, match="`es` must be positive.*20 of 20 months"):
        assert np.isnan(acerbi_szekely([-0.5] + [0.01] * 19, [es] * 20, [es] * 20, 0.05))
    each = [es, *[0.02] * 19]
    with pytest.warns(RvraeWarning, match="1 of 20 months"):
        assert np.isnan(acerbi_szekely([0.01] * 20, each, each, 0.05))
    assert acerbi_szekely([-0.5] + [0.01] * 19, [0.02] * 20, [0.025] * 20, 0.05) == pytest.approx(
        -0.5 / 0.025 / (20 * 0.05) + 1
    )


def test_plain_z2_counts_no_tie():
    assert acerbi_szekely([-0.02, -0.03], [0.02, 0.02], [0.025, 0.025], 0.5) == pytest.approx(
        -0.03 / 0.025 / (2 * 0.5) + 1
    )
    single = np.array([-0.7, 0.1])
    var = np.array([0.7, 0.7], np.float32)
    assert acerbi_szekely(single, var, [0.8, 0.8], 0.5) == 1.0
