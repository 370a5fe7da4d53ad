"""Cells of a shard of assets, and the path of factors that all shards share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.likelihood_base import scale_at
from rvrae_pyro.models.likelihoods import Likelihood, RobustLikelihood
from rvrae_pyro.models.pair import month_weights
from rvrae_pyro.models.parts import Parts
from rvrae_pyro.models.path_draw import draw_path
from rvrae_pyro.models.priors import Transition
from rvrae_pyro.nn.asset_sums import along_factors
from rvrae_pyro.nn.gaussian import Dispersion, Potential
from rvrae_pyro.nn.month_summary import MonthStatistics


@dataclass(frozen=True)
class Cells:
    """Outputs of the networks for a shard's observations; small compared with their inputs."""

    batch: Batch
    beta: Tensor
    alpha: Tensor | None
    scale: Tensor
    residual: Tensor

    def potential(self, likelihood: Likelihood, mode: Mode | None, start: Transition) -> Potential:
        """Quadratic log-likelihood of each month's factors, about a mode that is known."""
        observed = self.batch.observed
        if mode is None:
            return likelihood.potential(self.residual, self.beta, self.scale, observed, start)
        assert isinstance(likelihood, RobustLikelihood)
        cells = (self.residual, self.beta, self.scale_at(mode), observed)
        return likelihood.about(*cells, mode.mean, mode.covariance)

    def statistics(self) -> MonthStatistics:
        """Add up what summarises each month's returns."""
        return MonthStatistics.of(self.residual, self.beta, self.scale, self.batch.observed)

    def scale_at(self, mode: Mode) -> Tensor:
        """Scales at the mode's level."""
        return self.scale if mode.level is None else scale_at(self.scale, mode.level)

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
        return (density * self.batch.observed).sum(-1)


@dataclass(frozen=True)
class Samples:
    """Assets of a shard in a step, None for all, and the weight of each."""

    returns: Tensor | None
    potentials: Tensor | None
    weight: float

    def take(self, batch: Batch, places: Tensor | None) -> Batch:
        """Assets at some places of a batch."""
        return batch if places is None else batch.select(places)


@dataclass(frozen=True)
class Mode:
    """Point about which a robust likelihood is expanded, and the remaining covariance."""

    mean: Tensor
    covariance: Tensor
    level: Tensor | None = None


@dataclass(frozen=True)
class DrawnPath:
    """A draw of the factors, with its terms of the objective."""

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


def draw_months(
    parts: Parts,
    months: Batch,
    potential: Potential,
    dispersion: Dispersion | None,
    kl_weight: float | Tensor,
    num_particles: int,
    summary: Tensor | None = None,
) -> DrawnPath:
    """Draw the factors; the graph of this is all that the months' side of the model needs."""
    view, n = parts.view(months, potential, dispersion, summary=summary), num_particles
    draw = draw_path(
        parts.guide,
        months,
        view,
        potential,
        month_weights(kl_weight, months),
        particles=(n,) if n > 1 else (),
    )
    ratio = draw.log_q() - draw.log_prior()
    # a number stays one: as a tensor it would be rounded to single precision
    divergence = (kl_weight * ratio).sum() / n
    factors = parts.decoder(draw.codes, months.state("decoder") or None)
    return DrawnPath(factors, draw.level, divergence)
