"""One page about a fit: for those who hold the portfolio, and for those who check the model."""

from rvrae_pyro.report.page import build_report

__all__ = ["build_report"]
