"""Forecasts: returns of month t drawn from what is known at the end of t-1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import month_random
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
from rvrae_pyro.predictive.filtering import FilteredDraw
from rvrae_pyro.predictive.months import by_label, chunks, drawn_from, factor_coord
from rvrae_pyro.predictive.storage import Block, Drawing
from rvrae_pyro.predictive.weight_draws import sample_labels


def draw_forecasts(
    chain: Sequence[FilteredDraw],
    batch: Batch,
    months: Sequence[int],
    attrs: Mapping[str, str | int],
) -> Drawing:
    """Draw every listed asset's return of month t from what is known at the end of t-1.

    See :meth:`rvrae_pyro.fitting.fit.Fit.forecast`.
    """
    num_samples = sum(draw.states.predicted.shape[1] for draw in chain)
    weights = [draw.model.parts.state_dict() for draw in chain]
    identity = drawn_from("forecast", weights, batch, months, num_samples)
    return Drawing(partial(_forecast_blocks, chain, batch, months), attrs, identity)


def _forecast_blocks(
    chain: Sequence[FilteredDraw], batch: Batch, months: Sequence[int], done: int
) -> Iterator[Block]:
    sizes = [draw.states.predicted.shape[1] for draw in chain]
    num_samples = sum(sizes)
    for chosen in chunks(months, num_samples * batch.n_assets, done):
        returns = np.full((1, num_samples, len(chosen), batch.n_assets), np.nan, np.float32)
        variance = np.zeros((len(chosen), batch.n_assets))
        start = 0
        for draw, size in zip(chain, sizes, strict=True):
            rows = slice(start, start + size)
            variance += _draw_months(draw, batch, chosen, returns[0, rows]) / len(chain)
            start += size
        labels = {TIME: batch.times[list(chosen)], ASSET: batch.assets}
        coords = {**labels, FACTOR: factor_coord(chain[0].model.n_factors)}
        constants = _constants(chain, batch, chosen)
        for draw in chain:
            draw.states.cross.release()
        factors = torch.cat([draw.states.predicted[chosen] for draw in chain], 1)
        log_prior = torch.cat([draw.states.predicted_log_prior[chosen] for draw in chain], 1)
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
                coords={**sample_labels(sizes), **coords},
            ),
            "predictions_constant_data": xr.Dataset(
                {**constants, "idio_scale": ((TIME, ASSET), np.sqrt(variance))}, coords=coords
            ),
        }


def _draw_months(
    draw: FilteredDraw, batch: Batch, chosen: Sequence[int], returns: np.ndarray
) -> np.ndarray:
    """Fill in returns (n_draws, n_months, n_assets); return idiosyncratic variances."""
    likelihood, states = draw.model.likelihood, draw.states
    variance = np.full(returns.shape[1:], np.nan)
    for row, t in enumerate(chosen):
        order = by_label(batch, batch.listed[t].nonzero().squeeze(-1))
        level = None if states.level is None else states.level[t]
        loc, scale = states.cross.given(t, order, states.predicted[t], level)
        with torch.no_grad(), month_random(draw.seed, batch.times[t], "returns"):
            drawn = likelihood.distribution(loc, scale).sample()
            mean_variance = likelihood.deviation(scale).square().mean(0)
        columns = order.cpu().numpy()
        returns[:, row, columns] = drawn.cpu().numpy()
        variance[row, columns] = mean_variance.cpu().numpy()
    return variance


def _constants(
    chain: Sequence[FilteredDraw], batch: Batch, chosen: Sequence[int]
) -> dict[str, object]:
    """Collect loadings and expected returns: means over draws of the weights, and each one's."""
    hidden = ~batch.listed[chosen]
    betas = [
        d.states.cross.beta[chosen].masked_fill(hidden.unsqueeze(-1), torch.nan) for d in chain
    ]
    means = [d.states.expected_returns(chosen).masked_fill(hidden, torch.nan) for d in chain]
    found: dict[str, object] = {
        "beta": ((TIME, ASSET, FACTOR), torch.stack(betas).mean(0).cpu().numpy()),
        "mean": ((TIME, ASSET), torch.stack(means).mean(0).cpu().numpy()),
    }
    if len(chain) > 1:
        each_beta = torch.stack([beta.float() for beta in betas]).cpu().numpy()
        found["beta_by_weights"] = ((WEIGHT_DRAW, TIME, ASSET, FACTOR), each_beta)
        each_mean = torch.stack(means).cpu().numpy()
        found["mean_by_weights"] = ((WEIGHT_DRAW, TIME, ASSET), each_mean)
    return found
