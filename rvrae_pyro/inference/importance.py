"""Paths drawn from the guide, with their densities under guide and model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.path_draw import along_prior, draw_path
from rvrae_pyro.models.rvrae import RVRAE


@dataclass(frozen=True)
class GuidePaths:
    """Draws of the guide and the terms of their importance weights, month by month.

    Attributes
    ----------
    codes, factors : Tensor of shape (num_samples, n_times, n_factors)
        Whole paths; identical without a decoder in between.
    log_prior : Tensor of shape (num_samples, n_times)
        log p(z_t | h_{t-1}) along the path, with that of the prior's auxiliary latent, if any.
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
        proposes optimally under that weight.
    cross : CrossSection, optional
        Loadings and scales if they are known already.

    Returns
    -------
    GuidePaths
        Costs O(num_samples n_assets n_factors) per month.
    """
    check_count("num_samples", num_samples)
    parts = model.parts
    shared = parts.prepare(batch, cross or parts.online_cross_section(batch))
    weight = batch.returns.new_full((batch.n_times,), kl_weight)
    with month_random(seed, batch.times[0], "path"):
        draw = draw_path(
            parts.guide,
            batch,
            shared.view,
            shared.cross.potential,
            weight,
            particles=(num_samples,),
        )
    factors, log_likelihood = _outcome(model, batch, shared.cross, draw.codes, draw.level)
    return GuidePaths(draw.codes, factors, draw.log_prior(), log_likelihood, draw.log_q())


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
    _, level = along_prior(shared.view, codes.unsqueeze(-2))
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
