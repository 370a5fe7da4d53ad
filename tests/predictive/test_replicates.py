"""Replicates of seen months: groups, cells, densities, selections and files."""

import math
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine

import rvrae_pyro as rv
from rvrae_pyro.predictive.weight_draws import in_double
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K
from tests.helpers import double, random_panel, stir
from tests.predictive.test_forecast import as_fit

MODELS = {
    "default": lambda: rv.RVRAE(
        P, K, factor_prior=rv.priors.Recurrent(K, n_context=2), n_context=2
    ),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=4),
    "observed": lambda: rv.RVRAE(
        P,
        K,
        factor_prior=rv.priors.Recurrent(K, hidden=3, recurrence="observed"),
        likelihood=rv.likelihoods.Normal(alpha=rv.likelihoods.Alpha(P)),
    ),
}


def build(kind: str) -> rv.Fit:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return as_fit(stir(MODELS[kind](), size=0.2))


FITS = {kind: build(kind) for kind in MODELS}


@pytest.fixture(scope="module")
def panel() -> xr.Dataset:
    return random_panel(8, 10, seed=1, empty_months=[3])


@pytest.mark.parametrize("kind", list(MODELS))
def test_groups_dimensions_and_cells(kind: str, panel: xr.Dataset) -> None:
    tree = FITS[kind].posterior_predictive(panel, num_samples=6)
    expected = {
        "/posterior", "/posterior_predictive", "/log_likelihood", "/observed_data",
        "/sample_stats", "/constant_data",
    }  # fmt: skip
    assert expected <= set(tree.groups)
    assert tree["posterior"]["factors"].dims == ("chain", "draw", "time", "factor")
    assert ("latents" in tree["posterior"]) == (kind == "paper")
    for group in ("posterior_predictive", "log_likelihood"):
        assert tree[group]["returns"].dims == ("chain", "draw", "obs")
        assert bool(np.isfinite(tree[group]["returns"]).all())
    observed = tree["observed_data"]["returns"]
    assert observed.dims == ("obs",)
    batch = double(panel)
    assert observed.sizes["obs"] == int(batch.observed.sum())
    for cell in (0, 7, -1):
        when, who = (observed[c].to_numpy()[cell] for c in ("time", "asset"))
        seen = panel["returns"].sel(time=when, asset=who).item()
        assert observed.to_numpy()[cell] == pytest.approx(seen)
    for name in ("lp", "log_q"):
        assert tree["sample_stats"][name].dims == ("chain", "draw", "time")


@pytest.mark.parametrize("kind", list(MODELS))
def test_densities_are_those_of_the_pair(kind: str, panel: xr.Dataset) -> None:
    """Log likelihood by cell, lp and log_q by month, at each draw of the path."""
    fit = FITS[kind]
    tree = fit.posterior_predictive(panel, num_samples=3)
    model, batch = in_double(fit.model), double(panel)
    name = "latents" if kind == "paper" else "factors"
    for draw in range(3):
        path = torch.as_tensor(tree["posterior"][name][0, draw].to_numpy()).unsqueeze(-2)
        fixed = {"factors": path}
        guide = poutine.trace(poutine.condition(model.guide, fixed)).get_trace(batch)
        trace = poutine.trace(poutine.condition(model.model, fixed)).get_trace(batch)
        guide.compute_log_prob()
        trace.compute_log_prob()
        cells = trace.nodes["returns"]["log_prob"][batch.observed].detach()
        np.testing.assert_allclose(
            tree["log_likelihood"]["returns"][0, draw], cells, rtol=1e-4, atol=1e-4
        )
        prior = trace.nodes["factors"]["log_prob"].squeeze(-1).detach()
        total = prior + trace.nodes["returns"]["log_prob"].sum(-1).detach()
        np.testing.assert_allclose(tree["sample_stats"]["lp"][0, draw], total, rtol=1e-8)
        log_q = guide.nodes["factors"]["log_prob"].squeeze(-1).detach()
        np.testing.assert_allclose(tree["sample_stats"]["log_q"][0, draw], log_q, rtol=1e-8)
        if kind == "paper":
            decoded = trace.nodes["decoded_factors"]["value"].squeeze(-2).detach()
            np.testing.assert_allclose(tree["posterior"]["factors"][0, draw], decoded, rtol=1e-8)


@pytest.mark.parametrize("kind", list(MODELS))
def test_chosen_months_are_those_of_a_full_run(kind: str, panel: xr.Dataset) -> None:
    times = panel["time"].to_numpy()[[1, 2, 5]]
    part = FITS[kind].posterior_predictive(panel, num_samples=4, times=times)
    whole = FITS[kind].posterior_predictive(panel, num_samples=4)
    keep = np.isin(whole["observed_data"]["time"], times)
    for group in ("posterior_predictive", "log_likelihood", "observed_data"):
        expected = whole[group].to_dataset().isel(obs=keep)
        xr.testing.assert_identical(part[group].to_dataset(), expected)
    for group in ("posterior", "sample_stats"):
        expected = whole[group].to_dataset().sel(time=times)
        xr.testing.assert_identical(part[group].to_dataset(), expected)


def test_streamed_draws_equal_those_in_memory(panel: xr.Dataset, tmp_path: Path) -> None:
    fit = FITS["paper"]
    memory = fit.posterior_predictive(panel, num_samples=4)
    streamed = fit.posterior_predictive(panel, np.int64(4), np.int64(0), out=tmp_path / "d.zarr")
    assert set(streamed.groups) == set(memory.groups)
    for group in memory.groups[1:]:
        ours, theirs = streamed[group].to_dataset().load(), memory[group].to_dataset()
        for name in theirs.variables:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{group}/{name}")


@pytest.mark.parametrize("kind", list(MODELS))
def test_known_loadings_and_scales_are_those_of_the_fit(kind: str, panel: xr.Dataset) -> None:
    fit = FITS[kind]
    known = fit.posterior_predictive(panel, num_samples=6)["constant_data"]
    assert known["beta"].dims == ("time", "asset", "factor")
    assert known["idio_scale"].dims == ("time", "asset")
    np.testing.assert_array_equal(known["beta"].values, fit.loadings(panel).values)
    scale = fit.idio_scale(panel, num_samples=6)
    np.testing.assert_array_equal(known["idio_scale"].isnull(), scale.isnull())
    if kind != "default":  # there the scales follow the factors' own path
        np.testing.assert_allclose(known["idio_scale"], scale, rtol=1e-12)


def test_months_without_a_return_are_refused(panel: xr.Dataset) -> None:
    with pytest.raises(rv.ConfigError, match=r"at least one observed return.*forecast"):
        FITS["default"].posterior_predictive(
            panel, num_samples=2, times=panel["time"].to_numpy()[3]
        )


@pytest.mark.statistical
def test_replicates_have_the_moments_of_their_factors(panel: xr.Dataset) -> None:
    """Standardised by the location and scale of its draw, a replicate is a standard Normal.

    4000 draws of each cell: the largest of some hundred means within 5 standard errors.
    """
    fit = FITS["observed"]
    n = 4000
    tree = fit.posterior_predictive(panel, num_samples=n)
    model, batch = in_double(fit.model), double(panel)
    with torch.no_grad():
        shared = model.parts.prepare(batch)
        factors = torch.as_tensor(tree["posterior"]["factors"][0].to_numpy())
        loc = shared.cross.location(factors)[:, batch.observed]
        scale = shared.cross.scale_at(shared.view.walk.level)[batch.observed]
    z = (torch.as_tensor(tree["posterior_predictive"]["returns"][0].to_numpy()) - loc) / scale
    assert z.mean(0).abs().max() < 5 / math.sqrt(n)
    assert (z.std(0) - 1).abs().max() < 5 / math.sqrt(2 * n)
    density = dist.Normal(0.0, 1.0).cdf(z)
    assert abs(density.mean().item() - 0.5) < 0.01
