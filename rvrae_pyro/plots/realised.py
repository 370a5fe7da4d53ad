"""Pictures of forecasts against realised returns: volatility and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from rvrae_pyro.errors import ConfigError, check_choice, check_count
from rvrae_pyro.evaluation.density import pit as _pit
from rvrae_pyro.names import ASSET, CHAIN, DRAW, TIME
from rvrae_pyro.plots.plot_sources import (
    comparable_returns,
    forecast_tree,
    group_of,
    has_returns,
    period_of,
    predicted_returns,
    realised_returns,
)
from rvrae_pyro.plots.style import (
    BAND,
    Style,
    Theme,
    canvas,
    date_axis,
    dress,
    legend,
    mark_dates,
    note,
)
from rvrae_pyro.risk.portfolio_weights import PORTFOLIO, Weights, read_weights

Floats = NDArray[np.floating[Any]]
_ENDS: Final = (0.05, 0.95)


_BINS: Final = 10


def volatility(
    source: object,
    panel: xr.Dataset | xr.DataArray | None = None,
    *,
    quantity: Literal["portfolio", "cross_section"] = "portfolio",
    weights: Weights | None = None,
    window: int = 12,
    marks: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    style: Style | None = None,
) -> Axes:
    """Draw predicted against realised volatility over time.

    Parameters
    ----------
    source : DataTree, Filtered, Fit, Ensemble, baseline, or mapping from name to these
        One-step-ahead forecasts. A mapping draws one line per model.
    panel : Dataset or DataArray (time, asset), optional
        Realised returns. Default: those of a filtered panel or of the tree's ``observed_data``;
        without any, a portfolio's predicted volatility is drawn alone.
    quantity : {"portfolio", "cross_section"}
        Standard deviation of a portfolio (default) against the root mean square of its returns
        in the months around; or the root mean square return over the assets of each month,
        against its predictive distribution.
    weights : Series or DataArray by asset, optional
        Portfolio. Default: equal weights of the assets with a return.
    window : int
        Months of the centred root mean square. Default: 12.
    marks : mapping from name to date, optional
        Vertical lines, such as the beginning of the test months.
    ax, style : optional
        Axes (default: of a new pyplot figure); "light" or "dark" (default: matplotlib's settings).

    Returns
    -------
    Axes
        In % per month.

    Raises
    ------
    ConfigError
        If ``source`` holds no forecast, there are no returns, or a setting is unknown.

    Notes
    -----
    Predictions of month t know returns to t-1; realised values are centred and know later ones.
    """
    check_choice("quantity", quantity, ("portfolio", "cross_section"))
    check_count("window", window)
    several = isinstance(source, Mapping) and not isinstance(source, xr.Dataset | xr.DataTree)
    sources: dict[str, object] = dict(source) if several else {"predicted": source}  # type: ignore[call-overload]
    if not sources or (several and quantity == "cross_section"):
        raise ConfigError(
            "`source` must be one forecast, or with quantity='portfolio' a mapping of one or more; "
            f"got {len(sources)} with quantity={quantity!r}."
        )
    draws = {}
    for name, each in sources.items():
        where = f"source[{name!r}]" if several else "source"
        draws[str(name)] = predicted_returns(forecast_tree(each, panel, name=where))
    first, alone = next(iter(draws.values())), next(iter(sources.values()))
    if quantity == "portfolio" and not has_returns(alone, panel):
        # nothing to compare with: every asset that is forecast is held
        returns = first.isel({CHAIN: 0, DRAW: 0}, drop=True) * 0.0
    else:
        returns = realised_returns(alone, panel)
    returns = comparable_returns(returns, *draws.values())
    like = {TIME: returns[TIME].values, ASSET: first[ASSET].values}
    draws = {name: one.sel(like) for name, one in draws.items()}
    period = period_of(panel, getattr(source, "panel", None), returns)
    on = canvas(ax, style)
    axes, theme = on.axes[0], on.theme
    if quantity == "cross_section":
        _draw_size(axes, theme, typical_size(returns, first.sel(like)), period)
    else:
        _draw_portfolio(axes, theme, returns, draws, weights, window, period)
    axes.set_ylim(0.0, None)
    date_axis(axes, returns[TIME].values)
    if marks:
        mark_dates(axes, theme, dict(marks))
    legend(axes, theme)
    return axes


def _draw_size(axes: Axes, theme: Theme, size: xr.Dataset, period: str) -> None:
    times = size[TIME].values
    main, other = theme.colour(0), theme.colour(1)
    low, high = 100 * size["low"].values, 100 * size["high"].values
    axes.fill_between(times, low, high, color=main, alpha=BAND, linewidth=0, label="5 % to 95 %")
    axes.plot(times, 100 * size["median"].values, color=main, linewidth=1.4, label="median")
    axes.plot(times, 100 * size["realised"].values, ".", color=other, ms=4.5, label="realised")
    inside = (size["realised"] >= size["low"]) & (size["realised"] <= size["high"])
    title = f"Size of returns within a {period}: {100 * float(inside.mean()):.0f} % in the band"
    dress(axes, theme, title, period, f"root mean square\nover assets, % per {period}")


def _draw_portfolio(
    axes: Axes,
    theme: Theme,
    returns: xr.DataArray,
    draws: dict[str, xr.DataArray],
    weights: Weights | None,
    window: int,
    period: str,
) -> None:
    seen = returns.notnull()
    for one in draws.values():
        seen = seen & one.isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()
    if weights is None:
        share = (seen / seen.sum(ASSET)).where(seen, 0.0)
    else:
        listed = next(iter(draws.values())).isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()
        held = read_weights(weights, listed).isel({PORTFOLIO: 0}, drop=True)
        share = held.where(seen, 0.0)
    earned = (returns.fillna(0.0) * share).sum(ASSET).where((share != 0).any(ASSET))
    realised = (earned**2).rolling({TIME: window}, center=True).mean() ** 0.5
    times = returns[TIME].values
    if bool((earned != 0.0).any()):
        text = f"realised, {window} {period}s around"
        axes.plot(times, 100 * realised.values, color=theme.muted, linewidth=1.6, label=text)
    for k, (name, one) in enumerate(draws.items()):
        drawn = xr.dot(one.fillna(0.0), share, dim=ASSET)
        predicted = drawn.std((CHAIN, DRAW)).transpose(TIME)
        axes.plot(times, 100 * predicted.values, color=theme.colour(k), linewidth=1.6, label=name)
    what = "Equally weighted portfolio" if weights is None else "Portfolio"
    title = f"{what}: volatility, predicted one {period} ahead"
    dress(axes, theme, title, period, f"standard deviation,\n% per {period}")


def calibration(
    source: object,
    panel: xr.Dataset | xr.DataArray | None = None,
    *,
    kind: Literal["pit", "coverage"] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    style: Style | None = None,
) -> Figure | Axes:
    """Draw where returns fell in their forecasts, and the coverage of central intervals.

    Parameters
    ----------
    source : DataTree, Filtered, Fit, Ensemble or baseline
        One-step-ahead forecasts, or the result of ``rv.risk.backtest``.
    panel : Dataset or DataArray (time, asset), optional
        Realised returns; needed unless ``source`` holds them.
    kind : {"pit", "coverage"}, optional
        One of the two panels. Default: both, or with one ``ax`` the first.
    ax : Axes or sequence of two Axes, optional
        Default: a new pyplot figure.
    style : {"light", "dark"}, optional
        Default: the settings of matplotlib.

    Returns
    -------
    Figure or Axes
        A figure where both are drawn. Left: histogram of the probability integral transform,
        flat if the forecasts are right. Right: share of returns inside central intervals,
        against their probability. Bands hold 95 % if the forecasts are right, point by point.

    Raises
    ------
    ConfigError
        If ``source`` holds no forecast, there are no returns, or ``kind`` is unknown.

    Notes
    -----
    The assets of one month move together. The bands therefore come from the joint draws: each
    draw takes the place of the returns once. Those of a backtest come from its bootstrap of
    months, for the histogram only.
    """
    if kind not in (None, "pit", "coverage"):
        raise ConfigError(f"`kind` must be 'pit', 'coverage' or None (both); got {kind!r}.")
    if kind is None and isinstance(ax, Axes):
        kind = "pit"
    shown = ["pit", "coverage"] if kind is None else [kind]
    found, about = _calibrated(source, panel)
    on = canvas(ax, style, len(shown), columns=2, size=(4.6 * len(shown), 3.9))
    for each, axes in zip(shown, on.axes, strict=True):
        (_draw_pit if each == "pit" else _draw_coverage)(axes, on.theme, found)
        legend(axes, on.theme)
    if len(shown) == 2:
        note(on, about)
    return on.result


def _calibrated(source: object, panel: object) -> tuple[dict[str, Any], str]:
    """Heights, coverage and their bands, and what they rest on."""
    pooled, cells = group_of(source, "pooled"), group_of(source, ASSET)
    if pooled is not None and cells is not None and "pit_share" in pooled:
        size = pooled.sizes["bin"]
        pit = cells["pit"].values
        known = pit[np.isfinite(pit)]
        levels = np.linspace(0.02, 0.98, 49)
        width = np.sort(2.0 * np.abs(known - 0.5))
        found = {
            "edges": np.linspace(0.0, 1.0, size + 1),
            "heights": size * pooled["pit_share"].values,
            "heights_band": size * np.stack([pooled["pit_lower"], pooled["pit_upper"]]),
            "levels": levels,
            "covered": np.searchsorted(width, levels, side="right") / max(1, len(width)),
            "covered_band": None,
        }
        months = int(np.isfinite(pit).any(axis=cells["pit"].get_axis_num(ASSET)).sum())
        return found, f"{months} months, {len(known):,} returns. Band: bootstrap of months, 95 %."
    tree = forecast_tree(source, panel)
    draws = predicted_returns(tree)
    returns = comparable_returns(realised_returns(source, panel), draws)
    result = calibrate(returns, draws.sel({TIME: returns[TIME].values}), _BINS)
    about = f"{result.n_months} months, {result.n_returns:,} returns. Bands: 95 %, pointwise."
    return vars(result), about


def _draw_pit(axes: Axes, theme: Theme, found: Mapping[str, Any]) -> None:
    low, high = found["heights_band"]
    edges, heights = found["edges"], found["heights"]
    axes.stairs(
        high, edges, baseline=low, fill=True, color=theme.muted, alpha=BAND, label="if calibrated"
    )
    axes.stairs(heights, edges, color=theme.colour(0), linewidth=2, baseline=None, label="returns")
    axes.axhline(1.0, color=theme.muted, linewidth=0.9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.12 * float(np.nanmax([heights.max(), np.nanmax(high), 1.2])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    dress(axes, theme, "Place of returns in their forecasts", "probability integral transform",
          "density")  # fmt: skip


def _draw_coverage(axes: Axes, theme: Theme, found: Mapping[str, Any]) -> None:
    levels = found["levels"]
    if found["covered_band"] is not None:
        low, high = found["covered_band"]
        axes.fill_between(
            levels, low, high, color=theme.muted, alpha=BAND, linewidth=0, label="if calibrated"
        )
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.9)
    axes.plot(levels, found["covered"], color=theme.colour(0), linewidth=2, label="returns")
    for which in (axes.xaxis, axes.yaxis):
        which.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    dress(axes, theme, "Coverage of central intervals", "probability of the interval, %",
          "share of returns inside, %")  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Where returns fall among their predictive draws.

    ``heights`` by bin between ``edges``: histogram of the probability integral transform, 1 is
    uniform. ``covered`` by ``levels``: actual and nominal coverage of central intervals. Bands
    (2, n) hold 95 % if the forecasts are right.
    """

    edges: Floats
    heights: Floats
    heights_band: Floats
    levels: Floats
    covered: Floats
    covered_band: Floats
    n_months: int
    n_returns: int


def calibrate(returns: xr.DataArray, draws: xr.DataArray, n_bins: int = 10) -> Calibration:
    """Compare returns (time, asset) with their draws (chain, draw, time, asset), one step ahead.

    Assets of a month move together, so that cells are far from independent. The bands therefore
    come from the joint draws themselves: each draw takes the returns' place once.
    """
    sample = draws.stack(sample=(CHAIN, DRAW), create_index=False).transpose("sample", TIME, ASSET)
    known = (returns.notnull() & sample.isel(sample=0).notnull()).transpose(TIME, ASSET).values
    pit = _pit(returns, draws).transpose(TIME, ASSET).values[known]
    drawn = sample.values[:, known]
    ranks = drawn.argsort(axis=0).argsort(axis=0)
    replicated = (ranks + 0.5) / len(drawn)
    edges, levels = np.linspace(0.0, 1.0, n_bins + 1), np.linspace(0.02, 0.98, 49)

    def heights(values: Floats) -> Floats:
        count = np.histogram(values, edges)[0]
        return count * n_bins / values.size

    def covered(values: Floats) -> Floats:
        width = np.sort(2.0 * np.abs(values - 0.5))
        return np.searchsorted(width, levels, side="right") / values.size

    def band(replicates: list[Floats]) -> Floats:
        return np.quantile(np.stack(replicates), (0.025, 0.975), axis=0)

    return Calibration(
        edges,
        heights(pit),
        band([heights(each) for each in replicated]),
        levels,
        covered(pit),
        band([covered(each) for each in replicated]),
        int(known.any(axis=1).sum()),
        int(known.sum()),
    )


def typical_size(returns: xr.DataArray, draws: xr.DataArray) -> xr.Dataset:
    """Root mean square return over the assets of a month: predicted before it, and realised.

    ``realised``, and ``median``, ``low``, ``high`` (5 % and 95 %) of the prediction (time,).
    """
    size: xr.DataArray = (draws.where(returns.notnull()) ** 2).mean(ASSET) ** 0.5
    ends = {"low": _ENDS[0], "median": 0.5, "high": _ENDS[1]}
    dataset = xr.Dataset(
        {name: size.quantile(q, (CHAIN, DRAW)).drop_vars("quantile") for name, q in ends.items()}
    )
    return dataset.assign(realised=(returns**2).mean(ASSET) ** 0.5)
