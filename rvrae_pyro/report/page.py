"""The page: sections in order, with their style and script inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Final

import xarray as xr

from rvrae_pyro._version import __version__
from rvrae_pyro.report import evidence, outlook, words
from rvrae_pyro.report.facts import Facts, gather
from rvrae_pyro.report.html import escaped

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit

__all__ = ["build_report", "write_page"]

Section = tuple[str, str, Callable[[Facts], str]]

SECTIONS: Final[Sequence[Section]] = (
    ("in-short", "In short", outlook.summary),
    ("trust", "Can it be trusted?", outlook.trust),
    ("assets", "{ahead}, asset by asset", outlook.ranking),
    ("books", "Risk of portfolios", outlook.portfolios),
    ("forecasts", "What the forecasts are made of", outlook.made_of),
    ("factors", "The factors, and what they are", evidence.factors),
    ("calibration", "Did earlier forecasts hold?", evidence.calibration),
    ("ipca", "Beside IPCA and EWMA", evidence.comparison),
    ("caveats", "What not to conclude", evidence.closing),
)


def build_report(
    fit: Fit,
    panel: xr.Dataset,
    raw: xr.Dataset | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> str:
    """Write a report on a fit and its forecast of the panel's last listed month.

    Parameters
    ----------
    fit : Fit
    panel : Dataset
        Prepared as for the fit (ranked, with its context). Months after training judge the
        forecasts; the last listed row is forecast, whether it has returns or not.
    raw : Dataset, optional
        A panel with text coordinates on ``asset`` (names, groups); ``panel`` unless told.
    num_samples : int
        Draws, 1000 at least.
    seed : int
        Same seed, same page.

    Returns
    -------
    str
        One HTML page that needs nothing else: no network, no files.

    Raises
    ------
    PanelError
        If no asset is listed.
    ConfigError
        If ``num_samples`` is too few for a tail of 1 %.

    Notes
    -----
    Cost: two passes of the particle filter over the panel, fits of IPCA and EWMA, draws of the
    judged months.
    """
    return write_page(gather(fit, panel, panel if raw is None else raw, num_samples, seed))


def write_page(facts: Facts) -> str:
    """Lay the facts out as HTML; see :func:`build_report`."""
    folder = resources.files("rvrae_pyro.report")
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    title = escaped(words.headline(facts))
    ahead = words.ahead(facts)
    ahead = ahead[0].upper() + ahead[1:]
    heads = {name: escaped(head.format(ahead=ahead)) for name, head, _ in SECTIONS}
    links = "".join(f'<li><a href="#{name}">{head}</a></li>' for name, head in heads.items())
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heads[name]}</h2>'
        f"{write(facts)}</section>"
        for name, _, write in SECTIONS
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head><body>'
        '<a class="skip" href="#main">Skip to the report</a>'
        f'<header><button type="button" class="theme" hidden>Dark colours</button><h1>{title}</h1>'
        f'<nav aria-label="Sections"><ol>{links}</ol></nav></header>'
        f'<main id="main" tabindex="-1">{body}</main>'
        f"<footer>Made by rvrae_pyro {escaped(__version__)}. Forecasts are not advice.</footer>"
        '<div id="said" class="said" role="status" aria-live="polite"></div>'
        f"<script>{script}</script></body></html>\n"
    )
