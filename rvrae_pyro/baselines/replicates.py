"""Replicates of months that were seen: the linear-Gaussian model that a factor view amounts to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.baselines.views import FactorView, constant_data
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, OBS, RETURNS, TIME
from rvrae_pyro.predictive.months import chunks, factor_coord
from rvrae_pyro.predictive.storage import Block

__all__ = ["known_months", "posterior_factors", "replicate_blocks"]

_Month = tuple[Tensor, Tensor, Tensor]


def known_months(views: Sequence[FactorView], months: Sequence[int]) -> list[int]:
    """Months before which every member has seen a factor; there is no prior for the others."""
    known = torch.stack([view.loc.isfinite().all(-1) for view in views]).all(0)
    return [t for t in months if bool(known[t])]


def posterior_factors(view: FactorView, batch: Batch, t: int) -> tuple[Tensor, Tensor]:
    """Mean of a month's factors given its returns, and a root of their covariance.

    Shapes (n_factors,) and (n_factors, n_factors). Exact for ``r = alpha + B f + u`` with
    ``f ~ N(loc, L L')`` and independent Gaussian u; L may be singular.
    """
    seen, root = batch.observed[t].nonzero().squeeze(-1), view.factor_scale[t]
    # in units of the residuals, seen along the directions of the prior
    scale = view.idio_scale[t, seen].unsqueeze(-1)
    beta = view.beta[t, seen] / scale
    left = batch.returns[t, seen] - view.alpha[t, seen]
    error = left.unsqueeze(-1) / scale - beta @ view.loc[t].unsqueeze(-1)
    effect = beta @ root
    triangle = torch.linalg.cholesky(
        effect.mT @ effect + torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    )
    mean = torch.cholesky_solve(effect.mT @ error, triangle).squeeze(-1)
    # root A^-1 root' with A = triangle triangle'
    spread = torch.linalg.solve_triangular(triangle, root.mT, upper=False).mT
    return view.loc[t] + root @ mean, spread


def replicate_blocks(
    views: Sequence[FactorView], batch: Batch, months: Sequence[int], num_draws: int, seed: int
) -> Iterator[Block]:
    """Draw factors given each month's returns, and its returns anew; members are chains.

    Parameters
    ----------
    views : sequence of FactorView
    batch : Batch
    months : sequence of int
        Of :func:`known_months`.
    num_draws : int
        Draws of every member.
    seed : int
        As for ``draw_blocks``.
    """
    for chosen in chunks(months, num_draws * len(views) * batch.n_assets):
        drawn = [
            [_draw_month(view, batch, t, num_draws, (seed, chain)) for t in chosen]
            for chain, view in enumerate(views)
        ]
        yield _label(views, batch, chosen, drawn)


def _draw_month(
    view: FactorView, batch: Batch, t: int, num_draws: int, stream: tuple[int, int]
) -> _Month:
    """Factors (num_draws, n_factors), new returns and log densities (num_draws, n_seen)."""
    seen = batch.observed[t].nonzero().squeeze(-1)
    mean, root = posterior_factors(view, batch, t)
    # noise follows assets by label, whatever their order in the panel
    place = np.argsort(np.argsort(batch.assets[seen.cpu().numpy()], kind="stable"))
    with month_random(stream[0], batch.times[t], f"baseline replicates {stream[1]}"):
        factors = mean + mean.new_empty(num_draws, len(mean)).normal_() @ root.mT
        noise = mean.new_empty(num_draws, len(seen)).normal_()
    loc = view.alpha[t, seen] + factors @ view.beta[t, seen].mT
    law = torch.distributions.Normal(loc, view.idio_scale[t, seen].expand_as(loc))
    again = loc + law.scale * noise[:, torch.as_tensor(place, device=noise.device)]
    return factors, again, law.log_prob(batch.returns[t, seen])


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
