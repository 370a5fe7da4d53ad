"""The pictures of the page."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.names import ASSET, FACTOR, TIME
from rvrae_pyro.report.svg import Plot, plain, years

__all__ = ["coverage_curve", "coverage_years", "factor_path", "mean_against_sd", "pit_histogram"]

_LONGEST: Final = 600  # rows of a path that are shown, the last ones
_CLOUD: Final = 2000  # dots at the most


def factor_path(
    factors: xr.Dataset, k: int, marks: dict[str, np.datetime64], period: str = "month"
) -> str:
    """Draw one principal factor with its 90 % band; the scale is shared by all of them."""
    shown = factors.isel({TIME: slice(-_LONGEST, None)})
    one = shown.isel({FACTOR: k})
    x = years(shown[TIME].values)
    low = 100 * float(shown["low"].quantile(0.002))
    high = 100 * float(shown["high"].quantile(0.998))
    plot = Plot((x[0], x[-1]), (low, high), "", f"% a {period}", height=200.0)
    plot.band(x, 100 * one["low"].values, 100 * one["high"].values, "band")
    plot.level(0.0)
    plot.line(x, 100 * one["mean"].values, "own")
    for row, (text, date) in enumerate(marks.items()):
        plot.mark(float(years(np.array([date]))[0]), text, row)
    label = int(factors[FACTOR].values[k])
    title = f"Principal factor {label}, {factors['name'].values[k]}"
    spread = 100 * float(one["mean"].std())
    described = (
        f"Posterior mean and 90 % band by {period}; its standard deviation is {spread:.1f} %."
    )
    return plot.svg(title, described, f"factor-{label}")


def pit_histogram(pooled: xr.Dataset) -> str:
    """Draw where returns fell in their forecast distribution, with a 95 % bootstrap band."""
    share, low, high = (
        pooled[name].values * pooled.sizes["bin"]
        for name in ("pit_share", "pit_lower", "pit_upper")
    )
    edges = np.linspace(0.0, 1.0, len(share) + 1)
    top = 1.15 * float(np.nanmax([share.max(), high.max(), 1.2]))
    plot = Plot((0.0, 1.0), (0.0, top), "share of the forecast below the return", "density")
    both = np.repeat(edges, 2)[1:-1]
    plot.band(both, np.repeat(low, 2), np.repeat(high, 2), "grey")
    plot.level(1.0)
    plot.stairs(edges, share, "own")
    described = f"A flat line at 1 is right. Bars from left to right: {_listed(share)}."
    return plot.svg("Where returns fell in their forecast", described, "pit")


def coverage_curve(pit: xr.DataArray) -> str:
    """Draw the share of returns inside central intervals against their nominal probability."""
    values = pit.values[np.isfinite(pit.values)]
    levels = np.linspace(0.02, 0.98, 49)
    width = 2 * np.abs(values - 0.5)
    actual = np.array([(width <= level).mean() for level in levels])
    tick = [0.0, 0.25, 0.5, 0.75, 1.0]
    plot = Plot(
        (0.0, 1.0), (0.0, 1.0), "nominal", "share of returns inside", x_ticks=tick, tick=plain
    )
    plot.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "rule")
    plot.line(levels, actual, "own")
    half, most = (100 * float((width <= level).mean()) for level in (0.5, 0.9))
    described = f"50 % intervals held {half:.0f} %, 90 % intervals {most:.0f} % of the returns."
    return plot.svg("Coverage of central intervals", described, "coverage")


def coverage_years(table: pd.DataFrame) -> str:
    """Draw the coverage of 90 % intervals by year."""
    years_, share = table["year"].to_numpy(float), 100 * table["coverage"].to_numpy()
    low = min(75.0, float(share.min()) - 3)
    ends = (years_.min() - 0.5, years_.max() + 0.5)
    step = max(1, int(np.ceil(len(years_) / 7)))
    plot = Plot(ends, (low, 101.0), "year", "% inside 90 %", x_ticks=years_[::step].tolist())
    plot.level(90.0)
    plot.line(years_, share, "own")
    plot.points(years_, share, "dot", 3.5)
    told = ", ".join(f"{int(y)}: {s:.0f} %" for y, s in zip(years_, share, strict=True))
    return plot.svg("Coverage of 90 % intervals by year", told, "by-year")


def mean_against_sd(ranking: pd.DataFrame) -> str:
    """Draw every asset by its risk and its mean forecast."""
    table = ranking.iloc[:: max(1, len(ranking) // _CLOUD)]
    x, y = 100 * table["sd"].to_numpy(), 100 * table["mean"].to_numpy()
    pad = 0.06
    ends = [
        (v.min() - pad * (np.ptp(v) + 1e-9), v.max() + pad * (np.ptp(v) + 1e-9)) for v in (x, y)
    ]
    top = (0.0 if ends[0][0] < 0 else ends[0][0], ends[0][1])
    plot = Plot(top, ends[1], "standard deviation, %", "mean forecast, %")
    plot.level(0.0)
    plot.points(x, y, "dot", 3.2 if len(table) < 200 else 1.8)
    best = ranking.iloc[0]
    described = (
        f"{len(table)} assets. Means run from {y.min():.1f} % to {y.max():.1f} %, standard "
        f"deviations from {x.min():.1f} % to {x.max():.1f} %. The highest mean is {best[ASSET]}."
    )
    return plot.svg("Risk and mean of every asset", described, "risk-mean")


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
