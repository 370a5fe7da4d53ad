"""Risk measures against closed forms, order statistics and the law of total variance."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.risk import portfolio, scenario, summarize, summary
from tests.risk.helpers import make_forecast


def make_tree(returns, factors=None, beta=None):
    coords = {
        "time": pd.date_range("2020-01-31", periods=returns.shape[2], freq="ME", unit="ns"),
        "asset": [f"a{i}" for i in range(returns.shape[3])],
        "chain": np.arange(returns.shape[0]),
        "draw": np.arange(returns.shape[1]),
    }
    predictions = xr.Dataset({"returns": (("chain", "draw", "time", "asset"), returns)}, coords)
    groups = {"predictions": predictions}
    if factors is not None:
        predictions["factors"] = (("chain", "draw", "time", "factor"), factors)
        dims = ("chain", "time", "asset", "factor")[4 - beta.ndim :]
        labels = {k: v for k, v in coords.items() if k in dims}
        groups["predictions_constant_data"] = xr.Dataset({"beta": (dims, beta)}, labels)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["seed"] = 3
    return tree


def simulate(chains=1, draws=4000, n_times=2, n_assets=3, n_factors=2, seed=0, spread=0.0):
    """Members with known factor covariance, loadings, noise and means."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n_factors, n_factors)) * 0.05
    factors = 0.01 + rng.normal(size=(chains, draws, n_times, n_factors)) @ root.T
    beta = rng.normal(size=(n_times, n_assets, n_factors)) + np.zeros((chains, 1, 1, 1))
    beta = beta + spread * rng.normal(size=beta.shape)
    sd = rng.uniform(0.05, 0.1, size=n_assets)
    noise = sd * rng.normal(size=(chains, draws, n_times, n_assets))
    returns = np.einsum("ctnk,cdtk->cdtn", beta, factors) + noise
    return returns, factors, beta, root @ root.T, sd


def test_normal_draws_give_the_normal_closed_forms():
    # 200000 draws: the roughest, ES and VaR at 1 %, have s.e. 0.0011 and 0.0008; 4 sd allowed
    rng = np.random.default_rng(0)
    loc, scale = 0.01, 0.1
    result = summarize(make_tree(loc + scale * rng.normal(size=(1, 200_000, 1, 1))))
    for tail in (0.05, 0.01):
        z = stats.norm.ppf(tail)
        here = result.sel(tail=tail).squeeze()
        assert here["var"].item() == pytest.approx(-(loc + scale * z), abs=0.0045)
        assert here["es"].item() == pytest.approx(
            -loc + scale * stats.norm.pdf(z) / tail, abs=0.0045
        )
    assert result["mean"].item() == pytest.approx(loc, abs=0.001)
    assert result["sd"].item() == pytest.approx(scale, abs=0.001)
    assert result["prob_loss"].item() == pytest.approx(stats.norm.cdf(-0.1), abs=0.005)


def test_tails_on_a_known_list():
    draws = np.random.default_rng(1).permutation(np.arange(-20.0, 20.0))[None, :, None, None]
    with pytest.warns(RvraeWarning, match=r"only 2 of 40 draws are expected in the tail 0.05"):
        result = summarize(make_tree(draws), tail=(0.05, 0.26))
    # the worst two of 40, and the worst 10.4: ten whole ones and 0.4 of the eleventh
    np.testing.assert_allclose(result["var"].squeeze(), [19.0, 10.0])
    expected = (sum(range(11, 21)) + 0.4 * 10) / 10.4
    np.testing.assert_allclose(result["es"].squeeze(), [19.5, expected])
    assert result["prob_loss"].item() == 0.5


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(20, 400),
    tail=st.floats(0.05, 0.95),
    shift=st.floats(-1, 1),
    scale=st.floats(0.1, 10),
)
@pytest.mark.filterwarnings("ignore::rvrae_pyro.errors.RvraeWarning")
def test_shortfall_is_coherent(seed, size, tail, shift, scale):
    draws = np.random.default_rng(seed).standard_t(3, size=(1, size, 1, 2))
    result = summarize(make_tree(draws), tail)
    assert bool((result["es"] >= result["var"] - 1e-9).all())
    moved = summarize(make_tree(shift + scale * draws), tail)
    for name in ("var", "es"):
        np.testing.assert_allclose(moved[name], scale * result[name] - shift, atol=1e-8)
    together = summarize(make_tree(draws.sum(axis=-1, keepdims=True)), tail)
    assert float(together["es"].item()) <= float(result["es"].sum()) + 1e-8


@pytest.mark.parametrize("chains", [1, 4])
def test_the_three_variances_add_up_to_that_of_the_draws(chains):
    returns, factors, beta, *_ = simulate(chains, spread=0.5)
    result = summarize(make_tree(returns, factors, beta))
    total = result["factor_var"] + result["idio_var"] + result["parameter_var"]
    np.testing.assert_allclose(total, returns.reshape(-1, 2, 3).var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result["sd"] ** 2, total, rtol=1e-12)
    np.testing.assert_allclose(result["mean"], returns.mean(axis=(0, 1)), rtol=1e-12)


def test_the_split_finds_the_true_parts():
    # 40000 draws: relative sampling error of a variance is sqrt(2 / 40000) = 0.7 %; 4 sd
    returns, factors, beta, cov, sd = simulate(draws=40_000)
    result = summarize(make_tree(returns, factors, beta[0]))
    expected = np.einsum("tnk,kl,tnl->tn", beta[0], cov, beta[0])
    np.testing.assert_allclose(result["factor_var"], expected, rtol=0.03)
    # the remainder carries the chance covariance of noise and factors too
    error = 4 * np.sqrt(2 * sd**4 + 4 * sd**2 * expected) / 200
    assert bool((np.abs(result["idio_var"] - sd**2) < error).all())
    assert bool((result["parameter_var"] == 0).all())
    assert "not measured" in result["parameter_var"].attrs["note"]


def test_members_that_disagree_show_as_parameter_variance():
    returns, factors, beta, *_ = simulate(chains=5, draws=3000, seed=2)
    offsets = np.array([-0.04, -0.02, 0.0, 0.02, 0.04])[:, None, None, None]
    agree = summarize(make_tree(returns, factors, beta))
    differ = summarize(make_tree(returns + offsets, factors, beta))
    # the true value is var(offsets) = 0.0008; members' means have s.e. sd / sqrt(3000)
    assert float(agree["parameter_var"].max()) < 10 * float(agree["sd"].max()) ** 2 / 3000
    np.testing.assert_allclose(differ["parameter_var"], 0.0008, rtol=0.35)
    np.testing.assert_allclose(differ["factor_var"], agree["factor_var"], rtol=1e-12)
    # where members agree, chance may leave their spread below its Monte-Carlo error, cut at 0
    np.testing.assert_allclose(differ["idio_var"], agree["idio_var"], rtol=5e-3)
    # offset by offset, what is left of the spread is that of the offsets and the means, by hand
    moved = returns + offsets
    means, within = moved.mean(axis=1), moved.var(axis=1)
    noise = 0.8 * within.mean(axis=0) / 2999
    np.testing.assert_allclose(differ["parameter_var"], means.var(axis=0) - noise, rtol=1e-9)
    assert "note" not in differ["parameter_var"].attrs


WEIGHTS = pd.Series([0.5, 0.25, 0.25], ["a0", "a1", "a2"])


def with_means(tree, means, name="mean", dims=("chain", "time", "asset")):
    """Add the members' expected returns to a forecast."""
    constant = tree["predictions_constant_data"].to_dataset()
    tree["predictions_constant_data"] = constant.assign({name: (dims, means)})
    return tree


def test_expected_returns_of_members_need_no_correction():
    """Their spread is the parameter variance, to rounding, from 20 draws as from 2000."""
    means = np.random.default_rng(0).normal(0.0, 0.003, (5, 2, 3))
    for draws in (20, 2000):
        returns, factors, beta, *_ = simulate(chains=5, draws=draws, seed=2)
        risk = summarize(with_means(make_tree(returns, factors, beta), means), 0.5)
        np.testing.assert_allclose(risk["parameter_var"], means.var(axis=0), rtol=1e-12)
        total = risk["factor_var"] + risk["idio_var"] + risk["parameter_var"]
        np.testing.assert_allclose(total, risk["sd"] ** 2, rtol=1e-12)
        book = portfolio(with_means(make_tree(returns, factors, beta), means), WEIGHTS, tail=0.5)
        held = means @ WEIGHTS.to_numpy()
        np.testing.assert_allclose(book["parameter_var"], held.var(axis=0), rtol=1e-12)


def test_expected_returns_by_draw_of_the_weights_have_its_share():
    returns, factors, beta, *_ = simulate(chains=1, draws=30, seed=3)
    tree = make_tree(returns, factors, beta[0])
    labels = np.repeat([0, 1, 2], [5, 10, 15])
    predictions = tree["predictions"].to_dataset()
    tree["predictions"] = predictions.assign_coords(weight_draw=("draw", labels))
    means = np.random.default_rng(1).normal(0.0, 0.01, (3, 2, 3))
    dims = ("weight_draw", "time", "asset")
    risk = summarize(with_means(tree, means, "mean_by_weights", dims), 0.5)
    shares = np.array([5, 10, 15]) / 30
    centre = np.tensordot(shares, means, 1)
    expected = np.tensordot(shares, (means - centre) ** 2, 1)
    np.testing.assert_allclose(risk["parameter_var"], expected, rtol=1e-12)


def test_a_scenario_has_other_means_than_the_forecast():
    tree, _ = make_forecast(draws=200)
    shape = tree["predictions_constant_data"]["idio_scale"].shape
    tree = with_means(tree, np.zeros((1, *shape)))
    moved = scenario(tree, factors={1: -1.0})
    assert "mean" not in moved["predictions_constant_data"]


def test_unlisted_cells_stay_missing_and_change_nothing_else():
    returns, factors, beta, *_ = simulate(chains=2, draws=600)
    expected = summarize(make_tree(returns, factors, beta))
    returns[:, :, 1, 2] = np.nan
    beta[:, 1, 2] = np.nan
    result = summarize(make_tree(returns, factors, beta))
    for name in result.data_vars:
        values, reference = result[name].values, expected[name].values
        assert np.isnan(values[..., 1, 2]).all()
        kept = ~np.isnan(values)
        assert kept.sum() == values.size * 5 // 6
        np.testing.assert_array_equal(values[kept], reference[kept])


def test_blocks_of_months_agree(monkeypatch):
    tree = make_tree(*simulate(chains=2, draws=500, n_times=7)[:3])
    expected = summarize(tree)
    monkeypatch.setattr(summary, "_BLOCK", 1)
    xr.testing.assert_identical(summarize(tree), expected)


def test_dims_labels_and_attributes():
    tree = make_tree(*simulate(draws=1000)[:3])
    result = summarize(tree)
    assert set(result.data_vars) == {
        "mean", "sd", "var", "es", "prob_loss", "factor_var", "idio_var", "parameter_var",
    }  # fmt: skip
    assert result["var"].dims == ("tail", "time", "asset")
    assert result["sd"].dims == ("time", "asset")
    assert result.asset.values.tolist() == ["a0", "a1", "a2"]
    assert result["tail"].values.tolist() == [0.05, 0.01]
    assert result.attrs == {"seed": 3, "n_chains": 1, "n_draws": 1000}
    json.dumps({name: result[name].attrs for name in result})
    swapped = make_tree(*simulate(draws=1000)[:3])
    swapped["predictions"] = swapped["predictions"].to_dataset().transpose("asset", ...)
    xr.testing.assert_allclose(summarize(swapped), result)


def test_without_factors_the_split_is_missing_and_says_why():
    result = summarize(make_tree(simulate(draws=1000)[0]))
    assert bool(result["factor_var"].isnull().all())
    assert bool(result["idio_var"].isnull().all())
    assert "no factors and beta" in result["idio_var"].attrs["note"]
    assert bool((result["sd"] > 0).all())


def test_few_draws_warn_and_none_fail():
    draws = np.random.default_rng(0).normal(size=(1, 1000, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summarize(make_tree(draws))  # ten expected beyond 1 %: enough
    with pytest.warns(RvraeWarning, match=r"only 9.99 of 999 draws .* 1000 draws give 10") as seen:
        summarize(make_tree(draws[:, :999]))
    assert seen[0].filename == __file__
    with pytest.raises(
        ConfigError, match=r"`tail` 0.01 holds none of 50 draws; .* num_samples=1000"
    ):
        summarize(make_tree(draws[:, :50]), tail=0.01)
    # as asked for by default: what can be had is given, the rest is NaN and not a guess
    with pytest.warns(RvraeWarning, match=r"tail 0.01, so its VaR and ES are left NaN; 1000 draws"):
        found = summarize(make_tree(draws[:, :50]))
    assert found["tail"].values.tolist() == [0.05, 0.01]
    assert bool(found[["var", "es"]].sel(tail=0.01).isnull().to_array().all())
    with pytest.warns(RvraeWarning, match="are rough"):
        alone = summarize(make_tree(draws[:, :50]), tail=0.05)
    assert found["es"].sel(tail=0.05).item() == alone["es"].item()


@pytest.mark.parametrize("tail", [0.0, 1.0, 5, -0.1, (), (0.05, 0.05), float("nan")])
def test_bad_tails_are_refused(tail):
    with pytest.raises(ConfigError, match=r"`tail` must hold different numbers in \(0, 1\)"):
        summarize(make_tree(np.zeros((1, 100, 1, 1))), tail)


def test_trees_that_are_no_forecast_are_refused():
    tree = make_tree(*simulate(draws=1000)[:3])
    with pytest.raises(ShapeError, match="got Dataset with groups \\[\\]"):
        summarize(tree["predictions"].to_dataset())
    with pytest.raises(ShapeError, match="got DataTree with groups \\['posterior'\\]"):
        summarize(xr.DataTree.from_dict({"posterior": xr.Dataset()}))
    returns = simulate(draws=1000)[0]
    flat = make_tree(returns)
    flat["predictions"] = flat["predictions"].to_dataset().stack(obs=("time", "asset"))
    with pytest.raises(ShapeError, match=r"`predictions/returns` must have dims .*'obs'"):
        summarize(flat)
    with pytest.raises(ShapeError, match="must not be empty"):
        summarize(make_tree(returns[:, :, :0]))
    returns[0, 5, 0, 0] = np.nan
    with pytest.raises(ShapeError, match="NaN in all draws of a cell or in none"):
        summarize(make_tree(returns))
    other = tree.copy()
    other["predictions_constant_data"] = (
        tree["predictions_constant_data"].to_dataset().assign_coords(asset=["x", "y", "z"])
    )
    with pytest.raises(ShapeError, match="beta` has other labels along 'asset' than `returns`"):
        summarize(other)
    other["predictions_constant_data"] = (
        tree["predictions_constant_data"].to_dataset().isel(factor=[0])
    )
    with pytest.raises(ShapeError, match="along 'factor' than `factors`: 1 and 2"):
        summarize(other)
