"""Principal components with GARCH volatilities, of factors and of residuals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from rvrae_pyro.baselines.baseline import Fitting
from rvrae_pyro.baselines.joint_baseline import JointTBaseline, cells_of, sorted_cells, stamps_of
from rvrae_pyro.baselines.joint_t import Array, Distances, JointT, MixtureOfT, log_density_t
from rvrae_pyro.baselines.shrunk_moments import (
    correlation_parts,
    known_states,
    principal_components,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_count, check_number

_LEAST_MONTHS: Final = 60  # of a series, below which its variance stays constant
_RIDGE: Final = 1e-9  # relative, for months with fewer returns than factors
_LARGEST_DF: Final = 200.0


class FactorGARCH(JointTBaseline):
    r"""GARCH(1, 1) volatilities of orthogonal factors and of residuals, joint Student-t returns.

    .. math::
        r_t \mid r_{1:t-1} \sim t_\nu(\mu, \Sigma_t), \quad
        \Sigma_t = D (B \, \mathrm{diag}(h_t) \, B' + \mathrm{diag}(g_t)) D

    .. math::
        h_{k,t+1} = \omega_k + \alpha_k f_{kt}^2 + \beta_k h_{kt}, \quad
        g_{i,t+1} = \omega_i + \alpha_i e_{it}^2 + \beta_i g_{it}

    with :math:`\mu` and :math:`D` the means and standard deviations of training, :math:`B` the
    first principal components of its correlation matrix, :math:`f_t` the month's factors by least
    squares of the standardised returns on :math:`B`, and :math:`e_t` the residuals.

    Parameters
    ----------
    n_factors : int
        Number of principal components.
    df : float, optional
        Degrees of freedom :math:`\nu` of the joint distribution, above 2; ``math.inf`` for Normal
        returns. Default: maximum likelihood over the training months, given the variances.
    min_history : int
        Months with a return below which an asset counts as new.

    Notes
    -----
    Every factor and every asset's residual has a univariate GARCH(1, 1) with Student-t
    innovations, fitted by the package ``arch`` (extra ``garch``). The joint density is one
    Student-t with the covariance that the univariate variances imply.

    Information set: parameters know all months of ``fit``, validation months included (no choice
    depends on them); variances of month t know returns of months before t.

    Gaps as in :class:`~rvrae_pyro.baselines.EWMA`; where a factor or residual is not observed, its
    expected square updates the variance. Entry: a new asset has the average mean and variance,
    loadings near the average and the median dynamics. Exit: an asset is forecast while it is
    listed. Series with fewer than 60 months, or whose fit fails, have a constant variance.

    Cost: ``n_factors`` + N univariate fits, about 20 ms each.

    References
    ----------
    Alexander (2001), Orthogonal GARCH, in Mastering Risk 2, 21-38; Bollerslev (1987), Review of
    Economics and Statistics 69, 542-547 (GARCH-t).
    """

    def __init__(self, n_factors: int, df: float | None = None, *, min_history: int = 24) -> None:
        super().__init__()
        self.n_factors = check_count("n_factors", n_factors)
        self.df = None if df is None else check_number("df", df, "(2, inf]")
        self.min_history = check_count("min_history", min_history)

    def _learn(self, fitting: Fitting) -> None:
        batch = fitting.batch
        labels, returns, observed = sorted_cells(batch)
        parts = correlation_parts(returns, observed, np.ones(len(returns)), self.min_history)
        beta, idio_var = principal_components(parts, self.n_factors)
        known = parts.known
        factors, errors = _split(
            (returns[:, known] - parts.mean[:-1]) / parts.sd[:-1], observed[:, known], beta[:-1]
        )
        of_factors = [_fit_garch(series) for series in factors.T]
        of_errors = [_fit_garch(series) for series in errors.T]
        new = _median_dynamics(of_errors, float(idio_var[-1]))
        dynamics = np.array([*of_factors, *of_errors, new])
        n_factors = beta.shape[1]
        factor_var = _filter_variance(factors, dynamics[:n_factors])
        # the last column is the constant starting variance of a new asset
        with_new = np.column_stack([errors, np.full(len(errors), np.nan)])
        error_var = _filter_variance(with_new, dynamics[n_factors:])
        self._assets = tuple(labels[known].tolist())
        self._numbers = {
            "mean": parts.mean,
            "sd": parts.sd,
            "beta": np.ascontiguousarray(beta),
            "dynamics": dynamics,
            "factor_var": factor_var,
            "error_var": error_var,
            "times": stamps_of(batch),
            "df": np.array([math.inf if self.df is None else self.df]),
        }
        if self.df is None:
            law = self._laws(batch).laws[0]
            found = law.distances(*cells_of(batch), range(batch.n_times))
            self._numbers["df"] = np.array([_likeliest_df(law, found)])
        self.history = pd.DataFrame(
            {
                "persistence": (dynamics[:, 1] + dynamics[:, 2]).tolist(),
                "series": [
                    *(f"factor {k}" for k in range(1, n_factors + 1)),
                    *self._assets,
                    "new asset",
                ],
            }
        )

    def _number_names(self) -> Sequence[str]:
        return "mean", "sd", "beta", "dynamics", "factor_var", "error_var", "times", "df"

    def _laws(self, batch: Batch) -> MixtureOfT:
        numbers, positions = self._numbers, self._positions(batch)
        mean, sd, beta = (numbers[name][positions] for name in ("mean", "sd", "beta"))
        n_factors = beta.shape[1]
        dynamics = numbers["dynamics"]
        of_assets = dynamics[n_factors:][positions]
        trained, stamps = numbers["times"], stamps_of(batch)
        start = dynamics[:, 3]
        factor_var, later = _known_variances(
            numbers["factor_var"], trained, stamps, start[:n_factors]
        )
        error_var, _ = _known_variances(
            numbers["error_var"][:, positions], trained, stamps, start[n_factors:][positions]
        )
        if later:
            returns, observed = cells_of(batch)
            scores = (returns[later] - mean) / sd
            factors, errors = _split(scores, observed[later], beta)
            last = numbers["factor_var"][-1], numbers["error_var"][-1, positions]
            factor_var[later] = _filter_variance(factors, dynamics[:n_factors], last[0])[:-1]
            error_var[later] = _filter_variance(errors, of_assets, last[1])[:-1]
        law = JointT(
            mean,
            beta * sd[:, None],
            factor_var,
            error_var * sd**2,
            np.ones(batch.n_times),
            float(numbers["df"][0]),
        )
        return MixtureOfT.of(law)


class _Garch(NamedTuple):
    """Variance of a series: omega + alpha x^2 + beta h, from a starting variance."""

    omega: float
    alpha: float
    beta: float
    start: float


def _split(scores: Array, observed: NDArray[np.bool_], beta: Array) -> tuple[Array, Array]:
    """Split scores into factors by least squares and residuals; NaN where nothing is known."""
    factors = np.full((len(scores), beta.shape[1]), np.nan)
    errors = np.full(scores.shape, np.nan)
    ridge = _RIDGE * float((beta**2).sum()) * np.eye(beta.shape[1])
    for t, seen in enumerate(observed):
        if seen.any():
            loadings = beta[seen]
            solved = np.linalg.solve(loadings.T @ loadings + ridge, loadings.T @ scores[t, seen])
            factors[t] = solved
            errors[t, seen] = scores[t, seen] - loadings @ solved
    return factors, errors


def _fit_garch(series: Array) -> _Garch:
    """Fit GARCH(1, 1) with Student-t innovations to the observed months, in order."""
    try:
        from arch import arch_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            "FactorGARCH needs the package 'arch'; install it: pip install 'rvrae-pyro[garch]'."
        ) from error
    seen = series[~np.isnan(series)]
    variance = float((seen**2).mean()) if seen.size else 1.0
    constant = _Garch(variance, 0.0, 0.0, variance)
    if seen.size < _LEAST_MONTHS or not variance > 0:
        return constant
    unit = seen / math.sqrt(variance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser tries parameters that overflow
        model = arch_model(unit, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False)
        found = model.fit(disp="off", show_warning=False)
    omega, alpha, beta = (float(x) for x in found.params.to_numpy()[:3])
    if found.convergence_flag != 0 or not np.isfinite([omega, alpha, beta]).all():
        return constant
    return _Garch(omega * variance, alpha, beta, variance)


def _median_dynamics(fitted: Sequence[_Garch], variance: float) -> _Garch:
    """Dynamics of an asset without a history, with a given long-run variance."""
    alpha = float(np.median([each.alpha for each in fitted]))
    beta = float(np.median([each.beta for each in fitted]))
    return _Garch(variance * max(0.0, 1.0 - alpha - beta), alpha, beta, variance)


def _filter_variance(series: Array, dynamics: Array, start: Array | None = None) -> Array:
    """Variances (n_times + 1, n_series); row t knows months before t only."""
    omega, alpha, beta, own_start = dynamics.T
    path = np.empty((len(series) + 1, series.shape[1]))
    path[0] = own_start if start is None else start
    for t, values in enumerate(series):
        squares = np.where(np.isnan(values), path[t], values**2)
        path[t + 1] = omega + alpha * squares + beta * path[t]
    return path


def _known_variances(
    kept: Array, trained: NDArray[np.int64], stamps: NDArray[np.int64], start: Array
) -> tuple[Array, list[int]]:
    """Variances of a panel's months as far as training knows them; see ``known_states``."""
    columns = [
        known_states(each, trained, stamps, float(first))
        for each, first in zip(kept.T, start, strict=True)
    ]
    return np.column_stack([states for states, _ in columns]), columns[0][1]


def _likeliest_df(law: JointT, found: Distances) -> float:
    """Degrees of freedom that maximise the density of the training months."""

    def loss(log_excess: float) -> float:
        density = log_density_t(found, law.scale, 2.0 + math.exp(log_excess))
        return -float(density.sum())

    best = minimize_scalar(loss, bounds=(math.log(0.1), math.log(_LARGEST_DF)), method="bounded")
    return 2.0 + math.exp(float(best.x))
