"""What a factor model says of every month, and what follows from it: moments and draws."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, TIME
from rvrae_pyro.predictive.months import by_label, chunks, factor_coord
from rvrae_pyro.predictive.storage import Block

__all__ = [
    "FactorHistory",
    "FactorView",
    "cholesky_like",
    "constant_data",
    "draw_blocks",
    "log_density",
    "moments",
    "refit_factors",
]


_SINGULAR = 1e-11  # share of the largest eigenvalue below which one counts as none


@dataclass(frozen=True)
class FactorView:
    """One member's account of a panel, in double precision and return units.

    Attributes
    ----------
    alpha : Tensor of shape (n_times, n_assets)
        Intercept of each asset's return, known at t-1.
    beta : Tensor of shape (n_times, n_assets, n_factors)
        Loadings, known at t-1.
    loc : Tensor of shape (n_times, n_factors)
        Expected factors given months to t-1; NaN where nothing is known yet.
    factor_scale : Tensor of shape (n_times, n_factors, n_factors)
        A matrix L with L L' the factors' covariance, given months to t-1.
    idio_scale : Tensor of shape (n_times, n_assets)
        Standard deviation of what the factors leave, known at t-1.
    factors : Tensor of shape (n_times, n_factors)
        Factors given the month's own returns; NaN in months without any.
    """

    alpha: Tensor
    beta: Tensor
    loc: Tensor
    factor_scale: Tensor
    idio_scale: Tensor
    factors: Tensor

    def fitted(self, factors: Tensor) -> Tensor:
        """Return alpha + B f for factors (n_times, n_factors)."""
        return self.alpha + (self.beta * factors.unsqueeze(1)).sum(-1)

    def variance(self) -> Tensor:
        """Predictive variance of every return, of shape (n_times, n_assets)."""
        exposure = (self.beta.unsqueeze(-1) * self.factor_scale.unsqueeze(1)).sum(-2)
        return exposure.square().sum(-1) + self.idio_scale.square()


@dataclass(frozen=True)
class FactorHistory:
    """Factors of the months a model was fitted on.

    Attributes
    ----------
    times : ndarray of datetime64[ns]
    factors : Tensor of shape (n_times, n_factors)
        NaN in months without returns.
    """

    times: np.ndarray
    factors: Tensor

    def running_mean(self, times: np.ndarray, factors: Tensor) -> Tensor:
        """Average over all earlier months, of shape (len(times), n_factors).

        Parameters
        ----------
        times : ndarray of datetime64
            Months of a panel.
        factors : Tensor of shape (n_times, n_factors)
            That panel's factors; where a month is in the history, the history's are taken.

        Notes
        -----
        Row t involves months before t only: from the history and from the panel. NaN where
        there is none.
        """
        fresh = ~np.isin(times, self.times)
        months = np.concatenate([self.times, times[fresh]])
        values = np.concatenate([self.factors.cpu().numpy(), factors.cpu().numpy()[fresh]])
        order = np.argsort(months, kind="stable")
        months, values = months[order], values[order]
        known = ~np.isnan(values)
        count = np.cumsum(known, axis=0)
        total = np.cumsum(np.where(known, values, 0.0), axis=0)
        earlier = np.searchsorted(months, times, side="left") - 1
        missing = np.where((earlier >= 0)[:, None], count[earlier], 0) == 0
        mean = np.where(missing, np.nan, total[earlier] / np.where(missing, 1, count[earlier]))
        return torch.as_tensor(mean, device=factors.device)

    def covariance(self) -> Tensor:
        """Covariance over the months, of shape (n_factors, n_factors); zero for one month."""
        known = self.factors[~self.factors.isnan().any(1)]
        deviation = known - known.mean(0)
        return torch.einsum("tk,tl->kl", deviation, deviation) / max(1, known.shape[0] - 1)


def cholesky_like(covariance: Tensor) -> Tensor:
    """Return a matrix L with L L' = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()
    return root


def refit_factors(beta: Tensor, returns: Tensor, observed: Tensor) -> Tensor:
    """Solve for each month's factors by least squares across assets.

    Parameters
    ----------
    beta : Tensor of shape (n_times, n_assets, n_factors)
    returns : Tensor of shape (n_times, n_assets)
    observed : bool Tensor of shape (n_times, n_assets)

    Returns
    -------
    Tensor of shape (n_times, n_factors)
        Of smallest norm where assets are fewer than factors; NaN in months without returns.
    """
    factors = beta.new_full((beta.shape[0], beta.shape[2]), torch.nan)
    for t, seen in enumerate(observed):
        if bool(seen.any()):
            b = beta[t, seen]
            # a tolerance above rounding: loadings that nearly coincide are one
            inverse = torch.linalg.pinv(b.mT @ b, rtol=_SINGULAR, hermitian=True)
            factors[t] = inverse @ (b.mT @ returns[t, seen])
    return factors


def moments(views: Sequence[FactorView]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the equal mixture of members, each (n_times, n_assets)."""
    means = torch.stack([view.fitted(view.loc) for view in views])
    within = torch.stack([view.variance() for view in views]).mean(0)
    mean = means.mean(0)
    return mean, (within + (means - mean).square().mean(0)).sqrt()


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
    views: Sequence[FactorView], batch: Batch, months: Sequence[int], num_draws: int, seed: int
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
    """
    n_factors = views[0].beta.shape[-1]
    for chosen in chunks(months, num_draws * len(views) * batch.n_assets):
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
        ``alpha`` and ``idio_scale`` (chain, time, asset), ``beta`` (chain, time, asset, factor);
        NaN where not listed.
    """
    index = list(months)
    unlisted = ~batch.listed[index]

    def stacked(name: str) -> np.ndarray:
        parts = [getattr(view, name)[index] for view in views]
        masks = [unlisted.reshape(*unlisted.shape, *(1,) * (p.ndim - 2)) for p in parts]
        filled = [p.masked_fill(m, torch.nan) for p, m in zip(parts, masks, strict=True)]
        return torch.stack(filled).cpu().numpy()

    return xr.Dataset(
        {
            "alpha": ((CHAIN, TIME, ASSET), stacked("alpha")),
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
