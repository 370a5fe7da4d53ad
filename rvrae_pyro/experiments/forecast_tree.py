"""Forecasts of a fitted competitor as one tree, read through the common interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.evaluation import prevailing_mean
from rvrae_pyro.evaluation.comparison import ESS, ParticleFilter
from rvrae_pyro.names import ASSET, FACTOR, RETURNS, TIME
from rvrae_pyro.predictive.storage import tree_of

FORECASTS: Final = "forecasts"
"""Group of a tree: point forecasts, fitted returns and log densities."""

MEAN: Final = "mean"
FITTED: Final = "fitted"
LOG_EVIDENCE: Final = "log_evidence"
EVIDENCE_ERROR: Final = "evidence_error"

_LABELS: Final = {
    MEAN: "expected return, as the model forecasts it",
    "mean_running": "loadings times the mean of the model's own factors of all earlier months",
    "mean_ols": "loadings times the mean of least-squares factors of all earlier months",
    FITTED: "loadings times the model's own factors of the month, which know its returns",
    "fitted_gls": "loadings times the month's factors by weighted least squares",
    "fitted_ols": "loadings times the month's factors by least squares",
    LOG_EVIDENCE: "joint log density of the month's returns given the months before, nats",
    EVIDENCE_ERROR: "Monte-Carlo standard error of the joint log density, nats",
    ESS: "effective sample size of the particle filter",
}


class _PanelForecasts(Protocol):
    """A panel as a fitted model reads it: the result of ``filter``."""

    @property
    def attrs(self) -> Mapping[str, str | int]: ...
    def predict(self, times: object | None = None) -> xr.DataArray: ...
    def forecast(self, times: object | None = None) -> xr.DataTree: ...
    def log_evidence(self) -> xr.DataArray: ...
    def reconstruct(self) -> xr.DataArray: ...
    def factor_parts(self) -> xr.Dataset: ...


@runtime_checkable
class Forecaster(Protocol):
    """Predictive interface that ``Fit``, ``Ensemble`` and every baseline share.

    Attributes
    ----------
    has_distribution : bool
        Whether ``forecast`` and ``log_evidence`` are defined.
    has_factors : bool
        Whether ``reconstruct`` and ``factor_parts`` are defined.
    """

    has_distribution: ClassVar[bool]
    has_factors: ClassVar[bool]

    def filter(self, panel: xr.Dataset, num_samples: int = 1000, seed: int = 0) -> _PanelForecasts:
        """Read a panel once, for all forecasts of it."""
        ...


@runtime_checkable
class OwnOutlook(Protocol):
    """User-defined competitor that builds its tree of forecasts itself."""

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months of a panel.

        Parameters and result are those of :func:`forecast_tree`.
        """
        ...


Fitted = Forecaster | OwnOutlook
"""A competitor after its fit: ``Fit``, ``Ensemble``, a baseline, or an object with ``outlook``."""


def forecast_tree(
    fitted: Fitted, panel: xr.Dataset, times: np.ndarray, num_samples: int = 1000, seed: int = 0
) -> xr.DataTree:
    """Forecast and fit some months of a panel, for any kind of fitted model.

    Parameters
    ----------
    fitted : Fit, Ensemble, baseline, or object with ``outlook``
    panel : Dataset
        From the first training month on.
    times : array of datetime64
        Months of the result. Forecasts of month t know months before t only.
    num_samples : int
        Predictive draws, where the model has a distribution.
    seed : int

    Returns
    -------
    DataTree
        Group ``forecasts`` with ``mean`` (time, asset); ``log_evidence`` (time,) where the model
        has a distribution, with ``evidence_error`` and ``ess`` of a particle filter; where it has
        factors the other variables of :func:`build_outlook`.
        With a distribution also the groups of ``forecast``: ``predictions`` and, of factor
        models, ``predictions_constant_data``. Attributes are those of the fit.

    Raises
    ------
    ConfigError
        If ``fitted`` has neither the predictive interface nor ``outlook``.
    """
    if isinstance(fitted, OwnOutlook):
        return fitted.outlook(panel, times, num_samples, seed)
    if not isinstance(fitted, Forecaster):
        raise ConfigError(
            "`fit` of a competitor must return a Fit, an Ensemble, a baseline, or an object with "
            f"`outlook(panel, times, num_samples, seed)`; got {type(fitted).__name__}."
        )
    filtered = fitted.filter(panel, num_samples, seed)
    evidence = filtered.log_evidence().sel({TIME: times}) if fitted.has_distribution else None
    if fitted.has_factors:
        parts = filtered.factor_parts()
        forecasts = build_outlook(
            observed_returns(panel),
            filtered.predict(times),
            times,
            alpha=parts["alpha"],
            beta=parts["beta"],
            idio_scale=parts["idio_scale"],
            factors=parts["factors"],
            fitted=filtered.reconstruct(),
            log_evidence=evidence,
        )
    else:
        known = {} if evidence is None else {LOG_EVIDENCE: evidence}
        forecasts = label({MEAN: filtered.predict(times), **known})
    if fitted.has_distribution and isinstance(filtered, ParticleFilter):
        known = {EVIDENCE_ERROR: filtered.evidence_error, ESS: filtered.ess}
        rough = {name: each.sel({TIME: times}) for name, each in known.items()}
        forecasts = forecasts.assign(label(rough).data_vars)
    groups = {FORECASTS: forecasts}
    if fitted.has_distribution:
        drawn = filtered.forecast(times)
        groups |= {name: node.to_dataset() for name, node in drawn.children.items()}
    return tree_of(groups, filtered.attrs)


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
    """Join forecasts and fits of a factor model, with factors refitted by OLS and GLS.

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
    """Solve for each month's factors (time, factor) by least squares across assets.

    Of returns (time, asset), less the intercepts, on ``beta`` (time, asset, factor); by the
    inverse variance of the noise with ``scale``, its standard deviation (GLS). Of smallest norm
    where assets are fewer than factors; NaN in months without returns.
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
