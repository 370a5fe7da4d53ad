"""Forecasts: returns of month t drawn from what is known at the end of t-1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    DRAW,
    FACTOR,
    FACTORS,
    LOG_PRIOR,
    RETURNS,
    TIME,
    WEIGHT_DRAW,
)
from rvrae_pyro.predictive.members import Member, weight_labels
from rvrae_pyro.predictive.months import (
    by_label,
    chunks,
    drawn_from,
    factor_coord,
    pick_months,
    sample_coords,
)
from rvrae_pyro.predictive.storage import Block, Drawing

__all__ = ["forecast"]


def forecast(
    members: Sequence[Member],
    batch: Batch,
    *,
    times: object | None,
    attrs: Mapping[str, str | int],
) -> Drawing:
    """Draw every listed asset's return of month t from what is known at the end of t-1.

    See :meth:`rvrae_pyro.fitting.fit.Fit.forecast`.
    """
    months = pick_months(batch, times)
    num_samples = sum(member.beliefs.predicted.shape[1] for member in members)
    weights = [member.model.parts.state_dict() for member in members]
    identity = drawn_from("forecast", weights, batch, months, num_samples)
    return Drawing(partial(_forecast_blocks, members, batch, months), attrs, identity)


def _forecast_blocks(
    members: Sequence[Member], batch: Batch, months: Sequence[int], done: int
) -> Iterator[Block]:
    sizes = [member.beliefs.predicted.shape[1] for member in members]
    num_samples = sum(sizes)
    for chosen in chunks(months, num_samples * batch.n_assets, done):
        returns = np.full((1, num_samples, len(chosen), batch.n_assets), np.nan, np.float32)
        variance = np.zeros((len(chosen), batch.n_assets))
        start = 0
        for member, size in zip(members, sizes, strict=True):
            draws = slice(start, start + size)
            variance += _draw_months(member, batch, chosen, returns[0, draws]) / len(members)
            start += size
        labels = {TIME: batch.times[list(chosen)], ASSET: batch.assets}
        coords = {**labels, FACTOR: factor_coord(members[0].model.n_factors)}
        sample: dict[str, object] = {**sample_coords(num_samples)}
        if len(members) > 1:
            sample[WEIGHT_DRAW] = (DRAW, weight_labels(sizes))
        loadings = _loadings(members, batch, chosen)
        for member in members:
            member.beliefs.cross.release()
        factors = torch.cat([member.beliefs.predicted[chosen] for member in members], 1)
        log_prior = torch.cat([m.beliefs.predicted_log_prior[chosen] for m in members], 1)
        yield {
            "predictions": xr.Dataset(
                {
                    RETURNS: ((CHAIN, DRAW, TIME, ASSET), returns),
                    FACTORS: (
                        (CHAIN, DRAW, TIME, FACTOR),
                        factors.transpose(0, 1).unsqueeze(0).cpu().numpy(),
                    ),
                    LOG_PRIOR: ((CHAIN, DRAW, TIME), log_prior.T.unsqueeze(0).cpu().numpy()),
                },
                coords={**sample, **coords},
            ),
            "predictions_constant_data": xr.Dataset(
                {
                    **loadings,
                    "idio_scale": ((TIME, ASSET), np.sqrt(variance)),
                },
                coords=coords,
            ),
        }


def _draw_months(
    member: Member, batch: Batch, chosen: Sequence[int], returns: np.ndarray
) -> np.ndarray:
    """Fill in a member's draws (n_draws, n_months, n_assets); return idiosyncratic variances."""
    likelihood, beliefs = member.model.likelihood, member.beliefs
    cross = beliefs.cross
    variance = np.full(returns.shape[1:], np.nan)
    for row, t in enumerate(chosen):
        order = by_label(batch, batch.listed[t].nonzero().squeeze(-1))
        level = None if beliefs.level is None else beliefs.level[t]
        loc, scale = cross.given(t, order, beliefs.predicted[t], level)
        with torch.no_grad(), month_random(member.seed, batch.times[t], "returns"):
            drawn = likelihood.distribution(loc, scale).sample()
            mean_variance = likelihood.deviation(scale).square().mean(0)
        columns = order.cpu().numpy()
        returns[:, row, columns] = drawn.cpu().numpy()
        variance[row, columns] = mean_variance.cpu().numpy()
    return variance


def _loadings(members: Sequence[Member], batch: Batch, chosen: Sequence[int]) -> dict[str, object]:
    """Mean loadings of the members, and those of each where there are several."""
    hidden = ~batch.listed[chosen].unsqueeze(-1)
    each = [m.beliefs.cross.beta[chosen].masked_fill(hidden, torch.nan) for m in members]
    mean = torch.stack(each).mean(0).cpu().numpy()
    found: dict[str, object] = {"beta": ((TIME, ASSET, FACTOR), mean)}
    if len(members) > 1:
        own = torch.stack([beta.float() for beta in each]).cpu().numpy()
        found["beta_by_weights"] = ((WEIGHT_DRAW, TIME, ASSET, FACTOR), own)
    return found
