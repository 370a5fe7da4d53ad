"""Forecasts conditional on a factor or a portfolio."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, Unpack, overload

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.data.rounding import rounding
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice, warn_user
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, FACTORS, RETURNS, STEP, TIME
from rvrae_pyro.predictive.storage import tree_of
from rvrae_pyro.risk.covariance import FactorCovariance
from rvrae_pyro.risk.draws import (
    Array,
    Forecast,
    at_step,
    cumulated_factors,
    has_steps,
    read_forecast,
    steps_of,
    take_paths,
)
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, first, read_weights

Method: TypeAlias = Literal["gaussian", "kernel"]

_FEW = 50  # effective draws below which kernel weights leave little to average


class _Options(TypedDict, total=False):
    factors: Shocks | None
    weights: Weights | None
    value: float | None
    method: Method | None
    bandwidth: float | None
    seed: int
    step: int | None


@overload
def scenario(source: xr.DataTree, **options: Unpack[_Options]) -> xr.DataTree: ...
@overload
def scenario(source: FactorCovariance, **options: Unpack[_Options]) -> xr.Dataset: ...


def scenario(
    source: xr.DataTree | FactorCovariance,
    *,
    factors: Shocks | None = None,
    weights: Weights | None = None,
    value: float | None = None,
    method: Method | None = None,
    bandwidth: float | None = None,
    seed: int = 0,
    step: int | None = None,
) -> xr.DataTree | xr.Dataset:
    r"""Condition a forecast on a factor, on a portfolio's return, or on several at once.

    "Factor 1 falls by 2 sd" is ``factors={1: -2.0}``; "the market falls 10 %" is
    ``weights=market, value=-0.10``. With returns and factors :math:`x`, the condition
    :math:`y` and its value :math:`c`:

    .. math::
        \mathrm E[x \mid y = c] = \mathrm E[x] + C V^{-1} (c - \mathrm E[y]), \quad
        \mathrm{Var}(x \mid y) = \mathrm{Var}(x) - C V^{-1} C', \quad
        C = \mathrm{Cov}(x, y), \; V = \mathrm{Var}(y) .

    Parameters
    ----------
    source : DataTree or FactorCovariance
        A forecast with ``factors``, ``beta`` and ``idio_scale``, or a covariance.
    factors : mapping from factor label to float, optional
        Shocks in predictive standard deviations from the factor's predictive mean; of paths, in
        those of the factor's sum up to ``step``.
    weights : Series, DataFrame or DataArray, optional
        One portfolio; see :func:`portfolio`. Months are those of the weights, if they have any.
    value : float, optional
        The portfolio's return, decimal; for a covariance, its difference from the mean. Of paths
        that of the portfolio bought at the origin and held up to ``step``.
    method : {"gaussian", "kernel"}, optional
        Default: "gaussian"; "kernel" for a forecast over several periods, whose compounded
        returns no formula moves. For a forecast: "gaussian" moves every draw by the formula,
        which is exact where factors and returns are normal, and meets the condition in every
        draw. "kernel" weights draws by how near they come to the condition and draws from them
        again; it assumes no distribution, yet needs draws near the condition.
    bandwidth : float, optional
        Of the normal kernel, in predictive standard deviations of the conditions. Default:
        ``n ** (-1 / (4 + m))``, for n draws and m conditions.
    seed : int
        For drawing again.
    step : int, optional
        For a forecast over several periods: the step in which the condition holds. Whole paths
        are weighed, so that earlier and later steps follow. Default: the last one.

    Returns
    -------
    DataTree
        For a forecast: a forecast like it, given the scenario, for :func:`summarize` and
        :func:`portfolio`. Group ``scenario`` holds ``distance`` (time), how many standard
        deviations the condition is from its expectation (Mahalanobis), and
        ``effective_draws`` (time).
    Dataset
        For a covariance: ``mean_shift`` and ``sd`` (time, asset), ``factor_shift`` and
        ``factor_sd`` (time, factor), ``distance`` (time).

    Raises
    ------
    ConfigError
        If nothing or half a condition is given, a factor is unknown, a portfolio has no risk, or
        no draw comes near the condition ("kernel").
    ShapeError
        If the tree lacks variables of the method, or weights do not fit it.

    Warns
    -----
    RvraeWarning
        If fewer than 50 effective draws carry a scenario ("kernel").

    Notes
    -----
    Information set: that of the source. A scenario shows what else is likely in the same month
    under the model's dependence, not causes. Factors are identified up to rotation: inspect the
    loadings before naming one. Members with different loadings need "kernel", whose result then
    has no factors. Cost O(T S N).

    References
    ----------
    Meucci (2008), Fully flexible views, Risk 21(10) (kernel weights as views on scenarios).
    Hoffman and Ribak (1991), Astrophysical Journal 380, L5, eq. (5) (moving draws).
    """
    paths = has_steps(source)
    method = method or ("kernel" if paths else "gaussian")
    _check_condition(factors, weights, value, method, bandwidth)
    if step is not None and not paths:
        raise ConfigError("`step` is for a forecast over several periods; `source` has no 'step'.")
    condition = _Condition(factors or {}, weights, value, bandwidth, seed)
    if isinstance(source, FactorCovariance):
        if method != "gaussian":
            raise ConfigError(f"`method` must be 'gaussian' for a covariance; got {method!r}.")
        return _condition_covariance(source, condition)
    if paths:
        if method != "kernel":
            raise ConfigError(
                f"`method` must be 'kernel' for a forecast over several periods; got {method!r}."
            )
        return _weigh_paths(source, condition, steps_of(source)[-1] if step is None else step)
    return (_move_draws if method == "gaussian" else _weigh_draws)(source, condition)


@dataclass(frozen=True, eq=False)
class _Condition:
    """Shocks of factors, and a portfolio with its return; how kernel draws are taken."""

    factors: Shocks
    weights: Weights | None
    value: float | None
    bandwidth: float | None
    seed: int

    def on(
        self, tree: xr.DataTree, step: int | None = None
    ) -> tuple[xr.DataTree, Forecast, xr.DataArray | None]:
        """Return the months of the weights: tree, forecast (of one step) and portfolio."""

        def read(one: xr.DataTree) -> Forecast:
            return read_forecast(one if step is None else at_step(one, step))

        forecast = read(tree)
        if self.weights is None:
            return tree, forecast, None
        held = one_portfolio(self.weights, forecast.listed)
        times = held[TIME].values
        chosen: xr.DataTree = tree.map_over_datasets(
            lambda data: data.sel({TIME: times}) if TIME in data.indexes else data
        )
        return chosen, read(chosen), held


def _check_condition(
    factors: Shocks | None,
    weights: Weights | None,
    value: float | None,
    method: str,
    bandwidth: float | None,
) -> None:
    if not factors and weights is None:
        raise ConfigError("Give `factors`, or `weights` with `value`; got no condition.")
    if (weights is None) != (value is None):
        raise ConfigError("`weights` and `value` belong together; got only one of them.")
    numbers = [*(factors or {}).values(), *([] if value is None else [value])]
    if not np.isfinite(np.asarray(numbers, dtype=float)).all():
        raise ConfigError(f"A condition must be finite; got {numbers}.")
    check_choice("method", method, ("gaussian", "kernel"))
    if bandwidth is not None and not bandwidth > 0:
        raise ConfigError(f"`bandwidth` must be positive; got {bandwidth!r}.")


def _condition_covariance(cov: FactorCovariance, condition: _Condition) -> xr.Dataset:
    factors, weights, value = condition.factors, condition.weights, condition.value
    held = None if weights is None else one_portfolio(weights, cov.listed)
    if held is not None and held.sizes[TIME] < cov.beta.sizes[TIME]:
        cov = cov.sel(held[TIME].values)
    gains = Gains(cov, factors, held)
    surprise = gains.sd * 1.0
    surprise[:, : len(factors)] *= np.asarray(list(factors.values()))
    if value is not None:
        surprise[:, -1] = value
    explained = (gains.returns * gains.with_returns).sum(axis=-1)
    of_factors = (gains.factors * gains.with_factors).sum(axis=-1)
    before = np.diagonal(cov.factor_cov.values, axis1=-2, axis2=-1)
    shift = (gains.returns @ surprise[..., None])[..., 0]
    listed = cov.listed.values
    cells, paths = (TIME, ASSET), (TIME, FACTOR)
    left = np.maximum(cov.variance().values - explained, 0.0)
    return xr.Dataset(
        {
            "mean_shift": (cells, np.where(listed, shift, np.nan)),
            "sd": (cells, np.sqrt(left)),
            "factor_shift": (paths, (gains.factors @ surprise[..., None])[..., 0]),
            "factor_sd": (paths, np.sqrt(np.maximum(before - of_factors, 0.0))),
            "distance": (TIME, gains.distance(surprise)),
        },
        {name: cov.beta[name] for name in (TIME, ASSET, FACTOR)},
    )


def _given(
    forecast: Forecast, condition: _Condition, held: xr.DataArray | None
) -> tuple[Array, Array]:
    """Draws of the conditions (draw, time, condition), and their values."""
    factors, value = condition.factors, condition.value
    parts, targets = [], []
    if factors:
        if forecast.factors is None:
            raise ShapeError("`source` must hold 'factors' and 'beta' to condition on a factor.")
        rows = factor_rows(forecast.factors[FACTOR], factors)
        draws = forecast.factors.values.astype(np.float64)
        picked = draws.reshape(-1, *draws.shape[2:]) @ rows.T
        parts.append(picked)
        shocks = np.asarray(list(factors.values()))
        targets.append(picked.mean(axis=0) + shocks * picked.std(axis=0))
    if held is not None and value is not None:
        listed, weights = forecast.listed.values, held.values
        columns = [
            forecast.month(t)[:, listed[t]] @ weights[t, listed[t]] for t in range(len(weights))
        ]
        parts.append(np.stack(columns, axis=1)[..., None])
        targets.append(np.full((len(weights), 1), value))
    return np.concatenate(parts, axis=-1), np.concatenate(targets, axis=-1)


def _move_draws(tree: xr.DataTree, condition: _Condition) -> xr.DataTree:
    """Shift every draw by what its own surprise implies."""
    tree, forecast, held = condition.on(tree)
    gains = Gains(FactorCovariance.from_forecast(tree), condition.factors, held)
    assert forecast.factors is not None  # from_forecast has seen them
    given, target = _given(forecast, condition, held)
    surprise = (target - given).reshape(*forecast.returns.shape[:3], -1)
    moved = np.einsum("cdtm,tnm->cdtn", surprise, gains.returns)
    moved_factors = np.einsum("cdtm,tkm->cdtk", surprise, gains.factors)
    distance = gains.distance(target - given.mean(axis=0))
    return _conditioned(
        tree,
        forecast.returns + forecast.returns.copy(data=moved),
        forecast.factors + forecast.factors.copy(data=moved_factors),
        distance,
        np.full(len(distance), float(forecast.n_draws)),
    )


def _weigh_draws(tree: xr.DataTree, condition: _Condition) -> xr.DataTree:
    """Resample the draws that come near the condition."""
    tree, forecast, held = condition.on(tree)
    order, distance, effective = _weigh(forecast, condition, held)
    shape = forecast.returns.shape[:2]
    returns = _take(forecast.returns, order, shape)
    shared = forecast.beta is not None and forecast.beta.sizes[CHAIN] == 1
    chosen = (
        _take(forecast.factors, order, shape) if shared and forecast.factors is not None else None
    )
    return _conditioned(tree, returns, chosen, distance, effective)


def _weigh(
    forecast: Forecast, condition: _Condition, held: xr.DataArray | None, *, paths: bool = False
) -> tuple[np.ndarray, Array, Array]:
    """Positions of the draws taken (draw, time), distance and effective draws (time)."""
    given, target = _given(forecast, condition, held)
    size, _, count = given.shape
    sd = given.std(axis=0)
    moving = sd > rounding(forecast.returns) * np.abs(given).max(axis=0)
    if not moving.all():
        raise ConfigError("Conditions must have risk in every month; some have none.")
    width = condition.bandwidth or size ** (-1.0 / (4 + count))
    logs = -0.5 * (((given - target) / (width * sd)) ** 2).sum(axis=-1)
    kernel = np.exp(logs - logs.max(axis=0))
    kernel /= kernel.sum(axis=0)
    effective = 1.0 / (kernel**2).sum(axis=0)
    times = forecast.returns[TIME].values
    _check_effective(effective, logs.max(axis=0), times, paths=paths)
    order = _resample(kernel, condition.seed)
    centred = given - given.mean(axis=0)
    between = np.einsum("stm,stl->tml", centred, centred) / size
    surprise = target - given.mean(axis=0)
    solved = np.einsum("tml,tl->tm", np.linalg.pinv(between, hermitian=True), surprise)
    distance = np.sqrt((surprise * solved).sum(axis=-1))
    return order, distance, effective


def _weigh_paths(tree: xr.DataTree, condition: _Condition, step: int) -> xr.DataTree:
    """Resample whole paths that come near the condition in one of their steps."""
    tree, forecast, held = condition.on(tree, step)
    forecast = dataclasses.replace(forecast, factors=cumulated_factors(tree, step))
    order, distance, effective = _weigh(forecast, condition, held, paths=True)
    drawn = take_paths(tree, order)
    scenario = xr.Dataset(
        {"distance": (TIME, distance), "effective_draws": (TIME, effective)},
        {TIME: drawn[TIME]},
        {STEP: step},
    )
    return tree_of({"predictions": drawn, "scenario": scenario}, tree.attrs)


def _check_effective(effective: Array, nearest: Array, times: np.ndarray, *, paths: bool) -> None:
    gaussian = "" if paths else "method='gaussian', "
    remedy = f"Use {gaussian}more draws, a larger `bandwidth` or a milder condition."
    far = nearest < -8.0  # four bandwidths from the nearest draw
    if far.any():
        raise ConfigError(f"No draw comes near the condition in {first(times[far])}. {remedy}")
    few = effective < _FEW
    if few.any():
        warn_user(
            f"fewer than {_FEW} effective draws carry the scenario in {first(times[few])}, least "
            f"{effective.min():.0f}. {remedy}"
        )


def _resample(kernel: Array, seed: int) -> np.ndarray:
    """Systematic resampling of each column: indices (draw, time), in a random order."""
    size, n_times = kernel.shape
    rng = np.random.default_rng(seed)
    order = np.empty((size, n_times), dtype=np.intp)
    for t in range(n_times):
        points = (np.arange(size) + rng.uniform()) / size
        picked = np.searchsorted(np.cumsum(kernel[:, t]), points)
        order[:, t] = rng.permutation(np.minimum(picked, size - 1))
    return order


def _take(values: xr.DataArray, order: np.ndarray, shape: tuple[int, ...]) -> xr.DataArray:
    flat = values.values.reshape(-1, *values.shape[2:])
    taken = np.take_along_axis(flat, order[..., None], axis=0)
    return values.copy(data=taken.reshape(*shape, *taken.shape[1:]))


def _conditioned(
    tree: xr.DataTree,
    returns: xr.DataArray,
    factors: xr.DataArray | None,
    distance: Array,
    effective: Array,
) -> xr.DataTree:
    """Build a forecast of the draws given the scenario; loadings as they were."""
    draws = {RETURNS: returns.transpose(CHAIN, DRAW, TIME, ASSET)}
    if factors is not None:
        draws[FACTORS] = factors.transpose(CHAIN, DRAW, TIME, FACTOR)
    groups = {
        "predictions": xr.Dataset(draws, attrs=tree["predictions"].attrs),
        "scenario": xr.Dataset(
            {"distance": (TIME, distance), "effective_draws": (TIME, effective)},
            {TIME: returns[TIME]},
        ),
    }
    if factors is not None and "predictions_constant_data" in tree.children:
        constant = tree["predictions_constant_data"].to_dataset()
        unconditional = ["idio_scale", "mean", "mean_by_weights"]
        groups["predictions_constant_data"] = constant.drop_vars(unconditional, errors="ignore")
    return tree_of(groups, tree.attrs)


Shocks: TypeAlias = Mapping[object, float]


def factor_rows(labels: xr.DataArray, factors: Shocks) -> Array:
    """Rows (condition, factor) that pick the factors named."""
    index = pd.Index(labels.values)
    unknown = [label for label in factors if label not in index]
    if unknown:
        raise ConfigError(
            f"`factors` must name factors of the forecast, {index.tolist()}; got {first(unknown)}."
        )
    rows: Array = np.eye(len(index))[index.get_indexer(list(factors))]
    return rows


def one_portfolio(weights: Weights, listed: xr.DataArray) -> xr.DataArray:
    """Read weights of a single portfolio."""
    held = read_weights(weights, listed)
    if held.sizes[PORTFOLIO] > 1:
        raise ShapeError(
            f"`weights` must be one portfolio; got {held.sizes[PORTFOLIO]}. Select one."
        )
    return held.isel({PORTFOLIO: 0}, drop=True)


class Gains:
    """Covariances of factors and returns with the conditions, and the regression on them."""

    def __init__(self, cov: FactorCovariance, factors: Shocks, held: xr.DataArray | None) -> None:
        rows = factor_rows(cov.beta[FACTOR], factors)
        square = cov.factor_cov.values
        on_factors = np.broadcast_to(rows, (len(square), *rows.shape))
        with_factors = square @ on_factors.mT
        beta = np.nan_to_num(cov.beta.values)
        with_returns = beta @ with_factors
        between = on_factors @ with_factors
        if held is not None:
            weights = held.values[..., None]
            exposure = beta.mT @ weights
            noise = np.nan_to_num(cov.idio_var.values)[..., None] * weights
            last_factors = square @ exposure
            last_returns = beta @ last_factors + noise
            cross = on_factors @ last_factors
            own = weights.mT @ last_returns
            between = np.block([[between, cross], [cross.mT, own]])
            with_factors = np.concatenate([with_factors, last_factors], axis=-1)
            with_returns = np.concatenate([with_returns, last_returns], axis=-1)
        sd = np.sqrt(np.diagonal(between, axis1=-2, axis2=-1))
        if not (sd > 0).all():
            raise ConfigError("Conditions must have risk in every month; some have none.")
        correlation = between / (sd[..., :, None] * sd[..., None, :])
        if (np.linalg.eigvalsh(correlation)[..., 0] < 1e-10).any():
            raise ConfigError("The conditions must not determine each other; drop one of them.")
        self.sd, self.between = sd, between
        self.with_factors, self.with_returns = with_factors, with_returns
        self.factors = with_factors @ np.linalg.inv(between)  # (time, factor, condition)
        self.returns = with_returns @ np.linalg.inv(between)  # (time, asset, condition)

    def distance(self, surprise: Array) -> Array:
        """Mahalanobis distance (time,) of a surprise (time, condition)."""
        solved = np.linalg.solve(self.between, surprise[..., None])[..., 0]
        distance: Array = np.sqrt((surprise * solved).sum(axis=-1))
        return distance
