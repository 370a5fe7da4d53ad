"""Factor priors p(z_t | h_{t-1}): what is known of a month's factors before it begins."""

from rvrae_pyro.models.priors.augmented import Augmented
from rvrae_pyro.models.priors.base import FactorPrior, Transition
from rvrae_pyro.models.priors.common_volatility import CommonVolatility
from rvrae_pyro.models.priors.flow import Flow
from rvrae_pyro.models.priors.recurrent import Recurrent
from rvrae_pyro.models.priors.regimes import RegimeSwitching
from rvrae_pyro.models.priors.simple import AR1, StandardNormal
from rvrae_pyro.models.priors.stochastic_volatility import StochasticVolatility
from rvrae_pyro.nn.flows import Warped
from rvrae_pyro.nn.gaussian import Gaussian
from rvrae_pyro.nn.log_variance import LogVariance
from rvrae_pyro.nn.transitions import Mixture, StudentT

__all__ = [
    "AR1",
    "Augmented",
    "CommonVolatility",
    "FactorPrior",
    "Flow",
    "Gaussian",
    "LogVariance",
    "Mixture",
    "Recurrent",
    "RegimeSwitching",
    "StandardNormal",
    "StochasticVolatility",
    "StudentT",
    "Transition",
    "Warped",
]
