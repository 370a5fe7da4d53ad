"""Forecasts: returns of month t drawn from what is known at the end of t-1."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, TIME
from rvrae_pyro.predictive.beliefs import Beliefs, in_double
from rvrae_pyro.predictive.months import chunks, factor_coord, pick_months, sample_coords
from rvrae_pyro.predictive.storage import Block, assemble

__all__ = ["forecast"]


def forecast(
    model: RVRAE,
    batch: Batch,
    beliefs: Beliefs,
    *,
    seed: int,
    times: object | None,
    out: str | os.PathLike[str] | None,
    attrs: Mapping[str, str | int],
) -> xr.DataTree:
    """Draw every listed asset's return of month t from what is known at the end of t-1.

    See :meth:`rvrae_pyro.fitting.fit.Fit.forecast`.
    """
    months = pick_months(batch, times)
    blocks = _forecast_blocks(in_double(model), batch, beliefs, months, seed)
    return assemble(blocks, attrs, out)


def _forecast_blocks(
    model: RVRAE, batch: Batch, beliefs: Beliefs, months: Sequence[int], seed: int
) -> Iterator[Block]:
    likelihood, cross = model.likelihood, beliefs.cross
    n_factors, num_samples = model.n_factors, beliefs.predicted.shape[1]
    for chosen in chunks(months, num_samples * batch.n_assets):
        returns = np.full((1, num_samples, len(chosen), batch.n_assets), np.nan, np.float32)
        deviation = np.full((len(chosen), batch.n_assets), np.nan)
        for row, t in enumerate(chosen):
            order = _listed_in_order(batch, t)
            factors = beliefs.predicted[t]
            loc = factors @ cross.beta[t, order].mT
            if cross.alpha is not None:
                loc = loc + cross.alpha[t, order]
            scale = cross.scale[t, order]
            if beliefs.level is not None:
                scale = scale * beliefs.level[t].exp().unsqueeze(-1)
            with torch.no_grad(), month_random(seed, batch.times[t], "returns"):
                drawn = likelihood.distribution(loc, scale.expand_as(loc)).sample()
                sd = likelihood.deviation(scale.expand_as(loc)).square().mean(0).sqrt()
            columns = order.cpu().numpy()
            returns[0, :, row, columns] = drawn.T.cpu().numpy()
            deviation[row, columns] = sd.cpu().numpy()
        sample = sample_coords(num_samples)
        drawn_factors = beliefs.predicted[chosen].transpose(0, 1).unsqueeze(0).cpu().numpy()
        coords = {TIME: batch.times[list(chosen)], ASSET: batch.assets}
        factor = {FACTOR: factor_coord(n_factors)}
        yield {
            "predictions": xr.Dataset(
                {
                    RETURNS: ((CHAIN, DRAW, TIME, ASSET), returns),
                    FACTORS: ((CHAIN, DRAW, TIME, FACTOR), drawn_factors),
                },
                coords={**sample, **coords, **factor},
            ),
            "predictions_constant_data": xr.Dataset(
                {
                    "beta": (
                        (TIME, ASSET, FACTOR),
                        _unlisted_to_nan(cross.beta, batch)[chosen].cpu().numpy(),
                    ),
                    "idio_scale": ((TIME, ASSET), deviation),
                },
                coords={**coords, **factor},
            ),
        }


def _listed_in_order(batch: Batch, t: int) -> Tensor:
    """Order listed assets by label: draws then follow the asset, not its place in the panel."""
    rows = batch.listed[t].nonzero().squeeze(-1)
    order = np.argsort(batch.assets[rows.cpu().numpy()], kind="stable")
    return rows[torch.as_tensor(order, device=rows.device)]


def _unlisted_to_nan(beta: Tensor, batch: Batch) -> Tensor:
    return beta.masked_fill(~batch.listed.unsqueeze(-1), torch.nan)
