"""Risk of a forecast, from its draws."""

from rvrae_pyro.risk.summary import summarize

__all__ = ["summarize"]
