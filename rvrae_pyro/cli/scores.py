"""How good the demo's forecasts were, beside a naive rival and an EWMA."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.stats import multivariate_normal

from rvrae_pyro.baselines import EWMA
from rvrae_pyro.evaluation import (
    coverage,
    crps,
    hac_standard_error,
    predictive_r2,
    prevailing_mean,
    rank_ic,
    total_r2,
)
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, RETURNS, TIME

if TYPE_CHECKING:
    from rvrae_pyro.predictive.filtered import Filtered

__all__ = ["Score", "joint_log_score", "score_forecasts"]


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
    filtered: "Filtered",
    tree: xr.DataTree,
    factors: xr.DataArray,
    test: xr.Dataset,
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
        All but total R2 use what was known before each month.
    """
    months = test[TIME].values
    returns = test[RETURNS]
    draws = tree["predictions"].to_dataset()[RETURNS].sel({TIME: months})
    count = draws.sizes[DRAW]
    panel, seed = filtered.panel, filtered.seed
    running = xr.dot(filtered.loadings(), prevailing_mean(factors), dim=FACTOR)
    fitted = filtered.reconstruct()
    before = panel.sel({TIME: panel[TIME] < months[0]})
    past, naive = _naive(before[RETURNS], test, count, seed)
    joint = joint_log_score(filtered, months)
    ewma = EWMA().fit(before)
    ewma_mean = ewma.predict(panel, months)
    ewma_draws = ewma.forecast(panel, count, seed, months)["predictions"].to_dataset()[RETURNS]
    ewma_score = ewma.log_evidence(panel).sel({TIME: months}) / returns.sizes[ASSET]

    def both(score: Any) -> tuple[float, float]:
        return float(score["estimate"]), float(score["standard_error"])

    return [
        Score(
            "total_r2",
            "Total R2, %",
            *both(total_r2(returns, fitted.sel({TIME: months}), standard_error=True)),
            np.nan,
            np.nan,
            100,
        ),
        Score(
            "predictive_r2_running_mean",
            "Predictive R2, running factor mean, %",
            *both(predictive_r2(returns, running.sel({TIME: months}), standard_error=True)),
            float(predictive_r2(returns, past)),
            float(predictive_r2(returns, ewma_mean)),
            100,
        ),
        Score(
            "predictive_r2",
            "Predictive R2, model, %",
            *both(predictive_r2(returns, draws, standard_error=True)),
            float(predictive_r2(returns, past)),
            float(predictive_r2(returns, ewma_mean)),
            100,
        ),
        Score(
            "rank_ic",
            "Rank IC",
            *both(rank_ic(returns, draws, standard_error=True)),
            float(rank_ic(returns, past).mean()),
            float(rank_ic(returns, ewma_mean).mean()),
        ),
        Score(
            "crps",
            "CRPS, % (less is better)",
            *both(crps(returns, draws, standard_error=True)),
            float(crps(returns, naive)),
            float(crps(returns, ewma_draws)),
            100,
        ),
        Score(
            "log_score",
            "Log score, nats per return, joint",
            float(joint["score"].mean()),
            float(hac_standard_error(joint["score"])),
            float(_naive_log_score(panel, months).mean()),
            float(ewma_score.mean()),
        ),
        Score(
            "coverage_90",
            "Coverage of 90 % intervals, %",
            *both(coverage(returns, draws, 0.9, standard_error=True)),
            float(coverage(returns, naive, 0.9)),
            float(coverage(returns, ewma_draws, 0.9)),
            100,
        ),
    ]


def joint_log_score(filtered: "Filtered", months: np.ndarray[Any, Any]) -> xr.Dataset:
    """Log predictive density of each month's whole cross-section, per return.

    Parameters
    ----------
    filtered : Filtered
    months : datetime64 array

    Returns
    -------
    Dataset
        ``score`` (time,): nats divided by the number of returns of the month.
    """
    n_returns = filtered.batch.observed.sum(1).cpu().numpy().clip(1)
    return xr.Dataset({"score": filtered.log_evidence() / n_returns}).sel({TIME: months})


def _naive(
    past: xr.DataArray, test: xr.Dataset, count: int, seed: int
) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and draws, for every test month, of a Normal with the moments of the past."""
    values = past.transpose(TIME, ASSET).values
    mean, n_times = values.mean(axis=0), test.sizes[TIME]
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(mean, np.cov(values.T), (1, count, n_times), method="cholesky")
    coords = {TIME: test[TIME].values, ASSET: test[ASSET].values}
    flat = np.broadcast_to(mean, (n_times, len(mean)))
    return (
        xr.DataArray(flat, coords=coords, dims=(TIME, ASSET)),
        xr.DataArray(drawn, coords=coords, dims=(CHAIN, DRAW, TIME, ASSET)),
    )


def _naive_log_score(panel: xr.Dataset, months: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    returns = panel[RETURNS].transpose(TIME, ASSET)
    past = returns.sel({TIME: panel[TIME] < months[0]}).values
    density = multivariate_normal(past.mean(axis=0), np.cov(past.T))
    scores: np.ndarray[Any, Any] = density.logpdf(returns.sel({TIME: months}).values)
    return scores / returns.sizes[ASSET]
