"""How a fit's forecasts did in months that its weights have not seen, beside IPCA and EWMA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.validation import listed
from rvrae_pyro.diagnostics.check import Finding
from rvrae_pyro.evaluation import rank_ic
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.report.books import past_books
from rvrae_pyro.report.versus import Measure, compare_with_ewma, compare_with_ipca
from rvrae_pyro.risk.backtest import backtest

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit
    from rvrae_pyro.predictive.filtered import Filtered

__all__ = ["Judged", "Spans", "judge", "spans_of"]

_ENOUGH: Final = 12  # test months from which the validation months are left out
_CELLS: Final = 2e8  # draws held at a time, 800 MB in single precision
_LEAST_DRAWS: Final = 250
_COVER: Final = 0.9


@dataclass(frozen=True)
class Spans:
    """Which months a fit has learned from, and which can judge it.

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
        """What the judged months are."""
        if len(self.test) >= _ENOUGH:
            return "test"
        return "valid" if len(self.judged) else "none"


@dataclass(frozen=True)
class Judged:
    """What the judged months say.

    Attributes
    ----------
    backtest : DataTree
        Of ``rv.risk.backtest``.
    by_year : DataFrame
        ``year``, ``months``, ``coverage`` of 90 % intervals, ``below`` (share of returns below
        the 5 % quantile).
    measures : list of Measure
        Against IPCA; empty where it could not be fitted.
    findings : list of Finding
        The verdicts against EWMA and IPCA, and whether IPCA's skill is believable.
    missing : str
        Why there is no comparison with IPCA, if so.
    risk : list of Measure
        Against EWMA; empty where it could not be fitted.
    risk_missing : str
        Why there is no comparison with EWMA, if so.
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
    looked = np.datetime64(str(fit.attrs.get("last_seen_month", str(trained[-1])[:10])), "ns")
    return Spans(
        times[(times >= trained[0]) & (times <= trained[-1])],
        times[(times > trained[-1]) & (times <= looked)],
        times[(times > trained[-1]) & (times > looked)],
    )


def judge(
    fit: Fit,
    filtered: Filtered,
    spans: Spans,
    given: Mapping[str, pd.Series[float]] | None = None,
) -> Judged | None:
    """Score one-month-ahead forecasts of the judged months; None if there are fewer than two.

    Parameters
    ----------
    fit : Fit
    filtered : Filtered
        Of a panel prepared as for the fit, from any month on. Filtered again with fewer draws
        where months times assets are many.
    spans : Spans
    given : mapping from name to Series by asset, optional
        Further portfolios, tested with today's weights.
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
    books = past_books(tree, given or {})
    tails = (0.05, 0.01) if draws >= 1000 else (0.05,)
    tested = backtest(tree, returns, books, tails, seed=seed)
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
    return pd.DataFrame(rows, columns=["year", "months", "coverage", "below"])
