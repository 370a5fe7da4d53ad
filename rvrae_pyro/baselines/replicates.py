"""Replicates of months that were seen: the linear-Gaussian model that a factor view amounts to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.baselines.forecasts import constant_data
from rvrae_pyro.baselines.views import FactorView
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, OBS, RETURNS, TIME
from rvrae_pyro.nn.gaussian import Gaussian, Posterior, Potential
from rvrae_pyro.predictive.months import by_label, chunks, factor_coord
from rvrae_pyro.predictive.storage import Block

_Month = tuple[Tensor, Tensor, Tensor]


def posterior_factors(view: FactorView, batch: Batch, t: int) -> Posterior:
    """Posterior of e in ``f = loc + L e`` given month t's returns, L the view's ``factor_scale``.

    Exact for ``r = alpha + B f + u`` with e standard normal and independent Gaussian u; L may be
    singular.
    """
    seen = batch.observed[t].nonzero().squeeze(-1)
    # in units of the residuals
    scale = view.idio_scale[t, seen]
    beta = view.beta[t, seen] / scale.unsqueeze(-1)
    error = (batch.returns[t, seen] - view.alpha[t, seen]) / scale - beta @ view.loc[t]
    effect = beta @ view.factor_scale[t]
    nothing = torch.zeros_like(view.loc[t])
    prior = Gaussian(nothing, torch.ones_like(nothing))
    return prior.update(Potential(effect.mT @ effect, effect.mT @ error))


def replicate_blocks(
    views: Sequence[FactorView],
    batch: Batch,
    months: Sequence[int],
    num_draws: int,
    seed: int,
    done: int,
) -> Iterator[Block]:
    """Draw factors given each month's returns, and its returns anew; members are chains.

    Parameters
    ----------
    views : sequence of FactorView
    batch : Batch
    months : sequence of int
        Those before which a member has seen no factor are left out: there is no prior for them.
    num_draws : int
        Draws of every member.
    seed, done : int
        As for ``draw_blocks``.

    Raises
    ------
    ConfigError
        If no month is left.
    """
    known = torch.stack([view.loc.isfinite().all(-1) for view in views]).all(0)
    months = [t for t in months if bool(known[t])]
    if not months:
        raise ConfigError("`times` must name a month before which factors are known; got none.")
    for chosen in chunks(months, num_draws * len(views) * batch.n_assets, done):
        drawn = [
            [_draw_month(view, batch, t, num_draws, (seed, chain)) for t in chosen]
            for chain, view in enumerate(views)
        ]
        yield _label(views, batch, chosen, drawn)


def _draw_month(
    view: FactorView, batch: Batch, t: int, num_draws: int, stream: tuple[int, int]
) -> _Month:
    """Factors (num_draws, n_factors), new returns and log densities (num_draws, n_seen)."""
    posterior = posterior_factors(view, batch, t)
    order = by_label(batch, batch.observed[t].nonzero().squeeze(-1))
    with month_random(stream[0], batch.times[t], f"baseline replicates {stream[1]}"):
        noise = view.loc.new_empty(num_draws, view.loc.shape[1]).normal_()
        own = view.loc.new_empty(num_draws, len(order)).normal_()
    whole = posterior.mean + posterior.deviate(noise)
    factors = view.loc[t] + whole @ view.factor_scale[t].mT
    loc = view.alpha[t, order] + factors @ view.beta[t, order].mT
    law = torch.distributions.Normal(loc, view.idio_scale[t, order].expand_as(loc))
    # cells are told in the panel's order
    back = order.argsort()
    density = law.log_prob(batch.returns[t, order])
    return factors, (loc + law.scale * own)[:, back], density[:, back]


def _label(
    views: Sequence[FactorView],
    batch: Batch,
    chosen: Sequence[int],
    drawn: Sequence[Sequence[_Month]],
) -> Block:
    """Name the groups of a few months, as those of a fit's replicates."""
    when, who = (x.cpu().numpy() for x in batch.observed[list(chosen)].nonzero().unbind(-1))
    cells = {TIME: (OBS, batch.times[np.asarray(chosen)[when]]), ASSET: (OBS, batch.assets[who])}
    sample = {CHAIN: np.arange(len(views)), DRAW: np.arange(len(drawn[0][0][0]))}
    months = {TIME: batch.times[list(chosen)], FACTOR: factor_coord(views[0].beta.shape[-1])}
    factors = torch.stack([torch.stack([f for f, _, _ in each], 1) for each in drawn])
    again, density = (
        torch.stack([torch.cat([month[k] for month in each], -1) for each in drawn]) for k in (1, 2)
    )
    observed = batch.returns[list(chosen)][batch.observed[list(chosen)]]

    def over_cells(values: Tensor) -> xr.Dataset:
        data = values.float().cpu().numpy()
        return xr.Dataset({RETURNS: ((CHAIN, DRAW, OBS), data)}, coords={**sample, **cells})

    return {
        "posterior": xr.Dataset(
            {FACTORS: ((CHAIN, DRAW, TIME, FACTOR), factors.cpu().numpy())},
            coords={**sample, **months},
        ),
        "posterior_predictive": over_cells(again),
        "log_likelihood": over_cells(density),
        "observed_data": xr.Dataset({RETURNS: (OBS, observed.cpu().numpy())}, coords=cells),
        "constant_data": constant_data(views, batch, chosen),
    }
