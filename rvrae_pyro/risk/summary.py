"""Summary of every forecast: moments, tails, sources of variance; closed form and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.names import ASSET, CHAIN, DRAW, RETURNS, TIME
from rvrae_pyro.risk.draws import (
    MIXED,
    Array,
    Forecast,
    check_tails,
    has_steps,
    is_empty,
    n_draws_of,
    over_steps,
    read_forecast,
    tail_losses,
)

_BLOCK = 2**22  # draws held at a time: 32 MiB in double precision

DESCRIPTIONS: Final = {
    "mean": ("predictive mean of the excess return", "1"),
    "sd": ("predictive standard deviation", "1"),
    "var": ("value at risk, a positive loss", "1"),
    "es": ("expected shortfall, a positive loss", "1"),
    "prob_loss": ("probability of a negative excess return", "1"),
    "factor_var": ("variance from the factors", "1 (return squared)"),
    "idio_var": ("variance from idiosyncratic noise, as the remainder", "1 (return squared)"),
    "parameter_var": ("variance of the mean across members", "1 (return squared)"),
}


def summarize(tree: xr.DataTree, tail: float | Sequence[float] = (0.05, 0.01)) -> xr.Dataset:
    r"""Summarise the predictive distribution of every asset and month.

    .. math::
        \mathrm{Var}(r_{it}) =
        \underbrace{\mathrm E_m[\beta_i' \mathrm{Cov}_m(f_t) \beta_i]}_{\text{factor}} +
        \underbrace{\mathrm E_m[\mathrm{Var}_m(r_{it})] - \text{factor}}_{\text{idiosyncratic}} +
        \underbrace{\mathrm{Var}_m(\mathrm E_m[r_{it}])}_{\text{parameter}}

    with members :math:`m`: one per chain, or per draw of the weights where the coordinate
    ``weight_draw`` labels the draws that share theirs.

    Parameters
    ----------
    tree : DataTree
        A forecast. Group ``predictions`` holds ``returns (chain, draw, time, asset)``, NaN
        in all draws of an unlisted asset. For the split it also holds ``factors (chain,
        draw, time, factor)``, the draws behind the returns, and group
        ``predictions_constant_data`` holds ``beta (time, asset, factor)``, with a leading
        ``chain`` if members differ, and ``beta_by_weights`` with a leading ``weight_draw``.
    tail : float or sequence of float
        Tail probabilities of the loss measures, each in (0, 1).

    Returns
    -------
    Dataset
        ``mean``, ``sd``, ``prob_loss``, ``factor_var``, ``idio_var``, ``parameter_var``
        (time, asset), and ``var``, ``es`` (tail, time, asset). VaR and ES are positive
        losses in return units; variances are those of the draws (ddof 0), and
        ``factor_var + idio_var + parameter_var == sd**2``. The tree's attributes are kept.

        Of a forecast over several periods (``fit.forecast(panel, horizon=h)``) all have a dim
        ``step`` after ``time`` and are of the return in that step's own period;
        ``compounded_mean``, ``compounded_sd``, ``compounded_var``, ``compounded_es``,
        ``compounded_prob_loss`` and ``compounded_parameter_var`` are of the return compounded
        from the first step to that one.

    Raises
    ------
    ShapeError
        If the tree is no forecast, or its parts do not fit together.
    ConfigError
        If a tail is outside (0, 1) or repeated, or if none holds a draw.

    Warns
    -----
    RvraeWarning
        If fewer than 10 draws are expected in a tail. Where it is less than one, as 1 % of 50 is,
        and another tail holds some, ``var`` and ``es`` of this tail are NaN.

    Notes
    -----
    Information set: that of the draws; a forecast of month t knows months to t-1.

    VaR is minus the ``ceil(tail * S)``-th smallest of all S draws; ES is minus the mean of
    the worst ``tail * S`` draws, the last counted in part, so that ES >= VaR always.

    ``idio_var`` is the remainder within members, including the sample covariance of noise and
    factors, so that it can be slightly negative. ``parameter_var`` is the spread of the members'
    expected returns in ``predictions_constant_data`` (``mean``, or ``mean_by_weights`` where
    weights have a posterior); without them that of the means of their draws, less the Monte-Carlo
    error of independent draws (0 where that is larger). With one member it is 0 because it was
    *not measured*; its ``note`` states so. Without ``factors`` or ``beta``, ``factor_var`` and
    ``idio_var`` are NaN. Cost O(S) per cell, a block of months at a time.

    References
    ----------
    Acerbi and Tasche (2002), On the coherence of expected shortfall, Journal of Banking and
    Finance 26, eq. (11).
    """
    if has_steps(tree):
        tails = check_tails(tail, n_draws_of(tree), some_empty=True)
        stepped = over_steps(
            tree, lambda one: xr.DataTree(summarize_forecast(read_forecast(one), tails, one.attrs))
        )
        return stepped.to_dataset().assign_attrs(stepped.attrs)
    forecast = read_forecast(tree)
    return summarize_forecast(
        forecast, check_tails(tail, forecast.n_draws, some_empty=True), tree.attrs
    )


def summarize_forecast(
    forecast: Forecast, tails: tuple[float, ...], attrs: Mapping[Any, Any]
) -> xr.Dataset:
    """Summarise draws that were read and tails that were checked; see :func:`summarize`."""
    returns = forecast.returns
    n_times, n_assets = returns.sizes[TIME], returns.sizes[ASSET]
    shape = (n_times, n_assets)
    results = {name: np.full(shape, np.nan) for name in DESCRIPTIONS if name not in ("var", "es")}
    results |= {name: np.full((len(tails), *shape), np.nan) for name in ("var", "es")}
    step = max(1, _BLOCK // max(1, forecast.n_draws * n_assets))
    for start in range(0, n_times, step):
        months = slice(start, start + step)
        for name, values in _summarize_block(forecast, months, tails).items():
            results[name][..., months, :] = values
    return _dataset(results, returns, tails, forecast, dict(attrs))


def _summarize_block(
    forecast: Forecast, months: slice, tails: tuple[float, ...]
) -> dict[str, Array]:
    """Summarise a few months; every result ends in (time, asset)."""
    draws = forecast.returns.isel({TIME: months}).values.astype(np.float64)
    unknown = np.isnan(draws)
    listed = ~unknown.any(axis=(0, 1))
    if (~listed & ~unknown.all(axis=(0, 1))).any():
        raise ShapeError(MIXED)
    expected = None if forecast.expected is None else forecast.expected.isel({TIME: months}).values
    results = _moments(draws, forecast.member, expected)
    rest = results["sd"] ** 2 - results["parameter_var"]
    results["factor_var"] = _factor_variance(forecast, months, rest)
    results["idio_var"] = rest - results["factor_var"]
    pooled = np.moveaxis(draws, (0, 1), (-2, -1))
    flat = np.ascontiguousarray(pooled).reshape(*listed.shape, -1)
    results["prob_loss"] = np.where(listed, (flat < 0).mean(axis=-1), np.nan)
    results["var"], results["es"] = tail_losses(flat, tails)
    empty = [is_empty(tail, flat.shape[-1]) for tail in tails]
    for name in ("var", "es"):
        results[name][empty] = np.nan
    return results


def _moments(
    draws: Array, member: NDArray[np.int64], expected: Array | None = None
) -> dict[str, Array]:
    """Moments over draws and members, by the law of total variance.

    ``expected`` (member, time, asset) are the members' means if they are known without the noise
    of the draws.
    """
    flat, owner = draws.reshape(-1, *draws.shape[2:]), member.reshape(-1)
    total, n_members = flat.mean(axis=0), int(owner.max()) + 1
    within, between, error, apart = (np.zeros_like(total) for _ in range(4))
    known = np.full((n_members, *total.shape), np.nan) if expected is None else expected
    shares = np.bincount(owner) / len(flat)
    centre = np.tensordot(shares, known, axes=1)
    for number in range(n_members):
        own = flat[owner == number]
        share, variance = len(own) / len(flat), own.var(axis=0)
        within += share * variance
        between += share * (own.mean(axis=0) - total) ** 2
        # of a member's mean, about the mean of all
        error += share * (1.0 - share) * variance / max(1, len(own) - 1)
        apart += share * (known[number] - centre) ** 2
    if expected is None:
        apart = np.maximum(between - error, 0.0)
    return {
        "mean": total,
        "sd": np.sqrt(within + between),
        "parameter_var": np.where(np.isnan(total), np.nan, apart),
    }


def _factor_variance(forecast: Forecast, months: slice, like: Array) -> Array:
    """Mean over members of beta' Cov(f) beta; NaN where the tree lacks them."""
    if forecast.factors is None or forecast.beta_by_member is None:
        return np.full_like(like, np.nan)
    factors = forecast.factors.isel({TIME: months}).values.astype(np.float64)
    factors = factors.reshape(-1, *factors.shape[2:])
    beta = forecast.beta_by_member.isel({TIME: months}).values.astype(np.float64)
    owner = forecast.member.reshape(-1)
    explained = np.zeros_like(like)
    for number in range(forecast.n_members):
        own = factors[owner == number]
        centred = own - own.mean(axis=0)
        cov = np.einsum("dtk,dtl->tkl", centred, centred) / len(own)
        of = beta[number * len(beta) // forecast.n_members]
        share = len(own) / len(factors)
        explained += share * np.einsum("tnk,tkl,tnl->tn", of, cov, of, optimize=True)
    # a cell that is not forecast has no variance
    return np.where(np.isnan(like), np.nan, explained)


def _dataset(
    results: dict[str, Array],
    returns: xr.DataArray,
    tails: tuple[float, ...],
    forecast: Forecast,
    attrs: dict[Any, Any],
) -> xr.Dataset:
    first = returns.isel({CHAIN: 0, DRAW: 0}, drop=True)
    coords = {"tail": list(tails), **first.coords}
    summary = xr.Dataset(coords=coords, attrs=attrs)
    for name, (description, units) in DESCRIPTIONS.items():
        dims = ("tail", TIME, ASSET)[-results[name].ndim :]
        summary[name] = (dims, results[name], {"long_name": description, "units": units})
    if forecast.n_members == 1:
        summary["parameter_var"].attrs["note"] = "not measured: the forecast has one member"
    if forecast.factors is None:
        for name in ("factor_var", "idio_var"):
            summary[name].attrs["note"] = "not available: the tree holds no factors and beta"
    summary.attrs |= {"n_chains": returns.sizes[CHAIN], "n_draws": returns.sizes[DRAW]}
    return summary


_NODES = 200


def summarize_analytic(
    mean: xr.DataArray,
    factor_var: xr.DataArray,
    idio_scale: xr.DataArray,
    df: float | None = None,
    tail: float | Sequence[float] = (0.05, 0.01),
) -> xr.Dataset:
    r"""Summarise returns whose factors are normal, and whose noise is normal or Student-t.

    .. math:: r = \mu + \sqrt{v} Z + s T, \quad Z \sim N(0, 1), \; T \sim t_\nu

    Parameters
    ----------
    mean, factor_var, idio_scale : DataArray
        Of the same dims and labels, such as (time, asset): predictive mean, variance from the
        factors :math:`\beta' S \beta`, and *scale* of the noise, which is its standard deviation
        only where it is normal. NaN in any is NaN in the answer.
    df : float, optional
        Degrees of freedom of the noise, above 2; None for normal noise.
    tail : float or sequence of float
        Tail probabilities, each in (0, 1).

    Returns
    -------
    Dataset
        ``mean``, ``sd``, ``prob_loss``, ``factor_var``, ``idio_var``, and ``var``, ``es`` with a
        leading dim ``tail``, as :func:`summarize` has them.

    Raises
    ------
    ShapeError
        If the arrays do not have the same dims and labels.
    ConfigError
        If ``df`` is 2 or less, a tail is outside (0, 1), or a variance is negative.

    Notes
    -----
    Student-t noise is a normal with a random variance, so the return is a mixture of normals;
    the mixture is summed at 200 points of the log of the variance, which is accurate to about
    1e-8 for ``df >= 2.5``. VaR is found by bisection. Cost O(cells).
    """
    tails = check_tails(tail, 2**62)
    arrays = {"mean": mean, "factor_var": factor_var, "idio_scale": idio_scale}
    for name, values in arrays.items():
        if not isinstance(values, xr.DataArray) or set(values.dims) != set(mean.dims):
            raise ShapeError(f"`{name}` must be a DataArray with the dims of `mean`.")
        if any(not np.array_equal(values[d].values, mean[d].values) for d in mean.dims):
            raise ShapeError(f"`{name}` must have the labels of `mean`.")
        if name != "mean" and bool((values < 0).any()):
            raise ConfigError(f"`{name}` must not be negative.")
    if df is not None and not df > 2:
        raise ConfigError(f"`df` must be above 2, so that returns have a variance; got {df!r}.")
    loc = mean.values.astype(np.float64)
    common = factor_var.transpose(*mean.dims).values.astype(np.float64)
    scale = idio_scale.transpose(*mean.dims).values.astype(np.float64)
    idio = scale**2 * (1.0 if df is None else df / (df - 2.0))
    points, weights = _mixture(df)
    spread = np.sqrt(common[..., None] + scale[..., None] ** 2 * points)
    sd = np.sqrt(common + idio)
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = [_tail(loc, sd, spread, weights, each) for each in tails]
        prob_loss = _cdf(-loc, spread, weights)
    over = ("tail", *mean.dims)
    result = xr.Dataset(
        {
            "mean": mean,
            "sd": (mean.dims, sd),
            "var": (over, np.stack([each[0] for each in losses])),
            "es": (over, np.stack([each[1] for each in losses])),
            "prob_loss": (mean.dims, prob_loss),
            "factor_var": (mean.dims, common),
            "idio_var": (mean.dims, idio),
        },
        {"tail": list(tails), **mean.coords},
    )
    for key, variable in result.data_vars.items():
        text, units = DESCRIPTIONS[str(key)]
        variable.attrs = {"long_name": text, "units": units}
    return result


def _mixture(df: float | None) -> tuple[Array, Array]:
    """Variances of the noise per squared scale, and their probabilities."""
    if df is None:
        return np.ones(1), np.ones(1)
    half = df / 2.0
    # x of a gamma variable with shape df/2, evenly spaced in log x: exponentially accurate
    low = math.log(stats.gamma.ppf(1e-15, half))
    high = math.log(stats.gamma.isf(1e-16, half))
    grid = np.linspace(low, high, _NODES)
    density = np.exp(half * grid - np.exp(grid) - math.lgamma(half))
    return half / np.exp(grid), density / density.sum()


def _cdf(distance: Array, spread: Array, weights: Array) -> Array:
    value: Array = (stats.norm.cdf(distance[..., None] / spread) * weights).sum(axis=-1)
    return value


def _tail(loc: Array, sd: Array, spread: Array, weights: Array, tail: float) -> tuple[Array, Array]:
    """VaR and ES: the quantile by bisection, the tail mean of each normal in closed form."""
    low, high = -sd / math.sqrt(tail), sd / math.sqrt(1.0 - tail)  # Chebyshev's inequality
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = _cdf(middle, spread, weights) > tail
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    quantile = 0.5 * (low + high)
    z = quantile[..., None] / spread
    shortfall = (stats.norm.pdf(z) * spread * weights).sum(axis=-1) / tail
    return -(loc + quantile), shortfall - loc


_TAILS: Final = (0.05, 0.01)
# quantiles by the central interval whose ends they are
_INTERVALS: Final = {0.9: ("q05", "q95"), 0.5: ("q25", "q75")}


def forecast_table(tree: xr.DataTree, panel: xr.Dataset) -> pd.DataFrame:
    """Summarise a forecast, best expected return first, one row per month and listed asset.

    ``date``, ``asset``, its text coordinates in the panel, ``mean``, ``sd``, ``q05`` ... ``q95``,
    ``var_05``, ``es_05``, ``var_01``, ``es_01`` (losses, positive), ``prob_loss``, and ``rank``: 1
    for the highest mean of the month. Excess returns, decimal.
    """
    returns = tree["predictions"].to_dataset()[RETURNS]
    risk = summarize(tree, tail=_TAILS)
    columns = {"mean": risk["mean"], "sd": risk["sd"], **_quantiles(returns)}
    columns |= _tail_columns(risk) | {"prob_loss": risk["prob_loss"]}
    table = _long(columns)
    table["rank"] = table.groupby("date")["mean"].rank(ascending=False, method="min").astype(int)
    table = table.sort_values(["date", "rank"], kind="stable", ignore_index=True)
    return _with_labels(table, panel)


def risk_table(tree: xr.DataTree) -> pd.DataFrame:
    """Lay out ``rv.risk.summarize`` with tails of 5 and 1 %, one row per month and asset."""
    risk = summarize(tree, tail=_TAILS)
    columns = {"mean": risk["mean"], "sd": risk["sd"], **_tail_columns(risk)}
    columns |= {name: risk[name] for name in ("prob_loss", "factor_var", "idio_var")}
    return _long(columns)


def _quantiles(returns: xr.DataArray) -> dict[str, xr.DataArray]:
    import arviz_stats as azs  # slow to import, and --help has no use for it

    ends = {}
    for prob, names in _INTERVALS.items():
        interval = azs.eti(returns, prob=prob)  # type: ignore[attr-defined,no-untyped-call]
        for name, bound in zip(names, ("lower", "upper"), strict=True):
            ends[name] = interval.sel(ci_bound=bound, drop=True)
    ends["q50"] = returns.median((CHAIN, DRAW))
    return {name: ends[name] for name in sorted(ends)}


def _tail_columns(risk: xr.Dataset) -> dict[str, xr.DataArray]:
    columns = {}
    for tail in _TAILS:
        for name in ("var", "es"):
            columns[f"{name}_{round(100 * tail):02d}"] = risk[name].sel(tail=tail, drop=True)
    return columns


def _long(columns: dict[str, xr.DataArray]) -> pd.DataFrame:
    """One row a listed cell; every column of dims (time, asset)."""
    dataset = xr.Dataset({name: each.astype("float64") for name, each in columns.items()})
    # ArviZ drops the labels of some dims
    first = columns["mean"]
    dataset = dataset.assign_coords({TIME: first[TIME], ASSET: first[ASSET]})
    table = dataset.transpose(TIME, ASSET).to_dataframe().reset_index()
    table = table.rename(columns={TIME: "date"}).dropna(subset=["mean"])
    return table[["date", ASSET, *columns]].reset_index(drop=True)


def _with_labels(table: pd.DataFrame, panel: xr.Dataset) -> pd.DataFrame:
    """Put the assets' text coordinates behind their ids."""
    place = 2
    for name, coord in panel.coords.items():
        if name == ASSET or coord.dims != (ASSET,) or str(name) in table.columns:
            continue
        labels = pd.Series(coord.values, index=panel[ASSET].values.astype(str))
        table.insert(place, str(name), labels.reindex(table[ASSET]).to_numpy())
        place += 1
    return table
