"""The page: templates filled with the results in :class:`~rvrae_pyro.report.facts.Facts`."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rvrae_pyro._version import __version__
from rvrae_pyro.report.charts import charts_of
from rvrae_pyro.report.facts import Facts, gather
from rvrae_pyro.report.forecast_sections import forecast_sections
from rvrae_pyro.report.tables import day
from rvrae_pyro.report.validation_sections import validation_sections

if TYPE_CHECKING:
    from rvrae_pyro.fitting.fit import Fit

SECTIONS: Final = {
    "in-short": "In short",
    "books": "Risk of portfolios",
    "trust": "Can it be trusted?",
    "changes": "Since the last {period}",
    "assets": "{ahead}, asset by asset",
    "forecasts": "What the forecasts are made of",
    "factors": "The factors, and what they are",
    "calibration": "Did earlier forecasts hold?",
    "rivals": "Beside IPCA and EWMA",
    "caveats": "What not to conclude",
}
"""Headings by id, in order; each is a block of the template."""


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
        A panel with text coordinates on ``asset`` (names, groups). Default: ``panel``.
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
    Cost: three passes of the particle filter over the panel, fits of IPCA and EWMA, draws of the
    judged months.
    """
    return write_page(gather(fit, panel, panel if raw is None else raw, num_samples, seed))


def write_page(facts: Facts) -> str:
    """Lay the facts out as HTML; see :func:`build_report`."""
    folder = resources.files("rvrae_pyro.report")
    style, script = (
        Markup((folder / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")
    )
    ahead = facts.ahead[0].upper() + facts.ahead[1:]
    heads = {name: head.format(ahead=ahead, period=facts.period) for name, head in SECTIONS.items()}
    environment = Environment(
        loader=PackageLoader("rvrae_pyro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        title=f"Return and risk forecast, {day(facts.live, facts.period)}",
        heads=heads,
        style=style,
        script=script,
        version=__version__,
        charts=charts_of(facts),
        **forecast_sections(facts),
        **validation_sections(facts),
    )
