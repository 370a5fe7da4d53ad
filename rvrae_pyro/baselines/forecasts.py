"""What follows from members' views of a panel: moments, densities and draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from rvrae_pyro.baselines.views import FactorView
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    DRAW,
    FACTOR,
    FACTORS,
    RETURNS,
    TIME,
)
from rvrae_pyro.predictive.moments import label_moments
from rvrae_pyro.predictive.months import by_label, chunks, factor_coord
from rvrae_pyro.predictive.storage import Block


def log_density(views: Sequence[FactorView], batch: Batch) -> Tensor:
    """Log density of each month's observed returns given months before, of shape (n_times,).

    Parameters
    ----------
    views : sequence of FactorView
        Members of an equal mixture of Gaussians.
    batch : Batch

    Returns
    -------
    Tensor of shape (n_times,)
        Joint over the assets, in nats. 0 in months without returns, NaN where nothing is
        known of the factors yet. Cost O(T N K^2) a member.
    """
    total = batch.returns.new_zeros(batch.n_times)
    for t, seen in enumerate(batch.observed):
        if bool(seen.any()):
            each = torch.stack([_month_density(view, batch, t, seen) for view in views])
            total[t] = each.logsumexp(0) - math.log(len(views))
    return total


def _month_density(view: FactorView, batch: Batch, t: int, seen: Tensor) -> Tensor:
    mean = view.alpha[t, seen] + view.beta[t, seen] @ view.loc[t]
    if bool(mean.isnan().any()):
        return mean.new_tensor(torch.nan)
    density: Tensor = LowRankMultivariateNormal(
        mean, view.beta[t, seen] @ view.factor_scale[t], view.idio_scale[t, seen].square()
    ).log_prob(batch.returns[t, seen])
    return density


def draw_blocks(
    views: Sequence[FactorView],
    batch: Batch,
    months: Sequence[int],
    num_draws: int,
    seed: int,
    done: int,
) -> Iterator[Block]:
    """Draw returns of the months asked for, a block of months at a time; members are chains.

    Parameters
    ----------
    views : sequence of FactorView
    batch : Batch
    months : sequence of int
    num_draws : int
        Draws of every member.
    seed : int
        Each month and member has a random stream of its own date and number; draws follow
        assets by label, whatever their order in the panel.
    done : int
        Blocks to leave out.
    """
    n_factors = views[0].beta.shape[-1]
    for chosen in chunks(months, num_draws * len(views) * batch.n_assets, done):
        shape = (len(views), num_draws, len(chosen))
        returns = np.full((*shape, batch.n_assets), np.nan, np.float32)
        factors = np.full((*shape, n_factors), np.nan)
        for chain, view in enumerate(views):
            for row, t in enumerate(chosen):
                order = by_label(batch, batch.listed[t].nonzero().squeeze(-1))
                with month_random(seed, batch.times[t], f"baseline {chain}"):
                    drawn, path = _draw_month(view, t, order, num_draws)
                returns[chain, :, row, order.cpu().numpy()] = drawn.T.cpu().numpy()
                factors[chain, :, row] = path.cpu().numpy()
        yield _label(views, batch, chosen, returns, factors)


def _draw_month(view: FactorView, t: int, order: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Draw returns (num_draws, len(order)) and the factors (num_draws, n_factors) behind them."""
    noise = view.loc.new_empty(num_draws, view.loc.shape[1]).normal_()
    factors = view.loc[t] + noise @ view.factor_scale[t].mT
    mean = view.alpha[t, order] + factors @ view.beta[t, order].mT
    return mean + view.idio_scale[t, order] * torch.empty_like(mean).normal_(), factors


def _label(
    views: Sequence[FactorView],
    batch: Batch,
    chosen: Sequence[int],
    returns: np.ndarray,
    factors: np.ndarray,
) -> Block:
    index = list(chosen)
    over = {TIME: batch.times[index], ASSET: batch.assets}
    sample = {CHAIN: np.arange(len(views)), DRAW: np.arange(returns.shape[1])}
    factor = {FACTOR: factor_coord(factors.shape[-1])}
    return {
        "predictions": xr.Dataset(
            {
                RETURNS: ((CHAIN, DRAW, TIME, ASSET), returns),
                FACTORS: ((CHAIN, DRAW, TIME, FACTOR), factors),
            },
            coords={**sample, **over, **factor},
        ),
        "predictions_constant_data": constant_data(views, batch, chosen),
    }


def constant_data(views: Sequence[FactorView], batch: Batch, months: Sequence[int]) -> xr.Dataset:
    """Label what forecasts of some months take as given; members are chains.

    Parameters
    ----------
    views : sequence of FactorView
    batch : Batch
    months : sequence of int

    Returns
    -------
    Dataset
        ``alpha``, ``mean`` (expected return) and ``idio_scale`` (chain, time, asset), ``beta``
        (chain, time, asset, factor); NaN where not listed.
    """
    index = list(months)
    unlisted = ~batch.listed[index]
    means = [_shown(view.fitted(view.loc)[index], unlisted) for view in views]

    def stacked(name: str) -> np.ndarray:
        return np.stack([_shown(getattr(view, name)[index], unlisted) for view in views])

    return xr.Dataset(
        {
            "alpha": ((CHAIN, TIME, ASSET), stacked("alpha")),
            "mean": ((CHAIN, TIME, ASSET), np.stack(means)),
            "beta": ((CHAIN, TIME, ASSET, FACTOR), stacked("beta")),
            "idio_scale": ((CHAIN, TIME, ASSET), stacked("idio_scale")),
        },
        coords={
            CHAIN: np.arange(len(views)),
            TIME: batch.times[index],
            ASSET: batch.assets,
            FACTOR: factor_coord(views[0].beta.shape[-1]),
        },
    )


def moments(views: Sequence[FactorView], batch: Batch, months: Sequence[int]) -> xr.Dataset:
    """Label what each member says of the months' mean and covariance, members in equal shares.

    See :meth:`rvrae_pyro.baselines.factors.FactorBaseline.moments`.
    """
    index = list(months)
    # of months before which a member has seen no factor nothing is known
    unknown = torch.stack([view.loc[index].isnan().any(-1) for view in views]).any(0)
    hidden = ~batch.listed[index] | unknown.unsqueeze(-1)
    means = torch.stack([view.fitted(view.loc)[index] for view in views])
    scales = [view.factor_scale[index] for view in views]
    each = [
        {
            "mean": _shown(mean, hidden),
            "beta": _shown(view.beta[index], hidden),
            "factor_cov": (scale @ scale.mT).cpu().numpy(),
            "idio_var": _shown(view.idio_scale[index].square(), hidden),
        }
        for view, mean, scale in zip(views, means, scales, strict=True)
    ]
    data = label_moments(each, batch, index, [1.0] * len(views))
    within = torch.stack([view.variance()[index] for view in views]).mean(0)
    between = (means - means.mean(0)).square().mean(0)
    data["sd"] = ((TIME, ASSET), _shown((within + between).sqrt(), hidden))
    return data


def _shown(values: Tensor, hidden: Tensor) -> np.ndarray:
    """Values by cell (n_times, n_assets, ...), NaN where ``hidden``."""
    beyond = (1,) * (values.ndim - hidden.ndim)
    return values.masked_fill(hidden.reshape(*hidden.shape, *beyond), torch.nan).cpu().numpy()
