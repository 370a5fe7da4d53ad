"""Training, and what a trained model can say."""

from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.training import fit, load

__all__ = ["Fit", "fit", "load"]
