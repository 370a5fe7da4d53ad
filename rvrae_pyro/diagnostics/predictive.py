"""Predictive checks: statistics of replicated or forecast returns against those observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.rounding import constant, rounding
from rvrae_pyro.data.timeline import in_time_order, labels_like, pick_rows
from rvrae_pyro.data.validation import listed
from rvrae_pyro.errors import ConfigError, ShapeError, check_choice, warn_user
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, DRAW, OBS, RETURNS, TIME
from rvrae_pyro.predictive.simulate import prior_predictive
from rvrae_pyro.predictive.storage import tree_of

Array = NDArray[np.float64]
When = Literal["prior", "in_sample", "ahead"]
Statistic: TypeAlias = Callable[[xr.DataArray], object]
"""A function of returns (time, asset), NaN where not observed, to a number or an array."""

PERIOD: Final = "period"
_LOWEST: Final = 0.1
_LEAST_MONTHS: Final = 20

DESCRIPTIONS = {
    "spread": "standard deviation across the month's assets",
    "skewness": "skewness across the month's assets",
    "kurtosis": "excess kurtosis across the month's assets",
    "tails": "share of the month's assets beyond three robust deviations from its median",
    "comovement": "largest eigenvalue's share of the returns' second moments",
    "clustering": "autocorrelation over one month of the squared mean return, centred",
    "volatility": "standard deviation over months of the mean return",
    "market_skewness": "skewness over months of the mean return",
    "common_shocks": "standard deviation over months of the log of the assets' mean square return",
    "tail_dependence": "share of assets in their worst tenth of months when the mean return is",
}
BY_MONTH = ("spread", "skewness", "kurtosis", "tails")


class Predicts(Protocol):
    """A fit or an ensemble: replicates and forecasts of (panel, num_samples, seed, times)."""

    @property
    def posterior_predictive(self) -> Callable[..., xr.DataTree]: ...  # noqa: D102
    @property
    def forecast(self) -> Callable[..., xr.DataTree]: ...  # noqa: D102


def predictive_check(
    fit: Predicts | RVRAE | xr.DataTree,
    panel: xr.Dataset,
    *,
    when: When = "in_sample",
    statistics: str | Statistic | Iterable[str] | Mapping[str, str | Statistic] | None = None,
    assets: object | None = None,
    periods: Mapping[str, object] | None = None,
    num_samples: int = 200,
    seed: int = 0,
    times: object | None = None,
    keep_returns: bool = False,
) -> xr.DataTree:
    """Compare statistics of observed returns with those of returns that the model draws.

    Parameters
    ----------
    fit : Fit, Ensemble, RVRAE or DataTree
        A tree holds draws: ``posterior_predictive``, ``predictions`` or ``prior_predictive`` with
        ``returns``. A model is for ``when="prior"`` alone.
    panel : xarray.Dataset
        Observed returns.
    when : {"in_sample", "ahead", "prior"}
        Information set of the draws of month t: returns up to t, through the inferred factors;
        returns up to t-1; none (at the current weights). Not used with a tree.
    statistics : str, callable, iterable of str, or mapping, optional
        Names of built-in statistics (see :func:`statistics`), a function, or a mapping from names
        to either. A function takes returns (time, asset), a DataArray with labels, NaN where not
        observed, and returns a number or a DataArray: ``lambda r: r.std("time")`` has one value
        per asset. Default: all built-in statistics.
    assets : label or list of labels, optional
        Assets to compare. Default: all.
    periods : mapping from name to slice or list of dates, optional
        Compare each period apart, along a dim ``period``; statistics by month are averaged within
        each. Default: all months together.
    num_samples, seed : int
    times : label, slice or list, optional
        Months to compare. Default: all with a return.
    keep_returns : bool
        Also keep observed and drawn returns along ``obs``, for pictures of ArviZ.

    Returns
    -------
    DataTree
        ``posterior_predictive`` (or ``prior_predictive``) and ``observed_data``: the statistics of
        every draw and of the data. ``p_value``: share of draws whose statistic is as large as
        the observed one or larger, ties half; of built-in statistics by month that of their mean
        over months. Near 0 the model draws too little of it, near 1 too much.
        ``p_value_error``: its Monte-Carlo standard error.

    Raises
    ------
    ConfigError
        For an unknown ``when``, statistic or asset, a model where a fit is needed, or a function
        whose result is no number or array of numbers.
    ShapeError
        If the tree holds no returns, or too few months or assets were observed.

    Notes
    -----
    Draws and data are compared on the same observed cells. In-sample draws know the months'
    factors, so that spread and co-movement agree almost by construction, and tails judge the
    likelihood; one month ahead they judge the forecasts. Months ahead are drawn one by one:
    ``clustering`` and ``volatility`` then have the memory of the forecasts' scale alone. ArviZ
    plots the tree: ``plot_ppc_tstat``, ``plot_ppc_dist(kind="ecdf")`` and ``plot_ppc_pit`` of any
    statistic, and with ``keep_returns`` of ``returns``. A function is called once per draw.

    References
    ----------
    Gelman, Meng and Stern (1996), Statistica Sinica 6: posterior predictive assessment.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(8, 24, 2)
    >>> fit = rv.fit(rv.RVRAE(2, 2), panel, config=rv.FitConfig(max_steps=4), progress=False)
    >>> check = rv.diagnostics.predictive_check(
    ...     fit,
    ...     panel,
    ...     when="ahead",
    ...     statistics={
    ...         "worst month": lambda r: r.mean("asset").min(),
    ...         "sd": lambda r: r.std("time"),
    ...     },
    ...     num_samples=50,
    ... )
    >>> check["p_value"]["sd"].dims
    ('asset',)
    """
    chosen = _chosen(statistics)
    tree = _draws(fit, panel, when, num_samples, seed, times)
    group, draws = _returns(tree)
    span = panel
    if times is not None:
        span = panel.isel({TIME: pick_rows(panel.indexes[TIME], times)})
    seen, draws = _same_cells(span, draws)
    if assets is not None:
        seen, draws = (each.sel({ASSET: _labels(assets, seen)}) for each in (seen, draws))
    mine, made = (_by_period(each, chosen, periods) for each in (seen, draws))
    name = "prior_predictive" if group == "prior_predictive" else "posterior_predictive"
    larger = {key: _as_large(made[key], mine[key], key in BY_MONTH) for key in mine.data_vars}
    count = draws.sizes[CHAIN] * draws.sizes[DRAW]
    errors = {key: (p * (1.0 - p) / count) ** 0.5 for key, p in larger.items()}
    if keep_returns:
        both = {TIME: seen[TIME], ASSET: seen[ASSET]}
        mine, made = (
            found.merge(_over_cells(each.assign_coords(both)), compat="override", join="outer")
            for found, each in ((mine, seen), (made, draws))
        )
    groups = {
        name: made,
        "observed_data": mine,
        "p_value": xr.Dataset(larger),
        "p_value_error": xr.Dataset(errors),
    }
    kind = when if not isinstance(fit, xr.DataTree) else group
    return tree_of(groups, {**tree.attrs, "when": kind})


def _chosen(statistics: Any) -> dict[str, str | Statistic]:
    """Statistics by name; a built-in one is its name."""
    if statistics is None:
        return {name: name for name in DESCRIPTIONS}
    if isinstance(statistics, str):
        statistics = [statistics]
    if callable(statistics):
        name = getattr(statistics, "__name__", "<lambda>")
        if not name.isidentifier():
            raise ConfigError(
                "`statistics` got a function without a name. Pass a mapping: {'name': function}."
            )
        statistics = {name: statistics}
    if not isinstance(statistics, Mapping):
        statistics = {name: name for name in statistics}
    for name, each in statistics.items():
        if not callable(each) and each not in DESCRIPTIONS:
            raise ConfigError(
                f"`statistics` must hold functions of returns, or names among "
                f"{', '.join(DESCRIPTIONS)}; got {each!r} for {name!r}."
            )
    if not statistics:
        raise ConfigError("`statistics` must hold at least one statistic; got none.")
    return dict(statistics)


def _labels(assets: Any, seen: xr.DataArray) -> list[Any]:
    if isinstance(assets, xr.DataArray | np.ndarray):
        assets = assets.tolist()
    asked = [assets] if isinstance(assets, str | int) else list(assets)
    known = set(seen[ASSET].values.tolist())
    unknown = [each for each in asked if each not in known]
    if unknown or not asked:
        raise ConfigError(
            f"`assets` must name assets of the panel, such as {seen[ASSET].values[0]!r}; got "
            f"{unknown[:3] or asked!r}."
        )
    return asked


def _by_period(
    returns: xr.DataArray,
    chosen: Mapping[str, str | Statistic],
    periods: Mapping[str, object] | None,
) -> xr.Dataset:
    if periods is None:
        return _evaluate(returns, chosen)
    if not isinstance(periods, Mapping) or not periods:
        raise ConfigError(
            "`periods` must map names to slices or lists of dates, such as "
            f"{{'1990s': slice('1990', '1999')}}; got {periods!r:.80}."
        )
    found = []
    for months in periods.values():
        rows = pick_rows(returns.indexes[TIME], months, name="periods")
        each = _evaluate(returns.isel({TIME: rows}), chosen)
        found.append(each.mean(TIME) if TIME in each.dims else each)
    labels = xr.DataArray([str(name) for name in periods], dims=PERIOD, name=PERIOD)
    joined = xr.concat(found, labels, join="outer")
    samples = [dim for dim in (CHAIN, DRAW) if dim in joined.dims]
    return joined.transpose(*samples, ...)


def _evaluate(returns: xr.DataArray, chosen: Mapping[str, str | Statistic]) -> xr.Dataset:
    """Evaluate statistics of (time, asset), or of every draw of (chain, draw, time, asset)."""
    built_in = {name: each for name, each in chosen.items() if isinstance(each, str)}
    found: dict[str, xr.DataArray] = {}
    if built_in:
        known = statistics(returns)
        found = {name: known[each] for name, each in built_in.items()}
    for name, each in chosen.items():
        if not isinstance(each, str):
            found[name] = _of_draws(returns, name, each)
    return xr.Dataset({name: found[name] for name in chosen})


def _of_draws(returns: xr.DataArray, name: str, function: Statistic) -> xr.DataArray:
    if DRAW not in returns.dims:
        return _as_array(function(returns), name)
    chains = []
    for c in range(returns.sizes[CHAIN]):
        one = returns.isel({CHAIN: c}, drop=True)
        each = [
            _as_array(function(one.isel({DRAW: d}, drop=True)), name)
            for d in range(returns.sizes[DRAW])
        ]
        chains.append(xr.concat(each, DRAW, coords="minimal", compat="override"))
    joined = xr.concat(chains, CHAIN, coords="minimal", compat="override")
    kept = {dim: returns[dim].values for dim in (CHAIN, DRAW)}
    return joined.assign_coords(kept).transpose(CHAIN, DRAW, ...)


def _as_array(value: object, name: str) -> xr.DataArray:
    array = value if isinstance(value, xr.DataArray) else xr.DataArray(value)
    if array.dtype.kind not in "biuf" or (array.ndim and not isinstance(value, xr.DataArray)):
        raise ConfigError(
            f"`statistics[{name!r}]` must return a number or a DataArray of numbers; got "
            f"{type(value).__name__}."
        )
    return array.astype(np.float64).drop_vars(
        [coord for coord in array.coords if coord not in array.dims]
    )


def _over_cells(returns: xr.DataArray) -> xr.Dataset:
    """Put returns along ``obs``, the observed cells."""
    seen = returns.isel({dim: 0 for dim in (CHAIN, DRAW) if dim in returns.dims}, drop=True)
    time, asset = np.nonzero(seen.notnull().to_numpy())
    cells = returns.isel({TIME: xr.DataArray(time, dims=OBS), ASSET: xr.DataArray(asset, dims=OBS)})
    plain = cells.reset_coords(drop=True).transpose(..., OBS)
    return plain.assign_coords({OBS: np.arange(len(time))}).to_dataset(name=RETURNS)


def statistics(returns: xr.DataArray) -> xr.Dataset:
    """Built-in statistics of a panel of returns, or of every draw of one.

    Parameters
    ----------
    returns : DataArray (..., time, asset)
        NaN where not observed. Months with fewer than four returns are dropped.

    Returns
    -------
    Dataset
        ``spread``, ``skewness``, ``kurtosis`` (excess), ``tails`` (..., time), across the
        month's assets. ``comovement``: largest eigenvalue's share of the assets' second
        moments, over pairs of cells seen. ``volatility``: standard deviation of the monthly
        mean return. ``clustering``: autocorrelation over one month of the square of that mean
        less its average; NaN with fewer than four months. ``market_skewness``: skewness of that
        mean. ``common_shocks``: standard deviation over months of the log of the assets' mean
        square return. ``tail_dependence``: in the tenth of months with the lowest mean return,
        the share of assets that are in their own lowest tenth (0.1 without dependence); NaN with
        fewer than 20 months.

    Raises
    ------
    ShapeError
        If dims are missing, or no month has four returns.
    """
    absent = [dim for dim in (TIME, ASSET) if dim not in returns.dims]
    if absent:
        raise ShapeError(f"`returns` must have dims (time, asset); got {returns.dims}.")
    relative = rounding(returns)
    values = in_time_order(returns, "returns").transpose(..., TIME, ASSET)
    lead = values.dims[:-2]
    enough = values.notnull().sum(ASSET).min(lead) >= 4
    if not bool(enough.any()):
        raise ShapeError("`returns` must hold a month with at least four returns; got none.")
    values = values.isel({TIME: np.flatnonzero(enough.to_numpy())})
    array = values.to_numpy().astype(np.float64)
    array = array.reshape(-1, *array.shape[-2:])
    rows = [_month_statistics(one, relative) | _span_statistics(one, relative) for one in array]
    shape = values.shape[:-2]
    coords = {dim: values[dim] for dim in (*lead, TIME) if dim in values.coords}
    variables: dict[str, Any] = {}
    for name, description in DESCRIPTIONS.items():
        stacked = np.stack([row[name] for row in rows])
        dims = (*lead, TIME) if name in BY_MONTH else lead
        data = stacked.reshape((*shape, *stacked.shape[1:]))
        variables[name] = (dims, data, {"long_name": description})
    return xr.Dataset(variables, coords=coords)


def _month_statistics(returns: Array, relative: float) -> dict[str, Array]:
    """Of every month, across assets; (n_times, n_assets) to (n_times,)."""
    moves = ~constant(returns, axis=1, relative=relative)
    centred = returns - np.nanmean(returns, axis=1, keepdims=True)
    variance = np.nanmean(centred**2, axis=1)
    scale = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.where(moves, np.nanmean(centred**3, axis=1) / scale**3, np.nan)
        kurtosis = np.where(moves, np.nanmean(centred**4, axis=1) / variance**2 - 3.0, np.nan)
    away = np.abs(returns - np.nanmedian(returns, axis=1, keepdims=True))
    robust = np.nanmedian(away, axis=1, keepdims=True) / 0.6745
    known = np.isfinite(returns)
    tails = ((away > 3.0 * robust) & known).sum(axis=1) / known.sum(axis=1)
    return {"spread": scale, "skewness": skewness, "kurtosis": kurtosis, "tails": tails}


def _span_statistics(returns: Array, relative: float) -> dict[str, Array]:
    """Of the whole span; (n_times, n_assets) to numbers."""
    known = np.isfinite(returns)
    filled = np.where(known, returns, 0.0)
    pairs = np.maximum(known.T.astype(float) @ known, 1.0)
    values = np.linalg.eigvalsh(filled.T @ filled / pairs)
    market = np.nanmean(returns, axis=1)
    size = (market - market.mean()) ** 2
    moves = not constant(market, relative=relative)
    total = np.trace(filled.T @ filled / pairs)
    with np.errstate(divide="ignore"):
        sizes = np.log(np.nanmean(returns**2, axis=1))
    clusters = len(size) >= 4 and moves and size.std() != 0
    shocks = np.isfinite(sizes).all() and len(sizes) > 1
    found = {
        "comovement": values[-1] / total if total > 0 else np.nan,
        "clustering": np.corrcoef(size[1:], size[:-1])[0, 1] if clusters else np.nan,
        "volatility": market.std(),
        "market_skewness": (
            ((market - market.mean()) ** 3).mean() / market.std() ** 3 if moves else np.nan
        ),
        "common_shocks": sizes.std() if shocks else np.nan,
        "tail_dependence": _tail_dependence(returns, market),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def _tail_dependence(returns: Array, market: Array) -> float:
    """Share of assets in their own lowest tenth of months in the market's lowest tenth."""
    if len(market) < _LEAST_MONTHS:
        return np.nan
    long = np.isfinite(returns).sum(axis=0) >= _LEAST_MONTHS
    if not long.any():
        return np.nan
    mine = returns[:, long]
    low = mine <= np.nanquantile(mine, _LOWEST, axis=0)
    down = market <= np.quantile(market, _LOWEST)
    known = np.isfinite(mine[down])
    return float((low[down] & known).sum() / known.sum()) if known.any() else np.nan


def _as_large(made: xr.DataArray, seen: xr.DataArray, by_month: bool) -> xr.DataArray:
    """Share of draws at least as large as the observed value, ties half."""
    if by_month and TIME in made.dims:
        made, seen = made.mean(TIME), seen.mean(TIME)
    share = ((made > seen) + 0.5 * (made == seen)).mean((CHAIN, DRAW))
    return share.where(seen.notnull() & made.notnull().all((CHAIN, DRAW)))


def _draws(
    fit: Predicts | RVRAE | xr.DataTree,
    panel: xr.Dataset,
    when: str,
    num_samples: int,
    seed: int,
    times: object | None,
) -> xr.DataTree:
    check_choice("when", when, ("in_sample", "ahead", "prior"))
    if isinstance(fit, xr.DataTree):
        return fit
    if when == "prior":
        model = fit if isinstance(fit, RVRAE) else getattr(fit, "model", None)
        if not isinstance(model, RVRAE):
            raise ConfigError(
                f"`fit` must hold one model for when='prior'; got {type(fit).__name__}. Pass one "
                "member of the ensemble."
            )
        return prior_predictive(model, panel, num_samples, seed)
    if isinstance(fit, RVRAE):
        raise ConfigError(f"`fit` must be a fit for when={when!r}; got a model: use when='prior'.")
    if when == "ahead":
        return fit.forecast(panel, num_samples, seed, times)
    return fit.posterior_predictive(panel, num_samples, seed, times)


def _returns(tree: xr.DataTree) -> tuple[str, xr.DataArray]:
    groups: Mapping[str, Any] = tree.children
    for group in ("posterior_predictive", "predictions", "prior_predictive"):
        if group in groups and RETURNS in groups[group].data_vars:
            return group, groups[group].to_dataset()[RETURNS]
    raise ShapeError(
        "`fit` must be a fit, a model, or a tree with 'returns' in posterior_predictive, "
        f"predictions or prior_predictive; got groups {list(groups)}."
    )


def _same_cells(panel: xr.Dataset, draws: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Keep the cells that both have: (time, asset) and (chain, draw, time, asset)."""
    panel = in_time_order(panel, "panel")
    seen = panel[RETURNS].transpose(TIME, ASSET).where(listed(panel))
    if OBS in draws.dims:
        draws = draws.drop_vars(OBS, errors="ignore").set_index(obs=[TIME, ASSET]).unstack(OBS)
    draws = in_time_order(draws, "fit")
    months = labels_like(draws.indexes[TIME], seen.indexes[TIME], "fit", "panel")
    lost = months[~months.isin(seen.indexes[TIME])]
    if len(lost):
        warn_user(
            f"{len(lost)} of {len(months)} months of the draws are left out: `panel` lacks "
            f"{lost[0]:%Y-%m-%d}{' and others' if len(lost) > 1 else ''}."
        )
    draws = draws.assign_coords({TIME: months.to_numpy()})
    draws = draws.reindex({TIME: seen[TIME], ASSET: seen[ASSET]})
    draws = draws.transpose(CHAIN, DRAW, TIME, ASSET)
    both = seen.notnull() & draws.isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()
    return seen.where(both), draws.where(both)
