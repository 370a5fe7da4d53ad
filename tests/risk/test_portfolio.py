"""Portfolio risk: identities, known answers, coherence, and weights that do not fit."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.risk import FactorCovariance, portfolio, portfolio_draws, summarize, to_scenarios
from rvrae_pyro.risk.portfolio_weights import read_weights
from tests.risk.helpers import equal_weights, make_forecast

quiet = pytest.mark.filterwarnings("ignore::rvrae_pyro.errors.RvraeWarning")


def series(values, tree):
    return pd.Series(values, tree["predictions"]["asset"].values)


@quiet
@settings(max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    draws=st.integers(40, 300),
    chains=st.integers(1, 3),
    tail=st.floats(0.03, 0.6),
    df=st.sampled_from([None, 3]),
)
def test_components_sum_to_every_risk(seed, draws, chains, tail, df):
    tree, _ = make_forecast(
        draws=draws, chains=chains, seed=seed, df=df, n_times=2, unlisted=[(1, 3)]
    )
    rng = np.random.default_rng(seed)
    weights = equal_weights(tree) * rng.normal(1.0, 2.0, size=5)
    result = portfolio(tree, weights, benchmark=equal_weights(tree), tail=tail)
    for group in (result, result["benchmark"], result["active"]):
        for name in ("sd", "var", "es"):
            whole, parts = group[name], group[f"component_{name}"].sum("asset")
            np.testing.assert_allclose(parts, whole, rtol=1e-8, atol=1e-12)
        split = group["factor_var"] + group["idio_var"] + group["parameter_var"]
        np.testing.assert_allclose(split, group["sd"] ** 2, rtol=1e-10)
    draws = result["predictions"]
    np.testing.assert_allclose(
        draws["active_returns"], draws["portfolio_returns"] - draws["benchmark_returns"], atol=1e-14
    )


@quiet
@settings(max_examples=4)
@given(
    seed=st.integers(0, 10_000),
    tail=st.floats(0.05, 0.5),
    scale=st.floats(0.1, 5),
    order=st.permutations(range(5)),
)
def test_shortfall_is_coherent_and_assets_have_no_order(seed, tail, scale, order):
    tree, _ = make_forecast(draws=150, n_times=1, seed=seed, df=3)
    rng = np.random.default_rng(seed)
    one, two = (series(rng.normal(size=5), tree) for _ in range(2))
    first, second = portfolio(tree, one, tail=tail), portfolio(tree, two, tail=tail)
    both = portfolio(tree, one + two, tail=tail)
    assert both["es"].item() <= first["es"].item() + second["es"].item() + 1e-10
    assert both["sd"].item() <= first["sd"].item() + second["sd"].item() + 1e-10
    larger = portfolio(tree, scale * one, tail=tail)
    for name in ("mean", "sd", "var", "es", "component_es", "component_var", "component_sd"):
        np.testing.assert_allclose(larger[name], scale * first[name], rtol=1e-7, atol=1e-12)
    moved = tree.map_over_datasets(
        lambda data: data.isel(asset=order) if "asset" in data.dims else data
    )
    again = portfolio(moved, one, tail=tail)
    for name in ("sd", "es", "component_es", "marginal_var"):
        expected = first[name]
        if "asset" in expected.dims:
            expected = expected.isel(asset=order)
        np.testing.assert_allclose(again[name], expected, rtol=1e-7, atol=1e-12)
    # a sure gain of one asset moves its portfolio's VaR and ES by the weight times the gain
    raised = tree.copy(deep=True)
    raised["predictions"]["returns"].loc[{"asset": "a2"}] += 0.01
    shifted = portfolio(raised, one, tail=tail)
    for name in ("var", "es"):
        np.testing.assert_allclose(shifted[name], first[name] - 0.01 * one["a2"], atol=1e-10)


def test_normal_draws_give_the_normal_contributions():
    # elliptical returns: component_i = -w_i mu_i + k * component_sd_i with the same k for all.
    # 40000 draws, means over 2000 of them in the tail: s.e. of a component below 0.0004; 4 sd
    tree, truth = make_forecast(draws=40_000, n_times=1)
    weights = series([0.4, 0.3, 0.2, 0.3, -0.2], tree)
    result = portfolio(tree, weights, tail=0.05)
    cov = FactorCovariance.from_forecast(tree)
    mean = truth["beta"][0] @ truth["centre"][0]
    root = truth["beta"][0] @ truth["root"][0]
    sigma = root @ root.T + np.diag(truth["scale"][0] ** 2)
    sd = np.sqrt(weights @ sigma @ weights)
    part = weights * (sigma @ weights) / sd
    np.testing.assert_allclose(result["component_sd"].squeeze(), part, atol=0.0012)
    z = -stats.norm.ppf(0.05)
    np.testing.assert_allclose(
        result["component_var"].squeeze(), z * part - weights * mean, atol=0.003
    )
    k = stats.norm.pdf(z) / 0.05
    np.testing.assert_allclose(
        result["component_es"].squeeze(), k * part - weights * mean, atol=0.002
    )
    assert result["sd"].item() == pytest.approx(sd, rel=0.015)
    assert result["sd"].item() ** 2 == pytest.approx(
        float((weights * cov.dot(weights).squeeze().to_series()).sum()), rel=0.03
    )
    np.testing.assert_allclose(
        result["exposure"].squeeze(), weights.to_numpy() @ truth["beta"][0], rtol=1e-10
    )


def test_shortfall_parts_on_a_known_list():
    tree, _ = make_forecast(draws=20, n_times=1, n_assets=2)
    first, second = np.arange(20.0) / 100, np.arange(20.0)[::-1] / 1000
    tree["predictions"]["returns"][0, :, 0] = np.stack([first, second], axis=1)
    with pytest.warns(RvraeWarning, match="only 2 of 20 draws are expected in the tail 0.1"):
        result = portfolio(tree, series([1.0, 1.0], tree), tail=0.1)
    # the portfolio's worst two draws are the first two: assets 0, 1 % and 1.9, 1.8 %
    np.testing.assert_allclose(result["component_es"].squeeze(), [-0.005, -0.0185])
    np.testing.assert_allclose(result["var"].item(), -(0.01 + 0.018))
    np.testing.assert_allclose(result["component_var"].squeeze(), [-0.01, -0.018], atol=1e-12)


def test_one_asset_is_its_own_portfolio():
    tree, _ = make_forecast(draws=1500, unlisted=[(0, 4)])
    alone = portfolio(
        tree,
        series([0, 1, 0, 0, 0], tree)
        .drop("a4")
        .to_frame()
        .T.set_axis([pd.Timestamp("2020-02-29")])
        .assign(a4=0.0),
    )
    expected = summarize(tree).sel(asset="a1", time=["2020-02-29"])
    for name in ("mean", "sd", "var", "es", "prob_loss", "factor_var", "idio_var"):
        np.testing.assert_allclose(alone[name], expected[name], rtol=1e-9, err_msg=name)
    assert alone["sd"].dims == ("time",)


def test_forms_of_weights_agree():
    tree, _ = make_forecast(draws=1200)
    assets, times = tree["predictions"]["asset"].values, tree["predictions"].time.values
    fixed = series([0.1, 0.2, 0.3, 0.4, 0.0], tree)
    expected = portfolio(tree, fixed)
    frame = pd.DataFrame([fixed] * 3, index=times)
    xr.testing.assert_allclose(portfolio(tree, frame), expected)
    xr.testing.assert_allclose(
        portfolio(tree, frame.set_axis(pd.DatetimeIndex(times).to_period("M"))), expected
    )
    xr.testing.assert_allclose(portfolio(tree, fixed.sample(frac=1, random_state=0)), expected)
    two = xr.DataArray(
        np.stack([fixed, np.ones(5)]), {"book": ["x", "y"], "asset": assets}, ("book", "asset")
    )
    both = portfolio(tree, two, benchmark=fixed)
    assert both["sd"].dims == ("time", "portfolio")
    assert both["component_es"].dims == ("tail", "time", "asset", "portfolio")
    assert both["portfolio"].values.tolist() == ["x", "y"]
    np.testing.assert_allclose(both["sd"].sel(portfolio="x"), expected["sd"], rtol=1e-10)
    np.testing.assert_allclose(
        both["component_var"].sel(portfolio="x"), expected["component_var"], rtol=1e-8, atol=1e-14
    )
    tracking = both["active"].sel(portfolio="x")
    assert float(tracking["sd"].max()) == 0.0
    assert bool((tracking["component_es"] == 0.0).all())
    assert bool(tracking["marginal_es"].isnull().all())
    draws = portfolio_draws(tree, fixed)
    assert draws.dims == ("chain", "draw", "time")
    np.testing.assert_allclose(draws, expected["predictions"]["portfolio_returns"])
    by_hand = (tree["predictions"]["returns"] * xr.DataArray(fixed, dims="asset")).sum("asset")
    np.testing.assert_allclose(draws, by_hand.transpose(*draws.dims), rtol=1e-10)
    later = portfolio(tree, frame.iloc[2:])
    assert later["sd"].sizes["time"] == 1
    np.testing.assert_allclose(later["sd"], expected["sd"][2:])
    assert expected.attrs["seed"] == 0
    assert expected["sd"].attrs["units"] == "1"


def test_arviz_summarises_the_portfolio():
    import arviz_stats as azs

    tree, _ = make_forecast(draws=1200)
    result = portfolio(tree, series(0.2, tree))
    table = azs.summary(
        result, group="predictions", var_names="portfolio_returns", kind="stats", round_to="none"
    )
    np.testing.assert_allclose(table["mean"].astype(float), result["mean"], rtol=1e-6)


def test_active_risk_is_that_of_the_difference():
    tree, _ = make_forecast(draws=1500, dtype=np.float32)
    mine, market = series([0.5, 0.5, 0, 0, 0], tree), series(0.2, tree)
    result = portfolio(tree, mine, benchmark=market)
    xr.testing.assert_allclose(
        result["active"].to_dataset(), portfolio(tree, mine - market).to_dataset(), rtol=1e-6
    )
    xr.testing.assert_allclose(
        result["benchmark"].to_dataset(), portfolio(tree, market).to_dataset(), rtol=1e-6
    )


def test_weights_that_do_not_fit_are_refused():
    tree, _ = make_forecast(draws=1200, unlisted=[(1, 2)])
    good = equal_weights(tree)
    fixed = series(0.2, tree)
    frame = good.to_pandas()
    cases = [
        (ShapeError, fixed.drop("a1"), r"must give a weight to every asset .* misses 1 \(a1\)"),
        (ShapeError, fixed.rename({"a1": "zz"}), r"must name assets .* 1 \(zz\) are not in it"),
        (ShapeError, pd.Series(1.0, range(5)), r"`weights` must name assets of the forecast; 5"),
        (ShapeError, pd.concat([fixed, fixed[:1]]), r"must not repeat a label of 'asset'; .*a0"),
        (ConfigError, fixed, r"`weights` must be 0 or NaN where .* 1 \(2020-02-29 a2\) is not"),
        (ConfigError, good.where(good.asset != "a1"), r"must be finite; 3 \(2020-01-31 a1, .* are"),
        (ConfigError, good / 0.0, "must be finite"),
        (ConfigError, fixed.astype(str), "`weights` must hold numbers; got"),
        (ShapeError, frame.T, "must have months as its rows and assets as its columns"),
        (
            ShapeError,
            frame.set_axis(frame.index + pd.DateOffset(days=9)),
            r"months of the forecast, 2020-01-31 to 2020-03-31; got 1 \(2020-04-30\) outside",
        ),
        (ShapeError, good.expand_dims(a=1, b=1), "optionally 'time' and one that counts"),
        (ShapeError, good.drop_vars("asset"), "must have labels along 'asset'"),
        (
            ShapeError,
            good.values,
            "must be a Series by asset, a DataFrame by month, or a DataArray",
        ),
    ]
    for error, weights, match in cases:
        with pytest.raises(error, match=match):
            portfolio(tree, weights)
    with pytest.raises(ShapeError, match="`benchmark` must cover the months of `weights`; it lack"):
        portfolio(tree, good, benchmark=good.isel(time=[0, 1]))
    with pytest.raises(ShapeError, match="`benchmark` must be one portfolio; got 2"):
        portfolio(tree, good, benchmark=xr.concat([good, good], "book"))
    with pytest.raises(ConfigError, match="`benchmark` must be 0 or NaN"):
        portfolio(tree, good, benchmark=fixed)
    with pytest.raises(ConfigError, match=r"`tail` 0.01 holds none of 50 draws"):
        portfolio(make_forecast(draws=50)[0], fixed)


def test_missing_draws_are_refused():
    tree, _ = make_forecast(draws=1200)
    tree["predictions"]["returns"][0, 7, 1, 3] = np.nan
    with pytest.raises(ShapeError, match="NaN in all draws of a cell or in none"):
        portfolio(tree, equal_weights(tree))


def test_an_optimiser_reads_the_scenarios():
    # skfolio's least CVaR on our draws is the least that portfolio() finds on the same draws
    pytest.importorskip("skfolio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies deprecate each other's names
        from skfolio import RiskMeasure
        from skfolio.optimization import MeanRisk

    tree, _ = make_forecast(draws=1000, n_times=2, unlisted=[(1, 3)], seed=4)
    table = to_scenarios(tree, "2020-02-29")
    assert table.shape == (1000, 4)
    assert table.columns.tolist() == ["a0", "a1", "a2", "a4"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimiser = MeanRisk(risk_measure=RiskMeasure.CVAR, cvar_beta=0.95).fit(table)
    best = pd.Series(optimiser.weights_, table.columns)
    month = tree.map_over_datasets(
        lambda data: data.isel(time=[1]) if "time" in data.dims else data
    )
    least = portfolio(month, best.reindex(["a0", "a1", "a2", "a3", "a4"], fill_value=0), tail=0.05)
    rng = np.random.default_rng(0)
    for _ in range(10):
        other = best * 0.8 + 0.2 * rng.dirichlet(np.ones(4))
        risk = portfolio(
            month, other.reindex(["a0", "a1", "a2", "a3", "a4"], fill_value=0), tail=0.05
        )
        assert least["es"].item() <= risk["es"].item() + 1e-6
    with pytest.raises(ShapeError, match="`time` must pick one month; got 2"):
        to_scenarios(tree, "2020")


@pytest.mark.parametrize("dtype", ["int64", "float64", "str", "object", "category"])
@pytest.mark.parametrize("by_month", [False, True])
def test_weights_are_matched_by_ids_of_any_type(dtype, by_month):
    """10001, 10001.0 and "10001" are one asset here as in the readers."""
    ids = pd.Index([10_001, 10_002, 93_436])
    months = pd.date_range("2020-01-31", periods=2, freq="ME")
    listed = xr.DataArray(
        np.ones((2, 3), bool), {"time": months, "asset": ids.astype(str)}, ("time", "asset")
    )
    weights = pd.Series([0.5, 0.3, 0.2], ids.astype(dtype))
    given = pd.DataFrame([weights, weights], months) if by_month else weights
    read = read_weights(given, listed)
    assert read["asset"].values.tolist() == ["10001", "10002", "93436"]
    np.testing.assert_array_equal(read.isel(time=0, portfolio=0), [0.5, 0.3, 0.2])
    with pytest.raises(ShapeError, match="labels of `weights` must be those of the assets"):
        read_weights(weights.set_axis([0.5, 1.5, 2.5]), listed)
    with pytest.raises(ShapeError, match="labels of assets that are missing"):
        read_weights(weights.set_axis([10_001.0, np.nan, 10_002.0]), listed)
