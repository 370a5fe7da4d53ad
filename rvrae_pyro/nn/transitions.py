"""Factor priors of one month beyond the Gaussian: heavy tails and mixtures of regimes.

Each offers what :class:`~rvrae_pyro.nn.gaussian.Gaussian` offers: ``mean``, ``sample``,
``log_prob``, ``update`` (a Gaussian-like proposal given the month's returns) and ``propose`` (a
draw given the month's returns with its log density, for filters).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.nn.gaussian import Gaussian, Pooled, Posterior, Potential

_SWEEPS = 2


class StudentTPosterior(NamedTuple):
    """Multivariate Student-t with mean ``mean`` and scale matrix ``s (C C')^-1 s``.

    Attributes
    ----------
    mean, scale : Tensor of shape (*batch, n_factors)
    chol : Tensor of shape (*batch, n_factors, n_factors)
    df : Tensor of shape (*batch,)
    """

    mean: Tensor
    scale: Tensor
    chol: Tensor
    df: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 2, 0)

    def deviate(self, noise: Tensor) -> Tensor:
        """Map standard Student-t noise to a deviation from the mean."""
        return Posterior(self.mean, self.scale, self.chol).deviate(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        z = (value - self.mean) / self.scale
        return self.log_prob_of_noise((self.chol.mT @ z.unsqueeze(-1)).squeeze(-1))

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """Log density at ``mean + deviate(noise)``."""
        log_det = self.chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) - self.scale.log().sum(-1)
        return log_det + _standard_t(noise, self.df)

    def covariance(self) -> Tensor:
        """Dense covariance, for more than two degrees of freedom."""
        spread = (self.df / (self.df - 2.0))[..., None, None]
        return spread * Posterior(self.mean, self.scale, self.chol).covariance()


class StudentT(NamedTuple):
    """Multivariate Student-t with a diagonal scale: all factors share a month's shock.

    Attributes
    ----------
    loc, scale : Tensor of shape (*batch, n_factors)
    df : Tensor of shape (*batch,)
        Degrees of freedom, above 2.
    """

    loc: Tensor
    scale: Tensor
    df: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 0)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, n_factors)."""
        return self.loc

    def pooled(self) -> Pooled | None:
        """Moments of the even mixture of a batch (n, n_factors)."""
        spread = (self.df / (self.df - 2.0)).unsqueeze(-1)
        return Pooled.of(self.loc, self.scale.square() * spread)

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard Student-t noise to a draw."""
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        noise = (value - self.loc) / self.scale
        return _standard_t(noise, self.df) - self.scale.log().sum(-1)

    def update(self, potential: Potential) -> StudentTPosterior:
        """Condition on a month's returns at the mode of the shock, keeping the prior's tails.

        The prior precision is weighted by ``df / (df + d^2)``, d the distance of the mode from
        the prior's mean in its own scale; with no return the answer is this prior itself.
        """
        weight = torch.ones_like(self.loc[..., :1])
        with torch.no_grad():
            for _ in range(_SWEEPS):
                mode = Gaussian(self.loc, self.scale / weight.sqrt()).update(potential).mean
                distance = ((mode - self.loc) / self.scale).square().sum(-1, keepdim=True)
                weight = self.df.unsqueeze(-1) / (self.df.unsqueeze(-1) + distance)
        posterior = Gaussian(self.loc, self.scale / weight.sqrt()).update(potential)
        return StudentTPosterior(*posterior, self.df.expand(posterior.mean.shape[:-1]))

    def propose(self, potential: Potential, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw given a month's returns; also the log density of the draw."""
        posterior = self.update(potential)
        return posterior.mean + posterior.deviate(noise), posterior.log_prob_of_noise(noise)


class Mixture(NamedTuple):
    """Mixture of Gaussians with independent components: one for every regime.

    Attributes
    ----------
    logits : Tensor of shape (*batch, n_regimes)
        Log probabilities.
    locs, scales : Tensor of shape (*batch, n_regimes, n_factors)
    """

    logits: Tensor
    locs: Tensor
    scales: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 2, 2)

    @property
    def loc(self) -> Tensor:
        """Mean, of shape (*batch, n_factors)."""
        return (self.logits.exp().unsqueeze(-1) * self.locs).sum(-2)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, n_factors)."""
        return self.loc

    @property
    def scale(self) -> Tensor:
        """Standard deviation, of shape (*batch, n_factors)."""
        second = self.scales.square() + (self.locs - self.loc.unsqueeze(-2)).square()
        return (self.logits.exp().unsqueeze(-1) * second).sum(-2).sqrt()

    def pooled(self) -> Pooled | None:
        """Moments of the even mixture of a batch (n, n_factors)."""
        weights = self.logits.exp() / len(self.logits)
        return Pooled.of(
            self.locs.flatten(0, 1), self.scales.square().flatten(0, 1), weights.flatten()
        )

    def sample(self, noise: Tensor) -> Tensor:
        """Draw a regime (from torch's stream), then map noise to a draw from it."""
        logits = self.logits.expand(*noise.shape[:-1], self.logits.shape[-1])
        regime = torch.distributions.Categorical(logits=logits).sample()
        return _pick(self.locs, regime, noise) + _pick(self.scales, regime, noise) * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        return torch.logsumexp(self.logits + self.regime_log_prob(value), -1)

    def regime_log_prob(self, value: Tensor) -> Tensor:
        """Log density within each regime, of shape (*batch, n_regimes)."""
        return Gaussian(self.locs, self.scales).log_prob(value.unsqueeze(-2))

    def update(self, potential: Potential) -> Posterior:
        """Match the moments of the posterior, itself a mixture, by one Gaussian."""
        logits, posterior = self._regimes(potential)
        weight = logits.exp()
        mean = (weight.unsqueeze(-1) * posterior.mean).sum(-2)
        offset = posterior.mean - mean.unsqueeze(-2)
        within = posterior.covariance() + offset.unsqueeze(-1) * offset.unsqueeze(-2)
        covariance = (weight[..., None, None] * within).sum(-3)
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
        root = torch.linalg.cholesky_ex(correlation)[0]
        chol = torch.linalg.cholesky_ex(torch.cholesky_inverse(root))[0]
        return Posterior(mean, scale, chol)

    def propose(self, potential: Potential, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the exact mixture posterior of the potential; also its log density."""
        logits, posterior = self._regimes(potential)
        logits = logits.expand(*noise.shape[:-1], logits.shape[-1])
        # an invalid bound is detected by its value; a draw must not stop on the way there
        known = torch.where(logits.isnan(), 0.0, logits)
        regime = torch.distributions.Categorical(logits=known, validate_args=False).sample()
        deviation = posterior.deviate(noise.unsqueeze(-2).expand_as(posterior.mean))
        draw = _pick(posterior.mean + deviation, regime, noise)
        return draw, torch.logsumexp(logits + posterior.log_prob(draw.unsqueeze(-2)), -1)

    def evidence(self, potential: Potential) -> Tensor:
        """Log of the potential's integral under the mixture, of shape (*batch,)."""
        return torch.logsumexp(self.logits + self._evidences(potential), -1)

    def _evidences(self, potential: Potential) -> Tensor:
        regimes = Gaussian(self.locs, self.scales)
        return regimes.evidence(_for_regimes(potential))

    def _regimes(self, potential: Potential) -> tuple[Tensor, Posterior]:
        """Posterior log probabilities and conjugate posteriors of the regimes."""
        logits = torch.log_softmax(self.logits + self._evidences(potential), -1)
        return logits, Gaussian(self.locs, self.scales).update(_for_regimes(potential))


def _for_regimes(potential: Potential) -> Potential:
    return Potential(potential.precision.unsqueeze(-3), potential.shift.unsqueeze(-2))


def _pick(values: Tensor, regime: Tensor, like: Tensor) -> Tensor:
    """Entry of each regime, of the shape of ``like``."""
    values = values.expand(*like.shape[:-1], *values.shape[-2:])
    index = regime[..., None, None].expand(*regime.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


def _standard_t(noise: Tensor, df: Tensor) -> Tensor:
    """Log density of the standard multivariate Student-t, of shape (*batch,)."""
    size = noise.shape[-1]
    constant = (
        torch.lgamma(0.5 * (df + size)) - torch.lgamma(0.5 * df) - 0.5 * size * (df * math.pi).log()
    )
    return constant - 0.5 * (df + size) * torch.log1p(noise.square().sum(-1) / df)


def from_pyro(distribution: object) -> object:
    """Convert a distribution of Pyro or torch to the transition that guides can condition.

    Parameters
    ----------
    distribution : object
        ``Normal`` or ``StudentT`` of shape (*batch, n_factors), with or without ``to_event(1)``;
        ``MultivariateNormal`` or ``MultivariateStudentT`` with a diagonal scale.

    Returns
    -------
    Gaussian or StudentT
        The same distribution, but for ``StudentT``: its marginals are kept, and the factors of a
        month share one shock instead of having independent ones. An invalid distribution is
        returned as it is.

    Raises
    ------
    ConfigError
        If the distribution is another one, its scale is not diagonal, or its degrees of freedom
        differ between factors.
    """
    if not isinstance(distribution, torch.distributions.Distribution):
        return distribution
    inner: object = distribution
    if isinstance(inner, torch.distributions.Independent) and len(inner.event_shape) == 1:
        inner = inner.base_dist
    if isinstance(inner, torch.distributions.Normal):
        return Gaussian(inner.loc, inner.scale)
    if isinstance(inner, torch.distributions.MultivariateNormal):
        return Gaussian(inner.loc, _diagonal(inner.scale_tril))
    if isinstance(inner, dist.MultivariateStudentT):
        return StudentT(inner.loc, _diagonal(inner.scale_tril), inner.df.expand(inner.batch_shape))
    if isinstance(inner, torch.distributions.StudentT):
        df = inner.df.expand(inner.batch_shape)
        if not bool((df == df[..., :1]).all()):
            raise ConfigError(
                "`transition` returned a StudentT whose `df` differs between factors; factors of a "
                "month share one shock, so pass one `df` for all."
            )
        return StudentT(inner.loc, inner.scale, df[..., 0])
    raise ConfigError(
        f"`transition` must return a Normal, a MultivariateNormal with a diagonal scale, a "
        f"StudentT, or rv.priors.Gaussian, StudentT or Mixture; got {type(inner).__name__}."
    )


def _diagonal(scale_tril: Tensor) -> Tensor:
    """Diagonal of a Cholesky factor that has nothing below it."""
    if bool(scale_tril.detach().tril(-1).any()):
        raise ConfigError(
            "`transition` returned a distribution with correlated factors; factors are independent "
            "given the past, so make the scale diagonal. Loadings carry any rotation."
        )
    return scale_tril.diagonal(dim1=-2, dim2=-1)
