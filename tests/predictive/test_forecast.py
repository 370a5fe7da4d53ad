"""Forecasts: groups, labels, selections, files, and the moments that a linear model implies."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, fixed_loadings, random_panel, stir

N_TIMES = 9


def as_fit(model: rv.RVRAE) -> rv.Fit:
    nothing = xr.DataArray(np.zeros((0, 0)), dims=("step", "time"))
    return rv.Fit(
        model, rv.FitConfig(), 0, pd.DataFrame(), nothing, nothing, "max_steps", 0, {"seed": 0}
    )


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(N_TIMES, 10, seed=1, empty_months=[N_TIMES - 1])


@pytest.fixture(scope="module")
def fit() -> rv.Fit:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return as_fit(stir(rv.RVRAE(P, K, n_context=2), size=0.2))


def test_groups_dimensions_and_labels(fit: rv.Fit, panel: xr.Dataset) -> None:
    """The last month is live: no return yet, and a forecast."""
    tree = fit.forecast(panel, num_samples=7)
    assert set(tree.groups) == {"/", "/predictions", "/predictions_constant_data"}
    predictions, known = tree["predictions"], tree["predictions_constant_data"]
    assert predictions["returns"].dims == ("chain", "draw", "time", "asset")
    assert predictions["returns"].shape == (1, 7, N_TIMES, 10)
    assert predictions["factors"].dims == ("chain", "draw", "time", "factor")
    assert known["beta"].dims == ("time", "asset", "factor")
    assert known["idio_scale"].dims == ("time", "asset")
    np.testing.assert_array_equal(predictions["time"], panel["time"])
    np.testing.assert_array_equal(predictions["asset"], panel["asset"])
    np.testing.assert_array_equal(predictions["factor"], [1, 2])
    live = predictions["returns"].isel(time=-1)
    listed = panel["characteristics"].isel(time=-1).notnull().any("characteristic")
    assert bool((live.notnull().all(("chain", "draw")) == listed).all())
    assert tree.attrs["draw_seed"] == 0
    assert len(tree.attrs["panel_fingerprint"]) > 10
    xr.testing.assert_allclose(known["beta"].drop_attrs(), fit.loadings(panel).drop_attrs())


def test_same_seed_same_bits_and_another_seed_others(fit: rv.Fit, panel: xr.Dataset) -> None:
    state = torch.get_rng_state()
    first, again, other = (
        fit.forecast(panel, num_samples=5, seed=seed)["predictions"]["returns"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other, equal_nan=True)


@pytest.mark.parametrize(
    "pick",
    [
        lambda t: t[4],
        lambda t: t[[2, 3, 7]],
        lambda t: [pd.Timestamp(t[6]), pd.Timestamp(t[1])],
        lambda t: slice(t[3], t[5]),
        lambda t: str(t[8])[:7],
    ],
    ids=["label", "labels", "unordered", "slice", "month"],
)
def test_chosen_months_are_those_of_a_full_run(
    fit: rv.Fit, panel: xr.Dataset, pick: object
) -> None:
    times = pick(panel["time"].to_numpy())
    part = fit.forecast(panel, num_samples=5, times=times)
    whole = fit.forecast(panel, num_samples=5)
    for group in ("predictions", "predictions_constant_data"):
        chosen = part[group].to_dataset()
        assert chosen.sizes["time"] in (1, 2, 3)
        assert chosen["time"].to_index().is_monotonic_increasing
        xr.testing.assert_identical(chosen, whole[group].to_dataset().sel(time=chosen["time"]))


@pytest.mark.parametrize("times", ["1999-01", [], pd.Timestamp("2050-01-31"), object()])
def test_months_outside_the_panel_are_refused(
    fit: rv.Fit, panel: xr.Dataset, times: object
) -> None:
    with pytest.raises(rv.ConfigError, match="`times` must name"):
        fit.forecast(panel, num_samples=2, times=times)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5])
def test_impossible_number_of_draws_is_refused(
    fit: rv.Fit, panel: xr.Dataset, num_samples: object
) -> None:
    with pytest.raises(rv.ConfigError, match="`num_samples` must be a whole number"):
        fit.forecast(panel, num_samples=num_samples)


def test_other_characteristics_are_refused(fit: rv.Fit, panel: xr.Dataset) -> None:
    with pytest.raises(rv.ShapeError, match=f"`characteristics` must have {P} columns"):
        fit.forecast(panel.isel(characteristic=slice(0, 3)), num_samples=2)


def test_streamed_draws_equal_those_in_memory(
    fit: rv.Fit, panel: xr.Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "draws.zarr"
    memory = fit.forecast(panel, num_samples=5)
    # numbers as they come out of arrays are written as well
    streamed = fit.forecast(panel, np.int64(5), np.int64(0), out=path)
    assert path.is_dir()
    for group in ("predictions", "predictions_constant_data"):
        ours, theirs = streamed[group].to_dataset().load(), memory[group].to_dataset()
        assert set(ours.variables) == set(theirs.variables)
        for name in theirs.variables:
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].dims == theirs[name].dims
    assert streamed.attrs["draw_seed"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["draws.zarr"]


def test_longer_panel_filters_on_without_a_refit(fit: rv.Fit) -> None:
    longer = random_panel(14, 10, seed=1)
    ours = fit.forecast(longer, num_samples=5)["predictions"]["returns"]
    theirs = fit.forecast(longer.isel(time=slice(0, 10)), num_samples=5)["predictions"]["returns"]
    np.testing.assert_array_equal(ours.isel(time=slice(0, 10)), theirs)


@pytest.mark.statistical
def test_moments_of_the_linear_gaussian_model() -> None:
    """Means and deviations of 40,000 draws, 6 months and 8 assets, within 5 standard errors.

    About 100 comparisons: fails for one seed in 10,000; the seed is fixed.
    """
    panel = rv.data.simulate_linear_gaussian(8, 6, 2, missing=0.2, seed=1)
    model = rv.RVRAE(
        2,
        2,
        loadings=fixed_loadings(2),
        factor_prior=rv.priors.AR1(2),
        likelihood=rv.likelihoods.Normal(),
    )
    model = model.double()
    with torch.no_grad():
        model.factor_prior.unbounded_coefficient.fill_(float(np.arctanh(0.9)))
        model.factor_prior.loc.copy_(torch.tensor([0.2, -0.1]))
        moments = rv.exact.filtered(model, double(panel))
        beta = model.parts.cross_section(double(panel)).beta
        scale = model.likelihood.scale.log_scale.exp() * model.return_scale
    n = 40_000
    drawn = as_fit(model).forecast(panel, num_samples=n)["predictions"]["returns"][0].to_numpy()
    mean = (beta @ moments.predicted_mean.unsqueeze(-1)).squeeze(-1).numpy()
    spread = ((beta @ moments.predicted_covariance) * beta).sum(-1) + scale**2
    sd = spread.sqrt().numpy()
    assert np.abs((drawn.mean(0) - mean) / sd).max() < 5 / math.sqrt(n)
    assert np.abs(drawn.std(0) / sd - 1).max() < 5 / math.sqrt(2 * n)
    # assets of a month move together as their loadings say
    covariance = beta @ moments.predicted_covariance @ beta.mT + scale**2 * torch.eye(8)
    sample = np.cov(drawn[:, 3].T)
    bound = np.outer(sd[3], sd[3]) * 6 * math.sqrt(2 / n)
    assert (np.abs(sample - covariance[3].numpy()) < bound).all()
    idio = as_fit(model).idio_scale(panel)
    np.testing.assert_allclose(idio, float(scale), rtol=1e-9)


def test_student_t_scale_is_a_standard_deviation() -> None:
    model = rv.RVRAE(
        P, K, factor_prior=rv.priors.AR1(K), likelihood=rv.likelihoods.StudentT(df=6.0)
    )
    panel = random_panel(4, 6)
    with torch.no_grad():
        scale = model.likelihood.scale.log_scale.exp() * model.return_scale
    values = as_fit(model).idio_scale(panel)
    np.testing.assert_allclose(
        values.where(values.notnull(), drop=True).max(), float(scale) * math.sqrt(6 / 4), rtol=1e-6
    )
