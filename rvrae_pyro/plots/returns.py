"""Pictures of forecast returns: one month, or several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.names import ASSET, CHAIN, COMPOUNDED_RETURNS, DRAW, RETURNS, STEP, TIME
from rvrae_pyro.plots.plot_sources import (
    asset_labels,
    asset_texts,
    forecast_tree,
    group_of,
    month_label,
    one_time,
    period_of,
    predicted_returns,
)
from rvrae_pyro.plots.style import Style, canvas, dress, legend
from rvrae_pyro.risk.draws import months_of
from rvrae_pyro.risk.portfolio import portfolio_draws
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, read_weights


def forecast(
    source: object,
    panel: xr.Dataset | None = None,
    *,
    time: object | None = None,
    labels: object | None = None,
    groups: object | None = None,
    max_assets: int = 40,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw the predictive distribution of every asset for one month, highest mean at the top.

    Parameters
    ----------
    source : DataTree, Filtered, Fit, Ensemble or baseline
        A forecast, or what makes one.
    panel : Dataset, optional
        Panel to forecast, where ``source`` is a fit; text coordinates on ``asset`` are read
        from it.
    time : date, optional
        Month. Default: the last one with a forecast.
    labels, groups : str, mapping or Series, optional
        Texts of the y axis and groups shown by colour: a coordinate on ``asset``, or texts by
        asset. Default of ``labels``: the coordinate ``name`` where there is one, else ids.
    max_assets : int
        Of more assets, both ends are shown. Default: 40.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        Excess returns in % per month: thin lines are 90 % intervals, thick ones 50 % intervals,
        dots are means.

    Raises
    ------
    ConfigError
        If ``source`` holds no forecast, or has none of that month.

    Examples
    --------
    >>> import numpy as np, rvrae_pyro as rv, xarray as xr
    >>> draws = 0.05 * np.random.default_rng(0).normal(size=(1, 200, 1, 3))
    >>> months = np.array(["2020-01-31"], "datetime64[ns]")
    >>> returns = xr.DataArray(
    ...     draws, {"time": months, "asset": ["A", "B", "C"]}, ("chain", "draw", "time", "asset")
    ... )
    >>> tree = xr.DataTree.from_dict({"predictions": xr.Dataset({"returns": returns})})
    >>> rv.plots.forecast(tree).get_xlabel()
    'excess return, % per month'
    """
    check_count("max_assets", max_assets, 2)
    tree = forecast_tree(source, panel, None if time is None else [time])
    draws = predicted_returns(tree)
    month = one_time(draws, time)
    period = period_of(panel, tree, draws)
    table = _intervals(tree, draws.sel({TIME: month}), month)
    data = draws.isel({CHAIN: 0, DRAW: 0}, drop=True)
    where = [getattr(source, "panel", None), panel, data]
    names = table.index.to_numpy()
    texts = asset_labels(labels, names, *where)
    kinds = asset_texts("groups", groups, names, *where)
    total, shown = len(table), table
    if total > max_assets:
        half = max_assets // 2
        shown = pd.concat([table[:half], table[-(max_assets - half) :]])
    size = (8.0, 1.4 + 0.2 * len(shown))
    on = canvas(ax, style, size=size)
    axes, theme = on.axes[0], on.theme
    order = sorted(set(kinds.values())) if kinds else []
    colours = [theme.colour(order.index(kinds[str(name)]) if kinds else 0) for name in shown.index]
    rows = np.arange(len(shown))
    for (low, high), width in ((("q05", "q95"), 1.4), (("q25", "q75"), 4.6)):
        axes.hlines(rows, 100 * shown[low], 100 * shown[high], colors=colours, linewidth=width)
    axes.plot(
        100 * shown["mean"], rows, "o", color=theme.background, mec=theme.text, ms=4.2, zorder=4
    )
    axes.set_yticks(rows, [texts[str(name)] for name in shown.index])
    axes.axvline(0.0, color=theme.muted, linewidth=0.8)
    axes.set_ylim(-0.8, len(shown) - 0.2)
    few = f", {len(shown)} of {total} assets" if len(shown) < total else ""
    title = f"Forecast for {month_label(month, period)}{few}"
    dress(axes, theme, title, f"excess return, % per {period}", "asset", grid="x")
    handles = [
        Line2D([], [], color=theme.colour(k), linewidth=4, label=kind)
        for k, kind in enumerate(order)
    ]
    main = theme.muted if len(order) > 1 else theme.colour(0)
    handles += [
        Line2D([], [], color=main, linewidth=4.6, label="50 %"),
        Line2D([], [], color=main, linewidth=1.4, label="90 %"),
        Line2D([], [], color=theme.background, marker="o", mec=theme.text, ms=4.2, label="mean",
               linestyle=""),
    ]  # fmt: skip
    legend(axes, theme, handles)
    return axes


def _intervals(tree: xr.DataTree, draws: xr.DataArray, month: Any) -> pd.DataFrame:
    """Means and quantiles by asset, lowest mean first."""
    values = draws.stack(sample=(CHAIN, DRAW), create_index=False).transpose("sample", ASSET)
    listed = ~np.isnan(values.values).any(axis=0)
    known = values.values[:, listed]
    if not known.shape[1]:
        raise ConfigError(
            f"`time` must be a month with a forecast, got {month_label(month)}, in which no asset "
            "is listed."
        )
    names = draws[ASSET].values[listed]
    ends = np.quantile(known, (0.05, 0.25, 0.75, 0.95), axis=0)
    table = pd.DataFrame(ends.T, names, ["q05", "q25", "q75", "q95"])
    table["mean"] = known.mean(axis=0)
    constants = group_of(tree, "predictions_constant_data")
    if constants is not None and "mean" in constants:
        # expected returns, without the noise of the draws
        mean = constants["mean"]
        mean = mean.sel({TIME: month}) if TIME in mean.dims else mean
        mean = mean.mean(CHAIN) if CHAIN in mean.dims else mean
        if mean.dims == (ASSET,):
            table["mean"] = mean.sel({ASSET: names}).values
    return table.sort_values("mean", kind="stable")


def fan(
    source: object,
    panel: xr.Dataset | None = None,
    *,
    time: object | None = None,
    asset: object | None = None,
    weights: Weights | None = None,
    compounded: bool = True,
    horizon: int = 12,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw the distribution of returns over the next months, step by step.

    Parameters
    ----------
    source : DataTree, Filtered, Fit, Ensemble
        A forecast with dim ``step`` (``fit.forecast(panel, horizon=12)``), or what makes one.
    panel : Dataset, optional
        Panel to forecast, where ``source`` is a fit.
    time : date, optional
        First month of the path. Default: the last one with a forecast.
    asset : str, optional
        One asset. Default: a portfolio.
    weights : Series or DataArray by asset, optional
        Portfolio, bought at the start and held. Default: equal weights.
    compounded : bool
        Return since the start (default), or the return of each month at the weights given.
    horizon : int
        Steps, where ``source`` is a fit. Default: 12.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        Median, 50 % and 90 % intervals of the excess return, in %.

    Raises
    ------
    ConfigError
        If ``source`` has no dim ``step``, ``asset`` is not in it, or both ``asset`` and
        ``weights`` are given.

    Examples
    --------
    >>> import numpy as np, rvrae_pyro as rv, xarray as xr
    >>> draws = 0.05 * np.random.default_rng(0).normal(size=(1, 200, 6, 1, 3))
    >>> coords = {
    ...     "step": np.arange(1, 7),
    ...     "time": np.array(["2020-01-31"], "datetime64[ns]"),
    ...     "asset": ["A", "B", "C"],
    ... }
    >>> returns = xr.DataArray(draws, coords, ("chain", "draw", "step", "time", "asset"))
    >>> both = {"returns": returns, "compounded_returns": (1 + returns).cumprod("step") - 1}
    >>> tree = xr.DataTree.from_dict({"predictions": xr.Dataset(both)})
    >>> rv.plots.fan(tree).get_ylabel()
    'compounded excess return, %'
    """
    if asset is not None and weights is not None:
        raise ConfigError("`asset` and `weights` exclude each other, got both. Leave one out.")
    if not isinstance(source, xr.DataTree) and callable(getattr(source, "forecast", None)):
        check_count("horizon", horizon)
        last = None if time is None else [time]
        if isinstance(getattr(source, "panel", None), xr.Dataset):
            source = source.forecast(last, horizon=horizon)  # type: ignore[attr-defined]
        elif isinstance(panel, xr.Dataset):
            last = [panel[TIME].values[-1]] if last is None else last
            source = source.forecast(panel, times=last, horizon=horizon)  # type: ignore[attr-defined]
    tree = forecast_tree(source, panel)
    predictions = tree["predictions"].to_dataset()
    if STEP not in predictions[RETURNS].dims:
        raise ConfigError(
            f"`source` must be a forecast of several steps (dim `step`), got dims "
            f"{tuple(predictions[RETURNS].dims)}. Make it by fit.forecast(panel, horizon=12)."
        )
    if TIME not in predictions[RETURNS].dims or COMPOUNDED_RETURNS not in predictions:
        tree = _completed(tree)
        predictions = tree["predictions"].to_dataset()
    month = one_time(predictions[RETURNS], time)
    period = period_of(panel, tree, predictions)
    paths, what = _paths(months_of(tree, [month]), asset, weights, compounded)
    paths = paths.stack(sample=(CHAIN, DRAW), create_index=False).transpose(STEP, "sample")
    ends = 100 * np.quantile(paths.values, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    steps = np.arange(1, paths.sizes[STEP] + 1)
    if compounded:  # nothing is earned before the first step
        steps, ends = np.r_[0, steps], np.c_[np.zeros(5), ends]
    on = canvas(ax, style, size=(7.0, 3.6))
    axes, theme = on.axes[0], on.theme
    main = theme.colour(0)
    for low, high, alpha, text in ((0, 4, 0.2, "90 %"), (1, 3, 0.35, "50 %")):
        axes.fill_between(
            steps, ends[low], ends[high], color=main, alpha=alpha, linewidth=0, label=text
        )
    axes.plot(steps, ends[2], color=main, linewidth=1.8, label="median")
    axes.axhline(0.0, color=theme.muted, linewidth=0.8)
    axes.set_xlim(steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    since = f" from {month_label(month, period)} on"
    unit = "compounded excess return, %" if compounded else f"excess return, % per {period}"
    dress(axes, theme, f"{what}{since}", f"{period}s ahead", unit)
    legend(axes, theme)
    return axes


def _completed(tree: xr.DataTree) -> xr.DataTree:
    """Add the dim ``time`` and compounded returns to paths that lack them."""
    predictions = tree["predictions"].to_dataset()
    returns = predictions[RETURNS]
    if COMPOUNDED_RETURNS not in predictions:
        predictions[COMPOUNDED_RETURNS] = (1.0 + returns).cumprod(STEP) - 1.0
    if TIME not in returns.dims:
        if TIME not in predictions.coords:
            predictions = predictions.assign_coords({TIME: np.datetime64("2000-01-31", "ns")})
        names = (RETURNS, COMPOUNDED_RETURNS)
        predictions = predictions[list(names)].expand_dims(TIME)
    return xr.DataTree.from_dict({"predictions": predictions})


def _paths(
    tree: xr.DataTree, asset: object | None, weights: Weights | None, compounded: bool
) -> tuple[xr.DataArray, str]:
    """Paths (chain, draw, step) of one asset or portfolio from one origin, and its name."""
    predictions = tree["predictions"].to_dataset().isel({TIME: 0})
    returns = predictions[RETURNS]
    if asset is not None:
        if asset not in returns[ASSET].values:
            raise ConfigError(
                f"`asset` must be one of the {returns.sizes[ASSET]} assets of the forecast, such "
                f"as {str(returns[ASSET].values[0])!r}; got {asset!r}."
            )
        found = predictions[COMPOUNDED_RETURNS if compounded else RETURNS].sel({ASSET: asset})
        if bool(found.isnull().any()):
            raise ConfigError(
                f"`asset` must be listed in the month that is forecast, got {asset!r}, which is "
                "not. Pick another asset or `time`."
            )
        return found, str(asset)
    what = "Equally weighted portfolio" if weights is None else "Portfolio"
    known = returns.notnull().all([CHAIN, DRAW, STEP])
    if weights is None:
        weights = known / known.sum(ASSET)
    if compounded:
        return portfolio_draws(tree, weights).isel({TIME: 0}, drop=True), what
    listed = known.drop_vars(TIME).expand_dims({TIME: tree["predictions"][TIME].values})
    share = read_weights(weights, listed).isel({TIME: 0, PORTFOLIO: 0}, drop=True)
    return xr.dot(share, returns.fillna(0.0), dim=ASSET), what
