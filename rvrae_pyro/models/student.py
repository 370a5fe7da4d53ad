"""Student-t returns, and those whose two tails differ: stocks gain more suddenly than they lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from rvrae_pyro.errors import ConfigError, check_number
from rvrae_pyro.models.hyperpriors import POSITIVE
from rvrae_pyro.models.likelihood_base import RobustLikelihood
from rvrae_pyro.models.part import spell
from rvrae_pyro.models.scales import Alpha, Scale

_DF = 5.0
"""Degrees of freedom to start from by default."""


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
    excess_df : float or distribution, optional
        Degrees of freedom less 2, in place of ``df``: a number above 0, or a prior such as
        ``dist.Gamma(2., .1)``.

    Raises
    ------
    ConfigError
        If both ``df`` and ``excess_df`` are given, or a frozen parameter has a prior.
    """

    in_place_of: ClassVar[Mapping[str, str]] = MappingProxyType({"excess_df": "df"})

    def __init__(
        self,
        scale: Scale | None = None,
        alpha: Alpha | None = None,
        df: float = 5.0,
        learn_df: bool = True,
        sweeps: int = 2,
        excess_df: Any = None,
    ) -> None:
        super().__init__(scale, alpha, sweeps)
        check_number("df", df, "(2, inf)", "Returns have a variance only above 2.")
        if excess_df is not None and df != _DF:
            raise ConfigError(
                f"`df` and `excess_df` are one parameter given twice; got {df!r} and "
                f"{spell(excess_df)}. Leave one out."
            )
        self.df, self.learn_df, self.excess_df = df, learn_df, excess_df
        given = df - 2.0 if excess_df is None else excess_df
        self.add_hyperparameter(
            "excess_df", given, "log_excess_df", POSITIVE, learn=learn_df, keep=False
        )

    @property
    def degrees_of_freedom(self) -> Tensor:
        """Degrees of freedom, above 2; a scalar."""
        return 2.0 + self.value("excess_df")

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


class SkewStudentT(StudentT):
    r"""Two-piece Student-t returns: one scale above the mode, another below, the mean in place.

    .. math::
        r = \mu + \sigma (x - m), \qquad
        p(x) = \frac{2}{\gamma + 1/\gamma}
            \begin{cases} t_\nu(x / \gamma) & x \ge 0 \\ t_\nu(\gamma x) & x < 0 \end{cases}

    with :math:`m = E x`, so that the expected return stays :math:`\mu = \alpha + \beta' f` and
    skewness is no mispricing. :math:`\gamma = 1` is :class:`StudentT`, where it starts.

    Parameters
    ----------
    scale, alpha, df, learn_df, sweeps, excess_df
        See :class:`StudentT`.
    skew : float or distribution
        :math:`\gamma`, above 0: a number to start training from, or a prior. Default: 1.

    Notes
    -----
    The Fisher information about the location is that of the Student-t, whatever the skewness:
    what one side gains the other loses.

    References
    ----------
    Fernandez and Steel (1998), Journal of the American Statistical Association 93, 359-371.
    """

    def __init__(
        self,
        scale: Scale | None = None,
        alpha: Alpha | None = None,
        df: float = 5.0,
        learn_df: bool = True,
        sweeps: int = 2,
        excess_df: Any = None,
        skew: Any = 1.0,
    ) -> None:
        super().__init__(scale, alpha, df, learn_df, sweeps, excess_df)
        self.add_hyperparameter("skew", skew, "log_skew", POSITIVE)

    def skewness(self) -> Tensor:
        """Scale above the mode over the geometric mean of both: above 1 for a long right tail.

        Within (1/e, e), beyond which the density is one-sided.
        """
        return self.value("skew").clamp(math.exp(-1.0), math.e)

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """``TwoPieceT(df, skew, loc, scale)``, of mean ``loc``."""
        return TwoPieceT(self.degrees_of_freedom, self.skewness(), loc, scale)

    def deviation(self, scale: Tensor) -> Tensor:
        """Compute the standard deviation that belongs to a scale."""
        return scale * _variance(self.degrees_of_freedom, self.skewness()).sqrt()

    def score(self, error: Tensor) -> Tensor:
        """Score of a Student-t, its argument stretched on either side of the mode."""
        skew = self.skewness()
        x = error + _mean(self.degrees_of_freedom, skew)
        stretch = torch.where(x >= 0.0, 1.0 / skew, skew)
        return stretch * super().score(x * stretch)


class _StudentT(dist.StudentT):  # type: ignore[misc]
    """Student-t whose scalar degrees of freedom are not spread over every cell."""

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self._df = df
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        # past the parent, which would make, and check, a Gamma of every cell just to be scored
        torch.distributions.Distribution.__init__(self, self.loc.shape, validate_args=False)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        self._chi2 = torch.distributions.Chi2(self.df, validate_args=False)
        drawn: Tensor = super().rsample(torch.Size(sample_shape))
        return drawn

    def expand(
        self, batch_shape: torch.Size, _instance: dist.TorchDistribution | None = None
    ) -> dist.TorchDistribution:
        return _StudentT(self._df, self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        df = self._df
        # first: gradients add up in the order of the graph, and so does their rounding
        constant = _log_norm(df)
        z = (value - self.loc) / self.scale
        kernel: Tensor = torch.log1p(z.square() / df)
        return constant - self.scale.log() - 0.5 * (df + 1.0) * kernel


class TwoPieceT(dist.TorchDistribution):
    """Student-t with another scale on either side of its mode, placed by its mean.

    Parameters
    ----------
    df, skew : Tensor
        Scalars: degrees of freedom above 2; scale above the mode, whose inverse is the one below.
    loc, scale : Tensor
        Mean, and geometric mean of the two scales.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Tensor, skew: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.skew = df, skew
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None
    ) -> TwoPieceT:
        """Spread over a larger batch."""
        return TwoPieceT(
            self.df, self.skew, self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        )

    @property
    def mean(self) -> Tensor:
        """Mean, of the batch shape."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Variance, of the batch shape."""
        return self.scale.square() * _variance(self.df, self.skew)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw a side, then a Student-t's distance from the mode."""
        shape = self._extended_shape(torch.Size(sample_shape))
        t = torch.distributions.StudentT(self.df.expand(shape)).rsample().abs()
        above = self.skew.square() / (1.0 + self.skew.square())
        side = torch.rand(shape, dtype=t.dtype, device=t.device) < above
        x = torch.where(side, self.skew * t, -t / self.skew)
        return self.loc + self.scale * (x - _mean(self.df, self.skew))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, of the batch shape."""
        df, skew = self.df, self.skew
        x = (value - self.loc) / self.scale + _mean(df, skew)
        z = torch.where(x >= 0.0, x / skew, x * skew)
        constant = _log_norm(df) + math.log(2.0) - (skew + 1.0 / skew).log()
        density: Tensor = (
            constant - self.scale.log() - 0.5 * (df + 1.0) * torch.log1p(z.square() / df)
        )
        return density


def _log_norm(df: Tensor) -> Tensor:
    """Log density of a standard Student-t at zero."""
    return torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log()


def _mean(df: Tensor, skew: Tensor) -> Tensor:
    """Mean of a standard two-piece Student-t: E|t| times the difference of the scales."""
    size = 2.0 * df / (df - 1.0) * _log_norm(df).exp()
    return size * (skew - 1.0 / skew)


def _variance(df: Tensor, skew: Tensor) -> Tensor:
    """Variance of a standard two-piece Student-t."""
    square = skew.square()
    return df / (df - 2.0) * (square - 1.0 + 1.0 / square) - _mean(df, skew).square()
