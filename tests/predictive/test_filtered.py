"""Factors as filtered, smoothed and predicted; loadings, scales and fitted returns."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive.filtering import filter_states
from rvrae_pyro.predictive.weight_draws import in_double
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir
from tests.predictive.test_forecast import as_fit


def exact_model() -> rv.RVRAE:
    model = rv.RVRAE(P, K, factor_prior=rv.priors.AR1(K), likelihood=rv.likelihoods.Normal())
    return stir(model, size=0.2)


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(10, 12, seed=1, empty_months=[4])


def test_shapes_labels_and_summaries(panel: xr.Dataset) -> None:
    fit = as_fit(rv.RVRAE(P, K))
    for kind in ("filtered", "smoothed", "predicted"):
        told = fit.factors(panel, kind, num_samples=9, seed=2)
        assert told["factors"].dims == ("chain", "draw", "time", "factor")
        assert told["factors"].shape == (1, 9, 10, K)
        draws = told["factors"].mean(("chain", "draw"))
        # the mean of "predicted" is that of the conditional means, here of an untrained prior
        np.testing.assert_allclose(told["mean"], 0.0 * draws if kind == "predicted" else draws)
        np.testing.assert_allclose(told["sd"], told["factors"].std(("chain", "draw")))
        assert told.attrs["kind"] == kind
    with pytest.raises(rv.ConfigError, match="'filtered', 'smoothed' or 'predicted'"):
        fit.factors(panel, "guessed", num_samples=3)


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["filtered", "smoothed", "predicted"])
def test_exact_model_draws_from_its_closed_form(kind: str, panel: xr.Dataset) -> None:
    """20,000 draws, 20 means and deviations within 5 standard errors: 1 seed in 50,000 fails."""
    model, n = exact_model(), 20_000
    precise = in_double(model)
    with torch.no_grad():
        moments = (
            rv.exact.smoother(precise, double(panel))
            if kind == "smoothed"
            else rv.exact.filtered(precise, double(panel))
        )
    mean = moments.predicted_mean if kind == "predicted" else moments.mean
    spread = moments.predicted_covariance if kind == "predicted" else moments.covariance
    sd = spread.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    told = as_fit(model).factors(panel, kind, num_samples=n)
    assert np.abs((told["mean"] - mean.numpy()) / sd).max() < 5 / math.sqrt(n)
    assert np.abs(told["sd"] / sd - 1).max() < 5 / math.sqrt(2 * n)


def test_filtered_evidence_is_exact_where_it_can_be(panel: xr.Dataset) -> None:
    precise, batch = in_double(exact_model()), double(panel)
    with torch.no_grad():
        expected = rv.exact.month_evidence(precise, batch)
    torch.testing.assert_close(filter_states(precise, batch, 3, 0).log_evidence, expected)


def test_loadings_are_those_of_the_model_in_units_of_return(panel: xr.Dataset) -> None:
    model = stir(rv.RVRAE(P, K), size=0.2)
    beta = as_fit(model).loadings(panel)
    assert beta.dims == ("time", "asset", "factor")
    batch = double(panel)
    precise = in_double(model)
    with torch.no_grad():
        expected = precise.loadings(batch) * precise.return_scale
    listed = batch.listed.numpy()
    np.testing.assert_allclose(beta.to_numpy()[listed], expected.numpy()[listed], rtol=1e-9)
    assert np.isnan(beta.to_numpy()[~listed]).all()


def test_fitted_returns_are_loadings_times_filtered_means(panel: xr.Dataset) -> None:
    fit = as_fit(stir(rv.RVRAE(P, K), size=0.2))
    fitted = fit.reconstruct(panel, num_samples=20)
    mean = fit.factors(panel, "filtered", num_samples=20)["mean"]
    expected = (fit.loadings(panel) * mean).sum("factor", skipna=False)
    np.testing.assert_allclose(fitted, expected.transpose(*fitted.dims), rtol=1e-6)


def test_scale_averages_over_the_level(panel: xr.Dataset) -> None:
    """The variance of a month is the mean over what its level may be, known before the month."""
    model = stir(rv.RVRAE(P, K), size=0.3)
    fit, precise = as_fit(model), in_double(model)
    scale = fit.idio_scale(panel, num_samples=200)
    states = filter_states(precise, double(panel), 200, 0)
    with torch.no_grad():
        base = precise.likelihood.deviation(states.cross.scale)
        factor = (2 * states.level).exp().mean(1, keepdim=True).sqrt()
        expected = (base * factor).numpy()
    listed = double(panel).listed.numpy()
    np.testing.assert_allclose(scale.to_numpy()[listed], expected[listed], rtol=1e-9)


def test_double_precision_copy_leaves_the_model_alone() -> None:
    model = rv.RVRAE(P, K)
    copy = in_double(model)
    assert {p.dtype for p in copy.parts.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parts.parameters()} == {torch.float32}
    assert not copy.training
    assert model.training


def test_asking_leaves_weights_random_stream_and_panel_as_they_were(panel: xr.Dataset) -> None:
    fit = as_fit(rv.RVRAE(P, K))
    state = torch.get_rng_state()
    weights = {k: v.clone() for k, v in fit.model.parts.state_dict().items()}
    before = panel.copy(deep=True)
    fit.factors(panel, num_samples=3)
    fit.reconstruct(panel, num_samples=3)
    fit.posterior_predictive(panel, num_samples=3)
    fit.forecast(panel, num_samples=3)
    assert torch.equal(torch.get_rng_state(), state)
    xr.testing.assert_identical(panel, before)
    for name, value in fit.model.parts.state_dict().items():
        assert torch.equal(value, weights[name])
