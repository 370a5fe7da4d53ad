"""Metrics of a comparison, from forecasts and realised returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.errors import check_number
from rvrae_pyro.evaluation import (
    coverage,
    crps,
    hac_standard_error,
    long_short,
    predictive_r2,
    rank_ic,
    rank_icir,
    sharpe_ratio,
    total_r2,
)
from rvrae_pyro.evaluation.comparison import ESS
from rvrae_pyro.experiments.forecast_tree import EVIDENCE_ERROR, FORECASTS, LOG_EVIDENCE, MEAN
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.risk import summarize

_RUNNING: Final = "mean_running"
_PREDICTIONS: Final = "predictions"
_PROB, _TAIL = 0.9, 0.05
_MONTHS: Final = 12.0


@dataclass(frozen=True)
class Rules:
    """Rules from forecasts to portfolios.

    Parameters
    ----------
    quantile : float
        Share of the assets in each leg of the long-short portfolio.
    cost : float
        Of trading one unit of value: 0.003 is 30 basis points.
    periods : float, optional
        Rows per year. Default: the panel's own frequency.

    Raises
    ------
    ConfigError
        If a number is outside its range.
    """

    quantile: float = 0.1
    cost: float = 0.003
    periods: float | None = None

    def __post_init__(self) -> None:
        check_number("quantile", self.quantile, "(0, 0.5]")
        check_number("cost", self.cost, "[0, inf)", "30 basis points are 0.003.")
        if self.periods is not None:
            check_number("periods", self.periods, "(0, inf)")

    def over(self, periods: float) -> Rules:
        """Rules for a panel of so many rows per year, unless they name a number."""
        return self if self.periods is not None else replace(self, periods=periods)


@dataclass
class Scores:
    """Numbers of one fit.

    Attributes
    ----------
    estimates : dict from metric to (estimate, standard error over months)
    monthly : dict from name to one number per month
        ``log_score`` (nats per return), ``log_evidence``, ``evidence_error`` (nats), ``ess``,
        ``crps``, ``rank_ic``, ``gross``, ``net``.
    times : list of str
    """

    estimates: dict[str, tuple[float, float]] = field(default_factory=dict)
    monthly: dict[str, list[float]] = field(default_factory=dict)
    times: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class View:
    """Inputs of a metric."""

    forecasts: xr.Dataset  # the group of that name
    tree: xr.DataTree
    returns: xr.DataArray  # realised (time, asset), of the cells to score
    rules: Rules

    @property
    def draws(self) -> xr.DataArray:
        """Predictive draws of the cells to score."""
        return self.tree[_PREDICTIONS].to_dataset()[RETURNS].sel({ASSET: self.returns[ASSET]})

    def portfolio(self, forecast: str) -> xr.Dataset:
        """Long-short portfolio of a forecast."""
        guess = self.forecasts[forecast]
        return long_short(guess, self.returns, self.rules.quantile, self.rules.cost)


@dataclass(frozen=True)
class Metric:
    """One measure."""

    label: str  # in tables, with the unit
    needs: str  # variable of `forecasts`, or `predictions`, without which it is not defined
    run: Callable[[View], Any]  # to a Dataset of `estimate` and `standard_error`
    scale: float = 1.0  # of the numbers in tables


def _measure(label: str, forecast: str, of: Callable[..., Any], scale: float = 1.0) -> Metric:
    """Make a metric of returns and one of the forecasts."""
    return Metric(
        label, forecast, lambda v: of(v.returns, v.forecasts[forecast], standard_error=True), scale
    )


def _sharpe(forecast: str, kind: str) -> Callable[[View], Any]:
    def run(view: View) -> Any:
        earned = view.portfolio(forecast)[kind]
        return sharpe_ratio(earned, view.rules.periods or _MONTHS, standard_error=True)

    return run


def _turnover(view: View) -> xr.Dataset:
    traded = view.portfolio(MEAN)["turnover"]
    return _bundle(traded.mean(TIME), hac_standard_error(traded))


def _log_score(view: View) -> xr.Dataset:
    return _ratio(view.forecasts[LOG_EVIDENCE], _counts(view.returns))


def _exceedance(view: View) -> xr.Dataset:
    tree = xr.DataTree.from_dict({_PREDICTIONS: view.draws.to_dataset(name=RETURNS)})
    limit = -summarize(tree, _TAIL)["var"]
    limit = limit.squeeze("tail", drop=True) if "tail" in limit.dims else limit
    known = view.returns.notnull() & limit.notnull()
    return _ratio(((view.returns < limit) & known).sum(ASSET), known.sum(ASSET))


METRICS: Final[dict[str, Metric]] = {
    "total_r2": _measure("Total R2, own factors, %", "fitted", total_r2, 100),
    "total_r2_gls": _measure("Total R2, GLS factors, %", "fitted_gls", total_r2, 100),
    "total_r2_ols": _measure("Total R2, OLS factors, %", "fitted_ols", total_r2, 100),
    "predictive_r2": _measure("Predictive R2, model, %", MEAN, predictive_r2, 100),
    "predictive_r2_running": _measure(
        "Predictive R2, running mean, %", _RUNNING, predictive_r2, 100
    ),
    "predictive_r2_ols": _measure(
        "Predictive R2, running mean of OLS factors, %", "mean_ols", predictive_r2, 100
    ),
    "sharpe_gross": Metric("Sharpe, gross", MEAN, _sharpe(MEAN, "gross")),
    "sharpe_net": Metric("Sharpe, net", MEAN, _sharpe(MEAN, "net")),
    "turnover": Metric("Turnover per month", MEAN, _turnover),
    "sharpe_gross_running": Metric(
        "Sharpe, gross, running mean", _RUNNING, _sharpe(_RUNNING, "gross")
    ),
    "sharpe_net_running": Metric("Sharpe, net, running mean", _RUNNING, _sharpe(_RUNNING, "net")),
    "rank_ic": _measure("Rank IC", MEAN, rank_ic),
    "rank_icir": _measure("Rank ICIR", MEAN, rank_icir),
    "rank_ic_running": _measure("Rank IC, running mean", _RUNNING, rank_ic),
    "rank_icir_running": _measure("Rank ICIR, running mean", _RUNNING, rank_icir),
    "log_score": Metric("Log score, joint, nats per return", LOG_EVIDENCE, _log_score),
    "crps": Metric(
        "CRPS, %", _PREDICTIONS, lambda v: crps(v.returns, v.draws, standard_error=True), 100
    ),
    "coverage": Metric(
        "Coverage of 90 % intervals, %",
        _PREDICTIONS,
        lambda v: coverage(v.returns, v.draws, _PROB, standard_error=True),
        100,
    ),
    "exceedance": Metric("Below the 5 % VaR, %", _PREDICTIONS, _exceedance, 100),
}
"""Every measure by its key."""

_ONE_MONTH: Final[dict[str, tuple[str, Callable[[View], xr.DataArray]]]] = {
    "log_score": (LOG_EVIDENCE, lambda v: v.forecasts[LOG_EVIDENCE] / _counts(v.returns)),
    **{
        name: (name, lambda v, name=name: v.forecasts[name].where(v.returns.notnull().any(ASSET)))  # type: ignore[misc]
        for name in (LOG_EVIDENCE, EVIDENCE_ERROR, ESS)
    },
    "crps": (_PREDICTIONS, lambda v: crps(v.returns, v.draws, per="month")),  # type: ignore[dict-item,return-value]
    "rank_ic": (MEAN, lambda v: rank_ic(v.returns, v.forecasts[MEAN])),  # type: ignore[dict-item,return-value]
    "gross": (MEAN, lambda v: v.portfolio(MEAN)["gross"]),
    "net": (MEAN, lambda v: v.portfolio(MEAN)["net"]),
}


def score(
    tree: xr.DataTree,
    returns: xr.DataArray,
    rules: Rules | None = None,
    metrics: tuple[str, ...] | None = None,
) -> Scores:
    """Score a tree of forecasts.

    Parameters
    ----------
    tree : DataTree
        See :func:`~rvrae_pyro.experiments.forecast_tree`.
    returns : DataArray (time, asset)
        Realised excess returns of the cells to score; NaN where not observed.
    rules : Rules, optional
    metrics : tuple of str, optional
        Keys of ``METRICS``. Default: all.

    Returns
    -------
    Scores
        Measures that the tree does not define are left out.
    """
    forecasts = tree[FORECASTS].to_dataset()
    returns = returns.sel({TIME: forecasts[TIME]}).transpose(TIME, ASSET).reset_coords(drop=True)
    view = View(forecasts, tree, returns, Rules() if rules is None else rules)
    there = {*map(str, forecasts.data_vars), *tree.children}
    result = Scores(times=[str(t)[:10] for t in returns[TIME].values])
    for name in METRICS if metrics is None else metrics:
        if METRICS[name].needs in there:
            found = METRICS[name].run(view)
            result.estimates[name] = (float(found["estimate"]), float(found["standard_error"]))
    for name, (needs, run) in _ONE_MONTH.items():
        if needs in there and (metrics is None or name in metrics):
            series = run(view).reindex({TIME: returns[TIME]})
            result.monthly[name] = [float(x) for x in series.values]
    return result


def _counts(returns: xr.DataArray) -> xr.DataArray:
    count = returns.notnull().sum(ASSET)
    return count.where(count > 0)


def _ratio(above: xr.DataArray, below: xr.DataArray) -> xr.Dataset:
    """Ratio of sums over months, with the standard error of its linearisation."""
    below = below.where((below > 0) & above.notnull())
    ratio = above.where(below.notnull()).sum(TIME) / below.sum(TIME)
    shares = (above - ratio * below) * below.notnull().sum(TIME) / below.sum(TIME)
    return _bundle(ratio, hac_standard_error(shares))


def _bundle(estimate: xr.DataArray, error: xr.DataArray) -> xr.Dataset:
    return xr.Dataset({"estimate": estimate, "standard_error": np.abs(error)})
