"""Mean, spread, tails and the sources of variance of every forecast."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.errors import ConfigError, RvraeWarning, ShapeError
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, TIME

__all__ = ["summarize"]

Array = NDArray[np.float64]

_BLOCK = 2**22  # draws held at a time: 32 MiB in double precision
_FEW = 10  # draws expected in a tail, below which its estimates are rough

_DESCRIPTIONS: Final = {
    "mean": ("predictive mean of the excess return", "1"),
    "sd": ("predictive standard deviation", "1"),
    "var": ("value at risk, a positive loss", "1"),
    "es": ("expected shortfall, a positive loss", "1"),
    "prob_loss": ("probability of a negative excess return", "1"),
    "factor_var": ("variance from the factors", "1 (return squared)"),
    "idio_var": ("variance from idiosyncratic noise, as the remainder", "1 (return squared)"),
    "parameter_var": ("variance of the mean across members", "1 (return squared)"),
}


@dataclass(frozen=True)
class _Forecast:
    """Draws and, where the tree has them, what splits their variance."""

    returns: xr.DataArray  # (chain, draw, time, asset)
    factors: xr.DataArray | None  # (chain, draw, time, factor)
    beta: xr.DataArray | None  # (chain, time, asset, factor), chain of length 1 if shared


def summarize(tree: xr.DataTree, tail: float | Sequence[float] = (0.05, 0.01)) -> xr.Dataset:
    r"""Summarise the predictive distribution of every asset and month.

    .. math::
        \mathrm{Var}(r_{it}) =
        \underbrace{\mathrm E_m[\beta_i' \mathrm{Cov}_m(f_t) \beta_i]}_{\text{factor}} +
        \underbrace{\mathrm E_m[\mathrm{Var}_m(r_{it})] - \text{factor}}_{\text{idiosyncratic}} +
        \underbrace{\mathrm{Var}_m(\mathrm E_m[r_{it}])}_{\text{parameter}}

    with members :math:`m`, one a chain.

    Parameters
    ----------
    tree : DataTree
        A forecast. Group ``predictions`` holds ``returns (chain, draw, time, asset)``, NaN
        in all draws of an unlisted asset. For the split it also holds ``factors (chain,
        draw, time, factor)``, the draws behind the returns, and group
        ``predictions_constant_data`` holds ``beta (time, asset, factor)``, with a leading
        ``chain`` if members differ.
    tail : float or sequence of float
        Tail probabilities of the loss measures, each in (0, 1).

    Returns
    -------
    Dataset
        ``mean``, ``sd``, ``prob_loss``, ``factor_var``, ``idio_var``, ``parameter_var``
        (time, asset), and ``var``, ``es`` (tail, time, asset). VaR and ES are positive
        losses in return units; variances are those of the draws (ddof 0), and
        ``factor_var + idio_var + parameter_var == sd**2``. The tree's attributes are kept.

    Raises
    ------
    ShapeError
        If the tree is no forecast, or its parts do not fit together.
    ConfigError
        If a tail is outside (0, 1), repeated, or holds less than one draw.

    Warns
    -----
    RvraeWarning
        If fewer than 10 draws are expected in a tail.

    Notes
    -----
    Information set: that of the draws; a forecast of month t knows months to t-1.

    VaR is minus the ``ceil(tail * S)``-th smallest of all S draws; ES is minus the mean of
    the worst ``tail * S`` draws, the last counted in part, so that ES >= VaR always.

    ``idio_var`` is the remainder within members. It contains what noise and factors happen
    to co-vary in the draws, so a tiny idiosyncratic variance can come out slightly negative,
    and everything that moves the mean besides the factors. ``parameter_var`` contains the
    Monte-Carlo error of the members' means, about ``sd**2 / n_draws``. With one member it is
    0 because it was *not measured*; its ``note`` says so. Without ``factors`` or ``beta``,
    ``factor_var`` and ``idio_var`` are NaN. Cost O(S) a cell, a block of months at a time.

    References
    ----------
    Acerbi and Tasche (2002), On the coherence of expected shortfall, Journal of Banking and
    Finance 26, eq. (11).
    """
    forecast = _read(tree)
    returns = forecast.returns
    n_draws = returns.sizes[CHAIN] * returns.sizes[DRAW]
    tails = _check_tails(tail, n_draws)
    n_times, n_assets = returns.sizes[TIME], returns.sizes[ASSET]
    shape = (n_times, n_assets)
    results = {name: np.full(shape, np.nan) for name in _DESCRIPTIONS if name not in ("var", "es")}
    results |= {name: np.full((len(tails), *shape), np.nan) for name in ("var", "es")}
    step = max(1, _BLOCK // max(1, n_draws * n_assets))
    for start in range(0, n_times, step):
        months = slice(start, start + step)
        for name, values in _summarize_block(forecast, months, tails).items():
            results[name][..., months, :] = values
    return _dataset(results, returns, tails, forecast, dict(tree.attrs))


def _read(tree: xr.DataTree) -> _Forecast:
    """Find the draws in the tree, and what splits their variance, in one order of dims."""
    group = getattr(tree, "children", {}).get("predictions")
    if group is None or RETURNS not in group.data_vars:
        raise ShapeError(
            "`tree` must be a DataTree whose group 'predictions' has a variable 'returns'; got "
            f"{type(tree).__name__} with groups {list(getattr(tree, 'children', {}))}. "
            "A forecast has one."
        )
    predictions = group.to_dataset()
    returns = _ordered(predictions[RETURNS], (CHAIN, DRAW, TIME, ASSET), "predictions/returns")
    if 0 in returns.shape:
        raise ShapeError(f"`predictions/returns` must not be empty; got {dict(returns.sizes)}.")
    constant = tree.children.get("predictions_constant_data")
    if FACTORS not in predictions or constant is None or "beta" not in constant.data_vars:
        return _Forecast(returns, None, None)
    factors = _ordered(predictions[FACTORS], (CHAIN, DRAW, TIME, FACTOR), "predictions/factors")
    beta = constant.to_dataset()["beta"]
    if CHAIN not in beta.dims:
        beta = beta.expand_dims(CHAIN)
    beta = _ordered(beta, (CHAIN, TIME, ASSET, FACTOR), "predictions_constant_data/beta")
    _fits(factors, returns, (CHAIN, DRAW, TIME), "predictions/factors")
    dims = (TIME, ASSET) if beta.sizes[CHAIN] == 1 else (CHAIN, TIME, ASSET)
    _fits(beta, returns, dims, "predictions_constant_data/beta")
    _fits(beta, factors, (FACTOR,), "predictions_constant_data/beta")
    return _Forecast(returns, factors, beta)


def _ordered(values: xr.DataArray, dims: tuple[str, ...], name: str) -> xr.DataArray:
    if set(values.dims) != set(dims):
        raise ShapeError(f"`{name}` must have dims {dims}; got {values.dims}.")
    return values.transpose(*dims)


def _fits(values: xr.DataArray, other: xr.DataArray, dims: tuple[str, ...], name: str) -> None:
    """Raise unless sizes and labels agree with those of ``other`` along ``dims``."""
    for dim in dims:
        if not np.array_equal(values[dim].values, other[dim].values):
            raise ShapeError(
                f"`{name}` has other labels along {dim!r} than `{other.name}`: "
                f"{values.sizes[dim]} and {other.sizes[dim]} of them. Select the same from both."
            )


def _check_tails(tail: float | Sequence[float], n_draws: int) -> tuple[float, ...]:
    tails = tuple(np.atleast_1d(np.asarray(tail, dtype=float)).tolist())
    if not tails or any(not 0 < each < 1 for each in tails) or len(set(tails)) < len(tails):
        raise ConfigError(f"`tail` must hold different numbers in (0, 1); got {tail!r}.")
    least = min(tails)
    if least * n_draws < 1 - 1e-9:
        raise ConfigError(
            f"`tail` {least:g} holds none of {n_draws} draws; forecast with num_samples="
            f"{math.ceil(_FEW / least)} or more, or ask for a larger tail."
        )
    if least * n_draws < _FEW - 1e-9:
        warnings.warn(
            f"only {least * n_draws:g} of {n_draws} draws are expected in the tail {least:g}, so "
            f"its VaR and ES are rough; {math.ceil(_FEW / least)} draws give {_FEW}",
            RvraeWarning,
            stacklevel=3,
        )
    return tails


def _summarize_block(
    forecast: _Forecast, months: slice, tails: tuple[float, ...]
) -> dict[str, Array]:
    """Summarise a few months; every result ends in (time, asset)."""
    draws = forecast.returns.isel({TIME: months}).values.astype(np.float64)
    unknown = np.isnan(draws)
    listed = ~unknown.any(axis=(0, 1))
    if (~listed & ~unknown.all(axis=(0, 1))).any():
        raise ShapeError(
            "`predictions/returns` must be NaN in all draws of a cell or in none; "
            "some cells mix them."
        )
    results = _moments(draws)
    within = results.pop("within")
    results["factor_var"] = _factor_variance(forecast, months, within)
    results["idio_var"] = within - results["factor_var"]
    pooled = np.moveaxis(draws, (0, 1), (-2, -1))
    flat = np.ascontiguousarray(pooled).reshape(*listed.shape, -1)
    results["prob_loss"] = np.where(listed, (flat < 0).mean(axis=-1), np.nan)
    results["var"], results["es"] = _tail_losses(flat, tails)
    return results


def _moments(draws: Array) -> dict[str, Array]:
    """Moments over draws and members, by the law of total variance."""
    means = draws.mean(axis=1)
    within: Array = draws.var(axis=1).mean(axis=0)
    between: Array = means.var(axis=0)
    return {
        "mean": means.mean(axis=0),
        "sd": np.sqrt(within + between),
        "within": within,
        "parameter_var": between,
    }


def _factor_variance(forecast: _Forecast, months: slice, like: Array) -> Array:
    """Mean over members of beta' Cov(f) beta; NaN where the tree does not say."""
    if forecast.factors is None or forecast.beta is None:
        return np.full_like(like, np.nan)
    factors = forecast.factors.isel({TIME: months}).values.astype(np.float64)
    beta = forecast.beta.isel({TIME: months}).values.astype(np.float64)
    factors = factors - factors.mean(axis=1, keepdims=True)
    cov = np.einsum("cdtk,cdtl->ctkl", factors, factors) / factors.shape[1]
    beta = np.broadcast_to(beta, (len(cov), *beta.shape[1:]))
    explained: Array = np.einsum("ctnk,ctkl,ctnl->ctn", beta, cov, beta, optimize=True)
    # a cell that is not forecast has no variance, whatever its loadings
    return np.where(np.isnan(like), np.nan, explained.mean(axis=0))


def _tail_losses(draws: Array, tails: tuple[float, ...]) -> tuple[Array, Array]:
    """VaR and ES of draws (time, asset, sample), stacked along a leading tail axis."""
    size = draws.shape[-1]
    deepest = min(size, math.ceil(max(tails) * size))
    lowest = np.partition(draws, deepest - 1, axis=-1)[..., :deepest]
    lowest.sort(axis=-1)
    at_risk, shortfall = [], []
    for tail in tails:
        count = tail * size
        whole = math.floor(count + 1e-9)
        last = max(0, math.ceil(count - 1e-9) - 1)  # 0.05 * 1000 is 50, give or take rounding
        total = lowest[..., :whole].sum(axis=-1)
        if count - whole > 1e-9:
            total = total + (count - whole) * lowest[..., whole]
        at_risk.append(-lowest[..., last])
        shortfall.append(-total / count)
    return np.stack(at_risk), np.stack(shortfall)


def _dataset(
    results: dict[str, Array],
    returns: xr.DataArray,
    tails: tuple[float, ...],
    forecast: _Forecast,
    attrs: dict[Any, Any],
) -> xr.Dataset:
    first = returns.isel({CHAIN: 0, DRAW: 0}, drop=True)
    coords = {"tail": list(tails), **first.coords}
    summary = xr.Dataset(coords=coords, attrs=attrs)
    for name, (description, units) in _DESCRIPTIONS.items():
        dims = ("tail", TIME, ASSET)[-results[name].ndim :]
        summary[name] = (dims, results[name], {"long_name": description, "units": units})
    if returns.sizes[CHAIN] == 1:
        summary["parameter_var"].attrs["note"] = "not measured: the forecast has one member"
    if forecast.factors is None:
        for name in ("factor_var", "idio_var"):
            summary[name].attrs["note"] = "not available: the tree holds no factors and beta"
    summary.attrs |= {"n_chains": returns.sizes[CHAIN], "n_draws": returns.sizes[DRAW]}
    return summary
