"""What the figures mean, in words that a reader without statistics can use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rvrae_pyro.diagnostics.check import Finding
from rvrae_pyro.names import ASSET, CHARACTERISTIC, TIME
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.portfolio_tables import EQUAL
from rvrae_pyro.report.tables import number, percent


def day(date: np.datetime64, period: str) -> str:
    """Write a row's date as its readers call it: March 2017, or 2017-03-03."""
    stamp = pd.Timestamp(date)
    return f"{stamp:%B %Y}" if period == "month" else f"{stamp:%Y-%m-%d}"


def span(dates: Sequence[np.datetime64] | np.ndarray, period: str) -> str:
    """Write the first and last of some dates, and how many they are."""
    ends = f"{day(dates[0], period)} to {day(dates[-1], period)}"
    return f"{ends} ({len(dates)} {period}s)"


def label(row: pd.Series) -> str:
    """Name an asset: its name where the panel has one, beside its id."""
    return f"{row['name']} ({row[ASSET]})" if "name" in row.index else str(row[ASSET])


def labels(facts: Facts) -> dict[str, str]:
    """Name every asset of the ranking, by id."""
    return {str(row[ASSET]): label(row) for _, row in facts.ranking.iterrows()}


def ahead(facts: Facts) -> str:
    """Name the month that is forecast: the next one only if it has not happened yet."""
    return f"next {facts.period}" if facts.waiting else day(facts.live, facts.period)


def headline(facts: Facts) -> str:
    """Title of the page."""
    return f"Return and risk forecast, {day(facts.live, facts.period)}"


def fitted_on(facts: Facts) -> str:
    """Say what was fitted on what."""
    model, panel = facts.fit.model, facts.panel
    first, last = (facts.fit.kl_total[TIME].values[k] for k in (0, -1))
    count = facts.fit.kl_total.sizes[TIME]
    text = (
        f"A dynamic factor model (RVRAE) with {model.n_factors} latent factors learned how "
        f"{panel.sizes[CHARACTERISTIC]} characteristics of each asset map to its exposures, from "
        f"{day(first, facts.period)} to {day(last, facts.period)}, {count} {facts.period}s and "
        f"{int(facts.fit.attrs.get('n_train_returns', 0)):,} returns."
    )
    if int(facts.fit.attrs.get("n_valid_returns", 0)):
        until = np.datetime64(str(facts.fit.attrs.get("last_seen_month", str(last)[:10])))
        text += (
            f" Later {facts.period}s, to {day(until, facts.period)}, decided when to stop learning."
        )
    return (
        f"{text} The panel of this report holds {panel.sizes[ASSET]} assets from "
        f"{day(panel[TIME].values[0], facts.period)} to {day(panel[TIME].values[-1], facts.period)}"
        f"; {len(facts.ranking)} are listed in {day(facts.live, facts.period)}."
    )


def trust(facts: Facts) -> tuple[str, str]:
    """Give a verdict on the fit (good, look or bad) and a sentence."""
    bad = [each for each in facts.check.findings if each.verdict == "bad"]
    look = [each for each in facts.check.findings if each.verdict == "look"]
    count = len(facts.check.findings)
    if bad:
        return "bad", f"Not yet: {len(bad)} of {count} checks failed ({_asked(bad)})."
    if look:
        return "look", f"With care: {len(look)} of {count} checks need a look ({_asked(look)})."
    return "good", f"As far as checks can tell: all {count} passed."


def _asked(findings: Sequence[Finding]) -> str:
    return " ".join(each.question for each in findings)


def judged_on(facts: Facts) -> str:
    """Say which months judge the forecasts."""
    spans = facts.spans
    if spans.kind == "test":
        return (
            f"Judged on {span(spans.test, facts.period)}: after everything that the model has "
            "learned from or was chosen by."
        )
    if spans.kind == "valid":
        return (
            f"Judged on {span(spans.judged, facts.period)}. Most of these {facts.period}s decided "
            "when training stopped, so the figures flatter slightly; hold later ones out to know "
            "better."
        )
    return (
        f"The panel has no return after the {facts.period}s that the model was trained on, so "
        "nothing here says how good its forecasts are."
    )


def in_short(facts: Facts) -> list[str]:
    """Sum the page up in a few sentences."""
    table, books = facts.ranking, facts.books
    best, worst = table.iloc[0], table.iloc[-1]
    typical = float(table["sd"].median())
    gap = float(best["mean"] - worst["mean"])
    held = books.sel(portfolio=facts.held)
    equal = books.sel(portfolio=EQUAL)
    lines = [
        f"The range of mean forecasts is {_percent(gap)}, against {_percent(typical)} of typical "
        f"risk. {on_ranks(facts)}",
        f"An equally weighted portfolio of all {len(table)} assets: mean "
        f"{_percent(float(equal['mean']))}, standard deviation {_percent(float(equal['sd']))}. In "
        f"one {facts.period} of twenty it should lose more than "
        f"{_percent(float(equal['var'].sel(tail=0.05)))}, and then "
        f"{_percent(float(equal['es'].sel(tail=0.05)))} on average.",
    ]
    if facts.ranked:
        lines[0] += (
            f" Highest mean: {label(best)}, {_percent(best['mean'])}; lowest: {label(worst)}, "
            f"{_percent(worst['mean'])}."
        )
    if facts.held != EQUAL:
        top = facts.parts.head(1)
        lines.insert(
            0,
            f"{facts.held}: mean {_percent(float(held['mean']))}, standard deviation "
            f"{_percent(float(held['sd']))}; in one {facts.period} of twenty a loss of more than "
            f"{_percent(float(held['var'].sel(tail=0.05)))}. The largest part of its tail risk, "
            f"{percent(top['part'].iloc[0], 0)} %, is {labels(facts)[str(top.index[0])]}.",
        )
    if not facts.waiting:
        lines.insert(0, _happened(facts))
    if facts.judged is None:
        return [*lines, judged_on(facts)]
    pit = facts.judged.backtest["asset"].to_dataset()["pit"].values
    known = pit[np.isfinite(pit)]
    inside = float((np.abs(known - 0.5) <= 0.45).mean())
    lines.append(
        f"In {len(facts.spans.judged)} {facts.period}s that the weights had not seen, 90 % "
        f"intervals held {number(100 * inside, 0)} % of the returns."
    )
    return [*lines, _against(facts), _against_ewma(facts)]


def _against(facts: Facts) -> str:
    assert facts.judged is not None  # the caller has looked
    if not facts.judged.measures:
        return f"No comparison with IPCA: {facts.judged.missing}"
    first = facts.judged.measures[0]
    better = {
        "this model better": "its forecast distributions were better",
        "IPCA better": "IPCA's forecast distributions were better",
    }.get(first.verdict, "no difference that these months can show")
    own, other = (number(first.scale * value) for value in (first.own, first.other))
    return f"Against IPCA, the linear standard: {better} (CRPS {own} against {other})."


def _against_ewma(facts: Facts) -> str:
    assert facts.judged is not None  # the caller has looked
    if not facts.judged.risk:
        return f"No comparison with EWMA: {facts.judged.risk_missing}"
    first = facts.judged.risk[0]
    better = {
        "this model better": "its joint density was better",
        "EWMA better": "EWMA's joint density was better",
    }.get(first.verdict, "no difference that these months can show")
    return (
        f"Against EWMA, the simple standard of risk: {better} ({number(first.own, 3)} against "
        f"{number(first.other, 3)} nats per return)."
    )


def caveats(facts: Facts) -> list[str]:
    """List what the reader must not conclude."""
    lines = [f"Not known from this fit: {limit}." for limit in facts.check.limits]
    lines += [
        f"Means of single {facts.period}s are nearly unknowable: small differences between them "
        "are not differences.",
        "Trading costs, taxes, limits on weights and liquidity are left out.",
        "The names of factors are correlations over the months shown, most of which the model has "
        "learned from. They describe; they do not explain.",
        "A scenario says what tends to happen together under the model, not what causes what.",
    ]
    if facts.spans.kind == "valid":
        lines.append(judged_on(facts))
    if not facts.waiting:
        lines.append(_happened(facts))
    return lines


def on_ranks(facts: Facts) -> str:
    """State whether the order of the means says anything."""
    if facts.judged is None:
        return "Nothing has tested the order of these means, so they are not ranked."
    found = facts.judged.rank_ic
    months = f"{len(facts.spans.judged)} {facts.period}s"
    figures = (
        f"rank correlation with the returns of {months}: {number(float(found['estimate']))}, s.e. "
        f"{number(float(found['standard_error']))}"
    )
    if facts.ranked:
        return f"Their order has been worth something ({figures})."
    return f"Their order cannot be distinguished from chance, so they are not ranked ({figures})."


def dead_factors(facts: Facts) -> str:
    """Name the factors that carry next to nothing; empty if there are none."""
    labels_ = [int(v) for v in facts.factors["factor"].values]
    dead = [str(name) for k, name in enumerate(labels_) if k not in facts.alive]
    if not dead:
        return ""
    named = dead[0] if len(dead) == 1 else f"{', '.join(dead[:-1])} and {dead[-1]}"
    noun, verb = ("Factor", "carries") if len(dead) == 1 else ("Factors", "carry")
    each = "" if len(dead) == 1 else " each"
    return f"{noun} {named} {verb} less than half a percent of the common variation{each}."


def inside(name: str) -> str:
    """Write a portfolio's name inside a sentence."""
    return name[0].lower() + name[1:]


def the(ahead: str) -> str:
    """Write the forecast month after a preposition."""
    return f"the {ahead}" if ahead.startswith("next ") else ahead


def largest(count: int) -> str:
    """Write how many parts a table shows."""
    return f"{count} largest parts"


def strongest(count: int) -> str:
    """Write how many characteristics a table shows."""
    return f"{count} strongest"


def _happened(facts: Facts) -> str:
    return (
        f"{day(facts.live, facts.period)} already has returns in the panel; the forecast does not "
        f"use them. It says what could be known before that {facts.period}, not what is to come."
    )


def _percent(value: float) -> str:
    return f"{number(100 * value, 1)} %"
