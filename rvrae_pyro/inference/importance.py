"""Paths drawn from the guide, with their densities under guide and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch, State
from rvrae_pyro.errors import check_count
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.guides import PriorView
from rvrae_pyro.models.parts import CrossSection
from rvrae_pyro.models.path_distributions import PriorPath
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.gaussian import Potential

__all__ = [
    "DrawnPaths",
    "GuidePaths",
    "draw_paths",
    "guide_paths",
    "path_log_likelihood",
    "prior_terms",
]


@dataclass(frozen=True)
class GuidePaths:
    """Draws of the guide and the terms of their importance weights, month by month.

    Attributes
    ----------
    codes, factors : Tensor of shape (num_samples, n_times, n_factors)
        Whole paths; the same thing unless a decoder stands between.
    log_prior : Tensor of shape (num_samples, n_times)
        log p(z_t | h_{t-1}) along the path, with that of the prior's own latent, if any.
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
    check_count("num_samples", num_samples)
    parts = model.parts
    shared = parts.prepare(batch, cross or parts.online_cross_section(batch))
    weight = batch.returns.new_full((batch.n_times,), kl_weight)
    with month_random(seed, batch.times[0], "path"):
        drawn = draw_paths(model, batch, shared.view, shared.cross.potential, num_samples, weight)
    codes = drawn.codes
    factors, log_likelihood = _outcome(model, batch, shared.cross, codes, drawn.level)
    return GuidePaths(codes, factors, drawn.log_prior, log_likelihood, drawn.log_q)


class DrawnPaths(NamedTuple):
    """Draws of the guide, before returns are looked at.

    Attributes
    ----------
    codes : Tensor of shape (num_samples, n_times, n_factors)
    level : Tensor of shape (num_samples, n_times) or None
        Log multiplier of the idiosyncratic scales.
    log_prior, log_q : Tensor of shape (num_samples, n_times)
        Of all latents of the time plate together.
    own : dict of str to Tensor of shape (num_samples, n_times, size)
        The prior's own latent by the name of its site; empty for none.
    """

    codes: Tensor
    level: Tensor | None
    log_prior: Tensor
    log_q: Tensor
    own: dict[str, Tensor]


def draw_paths(
    model: RVRAE,
    batch: Batch,
    view: PriorView,
    potential: Potential,
    num_samples: int,
    kl_weight: Tensor | None = None,
) -> DrawnPaths:
    """Draw paths from the guide: a latent of the prior's own, if it has one, then the codes.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
    view : PriorView
    potential : Potential
        Quadratic log-likelihood of every month.
    num_samples : int
    kl_weight : Tensor of shape (n_times,), optional
        Weights under which the guide answers; 1 unless told.

    Returns
    -------
    DrawnPaths
        Uses torch's global random stream.
    """
    weight = batch.returns.new_ones(batch.n_times) if kl_weight is None else kl_weight
    shape, own_prior, own_draws = (num_samples, batch.n_times, 1), view.prior.own, {}
    log_prior = log_q = torch.zeros(shape[:-1], dtype=weight.dtype, device=weight.device)
    if own_prior is not None:
        own = model.parts.guide.own(batch, potential, view, weight).expand(shape)
        latent = own.rsample()
        path = PriorPath(own_prior, batch.n_times, view.own_context, view.own_state)
        log_prior, log_q = path.log_prob(latent).squeeze(-1), own.log_prob(latent).squeeze(-1)
        own_draws[own_prior.site] = latent.squeeze(-2)
        view = view.given(latent.squeeze(-2))
    proposal = model.parts.guide(batch, potential, view, weight).expand(shape)
    draws = proposal.rsample()
    codes = draws.squeeze(-2)
    code_prior, level = prior_terms(view, codes)
    log_q = log_q + proposal.log_prob(draws).squeeze(-1)
    return DrawnPaths(codes, level, log_prior + code_prior, log_q, own_draws)


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
    _, _, level = _along(shared.view, codes)
    return _outcome(model, batch, shared.cross, codes, level)[1]


def _outcome(
    model: RVRAE, batch: Batch, cross: CrossSection, codes: Tensor, level: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Factors, and log likelihood by month, along paths of codes."""
    factors = model.parts.decoder(codes, batch.state("decoder") or None)
    months = [
        cross.log_likelihood(
            model.likelihood, batch, t, factors[:, t], None if level is None else level[..., t]
        )
        for t in range(batch.n_times)
    ]
    return factors, torch.stack(months, -1)


def prior_terms(view: PriorView, codes: Tensor) -> tuple[Tensor, Tensor | None]:
    """Prior density of every month along the paths, and the idiosyncratic level."""
    if view.walk is not None:
        return view.walk.prior.log_prob(codes), view.walk.level
    before, context, level = _along(view, codes)
    return view.prior.transition(before, context).log_prob(codes), level


def _along(view: PriorView, codes: Tensor) -> tuple[State, Tensor | None, Tensor | None]:
    """States before each month, context, and idiosyncratic level along the paths."""
    if view.walk is not None:
        return view.state, view.context, view.walk.level
    states = view.prior.unroll(codes, view.context, view.state)
    before = tuple(s[..., :-1, :] for s in states)
    return before, view.context, view.prior.level(before, view.context)
