"""Rotations that were planted are found; what returns can tell is left alone."""

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

import rvrae_pyro as rv

K, T, N, S = 3, 40, 7, 11


@pytest.fixture
def truth() -> tuple[xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(0)
    times = np.datetime64("2000-01-31", "ns") + np.arange(T) * np.timedelta64(30, "D")
    factors = xr.DataArray(
        rng.normal(size=(T, K)) * [3.0, 2.0, 1.0],
        coords={"time": times, "factor": [1, 2, 3]},
        dims=("time", "factor"),
    )
    beta = xr.DataArray(rng.normal(size=(T, N, K)), dims=("time", "asset", "factor"))
    return factors, beta.assign_coords(time=times, factor=[1, 2, 3])


def turned(
    truth: tuple[xr.DataArray, xr.DataArray], maps: list[np.ndarray], noise: float = 0.0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Chains whose factors are f A^-1 and whose loadings are B A'."""
    factors, beta = truth
    rng = np.random.default_rng(1)
    chains, betas = [], []
    for a in maps:
        draws = (factors.to_numpy() @ np.linalg.inv(a))[None] + noise * rng.normal(size=(S, T, K))
        chains.append(draws)
        betas.append(beta.to_numpy() @ a.T)
    dims = ("chain", "draw", "time", "factor")
    coords = {"chain": range(len(maps)), "time": factors.time, "factor": factors.factor}
    return (
        xr.DataArray(np.stack(chains), coords=coords, dims=dims),
        xr.DataArray(np.stack(betas), coords=coords, dims=("chain", "time", "asset", "factor")),
    )


def fitted(factors: xr.DataArray, beta: xr.DataArray) -> xr.DataArray:
    return xr.dot(beta, factors, dim="factor")


MAPS = {
    "rotation": [np.eye(K), *ortho_group.rvs(K, size=2, random_state=3)],
    "signs": [np.eye(K), np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]]), np.diag([1, -1, -1.0])],
    "linear": [np.eye(K), np.array([[2, 0.5, 0], [0, 1, 0.3], [1, 0, 0.5]]), np.diag([3, 1, 0.1])],
}


@pytest.mark.parametrize("freedom", ["rotation", "signs", "linear"])
def test_planted_maps_are_found(truth, freedom) -> None:
    factors, beta = turned(truth, MAPS[freedom])
    found = rv.diagnostics.align(factors, beta, freedom=freedom)
    for c, planted in enumerate(MAPS[freedom]):
        np.testing.assert_allclose(found["rotation"][c], planted, atol=1e-8)
        np.testing.assert_allclose(found["factors"][c, 0], truth[0], atol=1e-8)
        np.testing.assert_allclose(found["loadings"][c], truth[1], atol=1e-8)
    np.testing.assert_allclose(found["agreement"], 1.0)
    np.testing.assert_allclose(found["misfit"], 0.0, atol=1e-12)


@pytest.mark.parametrize("freedom", ["rotation", "signs", "linear"])
def test_what_returns_can_tell_is_left_alone(truth, freedom) -> None:
    factors, beta = turned(truth, MAPS["linear"], noise=0.3)
    found = rv.diagnostics.align(factors, beta, freedom=freedom)
    np.testing.assert_allclose(
        fitted(found["factors"], found["loadings"]).transpose(*["chain", "draw", "time", "asset"]),
        fitted(factors, beta).transpose("chain", "draw", "time", "asset"),
        atol=1e-10,
    )


def test_rotation_is_that_of_scipy_and_helps(truth) -> None:
    factors, _ = turned(truth, MAPS["rotation"], noise=0.5)
    found = rv.diagnostics.align(factors, to=truth[0])
    mean = factors.mean("draw").to_numpy()
    for c in range(3):
        mine = mean[c] - mean[c].mean(0)
        theirs = truth[0].to_numpy() - truth[0].to_numpy().mean(0)
        expected, _ = orthogonal_procrustes(mine, theirs)
        np.testing.assert_allclose(found["rotation"][c], expected, atol=1e-10)
    assert (found["agreement"] > 0.9).all()
    assert (abs(found["before"][1:]) < 0.9).any()
    assert 0 < float(found["misfit"].max()) < 0.1


def test_a_collapsed_factor_does_not_break_the_linear_map(truth) -> None:
    factors, beta = turned(truth, MAPS["rotation"])
    factors[1, ..., 0] = 0.0
    found = rv.diagnostics.align(factors, beta, freedom="linear")
    assert np.isfinite(found["loadings"]).all()


def test_a_rotation_serves_other_months_and_single_fits(truth) -> None:
    factors, beta = turned(truth, MAPS["rotation"])
    early = rv.diagnostics.align(factors.isel(time=slice(0, 25)))
    late = rv.diagnostics.rotate(factors.isel(time=slice(25, None)), early["rotation"])
    np.testing.assert_allclose(late[1, 0], truth[0][25:], atol=1e-8)
    one = rv.diagnostics.rotate(beta[1], early["rotation"][1], loadings=True)
    assert one.dims == beta[1].dims
    np.testing.assert_allclose(one, truth[1], atol=1e-8)


def test_misuse_is_refused(truth) -> None:
    factors, _ = turned(truth, MAPS["rotation"])
    with pytest.raises(rv.ShapeError, match="concat"):
        rv.diagnostics.align(truth[0])
    with pytest.raises(rv.ShapeError, match="months and factors"):
        rv.diagnostics.align(factors, to=truth[0].isel(time=slice(3, None)))
    with pytest.raises(rv.ShapeError, match=r"\(time, factor\)"):
        rv.diagnostics.align(factors, to=factors)
    with pytest.raises(rv.ConfigError, match="'linear'"):
        rv.diagnostics.align(factors, freedom="any")
    rotation = rv.diagnostics.align(factors)["rotation"]
    with pytest.raises(rv.ShapeError, match="without"):
        rv.diagnostics.rotate(truth[0], rotation)
