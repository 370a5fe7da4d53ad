"""Training, and what a trained model can say."""

from rvrae_pyro.fitting.ensemble import Ensemble, fit_ensemble
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.training import fit, load

__all__ = ["Ensemble", "Fit", "fit", "fit_ensemble", "load"]
