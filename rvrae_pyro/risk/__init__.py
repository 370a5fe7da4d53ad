"""Risk of a forecast, from its draws."""

from rvrae_pyro.risk.covariance import FactorCovariance, covariance
from rvrae_pyro.risk.summary import summarize

__all__ = ["FactorCovariance", "covariance", "summarize"]
