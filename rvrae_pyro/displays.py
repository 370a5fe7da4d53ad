"""HTML displays of objects in notebooks: everything that comes from data is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

_STYLE: Final = (
    "<style>.rvrae{font-size:13px;line-height:1.45;max-width:60em}"
    ".rvrae table{border-collapse:collapse;margin:.3em 0}"
    ".rvrae th,.rvrae td{text-align:left;vertical-align:top;padding:.15em .8em .15em 0;"
    "border-bottom:1px solid rgba(128,128,128,.3);background:none}"
    ".rvrae th{font-weight:600;white-space:nowrap}"
    ".rvrae td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".rvrae summary{cursor:pointer}"
    ".rvrae .b{display:inline-block;min-width:3.6em;padding:0 .5em;border-radius:.3em;"
    "text-align:center;font-weight:600;color:#fff}"
    ".rvrae .good{background:#00694C}.rvrae .look{background:#8A5A00}"
    ".rvrae .bad{background:#B3261E}"
    "</style>"
)

_WORDS: Final = {"good": "ok", "look": "look", "bad": "bad"}


def badge(verdict: str) -> str:
    """Write a verdict ("good", "look" or "bad") as a coloured word."""
    return f'<span class="b {escape(verdict)}">{escape(_WORDS.get(verdict, verdict))}</span>'


def pairs(rows: Mapping[str, object]) -> str:
    """Write names and values as a table of two columns."""
    lines = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def grid(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; numbers are aligned to the right."""
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def fold(title: str, body: str) -> str:
    """Put HTML behind a title that opens it."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def listing(texts: Iterable[str]) -> str:
    """Write texts as a list."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def card(title: str, *parts: str) -> str:
    """Put HTML under a title, with the style of all displays."""
    return f'<div class="rvrae">{_STYLE}<strong>{escape(title)}</strong>{"".join(parts)}</div>'


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    return (
        f'<td class="n">{escape(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")}</td>'
    )


NEGLIGIBLE: Final = 1e-4
"""Share below which :func:`share_text` writes no number."""


def share_text(share: float) -> str:
    """Write a share in % with two digits; less than 0.01 % is called so."""
    return "less than 0.01 %" if share < NEGLIGIBLE else f"{100 * min(share, 1.0):.2g} %"
