"""Pictures of the page: those of ``rv.plots`` as SVG whose colours follow the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from rvrae_pyro import plots
from rvrae_pyro.names import FACTOR, TIME
from rvrae_pyro.plots.style import canvas
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.portfolio_tables import EQUAL, PORTFOLIO
from rvrae_pyro.report.tables import inside, percent
from rvrae_pyro.risk import portfolio_draws

_LONGEST: Final = 600  # rows of a path that are shown, the last ones
_SIZE: Final = (5.0, 2.7)


@dataclass(frozen=True)
class Chart:
    """A picture and its caption."""

    svg: Markup
    caption: str


def charts_of(facts: Facts) -> dict[str, list[Chart]]:
    """Draw the pictures of every section that has some."""
    return {
        "books": [chart for chart in (_fan(facts), _tested(facts)) if chart is not None],
        "factors": [_factor(facts, k) for k in facts.alive],
        "calibration": _calibration(facts),
    }


def _fan(facts: Facts) -> Chart | None:
    if facts.paths is None:
        return None
    figure, axes = _empty()
    weights = facts.weights.to_series()
    plots.fan(facts.paths, weights=weights, ax=axes, style="light")
    axes.set_title("", loc="left")
    drawn = portfolio_draws(facts.paths, weights).isel({TIME: 0, "step": -1})
    steps = facts.paths["predictions"].sizes["step"]
    low, middle, high = np.quantile(drawn, (0.05, 0.5, 0.95))
    text = (
        f"After {steps} {facts.period}s: median {percent(middle)} %, 5 % to 95 %: {percent(low)} % "
        f"to {percent(high)} %."
    )
    title = f"Compounded return of {inside(facts.held)} over the next {steps} {facts.period}s"
    first, last = facts.horizons.iloc[0], facts.horizons.iloc[-1]
    caption = (
        f"{title}, bought and held, with characteristics as they are now. {text} Mean and standard "
        f"deviation: {percent(first['mean'])} % and {percent(first['sd'])} % after one "
        f"{facts.period}, {percent(last['mean'])} % and {percent(last['sd'])} % after "
        f"{facts.horizons.index[-1]}."
    )
    return Chart(to_svg(figure, title, text, "fan"), caption)


def _tested(facts: Facts) -> Chart | None:
    if facts.judged is None:
        return None
    tested = facts.judged.backtest
    names = [str(name) for name in tested[PORTFOLIO].to_dataset()[PORTFOLIO].values]
    name = facts.held if facts.held in names else EQUAL
    figure, axes = _empty()
    plots.var_backtest(tested, portfolio=name, ax=axes, style="light")
    title = axes.get_title("left")
    axes.set_title("", loc="left")
    caption = f"{title}. Forecasts know returns up to the {facts.period} before."
    if name == facts.held and name != EQUAL:
        caption += " Weights are those of today."
    return Chart(to_svg(figure, "Value at Risk, tested", title, "tested"), caption)


def _factor(facts: Facts, k: int) -> Chart:
    paths = facts.factors
    seen = paths.sel({TIME: paths[TIME] < facts.live}) if facts.waiting else paths
    seen = seen.isel({TIME: slice(-_LONGEST, None)})
    marks = {}
    for name, months in (("validation", facts.spans.valid), ("test", facts.spans.test)):
        if len(months):
            marks[name] = months[0]
    figure, axes = _empty()
    one = seen.isel({FACTOR: [k]})
    plots.factors(one, marks=marks, ax=axes, style="light")
    axes.set_title("", loc="left")
    label = int(paths[FACTOR].values[k])
    name = str(paths["name"].values[k]).replace("(-", "(−")
    spread = percent(float(one["mean"].std()))
    text = f"Mean and 90 % band by {facts.period}; the standard deviation is {spread} %."
    named = "moves with no portfolio shown here" if name == "no name" else name
    caption = (
        f"Factor {label}: {named}. {percent(paths['share'].values[k])} % of the common variation."
    )
    return Chart(
        to_svg(figure, f"Principal factor {label}, {name}", text, f"factor-{label}"), caption
    )


def _calibration(facts: Facts) -> list[Chart]:
    if facts.judged is None:
        return []
    tested = facts.judged.backtest
    pooled = tested["pooled"].to_dataset()
    pit = tested["asset"].to_dataset()["pit"].values
    width = 2 * np.abs(pit[np.isfinite(pit)] - 0.5)
    half, most = (percent((width <= level).mean(), 0) for level in (0.5, 0.9))
    bars = pooled["pit_share"].values * pooled.sizes["bin"]
    listed = ", ".join(f"{value:.2f}" for value in bars)
    captions = {
        "pit": "Flat is right; a hump means intervals too wide, a bowl too narrow. Grey: 95 % band "
        "from resampling blocks of time.",
        "coverage": "On the diagonal is right; above it intervals are too wide.",
    }
    texts = {
        "pit": f"A flat line at 1 is right. Bars from left to right: {listed}.",
        "coverage": f"50 % intervals held {half} %, 90 % intervals {most} % of the returns.",
    }
    found = []
    for kind, caption in captions.items():
        figure, axes = _empty()
        plots.calibration(tested, kind=kind, ax=axes, style="light")  # type: ignore[arg-type]
        title = axes.get_title("left")
        axes.set_title("", loc="left")
        found.append(Chart(to_svg(figure, title, texts[kind], kind), caption))
    figure, axes = _empty()
    returns = facts.panel["returns"]
    plots.volatility(facts.judged.tree, returns, quantity="cross_section", ax=axes, style="light")
    title = axes.get_title("left")
    axes.set_title("", loc="left")
    caption = f"{title}. Each dot is a {facts.period}; the band was known before it."
    found.append(Chart(to_svg(figure, "Predicted and realised size", title, "size"), caption))
    return found


def _empty() -> tuple[Figure, Any]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.subplots()


def _colours() -> dict[str, str]:
    """Variables of the page's style by the colours of the light theme."""
    theme = canvas(Figure().subplots(), "light").theme
    variables = {
        theme.text: "ink",
        theme.tick: "quiet",
        theme.edge: "quiet",
        theme.muted: "quiet",
        theme.grid: "rule",
        theme.background: "paper",
        theme.colour(0): "own",
        theme.colour(1): "other",
    }
    return {str(colour).lower(): f"var(--{name})" for colour, name in variables.items()}


def to_svg(figure: Figure, title: str, description: str, name: str) -> Markup:
    """Write a figure as SVG for the inside of a page.

    Parameters
    ----------
    figure : Figure
    title, description : str
        For screen readers.
    name : str
        Prefix of its ids, unique on the page; letters, digits and hyphens.
    """
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": None}
    known = {key: value for key, value in settings.items() if key in mpl.rcParams}
    with mpl.rc_context(known):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    (box,) = re.findall(r'viewBox="([^"]+)"', text[: text.index(">")])
    text = text[text.index(">") + 1 : text.rindex("</svg>")]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r"font: ([\d.]+)px inherit", r"font-size: \1px", text)
    text = re.sub(r"font-family: inherit;? ?", "", text)
    for colour, variable in _colours().items():
        text = text.replace(colour, variable)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return Markup(
        f'<svg class="chart" viewBox="{box}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}'
        f"</desc>{text}</svg>"
    )
