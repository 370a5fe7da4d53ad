"""Bayesian dynamic latent factor models of stock returns, as Pyro programs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rvrae_pyro import data, evaluation, risk
from rvrae_pyro._version import __version__
from rvrae_pyro.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    FitError,
    PanelError,
    RvraeError,
    RvraeWarning,
    ShapeError,
)
from rvrae_pyro.predictive.export import to_datatree

if TYPE_CHECKING:
    from rvrae_pyro import (
        baselines,
        diagnostics,
        experiments,
        fitting,
        inference,
        literal,
        plots,
        testing,
    )
    from rvrae_pyro.experiments.swap import swap
    from rvrae_pyro.fitting.ensemble import Ensemble, fit_ensemble
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.fitting.training import fit
    from rvrae_pyro.inference import elbo, schedules
    from rvrae_pyro.inference.config import FitConfig
    from rvrae_pyro.loading import load
    from rvrae_pyro.models import decoders, exact, guides, likelihoods, loadings, priors, weights
    from rvrae_pyro.models.rvrae import RVRAE
    from rvrae_pyro.predictive.simulate import prior_predictive

__all__ = [
    "RVRAE",
    "CheckpointError",
    "ConfigError",
    "ContractError",
    "Ensemble",
    "Fit",
    "FitConfig",
    "FitError",
    "PanelError",
    "RvraeError",
    "RvraeWarning",
    "ShapeError",
    "__version__",
    "baselines",
    "data",
    "decoders",
    "diagnostics",
    "elbo",
    "evaluation",
    "exact",
    "experiments",
    "fit",
    "fit_ensemble",
    "fitting",
    "guides",
    "inference",
    "likelihoods",
    "literal",
    "load",
    "loadings",
    "plots",
    "prior_predictive",
    "priors",
    "risk",
    "schedules",
    "swap",
    "testing",
    "to_datatree",
    "weights",
]

# Modules that need torch or matplotlib load on first use.
_LAZY_MODULES = {
    "baselines": "rvrae_pyro.baselines",
    "decoders": "rvrae_pyro.models.decoders",
    "diagnostics": "rvrae_pyro.diagnostics",
    "elbo": "rvrae_pyro.inference.elbo",
    "exact": "rvrae_pyro.models.exact",
    "experiments": "rvrae_pyro.experiments",
    "fitting": "rvrae_pyro.fitting",
    "guides": "rvrae_pyro.models.guides",
    "inference": "rvrae_pyro.inference",
    "likelihoods": "rvrae_pyro.models.likelihoods",
    "literal": "rvrae_pyro.literal",
    "loadings": "rvrae_pyro.models.loadings",
    "plots": "rvrae_pyro.plots",
    "priors": "rvrae_pyro.models.priors",
    "schedules": "rvrae_pyro.inference.schedules",
    "testing": "rvrae_pyro.testing",
    "weights": "rvrae_pyro.models.weights",
}
_LAZY_NAMES = {
    "RVRAE": "rvrae_pyro.models.rvrae",
    "Ensemble": "rvrae_pyro.fitting.ensemble",
    "Fit": "rvrae_pyro.fitting.fit",
    "FitConfig": "rvrae_pyro.inference.config",
    "fit": "rvrae_pyro.fitting.training",
    "fit_ensemble": "rvrae_pyro.fitting.ensemble",
    "load": "rvrae_pyro.loading",
    "prior_predictive": "rvrae_pyro.predictive.simulate",
    "swap": "rvrae_pyro.experiments.swap",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        value: Any = import_module(_LAZY_MODULES[name])
    elif name in _LAZY_NAMES:
        value = getattr(import_module(_LAZY_NAMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
