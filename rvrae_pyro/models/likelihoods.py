"""Return likelihoods p(r_it | f_t), their idiosyncratic scales and optional alpha.

Scales and alphas are per unit of ``model.return_scale``, like loadings.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import broadcast_all

from rvrae_pyro.models.hyperpriors import POSITIVE, UNIT
from rvrae_pyro.models.likelihood_base import Likelihood, RobustLikelihood, weighted_potential
from rvrae_pyro.models.scales import Alpha, AssetScale, CharacteristicScale, GlobalScale, Scale
from rvrae_pyro.models.student import SkewStudentT, StudentT

__all__ = [
    "Alpha",
    "AssetScale",
    "CharacteristicScale",
    "GlobalScale",
    "Laplace",
    "Likelihood",
    "Normal",
    "NormalMixture",
    "RobustLikelihood",
    "Scale",
    "SkewStudentT",
    "StudentT",
    "weighted_potential",
]


class Normal(Likelihood):
    """Normal returns: the potential is the exact log-likelihood.

    Parameters
    ----------
    scale, alpha
        See :class:`Likelihood`.
    """

    exact_potential = True

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``Normal(loc, scale)``."""
        return dist.Normal(loc, scale, validate_args=False)

    def deviation(self, scale: Tensor) -> Tensor:
        """Return the scale itself."""
        return scale


class Laplace(RobustLikelihood):
    """Laplace returns: absolute errors, tails between Normal and Student-t.

    Parameters
    ----------
    scale, alpha, sweeps
        See :class:`RobustLikelihood`; the scale is the mean absolute deviation.
    """

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``Laplace(loc, scale)``."""
        laplace: dist.TorchDistribution = dist.Laplace(loc, scale, validate_args=False)
        return laplace

    def deviation(self, scale: Tensor) -> Tensor:
        """``scale * sqrt(2)``."""
        return math.sqrt(2.0) * scale

    def score(self, error: Tensor) -> Tensor:
        """Sign of the error, smoothed at zero so that a mode can be found."""
        return torch.tanh(error / 0.1)

    def information(self) -> Tensor:
        """1, the inverse squared scale."""
        return self._like().new_ones(())

    def _like(self) -> Tensor:
        return next(self.parameters())


_WILD, _EXCESS = 1.0 / (1.0 + math.exp(2.0)), math.exp(0.5)


class NormalMixture(RobustLikelihood):
    """Mixture of two Normals with one centre: ordinary months and wild ones.

    Parameters
    ----------
    scale, alpha, sweeps
        See :class:`RobustLikelihood`; the scale is that of ordinary months.
    wild : float or distribution
        Probability of a wild month, in (0, 1): a number to start training from, or a prior.
        Default: 0.12.
    excess_scale : float or distribution
        Scale of a wild month over that of an ordinary one, less 1; above 0. Default: 1.65.
    """

    def __init__(
        self,
        scale: Scale | None = None,
        alpha: Alpha | None = None,
        sweeps: int = 2,
        wild: Any = _WILD,
        excess_scale: Any = _EXCESS,
    ) -> None:
        super().__init__(scale, alpha, sweeps)
        self.add_hyperparameter("wild", wild, "logit", UNIT)
        self.add_hyperparameter("excess_scale", excess_scale, "log_excess", POSITIVE)

    @property
    def wild_probability(self) -> Tensor:
        """Probability of a wild month; a scalar."""
        return self.value("wild")

    @property
    def wild_scale(self) -> Tensor:
        """Scale of a wild month over that of an ordinary one, above 1; a scalar."""
        return 1.0 + self.value("excess_scale")

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """Mixture of ``Normal(loc, scale)`` and ``Normal(loc, wild_scale * scale)``."""
        loc, scale = broadcast_all(loc, scale)
        # the last dimension, so that values of particles broadcast against returns
        spread = torch.stack([torch.ones_like(self.wild_scale), self.wild_scale], -1)
        components = dist.Normal(
            loc.unsqueeze(-1), scale.unsqueeze(-1) * spread, validate_args=False
        )
        weights = torch.stack([1.0 - self.wild_probability, self.wild_probability], -1)
        which = dist.Categorical(probs=weights.expand(*loc.shape, 2), validate_args=False)
        mixture: dist.TorchDistribution = dist.MixtureSameFamily(
            which, components, validate_args=False
        )
        return mixture

    def deviation(self, scale: Tensor) -> Tensor:
        """``scale * sqrt(1 - p + p wild_scale^2)``."""
        p = self.wild_probability
        return scale * (1.0 - p + p * self.wild_scale.square()).sqrt()

    def score(self, error: Tensor) -> Tensor:
        """Error over the variance that it suggests: ordinary if small, wild if large."""
        p, wild = self.wild_probability, self.wild_scale
        ordinary = (1.0 - p).log() - 0.5 * error.square()
        unusual = p.log() - wild.log() - 0.5 * (error / wild).square()
        share = torch.sigmoid(unusual - ordinary)
        return error * ((1.0 - share) + share / wild.square())

    def information(self) -> Tensor:
        """Mean squared score, by the trapezoidal rule."""
        wild = self.wild_scale
        grid = torch.linspace(-8.0, 8.0, 801, dtype=wild.dtype, device=wild.device) * wild.detach()
        zero, one = torch.zeros_like(grid), torch.ones_like(grid)
        density = self.distribution(zero, one).log_prob(grid).exp()
        return torch.trapezoid(self.score(grid).square() * density, grid)
