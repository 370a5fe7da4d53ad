"""Panels and models that many tests share: small, unbalanced, in double precision."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch, to_batch

CHARACTERISTICS = 4
FACTORS = 2


def random_panel(
    n_times: int = 12,
    n_assets: int = 14,
    *,
    n_characteristics: int = CHARACTERISTICS,
    seed: int = 0,
    empty_months: Sequence[int] = (),
    frequency: str = "monthly",
) -> xr.Dataset:
    """Simulate a small market: late entry, early exit, suspension, missing returns, context."""
    panel = rv.data.simulate_dynamic(
        n_assets, n_times, n_characteristics, 2, turnover=0.6, missing=0.1, seed=seed
    )
    panel = panel[["returns", "characteristics", "context"]]
    for month in empty_months:
        panel["returns"][month] = np.nan
    if frequency == "weekly":
        fridays = np.datetime64("2015-01-02", "ns") + np.arange(n_times) * np.timedelta64(7, "D")
        panel = panel.assign_coords(time=fridays)
        panel.attrs["frequency"] = "weekly"
    return panel


def double(panel: xr.Dataset) -> Batch:
    """Turn a panel into a batch in double precision."""
    return to_batch(panel, dtype=torch.float64)


def stir(model: rv.RVRAE, seed: int = 0, size: float = 0.3) -> rv.RVRAE:
    """Move every weight at random, so that no zero of the initialisation hides an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parts.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(size * noise.to(weight.dtype))
    return model


def fixed_loadings(n_factors: int, scale: float = 1.0) -> rv.loadings.Linear:
    """Loadings that are the characteristics themselves, per unit of return."""
    part = rv.loadings.Linear(n_factors, n_factors)
    with torch.no_grad():
        part.layer.weight.copy_(scale * torch.eye(n_factors))
        part.layer.bias.zero_()
    return part


def linear_gaussian(
    batch: Batch, *, phi: float = 0.9, q: float = 0.5, noise: float = 1.0, guide: object = None
) -> rv.RVRAE:
    """Build the model that the linear-Gaussian simulator draws from, in its own units."""
    k = batch.n_characteristics
    prior = rv.priors.AR1(k)
    likelihood = rv.likelihoods.Normal()
    model = rv.RVRAE(
        k,
        k,
        loadings=fixed_loadings(k),
        factor_prior=prior,
        likelihood=likelihood,
        guide=guide or rv.guides.Conjugate(),
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(1.0)
        prior.unbounded_coefficient.fill_(float(np.arctanh(phi)))
        prior.log_scale.fill_(0.5 * float(np.log(q)))
        likelihood.scale.log_scale.fill_(float(np.log(noise)))
    return model


def raw_batch(returns: np.ndarray, beta: np.ndarray, observed: np.ndarray) -> Batch:
    """Build a batch from plain arrays, whatever the size of the returns."""
    n_times, n_assets, n_factors = beta.shape
    months = np.datetime64("2000-01") + np.arange(n_times).astype("timedelta64[M]")
    return Batch(
        returns=torch.as_tensor(np.where(observed, returns, 0.0)),
        observed=torch.as_tensor(observed),
        listed=torch.ones(n_times, n_assets, dtype=torch.bool),
        characteristics=torch.as_tensor(beta),
        context=None,
        times=months.astype("datetime64[ns]"),
        assets=np.array([f"A{i:02d}" for i in range(n_assets)]),
        names=np.array([f"c{k}" for k in range(n_factors)]),
    )


def simulate_linear_gaussian(
    n_assets: int, phi: float, q: float, *, missing: float = 0.2, n_times: int = 40
) -> Batch:
    """Draw the panel of the reference table: unit noise, two factors, seed 0."""
    panel = rv.data.simulate_linear_gaussian(
        n_assets, n_times, 2, phi=phi, q=q, noise_scale=1.0, missing=missing, seed=0
    )
    returns = panel["returns"].to_numpy()
    return raw_batch(returns, panel["characteristics"].to_numpy(), ~np.isnan(returns))


def log_weights(model: rv.RVRAE, batch: Batch, num_particles: int, seed: int = 0) -> Tensor:
    """Log importance weights log p(z, r) - log q(z) of draws of the guide, each of a whole path."""
    import pyro
    from pyro import poutine

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plate = pyro.plate("particles", num_particles, dim=-3)
        guide = poutine.trace(plate(model.guide)).get_trace(batch)
        trace = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(batch)
        guide.compute_log_prob()
        trace.compute_log_prob()
        latents = [site for site in ("log_volatility", "factors") if site in guide.nodes]
        total = trace.nodes["returns"]["log_prob"].sum((-1, -2))
        for site in latents:
            ratio = trace.nodes[site]["log_prob"] - guide.nodes[site]["log_prob"]
            total = total + ratio.sum((-1, -2))
    return total
