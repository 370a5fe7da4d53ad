"""Scores of forecasts and fits: all take and return xarray and drop missing pairs.

Functions take realised ``returns`` first, in the form (time, asset) or along ``obs``, and
the forecasts second. ``per`` chooses one number for the panel, per month or per cell;
``standard_error=True`` returns a Dataset with ``estimate`` and ``standard_error``, from
monthly contributions with Newey-West.

Months may be in any order and dated by any of their days: they are sorted and matched by
period. Months that only some of the arrays have are left out, with an ``RvraeWarning`` that
counts them; arrays without a month in common raise a ``ShapeError``.
"""

from rvrae_pyro.evaluation.comparison import compare, stacking_weights
from rvrae_pyro.evaluation.cross_validation import leave_future_out, leave_month_out
from rvrae_pyro.evaluation.decile_portfolios import long_short, sharpe_ratio
from rvrae_pyro.evaluation.density import (
    coverage,
    crps,
    crps_normal,
    crps_student_t,
    log_score,
    pit,
)
from rvrae_pyro.evaluation.descriptive import factor_profile, market_statistics
from rvrae_pyro.evaluation.hypothesis_tests import (
    diebold_mariano,
    fama_macbeth,
    grs,
    model_confidence_set,
)
from rvrae_pyro.evaluation.point import predictive_r2, prevailing_mean, rank_ic, rank_icir, total_r2
from rvrae_pyro.evaluation.power_scaling import psense
from rvrae_pyro.evaluation.scoring import compounded_returns, hac_standard_error

__all__ = [
    "compare",
    "compounded_returns",
    "coverage",
    "crps",
    "crps_normal",
    "crps_student_t",
    "diebold_mariano",
    "factor_profile",
    "fama_macbeth",
    "grs",
    "hac_standard_error",
    "leave_future_out",
    "leave_month_out",
    "log_score",
    "long_short",
    "market_statistics",
    "model_confidence_set",
    "pit",
    "predictive_r2",
    "prevailing_mean",
    "psense",
    "rank_ic",
    "rank_icir",
    "sharpe_ratio",
    "stacking_weights",
    "total_r2",
]
