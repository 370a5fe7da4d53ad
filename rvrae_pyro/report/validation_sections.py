"""Sections of the page on trust: checks, tests of earlier forecasts, rivals and caveats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from rvrae_pyro.names import CHARACTERISTIC
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.held_out import Judged, Measure
from rvrae_pyro.report.portfolio_tables import PORTFOLIO
from rvrae_pyro.report.tables import (
    Column,
    Figures,
    Table,
    day,
    number,
    percent,
    real_minus,
    span,
    table_of,
)

_VERDICTS: Final = {"good": "passed", "look": "look", "bad": "failed"}
_LINEAR: Final = (
    "IPCA maps the same characteristics to exposures by a linear map, with as many factors and a "
    "constant, fitted to the same past by least squares. Same {period}s, same observations, one "
    "period ahead."
)
_SIMPLE: Final = (
    "EWMA knows returns alone: an exponentially weighted covariance of the same past, and one "
    "scale for all assets that follows every {period}; returns are Student-t."
)


def validation_sections(facts: Facts) -> dict[str, Any]:
    """Return what the templates show of checks and tests, but for the pictures."""
    kind, sentence = trust(facts)
    judged = facts.judged
    return {
        "verdict": {"kind": kind, "name": _VERDICTS[kind], "sentence": sentence},
        "findings": [
            {
                "kind": each.verdict,
                "name": _VERDICTS[each.verdict],
                "question": each.question,
                "answer": real_minus(each.answer),
                "remedy": each.remedy,
            }
            for each in facts.check.findings
        ],
        "judged_on": judged_on(facts),
        "backtest": None if judged is None else _backtest(judged, facts.period),
        "by_year": None if judged is None else _by_year(judged, facts.period),
        "rivals": [] if judged is None else _rivals(judged, facts.period),
        "caveats": _caveats(facts),
        "again": _again(facts),
        "config": _config(facts),
    }


def trust(facts: Facts) -> tuple[str, str]:
    """Give a verdict on the fit (good, look or bad) and a sentence."""
    found = facts.check.findings
    for verdict, text in (
        ("bad", "Not yet: {} of {} checks failed ({})."),
        ("look", "With care: {} of {} checks need a look ({})."),
    ):
        some = [each.question for each in found if each.verdict == verdict]
        if some:
            return verdict, text.format(len(some), len(found), " ".join(some))
    return "good", f"As far as checks can tell: all {len(found)} passed."


def judged_on(facts: Facts) -> str:
    """Name the months that judge the forecasts."""
    spans, period = facts.spans, facts.period
    if spans.kind == "test":
        return (
            f"Judged on {span(spans.test, period)}: after everything that the model has learned "
            "from or was chosen by."
        )
    if spans.kind == "valid":
        return (
            f"Judged on {span(spans.judged, period)}. Most of these {period}s decided when "
            "training stopped, so the figures flatter slightly; hold later ones out to know better."
        )
    return (
        f"The panel has no return after the {period}s that the model was trained on, so nothing "
        "here says how good its forecasts are."
    )


def happened(facts: Facts) -> str:
    """Explain a forecast of a month whose returns are known."""
    return (
        f"{day(facts.live, facts.period)} already has returns in the panel; the forecast does not "
        f"use them. It says what could be known before that {facts.period}, not what is to come."
    )


def against_ipca(judged: Judged) -> str:
    """State which forecast distributions were better, IPCA's or the model's."""
    if not judged.measures:
        return f"No comparison with IPCA: {judged.missing}"
    first = judged.measures[0]
    better = {
        "this model better": "its forecast distributions were better",
        "IPCA better": "IPCA's forecast distributions were better",
    }.get(first.verdict, first.verdict)
    own, other = (number(first.scale * value) for value in (first.own, first.other))
    return f"Against IPCA, the linear standard: {better} (CRPS {own} against {other})."


def against_ewma(judged: Judged) -> str:
    """State which joint density was better, EWMA's or the model's."""
    if not judged.risk:
        return f"No comparison with EWMA: {judged.risk_missing}"
    first = judged.risk[0]
    better = {
        "this model better": "its joint density was better",
        "EWMA better": "EWMA's joint density was better",
    }.get(first.verdict, first.verdict)
    return (
        f"Against EWMA, the simple standard of risk: {better} ({number(first.own, 3)} against "
        f"{number(first.other, 3)} nats per return)."
    )


def _backtest(judged: Judged, period: str) -> Table:
    tested = judged.backtest
    columns = [
        Column("What", numeric=False),
        Column("Tail %"),
        Column(f"{period.capitalize()}s"),
        Column("Losses beyond VaR %"),
        Column("Kupiec p", "exact"),
        Column("Christoffersen p", "conditional coverage"),
        Column("ES test p", "Acerbi and Szekely, one-sided"),
        Column("Verdict", numeric=False),
    ]
    rows = []
    pooled, single = tested["pooled"].to_dataset(), tested[PORTFOLIO].to_dataset()
    for tail in pooled["tail"].values:
        one = pooled.sel(tail=tail)
        rows.append(
            [
                "All assets pooled",
                percent(tail, 0),
                str(int(one["n_months"])),
                f"{percent(one['rate'], 2)} (s.e. {percent(one['rate_se'], 2)})",
                number(float(one["rate_p_simulated"]), 3),
                "–",
                number(float(one["z2_p"]), 3),
                str(one["verdict"].item()),
            ]
        )
        for name in single[PORTFOLIO].values:
            one = single.sel({"tail": tail, PORTFOLIO: name})
            tests = ("kupiec_p_exact_holm", "conditional_p_holm", "z2_p_holm")
            rows.append(
                [
                    str(name),
                    percent(tail, 0),
                    str(int(one["n_months"])),
                    f"{percent(one['rate'], 2)} ({int(one['exceptions'])})",
                    *(number(float(one[test]), 3) for test in tests),
                    str(one["verdict"].item()),
                ]
            )
    return Table("backtest", "Value at Risk and expected shortfall, tested", columns, rows)


def _by_year(judged: Judged, period: str) -> Table | None:
    if len(judged.by_year) < 2:
        return None
    figures = [
        Figures(f"{period.capitalize()}s", "months", None),
        Figures("Inside 90 % intervals, %", "coverage", 0),
        Figures("Below the 5 % quantile, %", "below", 1),
    ]
    return table_of(judged.by_year, "by-year", "Coverage by year", "Year", figures)


def _rivals(judged: Judged, period: str) -> list[dict[str, Any]]:
    cases = (
        ("versus", "IPCA", _LINEAR, judged.measures, judged.missing),
        ("versus-ewma", "EWMA", _SIMPLE, judged.risk, judged.risk_missing),
    )
    return [
        {
            "name": name,
            "meaning": meaning.format(period=period),
            "missing": missing,
            "table": _versus(key, name, measures) if measures else None,
            "measures": [f"{each.label}: {each.meaning}." for each in measures],
        }
        for key, name, meaning, measures, missing in cases
    ]


def _versus(key: str, rival: str, measures: Sequence[Measure]) -> Table:
    rows = []
    for each in measures:
        digits = 3 if each.scale == 1 else 2
        pairs = (
            (each.own, each.own_error),
            (each.other, each.other_error),
            (each.difference, each.difference_error),
        )
        written = [
            f"{number(each.scale * value, digits)} (s.e. {number(each.scale * error, digits)})"
            for value, error in pairs
        ]
        rows.append([each.label, *written, each.verdict])
    columns = [
        Column("Measure", numeric=False),
        *map(Column, ("This model", rival, "Difference")),
        Column("Verdict", numeric=False),
    ]
    return Table(key, f"This model beside {rival}", columns, rows)


def _caveats(facts: Facts) -> list[str]:
    """List conclusions that the reader must not draw."""
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
    return lines if facts.waiting else [*lines, happened(facts)]


def _again(facts: Facts) -> dict[str, str]:
    attrs = facts.fit.attrs
    versions = json.loads(str(attrs.get("versions", "{}")))
    return {
        "Training seed": str(attrs.get("seed", "")),
        "Hash of the training data": str(attrs.get("data_fingerprint", "")),
        "Draws and their seed": f"{facts.num_samples}, {facts.seed}",
        "Characteristics": ", ".join(str(v) for v in facts.panel[CHARACTERISTIC].values),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Source of the panel": str(facts.panel.attrs.get("source") or "not stated"),
    }


def _config(facts: Facts) -> str:
    text = str(facts.fit.attrs.get("config", "{}"))
    try:
        return json.dumps(json.loads(text), indent=1)
    except ValueError:
        return text
