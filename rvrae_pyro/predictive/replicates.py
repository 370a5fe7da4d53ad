"""Replicates of seen months: posterior predictive draws given the months' own returns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.importance import prior_terms
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, OBS, RETURNS, TIME
from rvrae_pyro.predictive.beliefs import in_double
from rvrae_pyro.predictive.months import chunks, factor_coord, load, pick_months, sample_coords
from rvrae_pyro.predictive.storage import Block, assemble

__all__ = ["posterior_predictive"]


def posterior_predictive(
    model: RVRAE,
    panel: xr.Dataset,
    *,
    num_samples: int,
    seed: int,
    times: object | None,
    out: str | os.PathLike[str] | None,
    attrs: Mapping[str, str | int],
) -> xr.DataTree:
    """Replicate seen months: factors from the guide, returns anew for every observed cell.

    See :meth:`rvrae_pyro.fitting.fit.Fit.posterior_predictive`.
    """
    batch, device = load(model, panel)
    months = pick_months(batch, times)
    # the whole path is drawn whatever months are asked for: they are then those of a full run
    if not bool(batch.observed[months].any()):
        raise ConfigError(
            "`times` must hold at least one observed return to replicate; got none. Use "
            "forecast(...) for months that have not been seen."
        )
    precise = in_double(model).to(device)
    blocks = _replicate_blocks(precise, batch, months, num_samples, seed)
    return assemble(blocks, attrs, out)


@torch.no_grad()
def _replicate_blocks(
    model: RVRAE, batch: Batch, months: Sequence[int], num_samples: int, seed: int
) -> Iterator[Block]:
    parts = model.parts
    shared = parts.prepare(batch, parts.online_cross_section(batch))
    weight = batch.returns.new_ones(batch.n_times)
    with month_random(seed, batch.times[0], "path"):
        proposal = parts.guide(batch, shared.cross.potential, shared.view, weight)
        draws = proposal.expand((num_samples, batch.n_times, 1)).rsample()
        log_q = proposal.expand((num_samples, batch.n_times, 1)).log_prob(draws).squeeze(-1)
    codes = draws.squeeze(-2)
    log_prior, level = prior_terms(shared.view, codes)
    factors = parts.decoder(codes, batch.state("decoder") or None)
    identity = factors is codes
    for chosen in chunks(months, num_samples * batch.n_assets):
        rows = []
        for t in chosen:
            seen = batch.observed[t].nonzero().squeeze(-1)
            loc = factors[:, t] @ shared.cross.beta[t, seen].mT
            if shared.cross.alpha is not None:
                loc = loc + shared.cross.alpha[t, seen]
            scale = shared.cross.scale[t, seen]
            if level is not None:
                scale = scale * level[..., t].exp().unsqueeze(-1)
            likelihood = parts.likelihood.distribution(loc, scale.expand_as(loc))
            with month_random(seed, batch.times[t], "replicates"):
                replicate = likelihood.sample()
            density = likelihood.log_prob(batch.returns[t, seen])
            rows.append((t, seen, replicate, density))
        yield _replicate_block(
            batch, rows, num_samples, factors, codes, identity, log_prior, log_q, chosen
        )


def _replicate_block(
    batch: Batch,
    rows: Sequence[tuple[int, Tensor, Tensor, Tensor]],
    num_samples: int,
    factors: Tensor,
    codes: Tensor,
    identity: bool,
    log_prior: Tensor,
    log_q: Tensor,
    chosen: Sequence[int],
) -> Block:
    """Make the groups of a few replicated months, over observed cells only."""
    when = np.concatenate([np.full(len(seen), t) for t, seen, _, _ in rows])
    who = np.concatenate([seen.cpu().numpy() for _, seen, _, _ in rows])
    cells = {
        TIME: (OBS, batch.times[when]),
        ASSET: (OBS, batch.assets[who]),
    }
    sample = sample_coords(num_samples)
    over_cells = (CHAIN, DRAW, OBS)

    def stacked(tensors: Sequence[Tensor]) -> np.ndarray:
        return torch.cat(list(tensors), -1).unsqueeze(0).float().cpu().numpy()

    months = {TIME: batch.times[list(chosen)]}
    factor = {FACTOR: factor_coord(factors.shape[-1])}
    posterior = {FACTORS: ((CHAIN, DRAW, TIME, FACTOR), _months_last(factors, chosen))}
    if not identity:
        posterior["latents"] = ((CHAIN, DRAW, TIME, FACTOR), _months_last(codes, chosen))
    likelihoods = torch.stack([density.sum(-1) for *_, density in rows], -1)
    lp = (log_prior[..., list(chosen)] + likelihoods).unsqueeze(0).cpu().numpy()
    observed = batch.returns[torch.as_tensor(when), torch.as_tensor(who)].cpu().numpy()
    return {
        "posterior": xr.Dataset(posterior, coords={**sample, **months, **factor}),
        "posterior_predictive": xr.Dataset(
            {RETURNS: (over_cells, stacked([r for _, _, r, _ in rows]))}, coords={**sample, **cells}
        ),
        "log_likelihood": xr.Dataset(
            {RETURNS: (over_cells, stacked([d for *_, d in rows]))}, coords={**sample, **cells}
        ),
        "observed_data": xr.Dataset({RETURNS: (OBS, observed)}, coords=cells),
        "sample_stats": xr.Dataset(
            {
                "lp": ((CHAIN, DRAW, TIME), lp),
                "log_q": (
                    (CHAIN, DRAW, TIME),
                    log_q[..., list(chosen)].unsqueeze(0).cpu().numpy(),
                ),
            },
            coords={**sample, **months},
        ),
    }


def _months_last(values: Tensor, chosen: Sequence[int]) -> np.ndarray:
    return values[..., list(chosen), :].unsqueeze(0).cpu().numpy()
