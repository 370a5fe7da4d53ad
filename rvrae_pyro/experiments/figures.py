"""Tables as pictures: one dot per model with its standard error."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rvrae_pyro.experiments.scoring import METRICS
from rvrae_pyro.plots._style import canvas, dress

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
    on = canvas(
        None,
        "light",
        len(metrics),
        columns=min(_COLUMNS, len(metrics)),
        size=(11.0, 1.2 + n_rows * (1.1 + 0.24 * len(order))),
        sharey=True,
    )
    theme = on.theme
    on.figure.suptitle(f"{title} (bars: two standard errors)", fontsize=12.5, color=theme.text)
    for metric, axes in zip(metrics, on.axes, strict=True):
        mine = rows[(rows["metric"] == metric) & np.isfinite(rows["estimate"])]
        scale = METRICS[metric].scale
        estimate = scale * mine["estimate"]
        error = scale * mine["standard_error"].fillna(0.0)
        place = [order.index(name) for name in mine["name"]]
        axes.errorbar(
            estimate, place, xerr=2.0 * error, fmt="o", color=theme.colour(0), ms=4.5, linewidth=1.4
        )
        axes.axvline(0.0, color=theme.muted, linewidth=0.6)
        dress(axes, theme, "", METRICS[metric].label, "", grid="x")
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.5, -0.5)
        if not mine.empty and estimate.abs().min() > 20:
            # far from zero the line there would flatten the differences
            low, high = (estimate - 2.5 * error).min(), (estimate + 2.5 * error).max()
            room = 0.05 * (high - low) + 1e-9
            axes.set_xlim(low - room, high + room)
    return on.figure


def _name(row: object, several: bool) -> str:
    model, omitted = str(row.model), row.omitted  # type: ignore[attr-defined]
    return f"{model}, {omitted} omitted" if several else model
