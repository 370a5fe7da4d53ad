"""Pieces of HTML: everything that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = [
    "Cell",
    "Column",
    "badge",
    "escaped",
    "figure",
    "listing",
    "number",
    "paragraph",
    "table",
]


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, what it means, and whether it holds numbers."""

    head: str
    meaning: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell whose text is not what it sorts by, or that holds HTML of ours."""

    text: str
    sort: float | str = ""
    html: str = ""


def escaped(text: str) -> str:
    """Make text safe inside HTML."""
    return escape(text)


def number(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """Write a number with a real minus sign; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """Write a share or a return in %, without the sign."""
    return number(100 * value, digits)


def paragraph(text: str, kind: str = "") -> str:
    """Write a paragraph of plain text."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{escape(text)}</p>"


def listing(items: Sequence[str]) -> str:
    """Write a bulleted list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def badge(kind: str, text: str) -> str:
    """Write a word that stands out; its colour repeats what the word says."""
    return f'<span class="badge {escape(kind)}">{escape(text)}</span>'


def figure(picture: str, caption: str) -> str:
    """Put a picture above its caption."""
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | Cell]],
    *,
    sortable: bool = False,
) -> str:
    """Write a table that scrolls sideways on a narrow screen.

    Parameters
    ----------
    name : str
        Its id, unique on the page.
    caption : str
    columns : sequence of Column
        The first one heads the rows.
    rows : sequence of rows
        Of text, or of :class:`Cell`.
    sortable : bool
        Headings are buttons that sort.
    """
    heads = "".join(_head(column, sortable) for column in columns)
    body = "".join(_row(row, columns) for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table id="{name}"{kind}><caption><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _head(column: Column, sortable: bool) -> str:
    kind = ' class="n"' if column.numeric else ""
    hint = f' title="{escape(column.meaning)}"' if column.meaning else ""
    text = escape(column.head)
    if sortable:
        inner = f'<button type="button"{hint}>{text}<span aria-hidden="true"></span></button>'
        return f'<th scope="col"{kind} aria-sort="none">{inner}</th>'
    return f'<th scope="col"{kind}{hint}>{text}</th>'


def _row(row: Sequence[str | Cell], columns: Sequence[Column]) -> str:
    cells = []
    for position, (value, column) in enumerate(zip(row, columns, strict=True)):
        cell = value if isinstance(value, Cell) else Cell(value)
        sort = f' data-v="{escape(str(cell.sort))}"' if cell.sort != "" else ""
        inner = cell.html or escape(cell.text)
        kind = ' class="n"' if column.numeric else ""
        if position:
            cells.append(f"<td{kind}{sort}>{inner}</td>")
        else:
            cells.append(f'<th scope="row"{kind}{sort}>{inner}</th>')
    return f"<tr>{''.join(cells)}</tr>"
