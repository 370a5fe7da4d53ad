"""What a fitted competitor says of some months, in one form whatever the competitor."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro.evaluation import prevailing_mean
from rvrae_pyro.names import ASSET, FACTOR, RETURNS, TIME

__all__ = [
    "FITTED",
    "FORECASTS",
    "LOG_EVIDENCE",
    "MEAN",
    "build_outlook",
    "label",
    "observed_returns",
    "refit",
]

FORECASTS: Final = "forecasts"
"""Group of a tree: point forecasts, fitted returns and log densities."""

MEAN: Final = "mean"
FITTED: Final = "fitted"
LOG_EVIDENCE: Final = "log_evidence"

_LABELS: Final = {
    MEAN: "expected return, as the model forecasts it",
    "mean_running": "loadings times the mean of the model's own factors of all earlier months",
    "mean_ols": "loadings times the mean of least-squares factors of all earlier months",
    FITTED: "loadings times the model's own factors of the month, which know its returns",
    "fitted_gls": "loadings times the month's factors by weighted least squares",
    "fitted_ols": "loadings times the month's factors by least squares",
    LOG_EVIDENCE: "joint log density of the month's returns given the months before, nats",
}


def build_outlook(
    returns: xr.DataArray,
    mean: xr.DataArray,
    times: np.ndarray,
    *,
    alpha: xr.DataArray,
    beta: xr.DataArray,
    idio_scale: xr.DataArray,
    factors: xr.DataArray,
    fitted: xr.DataArray,
    log_evidence: xr.DataArray | None = None,
    member: str = "chain",
) -> xr.Dataset:
    """Gather what a factor model forecasts and fits, and refit its factors in two other ways.

    Parameters
    ----------
    returns : DataArray (time, asset)
        Of all months from the first training month on.
    mean : DataArray (time, asset)
        The model's own forecast.
    times : array of datetime64
        Months that are wanted.
    alpha, idio_scale : DataArray (time, asset), and beta : DataArray (time, asset, factor)
        Known at t-1; of an ensemble with a dim ``member``, over which results are averaged.
    factors : DataArray (time, factor)
        The model's own estimates given the month's returns.
    fitted : DataArray (time, asset)
        The model's own fit.
    log_evidence : DataArray (time,), optional
    member : str

    Returns
    -------
    Dataset
        ``mean``, ``mean_running``, ``mean_ols``, ``fitted``, ``fitted_gls``, ``fitted_ols`` of
        dims (time, asset) and, if given, ``log_evidence`` (time,), for ``times`` only. The
        forecasts among them know months before t; fits know month t.
    """

    def average(values: xr.DataArray) -> xr.DataArray:
        return values.mean(member) if member in values.dims else values

    def expected(given: xr.DataArray) -> xr.DataArray:
        premia = prevailing_mean(given).sel({TIME: times})
        chosen = beta.sel({TIME: times})
        return average(alpha.sel({TIME: times}) + _times_beta(chosen, premia))

    ordinary = refit(returns - alpha, beta)
    weighted = refit(returns - alpha, beta, idio_scale)
    variables = {
        MEAN: mean.sel({TIME: times}),
        "mean_running": expected(factors),
        "mean_ols": expected(ordinary),
        FITTED: fitted.sel({TIME: times}),
        "fitted_gls": average(alpha + _times_beta(beta, weighted)).sel({TIME: times}),
        "fitted_ols": average(alpha + _times_beta(beta, ordinary)).sel({TIME: times}),
    }
    if log_evidence is not None:
        variables[LOG_EVIDENCE] = log_evidence.sel({TIME: times})
    return label(variables)


def label(variables: dict[str, xr.DataArray]) -> xr.Dataset:
    """Join variables to the group ``forecasts``, each with its meaning."""
    plain = {
        name: each.drop_attrs().assign_attrs(long_name=_LABELS[name])
        for name, each in variables.items()
    }
    return xr.Dataset(plain).drop_attrs(deep=False)


def _times_beta(beta: xr.DataArray, factors: xr.DataArray) -> xr.DataArray:
    product: xr.DataArray = xr.dot(beta, factors, dim=FACTOR, optimize=True)
    return product


def refit(
    returns: xr.DataArray, beta: xr.DataArray, scale: xr.DataArray | None = None
) -> xr.DataArray:
    """Solve for each month's factors by least squares across assets.

    Parameters
    ----------
    returns : DataArray (time, asset)
        Less the intercepts; NaN where not observed. Further dims as ``beta``.
    beta : DataArray (time, asset, factor)
        NaN where not listed.
    scale : DataArray (time, asset), optional
        Standard deviation of the noise: squares are divided by its square (GLS).

    Returns
    -------
    DataArray (time, factor)
        Of smallest norm where assets are fewer than factors; NaN in months without returns.
    """
    size = xr.ones_like(returns) if scale is None else scale
    solved: xr.DataArray = xr.apply_ufunc(
        _solve_month,
        returns,
        beta,
        size,
        input_core_dims=[[ASSET], [ASSET, FACTOR], [ASSET]],
        output_core_dims=[[FACTOR]],
        vectorize=True,
        output_dtypes=[np.float64],
    )
    return solved.assign_coords({FACTOR: beta[FACTOR]})


def _solve_month(returns: np.ndarray, beta: np.ndarray, scale: np.ndarray) -> np.ndarray:
    seen = np.isfinite(returns) & np.isfinite(beta).all(axis=1) & (scale > 0)
    if not seen.any():
        return np.full(beta.shape[1], np.nan)
    weight = 1.0 / scale[seen]
    left, right = beta[seen] * weight[:, None], returns[seen] * weight
    solution: np.ndarray = np.linalg.lstsq(left, right, rcond=None)[0]
    return solution


def observed_returns(panel: xr.Dataset) -> xr.DataArray:
    """Take the returns (time, asset) out of a panel, without further coordinates."""
    return panel[RETURNS].transpose(TIME, ASSET).reset_coords(drop=True)
