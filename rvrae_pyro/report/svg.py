"""Small pictures as SVG whose colours follow the page, so that light and dark both read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plot", "nice_ticks", "plain", "years"]

Array = NDArray[np.float64]

_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 12.0, 12.0, 40.0
_MOST_TICKS: Final = 7


def years(times: NDArray[np.datetime64]) -> Array:
    """Turn dates into decimal years, for an axis."""
    days = times.astype("datetime64[D]")
    start = days.astype("datetime64[Y]")
    length = (start + np.timedelta64(1, "Y")).astype("datetime64[D]") - start.astype(days.dtype)
    inside = (days - start.astype(days.dtype)) / length
    position: Array = 1970.0 + start.astype(np.int64) + inside
    return position


def nice_ticks(low: float, high: float, most: int = _MOST_TICKS) -> list[float]:
    """Return round numbers between two ends, at most ``most`` of them, 1, 2 or 5 times 10^k apart.

    Parameters
    ----------
    low, high : float
        ``low < high``.
    most : int
        At least 2.
    """
    raw = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def plain(value: float) -> str:
    """Write a tick without trailing zeros."""
    return f"{value:.10g}".replace("-", "−")


class Plot:
    """One set of axes; marks are drawn in the order they are added.

    Parameters
    ----------
    x, y : (low, high)
        Ends of the axes, in data units; what lies outside is clipped.
    x_label, y_label : str
    x_ticks : sequence of float, optional
        Round numbers unless told.
    tick : callable
        Writes a tick of the y axis.
    height : float
        In units of which the width has 460.
    """

    width: Final = 460.0

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str = "",
        y_label: str = "",
        *,
        x_ticks: Sequence[float] | None = None,
        tick: Callable[[float], str] = plain,
        height: float = 250.0,
    ) -> None:
        self.x, self.y, self.height, self.tick = _apart(x), _apart(y), height, tick
        self.labels = (x_label, y_label)
        self.x_ticks = nice_ticks(*self.x) if x_ticks is None else x_ticks
        self.marks: list[str] = []

    def line(self, x: Array, y: Array, kind: str) -> None:
        """Draw a line; NaN breaks it. ``kind`` is a class of the page's style."""
        path, pen = [], "M"
        for a, b in zip(self._across(x), self._up(y), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                path.append(f"{pen}{a:.1f},{b:.1f}")
                pen = "L"
            else:
                pen = "M"
        self.marks.append(f'<path class="line {kind}" d="{"".join(path)}"/>')

    def band(self, x: Array, low: Array, high: Array, kind: str) -> None:
        """Fill between two lines; months where either is NaN are left out."""
        seen = np.isfinite(low) & np.isfinite(high)
        if not seen.any():
            return
        across = self._across(x[seen])
        top, bottom = self._up(high[seen]), self._up(low[seen])
        there = [f"{a:.1f},{b:.1f}" for a, b in zip(across, top, strict=True)]
        back = [f"{a:.1f},{b:.1f}" for a, b in zip(across, bottom, strict=True)]
        self.marks.append(f'<polygon class="{kind}" points="{" ".join(there + back[::-1])}"/>')

    def stairs(self, edges: Array, heights: Array, kind: str) -> None:
        """Draw a histogram's outline."""
        self.line(np.repeat(edges, 2)[1:-1], np.repeat(heights, 2), kind)

    def points(self, x: Array, y: Array, kind: str, radius: float = 2.6) -> None:
        """Draw dots."""
        for a, b in zip(self._across(x), self._up(y), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                self.marks.append(
                    f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="{radius:g}"/>'
                )

    def level(self, y: float, kind: str = "rule") -> None:
        """Draw a horizontal line across."""
        self.line(np.array(self.x), np.array([y, y]), kind)

    def mark(self, x: float, text: str, row: int = 0) -> None:
        """Draw a vertical line with a word at its top, ``row`` lines down."""
        if not self.x[0] < x < self.x[1]:
            return
        a = float(self._across(np.array([x]))[0])
        right = a > 0.75 * self.width
        self.marks.append(
            f'<path class="line mark" d="M{a:.1f},{_TOP:g}V{self.height - _BOTTOM:g}"/>'
            f'<text class="note" x="{a - 4 if right else a + 4:.1f}" y="{_TOP + 11 + 14 * row:g}" '
            f'text-anchor="{"end" if right else "start"}">{escape(text)}</text>'
        )

    def svg(self, title: str, description: str, name: str) -> str:
        """Write the picture out.

        Parameters
        ----------
        title, description : str
            What a screen reader says.
        name : str
            Unique on the page; letters, digits and hyphens.
        """
        box = (
            f'<clipPath id="{name}-c"><rect x="{_LEFT:g}" y="{_TOP:g}" '
            f'width="{self.width - _LEFT - _RIGHT:g}" height="{self.height - _TOP - _BOTTOM:g}"/>'
            "</clipPath>"
        )
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
            f'<desc id="{name}-d">{escape(description)}</desc>{box}{self._axes()}'
            f'<g clip-path="url(#{name}-c)">{"".join(self.marks)}</g></svg>'
        )

    def _axes(self) -> str:
        floor, right = self.height - _BOTTOM, self.width - _RIGHT
        parts = []
        for value in nice_ticks(*self.y, most=6):
            b = float(self._up(np.array([value]))[0])
            parts.append(
                f'<path class="grid" d="M{_LEFT:g},{b:.1f}H{right:g}"/>'
                f'<text x="{_LEFT - 6:g}" y="{b + 4:.1f}" text-anchor="end">'
                f"{escape(self.tick(value))}</text>"
            )
        for value in self.x_ticks:
            a = float(self._across(np.array([value]))[0])
            parts.append(
                f'<path class="tick" d="M{a:.1f},{floor:g}v4"/><text x="{a:.1f}" '
                f'y="{floor + 17:g}" text-anchor="middle">{escape(plain(value))}</text>'
            )
        middle = (_LEFT + right) / 2
        across, up = self.labels
        half = (_TOP + floor) / 2
        parts.append(
            f'<path class="axis" d="M{_LEFT:g},{floor:g}H{right:g}"/>'
            f'<text class="name" x="{middle:g}" y="{self.height - 5:g}" text-anchor="middle">'
            f'{escape(across)}</text><text class="name" text-anchor="middle" '
            f'transform="translate(11,{half:g}) rotate(-90)">{escape(up)}</text>'
        )
        return "".join(parts)

    def _across(self, x: Any) -> Array:
        low, high = self.x
        share = (np.asarray(x, dtype=np.float64) - low) / (high - low)
        place: Array = _LEFT + share * (self.width - _LEFT - _RIGHT)
        return place

    def _up(self, y: Any) -> Array:
        low, high = self.y
        share = (np.asarray(y, dtype=np.float64) - low) / (high - low)
        place: Array = self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)
        return place


def _apart(ends: tuple[float, float]) -> tuple[float, float]:
    """Give ends of an axis that are finite and not the same."""
    low, high = (float(end) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-9):
        return low, high
    pad = max(abs(low), 1.0) * 0.5
    return low - pad, high + pad
