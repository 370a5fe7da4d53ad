"""Numbers, dates and tables of the page as data: the templates lay them out and escape them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
import pandas as pd


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def real_minus(text: str) -> str:
    """Write the minus of numbers inside a sentence as :func:`number` does; not that of dates."""
    return re.sub(r"(?<![\w.\-])-(?=[\d.])", "−", text)


def percent(value: SupportsFloat, digits: int = 1, *, sign: bool = False) -> str:
    """Write a share or a return in %, without the sign %."""
    return number(100 * float(value), digits, sign=sign)


def day(date: np.datetime64, period: str) -> str:
    """Write a row's date: March 2017, or 2017-03-03 where rows are weeks or days."""
    stamp = pd.Timestamp(date)
    return f"{stamp:%B %Y}" if period == "month" else f"{stamp:%Y-%m-%d}"


def span(dates: Sequence[np.datetime64] | np.ndarray, period: str) -> str:
    """Write the first and last of some dates, and how many they are."""
    ends = f"{day(dates[0], period)} to {day(dates[-1], period)}"
    return f"{ends} ({len(dates)} {period}s)"


def inside(name: str) -> str:
    """Write a portfolio's name inside a sentence."""
    return name[0].lower() + name[1:]


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
    """Cell whose text is not its sort key, or that holds a small picture.

    Attributes
    ----------
    text : str
    sort : float or str
        Default: the text.
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


@dataclass(frozen=True)
class Figures:
    """Column of numbers, from the column ``key`` of a frame.

    Attributes
    ----------
    head, key, meaning : str
    digits : int or None
        Of the number in %; None for a count.
    sign : bool
        Write the sign of positive numbers, too.
    full : float or None
        Draw bars in place of text; this number fills the cell.
    """

    head: str
    key: str
    digits: int | None = 2
    meaning: str = ""
    sign: bool = False
    full: float | None = None

    def cell(self, value: float) -> str | Cell:
        """Write one number."""
        if self.full is not None:
            return Cell(bar=100 * value / self.full, sort=float(value))
        if self.digits is None:
            return str(int(value))
        return percent(value, self.digits, sign=self.sign)


def table_of(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    head: str,
    figures: Sequence[Figures],
    names: dict[str, str] | None = None,
) -> Table:
    """Lay a frame out: a row for each of its rows, headed by the index.

    Parameters
    ----------
    frame : DataFrame
    name, caption, head : str
        Id and caption of the table, heading of the index.
    figures : sequence of Figures
        Columns.
    names : dict, optional
        Texts in place of labels of the index.
    """
    columns = [
        Column(head, numeric=False),
        *(Column(each.head, each.meaning, each.full is None) for each in figures),
    ]
    rows = [
        [(names or {}).get(str(label), str(label)), *(each.cell(row[each.key]) for each in figures)]
        for label, row in frame.iterrows()
    ]
    return Table(name, caption, columns, rows)
