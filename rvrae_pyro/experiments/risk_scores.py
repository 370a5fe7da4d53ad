"""Scores of one-month-ahead distributions: joint density, calibration, portfolios' risk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.errors import ConfigError, ShapeError, check_choice
from rvrae_pyro.evaluation import diebold_mariano, hac_standard_error, rank_ic
from rvrae_pyro.evaluation import pit as pit_of_draws
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.risk import FactorCovariance
from rvrae_pyro.risk.coverage_tests import christoffersen, holm, kupiec

_TAILS: Final = (0.05, 0.01)
_COVERED: Final = 0.9
_VARIABLES: Final = (
    "log_evidence", "n_observed", "pit", "rank_ic", "portfolio_return", "portfolio_mean",
    "portfolio_sd", "portfolio_pit", "least_variance_return", "least_variance_yearly_return",
)  # fmt: skip

RISK_MEASURES: Final[Mapping[str, str]] = {
    "log_score": "joint log density, nats per return",
    "coverage": "share of returns inside 90 % intervals",
    "below_5": "share of returns below the 5 % VaR",
    "below_1": "share of returns below the 1 % VaR",
    "rank_ic": "mean rank correlation of mean forecasts and returns",
    "portfolio_coverage": "equal weights: share of months inside 90 % intervals",
    "portfolio_below_5": "equal weights: share of months below the 5 % VaR",
    "portfolio_below_1": "equal weights: share of months below the 1 % VaR",
    "portfolio_correlation": "equal weights: correlation of |return| and forecast sd",
    "qlike": "equal weights: log variance + squared standardised error; lower is better",
    "least_variance_sd": "least-variance portfolio, new weights every month: realised sd per month",
    "least_variance_yearly_sd": "the same with the weights of a year's first month all year",
}
"""Every measure of :func:`risk_scores` and its meaning."""


class _Filtered(Protocol):
    """A panel filtered by a model with a predictive distribution."""

    def predict(self, times: object | None = None) -> xr.DataArray: ...
    def forecast(self, times: object | None = None) -> xr.DataTree: ...
    def log_evidence(self) -> xr.DataArray: ...
    def moments(self, times: object | None = None) -> xr.Dataset: ...


@runtime_checkable
class _Exact(_Filtered, Protocol):
    """A distribution whose probabilities need no draws."""

    def pit(self, times: object | None = None) -> xr.DataArray: ...
    def portfolio(self, weights: xr.DataArray) -> xr.Dataset: ...


@runtime_checkable
class _Fitted(Protocol):
    """A fit, an ensemble or a baseline with a predictive distribution."""

    def filter(self, panel: xr.Dataset, num_samples: int = ..., seed: int = ...) -> _Filtered: ...


def risk_record(
    fitted: _Fitted | _Filtered,
    panel: xr.Dataset,
    times: object | None = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Record everything that :func:`risk_scores` needs of months, one step ahead.

    Parameters
    ----------
    fitted : Fit, Ensemble or baseline
        With a predictive distribution; or the result of its ``filter`` for this panel.
        Probabilities are exact where that has ``pit`` and ``portfolio``, else shares of
        ``num_samples`` draws.
    panel : Dataset
        The months and as much history before them as ``fitted`` filters through.
    times : label, slice or list, optional
        Months of the record. Default: all. Months without any return are left out.
    num_samples, seed : int
        Draws; also particles of a filter.

    Returns
    -------
    Dataset
        By ``time``: ``log_evidence`` (nats, joint), ``n_observed``, ``rank_ic``; ``pit`` (time,
        asset); of the portfolio with equal weights on the assets that are listed and have a
        return: ``portfolio_return``, ``portfolio_mean``, ``portfolio_sd``, ``portfolio_pit``; of
        the unconstrained portfolio of least forecast variance: ``least_variance_return``, in
        which a missing return counts as 0, and ``least_variance_yearly_return``, of the weights
        of the first recorded month of a year for all of its months. Records of consecutive
        refits are joined by ``xr.concat(records, "time", join="outer")``.

    Raises
    ------
    PanelError
        If the panel is not valid.
    ConfigError
        If ``fitted`` has no predictive distribution.

    Notes
    -----
    Information set: month t's distribution knows returns before t and the data that ``fitted`` was
    trained on. That it was trained on earlier months only is up to the caller.
    """
    if isinstance(fitted, _Fitted):
        fitted = fitted.filter(panel, num_samples, seed)
    filtered: _Filtered = fitted
    chosen = panel[TIME] if times is None else panel[TIME].sel({TIME: times})
    months = np.atleast_1d(chosen.to_numpy())
    matrices = FactorCovariance.from_moments(filtered.moments(months))
    returns = panel[RETURNS].sel({TIME: months}).transpose(TIME, ASSET).reset_coords(drop=True)
    returns = returns.where(matrices.listed)
    months = months[returns.notnull().any(ASSET).to_numpy()]
    returns, matrices = returns.sel({TIME: months}), matrices.sel(months)
    held = returns.notnull()
    weights = held / held.sum(ASSET)
    mean = filtered.predict(months)
    if isinstance(filtered, _Exact):
        pit, book = filtered.pit(months), filtered.portfolio(weights)
    else:
        draws = filtered.forecast(months)["predictions"].to_dataset()[RETURNS]
        pit = pit_of_draws(returns, draws)
        realised = (returns.fillna(0.0) * weights).sum(ASSET)
        held_variance = (matrices.dot(weights) * weights).sum(ASSET)
        book = xr.Dataset(
            {
                "mean": (mean * weights).sum(ASSET),
                "sd": held_variance**0.5,
                "return": realised,
                "pit": _portfolio_of_draws(draws, realised, weights),
            }
        )
    least = matrices.minimum_variance()
    columns = {
        "log_evidence": filtered.log_evidence().sel({TIME: months}),
        "n_observed": held.sum(ASSET),
        "pit": pit,
        "rank_ic": rank_ic(returns, mean).reindex({TIME: months}),
        "portfolio_return": book["return"],
        "portfolio_mean": book["mean"],
        "portfolio_sd": book["sd"],
        "portfolio_pit": book["pit"],
        "least_variance_return": (least * returns.fillna(0.0)).sum(ASSET),
        "least_variance_yearly_return": (_of_january(least) * returns.fillna(0.0)).sum(ASSET),
    }
    plain = {name: each.reset_coords(drop=True).drop_attrs() for name, each in columns.items()}
    return xr.Dataset(plain).transpose(TIME, ...)


def _of_january(weights: xr.DataArray) -> xr.DataArray:
    """Weights (time, asset) of the first month of each month's year."""
    _, first, of = np.unique(weights[TIME].dt.year, return_index=True, return_inverse=True)
    return weights.isel({TIME: first[of]}).assign_coords({TIME: weights[TIME]})


def _portfolio_of_draws(
    draws: xr.DataArray, realised: xr.DataArray, weights: xr.DataArray
) -> xr.DataArray:
    """Share of the portfolio's draws below its return (time,)."""
    one = {ASSET: ["portfolio"]}
    earned = (draws.fillna(0.0) * weights).sum(ASSET)
    pit = pit_of_draws(realised.expand_dims(one), earned.expand_dims(one))
    return pit.isel({ASSET: 0}, drop=True)


def risk_scores(record: xr.Dataset, periods: Mapping[str, object] | None = None) -> xr.Dataset:
    """Score records of months.

    Parameters
    ----------
    record : Dataset
        From :func:`risk_record`, of one refit or of several joined.
    periods : mapping from name to label, slice or list, optional
        Months of each column, as ``sel`` takes them. Default: ``{"all": slice(None)}``.

    Returns
    -------
    Dataset
        ``estimate`` and ``standard_error`` (measure, period) of ``RISK_MEASURES``, with
        Newey-West errors of the linearised monthly contributions, and ``n_times`` (period).

    Raises
    ------
    ShapeError
        If a variable of the record is missing.
    ConfigError
        If a period has no month.
    """
    _check_record(record, "record")
    periods = {"all": slice(None)} if periods is None else periods
    table = np.full((2, len(RISK_MEASURES), len(periods)), np.nan)
    sizes = []
    for column, (name, months) in enumerate(periods.items()):
        part = _period(record, name, months)
        sizes.append(part.sizes[TIME])
        for row, measure in enumerate(RISK_MEASURES):
            estimate, influence = _MEASURES[measure](part)
            table[:, row, column] = float(estimate), float(hac_standard_error(influence))
    dims = ("measure", "period")
    return xr.Dataset(
        {
            "estimate": (dims, table[0]),
            "standard_error": (dims, table[1]),
            "n_times": ("period", sizes),
        },
        {"measure": list(RISK_MEASURES), "period": list(periods)},
        attrs={"standard_error": "Newey-West over months"},
    )


def compare_risk(
    record: xr.Dataset, other: xr.Dataset, periods: Mapping[str, object] | None = None
) -> xr.Dataset:
    """Test whether two models differ, on the months that both records have.

    Parameters
    ----------
    record, other : Dataset
        From :func:`risk_record`.
    periods : mapping from name to label, slice or list, optional
        As in :func:`risk_scores`.

    Returns
    -------
    Dataset
        Diebold-Mariano ``difference`` (record less other), ``standard_error``, ``statistic``,
        ``p_value`` and ``n_times`` by ``score`` and ``period``: ``log_score`` (nats per return,
        higher is better) and ``qlike`` of the equal-weight portfolio (lower is better).

    Raises
    ------
    ShapeError
        If a variable is missing, or the records share no month.
    """
    for name, each in (("record", record), ("other", other)):
        _check_record(each, name)
    names = ("log_score", "qlike")
    shared = np.intersect1d(record[TIME].to_numpy(), other[TIME].to_numpy())
    if not shared.size:
        raise ShapeError("`record` and `other` share no month; score the same months of both.")
    pair = [each.sel({TIME: shared}) for each in (record, other)]
    periods = {"all": slice(None)} if periods is None else periods
    columns = []
    for name, months in periods.items():
        first, second = (_period(each, name, months) for each in pair)
        tests = [diebold_mariano(_monthly(first)[each], _monthly(second)[each]) for each in names]
        columns.append(xr.concat(tests, "score", combine_attrs="override"))
    table = xr.concat(columns, "period", combine_attrs="override")
    return table.assign_coords(score=list(names), period=list(periods))


def risk_table(
    records: Mapping[str, xr.Dataset],
    *,
    reference: str | None = None,
    measures: Sequence[str] = ("log_score", "coverage", "below_5", "qlike"),
    months: object = slice(None),
) -> pd.DataFrame:
    """Lay out measures of several models, one row per model, each with its standard error.

    Parameters
    ----------
    records : mapping from name to Dataset
        From :func:`risk_record`.
    reference : str, optional
        Model whose log score is subtracted, month by month, in a further column. Default: none.
    measures : sequence of str
        Keys of ``RISK_MEASURES``.
    months : label, slice or list
        Months of the table. Default: all.

    Returns
    -------
    DataFrame
        Columns (measure, "estimate" or "s.e."); with a reference also ``less <reference>``, the
        paired difference of log scores in nats per return, NaN in the reference's own row.

    Raises
    ------
    ConfigError
        If a measure or the reference is unknown, there is no record, or no month.
    ShapeError
        If a variable of a record is missing.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_dynamic(8, 80, 3, 2, seed=1)
    >>> models = {"EWMA": rv.baselines.EWMA(), "Student-t": rv.baselines.MultivariateT()}
    >>> records = {
    ...     name: rv.experiments.risk_record(
    ...         model.fit(panel.isel(time=slice(60))), panel, panel.time[60:].values
    ...     )
    ...     for name, model in models.items()
    ... }
    >>> rv.experiments.risk_table(records, measures=["coverage"]).shape
    (2, 2)
    """
    if not records:
        raise ConfigError("`records` must map names to records of risk_record; got none.")
    if unknown := [name for name in measures if name not in RISK_MEASURES]:
        raise ConfigError(
            f"`measures` must be keys of RISK_MEASURES ({', '.join(RISK_MEASURES)}); got "
            f"{unknown[0]!r}."
        )
    if reference is not None:
        check_choice("reference", reference, records)
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for name, record in records.items():
        found = risk_scores(record, {"all": months}).isel(period=0)
        row = rows.setdefault(name, {})
        for measure in measures:
            value = found.sel(measure=measure)
            row[measure, "estimate"] = float(value["estimate"])
            row[measure, "s.e."] = float(value["standard_error"])
        if reference is not None:
            gap = (np.nan, np.nan)
            if name != reference:
                tested = compare_risk(record, records[reference], {"all": months})
                both = tested.isel(period=0).sel(score="log_score")
                gap = float(both["difference"]), float(both["standard_error"])
            row[f"less {reference}", "estimate"], row[f"less {reference}", "s.e."] = gap
    table = pd.DataFrame.from_dict(rows, orient="index")
    columns = list(next(iter(rows.values())))
    table.columns = pd.MultiIndex.from_tuples(columns, names=["measure", ""])
    return table.rename_axis("model")


def portfolio_var_tests(record: xr.Dataset, months: object = slice(None)) -> xr.Dataset:
    """Backtest the equal-weight portfolio's VaR at 5 and 1 %.

    Parameters
    ----------
    record : Dataset
        From :func:`risk_record`.
    months : label, slice or list
        Default: all.

    Returns
    -------
    Dataset
        By ``tail``: ``rate`` of months below VaR; p-values ``kupiec`` (exact) and
        ``christoffersen`` (independence and coverage together); ``holm`` (test, tail), the
        p-values adjusted for all four.
    """
    _check_record(record, "record")
    pit = _period(record, "months", months)["portfolio_pit"].to_numpy()
    pit = pit[~np.isnan(pit)]
    hits = [(pit < tail).astype(np.float64) for tail in _TAILS]
    rates = [float(each.mean()) for each in hits]
    counts = [
        kupiec(int(each.sum()), each.size, tail).p_exact
        for each, tail in zip(hits, _TAILS, strict=True)
    ]
    together = [
        christoffersen(each, tail).conditional.p_value
        for each, tail in zip(hits, _TAILS, strict=True)
    ]
    adjusted = holm(np.array([*counts, *together])).reshape(2, -1)
    return xr.Dataset(
        {
            "rate": ("tail", rates),
            "kupiec": ("tail", counts),
            "christoffersen": ("tail", together),
            "holm": (("test", "tail"), adjusted),
        },
        {"tail": list(_TAILS), "test": ["kupiec", "christoffersen"]},
    )


Scored = tuple[float | xr.DataArray, xr.DataArray]
"""An estimate, and monthly contributions whose mean varies as the estimate does."""


def _check_record(record: xr.Dataset, name: str) -> None:
    absent = [each for each in _VARIABLES if each not in record]
    if absent:
        raise ShapeError(f"`{name}` must be a Dataset from risk_record; it lacks {absent}.")


def _period(record: xr.Dataset, name: str, months: object) -> xr.Dataset:
    part = record.sel({TIME: months})
    if TIME not in part.dims or not part.sizes[TIME]:
        raise ConfigError(
            f"`periods` must give {name!r} months of the record as a slice or list; got "
            f"{months!r}, which has none."
        )
    return part


def _monthly(record: xr.Dataset) -> dict[str, xr.DataArray]:
    variance = record["portfolio_sd"] ** 2
    error = record["portfolio_return"] - record["portfolio_mean"]
    return {
        "log_score": record["log_evidence"] / record["n_observed"],
        "qlike": xr.apply_ufunc(np.log, variance) + error**2 / variance,
    }


def _ratio(above: xr.DataArray, below: xr.DataArray) -> Scored:
    ratio = above.sum(TIME) / below.sum(TIME)
    return ratio, (above - ratio * below) / below.mean(TIME)


def _mean(series: xr.DataArray) -> Scored:
    return series.mean(TIME), series


def _cells(hit: Callable[[xr.DataArray], xr.DataArray]) -> Callable[[xr.Dataset], Scored]:
    def run(record: xr.Dataset) -> Scored:
        known = record["pit"].notnull()
        return _ratio((hit(record["pit"]) & known).sum(ASSET), known.sum(ASSET))

    return run


def _months(hit: Callable[[xr.DataArray], xr.DataArray]) -> Callable[[xr.Dataset], Scored]:
    def run(record: xr.Dataset) -> Scored:
        pit = record["portfolio_pit"]
        return _mean(hit(pit).astype(np.float64).where(pit.notnull()))

    return run


def _inside(pit: xr.DataArray) -> xr.DataArray:
    return abs(pit - 0.5) <= _COVERED / 2.0


def _below(tail: float) -> Callable[[xr.DataArray], xr.DataArray]:
    return lambda pit: pit < tail


def _correlation(record: xr.Dataset) -> Scored:
    size, sd = abs(record["portfolio_return"]), record["portfolio_sd"]
    first, second = (x.where(size.notnull() & sd.notnull()) for x in (size, sd))
    a, b = ((x - x.mean(TIME)) / x.std(TIME) for x in (first, second))
    value = (a * b).mean(TIME)
    # influence function of a correlation
    return value, a * b - 0.5 * value * (a**2 + b**2)


def _realised_sd(name: str) -> Callable[[xr.Dataset], Scored]:
    def measure(record: xr.Dataset) -> Scored:
        earned = record[name]
        sd = earned.std(TIME)
        return sd, (earned - earned.mean(TIME)) ** 2 / (2.0 * sd)

    return measure


_MEASURES: Final[Mapping[str, Callable[[xr.Dataset], Scored]]] = {
    "log_score": lambda r: _ratio(r["log_evidence"], r["n_observed"]),
    "coverage": _cells(_inside),
    "below_5": _cells(_below(0.05)),
    "below_1": _cells(_below(0.01)),
    "rank_ic": lambda r: _mean(r["rank_ic"]),
    "portfolio_coverage": _months(_inside),
    "portfolio_below_5": _months(_below(0.05)),
    "portfolio_below_1": _months(_below(0.01)),
    "portfolio_correlation": _correlation,
    "qlike": lambda r: _mean(_monthly(r)["qlike"]),
    "least_variance_sd": _realised_sd("least_variance_return"),
    "least_variance_yearly_sd": _realised_sd("least_variance_yearly_return"),
}
