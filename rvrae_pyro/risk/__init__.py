"""Risk of a forecast, from its draws."""

from rvrae_pyro.risk.analytic import summarize_analytic
from rvrae_pyro.risk.backtest import backtest
from rvrae_pyro.risk.covariance import FactorCovariance, covariance
from rvrae_pyro.risk.portfolio import portfolio, portfolio_draws, to_scenarios
from rvrae_pyro.risk.scenario import scenario
from rvrae_pyro.risk.steps import at_step
from rvrae_pyro.risk.summary import summarize

__all__ = [
    "FactorCovariance",
    "at_step",
    "backtest",
    "covariance",
    "portfolio",
    "portfolio_draws",
    "scenario",
    "summarize",
    "summarize_analytic",
    "to_scenarios",
]
