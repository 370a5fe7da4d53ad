"""Managed portfolios against regressions, month by month."""

import numpy as np
import pytest
import xarray as xr

from rvrae_pyro.data import load_french, managed_portfolios, rank_characteristics
from rvrae_pyro.errors import ConfigError, PanelError
from tests.data.helpers import small_panel


def _design(panel, t):
    x, r = panel["characteristics"].values[t], panel["returns"].values[t]
    use = ~np.isnan(r) & ~np.isnan(x[:, 0])
    return np.column_stack([np.ones(use.sum()), x[use]]), r[use]


@pytest.mark.parametrize("ridge", [0.0, 0.3, 1.0])
def test_against_the_formula(ridge):
    panel = rank_characteristics(small_panel(10, 25))
    got = managed_portfolios(panel, ridge=ridge)
    assert got.dims == ("time", "characteristic")
    assert got["characteristic"].values.tolist() == ["constant", "c0", "c1", "c2"]
    for t in range(10):
        x, r = _design(panel, t)
        if ridge:
            # ridge as extra observations of a zero return
            x = np.vstack([x, np.sqrt(ridge) * np.eye(4)])
            r = np.append(r, np.zeros(4))
        np.testing.assert_allclose(got[t], np.linalg.lstsq(x, r)[0], rtol=1e-9, atol=1e-14)


def test_returns_that_are_linear_in_characteristics_are_recovered():
    panel = rank_characteristics(small_panel(6, 40))
    slopes = np.array([0.1, -0.2, 0.3])
    panel["returns"] = 0.05 + (panel["characteristics"] * slopes).sum(
        "characteristic", skipna=False
    )
    got = managed_portfolios(panel, ridge=0.0)
    np.testing.assert_allclose(got, np.tile([0.05, *slopes], (6, 1)), atol=1e-12)


def test_rows_without_a_return_are_missing_and_few_assets_are_no_trouble():
    panel = rank_characteristics(load_french())
    got = managed_portfolios(panel)
    assert got.isel(time=-1).isnull().all()
    assert got.isel(time=0).isnull().all()  # nothing is listed in the first month
    assert got.isel(time=slice(1, -1)).notnull().all()
    few = managed_portfolios(panel.isel(asset=slice(0, 4)), ridge=0.0)
    assert np.isfinite(few.values[1:-1]).all()


def test_order_of_assets_does_not_matter():
    panel = rank_characteristics(small_panel(8, 20))
    xr.testing.assert_allclose(
        managed_portfolios(panel), managed_portfolios(panel.isel(asset=slice(None, None, -1)))
    )


def test_misuse():
    with pytest.raises(PanelError, match=r"missing characteristics on 2001-11-30.*rank_char"):
        managed_portfolios(small_panel(6, 20))
    ranked = rank_characteristics(small_panel())
    for ridge in (-1.0, np.inf, "1"):
        with pytest.raises(ConfigError, match="`ridge` must be a number of at least 0"):
            managed_portfolios(ranked, ridge=ridge)
    with pytest.raises(PanelError, match="'constant' must be renamed"):
        managed_portfolios(ranked.assign_coords(characteristic=["constant", "a", "b"]))
