"""Ranks and context against plain calculations, and that neither looks ahead."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from rvrae_pyro.data import (
    context_changes,
    listed,
    load_french,
    managed_portfolios,
    market_context,
    rank_characteristics,
    simulate_dynamic,
)
from rvrae_pyro.errors import ConfigError, PanelError
from tests.data.helpers import small_panel


def test_ranks_against_scipy():
    panel = small_panel(12, 15, 4)
    panel["characteristics"][:, ::3, 1] = 0.5  # ties
    panel["characteristics"].values[~listed(small_panel(12, 15, 4)).values] = np.nan
    ranked = rank_characteristics(panel)["characteristics"].values
    for row, target in zip(panel["characteristics"].values, ranked, strict=True):
        for k in range(4):
            seen = ~np.isnan(row[:, k])
            expected = 2 * rankdata(row[seen, k]) / (seen.sum() + 1) - 1
            np.testing.assert_allclose(target[seen, k], expected, atol=1e-15)
            inside = ~seen & ~np.isnan(row).all(axis=1)
            assert (target[inside, k] == 0.0).all()


def test_unlisted_stay_missing_and_listed_are_complete():
    panel = small_panel()
    ranked = rank_characteristics(panel)
    xr.testing.assert_equal(listed(ranked), listed(panel))
    complete = ranked["characteristics"].notnull().all("characteristic")
    xr.testing.assert_equal(complete, listed(panel).rename(None))
    assert ranked.attrs["transform"] == "rank"
    assert panel.attrs["transform"] == "none"
    xr.testing.assert_identical(ranked["returns"], panel["returns"])


def test_one_asset_has_the_middle_rank():
    panel = small_panel(missing=0.0)
    panel["characteristics"][3, 1:] = np.nan
    assert (rank_characteristics(panel)["characteristics"][3, 0] == 0.0).all()


def test_a_ranked_panel_comes_back_as_it_is():
    ranked = rank_characteristics(small_panel())
    xr.testing.assert_identical(rank_characteristics(ranked), ranked)


def test_ranks_keep_the_float_width():
    panel = small_panel()
    panel["characteristics"] = panel["characteristics"].astype(np.float32)
    assert rank_characteristics(panel)["characteristics"].dtype == np.float32


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 17))
def test_ranks_use_one_month_only(seed, month):
    panel = small_panel(seed=seed)
    other = small_panel(seed=seed + 1)
    mixed = panel.copy(deep=True)
    for name in ("returns", "characteristics"):
        mixed[name][month:] = other[name][month:]
    one, two = (rank_characteristics(p)["characteristics"].values for p in (panel, mixed))
    np.testing.assert_array_equal(one[:month], two[:month])


@settings(max_examples=20)
@given(st.permutations(range(7)))
def test_ranks_do_not_depend_on_the_order_of_assets(order):
    panel = small_panel()
    xr.testing.assert_identical(
        rank_characteristics(panel.isel(asset=order)), rank_characteristics(panel).isel(asset=order)
    )


@settings(max_examples=20)
@given(st.floats(0.01, 100.0), st.floats(-5.0, 5.0))
def test_ranks_are_free_of_units(scale, shift):
    panel = small_panel(missing=0.1)
    moved = panel.assign(characteristics=np.exp(panel["characteristics"]) * scale + shift)
    np.testing.assert_array_equal(
        rank_characteristics(moved)["characteristics"],
        rank_characteristics(panel)["characteristics"],
    )


def _named(n_times=40, **kwargs):
    panel = small_panel(n_times, 12, 4, **kwargs)
    panel["characteristics"] = np.exp(panel["characteristics"])
    return panel.assign_coords(characteristic=["vol_12m", "beta", "size", "vol_trend"])


def test_context_against_pandas():
    panel = _named()
    context = market_context(panel)["context"].to_pandas()
    assert list(context) == ["vol_12m_median", "vol_12m_iqr", "beta_median", "beta_iqr"]
    vol = panel["characteristics"].sel(characteristic="vol_12m").to_pandas()
    beta = panel["characteristics"].sel(characteristic="beta").to_pandas()
    raw = {
        "vol_12m_median": np.log(vol.median(axis=1)),
        "vol_12m_iqr": np.log(vol.quantile(0.75, axis=1) - vol.quantile(0.25, axis=1)),
        "beta_median": beta.median(axis=1),
        "beta_iqr": beta.quantile(0.75, axis=1) - beta.quantile(0.25, axis=1),
    }
    for name, values in raw.items():
        for t in (11, 12, 39):
            so_far = values.iloc[: t + 1]
            expected = (so_far.iloc[-1] - so_far.mean()) / so_far.std(ddof=0)
            assert context[name].iloc[t] == pytest.approx(np.clip(expected, -4, 4), abs=1e-9)
    assert (context.iloc[:11] == 0.0).all(axis=None)


def test_context_of_chosen_characteristics_and_of_all_where_none_is_risky():
    panel = _named()
    chosen = market_context(panel, ["size"])
    assert chosen["feature"].values.tolist() == ["size_median", "size_iqr"]
    assert market_context(chosen)["feature"].size == 4  # replaced, not added to
    calm = panel.assign_coords(characteristic=list("abcd"))
    assert market_context(calm)["feature"].size == 8
    with pytest.raises(PanelError, match=r"must name some of the panel's; got momentum"):
        market_context(panel, ["momentum"])


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(13, 39))
def test_context_knows_nothing_of_later_rows(seed, month):
    panel, other = _named(seed=seed), _named(seed=seed + 1)
    mixed = panel.copy(deep=True)
    mixed["characteristics"][month:] = 50.0 * other["characteristics"][month:]
    one, two, cut = (
        market_context(p)["context"].values for p in (panel, mixed, panel.isel(time=slice(month)))
    )
    np.testing.assert_array_equal(one[:month], two[:month])
    np.testing.assert_array_equal(one[:month], cut)


def test_context_survives_empty_months_and_constants():
    panel = _named(missing=0.0)
    panel["characteristics"][20] = np.nan
    panel["characteristics"][:, :, 1] = 1.0
    context = market_context(panel)["context"]
    assert np.isfinite(context).all()
    assert (context.sel(feature="beta_median") == 0.0).all()
    assert context.sel(feature="vol_12m_median")[20] != 0.0


def test_context_refuses_ranks():
    with pytest.raises(PanelError, match=r"needs raw characteristics.*before rank"):
        market_context(rank_characteristics(_named()))


def test_context_of_real_portfolios_sees_the_crash_of_2008():
    context = market_context(load_french())["context"].to_pandas()
    vol = context["vol_12m_median"]
    assert vol[pd.Timestamp("2009-06-30")] > 1.5 > vol[pd.Timestamp("2006-06-30")]


def test_changes_of_the_context_stand_beside_it_and_know_nothing_later():
    panel = simulate_dynamic(12, 30, 4, 2, seed=0)
    both = context_changes(panel)
    assert list(both["feature"].values) == [
        "dispersion",
        "market_volatility",
        "dispersion_change",
        "market_volatility_change",
    ]
    before, after = both["context"].values[:, :2], both["context"].values[:, 2:]
    np.testing.assert_array_equal(before, panel["context"].values)
    np.testing.assert_array_equal(after[0], 0.0)
    np.testing.assert_array_equal(after[1:], before[1:] - before[:-1])
    for name in ("returns", "characteristics"):
        assert both[name].identical(panel[name])
    shorter = context_changes(panel.isel(time=slice(20)))
    np.testing.assert_array_equal(shorter["context"].values, both["context"].values[:20])
    changed = panel.copy(deep=True)
    changed["context"][20:] = 9.0
    np.testing.assert_array_equal(
        context_changes(changed)["context"].values[:20], both["context"].values[:20]
    )


def test_changes_want_a_context_and_want_it_once():
    panel = simulate_dynamic(12, 30, 4, 2, seed=0)
    with pytest.raises(PanelError, match="has no `context`"):
        context_changes(panel.drop_dims("feature"))
    with pytest.raises(PanelError, match="already"):
        context_changes(context_changes(panel))


@pytest.mark.parametrize("unit", [1e6, 1e-6, 1e-12])
def test_the_unit_of_a_characteristic_changes_no_context(unit):
    panel = _named(missing=0.0)
    scaled = panel.copy(deep=True)
    scaled["characteristics"] *= unit
    np.testing.assert_allclose(
        market_context(scaled)["context"], market_context(panel)["context"], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("level", [0.1, 1e6 / 3, 1e-9 / 3])
def test_constant_characteristics_make_no_context_in_any_dtype(level, dtype):
    panel = _named(missing=0.0)
    values = panel["characteristics"].copy()
    # equal up to the rounding of the dtype
    wobble = np.nextafter(dtype(level), dtype(np.inf)) - dtype(level)
    values[...] = level
    values[::2] += wobble
    panel["characteristics"] = values.astype(dtype)
    assert (market_context(panel)["context"] == 0.0).all()


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
