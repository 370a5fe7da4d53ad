"""Scores of the demo's forecasts, with a naive competitor and an EWMA."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import xarray as xr
from scipy.stats import multivariate_normal

from rvrae_pyro.baselines import EWMA
from rvrae_pyro.evaluation import prevailing_mean
from rvrae_pyro.experiments.forecast_tree import FORECASTS, LOG_EVIDENCE, MEAN, forecast_tree, label
from rvrae_pyro.experiments.metrics import METRICS, score
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, RETURNS, TIME

if TYPE_CHECKING:
    from rvrae_pyro.predictive.filtered import Filtered

_MEASURES: Final = {
    "total_r2": "total_r2",
    "predictive_r2_running_mean": "predictive_r2_running",
    "predictive_r2": "predictive_r2",
    "rank_ic": "rank_ic",
    "crps": "crps",
    "log_score": "log_score",
    "coverage_90": "coverage",
}
"""Measures of the demo by their names in its files, as keys of ``METRICS``."""


@dataclass(frozen=True)
class Score:
    """One measure over the test months.

    Attributes
    ----------
    name : str
        Key of the measure.
    label : str
        The measure in words.
    estimate, standard_error : float
        Newey-West over months.
    naive : float
        The same measure for a Normal with mean and covariance of the months before the test;
        NaN where it has none.
    ewma : float
        The same measure for ``rv.baselines.EWMA``, fitted to those months; NaN where it has none.
    scale : float
        Multiplies the numbers for display.
    """

    name: str
    label: str
    estimate: float
    standard_error: float
    naive: float
    ewma: float
    scale: float = 1.0


def score_forecasts(
    filtered: "Filtered", tree: xr.DataTree, factors: xr.DataArray, test: xr.Dataset
) -> list[Score]:
    """Score one-month-ahead forecasts of the test months.

    Parameters
    ----------
    filtered : Filtered
        Of training, validation and test months, prepared; every return observed.
    tree : DataTree
        ``filtered.forecast()``, test months included.
    factors : DataArray (time, factor)
        Means of ``filtered.factors("filtered")``.
    test : Dataset
        The test months.

    Returns
    -------
    list of Score
        All but total R2 use data known before each month.
    """
    months = test[TIME].values
    panel, seed = filtered.panel, filtered.seed
    draws = tree["predictions"].to_dataset()[RETURNS].sel({TIME: months})
    running = xr.dot(filtered.loadings(), prevailing_mean(factors), dim=FACTOR)
    own = {
        # the mean of the draws: what a reader of the tree would take
        MEAN: draws.mean((CHAIN, DRAW), skipna=False, dtype=np.float64),
        "mean_running": running.sel({TIME: months}),
        "fitted": filtered.reconstruct().sel({TIME: months}),
        LOG_EVIDENCE: filtered.log_evidence().sel({TIME: months}),
    }
    before = panel.sel({TIME: panel[TIME] < months[0]})
    count = draws.sizes[DRAW]
    trees = (
        _tree(own, draws),
        _tree(*_naive(before[RETURNS], test, count, seed)),
        forecast_tree(EWMA().fit(before), panel, months, count, seed),
    )
    keys = tuple(_MEASURES.values())
    found, naive, ewma = (score(each, test[RETURNS], metrics=keys).estimates for each in trees)
    return [
        Score(
            name,
            METRICS[key].label,
            *found[key],
            naive=_of_rival(naive, key),
            ewma=_of_rival(ewma, key),
            scale=METRICS[key].scale,
        )
        for name, key in _MEASURES.items()
    ]


def _tree(forecasts: dict[str, xr.DataArray], draws: xr.DataArray) -> xr.DataTree:
    groups = {FORECASTS: label(forecasts), "predictions": draws.to_dataset(name=RETURNS)}
    return xr.DataTree.from_dict(groups)


def _of_rival(estimates: dict[str, tuple[float, float]], key: str) -> float:
    """Estimate of a rival without factors; it has one mean forecast, and no total R2."""
    if key == "predictive_r2_running":
        key = "predictive_r2"
    return estimates[key][0] if key in estimates else np.nan


def _naive(
    past: xr.DataArray, test: xr.Dataset, count: int, seed: int
) -> tuple[dict[str, xr.DataArray], xr.DataArray]:
    """Forecasts and draws, for every test month, of a Normal with the moments of the past."""
    values = past.transpose(TIME, ASSET).values
    mean, covariance, n_times = values.mean(axis=0), np.cov(values.T), test.sizes[TIME]
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(mean, covariance, (1, count, n_times), method="cholesky")
    density = multivariate_normal(mean, covariance)
    evidence = density.logpdf(test[RETURNS].transpose(TIME, ASSET).values)
    coords = {TIME: test[TIME].values, ASSET: test[ASSET].values}
    flat = np.broadcast_to(mean, (n_times, len(mean)))
    forecasts = {
        MEAN: xr.DataArray(flat, coords=coords, dims=(TIME, ASSET)),
        LOG_EVIDENCE: xr.DataArray(evidence, {TIME: coords[TIME]}, TIME),
    }
    return forecasts, xr.DataArray(drawn, coords=coords, dims=(CHAIN, DRAW, TIME, ASSET))
