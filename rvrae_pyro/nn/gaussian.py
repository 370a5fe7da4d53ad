"""Gaussian algebra of one month: a diagonal prior meets a quadratic log-likelihood.

Everything here follows the conjugate update of Bayesian linear regression: the observed
cross-section enters only through its precision ``Lambda`` (n_factors x n_factors) and shift
``eta`` (n_factors), for any number of assets.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)


@lru_cache(maxsize=16)
def _identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Identity matrix, made once: a filter asks for it every month."""
    return torch.eye(size, dtype=dtype, device=device)


class Potential(NamedTuple):
    """Quadratic log-likelihood of a month's factors, ``eta'f - f'Lambda f / 2`` plus a constant.

    Attributes
    ----------
    precision : Tensor of shape (*batch, n_factors, n_factors)
        ``Lambda = B' Sigma^-1 B`` over the observed assets.
    shift : Tensor of shape (*batch, n_factors)
        ``eta = B' Sigma^-1 r`` over the observed assets.
    """

    precision: Tensor
    shift: Tensor

    @classmethod
    def none(cls, beta: Tensor) -> Potential:
        """Potential of months without returns, given loadings (*batch, n_assets, n_factors)."""
        shift = beta.new_zeros(*beta.shape[:-2], beta.shape[-1])
        return cls(shift.unsqueeze(-1).expand(*shift.shape, shift.shape[-1]), shift)

    def tempered(self, weight: Tensor) -> Potential:
        """Divide by a weight, of shape (*batch,): the optimum under a weighted KL uses it."""
        return Potential(self.precision / weight[..., None, None], self.shift / weight[..., None])


class Dispersion(NamedTuple):
    """Log-likelihood of a log multiplier l common to all idiosyncratic scales, to second order.

    Together with a :class:`Potential` at level ``l0 = level`` the log-likelihood of factors f and
    multiplier l is, up to a constant,

    ``exp(-2 (l - l0)) (eta'f - f'Lambda f / 2 - energy / 2) - n_returns (l - l0)``:

    exactly for Normal returns, else to second order about a mode. All terms are sums over assets.

    Attributes
    ----------
    energy : Tensor of shape (*batch,)
        Sum of squared residuals at zero factors, in idiosyncratic scales.
    n_returns : Tensor of shape (*batch,)
        Number of observed returns (an effective number for returns that are not Normal).
    level : Tensor of shape (*batch,)
        Level l0 at which the potential was taken; 0 for Normal returns.
    """

    energy: Tensor
    n_returns: Tensor
    level: Tensor

    def tempered(self, weight: Tensor) -> Dispersion:
        """Divide by a weight, of shape (*batch,), as a potential is."""
        return Dispersion(self.energy / weight, self.n_returns / weight, self.level)


class Posterior(NamedTuple):
    """Gaussian with mean ``mean`` and covariance ``s (C C')^-1 s``, s the prior's scale.

    Attributes
    ----------
    mean : Tensor of shape (*batch, n_factors)
    scale : Tensor of shape (*batch, n_factors)
        Standard deviation of the prior that was updated.
    chol : Tensor of shape (*batch, n_factors, n_factors)
        Lower Cholesky factor C of ``I + s Lambda s``; its eigenvalues are at least 1, so the
        factorisation cannot fail for lack of data.
    """

    mean: Tensor
    scale: Tensor
    chol: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 2)

    def deviate(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to a deviation from the mean."""
        column = noise.unsqueeze(-1)
        solved: Tensor = torch.linalg.solve_triangular(self.chol.mT, column, upper=True)
        return self.scale * solved.squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        z = (value - self.mean) / self.scale
        noise = (self.chol.mT @ z.unsqueeze(-1)).squeeze(-1)
        return self.log_prob_of_noise(noise)

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """Log density at ``mean + deviate(noise)``."""
        log_det = self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - self.scale.log().sum(-1)
        return log_det - 0.5 * (noise.square().sum(-1) + noise.shape[-1] * _LOG_2PI)

    def covariance(self) -> Tensor:
        """Dense covariance, of shape (*batch, n_factors, n_factors)."""
        inverse = torch.cholesky_inverse(self.chol)
        return self.scale.unsqueeze(-1) * inverse * self.scale.unsqueeze(-2)

    def kl_to(self, prior: Gaussian) -> Tensor:
        """Kullback-Leibler divergence KL(self || prior) in nats, of shape (*batch,)."""
        covariance = self.covariance()
        variance = prior.scale.square()
        trace = (covariance.diagonal(dim1=-2, dim2=-1) / variance).sum(-1)
        distance = ((self.mean - prior.loc).square() / variance).sum(-1)
        log_det = self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - self.scale.log().sum(-1)
        n_factors = self.mean.shape[-1]
        return 0.5 * (trace + distance - n_factors) + log_det + prior.scale.log().sum(-1)


class Pooled(NamedTuple):
    """Mean and covariance of a mixture.

    Attributes
    ----------
    mean : Tensor of shape (n_factors,)
    covariance : Tensor of shape (n_factors, n_factors)
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, means: Tensor, variances: Tensor, weights: Tensor | None = None) -> Pooled:
        """Mean and covariance of components with independent coordinates.

        Parameters
        ----------
        means, variances : Tensor of shape (n_components, n_factors)
        weights : Tensor of shape (n_components,), optional
            They add up to 1. Default: all alike.
        """
        if weights is None:
            weights = means.new_full(means.shape[:1], 1.0 / len(means))
        mean = weights @ means
        between = (weights.unsqueeze(-1) * (means - mean)).mT @ (means - mean)
        return cls(mean, between + torch.diag_embed(weights @ variances))


class Gaussian(NamedTuple):
    """Gaussian with independent components: the factor prior of one month, p(z_t | h_{t-1}).

    Attributes
    ----------
    loc, scale : Tensor of shape (*batch, n_factors)
        Mean and standard deviation.
    """

    loc: Tensor
    scale: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, n_factors)."""
        return self.loc

    def pooled(self) -> Pooled | None:
        """Moments of the even mixture of a batch (n, n_factors); None without a closed form."""
        return Pooled.of(self.loc, self.scale.square())

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to a draw."""
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        z = (value - self.loc) / self.scale
        n_factors = value.shape[-1]
        return -0.5 * (z.square().sum(-1) + n_factors * _LOG_2PI) - self.scale.log().sum(-1)

    def update(self, potential: Potential) -> Posterior:
        """Condition on a month's returns: precision ``S^-1 + Lambda``, the exact conjugate update.

        With ``Lambda = 0`` and ``eta = 0`` the answer is this prior itself.
        """
        precision, shift = potential
        scaled = self.scale.unsqueeze(-1) * precision * self.scale.unsqueeze(-2)
        scaled = scaled + _identity(scaled.shape[-1], scaled.dtype, scaled.device)
        chol, _ = torch.linalg.cholesky_ex(scaled)
        residual = shift - (precision @ self.loc.unsqueeze(-1)).squeeze(-1)
        gain = torch.cholesky_solve((self.scale * residual).unsqueeze(-1), chol).squeeze(-1)
        return Posterior(self.loc + self.scale * gain, self.scale, chol)

    def propose(self, potential: Potential, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw given a month's returns; also the log density of the draw."""
        posterior = self.update(potential)
        return posterior.mean + posterior.deviate(noise), posterior.log_prob_of_noise(noise)

    def evidence(self, potential: Potential) -> Tensor:
        """Log of the potential's integral under this prior, ``log E exp(eta'f - f'Lambda f/2)``.

        Add the month's constant ``c_t`` for ``log p(r_t)`` (E.1: Bayesian linear regression).
        """
        posterior = self.update(potential)
        log_det = posterior.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        shift, precision = potential.shift, potential.precision
        at_mean = (shift * self.loc).sum(-1) - 0.5 * (
            self.loc * (precision @ self.loc.unsqueeze(-1)).squeeze(-1)
        ).sum(-1)
        residual = shift - (precision @ self.loc.unsqueeze(-1)).squeeze(-1)
        return at_mean + 0.5 * (residual * (posterior.mean - self.loc)).sum(-1) - log_det
