"""Log variances of a month's factors, and their update by the month's returns."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.nn.gaussian import Gaussian, Pooled, Posterior, Potential

_SWEEPS = 3


class LogVariance(NamedTuple):
    """Gaussian log variances of factors that are ``Normal(factor_mean, exp(x / 2))``.

    Attributes
    ----------
    loc, scale : Tensor of shape (*batch, n_factors)
        Mean and standard deviation of the log variances.
    factor_mean : Tensor of shape (*batch, n_factors)
    """

    loc: Tensor
    scale: Tensor
    factor_mean: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 1)

    @property
    def mean(self) -> Tensor:
        """Mean, of shape (*batch, n_factors)."""
        return self.loc

    def pooled(self) -> Pooled | None:
        """Moments of the even mixture of a batch (n, n_factors)."""
        return Pooled.of(self.loc, self.scale.square())

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to a draw."""
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        return Gaussian(self.loc, self.scale).log_prob(value)

    def update(self, potential: Potential) -> Posterior:
        r"""Propose log variances given the month's returns.

        The factors' posterior at the expected variance, divided by their prior, is a noisy
        measurement ``m`` of each factor, of precision ``p``. Its density given the log variance
        x is ``Normal(factor_mean, exp(x) + 1 / p)``; about the mode, score and curvature
        averaged over the factors' posterior make it a Gaussian in x. With exact measurement
        this is the likelihood of ``log m^2``, whose noise has mean -1.27 and variance 4.93;
        with no return ``p`` is 0 and the answer is this prior itself.

        Parameters
        ----------
        potential : Potential
            Quadratic log-likelihood of the month's *factors*.

        Returns
        -------
        Posterior
            Independent log variances.

        References
        ----------
        Harvey, Ruiz and Shephard (1994); Durbin and Koopman (1997), Biometrika 84.
        """
        spread = (0.5 * self.loc).exp()
        factors = Gaussian(self.factor_mean, spread).update(potential)
        variance = factors.covariance().diagonal(dim1=-2, dim2=-1)
        precision = (1.0 / variance - 1.0 / spread.square()).clamp_min(0.0)
        offset = (factors.mean - self.factor_mean) / variance

        def score(x: Tensor) -> Tensor:
            signal = x.exp() * precision
            share = 1.0 / (1.0 + signal)
            return 0.5 * share * (x.exp() * offset.square() * share - signal)

        with torch.no_grad():
            own = self.scale.square().reciprocal()
            mode, total = self.loc, own
            for _ in range(_SWEEPS):
                signal = mode.exp() * precision
                total = own + 0.5 * (signal / (1.0 + signal)).square()
                step = (score(mode) - own * (mode - self.loc)) / total
                mode = mode + step.clamp(-2.0, 2.0)
            reach = (3.0 / total).sqrt()
        low, middle, high = (score(mode + d) for d in (-reach, 0.0, reach))
        # Gauss-Hermite means over the posterior about the mode, the curvature by Stein's lemma
        curvature = ((low - high) / (2.0 * reach)).clamp_min(0.0)
        shift = (low + 4.0 * middle + high) / 6.0 + curvature * mode
        return Gaussian(self.loc, self.scale).update(Potential(torch.diag_embed(curvature), shift))

    def propose(self, potential: Potential, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from prior and posterior in equal parts; also the log density of the draw.

        The mixture as a whole is the proposal, which bounds a filter's weights.
        """
        posterior = self.update(potential)
        from_prior = torch.rand(noise.shape[:-1], dtype=noise.dtype, device=noise.device) < 0.5
        draw = torch.where(
            from_prior.unsqueeze(-1), self.sample(noise), posterior.mean + posterior.deviate(noise)
        )
        log_q = torch.logaddexp(self.log_prob(draw), posterior.log_prob(draw))
        return draw, log_q - math.log(2.0)
