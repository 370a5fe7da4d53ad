"""Sections on what is to come: the ranking, portfolios, and what forecasts are made of."""

from __future__ import annotations

from typing import Final

import pandas as pd

from rvrae_pyro.names import ASSET
from rvrae_pyro.report import charts, words
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.html import (
    Cell,
    Column,
    badge,
    escaped,
    figure,
    listing,
    number,
    paragraph,
    percent,
    table,
)

__all__ = ["MOST_ROWS", "NAMED", "made_of", "portfolios", "ranking", "summary", "trust"]

MOST_ROWS: Final = 1000
"""Rows of the ranking; of a longer one both ends are shown."""

NAMED: Final = {"good": "passed", "look": "look", "bad": "failed"}


def summary(facts: Facts) -> str:
    """Say the page in five sentences."""
    kind, sentence = words.trust(facts)
    return (
        f'<p class="lead">{badge(kind, NAMED[kind])} {escaped(sentence)}</p>'
        + listing(words.in_short(facts))
        + paragraph(words.fitted_on(facts), "quiet")
    )


def trust(facts: Facts) -> str:
    """Say what was checked and what came of it."""
    items = []
    for finding in facts.check.findings:
        remedy = (
            f'<span class="remedy">Try: {escaped(finding.remedy)}</span>' if finding.remedy else ""
        )
        items.append(
            f"<li>{badge(finding.verdict, NAMED[finding.verdict])} "
            f"<strong>{escaped(finding.question)}</strong> {escaped(finding.answer)} {remedy}</li>"
        )
    return f'<ul class="findings">{"".join(items)}</ul>'


def ranking(facts: Facts) -> str:
    """Rank the assets of the live month, with intervals."""
    rows = facts.ranking
    cut = len(rows) > MOST_ROWS
    if cut:
        rows = pd.concat([rows[: MOST_ROWS // 2], rows[-MOST_ROWS // 2 :]])
    ends = (float(rows["q05"].min()), float(rows["q95"].max()))
    extra = [name for name in ("group", "industry", "sector") if name in rows.columns][:1]
    columns = [
        Column("Asset", numeric=False),
        Column("Rank", "1 is the highest mean forecast"),
        *(Column(name.capitalize(), numeric=False) for name in extra),
        Column("Mean %", "mean of the predictive distribution"),
        Column("90 % interval", "5 % to 95 %; the dot is the mean", numeric=False),
        Column("5 %", "one return in twenty should be lower"),
        Column("95 %", "one return in twenty should be higher"),
        Column("Sd %", "standard deviation"),
        Column("VaR %", "loss exceeded with probability 5 %"),
        Column("ES %", "mean loss beyond the VaR"),
        Column("P(loss) %", "probability of an excess return below zero"),
        Column("Common %", "share of the variance that comes from the factors"),
        Column("In a fall %", f"mean if equal weights return {percent(facts.fall)} %"),
    ]
    body = [_ranked(row, extra, ends) for _, row in rows.iterrows()]
    note = (
        f"{len(facts.ranking)} assets; the {MOST_ROWS // 2} at either end are shown, "
        "`rvrae forecast` writes all. "
        if cut
        else ""
    )
    finder = (
        '<p class="find"><label for="find">Find an asset</label> '
        '<input id="find" type="search" autocomplete="off"></p>'
    )
    told = (
        f"{note}Excess returns over the {facts.period}, in %. Click a heading to sort. Intervals "
        "hold nine returns of ten if the model is right. Under “In a fall”: the mean if equal "
        f"weights of all assets return {percent(facts.fall)} %, two standard deviations down."
    )
    picture = figure(
        charts.mean_against_sd(facts.ranking),
        "Every dot is an asset. More risk to the right, a higher mean forecast upwards.",
    )
    caption = f"Assets by mean forecast, {words.day(facts.live, facts.period)}"
    return (
        paragraph(told)
        + finder
        + table("ranking", caption, columns, body, sortable=True)
        + f'<div class="one">{picture}</div>'
    )


def _ranked(row: pd.Series, extra: list[str], ends: tuple[float, float]) -> list[str | Cell]:
    width = max(ends[1] - ends[0], 1e-12)
    left, right, middle, zero = (
        100 * (value - ends[0]) / width for value in (row["q05"], row["q95"], row["mean"], 0.0)
    )
    bar = (
        f'<span class="iv" aria-hidden="true"><i style="left:{zero:.1f}%"></i>'
        f'<b style="left:{left:.1f}%;width:{right - left:.1f}%"></b>'
        f'<u style="left:{middle:.1f}%"></u></span>'
    )
    numbers = ("q05", "q95", "sd", "var_05", "es_05", "prob_loss", "factor_share", "fall")
    digits = {"prob_loss": 0, "factor_share": 0}
    cells = [_figure(row[name], digits.get(name, 2)) for name in numbers]
    return [
        words.label(row),
        Cell(str(int(row["rank"])), int(row["rank"])),
        *(str(row[name]) for name in extra),
        _figure(row["mean"], 2),
        Cell("", float(row["q95"] - row["q05"]), bar),
        *cells,
    ]


def _figure(value: float, digits: int) -> Cell:
    return Cell(number(100 * value, digits), f"{100 * value:.6g}")


def portfolios(facts: Facts) -> str:
    """Show the risk of portfolios, and which assets carry that of the one that is held."""
    books = facts.books
    columns = [
        Column("Portfolio", numeric=False),
        Column("Mean %"),
        Column("Sd %"),
        Column("VaR 5 %", "loss exceeded with probability 5 %, in %"),
        Column("ES 5 %", "mean loss beyond it, in %"),
        Column("VaR 1 %"),
        Column("ES 1 %"),
        Column("P(loss) %"),
        Column("Common %", "share of the variance that comes from the factors"),
    ]
    body = []
    for name in books["portfolio"].values:
        one = books.sel(portfolio=name)
        at = [one[kind].sel(tail=tail) for tail in (0.05, 0.01) for kind in ("var", "es")]
        share = one["factor_var"] / one["sd"] ** 2
        values = [one["mean"], one["sd"], *at]
        body.append(
            [
                str(name),
                *(percent(float(value), 2) for value in values),
                percent(float(one["prob_loss"]), 0),
                percent(float(share), 0),
            ]
        )
    parts = facts.parts
    shown = parts.head(10)
    names = words.labels(facts)
    rows = [
        [
            names[str(asset)],
            percent(row["weight"], 2),
            percent(row["part"], 2),
            percent(row["sd_part"], 2),
        ]
        for asset, row in shown.iterrows()
    ]
    top = float(shown["part"].sum())
    return (
        table("portfolios", f"Risk of portfolios over {_the(words.ahead(facts))}", columns, body)
        + paragraph(
            "VaR and ES are losses, so positive means money lost. The portfolio of least variance "
            "may hold large short positions: it shows what the covariance believes, and is no "
            "advice."
        )
        + table(
            "parts",
            f"Where the 5 % expected shortfall of {_inside(facts.held)} comes from: ten largest "
            "parts",
            [
                Column("Asset", numeric=False),
                Column("Weight %"),
                Column("Part of ES %"),
                Column("Part of sd %"),
            ],
            rows,
        )
        + paragraph(
            f"Parts add up to 100 % over all {len(parts)} assets; these {len(shown)} carry "
            f"{percent(top, 0)} % with {percent(float(shown['weight'].sum()), 0)} % of the weight."
        )
    )


def _inside(name: str) -> str:
    """Name of a portfolio inside a sentence."""
    return name[0].lower() + name[1:]


def _the(ahead: str) -> str:
    return f"the {ahead}" if ahead.startswith("next ") else ahead


def made_of(facts: Facts) -> str:
    """Show what mean forecasts are made of and which characteristics they answer to."""
    parts = facts.attribution
    order = [each for each in facts.ranking[ASSET] if each in parts.index]
    shown = order if len(order) <= 10 else [*order[:5], *order[-5:]]
    heads = ["Intercept" if name == "intercept" else f"Factor {name}" for name in parts.columns]
    names = words.labels(facts)
    body = [
        [
            names[asset],
            *(number(100 * value, 2, sign=True) for value in parts.loc[asset]),
            number(100 * float(parts.loc[asset].sum()), 2, sign=True),
        ]
        for asset in shown
    ]
    slopes = facts.sensitivity.head(10)
    biggest = float(slopes["effect"].max()) or 1.0
    rows: list[list[str | Cell]] = [
        [
            str(name),
            number(100 * row["slope"], 3, sign=True),
            number(100 * row["effect"], 3),
            Cell(
                "",
                html='<span class="bar" aria-hidden="true"><b style="width:'
                f'{100 * row["effect"] / biggest:.0f}%"></b></span>',
            ),
        ]
        for name, row in slopes.iterrows()
    ]
    return (
        table(
            "made-of",
            "Mean forecasts by factor, in %: the highest and the lowest",
            [Column("Asset", numeric=False), *(Column(head) for head in heads), Column("Sum")],
            body,
        )
        + paragraph(
            "Each part is the asset's exposure times the factor's expected value; they sum to the "
            "mean forecast."
        )
        + table(
            "sensitivity",
            "Characteristics that mean forecasts answer to: ten strongest",
            [
                Column("Characteristic", numeric=False),
                Column("Slope %", "mean change of the forecast per unit of the characteristic"),
                Column("Effect %", "typical size: slope times the characteristic's spread"),
                Column("", numeric=False),
            ],
            rows,
        )
    )
