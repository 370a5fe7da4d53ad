"""Training and filtering."""

from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.inference.epochs import Epoch
from rvrae_pyro.inference.fivo import FIVO
from rvrae_pyro.inference.particle_filter import Particles, smc_filter
from rvrae_pyro.inference.refinement import Refinement, refine
from rvrae_pyro.inference.schedules import Constant, Cyclical, Linear
from rvrae_pyro.inference.svi import train

__all__ = [
    "FIVO",
    "Constant",
    "Cyclical",
    "Epoch",
    "FitConfig",
    "Linear",
    "Particles",
    "Refinement",
    "refine",
    "smc_filter",
    "train",
]
