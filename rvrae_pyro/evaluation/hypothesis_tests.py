"""Tests that compare forecasts and explain returns: each starts from monthly numbers."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from rvrae_pyro.data.rounding import independent, rounding, scaled
from rvrae_pyro.data.timeline import in_time_order, match_months
from rvrae_pyro.errors import ConfigError, ShapeError, check_count, check_number
from rvrae_pyro.evaluation.scoring import (
    aggregate,
    check_array,
    hac_standard_error,
    varying,
    warn_lost,
)
from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR, OBS, TIME

_CONSTANT = "constant"


def diebold_mariano(
    first: xr.DataArray, second: xr.DataArray, *, lags: int | None = None
) -> xr.Dataset:
    r"""Test whether two forecasts have equal mean scores.

    .. math:: DM = \bar d \, / \, \mathrm{se}(\bar d), \qquad d_t = s_{1t} - s_{2t}

    Parameters
    ----------
    first, second : DataArray
        Scores by ``time`` (squared errors, CRPS, log scores, ...), or by cell, which are
        averaged over each month's cells that both have. Further dims are kept.
    lags : int, optional
        Lags of the Bartlett window; by default ``floor(4 (T / 100)^(2/9))``.

    Returns
    -------
    Dataset
        ``difference`` (mean of first less second), ``standard_error``, ``statistic`` and the
        two-sided ``p_value`` (Student-t with T - 1 degrees of freedom), ``n_times``. For a
        loss, a negative difference favours the first. NaN with fewer than two months or
        where the difference never varies.

    Raises
    ------
    ShapeError
        If dims or labels do not match.
    ConfigError
        If ``lags`` is negative.

    Notes
    -----
    Months are the unit: the cells of one month are dependent. The small-sample factor is the
    one of one-step forecasts.

    References
    ----------
    Diebold and Mariano (1995), Journal of Business and Economic Statistics 13, 253-263;
    Harvey, Leybourne and Newbold (1997), International Journal of Forecasting 13, eq. (9).
    """
    check_array(first, "first", *((OBS,) if OBS in first.dims else (TIME,)))
    check_array(second, "second", *((OBS,) if OBS in second.dims else (TIME,)))
    inputs = first, second
    try:
        first, second = match_months({"first": first, "second": second})
        given = {"first": first, "second": second}
        first, second = xr.align(first, second, join="inner")
    except ValueError as error:
        raise ShapeError(f"`first` and `second` cannot be matched: {error}") from error
    difference = first.astype(np.float64) - second.astype(np.float64)
    if 0 in difference.shape:
        raise ShapeError("`first` and `second` have no label in common; compare their coordinates.")
    warn_lost(given, difference)
    if OBS in difference.dims or ASSET in difference.dims:
        monthly = aggregate(difference, per="month", standard_error=False)
        assert isinstance(monthly, xr.DataArray)
        difference = monthly
    months = difference.notnull().sum(TIME)
    size = max(float(np.abs(each).max()) for each in (first, second))
    mean, spread = difference.mean(TIME), hac_standard_error(difference, lags=lags)
    spread = varying(spread, size, *inputs)
    statistic = mean / spread
    p_value = xr.apply_ufunc(lambda t, n: 2.0 * stats.t.sf(np.abs(t), n - 1), statistic, months)
    return xr.Dataset(
        {
            "difference": mean,
            "standard_error": spread,
            "statistic": statistic,
            "p_value": p_value,
            "n_times": months,
        },
        attrs={"test": "Diebold-Mariano", "standard_error": "Newey-West over months"},
    )


def model_confidence_set(
    losses: xr.DataArray,
    size: float = 0.1,
    *,
    dim: str = "model",
    block_length: int | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Keep the models that cannot be distinguished from the best.

    Parameters
    ----------
    losses : DataArray of dims (time, model)
        Lower is better: negate a log score. Months without all models are dropped.
    size : float
        One minus the confidence of the set, in (0, 1).
    dim : str
        Name of the dim of the models.
    block_length : int, optional
        Mean block length of the stationary bootstrap. Default: the square root of T.
    num_samples : int
        Bootstrap samples.
    seed : int

    Returns
    -------
    Dataset
        ``included`` and ``p_value`` by model: a model is in the set if its p-value exceeds
        ``size``.

    Raises
    ------
    ShapeError
        Without the dims, two models and two common months.
    ConfigError
        If ``size``, ``block_length`` or ``num_samples`` is outside its range, or the package
        ``arch`` is not installed.

    References
    ----------
    Hansen, Lunde and Nason (2011), The model confidence set, Econometrica 79, 453-497.
    """
    check_array(losses, "losses", TIME, dim)
    if set(losses.dims) != {TIME, dim}:
        raise ShapeError(
            f"`losses` must have dims ({TIME}, {dim}) and no other; got {losses.dims}. Average "
            "over the others, or take one of their labels."
        )
    check_number("size", size, "(0, 1)")
    if block_length is not None:
        check_number("block_length", block_length, "[1, inf)")
    check_count("num_samples", num_samples)
    table = in_time_order(losses, "losses").transpose(TIME, dim).dropna(TIME)
    if table.sizes[dim] < 2 or table.sizes[TIME] < 2:
        raise ShapeError(
            f"`losses` must hold two models and two months that all models have; got "
            f"{table.sizes[dim]} models and {table.sizes[TIME]} months."
        )
    try:
        from arch.bootstrap import MCS
    except ModuleNotFoundError as error:
        raise ConfigError(
            "model_confidence_set needs the package 'arch'; install it: pip install arch."
        ) from error
    # models with the same losses are one, whose verdict all of them have
    values, places = _distinct(table.to_numpy(), rounding(losses))
    if values.shape[1] == 1:
        return _confidence_set(np.ones(1), places, losses, dim, size, table.sizes[TIME])
    bootstrap = MCS(
        values,
        size,
        reps=num_samples,
        block_size=block_length or max(1, round(table.sizes[TIME] ** 0.5)),
        method="R",
        seed=np.random.default_rng(seed),
    )
    # a model that loses by the same amount every month has an infinite statistic
    with np.errstate(divide="ignore", invalid="ignore"):
        bootstrap.compute()
    p_values = bootstrap.pvalues["Pvalue"].sort_index().to_numpy()
    return _confidence_set(p_values, places, losses, dim, size, table.sizes[TIME])


def _distinct(
    values: NDArray[Any], relative: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Columns that differ by more than rounding, and which of them each column is."""
    numbers = values.astype(np.float64)
    columns, places = np.unique(numbers, axis=1, return_inverse=True)
    slack = relative * np.abs(numbers).max()
    kept: list[int] = []
    among = np.empty(columns.shape[1], np.intp)
    for k, column in enumerate(columns.T):
        apart = np.abs(columns[:, kept] - column[:, None]).max(axis=0)
        same = np.flatnonzero(apart <= slack)
        if not len(same):
            kept.append(k)
        among[k] = same[0] if len(same) else len(kept) - 1
    return columns[:, kept], among[places]


def _confidence_set(
    p_values: NDArray[np.float64],
    places: NDArray[np.intp],
    losses: xr.DataArray,
    dim: str,
    size: float,
    n_times: int,
) -> xr.Dataset:
    """Give every model the p-value of its losses."""
    each = p_values[places]
    return xr.Dataset(
        {"included": (dim, each > size), "p_value": (dim, each)},
        coords={dim: losses[dim]} if dim in losses.coords else {},
        attrs={"size": size, "n_times": n_times},
    )


def grs(returns: xr.DataArray, factors: xr.DataArray) -> xr.Dataset:
    r"""Test whether factors explain the mean returns of test portfolios.

    .. math:: \frac{T - N - K}{N} \,
        \frac{\hat\alpha' \hat\Sigma^{-1} \hat\alpha}{1 + \bar f' \hat\Omega^{-1} \bar f}
        \sim F(N, T - N - K)

    Parameters
    ----------
    returns : DataArray of dims (time, portfolio)
        Excess returns of test portfolios; the second dim may have any name.
    factors : DataArray of dims (time, factor)
        Excess or zero-cost returns of *traded* factors, such as
        ``rv.data.load_french_factors().rename(known_factor="factor")``. Months without all are
        dropped.

    Returns
    -------
    Dataset
        ``statistic``, ``p_value`` (exact for normal errors), ``wald`` and ``wald_p_value``
        (robust to heteroskedasticity), ``alpha`` and ``standard_error`` by portfolio.

    Raises
    ------
    ShapeError
        If dims do not match, months are not more than portfolios and factors together, or a
        series is a combination of others.

    References
    ----------
    Gibbons, Ross and Shanken (1989), Econometrica 57, 1121-1152, eq. (7).
    """
    check_array(returns, "returns", TIME)
    check_array(factors, "factors", TIME, FACTOR)
    others = [str(name) for name in returns.dims if name != TIME]
    if len(others) != 1 or len(factors.dims) != 2:
        raise ShapeError(
            f"`returns` must have dims (time, portfolio) and `factors` (time, factor); got "
            f"{returns.dims} and {factors.dims}."
        )
    (dim,) = others
    returns, factors = match_months({"returns": returns, "factors": factors})
    n, k = returns.sizes[dim], factors.sizes[FACTOR]
    # by place: labels may coincide
    left, right = (
        pd.DataFrame(
            each.transpose(TIME, name).to_numpy(),
            pd.Index(each[TIME].to_numpy()),
            [f"{role} {i}" for i in range(each.sizes[name])],
        )
        for role, each, name in (("tested", returns, dim), ("known", factors, FACTOR))
    )
    table = pd.concat([left, right], axis=1, join="inner").dropna()
    n_times = len(table)
    if n_times <= n + k:
        raise ShapeError(
            f"`returns` and `factors` must share more months than there are portfolios and "
            f"factors, {n + k}; got {n_times}."
        )
    relative = rounding(returns, factors)
    for name, columns in (("returns", table.iloc[:, :n]), ("factors", table.iloc[:, n:])):
        if not independent(columns.to_numpy(), relative):
            raise ShapeError(
                f"`{name}` must not hold a constant series, or one that is a combination of others "
                "and a constant; drop it."
            )
    from linearmodels.asset_pricing import TradedFactorModel

    # in units of their spread, so that no cutoff of the solver depends on the unit
    values, scale = scaled(table.to_numpy())
    table = pd.DataFrame(values, table.index, table.columns)
    tested, known = table.iloc[:, :n], table.iloc[:, n:]
    fitted = TradedFactorModel(tested, known).fit()
    alpha = fitted.alphas.to_numpy()
    residual = (tested - fitted.params.iloc[:, 0].to_numpy()).to_numpy() - known.to_numpy() @ (
        fitted.params.iloc[:, 1:].to_numpy().T
    )
    covariance = residual.T @ residual / n_times
    mean = known.to_numpy().mean(axis=0)
    centred = known.to_numpy() - mean
    price = mean @ np.linalg.solve(centred.T @ centred / n_times, mean)
    distance = alpha @ np.linalg.solve(covariance, alpha)
    statistic = (n_times - n - k) / n * distance / (1.0 + price)
    return xr.Dataset(
        {
            "statistic": statistic,
            "p_value": stats.f.sf(statistic, n, n_times - n - k),
            "wald": float(fitted.j_statistic.stat),
            "wald_p_value": float(fitted.j_statistic.pval),
            "alpha": (dim, alpha * scale[:n]),
            "standard_error": (dim, fitted.std_errors.iloc[:, 0].to_numpy() * scale[:n]),
        },
        coords={dim: returns[dim]} if dim in returns.coords else {},
        attrs={"test": "Gibbons-Ross-Shanken", "n_times": n_times},
    )


def fama_macbeth(returns: xr.DataArray, predictors: xr.DataArray) -> xr.Dataset:
    """Regress returns on predictors across assets, month by month, and average the slopes.

    Parameters
    ----------
    returns : DataArray of dims (time, asset)
        Realised excess returns; NaN where not observed.
    predictors : DataArray of dims (time, asset) or (time, asset, characteristic)
        Known at t-1: forecasts, or characteristics. Cells with any NaN are dropped.

    Returns
    -------
    Dataset
        ``premium``, ``standard_error`` (Newey-West over months), ``statistic``, ``p_value`` by
        ``characteristic``, of which the first is ``constant``; attribute ``n_times``. Months
        that do not determine the slopes are dropped.

    Raises
    ------
    ShapeError
        If dims do not match, fewer than two months determine the slopes, or a predictor is
        called ``constant``.

    References
    ----------
    Fama and MacBeth (1973), Journal of Political Economy 81, 607-636.
    """
    check_array(returns, "returns", TIME, ASSET)
    check_array(predictors, "predictors", TIME, ASSET)
    if CHARACTERISTIC not in predictors.dims:
        name = str(predictors.name or "predictor")
        predictors = predictors.expand_dims({CHARACTERISTIC: [name]}, axis=-1)
    if set(predictors.dims) != {TIME, ASSET, CHARACTERISTIC} or set(returns.dims) != {TIME, ASSET}:
        raise ShapeError(
            "`returns` must have dims (time, asset) and `predictors` (time, asset) or (time, "
            f"asset, characteristic); got {returns.dims} and {predictors.dims}."
        )
    returns, predictors = match_months({"returns": returns, "predictors": predictors})
    returns, predictors = xr.align(returns, predictors, join="inner")
    names = [str(v) for v in predictors[CHARACTERISTIC].to_numpy()]
    y = returns.transpose(ASSET, TIME).to_numpy()
    x = predictors.transpose(ASSET, TIME, CHARACTERISTIC).to_numpy()
    if _CONSTANT in names:
        raise ShapeError(
            f"`predictors` must not be called {_CONSTANT!r}, the name of the intercept; rename it."
        )
    known = np.isfinite(y) & np.isfinite(x).all(axis=-1)
    # a month with no more assets than slopes is not informative, nor is one whose slopes are not
    # determined
    known &= known.sum(axis=0) > len(names) + 1
    relative = rounding(x)
    x = x.astype(np.float64)
    known &= [independent(x[rows, t], relative) for t, rows in enumerate(known.T)]
    if known.any(axis=0).sum() < 2:
        raise ShapeError(
            "`returns` and `predictors` must share two months with more than "
            f"{len(names) + 1} complete assets, in which no predictor is constant or a "
            f"combination of others; got {known.any(axis=0).sum()}."
        )
    from linearmodels.panel import FamaMacBeth

    asset, time = np.nonzero(known)
    index = pd.MultiIndex.from_arrays(
        [returns[ASSET].to_numpy()[asset], returns[TIME].to_numpy()[time]], names=[ASSET, TIME]
    )
    # in units of their spread, so that no cutoff of the solver depends on the unit
    values, scale = scaled(x[known])
    scale = np.concatenate([[1.0], scale])
    design = pd.DataFrame(values, index=index, columns=names)
    design.insert(0, _CONSTANT, 1.0)
    target = pd.Series(y[known], index=index, name="returns")
    n_times = int(known.any(axis=0).sum())
    fitted = FamaMacBeth(target, design, check_rank=False).fit(
        cov_type="kernel", kernel="bartlett", bandwidth=int(4 * (n_times / 100) ** (2 / 9))
    )
    columns = {
        "premium": fitted.params / scale,
        "standard_error": fitted.std_errors / scale,
        "statistic": fitted.tstats,
        "p_value": fitted.pvalues,
    }
    return xr.Dataset(
        {name: (CHARACTERISTIC, values.to_numpy()) for name, values in columns.items()},
        coords={CHARACTERISTIC: [_CONSTANT, *names]},
        attrs={"test": "Fama-MacBeth", "n_times": n_times},
    )
