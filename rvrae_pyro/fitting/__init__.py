"""Training, and the predictive interface of trained models."""

from rvrae_pyro.fitting.ensemble import Ensemble, fit_ensemble, load
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.training import fit

__all__ = ["Ensemble", "Fit", "fit", "fit_ensemble", "load"]
