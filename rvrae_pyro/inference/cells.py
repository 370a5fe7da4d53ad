"""Cells of a shard of assets, and the path of factors that all shards share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.likelihoods import Likelihood, RobustLikelihood
from rvrae_pyro.models.pair import month_weights, prior_distribution
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.path_distributions import PriorPath
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.nn.cross_section import along_factors
from rvrae_pyro.nn.gaussian import Potential
from rvrae_pyro.nn.month_summary import MonthStatistics

__all__ = ["Cells", "DrawnPath", "Mode", "Samples", "cells_of", "draw_path", "light"]


@dataclass(frozen=True)
class Cells:
    """What is known of a shard's cells once its networks have run; small beside their inputs."""

    batch: Batch
    beta: Tensor
    alpha: Tensor | None
    scale: Tensor
    residual: Tensor

    def potential(self, likelihood: Likelihood, mode: Mode | None, start: Transition) -> Potential:
        """Quadratic log-likelihood of each month's factors, about a mode that is known."""
        cells = (self.residual, self.beta, self.scale, self.batch.observed)
        if mode is None:
            return likelihood.potential(*cells, start)
        assert isinstance(likelihood, RobustLikelihood)
        return likelihood.about(*cells, mode.mean, mode.covariance)

    def statistics(self) -> MonthStatistics:
        """Add up what summarises each month's returns."""
        return MonthStatistics.of(self.residual, self.beta, self.scale, self.batch.observed)

    def kept(self, put: Callable[[Tensor], Tensor]) -> Cells:
        """Cells whose tensors are where ``put`` leaves them."""
        alpha = None if self.alpha is None else put(self.alpha)
        beta, scale, residual = map(put, (self.beta, self.scale, self.residual))
        return Cells(self.batch, beta, alpha, scale, residual)

    def select(self, places: Tensor) -> Cells:
        """Cells of some assets."""
        alpha = None if self.alpha is None else self.alpha[:, places]
        return Cells(
            self.batch.select(places),
            self.beta[:, places],
            alpha,
            self.scale[:, places],
            self.residual[:, places],
        )

    def log_likelihood(
        self, likelihood: Likelihood, unit: Tensor, factors: Tensor, level: Tensor | None
    ) -> Tensor:
        """Log density of each month's observed returns, of shape (*particles, n_times)."""
        loc = unit * along_factors(self.beta, factors)
        loc = loc if self.alpha is None else loc + unit * self.alpha
        scale = unit * self.scale
        scale = scale if level is None else scale * level.exp().unsqueeze(-1)
        density = likelihood.distribution(loc, scale).log_prob(self.batch.returns)
        total: Tensor = (density * self.batch.observed).sum(-1)
        return total


@dataclass(frozen=True)
class Samples:
    """Assets of a shard that a step looks at, None for all, and what one of them stands for."""

    returns: Tensor | None
    potentials: Tensor | None
    weight: float

    def take(self, batch: Batch, places: Tensor | None) -> Batch:
        """Assets at some places of a batch."""
        return batch if places is None else batch.select(places)


@dataclass(frozen=True)
class Mode:
    """Point about which a robust likelihood is expanded, and what the month leaves open."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class DrawnPath:
    """A draw of the factors, with what the objective needs of it."""

    factors: Tensor
    level: Tensor | None
    divergence: Tensor


def cells_of(parts: Parts, batch: Batch, beta: Tensor | None = None) -> Cells:
    """Run a shard's networks; all per unit of ``return_scale``."""
    beta = parts.loadings(batch) if beta is None else beta
    log_scale = parts.likelihood.scale(batch)
    scale = log_scale.exp().expand(*log_scale.shape[:-2], batch.n_times, batch.n_assets)
    alpha = None if parts.likelihood.alpha is None else parts.likelihood.alpha(batch)
    returns = batch.returns / parts.return_scale
    return Cells(batch, beta, alpha, scale, returns if alpha is None else returns - alpha)


def light(cells: Cells) -> Cells:
    """Cells without the characteristics, which the networks have read.

    Not as an empty view, which would keep all of them in memory.
    """
    x = cells.batch.characteristics
    batch = dataclasses.replace(cells.batch, characteristics=x.new_empty(*x.shape[:-1], 0))
    return dataclasses.replace(cells, batch=batch)


def draw_path(
    parts: Parts,
    months: Batch,
    potential: Potential,
    kl_weight: float | Tensor,
    num_particles: int,
    summary: Tensor | None = None,
) -> DrawnPath:
    """Draw the factors; the graph of this is all that the months' side of the model needs."""
    view = parts.view(months, potential, summary=summary)
    weights, n = month_weights(kl_weight, months), num_particles
    shape = torch.Size((n, months.n_times, 1) if n > 1 else (months.n_times, 1))
    own_ratio: float | Tensor = 0.0
    if view.prior.own is not None:
        own = parts.guide.own(months, potential, view, weights).expand(shape)
        latent = own.rsample()
        path = PriorPath(view.prior.own, months.n_times, view.own_context, view.own_state)
        own_ratio = (own.log_prob(latent) - path.log_prob(latent)).squeeze(-1)
        view = view.given(latent.squeeze(-2))
    proposal = parts.guide(months, potential, view, weights).expand(shape)
    codes = proposal.rsample()
    prior = prior_distribution(view, months.n_times)
    drawn = getattr(proposal, "drawn", None)
    if isinstance(prior, PriorPath) and drawn is not None and drawn[0] is codes:
        # the draw met the prior on its way
        prior.walked = (codes, drawn[1].prior, drawn[1].level)
    ratio = (proposal.log_prob(codes) - prior.log_prob(codes)).squeeze(-1)
    # a number stays one: as a tensor it would be rounded to single precision
    divergence = (kl_weight * (ratio + own_ratio)).sum() / n
    level = prior.along(codes)[1] if isinstance(prior, PriorPath) else None
    if view.walk is not None:
        level = view.walk.level
    factors = parts.decoder(codes.squeeze(-2), months.state("decoder") or None)
    return DrawnPath(factors, level, divergence)
