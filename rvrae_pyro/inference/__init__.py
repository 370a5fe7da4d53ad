"""Training and filtering."""

from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.schedules import Constant, Linear
from rvrae_pyro.inference.smc import Particles, smc_filter
from rvrae_pyro.inference.svi import train

__all__ = ["Constant", "FitConfig", "Linear", "Particles", "smc_filter", "train"]
