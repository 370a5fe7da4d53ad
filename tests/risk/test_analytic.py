"""Closed forms against draws, and against the Student-t itself."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.risk import FactorCovariance, summarize, summarize_analytic
from tests.risk.helpers import make_forecast


def cells(*values):
    return [xr.DataArray(np.atleast_1d(v).astype(float), dims="asset") for v in values]


def test_normal_closed_form():
    result = summarize_analytic(*cells(0.01, 0.03**2, 0.04), tail=0.05)
    assert result["sd"].item() == pytest.approx(0.05)
    assert result["var"].item() == pytest.approx(-0.01 - 0.05 * stats.norm.ppf(0.05))
    expected = -0.01 + 0.05 * stats.norm.pdf(stats.norm.ppf(0.05)) / 0.05
    assert result["es"].item() == pytest.approx(expected)
    assert result["prob_loss"].item() == pytest.approx(stats.norm.cdf(-0.2))


@pytest.mark.parametrize("df", [2.5, 4.0, 30.0])
def test_student_t_alone_is_the_student_t(df):
    result = summarize_analytic(*cells(0.02, 0.0, 0.05), df=df)
    for tail in (0.05, 0.01):
        a = stats.t.ppf(tail, df)
        here = result.sel(tail=tail)
        assert here["var"].item() == pytest.approx(-0.02 - 0.05 * a, rel=1e-7)
        mean = -(df + a**2) / (df - 1) * stats.t.pdf(a, df) / tail
        assert here["es"].item() == pytest.approx(-0.02 - 0.05 * mean, rel=1e-6)
    assert result["sd"].item() == pytest.approx(0.05 * np.sqrt(df / (df - 2)))
    assert result["prob_loss"].item() == pytest.approx(stats.t.cdf(-0.4, df), rel=1e-7)


@pytest.mark.parametrize("df", [None, 5])
def test_agrees_with_draws(df):
    # 40000 draws of 15 cells: s.e. in units of the sd are 0.005 (mean, sd), 0.011 (VaR 5 %),
    # 0.02 (VaR 1 %) and up to 0.05 (ES 1 % of t5); about 4 of them allowed
    tree, _ = make_forecast(draws=40_000, df=df, seed=3)
    draws = summarize(tree)
    cov = FactorCovariance.from_forecast(tree)
    mean = (cov.beta * tree["predictions"]["factors"].mean(["chain", "draw"])).sum("factor")
    unit = 1.0 if df is None else np.sqrt((df - 2) / df)
    exact = summarize_analytic(mean, draws["factor_var"], np.sqrt(cov.idio_var) * unit, df=df)
    for name, tail, room in (
        ("mean", None, 0.02),
        ("sd", None, 0.03),
        ("var", 0.05, 0.05),
        ("es", 0.05, 0.07),
        ("var", 0.01, 0.09),
        ("es", 0.01, 0.2),
    ):
        one, two = (d[name] if tail is None else d[name].sel(tail=tail) for d in (draws, exact))
        assert np.abs((one - two) / draws["sd"]).max() < room, (name, tail)
    assert np.abs(draws["prob_loss"] - exact["prob_loss"]).max() < 0.01


def test_missing_cells_stay_missing():
    result = summarize_analytic(*cells([0.0, np.nan], [0.01, 0.01], [0.1, np.nan]), df=4)
    assert np.isnan(result["es"].values[:, 1]).all()
    assert np.isfinite(result["es"].values[:, 0]).all()


def test_bad_arguments_are_refused():
    mean, var, scale = cells(0.0, 0.01, 0.1)
    with pytest.raises(ConfigError, match="`df` must be above 2"):
        summarize_analytic(mean, var, scale, df=2.0)
    with pytest.raises(ConfigError, match="`factor_var` must not be negative"):
        summarize_analytic(mean, -var, scale)
    with pytest.raises(ConfigError, match="`tail` must hold different numbers"):
        summarize_analytic(mean, var, scale, tail=0.0)
    with pytest.raises(ShapeError, match="`idio_scale` must be a DataArray with the dims of"):
        summarize_analytic(mean, var, scale.rename(asset="time"))
    with pytest.raises(ShapeError, match="`factor_var` must have the labels of `mean`"):
        summarize_analytic(mean, xr.concat([var, var], "asset"), scale)
