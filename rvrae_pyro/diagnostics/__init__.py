"""What can be trusted, and what cannot."""

from rvrae_pyro.diagnostics.alignment import active_units, align
from rvrae_pyro.diagnostics.check import Check, Finding, check_members
from rvrae_pyro.diagnostics.check_training import check_training
from rvrae_pyro.diagnostics.predictive import predictive_check, statistics
from rvrae_pyro.diagnostics.psis import psis, psis_weights
from rvrae_pyro.diagnostics.sbc import sbc, sbc_forecast, uniformity
from rvrae_pyro.predictive.chains import rotate

__all__ = [
    "Check",
    "Finding",
    "active_units",
    "align",
    "check_members",
    "check_training",
    "predictive_check",
    "psis",
    "psis_weights",
    "rotate",
    "sbc",
    "sbc_forecast",
    "statistics",
    "uniformity",
]
