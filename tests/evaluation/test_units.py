"""Guards of scores have no preferred unit, sign or dtype."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from rvrae_pyro import evaluation as ev
from rvrae_pyro.errors import ShapeError

T, N = 48, 20
CELLS = {
    "time": pd.date_range("2010-01-31", periods=T, freq="ME", unit="ns"),
    "asset": [f"s{i:02d}" for i in range(N)],
}
UNITS = [1e6, 1e-6, -1.0, 1e12, 1e-12, 100.0]


def panel(seed=0, n_characteristics=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(T, N, n_characteristics))
    r = 0.01 * x[..., 0] + rng.normal(0, 0.05, (T, N))
    names = [f"c{k}" for k in range(n_characteristics)]
    return (
        xr.DataArray(r, CELLS, ("time", "asset")),
        xr.DataArray(x, {**CELLS, "characteristic": names}, ("time", "asset", "characteristic")),
    )


def series(values):
    values = np.asarray(values)
    time = pd.date_range("2010-01-31", periods=len(values), freq="ME", unit="ns")
    return xr.DataArray(values, {"time": time}, ("time",))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("which", [[0], [1], [0, 1, 2]])
def test_the_unit_of_a_characteristic_changes_no_t_statistic(unit, which):
    returns, x = panel()
    once = ev.fama_macbeth(returns, x)
    factor = np.where(np.isin(np.arange(3), which), unit, 1.0)
    again = ev.fama_macbeth(returns, x * xr.DataArray(factor, dims="characteristic"))
    signs = np.sign(np.concatenate([[1.0], factor]))
    np.testing.assert_allclose(again["statistic"] * signs, once["statistic"], rtol=1e-8)
    np.testing.assert_allclose(again["p_value"], once["p_value"], rtol=1e-8)
    premium = again["premium"] * np.concatenate([[1.0], factor])
    np.testing.assert_allclose(premium, once["premium"], rtol=1e-8)
    assert again.attrs["n_times"] == once.attrs["n_times"] == T


@pytest.mark.parametrize("unit", [1e6, 1e-6, 1e-12])
def test_what_determines_no_slope_does_so_in_any_unit(unit):
    returns, x = panel()
    first, third = x[..., 0], x[..., 2]
    for column in (3.0 + 0 * first, first, first + third, 0.1 * third + 7.0):
        bad = x.copy()
        bad[..., 1] = column * unit
        with pytest.raises(ShapeError, match="combination of others"):
            ev.fama_macbeth(returns, bad)


@pytest.mark.parametrize("unit", [100.0, 1e6, 1e-6, 1e-12])
def test_the_unit_of_returns_and_factors_changes_no_test(unit):
    rng = np.random.default_rng(1)
    f = rng.normal(0.005, 0.04, (T, 2))
    time = {"time": CELLS["time"]}
    factors = xr.DataArray(f, {**time, "factor": ["a", "b"]}, ("time", "factor"))
    y = 0.002 + f @ rng.normal(size=(2, 4)) + rng.normal(0, 0.02, (T, 4))
    tested = xr.DataArray(y, {**time, "portfolio": list("wxyz")}, ("time", "portfolio"))
    once = ev.grs(tested, factors)
    for again, size in (
        (ev.grs(tested * unit, factors * unit), unit),
        (ev.grs(tested * unit, factors), unit),
        (ev.grs(tested, factors * [unit, -1.0]), 1.0),
    ):
        for name in ("statistic", "p_value", "wald", "wald_p_value"):
            assert float(again[name]) == pytest.approx(float(once[name]), rel=1e-7)
        np.testing.assert_allclose(again["alpha"], once["alpha"] * size, rtol=1e-7)
        np.testing.assert_allclose(
            again["standard_error"], once["standard_error"] * size, rtol=1e-7
        )
    with pytest.raises(ShapeError, match="must not hold a constant series"):
        ev.grs((tested * 0 + 0.1) * unit, factors)
    doubled = xr.concat([factors, (2 * factors[:, :1]).assign_coords(factor=["c"])], "factor")
    with pytest.raises(ShapeError, match="combination of others"):
        ev.grs(tested, doubled * unit)


@pytest.mark.parametrize("unit", UNITS)
def test_ratios_and_shares_have_no_unit(unit):
    returns, x = panel()
    forecast = x[..., 0].drop_vars("characteristic") * 0.01
    for score in (ev.total_r2, ev.rank_ic, ev.rank_icir):
        xr.testing.assert_allclose(
            score(returns * unit, forecast * unit), score(returns, forecast), rtol=1e-9
        )
    monthly = returns.mean("asset") + 0.01
    once, again = (ev.sharpe_ratio(each, standard_error=True) for each in (monthly, monthly * unit))
    xr.testing.assert_allclose(abs(again), abs(once), rtol=1e-9)
    test = ev.diebold_mariano(monthly * unit, 0.3 * monthly * unit)
    assert abs(float(test["statistic"])) == pytest.approx(
        abs(float(ev.diebold_mariano(monthly, 0.3 * monthly)["statistic"])), rel=1e-9
    )
    market, scaled = ev.market_statistics(returns), ev.market_statistics(returns * unit)
    for name in ("kurtosis", "top_eigenvalue_share", "market_autocorrelation"):
        assert float(scaled[name]) == pytest.approx(float(market[name]), rel=1e-8), name


# what is the same number every month, or differs by rounding alone
SAME = {
    "equal": np.full(T, 0.1),
    "equal and negative": np.full(T, -0.3),
    "sums in other orders": np.where(np.arange(T) % 2, (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)),
    "large": np.full(T, 1e9 / 3),
    "small": np.full(T, 1e-9 / 3),
    "zero": np.zeros(T),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind in SAME
        for dtype in (np.float64, np.float32, np.float16)
        if not (dtype is np.float16 and kind in ("large", "small"))  # beyond half precision
    ],
)
def test_constant_series_have_no_ratio_in_any_dtype(kind, dtype):
    same = series(SAME[kind].astype(dtype))
    found = ev.sharpe_ratio(same, standard_error=True)
    assert np.isnan(found["estimate"])
    assert np.isnan(found["standard_error"])
    assert np.isnan(ev.diebold_mariano(same, same)["p_value"])
    market = same.expand_dims(asset=list("abc"), axis=-1)
    shape = ev.market_statistics(market)
    for name in ("kurtosis", "top_eigenvalue_share", "market_autocorrelation"):
        assert np.isnan(shape[name]), name
    returns = series(np.random.default_rng(0).normal(size=T)).expand_dims(
        asset=list("abcd"), axis=-1
    ) * [1.0, 2.0, 3.0, 4.0]
    flat = returns.copy(data=np.broadcast_to(SAME[kind][:, None], returns.shape).astype(dtype))
    assert ev.rank_ic(returns, flat).isnull().all()
    assert ev.long_short(flat, returns)["gross"].isnull().all()
    assert np.isnan(ev.rank_icir(returns, flat))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_constant_difference_of_scores_is_no_evidence_in_any_dtype(dtype):
    rng = np.random.default_rng(0)
    scores = series(rng.normal(100.0, 5.0, T))
    # better by the same amount each month: no estimate of an error, in float32 neither
    first, second = scores.astype(dtype), (scores + 0.01).astype(dtype)
    test = ev.diebold_mariano(first, second)
    assert np.isnan(test["p_value"])
    assert float(test["difference"]) == pytest.approx(-0.01, abs=1e-5)
    # an amount that varies is one, in both
    real = ev.diebold_mariano(first, (scores + rng.normal(0.01, 0.01, T)).astype(dtype))
    assert 0.0 <= float(real["p_value"]) <= 1.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_models_that_differ_by_rounding_alone_are_one(dtype):
    pytest.importorskip("arch")
    rng = np.random.default_rng(0)
    first = series(rng.normal(1.0, 0.5, T))
    step = float(np.spacing(dtype(1.0)))
    models = [first, first * (1 + step), first + 0.01, series(rng.normal(1.0, 0.5, T))]
    losses = xr.concat(models, "model").assign_coords(model=list("abcd")).transpose().astype(dtype)
    found = ev.model_confidence_set(losses, num_samples=100)
    assert found["p_value"].sel(model="a").item() == found["p_value"].sel(model="b").item()
    # worse by the same amount in every month
    assert found["p_value"].sel(model="c").item() == 0.0
    constant = ev.model_confidence_set(losses.sel(model=list("abc")), num_samples=100)
    assert constant["p_value"].values.tolist() == [1.0, 1.0, 0.0]
    # no better than by rounding, or by a constant: there is no estimate of an error
    scores = {name: losses.sel(model=name, drop=True) for name in "abc"}
    assert ev.compare(scores)["p_value"].isnull().all()


@pytest.mark.parametrize("unit", [1.0, 1e8, 1e-8])
def test_single_precision_gives_the_figures_of_double(unit):
    returns, x = panel()
    forecast = x[..., 0].drop_vars("characteristic") * 0.01
    small, guess = ((each * unit).astype(np.float32) for each in (returns, forecast))
    exact, exact_guess = small.astype(np.float64), guess.astype(np.float64)
    for score in (ev.total_r2, ev.rank_ic, ev.rank_icir):
        xr.testing.assert_allclose(score(small, guess), score(exact, exact_guess), rtol=1e-12)
    xr.testing.assert_allclose(
        ev.crps_normal(small, guess, unit * 0.05),
        ev.crps_normal(exact, exact_guess, unit * 0.05),
        rtol=1e-12,
    )
    xr.testing.assert_allclose(
        ev.prevailing_mean(small.rename(asset="factor")),
        ev.prevailing_mean(exact.rename(asset="factor")),
        rtol=1e-12,
    )
    for a, b in ((small, exact), (small * 1e-20, small.astype(np.float64) * 1e-20)):
        xr.testing.assert_allclose(
            ev.sharpe_ratio(a.mean("asset", dtype=np.float64)),
            ev.sharpe_ratio(b.mean("asset")),
            rtol=1e-5,
        )
    xr.testing.assert_allclose(
        ev.fama_macbeth(small, (x * unit).astype(np.float32))["statistic"],
        ev.fama_macbeth(exact, (x * unit).astype(np.float32).astype(np.float64))["statistic"],
        rtol=1e-9,
    )


@pytest.mark.parametrize("unit", [1.0, 1e6, 1e-9])
def test_a_known_factor_that_never_moves_has_no_correlation(unit):
    rng = np.random.default_rng(0)
    time = {"time": CELLS["time"]}
    factors = xr.DataArray(rng.normal(size=(T, 2)), {**time, "factor": [1, 2]}, ("time", "factor"))
    factors[:, 1] = 0.1  # a factor that the model does not use
    known = pd.DataFrame(
        {"moves": factors.values[:, 0] * unit, "flat": np.full(T, 0.1 * unit)}, CELLS["time"]
    )
    managed = xr.DataArray(
        rng.normal(size=(T, 1)), {**time, "characteristic": ["c"]}, ("time", "characteristic")
    )
    for table in (known, known.astype(np.float32)):
        profile = ev.factor_profile(factors, managed, table)
        near = profile["known"].to_pandas()
        assert near.loc[1, "moves"] == pytest.approx(1.0)
        assert near.drop(columns="moves").isna().all(axis=None)
        assert np.isnan(near.loc[2, "moves"])
        assert profile["name"].values.tolist() == ["like moves (1.00)", "no name"]
