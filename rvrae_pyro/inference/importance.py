"""Paths drawn from the guide, with their densities under guide and model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.inference.smc import month_random
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.rvrae import RVRAE, CrossSection

__all__ = ["GuidePaths", "guide_paths", "path_log_likelihood", "prior_terms"]


@dataclass(frozen=True)
class GuidePaths:
    """Draws of the guide and the terms of their importance weights, month by month.

    Attributes
    ----------
    codes, factors : Tensor of shape (num_samples, n_times, n_factors)
        Whole paths; the same thing unless a decoder stands between.
    log_prior : Tensor of shape (num_samples, n_times)
        log p(z_t | h_{t-1}) along the path.
    log_likelihood : Tensor of shape (num_samples, n_times)
        log p(r_t | z_1..t) of the month's observed returns.
    log_q : Tensor of shape (num_samples, n_times)
        log q(z_t | ...) along the path.
    """

    codes: Tensor
    factors: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    log_q: Tensor

    @property
    def log_ratios(self) -> Tensor:
        """Log of model over guide density by month; their sum is a path's log weight."""
        return self.log_prior + self.log_likelihood - self.log_q


@torch.no_grad()
def guide_paths(
    model: RVRAE,
    batch: Batch,
    num_samples: int,
    seed: int = 0,
    kl_weight: float = 1.0,
    cross: CrossSection | None = None,
) -> GuidePaths:
    """Draw paths from the guide and evaluate them under the model.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type.
    batch : Batch
    num_samples : int
    seed : int
        The paths are those of ``Fit.posterior_predictive`` with the same seed and number.
    kl_weight : float
        KL weight under which the guide answers: a guide that adapts to it (``Conjugate``) then
        proposes what is optimal under that weight.
    cross : CrossSection, optional
        Loadings and scales if they are known already.

    Returns
    -------
    GuidePaths
        Costs O(num_samples n_assets n_factors) a month.
    """
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ConfigError(
            f"`num_samples` must be a whole number of at least 1; got {num_samples!r}."
        )
    parts = model.parts
    shared = parts.prepare(batch, cross or parts.online_cross_section(batch))
    weight = batch.returns.new_full((batch.n_times,), kl_weight)
    with month_random(seed, batch.times[0], "path"):
        proposal = parts.guide(batch, shared.cross.potential, shared.view, weight)
        paths = proposal.expand((num_samples, batch.n_times, 1))
        draws = paths.rsample()
        log_q = paths.log_prob(draws).squeeze(-1)
    codes = draws.squeeze(-2)
    factors, log_prior, log_likelihood = _terms(model, batch, shared.cross, shared.view, codes)
    return GuidePaths(codes, factors, log_prior, log_likelihood, log_q)


@torch.no_grad()
def path_log_likelihood(
    model: RVRAE, batch: Batch, codes: Tensor, cross: CrossSection | None = None
) -> Tensor:
    """Log p(r_t | z_1..t) of the months' observed returns along given paths of codes.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
    codes : Tensor of shape (num_samples, n_times, n_factors)
    cross : CrossSection, optional
        Loadings and scales if they are known already.

    Returns
    -------
    Tensor of shape (num_samples, n_times)
        In nats.
    """
    shared = model.parts.prepare(batch, cross or model.parts.online_cross_section(batch))
    return _terms(model, batch, shared.cross, shared.view, codes)[2]


def _terms(
    model: RVRAE, batch: Batch, cross: CrossSection, view: PriorView, codes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors, log prior and log likelihood by month along paths of codes."""
    log_prior, level = prior_terms(view, codes)
    factors = model.parts.decoder(codes, batch.state("decoder") or None)
    months = [
        _log_likelihood(model, batch, cross, factors[:, t], level, t) for t in range(batch.n_times)
    ]
    return factors, log_prior, torch.stack(months, -1)


def prior_terms(view: PriorView, codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """Prior density of every month along the paths, and the idiosyncratic level."""
    if view.walk is not None:
        return view.walk.prior.log_prob(codes), view.walk.level
    states = view.prior.unroll(codes, view.context, view.state)
    before = tuple(s[..., :-1, :] for s in states)
    prior = view.prior.transition(before, view.context)
    return prior.log_prob(codes), view.prior.level(before, view.context)


def _log_likelihood(
    model: RVRAE, batch: Batch, cross: CrossSection, factors: Tensor, level: Tensor | None, t: int
) -> Tensor:
    """Log density of a month's observed returns under each draw of its factors."""
    seen = batch.observed[t].nonzero().squeeze(-1)
    loc = factors @ cross.beta[t, seen].mT
    if cross.alpha is not None:
        loc = loc + cross.alpha[t, seen]
    scale = cross.scale[t, seen]
    if level is not None:
        scale = scale * level[..., t].exp().unsqueeze(-1)
    likelihood = model.likelihood.distribution(loc, scale.expand_as(loc))
    density: Tensor = likelihood.log_prob(batch.returns[t, seen]).sum(-1)
    return density
