"""Pictures of a fit and its forecasts."""

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from rvrae_pyro.cli.drawing import (
    COLOURS,
    GREY,
    label,
    legend_above,
    months_axis,
    new_figure,
    since,
)
from rvrae_pyro.cli.summaries import Calibration
from rvrae_pyro.names import ASSET, FACTOR, TIME

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit

__all__ = [
    "draw_calibration",
    "draw_factors",
    "draw_forecast",
    "draw_training",
    "draw_volatility",
]

_BLUE, _ORANGE, _GREEN = COLOURS[0], COLOURS[1], COLOURS[2]
_BAND: Final = 0.25
_BAND_NAME: Final = "95 % band, pointwise, if right"


def draw_training(fit: "Fit", n_train: int, n_valid: int) -> Figure:
    """Draw the bound on training and validation months, and the KL of every month.

    Parameters
    ----------
    fit : Fit
    n_train, n_valid : int
        Observed returns in each, so that both bounds are a return.
    """
    history = fit.history
    figure = new_figure("Training: the bound on the log evidence, and where the KL is spent")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.15))
    steps = history["step"]
    top.plot(steps, history["elbo"] / n_train, color=_BLUE, label="training months")
    top.plot(steps, history["valid_elbo"] / n_valid, color=_ORANGE, label="validation months")
    top.axvline(fit.best_step, color=GREY, linestyle="--", linewidth=1, label="state that is kept")
    late = history[steps >= 0.1 * steps.iloc[-1]]
    shown = np.concatenate([late["elbo"] / n_train, late["valid_elbo"] / n_valid])
    room = 0.15 * (shown.max() - shown.min() + 1e-9)
    top.set_ylim(shown.min() - 3 * room, shown.max() + room)
    label(top, "Evidence lower bound at KL weight 1", "gradient step", "nats a return")
    legend_above(top)
    kl = fit.kl_total.transpose(TIME, "step").values
    mesh = bottom.pcolormesh(
        fit.kl_total["step"].values,
        fit.kl_total[TIME].values,
        kl,
        cmap="cividis",
        vmin=0.0,
        vmax=float(np.quantile(kl, 0.995)),
        shading="nearest",
        rasterized=True,
    )
    label(bottom, "KL of the factors, month by month", "gradient step", "training month")
    top.set_xlim(0, steps.iloc[-1])
    bottom.set_xlim(0, steps.iloc[-1])
    bottom.grid(visible=False)
    bar = figure.colorbar(mesh, ax=bottom, extend="max", pad=0.01)
    bar.set_label("nats a month", fontsize=10)
    return figure


def draw_factors(factors: xr.Dataset, marks: dict[str, np.datetime64]) -> Figure:
    """Draw filtered factors over time with 90 % bands.

    Parameters
    ----------
    factors : Dataset
        Of ``principal_factors``.
    marks : mapping from a period's name to its first date
    """
    count = factors.sizes[FACTOR]
    title = "Filtered factors: what each month's returns say of them"
    figure = new_figure(title, height=1.2 + 1.45 * count)
    rows = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    times = factors[TIME].values
    for k, axes in enumerate(rows):
        one = factors.isel({FACTOR: k})
        low, high = 100 * one["low"].values, 100 * one["high"].values
        axes.fill_between(times, low, high, color=_BLUE, alpha=_BAND, linewidth=0)
        axes.plot(times, 100 * one["mean"].values, color=_BLUE, linewidth=1.0)
        axes.axhline(0.0, color=GREY, linewidth=0.7)
        share = f"{100 * float(one['share']):.1f} % of the common variation"
        last = k == count - 1
        label(axes, f"Principal factor {k + 1}: {share}", "month" if last else "", "% a month")
        months_axis(axes, times)
        since(axes, list(marks.values()), list(marks) if k == 0 else [""] * len(marks))
    figure.supxlabel(
        "Line: posterior mean given returns up to the month; band: 5 % to 95 %. "
        "Unit: root mean square effect on the assets.",
        fontsize=9,
        color=GREY,
    )
    return figure


def draw_forecast(table: pd.DataFrame) -> Figure:
    """Draw the predictive distribution of every asset for one month, best mean at the top.

    Parameters
    ----------
    table : DataFrame
        Of ``forecast_table``, one month. A column ``group`` is shown by colour, a column
        ``name`` in place of ids.
    """
    table = table.sort_values("mean").reset_index(drop=True)
    groups = table["group"] if "group" in table.columns else pd.Series("assets", table.index)
    kinds = sorted(set(groups))
    month = f"{table['date'].iloc[0]:%B %Y}"
    figure = new_figure(f"Predictive distributions for {month}", height=1.6 + 0.21 * len(table))
    axes = figure.subplots()
    for row in range(len(table)):
        values = table.iloc[row]
        colour = COLOURS[kinds.index(groups.iloc[row]) % len(COLOURS)]
        for ends, width in ((("q05", "q95"), 1.6), (("q25", "q75"), 5.0)):
            low, high = (100 * values[end] for end in ends)
            axes.plot([low, high], [row, row], color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot(100 * values["mean"], row, "o", color="white", markersize=4.5, mec="black")
    names = table["name"] if "name" in table.columns else table[ASSET]
    axes.set_yticks(range(len(table)), names)
    axes.axvline(0.0, color=GREY, linewidth=0.9)
    axes.set_ylim(-0.7, len(table) - 0.3)
    title = "Thin: 90 % interval, thick: 50 % interval, dot: mean. Assets by mean."
    label(axes, title, "excess return over the month, %", "asset")
    axes.tick_params(axis="y", labelsize=8.5)
    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], linewidth=4, label=kind)
        for k, kind in enumerate(kinds)
    ]
    if len(kinds) > 1:
        figure.legend(
            handles=handles, fontsize=9, loc="outside lower center", ncols=6, title="group"
        )
    return figure


def draw_calibration(result: Calibration) -> Figure:
    """Draw the histogram of the probability integral transform, and coverage against nominal."""
    title = (
        f"Calibration of one-month-ahead forecasts: {result.n_months} test months, "
        f"{result.n_returns:,} returns"
    )
    figure = new_figure(title, height=4.8)
    left, right = figure.subplots(1, 2)
    edges = result.edges
    low, high = result.heights_band
    left.stairs(
        high,
        edges,
        baseline=low,
        fill=True,
        color=GREY,
        alpha=_BAND,
        label=_BAND_NAME,
    )
    left.stairs(result.heights, edges, color=_BLUE, linewidth=2, label="returns")
    left.axhline(1.0, color=GREY, linewidth=1)
    label(left, "Where returns fall in their forecast", "probability integral transform", "density")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1.25 * max(result.heights.max(), high.max()))
    left.legend(fontsize=9, loc="upper right", frameon=False)
    draw_coverage(right, result, _BLUE, "returns", band=True)
    label(right, "Central intervals", "nominal coverage", "share of returns inside")
    right.legend(fontsize=9, loc="lower right", frameon=False)
    return figure


def draw_coverage(
    axes: Axes, result: Calibration, colour: str, name: str, *, band: bool = False
) -> None:
    """Draw actual against nominal coverage of central intervals."""
    if band:
        axes.fill_between(
            result.levels,
            *result.covered_band,
            color=GREY,
            alpha=_BAND,
            linewidth=0,
            label=_BAND_NAME,
        )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axes.plot(result.levels, result.covered, color=colour, linewidth=2, label=name)
    for which in (axes.xaxis, axes.yaxis):
        which.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")


def draw_volatility(
    size: xr.Dataset, portfolio: xr.Dataset, marks: dict[str, np.datetime64], window: int
) -> Figure:
    """Draw predicted against realised volatility over time.

    Parameters
    ----------
    size : Dataset
        Of ``typical_size``.
    portfolio : Dataset
        Of ``portfolio_volatility``.
    marks : mapping from a period's name to its first date
    window : int
        Months of the realised volatility.
    """
    figure = new_figure("Volatility: predicted a month ahead, and realised", height=6.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    times = size[TIME].values
    top.fill_between(
        times,
        100 * size["low"].values,
        100 * size["high"].values,
        color=_BLUE,
        alpha=_BAND,
        linewidth=0,
        label="predicted 5 % to 95 %",
    )
    top.plot(times, 100 * size["median"].values, color=_BLUE, label="median")
    realised = 100 * size["realised"].values
    top.plot(times, realised, ".", color=_ORANGE, markersize=4.5, label="realised")
    outside = float(((size["realised"] < size["low"]) | (size["realised"] > size["high"])).mean())
    title = f"Size of a month's returns, {100 * (1 - outside):.0f} % in the band"
    label(top, title, "", "root mean square\nover the assets, %")
    bottom.plot(times, 100 * portfolio["predicted"].values, color=_BLUE, label="predicted")
    name = f"realised, {window} months around"
    bottom.plot(times, 100 * portfolio["realised"].values, color=_ORANGE, label=name)
    label(bottom, "Equally weighted portfolio", "month", "standard deviation,\n% a month")
    for axes in (top, bottom):
        axes.set_ylim(0, None)
        months_axis(axes, times)
        legend_above(axes)
    since(top, list(marks.values()), list(marks))
    since(bottom, list(marks.values()), [""] * len(marks))
    figure.supxlabel(
        "Predictions know returns up to the month before. The weights were fitted on the training "
        "months, so only the test months are out of sample.",
        fontsize=9,
        color=GREY,
    )
    return figure
