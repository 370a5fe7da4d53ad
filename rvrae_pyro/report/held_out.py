"""Forecasts of months that the weights have not seen, next to those of IPCA and EWMA."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.baselines import EWMA, IPCA
from rvrae_pyro.baselines.baseline import Baseline, FilteredBaseline
from rvrae_pyro.data.validation import listed
from rvrae_pyro.diagnostics.check import Finding
from rvrae_pyro.errors import RvraeError
from rvrae_pyro.evaluation import (
    coverage,
    crps,
    diebold_mariano,
    hac_standard_error,
    predictive_r2,
    rank_ic,
    total_r2,
)
from rvrae_pyro.names import ASSET, CHAIN, CHARACTERISTIC, DRAW, RETURNS, TIME
from rvrae_pyro.report.portfolio_tables import past_portfolios
from rvrae_pyro.report.tables import number
from rvrae_pyro.risk.backtest import backtest

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered


Better = Literal["high", "low", "near"]
Scored = xr.DataArray | xr.Dataset

_PREDICTIVE: Final = ("Predictive R², %", "share of squared returns that mean forecasts explain")
_TOTAL: Final = ("Total R², %", "share explained given the month's own factors: fit, no foresight")
_ENOUGH: Final = 12  # test months from which the validation months are left out
_CELLS: Final = 2e8  # draws held at a time, 800 MB in single precision
_LEAST_DRAWS: Final = 250
_COVER: Final = 0.9


@dataclass(frozen=True)
class Measure:
    """One score of both models over the same cells, and their difference.

    Attributes
    ----------
    label, meaning : str
    own, own_error, other, other_error : float
        Estimates and Newey-West standard errors over months.
    difference, difference_error : float
        Own less other; the error is that of their paired months.
    better : {"high", "low", "near"}
        Which way is better; "near": to the nominal 90 %.
    scale : float
        Multiplies everything for display.
    rival : str
        Name of the other model.
    """

    label: str
    meaning: str
    own: float
    own_error: float
    other: float
    other_error: float
    difference: float
    difference_error: float
    better: Better
    scale: float = 1.0
    rival: str = "IPCA"

    @property
    def verdict(self) -> str:
        """The better model in words, where two standard errors distinguish them."""
        gain, error = self.difference, self.difference_error
        if self.better == "low":
            gain = -gain
        elif self.better == "near":
            own, other = self.own - 0.9, self.other - 0.9
            gain = abs(other) - abs(own)
            if own * other < 0:  # the distances are then no difference of the two shares
                error = self.own_error + self.other_error  # the most that theirs can be
        if not abs(gain) > 2 * error:
            return "no difference that these months can show"
        return "this model better" if gain > 0 else f"{self.rival} better"


def compare_with_ipca(
    filtered: Filtered, past: np.ndarray, tree: xr.DataTree
) -> tuple[list[Measure], list[Finding], str]:
    """Fit IPCA with as many factors to the months ``past``; score both on the same observations.

    ``tree`` is ``filtered.forecast(months)`` of the months to score. Returns the measures (none
    where there is no comparison, and why), and the finding which is better.
    """
    n_factors = min(filtered.n_factors, filtered.panel.sizes[CHARACTERISTIC] + 1)
    pair = _fit_rival(IPCA(n_factors, constant=True), filtered, past, tree)
    if isinstance(pair, str):
        return [], [], pair
    returns, draws, other = pair.returns, pair.draws, pair.other
    fits = [each.reconstruct().sel({TIME: returns[TIME]}) for each in (filtered, pair.rival)]
    measures = [
        *_densities(returns, draws, other),
        _ranks(returns, draws, other),
        _explained(_PREDICTIVE, returns, _mean(draws), _mean(other)),
        _explained(_TOTAL, returns, *fits),
    ]
    return measures, [check_rival(measures)], ""


def compare_with_ewma(
    filtered: Filtered, past: np.ndarray, tree: xr.DataTree
) -> tuple[list[Measure], list[Finding], str]:
    """Fit EWMA to the same past and score the risk of both; see :func:`compare_with_ipca`."""
    pair = _fit_rival(EWMA(), filtered, past, tree)
    if isinstance(pair, str):
        return [], [], pair
    returns, draws, other = pair.returns, pair.draws, pair.other
    evidence = [each.log_evidence().sel({TIME: returns[TIME]}) for each in (filtered, pair.rival)]
    measures = [
        _joint(returns, *evidence),
        *_densities(returns, draws, other),
        _portfolio(returns, draws, other),
    ]
    measures = [dataclasses.replace(each, rival="EWMA") for each in measures]
    return measures, [check_risk(measures)], ""


@dataclass(frozen=True)
class _Pair:
    """Rival of the same past, realised returns (time, asset), and draws of model and rival."""

    rival: FilteredBaseline
    returns: xr.DataArray
    draws: xr.DataArray
    other: xr.DataArray


def _fit_rival(
    rival: Baseline, filtered: Filtered, past: np.ndarray, tree: xr.DataTree
) -> _Pair | str:
    """Fit a rival to the past and forecast the tree's months; the reason where that fails."""
    if len(past) < 2:
        return "the panel does not hold all months that the model was trained on."
    panel, seed = filtered.panel, filtered.seed
    try:
        rival.fit(panel.sel({TIME: slice(past[0], past[-1])}), seed=seed)
    except RvraeError as error:
        return f"{type(rival).__name__} could not be fitted: {error}"
    draws = tree["predictions"].to_dataset()[RETURNS]
    months = draws[TIME].values
    theirs = rival.filter(panel, draws.sizes[DRAW], seed)
    other = theirs.forecast(months)["predictions"].to_dataset()[RETURNS]
    returns = panel[RETURNS].sel({TIME: months}).where(_has(draws) & _has(other))
    return _Pair(theirs, returns, draws, other)


def check_rival(measures: Sequence[Measure]) -> Finding:
    """Judge whether IPCA forecasts better; total R2, which measures fit, does not count."""
    return _verdict(
        [each for each in measures if each.label != _TOTAL[0]],
        "Does it forecast at least as well as IPCA, the linear standard?",
        "rv.baselines.IPCA for these assets, or other parts, compared by log score with "
        "rv.evaluation.compare.",
    )


def check_risk(measures: Sequence[Measure]) -> Finding:
    """Judge whether a moving covariance with Student-t returns forecasts risk better."""
    return _verdict(
        measures,
        "Does it forecast risk at least as well as EWMA, the simple standard?",
        "rv.baselines.EWMA where risk is all that is asked; else more frequent refits, or other "
        "parts, compared with rv.experiments.compare_risk.",
    )


def _verdict(measures: Sequence[Measure], question: str, advice: str) -> Finding:
    rival = measures[0].rival
    worse = [each for each in measures if each.verdict == f"{rival} better"]
    better = [each for each in measures if each.verdict == "this model better"]
    named = "; ".join(_said(each) for each in (worse or better or measures[:1]))
    if worse:
        return Finding(question, "look", f"No, {rival} is better. {named}.", advice)
    if better:
        return Finding(question, "good", f"Yes, it is better than {rival}. {named}.")
    return Finding(question, "good", f"No difference that these months can show. {named}.")


_AIMS: Final = {"high": "more is better", "low": "less is better", "near": "90 is right"}


def _said(measure: Measure) -> str:
    """Write both scores with the digits of the table."""
    digits = 3 if measure.scale == 1 else 2
    own, other, error = (
        number(measure.scale * value, digits)
        for value in (measure.own, measure.other, measure.difference_error)
    )
    name, _, unit = measure.label.partition(", ")
    return (
        f"{name}: {own} against {other}{unit and ' '}{unit} (standard error of the difference "
        f"{error}; {_AIMS[measure.better]})"
    )


def _has(draws: xr.DataArray) -> xr.DataArray:
    return draws.isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()


def _mean(draws: xr.DataArray) -> xr.DataArray:
    return draws.mean((CHAIN, DRAW))


def _pair(
    label: tuple[str, str],
    whole: Sequence[Scored],
    monthly: Sequence[Scored],
    better: Better,
    scale: float,
) -> Measure:
    own, other = whole
    first_months, second_months = monthly
    assert isinstance(first_months, xr.DataArray)  # scores by month have no error of their own
    assert isinstance(second_months, xr.DataArray)
    error = diebold_mariano(first_months, second_months)["standard_error"]
    first, second = float(own["estimate"]), float(other["estimate"])
    return Measure(
        *label,
        first,
        float(own["standard_error"]),
        second,
        float(other["standard_error"]),
        first - second,
        float(error),
        better,
        scale,
    )


def _densities(
    returns: xr.DataArray, draws: xr.DataArray, other: xr.DataArray
) -> tuple[Measure, Measure]:
    pair = (draws, other)
    distance = [crps(returns, each, standard_error=True) for each in pair]
    inside = [coverage(returns, each, 0.9, standard_error=True) for each in pair]
    label = ("CRPS, %", "distance of the forecast distribution from the outcome; less is better")
    share = ("Coverage of 90 % intervals, %", "share of returns inside; 90 is right")
    monthly = [crps(returns, each, per="month") for each in pair]
    hits = [coverage(returns, each, 0.9, per="month") for each in pair]
    return (
        _pair(label, distance, monthly, "low", 100.0),
        _pair(share, inside, hits, "near", 100.0),
    )


def _joint(returns: xr.DataArray, own: xr.DataArray, other: xr.DataArray) -> Measure:
    label = (
        "Joint log density, nats per return",
        "of all returns of a month together; more is better",
    )
    count = returns.notnull().sum(ASSET)
    monthly = [each.where(count > 0) / count.where(count > 0) for each in (own, other)]
    return _of_months(label, monthly, "high")


def _portfolio(returns: xr.DataArray, draws: xr.DataArray, other: xr.DataArray) -> Measure:
    label = (
        "QLIKE of equal weights",
        "log forecast variance plus squared standardised error; less is better",
    )
    held = returns.notnull()
    weights = held / held.sum(ASSET)
    earned = (returns.fillna(0.0) * weights).sum(ASSET).where(held.any(ASSET))
    monthly = []
    for each in (draws, other):
        drawn = (each.fillna(0.0) * weights).sum(ASSET)
        mean, variance = drawn.mean((CHAIN, DRAW)), drawn.var((CHAIN, DRAW), ddof=1)
        size = xr.apply_ufunc(np.log, variance.where(variance > 0))
        monthly.append(size + (earned - mean) ** 2 / variance)
    return _of_months(label, monthly, "low")


def _of_months(label: tuple[str, str], monthly: Sequence[xr.DataArray], better: Better) -> Measure:
    """Measure whose estimates are means over months."""
    whole = [
        xr.Dataset({"estimate": each.mean(TIME), "standard_error": hac_standard_error(each)})
        for each in monthly
    ]
    return _pair(label, whole, monthly, better, 1.0)


def _ranks(returns: xr.DataArray, draws: xr.DataArray, other: xr.DataArray) -> Measure:
    label = ("Rank correlation", "of mean forecasts and returns within a month; more is better")
    means = [_mean(each) for each in (draws, other)]
    whole = [rank_ic(returns, each, standard_error=True) for each in means]
    monthly = [rank_ic(returns, each) for each in means]
    return _pair(label, whole, monthly, "high", 1.0)


def _explained(
    label: tuple[str, str], returns: xr.DataArray, own: xr.DataArray, other: xr.DataArray
) -> Measure:
    score = total_r2 if label is _TOTAL else predictive_r2
    whole = [score(returns, each, standard_error=True) for each in (own, other)]
    # contributions by month whose mean is the ratio
    parts = [score(returns, each, per="cell").sum(ASSET) for each in (own, other)]
    typical = (returns.where(own.notnull() & other.notnull()) ** 2).sum(ASSET).mean(TIME)
    monthly = [each / typical for each in parts]
    return _pair(label, whole, monthly, "high", 100.0)


@dataclass(frozen=True)
class Spans:
    """Months that a fit has learned from, and those that can judge it.

    Attributes
    ----------
    train : datetime64 array
        Months of the panel that the weights were fitted on.
    valid : datetime64 array
        Months that decided when to stop.
    test : datetime64 array
        Months after both, with returns.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        """Months to judge by: the test, with the validation months before it if it is short."""
        if len(self.test) >= _ENOUGH:
            return self.test
        return np.concatenate([self.valid, self.test])

    @property
    def kind(self) -> Literal["test", "valid", "none"]:
        """Role of the judged months in the fit."""
        if len(self.test) >= _ENOUGH:
            return "test"
        return "valid" if len(self.judged) else "none"


@dataclass(frozen=True)
class Judged:
    """Results over the held-out months.

    Attributes
    ----------
    backtest : DataTree
        Of ``rv.risk.backtest``.
    by_year : DataFrame
        By year: ``months``, ``coverage`` of 90 % intervals, ``below`` (share of returns below the
        5 % quantile).
    measures, risk : list of Measure
        Against IPCA and EWMA; empty where it could not be fitted, for the reason ``missing`` or
        ``risk_missing``.
    findings : list of Finding
        The verdicts against EWMA and IPCA.
    n_draws : int
    tree : DataTree
        The forecasts that were judged.
    rank_ic : Dataset
        ``estimate`` and ``standard_error`` of the rank correlation of means and returns.
    """

    backtest: xr.DataTree
    by_year: pd.DataFrame
    measures: list[Measure]
    findings: list[Finding]
    missing: str
    risk: list[Measure]
    risk_missing: str
    n_draws: int
    tree: xr.DataTree
    rank_ic: xr.Dataset


def spans_of(fit: Fit, panel: xr.Dataset) -> Spans:
    """Sort the months of a panel that have returns by what the fit did with them."""
    seen = (listed(panel) & panel[RETURNS].notnull()).any(ASSET)
    times = panel[TIME].values[seen.values]
    trained = fit.kl_total[TIME].values
    last_seen = np.datetime64(str(fit.attrs.get("last_seen_month", str(trained[-1])[:10])), "ns")
    return Spans(
        times[(times >= trained[0]) & (times <= trained[-1])],
        times[(times > trained[-1]) & (times <= last_seen)],
        times[(times > trained[-1]) & (times > last_seen)],
    )


def judge(
    fit: Fit, filtered: Filtered, spans: Spans, given: Mapping[str, pd.Series[float]] | None = None
) -> Judged | None:
    """Score one-month-ahead forecasts of the held-out months; None if there are fewer than two.

    ``filtered`` is of a panel prepared as for the fit, from any month on; it is filtered again with
    fewer draws where months times assets are many. Portfolios ``given`` are tested with today's
    weights.
    """
    months = spans.judged
    if len(months) < 2:
        return None
    panel, seed = filtered.panel, filtered.seed
    cells = len(months) * panel.sizes[ASSET]
    draws = int(min(filtered.num_samples, max(_LEAST_DRAWS, _CELLS / cells)))
    if draws < filtered.num_samples:
        filtered = fit.filter(panel, draws, seed)
    tree = filtered.forecast(months)
    returns = panel[RETURNS].sel({TIME: months})
    portfolios = past_portfolios(tree, given or {})
    tails = (0.05, 0.01) if draws >= 1000 else (0.05,)
    tested = backtest(tree, returns, portfolios, tails, seed=seed)
    past = spans.train
    if panel[TIME].values[0] > fit.kl_total[TIME].values[0]:
        past = past[:0]  # a rival that has seen less of the past would be no comparison
    elif spans.kind == "test":
        past = np.concatenate([past, spans.valid])
    measures, findings, missing = compare_with_ipca(filtered, past, tree)
    risk, of_risk, risk_missing = compare_with_ewma(filtered, past, tree)
    ranks = rank_ic(returns, filtered.predict(months), standard_error=True)
    assert isinstance(ranks, xr.Dataset)  # as the error is asked for
    return Judged(
        tested,
        _by_year(tested),
        measures,
        [*of_risk, *findings],
        missing,
        risk,
        risk_missing,
        draws,
        tree,
        ranks,
    )


def _by_year(tested: xr.DataTree) -> pd.DataFrame:
    pit = tested[ASSET].to_dataset()["pit"].transpose(TIME, ASSET)
    calendar = pd.DatetimeIndex(pit[TIME].values).year.to_numpy()
    rows = []
    for year in np.unique(calendar):
        cells = pit.values[calendar == year]
        known = cells[~np.isnan(cells)]
        if known.size:
            inside = np.abs(known - 0.5) <= _COVER / 2
            rows.append((int(year), len(cells), inside.mean(), (known < 0.05).mean()))
    return pd.DataFrame(rows, columns=["year", "months", "coverage", "below"]).set_index("year")
