"""Numbers and tables of the page as data: the templates lay them out and escape them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: SupportsFloat, digits: int = 1, *, sign: bool = False) -> str:
    """Write a share or a return in %, without the sign %."""
    return number(100 * float(value), digits, sign=sign)


@dataclass(frozen=True)
class Column:
    """Column of a table: its heading, what it means, and whether it holds numbers."""

    head: str
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Interval:
    """Picture of an interval inside a cell: positions in % of the cell's width."""

    zero: float
    left: float
    width: float
    middle: float


@dataclass(frozen=True)
class Cell:
    """Cell whose text is not what it sorts by, or that holds a small picture.

    Attributes
    ----------
    text : str
    sort : float or str
        Key of sorting; the text where empty.
    bar : float or None
        Length of a bar in % of the cell's width, negative to the left of the middle.
    interval : Interval or None
    """

    text: str = ""
    sort: float | str = ""
    bar: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Table:
    """Table with its caption.

    Attributes
    ----------
    name : str
        Id, unique on the page.
    caption : str
    columns : sequence of Column
        The first one heads the rows.
    rows : list of rows
        Of :class:`Cell`; texts become cells.
    sortable : bool
        Headings are buttons that sort.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    sortable: bool = False
    cells: list[list[Cell]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Turn texts into cells."""
        cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]
        if any(len(row) != len(self.columns) for row in cells):
            raise ValueError(f"a row of {self.name!r} has another number of cells than columns")
        object.__setattr__(self, "cells", cells)
