"""Forecasts, prior draws and relevance where weights have a posterior."""

import numpy as np
import pytest
import torch
import xarray as xr

import rvrae_pyro as rv
from rvrae_pyro.predictive.weight_draws import block_sizes
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import random_panel

SETTINGS = {"progress": False, "config": rv.FitConfig(max_steps=3, window=6)}


def build(weights: object, recurrence: str = "latent", likelihood: object = None) -> rv.RVRAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return rv.RVRAE(
            P,
            K,
            loadings=rv.loadings.MLP(P, K, hidden=(4,), weights=weights),
            factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence=recurrence),
            likelihood=likelihood or rv.likelihoods.Normal(),
        )


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(12, 14)


@pytest.fixture(scope="module")
def fit(panel: xr.Dataset) -> rv.Fit:
    model = build(rv.weights.GroupLog(inference="posterior"), "observed")
    fitted = rv.fit(model, panel, **SETTINGS)
    with torch.no_grad():
        for scale in fitted.model.parts.weight_guide.log_scales.values():
            scale.fill_(np.log(0.3))  # wide, so that the draws differ visibly
    return fitted


def test_blocks_are_of_one_size_and_no_fewer_than_twenty(fit: rv.Fit) -> None:
    assert block_sizes(fit.model, 1000) == [50] * 20
    assert block_sizes(fit.model, 5000) == [50] * 100
    assert block_sizes(fit.model, 7) == [1] * 7
    assert sorted(set(block_sizes(fit.model, 101))) == [5, 6]
    assert block_sizes(build(rv.weights.GroupLog()), 1000) == [1000]
    with pytest.raises(rv.ConfigError, match="`num_samples` must be a whole number"):
        block_sizes(fit.model, 0)


def test_forecast_integrates_over_weights_and_splits_the_variance(
    fit: rv.Fit, panel: xr.Dataset
) -> None:
    tree = fit.forecast(panel, num_samples=2000, times=panel.time[-2:])
    draws = tree["predictions"]["returns"]
    assert draws.sizes["chain"] == 1
    assert draws.sizes["draw"] == 2000
    assert np.unique(draws["weight_draw"]).size == 40
    beta = tree["predictions_constant_data"]["beta_by_weights"]
    assert beta.dims == ("weight_draw", "time", "asset", "factor")
    np.testing.assert_allclose(
        beta.mean("weight_draw"), tree["predictions_constant_data"]["beta"], atol=1e-6
    )
    risk = rv.risk.summarize(tree)
    total = risk["factor_var"] + risk["idio_var"] + risk["parameter_var"]
    variance = draws.astype(float).var(("chain", "draw"))
    np.testing.assert_allclose(total, variance, rtol=1e-9)
    seen = risk["parameter_var"].where(draws.notnull().all(("chain", "draw")))
    assert float(seen.max()) > 0
    assert "note" not in risk["parameter_var"].attrs
    # the factor part is the mean over weights of beta' Cov(f) beta, by hand
    by_hand = []
    for label in range(40):
        own = tree["predictions"]["factors"].isel(draw=draws["weight_draw"].values == label)
        f = own.isel(chain=0).values
        cov = np.einsum("dtk,dtl->tkl", f - f.mean(0), f - f.mean(0)) / len(f)
        b = beta.isel(weight_draw=label).values
        by_hand.append(np.einsum("tnk,tkl,tnl->tn", b, cov, b))
    np.testing.assert_allclose(risk["factor_var"], np.mean(by_hand, 0), rtol=1e-4)


def test_same_seed_same_draws_and_nothing_of_the_future(fit: rv.Fit, panel: xr.Dataset) -> None:
    """Bit-equal twice, and where later months are cut off or changed."""
    times = panel.time[5:8]
    first = fit.forecast(panel, num_samples=40, times=times)
    again = rv.Fit.forecast(fit, panel.copy(deep=True), num_samples=40, times=times)
    shorter = panel.isel(time=slice(0, 8)).copy(deep=True)
    shorter["returns"][-1] = -shorter["returns"][-1]
    earlier = fit.forecast(shorter, num_samples=40, times=times)
    for name in ("returns", "factors"):
        xr.testing.assert_identical(first["predictions"][name], again["predictions"][name])
        xr.testing.assert_identical(first["predictions"][name], earlier["predictions"][name])
    other = fit.forecast(panel, num_samples=40, seed=1, times=times)
    assert not other["predictions"]["returns"].equals(first["predictions"]["returns"])


def test_all_answers_integrate_over_the_weights(fit: rv.Fit, panel: xr.Dataset) -> None:
    factors = fit.factors(panel, num_samples=60)
    assert factors["factors"].shape == (1, 60, 12, K)
    np.testing.assert_allclose(factors["mean"], factors["factors"].mean(("chain", "draw")))
    loadings = fit.loadings(panel)
    at_the_mean = fit.model.loadings(rv.data.to_batch(panel)) * fit.model.return_scale
    gap = loadings.fillna(0.0).to_numpy() - at_the_mean.detach().numpy()
    assert np.abs(gap[loadings.notnull().to_numpy()]).max() > 1e-4
    xr.testing.assert_identical(loadings, fit.loadings(panel))
    replicates = fit.posterior_predictive(panel, num_samples=60)
    assert replicates["posterior_predictive"]["returns"].sizes["draw"] == 60
    assert np.unique(replicates["posterior"]["weight_draw"]).size == 20
    assert bool(np.isfinite(replicates["log_likelihood"]["returns"]).all())
    for values in (fit.idio_scale(panel, 60), fit.reconstruct(panel, 60)):
        assert bool(values.notnull().any())
    parts = fit.attribution(panel, 60)
    known = fit.forecast(panel, num_samples=60)["predictions_constant_data"]
    np.testing.assert_allclose(parts.sum("factor", skipna=False), known["mean"], atol=1e-12)
    np.testing.assert_allclose(known["mean"], known["mean_by_weights"].mean("weight_draw"))
    np.testing.assert_allclose(fit.predict(panel, num_samples=60), known["mean"])
    evidence = fit.log_evidence(panel, 60)
    assert bool(np.isfinite(evidence).all())


def test_draws_stream_to_disk_and_fits_keep_their_posterior(
    fit: rv.Fit, panel: xr.Dataset, tmp_path: object
) -> None:
    memory = fit.forecast(panel, num_samples=20)
    lazy = fit.forecast(panel, num_samples=20, out=tmp_path / "draws.zarr")
    for name in ("returns", "weight_draw"):
        np.testing.assert_array_equal(lazy["predictions"][name], memory["predictions"][name])
    loaded = rv.load(fit.save(tmp_path / "fit"))
    assert loaded.model.weight_sites == fit.model.weight_sites
    again = loaded.forecast(panel, num_samples=20)
    xr.testing.assert_identical(
        again["predictions"].to_dataset(), memory["predictions"].to_dataset()
    )


def test_map_weights_are_one_block(panel: xr.Dataset) -> None:
    fitted = rv.fit(build(rv.weights.GroupLog()), panel, **SETTINGS)
    tree = fitted.forecast(panel, num_samples=30, times=panel.time[-1])
    assert "weight_draw" not in tree["predictions"].coords
    assert "beta_by_weights" not in tree["predictions_constant_data"]
    with pytest.warns(rv.RvraeWarning):
        risk = rv.risk.summarize(tree, tail=0.05)
    assert "not measured" in risk["parameter_var"].attrs["note"]


@pytest.mark.parametrize("recurrence", ["latent", "observed"])
def test_prior_predictive_draws_the_weights(recurrence: str, panel: xr.Dataset) -> None:
    """Moments of 4,000 draws of 16 weights: the sd's own s.e. is 0.3 %, five of them allowed."""
    model = build(rv.weights.Normal(0.5, inference="posterior"), recurrence)
    small = panel.isel(time=slice(0, 2), asset=slice(0, 5))
    tree = rv.prior_predictive(model, small, num_samples=4000)
    drawn = tree["prior"]["loadings.network.0.weight"]
    assert drawn.shape == (1, 4000, 4, P)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.015)
    # the loadings of each draw are those of its own weights
    weights = {name: torch.as_tensor(tree["prior"][name].values[0]) for name in model.weight_sites}
    returns = tree["prior_predictive"]["returns"].isel(chain=0)
    listed = small["characteristics"].notnull().any("characteristic").to_numpy()
    precise = model.double()
    batch = rv.data.to_batch(small, dtype=torch.float64)
    explained = []
    for i in range(300):
        beta = precise.at({n: w[i] for n, w in weights.items()}).loadings(batch)
        f = torch.as_tensor(tree["prior"]["factors"].values[0, i])
        loc = (beta @ f.unsqueeze(-1)).squeeze(-1) * model.return_scale
        explained.append(loc.detach().numpy()[listed])
    seen = returns.values[:300][:, listed]
    # returns are location plus noise of constant scale 0.74 x the unit
    noise = (seen - np.array(explained)).std() / float(model.return_scale)
    assert noise == pytest.approx(np.exp(-0.3), rel=0.15)
    fixed = rv.prior_predictive(build(rv.weights.Normal(0.5)), small, num_samples=5)
    assert list(fixed["prior"].data_vars) == ["factors"]


def test_relevance_is_the_slope_of_linear_loadings(panel: xr.Dataset) -> None:
    model = rv.RVRAE(P, K, loadings=rv.loadings.Linear(P, K))
    fitted = rv.fit(model, panel, **SETTINGS)
    tree = fitted.relevance()
    expected = fitted.model.loadings.layer.weight.detach().norm(dim=0).numpy()
    got = tree["posterior"]["relevance"]
    assert got.dims == ("chain", "draw", "characteristic")
    assert got["characteristic"].values.tolist() == panel["characteristic"].values.tolist()
    # four random probes of 2,400 cells: the cross terms leave a relative error of 3 %
    np.testing.assert_allclose(got.values[0, 0], expected, rtol=0.12)
    assert "point estimate" in tree["posterior"].attrs["note"]
    assert float(tree["posterior"]["share"].sum()) == pytest.approx(1.0)
    on_panel = fitted.relevance(panel)["posterior"]["relevance"]
    np.testing.assert_allclose(on_panel.values[0, 0], expected, rtol=0.3)


def test_relevance_of_a_posterior_has_draws_that_arviz_plots(fit: rv.Fit) -> None:
    import arviz_plots as azp
    import matplotlib.pyplot as plt

    tree = fit.relevance(num_draws=12)
    assert tree["posterior"]["relevance"].shape == (1, 12, P)
    assert float(tree["posterior"]["relevance"].std("draw").min()) > 0
    assert "note" not in tree["posterior"].attrs
    xr.testing.assert_identical(
        tree["posterior"].to_dataset(), fit.relevance(num_draws=12)["posterior"].to_dataset()
    )
    azp.plot_forest(tree, var_names=["relevance"], backend="matplotlib")
    plt.close("all")
