"""The tables as pictures: one dot a model with its standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rvrae_pyro.atomic import replacing
from rvrae_pyro.experiments.scoring import METRICS

_BLUE, _GREY = "#0072B2", "#595959"
_COLUMNS: Final = 3


def draw_table(rows: pd.DataFrame, title: str) -> Figure:
    """Draw every metric of a table, models from top to bottom.

    Parameters
    ----------
    rows : DataFrame
        ``model``, ``omitted``, ``metric``, ``estimate``, ``standard_error``.
    title : str

    Returns
    -------
    Figure
        Dots with bars of two standard errors to each side.
    """
    metrics = list(dict.fromkeys(rows["metric"]))
    several = rows["omitted"].nunique() > 1
    names = [_name(row, several) for row in rows.itertuples()]
    order = list(dict.fromkeys(names))
    rows = rows.assign(name=names)
    n_rows = -(-len(metrics) // _COLUMNS)
    height = 1.2 + n_rows * (1.1 + 0.24 * len(order))
    figure = Figure(figsize=(11, height), dpi=110, layout="constrained")
    figure.suptitle(f"{title} (bars: two standard errors)", fontsize=13, fontweight="bold")
    grid = figure.subplots(n_rows, min(_COLUMNS, len(metrics)), squeeze=False, sharey=True)
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    for metric, axes in zip(metrics, grid.flat, strict=False):
        mine = rows[(rows["metric"] == metric) & np.isfinite(rows["estimate"])]
        scale = METRICS[metric].scale
        place = [order.index(name) for name in mine["name"]]
        axes.errorbar(
            scale * mine["estimate"],
            place,
            xerr=2.0 * scale * mine["standard_error"].fillna(0.0),
            fmt="o",
            color=_BLUE,
            markersize=4.5,
            linewidth=1.4,
        )
        axes.axvline(0.0, color=_GREY, linewidth=0.6)
        axes.set_xlabel(METRICS[metric].label, fontsize=9.5)
        axes.set_yticks(range(len(order)), order, fontsize=9)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.grid(visible=True, axis="x", color="#E5E5E5", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if not mine.empty and (scale * mine["estimate"]).abs().min() > 20:
            # far from zero the line there would flatten what there is to see
            low = (scale * (mine["estimate"] - 2.5 * mine["standard_error"].fillna(0.0))).min()
            high = (scale * (mine["estimate"] + 2.5 * mine["standard_error"].fillna(0.0))).max()
            room = 0.05 * (high - low) + 1e-9
            axes.set_xlim(low - room, high + room)
    return figure


def _name(row: object, several: bool) -> str:
    model, omitted = str(row.model), row.omitted  # type: ignore[attr-defined]
    return f"{model}, {omitted} omitted" if several else model


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "rvrae_pyro"})
