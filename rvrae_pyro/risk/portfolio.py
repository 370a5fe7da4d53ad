"""Distribution of portfolios, and what each position adds to their risk."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.errors import ShapeError
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, MEMBER, RETURNS, STEP, TIME
from rvrae_pyro.predictive.storage import tree_of
from rvrae_pyro.risk.draws import (
    Array,
    Forecast,
    at_step,
    check_tails,
    has_steps,
    n_draws_of,
    over_steps,
    read_forecast,
    steps_of,
    tail_share,
)
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, pick_times, read_weights
from rvrae_pyro.risk.summary import summarize_forecast

_KINDS: Final = ("sd", "var", "es")
_KIND: Final = "kind"


def portfolio(
    tree: xr.DataTree,
    weights: Weights,
    benchmark: Weights | None = None,
    tail: float | tuple[float, ...] = (0.05, 0.01),
) -> xr.DataTree:
    r"""Distribution of a portfolio's return, and the contribution of every position to its risk.

    .. math::
        R = \sum_i w_i r_i, \quad \rho(R) = \sum_i w_i \frac{\partial \rho}{\partial w_i}, \quad
        \frac{\partial\,\mathrm{sd}}{\partial w_i} = \frac{\mathrm{Cov}(r_i, R)}{\mathrm{sd}(R)},
        \quad
        \frac{\partial\,\mathrm{VaR}}{\partial w_i} = -\mathrm E[r_i \mid R = -\mathrm{VaR}], \quad
        \frac{\partial\,\mathrm{ES}}{\partial w_i} = -\mathrm E[r_i \mid R \le -\mathrm{VaR}] .

    Parameters
    ----------
    tree : DataTree
        A forecast; see :func:`summarize`.
    weights : Series, DataFrame or DataArray
        A Series by asset holds in every month; a DataFrame has months as rows and assets as
        columns; a DataArray has dim ``asset``, and optionally ``time`` and one more, which
        counts portfolios. They may have any sum. Months are those of the weights, if any.
    benchmark : Series, DataFrame or DataArray, optional
        Weights of one benchmark, which cover the same months.
    tail : float or sequence of float
        Tail probabilities of the loss measures, each in (0, 1).

    Returns
    -------
    DataTree
        At the root ``mean``, ``sd``, ``prob_loss``, ``factor_var``, ``idio_var``,
        ``parameter_var`` (time), ``var``, ``es`` (tail, time) as :func:`summarize` has them;
        ``exposure`` (time, factor) to each factor; ``weights`` (time, asset);
        ``marginal_sd``, ``component_sd`` (time, asset), ``marginal_var``, ``component_var``,
        ``marginal_es``, ``component_es`` (tail, time, asset). Components sum over assets to
        ``sd``, ``var`` and ``es``. A dim ``portfolio`` comes last where the weights have one.
        Group ``predictions`` holds the draws: ``portfolio_returns`` (chain, draw, time). With a
        benchmark also ``benchmark_returns`` and ``active_returns``, and the groups ``benchmark``
        and ``active`` hold the same variables for them; ``active/sd`` is the
        tracking error.

        Of a forecast over several periods (``fit.forecast(panel, horizon=h)``) all but
        ``weights`` have a dim ``step`` after ``time`` and are of the return in that step's own
        period, with the weights as given. Those called ``compounded_*`` (``compounded_sd``,
        ``compounded_component_es``, ...) are of the portfolio bought at the origin and held up to
        the step: the weights of the compounded returns. Their components sum up likewise.

    Raises
    ------
    ShapeError
        If ``tree`` is no forecast, or weights miss assets, name others, are outside its months or
        have other dims.
    ConfigError
        If a weight is NaN, infinite or on an asset without a forecast, or a tail holds no draw.

    Warns
    -----
    RvraeWarning
        If fewer than 10 draws are expected in a tail.

    Notes
    -----
    Information set: that of the draws and of the weights. Contributions are estimated from the
    draws, for any distribution: to the sd by a sample covariance, to ES by the mean over the tail
    draws, to VaR by a local linear regression of each asset on the portfolio at minus the VaR
    (normal kernel, Silverman's bandwidth), which has no bias where returns are elliptical and
    reproduces linear functions. With 1000 draws and a tail of 5 % the error of a position's part
    is near 1/7 of its sd in the tail. Marginals are NaN where the portfolio has no risk. Cost
    O(T S N) per portfolio.

    References
    ----------
    Tasche (2000), Risk contributions and performance measurement, sections 4-5.
    Gourieroux, Laurent and Scaillet (2000), Sensitivity analysis of values at risk, Journal of
    Empirical Finance 7, eq. (2.7).
    """
    if has_steps(tree):
        chosen = check_tails(tail, n_draws_of(tree))
        return over_steps(tree, lambda one: _portfolio(one, weights, benchmark, chosen))
    return _portfolio(tree, weights, benchmark, check_tails(tail, read_forecast(tree).n_draws))


def _portfolio(
    tree: xr.DataTree, weights: Weights, benchmark: Weights | None, tails: tuple[float, ...]
) -> xr.DataTree:
    """Risk of portfolios in a forecast of single periods."""
    forecast = read_forecast(tree)
    held, reference = _positions(weights, benchmark, forecast.listed)
    forecast = _months(forecast, held)
    books = {"portfolio": held}
    if reference is not None:
        books |= {"benchmark": reference, "active": held - reference}
    stacked = np.concatenate([book.values for book in books.values()], axis=-1)
    draws, parts = _walk(forecast, stacked, tails)
    single = not _counts_portfolios(weights)
    groups, returns = {}, {}
    for number, (name, book) in enumerate(books.items()):
        columns = slice(number * held.sizes[PORTFOLIO], (number + 1) * held.sizes[PORTFOLIO])
        mine = forecast.returns.isel({ASSET: 0}, drop=True).expand_dims(
            {PORTFOLIO: held[PORTFOLIO].values}, -1
        )
        mine = mine.copy(data=draws[..., columns])
        risk = _risk(forecast, book, mine, parts[..., columns], tails)
        groups["/" if name == "portfolio" else name] = _drop(risk, single)
        returns[f"{name}_returns"] = _drop(mine.drop_attrs(), single)
    groups["predictions"] = xr.Dataset(returns)
    return tree_of(groups, tree.attrs)


def portfolio_draws(tree: xr.DataTree, weights: Weights) -> xr.DataArray:
    """Draw the portfolio's return: (chain, draw, time), and ``portfolio`` if the weights have it.

    Of a forecast over several periods (chain, draw, time, step): the return of the portfolio
    bought at the origin and held up to the step.

    Parameters
    ----------
    tree, weights
        See :func:`portfolio`, also for the errors.

    Returns
    -------
    DataArray
    """
    if has_steps(tree):
        steps = steps_of(tree)
        each = [portfolio_draws(at_step(tree, step), weights) for step in steps]
        joined = xr.concat(each, STEP, join="exact").assign_coords({STEP: steps})
        return joined.transpose(CHAIN, DRAW, TIME, STEP, ...)
    forecast = read_forecast(tree)
    held = read_weights(weights, forecast.listed)
    forecast = _months(forecast, held)
    draws, _ = _walk(forecast, held.values, ())
    like = forecast.returns.isel({ASSET: 0}, drop=True).expand_dims(
        {PORTFOLIO: held[PORTFOLIO].values}, -1
    )
    result = like.copy(data=draws).rename("portfolio_returns")
    return result if _counts_portfolios(weights) else result.isel({PORTFOLIO: 0}, drop=True)


def to_scenarios(tree: xr.DataTree, time: object) -> pd.DataFrame:
    """Write one month's draws as a table of scenarios, as optimisers of portfolios read them.

    Parameters
    ----------
    tree : DataTree
        A forecast; see :func:`summarize`.
    time : label
        The month.

    Returns
    -------
    DataFrame
        One row per draw, all chains, equally likely; one column a listed asset; returns as
        decimals.

    Raises
    ------
    ShapeError
        If ``tree`` is no forecast, or ``time`` is not one month of it.
    """
    forecast = read_forecast(tree)
    rows = pick_times(forecast.returns.indexes[TIME], time, "time")
    if len(rows) != 1:
        raise ShapeError(f"`time` must pick one month; got {len(rows)} with {time!r}.")
    draws = forecast.month(int(rows[0]))
    listed = forecast.listed.values[rows[0]]
    columns = pd.Index(forecast.returns[ASSET].values[listed], name=ASSET)
    return pd.DataFrame(draws[:, listed], columns=columns).rename_axis(DRAW)


def _positions(
    weights: Weights, benchmark: Weights | None, listed: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray | None]:
    held = read_weights(weights, listed)
    if benchmark is None:
        return held, None
    reference = read_weights(benchmark, listed, "benchmark")
    if reference.sizes[PORTFOLIO] > 1:
        raise ShapeError(
            f"`benchmark` must be one portfolio; got {reference.sizes[PORTFOLIO]}. Select one."
        )
    lacking = held.indexes[TIME].difference(reference.indexes[TIME])
    if lacking.size:
        raise ShapeError(
            f"`benchmark` must cover the months of `weights`; it lacks {lacking.size}, first "
            f"{lacking[0]:%Y-%m-%d}."
        )
    reference = reference.sel({TIME: held[TIME].values}).isel({PORTFOLIO: 0}, drop=True)
    return held, reference.broadcast_like(held).transpose(*held.dims)


def _counts_portfolios(weights: Weights) -> bool:
    return isinstance(weights, xr.DataArray) and bool(set(weights.dims) - {TIME, ASSET})


def _months(forecast: Forecast, weights: xr.DataArray) -> Forecast:
    """Keep the months of the weights, in their order."""
    rows = {TIME: forecast.returns.indexes[TIME].get_indexer(weights.indexes[TIME])}
    factors, beta, expected = forecast.factors, forecast.beta, forecast.expected
    return Forecast(
        forecast.returns.isel(rows),
        None if factors is None else factors.isel(rows),
        None if beta is None else beta.isel(rows),
        expected=None if expected is None else expected.isel(rows),
    )


def _walk(forecast: Forecast, weights: Array, tails: tuple[float, ...]) -> tuple[Array, Array]:
    """Visit months: draws (chain, draw, time, portfolio), marginals (kind, time, asset, ...)."""
    n_times, n_assets, n_books = weights.shape
    draws = np.empty((forecast.n_draws, n_times, n_books))
    kinds = 1 + 2 * len(tails) if tails else 0
    marginals = np.full((kinds, n_times, n_assets, n_books), np.nan)
    listed, relative = forecast.listed.values, rounding(forecast.returns)
    for t in range(n_times):
        assets = forecast.month(t)[:, listed[t]]
        draws[:, t] = assets @ weights[t, listed[t]]
        if tails:
            largest = np.abs(assets).max(axis=0, initial=0.0)
            noise = relative * (largest @ np.abs(weights[t, listed[t]]))
            slopes = np.concatenate(
                [sensitivities(draws[:, t, p], tails, noise[p]) for p in range(n_books)], axis=1
            )
            rows = (assets.T @ slopes).reshape(-1, n_books, kinds)
            marginals[:, t, listed[t]] = rows.transpose(2, 0, 1)
    sizes = (forecast.returns.sizes[CHAIN], forecast.returns.sizes[DRAW])
    return draws.reshape(*sizes, n_times, n_books), marginals


def sensitivities(draws: Array, tails: tuple[float, ...], noise: float) -> Array:
    """Weights (draw, 1 + 2 tails) whose inner product with an asset's draws is its marginal.

    Columns are sd, then VaR of each tail, then ES of each tail. NaN where the draws spread by no
    more than ``noise``, the rounding error of the positions they were summed from.
    """
    size = len(draws)
    centred = draws - draws.mean()
    sd = np.sqrt((centred**2).mean())
    if not sd > noise:
        return np.full((size, 1 + 2 * len(tails)), np.nan)
    order = np.argsort(draws, kind="stable")
    at_risk, shortfall = [], []
    for tail in tails:
        share = tail_share(size, tail)
        inside = np.zeros(size)
        inside[order[: len(share)]] = share
        shortfall.append(-inside)
        at_risk.append(-_local_linear(draws, draws[order[len(share) - 1]], sd))
    return np.stack([centred / (size * sd), *at_risk, *shortfall], axis=1)


def _local_linear(draws: Array, at: float, sd: float) -> Array:
    """Weights of draws in a local linear regression at a point; they reproduce lines exactly."""
    distance = (draws - at) / (1.06 * sd * len(draws) ** -0.2)
    kernel = np.exp(-0.5 * distance**2)
    zeroth, first, second = (float((kernel * distance**power).sum()) for power in range(3))
    determinant = zeroth * second - first**2
    if determinant <= 1e-12 * zeroth**2:  # one atom of draws: nothing to draw a line through
        mean: Array = kernel / zeroth
        return mean
    weights: Array = kernel * (second - first * distance) / determinant
    return weights


def _risk(
    forecast: Forecast,
    weights: xr.DataArray,
    draws: xr.DataArray,
    parts: Array,
    tails: tuple[float, ...],
) -> xr.Dataset:
    """Everything about one kind of portfolio: summary, exposures and contributions."""
    beta = None
    if forecast.beta is not None and forecast.factors is not None:
        loadings = forecast.beta.fillna(0.0).astype(np.float64)
        beta = xr.dot(weights, loadings, dim=ASSET).rename({PORTFOLIO: ASSET})
        beta = beta.transpose(CHAIN, TIME, ASSET, FACTOR)
    expected = forecast.expected
    if expected is not None:
        expected = xr.dot(weights, expected.fillna(0.0), dim=ASSET).rename({PORTFOLIO: ASSET})
        expected = expected.transpose(MEMBER, TIME, ASSET)
    own = Forecast(
        draws.rename({PORTFOLIO: ASSET}).rename(RETURNS), forecast.factors, beta, expected=expected
    )
    risk = summarize_forecast(own, tails, {}).rename({ASSET: PORTFOLIO})
    if beta is not None:
        risk["exposure"] = beta.mean(CHAIN).rename({ASSET: PORTFOLIO}).transpose(TIME, FACTOR, ...)
    risk["weights"] = weights
    per_tail = xr.DataArray(
        parts[1:].reshape(2, len(tails), *parts.shape[1:]),
        {"tail": list(tails), **weights.coords},
        (_KIND, "tail", *weights.dims),
    )
    marginals = {
        "sd": weights.copy(data=parts[0]),
        "var": per_tail.isel({_KIND: 0}),
        "es": per_tail.isel({_KIND: 1}),
    }
    for name in _KINDS:
        marginal = marginals[name].assign_attrs(
            long_name=f"change of {name} per unit of weight", units="1"
        )
        component = (weights * marginal.fillna(0.0)).transpose(*marginal.dims)
        risk[f"marginal_{name}"] = marginal
        risk[f"component_{name}"] = component.assign_attrs(
            long_name=f"part of {name}; sums to it over assets", units="1"
        )
    return risk


def _drop(values: xr.Dataset | xr.DataArray, single: bool) -> xr.Dataset | xr.DataArray:
    return values.isel({PORTFOLIO: 0}, drop=True) if single else values
