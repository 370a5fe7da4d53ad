"""Families of the posterior of interpretable parameters, in unconstrained space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class HyperGuide(ABC):
    """Base of the families: a Normal in unconstrained space about the parts' own parameters."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether parameters are correlated."""


@dataclass(frozen=True)
class MeanField(HyperGuide):
    """Independent Normals in unconstrained space.

    For many parameters. Blind to correlations between them, such as that of a persistence with a
    volatility, so that deviations come out too small where there are any.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> import rvrae_pyro as rv
    >>> prior = rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
    >>> model = rv.RVRAE(4, 2, factor_prior=prior, hyper_guide=rv.guides.MeanField())
    """

    @property
    def full(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True)
class MultivariateNormal(HyperGuide):
    """One Normal over all interpretable parameters, with a dense covariance; the default.

    Site after site: the proposal of each is conditional on those before it, so that no auxiliary
    site is needed. d parameters have d (d + 1) / 2 scales.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> import rvrae_pyro as rv
    >>> prior = rv.priors.AR1(2, coefficient=dist.Uniform(-1.0, 1.0))
    >>> model = rv.RVRAE(4, 2, factor_prior=prior, hyper_guide=rv.guides.MultivariateNormal())
    """

    @property
    def full(self) -> bool:
        """True."""
        return True
