"""Linear-Gaussian factor model of a baseline: moments, densities, forecasts and replicates."""

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
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, OBS, RETURNS, TIME
from rvrae_pyro.nn.gaussian import Gaussian, Posterior, Potential
from rvrae_pyro.predictive.moments import label_moments
from rvrae_pyro.predictive.months import by_label, chunks, factor_coord
from rvrae_pyro.predictive.storage import Block

_SINGULAR = 1e-11  # share of the largest eigenvalue below which one counts as none


@dataclass(frozen=True)
class FactorView:
    """One member's account of a panel, in double precision and return units."""

    alpha: Tensor  # (n_times, n_assets), intercept of each asset's return, known at t-1
    beta: Tensor  # (n_times, n_assets, n_factors), loadings, known at t-1
    # (n_times, n_factors), expected factors given months to t-1; NaN where nothing is known yet
    loc: Tensor
    # (n_times, n_factors, n_factors), L with L L' the factors' covariance given months to t-1
    factor_scale: Tensor
    idio_scale: Tensor  # (n_times, n_assets), residual standard deviation, known at t-1
    # (n_times, n_factors), factors given the month's own returns; NaN in months without any
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
    """Factors of the months a model was fitted on."""

    times: np.ndarray
    factors: Tensor  # (n_times, n_factors), NaN in months without returns

    def running_mean(self, times: np.ndarray, factors: Tensor) -> Tensor:
        """Average factors (n_times, n_factors) over all months before each month of a panel.

        From the history and, for other months, from the panel; NaN where there is none.
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
    """Solve for each month's factors (n_times, n_factors) by least squares across assets.

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


def log_density(views: Sequence[FactorView], batch: Batch) -> Tensor:
    """Joint log density (n_times,) of observed returns given months before, in nats.

    Of the equal mixture of views. 0 in months without returns, NaN where nothing is known of the
    factors yet. Cost O(T N K^2) per view.
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
    """Draw returns of some months, all blocks but the first ``done``; members are chains.

    ``num_draws`` of every member. Each month and member has a random stream by date and number;
    draws follow assets by label, in any order of the panel.
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
    """Label the inputs of forecasts of some months; members are chains.

    ``alpha``, ``mean`` (expected return) and ``idio_scale`` (chain, time, asset), ``beta`` (chain,
    time, asset, factor); NaN where not listed.
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
    """Label each member's mean and covariance of the months, members in equal shares.

    See :meth:`rvrae_pyro.baselines.factor_baseline.FactorBaseline.moments`.
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
    """Draw factors given each month's returns, and new returns; arguments as ``draw_blocks``.

    Months before which a member has seen no factor are left out: there is no prior for them.

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
            [_draw_replicate(view, batch, t, num_draws, (seed, chain)) for t in chosen]
            for chain, view in enumerate(views)
        ]
        yield _label_replicates(views, batch, chosen, drawn)


def _draw_replicate(
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
    # observations follow the panel's order
    back = order.argsort()
    density = law.log_prob(batch.returns[t, order])
    return factors, (loc + law.scale * own)[:, back], density[:, back]


def _label_replicates(
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
