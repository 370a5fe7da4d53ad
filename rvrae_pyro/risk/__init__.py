"""Risk of a forecast, from its draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rvrae_pyro.risk.backtest import backtest
from rvrae_pyro.risk.covariance import FactorCovariance, covariance
from rvrae_pyro.risk.draws import at_step
from rvrae_pyro.risk.portfolio import portfolio, portfolio_draws, to_scenarios
from rvrae_pyro.risk.scenario import scenario
from rvrae_pyro.risk.summary import summarize, summarize_analytic

if TYPE_CHECKING:
    from rvrae_pyro.risk.skfolio_prior import ForecastPrior

__all__ = [
    "FactorCovariance",
    "ForecastPrior",
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


def __getattr__(name: str) -> Any:
    # skfolio is an extra, and takes seconds to load
    if name == "ForecastPrior":
        from rvrae_pyro.risk.skfolio_prior import ForecastPrior

        return ForecastPrior
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
