"""Pictures of risk: its sources, and Value at Risk against what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from rvrae_pyro.errors import ConfigError, check_choice, check_count, check_number
from rvrae_pyro.names import ASSET, TIME
from rvrae_pyro.plots.plot_sources import (
    asset_labels,
    forecast_tree,
    group_of,
    month_label,
    one_time,
    period_of,
    predicted_returns,
    realised_returns,
)
from rvrae_pyro.plots.style import Style, canvas, date_axis, dress, legend
from rvrae_pyro.risk.backtest import backtest
from rvrae_pyro.risk.draws import months_of
from rvrae_pyro.risk.portfolio_weights import Weights
from rvrae_pyro.risk.summary import summarize

_PARTS: Final = {
    "factor_var": "factors",
    "idio_var": "idiosyncratic",
    "parameter_var": "parameters",
}
_PORTFOLIO: Final = "portfolio"


def risk_split(
    source: object,
    panel: xr.Dataset | None = None,
    *,
    by: Literal["asset", "time"] = "asset",
    time: object | None = None,
    labels: object | None = None,
    max_assets: int = 40,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw the sources of forecast variance: factors, idiosyncratic noise, parameters.

    Parameters
    ----------
    source : DataTree, Dataset, Filtered, Fit, Ensemble or baseline
        A forecast with factors and loadings, the result of ``rv.risk.summarize``, or a fitted
        model.
    panel : Dataset, optional
        Panel to forecast, where ``source`` is a fit.
    by : {"asset", "time"}
        One bar per asset of one month (default), or the mean over assets, month by month.
    time : date, optional
        Month, with ``by="asset"``. Default: the last one with a forecast.
    labels : str, mapping or Series, optional
        Texts of the assets. Default: the coordinate ``name`` where there is one, else ids.
    max_assets : int
        Of more assets, those with the largest and smallest factor shares are shown. Default: 40.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        Shares of the forecast variance, in %.

    Raises
    ------
    ConfigError
        If ``source`` does not hold the split, or a setting is unknown.

    Notes
    -----
    Parameter variance is measured only where the weights have a posterior or several members
    forecast; elsewhere it is left out.
    """
    check_choice("by", by, (ASSET, TIME))
    check_count("max_assets", max_assets, 2)
    if isinstance(source, xr.Dataset):
        summary = source
    else:
        tree = forecast_tree(source, panel, None if by == TIME or time is None else [time])
        if by == ASSET:
            tree = months_of(tree, [one_time(predicted_returns(tree), time)])
        summary = summarize(tree, tail=0.5)
    lacking = [name for name in ("sd", "factor_var", "idio_var") if name not in summary]
    if lacking or ASSET not in summary["sd"].dims:
        raise ConfigError(
            f"`source` must be a forecast or the result of rv.risk.summarize, got a Dataset "
            f"without {lacking or ['asset']}. Pass rv.risk.summarize(tree)."
        )
    if bool(summary["factor_var"].isnull().all()):
        raise ConfigError(
            "`source` must hold factors and loadings, for the split needs them; got a forecast "
            "without. Pass the whole tree that fit.forecast returns."
        )
    parts = [n for n in _PARTS if n in summary and float(summary[n].fillna(0.0).max()) > 0.0]
    shares = xr.concat(
        [100 * summary[name] / summary["sd"] ** 2 for name in parts], "part", coords="minimal",
        compat="override",
    )  # fmt: skip
    period = period_of(panel, summary)
    if by == TIME:
        return _over_time(shares.mean(ASSET), parts, period, ax, style)
    month = one_time(summary["sd"], time)
    shares = shares.sel({TIME: month}) if month is not None else shares
    shares = shares.transpose("part", ASSET)
    known = ~np.isnan(shares.values).any(axis=0)
    names, values = shares[ASSET].values[known], shares.values[:, known]
    order = np.argsort(values[0], kind="stable")
    total = len(order)
    if total > max_assets:
        half = max_assets // 2
        order = np.r_[order[:half], order[-(max_assets - half) :]]
    where = [getattr(source, "panel", None), panel, summary]
    texts = asset_labels(labels, names, *where)
    on = canvas(ax, style, size=(7.5, 1.4 + 0.2 * len(order)))
    axes, theme = on.axes[0], on.theme
    left = np.zeros(len(order))
    for k, name in enumerate(parts):
        width = values[k, order]
        axes.barh(np.arange(len(order)), width, left=left, height=0.75, color=theme.colour(k),
                  label=_PARTS[name])  # fmt: skip
        left = left + width
    axes.set_yticks(np.arange(len(order)), [texts[str(names[i])] for i in order])
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlim(0, 100)
    few = f", {len(order)} of {total} assets" if len(order) < total else ""
    when = "" if month is None else f", {month_label(month, period)}"
    dress(axes, theme, f"Sources of risk{when}{few}", "share of the forecast variance, %",
          "asset", grid="x")  # fmt: skip
    legend(axes, theme)
    return axes


def _over_time(
    shares: xr.DataArray, parts: list[str], period: str, ax: Axes | None, style: Style | None
) -> Axes:
    shares = shares.transpose("part", TIME)
    on = canvas(ax, style)
    axes, theme = on.axes[0], on.theme
    times = shares[TIME].values
    known = ~np.isnan(shares.values).any(axis=0)
    axes.stackplot(
        times[known],
        shares.values[:, known],
        colors=[theme.colour(k) for k in range(len(parts))],
        labels=[_PARTS[name] for name in parts],
        linewidth=0,
    )
    axes.set_ylim(0, 100)
    date_axis(axes, times[known])
    dress(axes, theme, "Sources of risk, mean over assets", period,
          "share of the\nforecast variance, %")  # fmt: skip
    legend(axes, theme)
    return axes


def var_backtest(
    source: object,
    panel: xr.Dataset | xr.DataArray | None = None,
    *,
    portfolios: Mapping[str, Any] | None = None,
    portfolio: str | None = None,
    weights: Weights | None = None,
    tail: float = 0.05,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw a portfolio's returns against its forecast Value at Risk and expected shortfall.

    Parameters
    ----------
    source : DataTree, Filtered, Fit, Ensemble or baseline
        The result of ``rv.risk.backtest``, or one-step-ahead forecasts to test.
    panel : Dataset or DataArray (time, asset), optional
        Realised returns, where ``source`` is not a backtest.
    portfolios : mapping from name to weights, optional
        As for ``rv.risk.backtest``, where ``source`` is not one. Default: equal weights.
    portfolio : str, optional
        The one to draw. Default: the first.
    weights : Series or DataArray by asset, optional
        One portfolio, as for :func:`fan`, in place of ``portfolios``.
    tail : float
        Tail probability. Default: 0.05.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        Excess returns in % per month; VaR and ES as the returns they stand for (negative).

    Raises
    ------
    ConfigError
        If ``source`` is neither backtest nor forecast, ``portfolio`` or ``tail`` is not in
        it, or ``weights`` come with ``portfolios`` or with a backtest.
    """
    tail = check_number("tail", tail, "(0, 1)")
    held = group_of(source, _PORTFOLIO)
    if weights is not None:
        if portfolios is not None or (held is not None and "hit" in held):
            other = "`portfolios`" if portfolios is not None else "a backtest, which has its own"
            raise ConfigError(f"`weights` exclude {other}; got both. Leave one out.")
        portfolios = {_PORTFOLIO: weights}
    if held is None or "hit" not in held:
        tree = forecast_tree(source, panel)
        returns = realised_returns(source, panel)
        seen = returns.indexes[TIME][returns.notnull().any(ASSET).values]
        months = tree["predictions"].to_dataset().indexes[TIME].intersection(seen)
        tree = months_of(tree, months)
        held = backtest(tree, returns, portfolios, tail)[_PORTFOLIO].to_dataset()
    names = [str(name) for name in held[_PORTFOLIO].values]
    chosen = names[0] if portfolio is None else portfolio
    check_choice("portfolio", chosen, names)
    tails = held["tail"].values
    near = int(np.argmin(np.abs(tails - tail)))
    if abs(tails[near] - tail) > 1e-9:
        raise ConfigError(
            f"`tail` must be one of the backtest, {', '.join(f'{t:g}' for t in tails)}; got "
            f"{tail:g}. Pass it to rv.risk.backtest."
        )
    one = held.sel({_PORTFOLIO: chosen}).isel(tail=near).transpose(TIME, ...)
    counted = ~np.isnan(one["hit"].values)
    times = one[TIME].values[counted]
    realised = 100 * one["realised"].values[counted]
    lost = one["hit"].values[counted] > 0.5
    period = period_of(panel, one)
    on = canvas(ax, style)
    axes, theme = on.axes[0], on.theme
    axes.vlines(times[~lost], 0.0, realised[~lost], color=theme.muted, linewidth=1.1, alpha=0.7)
    axes.vlines(times[lost], 0.0, realised[lost], color=theme.colour(1), linewidth=1.4)
    axes.plot(times[~lost], realised[~lost], ".", color=theme.muted, ms=4.5, label="return")
    axes.plot(times[lost], realised[lost], "v", color=theme.colour(1), ms=6.5,
              label="loss beyond VaR")  # fmt: skip
    percent = f"{100 * tail:g} %"
    for name, dash, text in (("var", "-", f"VaR {percent}"), ("es", "--", f"ES {percent}")):
        level = -100 * one[name].values[counted]
        axes.plot(times, level, dash, color=theme.colour(0), linewidth=1.5, label=text)
    axes.axhline(0.0, color=theme.muted, linewidth=0.8)
    date_axis(axes, times)
    count = int(lost.sum())
    losses = "1 loss" if count == 1 else f"{count or 'no'} losses"
    title = (
        f"{chosen[0].upper()}{chosen[1:]}: {losses} beyond the {percent} VaR in "
        f"{len(times)} {period}s, {tail * len(times):.1f} expected"
    )
    dress(axes, theme, title, period, f"excess return, % per {period}")
    legend(axes, theme)
    return axes
