"""Kullback-Leibler divergence of the guide from the prior, month by month."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.models.filter_pass import Walk
from rvrae_pyro.models.path_distributions import AuxiliaryPath, FilteredPath
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.models.priors.base import Updated
from rvrae_pyro.nn.gaussian import Gaussian, Posterior
from rvrae_pyro.nn.log_variance import LogVariance


@torch.no_grad()
def month_kl(walk: Walk) -> Tensor:
    """KL(q(z_t | past, r_t) || p(z_t | past)) in nats given the walk's past, of shape (n_times,).

    Closed form where both are Gaussian, which is exact for an observed recurrence; for a latent
    one the past is the walk's draw. Otherwise the log ratio at the draw. An auxiliary latent of the
    prior adds its part.
    """
    draw = walk.draw
    kl = _path_kl(draw.proposal, draw.prior, draw.codes)
    latent = draw.auxiliary
    if latent is None:
        return kl
    return kl + _path_kl(latent.proposal, latent.prior, latent.path)


def _path_kl(proposal: dist.TorchDistribution, ahead: Transition, values: Tensor) -> Tensor:
    """Divergence of each month of one site."""
    if isinstance(ahead, LogVariance):
        ahead = Gaussian(ahead.loc, ahead.scale)
    posterior = _posterior(proposal)
    if isinstance(posterior, Posterior) and isinstance(ahead, Gaussian):
        return posterior.kl_to(ahead)
    moments = _gaussian_moments(proposal)
    if moments is None or not isinstance(ahead, Gaussian):
        ratio = proposal.log_prob(values.unsqueeze(-2)).squeeze(-1)
        return ratio - ahead.log_prob(values)
    mean, tril = moments
    prior = dist.MultivariateNormal(ahead.loc, scale_tril=torch.diag_embed(ahead.scale))
    guide = dist.MultivariateNormal(mean, scale_tril=tril)
    return torch.distributions.kl_divergence(guide, prior)


@torch.no_grad()
def marginal_kl(walk: Walk) -> Tensor:
    """KL of each factor's marginals given the walk's past, of shape (n_times, n_factors).

    Marginals leave correlation out, so they do not add up to :func:`month_kl`.
    """
    proposal = walk.draw.proposal
    posterior = _posterior(proposal)
    if posterior is not None:
        mean = posterior.mean
        variance = posterior.covariance().diagonal(dim1=-2, dim2=-1)
    else:
        moments = _gaussian_moments(proposal)
        if moments is None:
            return month_kl(walk).unsqueeze(-1).expand_as(walk.codes) / walk.codes.shape[-1]
        mean, tril = moments
        variance = tril.square().sum(-1)
    spread = variance / walk.prior.scale.square()
    distance = ((mean - walk.prior.loc) / walk.prior.scale).square()
    return 0.5 * (spread + distance - 1.0 - spread.log())


def _posterior(proposal: dist.TorchDistribution) -> Updated | None:
    """Posteriors that a drawn path met month by month; None for other distributions."""
    if isinstance(proposal, FilteredPath) and proposal.drawn is not None:
        return proposal.drawn[1].posterior
    if isinstance(proposal, AuxiliaryPath) and proposal.drawn is not None:
        latent = proposal.drawn[1].auxiliary
        return None if latent is None else latent.posterior
    return None


def _gaussian_moments(proposal: dist.TorchDistribution) -> tuple[Tensor, Tensor] | None:
    """Mean and Cholesky factor of months that are independent Gaussians; None for others."""
    if isinstance(proposal, torch.distributions.MultivariateNormal):
        return proposal.mean.squeeze(-2), proposal.scale_tril.squeeze(-3)
    if isinstance(proposal, torch.distributions.Independent) and isinstance(
        proposal.base_dist, torch.distributions.Normal
    ):
        scale = proposal.base_dist.scale.squeeze(-2)
        return proposal.mean.squeeze(-2), torch.diag_embed(scale)
    return None
