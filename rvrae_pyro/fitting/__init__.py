"""Training, and what a trained model can say."""

from rvrae_pyro.fitting.fit import Fit, fit, load

__all__ = ["Fit", "fit", "load"]
