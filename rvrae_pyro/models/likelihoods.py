"""Return likelihoods p(r_it | f_t), their idiosyncratic scales and optional alpha.

Scales and alphas are per unit of ``model.return_scale``, like loadings.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.utils import broadcast_all

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.likelihood_base import Likelihood, RobustLikelihood, weighted_potential
from rvrae_pyro.models.scales import Alpha, CharacteristicScale, GlobalScale, Scale
from rvrae_pyro.models.skewed import SkewStudentT

__all__ = [
    "Alpha",
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


class StudentT(RobustLikelihood):
    """Student-t returns with learned degrees of freedom: a few wild months steer nothing.

    Parameters
    ----------
    scale, alpha, sweeps
        See :class:`RobustLikelihood`.
    df : float
        Degrees of freedom to start from, above 2.
    learn_df : bool
        False keeps them.
    """

    def __init__(
        self,
        scale: Scale | None = None,
        alpha: Alpha | None = None,
        df: float = 5.0,
        learn_df: bool = True,
        sweeps: int = 2,
    ) -> None:
        super().__init__(scale, alpha, sweeps)
        if not df > 2:
            raise ConfigError(f"`df` must be above 2, so that returns have a variance; got {df}.")
        self.df, self.learn_df = df, learn_df
        self.log_excess_df = nn.Parameter(torch.tensor(math.log(df - 2.0)), learn_df)

    @property
    def degrees_of_freedom(self) -> Tensor:
        """Degrees of freedom, above 2; a scalar."""
        return 2.0 + self.log_excess_df.exp()

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``StudentT(df, loc, scale)``."""
        return _StudentT(self.degrees_of_freedom, loc, scale)

    def deviation(self, scale: Tensor) -> Tensor:
        """``scale * sqrt(df / (df - 2))``."""
        df = self.degrees_of_freedom
        return scale * (df / (df - 2.0)).sqrt()

    def score(self, error: Tensor) -> Tensor:
        """``(df + 1) e / (df + e^2)``."""
        df = self.degrees_of_freedom
        return error * (df + 1.0) / (df + error.square())

    def information(self) -> Tensor:
        """``(df + 1) / (df + 3)``."""
        df = self.degrees_of_freedom
        return (df + 1.0) / (df + 3.0)


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


class NormalMixture(RobustLikelihood):
    """Mixture of two Normals with one centre: ordinary months and wild ones.

    Parameters
    ----------
    scale, alpha, sweeps
        See :class:`RobustLikelihood`; the scale is that of ordinary months.
    """

    def __init__(
        self, scale: Scale | None = None, alpha: Alpha | None = None, sweeps: int = 2
    ) -> None:
        super().__init__(scale, alpha, sweeps)
        self.logit = nn.Parameter(torch.tensor(-2.0))
        self.log_excess = nn.Parameter(torch.tensor(0.5))

    @property
    def wild_probability(self) -> Tensor:
        """Probability of a wild month; a scalar."""
        return torch.sigmoid(self.logit)

    @property
    def wild_scale(self) -> Tensor:
        """Scale of a wild month over that of an ordinary one, above 1; a scalar."""
        return 1.0 + self.log_excess.exp()

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """Mixture of ``Normal(loc, scale)`` and ``Normal(loc, wild_scale * scale)``."""
        loc, scale = broadcast_all(loc, scale)
        spread = torch.stack([torch.ones_like(self.wild_scale), self.wild_scale])
        components = dist.Normal(
            loc.unsqueeze(-1), scale.unsqueeze(-1) * spread, validate_args=False
        )
        weights = torch.stack([1.0 - self.wild_probability, self.wild_probability])
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


class _StudentT(dist.StudentT):  # type: ignore[misc]
    """Student-t whose scalar degrees of freedom are not spread over every cell."""

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self._df = df
        loc, scale = broadcast_all(loc, scale)
        super().__init__(df, loc, scale, validate_args=False)

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> dist.TorchDistribution:
        return _StudentT(self._df, self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        df = self._df
        constant = (
            torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log()
        )
        z = (value - self.loc) / self.scale
        kernel: Tensor = torch.log1p(z.square() / df)
        density: Tensor = constant - self.scale.log() - 0.5 * (df + 1.0) * kernel
        return density
