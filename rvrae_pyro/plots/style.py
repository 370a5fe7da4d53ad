"""Look of the pictures: palettes, canvases, axes, legends, dates, and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import dates as mdates
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rvrae_pyro.atomic import replacing
from rvrae_pyro.errors import ConfigError

Style = Literal["light", "dark"]

BAND: Final = 0.28
"""Opacity of bands."""

# Okabe and Ito's colours, which readers with colour-blindness can distinguish. On a dark
# background the dark blue comes last.
_LIGHT: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DARK: Final = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")

_DPI: Final = 130


@dataclass(frozen=True)
class Theme:
    """Colours of one picture; ``palette`` has those of data, the main one first."""

    background: Any
    text: Any
    label: Any
    tick: Any
    edge: Any
    muted: Any
    grid: Any
    palette: tuple[str, ...]

    def colour(self, position: int) -> str:
        """Return a colour of the palette, which repeats."""
        return self.palette[position % len(self.palette)]


_THEMES: Final = {
    "light": Theme("#FFFFFF", "#1A1A1A", "#1A1A1A", "#333333", "#555555", "#595959", "#E3E3E3",
                   _LIGHT),
    "dark": Theme("#15181C", "#ECECEC", "#ECECEC", "#D0D0D0", "#9A9A9A", "#A8A8A8", "#32373D",
                  _DARK),
}  # fmt: skip


def _theme(style: Style | None, ax: Axes | None) -> Theme:
    if style is not None:
        if not isinstance(style, str) or style not in _THEMES:
            raise ConfigError(
                f"`style` must be 'light', 'dark' or None (matplotlib's settings); got {style!r}."
            )
        return _THEMES[style]
    settings = mpl.rcParams
    background = settings["axes.facecolor"] if ax is None else _background(ax)
    dark = _luminance(background) < 0.4
    text = settings["text.color"]
    return Theme(
        background,
        text,
        settings["axes.labelcolor"],
        settings["xtick.color"],
        settings["axes.edgecolor"],
        _blend(text, background, 0.65),
        _blend(text, background, 0.12),
        _DARK if dark else _LIGHT,
    )


def _background(ax: Axes) -> Any:
    """Colour behind given axes: theirs, else the figure's, else that of the settings."""
    figure = ax.get_figure(root=True)
    for colour in (ax.get_facecolor(), figure.get_facecolor() if figure is not None else None):
        if colour is not None and to_rgba(colour)[3] > 0:
            return colour
    # transparent: what the text is readable on
    return "black" if _luminance(mpl.rcParams["text.color"]) > 0.5 else "white"


def _luminance(colour: Any) -> float:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _blend(front: Any, back: Any, share: float) -> tuple[float, ...]:
    pairs = zip(to_rgb(front), to_rgb(back), strict=True)
    return tuple(share * a + (1.0 - share) * b for a, b in pairs)


@dataclass(frozen=True)
class Canvas:
    """Axes to draw on, and what to return; ``own`` tells whether the figure was made here."""

    theme: Theme
    axes: list[Axes]
    figure: Figure
    own: bool

    @property
    def result(self) -> Figure | Axes:
        """The axes where there is one panel, else the figure."""
        return self.axes[0] if len(self.axes) == 1 else self.figure


def canvas(
    ax: object,
    style: Style | None,
    panels: int = 1,
    *,
    columns: int = 1,
    size: tuple[float, float] = (8.0, 3.6),
    remedy: str = "",
    **keywords: Any,
) -> Canvas:
    """Return given axes, or those of a new pyplot figure.

    Parameters
    ----------
    ax : Axes, sequence of Axes, or None
    style : {"light", "dark"} or None
    panels : int
        Axes that are needed.
    columns, size, **keywords
        Of the grid of a new figure; its width and height in inches; of ``Figure.subplots``.
    remedy : str
        How to draw on fewer axes, for the message.
    """
    if ax is None:
        import matplotlib.pyplot as plt

        theme = _theme(style, None)
        figure = plt.figure(figsize=size, layout="constrained")
        if style is not None:
            figure.set_facecolor(theme.background)
        rows = -(-panels // columns)
        grid = figure.subplots(rows, columns, squeeze=False, **keywords)
        for spare in grid.flat[panels:]:
            spare.set_visible(False)
        return Canvas(theme, list(grid.flat[:panels]), figure, True)
    given = [ax] if isinstance(ax, Axes) else ax
    if isinstance(given, np.ndarray):
        given = given.ravel().tolist()
    if not isinstance(given, Sequence) or not all(isinstance(each, Axes) for each in given):
        raise ConfigError(
            f"`ax` must be matplotlib Axes, got {type(ax).__name__}. Take one from "
            "`plt.subplots()`, or leave it out for a new figure."
        )
    if len(given) != panels:
        raise ConfigError(
            f"`ax` must be {panels} Axes for {panels} panels, got {len(given)}."
            f"{remedy and ' '}{remedy}"
        )
    figure = given[0].get_figure(root=True)
    return Canvas(_theme(style, given[0]), list(given), figure, False)


def dress(
    ax: Axes, theme: Theme, title: str, x: str, y: str, *, grid: Literal["both", "x", "y"] = "both"
) -> None:
    """Give axes a title, labels with units, and a quiet grid, in the colours of the theme."""
    ax.set_title(title, fontsize=10.5, loc="left", color=theme.text)
    ax.set_xlabel(x, fontsize=9.5, color=theme.label)
    ax.set_ylabel(y, fontsize=9.5, color=theme.label)
    ax.grid(visible=False)
    ax.grid(visible=True, axis=grid, color=theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.set_facecolor(theme.background)
    ax.tick_params(labelsize=8.5, colors=theme.tick, labelcolor=theme.tick)
    for text in (ax.xaxis.get_offset_text(), ax.yaxis.get_offset_text()):
        text.set_color(theme.tick)
        text.set_fontsize(8.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(theme.edge)


def legend(ax: Axes, theme: Theme, handles: Sequence[Any] | None = None) -> None:
    """Put the legend between title and axes, in as many rows as it needs to cover nothing."""
    if handles is None:
        handles, texts = ax.get_legend_handles_labels()
    else:
        texts = [str(handle.get_label()) for handle in handles]
    if not texts:
        return
    width = ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
    columns, rows = _grid([0.45 + 0.066 * len(text) for text in texts], width)
    ax.legend(
        handles=list(handles),
        labels=list(texts),
        fontsize=8.5,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.1,
        handlelength=1.6,
        columnspacing=1.4,
        labelcolor=theme.text,
    )
    ax.set_title(ax.get_title(loc="left"), fontsize=10.5, loc="left", color=theme.text,
                 pad=8 + 14.5 * rows)  # fmt: skip


def _grid(entries: Sequence[float], width: float) -> tuple[int, int]:
    """Columns and rows of a legend, filled by column, whose entries have these widths."""
    for columns in range(len(entries), 1, -1):
        rows = -(-len(entries) // columns)
        widest = [max(entries[k : k + rows]) for k in range(0, len(entries), rows)]
        if sum(widest) <= width:
            return columns, rows
    return 1, len(entries)


def date_axis(ax: Axes, times: NDArray[Any]) -> None:
    """Fit the x axis to the dates shown, a handful of them marked."""
    if len(times) > 1:
        ax.set_xlim(times[0], times[-1])
    locator = mdates.AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_formatter(formatter)


def mark_dates(ax: Axes, theme: Theme, marks: dict[str, Any], *, named: bool = True) -> None:
    """Mark where periods begin; names stand above the data, on several rows where they are close.

    Call last: the vertical axis is extended by the room that the names need.
    """
    low, high = ax.get_xlim()
    size = ax.get_position()
    figure = ax.get_figure(root=True)
    assert figure is not None  # axes that are drawn on have one
    width, height = (
        72 * size.width * figure.get_figwidth(),
        72 * size.height * figure.get_figheight(),
    )
    ends: list[float] = []  # of each row's last name, in points
    for name, date in sorted(marks.items(), key=lambda item: np.asarray(item[1], "datetime64[ns]")):
        place = float(mdates.date2num(np.asarray(date, "datetime64[ns]")))  # type: ignore[no-untyped-call]
        if not low <= place < high:
            continue
        ax.axvline(place, color=theme.muted, linewidth=0.9, linestyle=":")
        if not named:
            continue
        start, length = width * (place - low) / (high - low) + 3, 4.6 * len(name)
        right = start + length > width
        start -= length + 6 if right else 0
        row = next((k for k, end in enumerate(ends) if end < start), len(ends))
        ends[row : row + 1] = [start + length + 4]
        ax.annotate(
            name,
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, -2 - 11 * row),
            textcoords="offset points",
            va="top",
            ha="right" if right else "left",
            fontsize=8.0,
            color=theme.muted,
        )
    if ends:
        bottom, top = ax.get_ylim()
        room = min(0.5, (11 * len(ends) + 3) / height)
        ax.set_ylim(bottom, bottom + (top - bottom) / (1.0 - room))


def note(where: Canvas, text: str) -> None:
    """Put a remark under a figure of several panels that was made here."""
    if where.own:
        where.figure.supxlabel(text, fontsize=8.5, color=where.theme.muted)


def save_picture(picture: Figure | Axes, path: Path) -> None:
    """Write a picture as PNG, atomically, and close its figure; same picture, same bytes."""
    import matplotlib.pyplot as plt

    figure = picture if isinstance(picture, Figure) else picture.get_figure(root=True)
    assert figure is not None  # axes that were drawn on have one
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": "rvrae_pyro"})
    plt.close(figure)
