"""Prior predictive draws: what the model expects before it has seen a return."""

from __future__ import annotations

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.models.paths import at_level
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, TIME
from rvrae_pyro.predictive.beliefs import in_double
from rvrae_pyro.predictive.months import factor_coord, load, sample_coords

__all__ = ["prior_predictive", "simulate"]


def prior_predictive(
    model: RVRAE, panel: xr.Dataset, num_samples: int = 500, seed: int = 0
) -> xr.DataTree:
    """Draw factors and returns from the model before it has seen any return.

    Parameters
    ----------
    model : RVRAE
        Trained or not: weights are as they are.
    panel : xarray.Dataset
        Its characteristics, context and listing are used. A latent recurrence uses no return at
        all; an observed one is simulated month by month, each month's return drawn before the
        next state is computed.
    num_samples, seed : int

    Returns
    -------
    xarray.DataTree
        Groups ``prior`` (``factors``) and ``prior_predictive`` (``returns`` (chain, draw, time,
        asset), NaN where not listed).
    """
    batch, device = load(model, panel)
    precise = in_double(model).to(device)
    codes, returns = simulate(precise, batch, num_samples, seed)
    factors = precise.decoder(codes, None)
    drawn = returns.cpu().numpy().astype(np.float32)
    drawn[:, ~batch.listed.cpu().numpy()] = np.nan
    coords = sample_coords(num_samples)
    labels = {TIME: batch.times, ASSET: batch.assets}
    with torch.no_grad():
        values = factors.unsqueeze(0).cpu().numpy()
    tree = xr.DataTree.from_dict(
        {
            "prior": xr.Dataset(
                {FACTORS: ((CHAIN, DRAW, TIME, FACTOR), values)},
                coords={**coords, TIME: batch.times, FACTOR: factor_coord(model.n_factors)},
            ),
            "prior_predictive": xr.Dataset(
                {RETURNS: ((CHAIN, DRAW, TIME, ASSET), drawn[None])}, coords={**coords, **labels}
            ),
        }
    )
    tree.attrs["seed"] = seed
    return tree


@torch.no_grad()
def simulate(model: RVRAE, batch: Batch, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw codes and the returns of all assets from the model, whatever was observed.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type.
    batch : Batch
        Characteristics, context and listing; its returns are not used.
    num_samples, seed : int

    Returns
    -------
    codes : Tensor of shape (num_samples, n_times, n_factors)
    returns : Tensor of shape (num_samples, n_times, n_assets)
    """
    with month_random(seed, batch.times[0], "prior"):
        if model.factor_prior.observed:
            return _simulate_forward(model, batch, num_samples)
        return _simulate_at_once(model, batch, num_samples)


def _simulate_at_once(model: RVRAE, batch: Batch, num_samples: int) -> tuple[Tensor, Tensor]:
    """Run the Pyro model itself, with particles on a plate of their own."""
    with pyro.plate("particles", num_samples, dim=-3), pyro.validation_enabled(False):
        trace = poutine.trace(model.model).get_trace(batch.without_returns())
    codes, returns = trace.nodes[FACTORS]["value"], trace.nodes[RETURNS]["value"]
    assert isinstance(codes, Tensor)
    assert isinstance(returns, Tensor)
    codes = codes.squeeze(-2)
    return codes, returns.expand(num_samples, *returns.shape[-2:])


def _simulate_forward(model: RVRAE, batch: Batch, num_samples: int) -> tuple[Tensor, Tensor]:
    """Simulate an observed recurrence: a month's returns move the state of the next."""
    parts, prior = model.parts, model.factor_prior
    cross = parts.online_cross_section(batch)
    context = prior.encode(batch.context)
    state = tuple(s.expand(num_samples, s.shape[-1]) for s in prior.initial())
    codes, returns = [], []
    for t in range(batch.n_times):
        moment = None if context is None else context[t]
        ahead = prior.transition(state, moment)
        level = prior.level(state, moment)
        drawn = ahead.sample(prior.noise(ahead.loc.shape, ahead.loc))
        loc = drawn @ cross.beta[t].mT
        alpha = None if cross.alpha is None else cross.alpha[t]
        loc = loc if alpha is None else loc + alpha
        scale = cross.scale[t].expand_as(loc)
        leveled = scale if level is None else scale * level.exp().unsqueeze(-1)
        value = parts.likelihood.distribution(loc, leveled).sample()
        unit = parts.return_scale
        potential = parts.likelihood.potential(
            (value if alpha is None else value - alpha) / unit,
            cross.beta[t].expand(num_samples, -1, -1) / unit,
            scale / unit,
            batch.listed[t],
            prior.transition(prior.initial(), moment),
        )
        mean = ahead.update(at_level(potential, level)).mean
        state = prior.advance(state, mean, moment)
        codes.append(drawn)
        returns.append(value)
    return torch.stack(codes, 1), torch.stack(returns, 1)
