"""Normalizing flow of a month's factors: a Gaussian bent into skewed, heavy-tailed, tied shapes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rvrae_pyro.nn.gaussian import Gaussian, Pooled, Posterior, Potential

_SWEEPS = 2


class Warped(NamedTuple):
    r"""Distribution of ``z = loc + scale * T(e)`` with standard normal e and an invertible T.

    Each layer of T bends every coordinate, ``sinh(tail * (asinh(e) + skew))``, then mixes them
    by a triangular matrix of unit diagonal: lower in even layers, upper in odd ones.

    Attributes
    ----------
    loc, scale : Tensor of shape (*batch, n_factors)
    skews, tails : Tensor of shape (*batch, n_layers, n_factors)
        Tails above 1 are heavier than Normal.
    mixes : Tensor of shape (*batch, n_layers, n_factors, n_factors)

    References
    ----------
    Jones and Pewsey (2009), Biometrika 96: the sinh-arcsinh transformation; Rezende and Mohamed
    (2015), arXiv 1505.05770: normalizing flows.
    """

    loc: Tensor
    scale: Tensor
    skews: Tensor
    tails: Tensor
    mixes: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 2, 2, 3)

    @property
    def mean(self) -> Tensor:
        """Image of the base mean, a centre, of shape (*batch, n_factors)."""
        return self.push(torch.zeros_like(self.loc))

    def pooled(self) -> Pooled | None:
        """Moments of the even mixture of a batch: no closed form."""
        return None

    def push(self, base: Tensor) -> Tensor:
        """Map base values (*batch, n_factors) to factors."""
        for layer in range(self.skews.shape[-2]):
            base = _mix(self.mixes[..., layer, :, :], torch.sinh(self._angle(base, layer)))
        return self.loc + self.scale * base

    def pull(self, factors: Tensor) -> Tensor:
        """Map factors to base values: the inverse of :meth:`push`, in closed form."""
        value = (factors - self.loc) / self.scale
        for layer in range(self.skews.shape[-2] - 1, -1, -1):
            value = torch.linalg.solve_triangular(
                self.mixes[..., layer, :, :],
                value.unsqueeze(-1),
                upper=bool(layer % 2),
                unitriangular=True,
            ).squeeze(-1)
            angle = torch.asinh(value) / self.tails[..., layer, :] - self.skews[..., layer, :]
            value = torch.sinh(angle)
        return value

    def log_det(self, base: Tensor) -> Tensor:
        """Log determinant of the Jacobian of :meth:`push`, of shape (*batch,)."""
        total = self.scale.log().sum(-1)
        for layer in range(self.skews.shape[-2]):
            angle = self._angle(base, layer)
            total = total + self._log_slope(base, angle, layer).sum(-1)
            base = _mix(self.mixes[..., layer, :, :], torch.sinh(angle))
        return total

    def jacobian(self, base: Tensor) -> Tensor:
        """Return derivatives (*batch, factor, base coordinate) of :meth:`push`."""
        product = torch.diag_embed(torch.ones_like(base))
        for layer in range(self.skews.shape[-2]):
            angle, mix = self._angle(base, layer), self.mixes[..., layer, :, :]
            slope = self._log_slope(base, angle, layer).exp()
            product = mix @ (slope.unsqueeze(-1) * product)
            base = _mix(mix, torch.sinh(angle))
        return self.scale.unsqueeze(-1) * product

    def sample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to a draw."""
        return self.push(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        base = self.pull(value)
        return _standard(base).log_prob(base) - self.log_det(base)

    def update(self, potential: Potential) -> WarpedPosterior:
        """Condition on a month's returns in base space, by Gauss-Newton linearisations.

        The first linearisation is about the image of the posterior under a Gaussian prior. What
        comes out is pushed forward through the same map as the prior, so that the Jacobians
        cancel from their ratio; with no return the answer is this prior itself.
        """
        with torch.no_grad():
            guess = Gaussian(self.loc, self.scale).update(potential).mean
            centre = self.pull(guess)
            for _ in range(_SWEEPS):
                centre = self._linearised(potential, centre).mean
        posterior = self._linearised(potential, centre)
        skews, tails, mixes = self.skews, self.tails, self.mixes
        return WarpedPosterior(
            self.loc, self.scale, skews, tails, mixes, posterior.mean, posterior.chol
        )

    def propose(self, potential: Potential, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw given a month's returns; also the log density of the draw."""
        posterior = self.update(potential)
        return posterior.mean + posterior.deviate(noise), posterior.log_prob_of_noise(noise)

    def _linearised(self, potential: Potential, at: Tensor) -> Posterior:
        """Posterior of the base values if the map were its tangent at a point."""
        slope, precision = self.jacobian(at), potential.precision
        offset = self.push(at) - (slope @ at.unsqueeze(-1)).squeeze(-1)
        pull = potential.shift - (precision @ offset.unsqueeze(-1)).squeeze(-1)
        seen = Potential(slope.mT @ precision @ slope, (slope.mT @ pull.unsqueeze(-1)).squeeze(-1))
        return _standard(at).update(seen)

    def _angle(self, base: Tensor, layer: int) -> Tensor:
        return self.tails[..., layer, :] * (torch.asinh(base) + self.skews[..., layer, :])

    def _log_slope(self, base: Tensor, angle: Tensor, layer: int) -> Tensor:
        # log cosh, without overflow
        size = angle.abs()
        log_cosh = size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)
        return self.tails[..., layer, :].log() + log_cosh - 0.5 * torch.log1p(base.square())


class WarpedPosterior(NamedTuple):
    """Gaussian over the base values, pushed forward through the prior's map.

    Attributes
    ----------
    loc, scale, skews, tails, mixes : Tensor
        The map, as in :class:`Warped`.
    centre : Tensor of shape (*batch, n_factors)
        Mean of the base values.
    chol : Tensor of shape (*batch, n_factors, n_factors)
        Cholesky factor of their precision.
    """

    loc: Tensor
    scale: Tensor
    skews: Tensor
    tails: Tensor
    mixes: Tensor
    centre: Tensor
    chol: Tensor

    @property
    def event_dims(self) -> tuple[int, ...]:
        """Dimensions of each field that are not batch dimensions."""
        return (1, 1, 2, 2, 3, 1, 2)

    @property
    def mean(self) -> Tensor:
        """Image of the base mean, a centre, of shape (*batch, n_factors)."""
        return self._map.push(self.centre)

    def deviate(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to a deviation from ``mean``."""
        return self._map.push(self.centre + self._base.deviate(noise)) - self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of shape (*batch,)."""
        base = self._map.pull(value)
        return self._base.log_prob(base) - self._map.log_det(base)

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """Log density at ``mean + deviate(noise)``."""
        base = self.centre + self._base.deviate(noise)
        return self._base.log_prob_of_noise(noise) - self._map.log_det(base)

    def covariance(self) -> Tensor:
        """Dense covariance of the tangent at the centre: exact for a map without bends."""
        slope = self._map.jacobian(self.centre)
        return slope @ self._base.covariance() @ slope.mT

    @property
    def _map(self) -> Warped:
        return Warped(self.loc, self.scale, self.skews, self.tails, self.mixes)

    @property
    def _base(self) -> Posterior:
        return Posterior(self.centre, torch.ones_like(self.centre), self.chol)


def _standard(like: Tensor) -> Gaussian:
    return Gaussian(torch.zeros_like(like), torch.ones_like(like))


def _mix(matrix: Tensor, value: Tensor) -> Tensor:
    return (matrix @ value.unsqueeze(-1)).squeeze(-1)
