"""Exact answers where a closed form exists: evidence, filter and smoother.

A model qualifies with an identity decoder, Normal returns, and a factor prior that is linear and
Gaussian (:class:`~rvrae_pyro.models.priors.StandardNormal`,
:class:`~rvrae_pyro.models.priors.AR1`, or one augmented by small factors) or has an observed
recurrence. These are the oracles that
the approximate machinery is tested against, and what filters use where they can.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.likelihoods import Normal
from rvrae_pyro.models.parts import NO_WEIGHTS
from rvrae_pyro.models.priors import FactorPrior
from rvrae_pyro.models.random_weights import Weights
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.models.scan import Scan, at_level
from rvrae_pyro.nn.gaussian import Gaussian

__all__ = ["Moments", "evidence", "filtered", "is_exact", "month_evidence", "smoother"]


class Moments(NamedTuple):
    """Gaussian beliefs about each month's factors.

    Attributes
    ----------
    predicted_mean, predicted_covariance : Tensor
        Given returns up to the month before: (n_times, n_factors), (n_times, n_factors, n_factors).
    mean, covariance : Tensor
        Given returns up to the month (filter) or of all months (smoother).
    log_evidence : Tensor of shape (n_times,)
        log p(r_t | r_1..t-1) in nats; 0 in a month without a return.
    """

    predicted_mean: Tensor
    predicted_covariance: Tensor
    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor


def is_exact(model: RVRAE) -> bool:
    """Whether a closed form exists for this combination of parts."""
    return (
        model.decoder.affine
        and isinstance(model.likelihood, Normal)
        and model.factor_prior.gaussian
        and (model.factor_prior.observed or model.factor_prior.slope() is not None)
    )


def evidence(model: RVRAE, batch: Batch) -> Tensor:
    """Log evidence log p(r_1..T), differentiable in all weights.

    Parameters
    ----------
    model : RVRAE
    batch : Batch

    Returns
    -------
    Tensor
        A scalar, in nats, over observed returns.

    Raises
    ------
    ConfigError
        If no closed form exists for the model's parts.

    References
    ----------
    Bayesian linear regression month by month; the information form of the Kalman filter.
    Wang and Guo (2024), arXiv 2403.02500, eq. (8).
    """
    return month_evidence(model, batch).sum()


def month_evidence(model: RVRAE, batch: Batch) -> Tensor:
    """Log evidence log p(r_t | r_1..t-1) of every month, of shape (n_times,)."""
    return filtered(model, batch).log_evidence


def filtered(
    model: RVRAE, batch: Batch, cross: CrossSection | None = None, weights: Weights = NO_WEIGHTS
) -> Moments:
    """Exact filter: what is known of month t's factors from returns up to t.

    Parameters and errors as :func:`evidence`; costs O(n_times n_factors^3) after the loadings.
    ``weights`` are values by site, without particles, in place of the model's own.
    """
    require_model(model)
    if not is_exact(model):
        raise ConfigError(
            "`model` has no closed form: that takes an identity decoder, likelihood "
            "rv.likelihoods.Normal, and factor prior StandardNormal, AR1 or Recurrent("
            f"recurrence='observed'); got {type(model.decoder).__name__}, "
            f"{type(model.likelihood).__name__}, {type(model.factor_prior).__name__}. Use "
            "rv.inference.smc_filter for an estimate."
        )
    shared = model.parts.prepare(batch, cross, weights)
    if shared.view.walk is not None:
        return _observed(shared.cross, shared.view.walk, batch)
    return _kalman(shared.view.prior, shared.cross, batch)


def smoother(model: RVRAE, batch: Batch, cross: CrossSection | None = None) -> Moments:
    """Exact smoother: what is known of each month's factors from the returns of all months.

    Parameters and errors as :func:`evidence`. ``mean`` and ``covariance`` are the smoothed ones.

    References
    ----------
    Rauch, Tung and Striebel (1965), AIAA Journal 3, 1445-1450.
    Wang and Guo (2024), arXiv 2403.02500, eq. (9).
    """
    moments = filtered(model, batch, cross)
    phi = None if model.factor_prior.observed else model.factor_prior.slope()
    if phi is None or not phi.any():
        return moments  # no month says anything of another
    means, covariances = [moments.mean[-1]], [moments.covariance[-1]]
    for t in range(batch.n_times - 2, -1, -1):
        joint = moments.covariance[t] * phi
        ahead = moments.predicted_covariance[t + 1]
        gain = torch.linalg.solve(ahead, joint.mT).mT
        means.append(moments.mean[t] + gain @ (means[-1] - moments.predicted_mean[t + 1]))
        covariances.append(moments.covariance[t] + gain @ (covariances[-1] - ahead) @ gain.mT)
    return moments._replace(
        mean=torch.stack(means[::-1]), covariance=torch.stack(covariances[::-1])
    )


def _constant(cross: CrossSection, batch: Batch, level: Tensor | None) -> Tensor:
    """Log density of each month at zero factors: c_t of Bayesian linear regression."""
    scale = cross.scale_at(level)
    residual = batch.returns if cross.alpha is None else batch.returns - cross.alpha
    terms = -0.5 * (residual / scale).square() - scale.log() - 0.5 * math.log(2.0 * math.pi)
    return (terms * batch.observed).sum(-1)


def _observed(cross: CrossSection, walk: Scan, batch: Batch) -> Moments:
    potential = at_level(cross.potential, walk.level)
    assert isinstance(walk.prior, Gaussian)  # is_exact has seen to it
    return Moments(
        walk.prior.loc,
        torch.diag_embed(walk.prior.scale.square()),
        walk.posterior.mean,
        walk.posterior.covariance(),
        _constant(cross, batch, walk.level) + walk.prior.evidence(potential),
    )


def _kalman(prior: FactorPrior, cross: CrossSection, batch: Batch) -> Moments:
    potential = cross.potential
    state = batch.state("factor_prior") or prior.initial()
    first = prior.transition(state, None)
    mean, covariance = first.loc, torch.diag_embed(first.scale.square())
    noise, months, slope = covariance, [], prior.slope()
    assert slope is not None  # is_exact has seen to it
    for precision, shift in zip(
        potential.precision.unbind(-3), potential.shift.unbind(-2), strict=True
    ):
        updated, updated_covariance, gain = _condition(mean, covariance, precision, shift)
        months.append((mean, covariance, updated, updated_covariance, gain))
        mean = prior.transition(prior.advance(state, updated, None), None).loc
        covariance = slope.unsqueeze(-1) * updated_covariance * slope + noise
    stacked = [torch.stack(field) for field in zip(*months, strict=True)]
    predicted, predicted_covariance, updated, updated_covariance, gain = stacked
    log_evidence = _constant(cross, batch, None) + gain
    return Moments(predicted, predicted_covariance, updated, updated_covariance, log_evidence)


def _condition(
    mean: Tensor, covariance: Tensor, precision: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Update a Gaussian by a quadratic log-likelihood; also the log of the integral."""
    root = torch.linalg.cholesky(covariance)
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    chol = torch.linalg.cholesky(eye + root.mT @ precision @ root)
    half = torch.linalg.solve_triangular(chol, root.mT, upper=False)
    residual = shift - precision @ mean
    updated_covariance = half.mT @ half
    updated = mean + updated_covariance @ residual
    gain = (
        shift @ mean
        - 0.5 * mean @ precision @ mean
        + 0.5 * residual @ updated_covariance @ residual
        - chol.diagonal().log().sum()
    )
    return updated, updated_covariance, gain
