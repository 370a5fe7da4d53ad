"""What a mean forecast is made of, against its own parts and against nudged panels."""

import numpy as np
import pytest
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.errors import ConfigError
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel, stir

SHORT = rv.FitConfig(max_steps=2)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    simulated = random_panel(14, 10, seed=5)
    # double, so that a small nudge is not lost in rounding
    simulated["characteristics"] = simulated["characteristics"].astype(np.float64)
    return simulated


def fitted(panel: xr.Dataset, **parts: object) -> rv.Fit:
    """A model with stirred weights: no zero of the start hides an error."""
    model = stir(rv.RVRAE(P, K, n_context=panel.sizes["feature"], **parts))  # type: ignore[arg-type]
    return rv.fit(model, panel.isel(time=slice(0, 10)), config=SHORT, progress=False)


@pytest.fixture(scope="module")
def plain(panel: xr.Dataset) -> rv.Fit:
    return fitted(panel)


@pytest.fixture(scope="module")
def with_alpha(panel: xr.Dataset) -> rv.Fit:
    alpha = rv.likelihoods.Alpha(P)
    return fitted(
        panel,
        likelihood=rv.likelihoods.Normal(alpha=alpha),
        loadings=rv.loadings.MLP(P, K, hidden=(4,)),
        factor_prior=rv.priors.AR1(K),
    )


def test_parts_are_loadings_times_expected_factors(plain: rv.Fit, panel: xr.Dataset) -> None:
    parts = plain.attribution(panel, num_samples=200, seed=1)
    assert parts.dims == ("time", "asset", "factor")
    expected = plain.factors(panel, kind="predicted", num_samples=200, seed=1)["mean"]
    xr.testing.assert_allclose(
        parts, (plain.loadings(panel) * expected).transpose(*parts.dims), rtol=1e-10
    )
    np.testing.assert_array_equal(parts.notnull().all("factor"), rv.data.listed(panel))


@pytest.mark.parametrize("which", ["plain", "with_alpha"])
def test_parts_sum_to_the_mean_forecast(
    which: str, panel: xr.Dataset, request: pytest.FixtureRequest
) -> None:
    """To 4.5 standard errors of the mean of the draws; over 250 cells, 1 in 500 fails."""
    fit = request.getfixturevalue(which)
    total = fit.attribution(panel).sum("factor", min_count=1)
    tree = fit.forecast(panel)["predictions"]
    mean = tree["returns"].mean(("chain", "draw"))
    # factors are the same draws in both, so only noise differs
    away = np.abs((mean - total) / (tree["returns"].std(("chain", "draw")) / np.sqrt(1000)))
    assert float(away.max()) < 4.5
    assert int(away.notnull().sum()) == int(rv.data.listed(panel).sum())


def test_alpha_is_the_part_labelled_0(with_alpha: rv.Fit, panel: xr.Dataset) -> None:
    parts = with_alpha.attribution(panel)
    assert parts["factor"].values.tolist() == [0, 1, 2]
    assert float(abs(parts.sel(factor=0)).max()) > 0


@pytest.mark.parametrize("which", ["plain", "with_alpha"])
def test_sensitivity_is_the_slope_of_the_forecast(
    which: str, panel: xr.Dataset, request: pytest.FixtureRequest
) -> None:
    """Nudge one characteristic of one asset: its forecast moves by the slope, no other does."""
    fit = request.getfixturevalue(which)
    slopes = fit.sensitivity(panel, num_samples=50)
    t = 11
    i = int(np.flatnonzero(rv.data.listed(panel).values[t])[2])
    before = fit.attribution(panel, num_samples=50).sum("factor")[t].values
    for c in range(P):
        nudged = panel.copy(deep=True)
        nudged["characteristics"][t, i, c] += 1e-5
        moved = fit.attribution(nudged, num_samples=50).sum("factor")[t].values - before
        assert moved[i] / 1e-5 == pytest.approx(slopes[t, i, c].item(), rel=2e-3, abs=1e-7)
        assert np.abs(np.delete(moved, i)).max() == 0.0


def test_months_asked_for_are_those_of_the_whole(plain: rv.Fit, panel: xr.Dataset) -> None:
    times = panel["time"][[3, 12]]
    for name in ("attribution", "sensitivity"):
        whole = getattr(plain, name)(panel, num_samples=50)
        some = getattr(plain, name)(panel, num_samples=50, times=times)
        xr.testing.assert_identical(some, whole.sel(time=times))
    with pytest.raises(ConfigError, match="`times` must name months of the panel"):
        plain.attribution(panel, times="1950")


def test_nothing_later_matters(plain: rv.Fit, panel: xr.Dataset) -> None:
    changed = panel.copy(deep=True)
    changed["returns"][8:] = changed["returns"][8:] * -2.0
    changed["characteristics"][9:] = changed["characteristics"][9:] * 0.5
    for name in ("attribution", "sensitivity"):
        before = getattr(plain, name)(panel, num_samples=50)[:9]
        after = getattr(plain, name)(changed, num_samples=50)[:9]
        np.testing.assert_array_equal(before, after)


def test_linear_loadings_have_constant_slopes(panel: xr.Dataset) -> None:
    """With beta = W x + b the slope is W' E[f], whatever the asset."""
    fit = fitted(panel, loadings=rv.loadings.Linear(P, K))
    slopes = fit.sensitivity(panel, num_samples=50)
    weight = fit.model.loadings.layer.weight.detach().double().numpy()  # type: ignore[union-attr]
    mean = fit.factors(panel, kind="predicted", num_samples=50)["mean"].values
    expected = float(fit.model.return_scale) * mean @ weight
    listed = rv.data.listed(panel).values
    np.testing.assert_allclose(
        slopes.values[listed], np.broadcast_to(expected[:, None], slopes.shape)[listed], rtol=1e-9
    )


def test_profile_of_a_fit(plain: rv.Fit, panel: xr.Dataset) -> None:
    mean = plain.factors(panel)["mean"]
    own = xr.DataArray(mean.values, {"time": panel["time"]}, ("time", "known_factor"))
    own = own.assign_coords(known_factor=["one", "two"])
    with pytest.raises(rv.ShapeError, match="`known` must be"):
        plain.factor_profile(panel, known=[1, 2])  # type: ignore[arg-type]
    profile = plain.factor_profile(panel, known=own)
    assert set(profile["characteristic"].values) == {"constant", "c0", "c1", "c2", "c3"}
    assert "known" not in profile  # 14 months are too few to call a factor by a name
    assert int(profile["known_months"]) == panel.sizes["time"]
