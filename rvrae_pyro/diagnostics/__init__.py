"""What can be trusted, and what cannot."""

from rvrae_pyro.diagnostics.check import Check, Finding, check_training
from rvrae_pyro.diagnostics.factors import active_units

__all__ = ["Check", "Finding", "active_units", "check_training"]
