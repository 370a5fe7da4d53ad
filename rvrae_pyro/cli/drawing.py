"""The look of the pictures: one palette, labelled axes, no global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.dates as mdates
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rvrae_pyro.cli.files import replaced

__all__ = [
    "COLOURS",
    "GREY",
    "label",
    "legend_above",
    "months_axis",
    "new_figure",
    "save_figure",
    "since",
]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, which the colour-blind tell apart."""

GREY: Final = "#595959"
_DPI: Final = 110


def new_figure(title: str, width: float = 10.0, height: float = 6.0) -> Figure:
    """Make an empty figure with a title; nobody else's settings are touched."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Give axes a title, a label for each axis, and a quiet grid."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.grid(visible=True, color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(axes: Axes) -> None:
    """Put the legend above the axes, to the right of the title, where it covers nothing."""
    axes.legend(
        fontsize=9,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=4,
        frameon=False,
        borderaxespad=0.2,
    )


def months_axis(axes: Axes, times: "np.ndarray[Any, Any]") -> None:
    """Fit the x axis to the months shown, a handful of years marked."""
    axes.set_xlim(times[0], times[-1])
    locator = mdates.AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)


def since(axes: Axes, dates: Sequence[Any], names: Sequence[str]) -> None:
    """Mark where periods begin, with their names at the top."""
    for date, name in zip(dates, names, strict=True):
        axes.axvline(date, color=GREY, linewidth=0.9, linestyle=":")
        axes.annotate(
            name,
            (date, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=GREY,
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, the same bytes for the same picture."""
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "rvrae_pyro"})
