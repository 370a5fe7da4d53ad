"""Sections on what the forecasts rest on: factors, earlier forecasts, rivals, caveats."""

from __future__ import annotations

import json
from collections.abc import Sequence

import xarray as xr

from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR, TIME
from rvrae_pyro.report import charts, words
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.html import (
    Cell,
    Column,
    escaped,
    figure,
    listing,
    number,
    paragraph,
    percent,
    table,
)
from rvrae_pyro.report.versus import Measure

__all__ = ["calibration", "closing", "comparison", "factors"]


def factors(facts: Facts) -> str:
    """Show the paths of the principal factors, and what they are like."""
    paths = facts.factors
    seen = paths.sel({TIME: paths[TIME] < facts.live}) if facts.waiting else paths
    marks = {}
    if len(facts.spans.valid):
        marks["validation"] = facts.spans.valid[0]
    if len(facts.spans.test):
        marks["test"] = facts.spans.test[0]
    pictures = []
    for k in range(paths.sizes[FACTOR]):
        share = float(paths["share"].values[k])
        name = str(paths["name"].values[k]).replace("(-", "(−")
        title = f"Factor {int(paths[FACTOR].values[k])}: {name}"
        pictures.append(
            figure(
                charts.factor_path(seen, k, marks, facts.period),
                f"{title}. {percent(share, 0)} % of the common variation.",
            )
        )
    told = (
        "Latent factors have no names and no unique axes. Shown are principal axes, largest "
        "first, in the size of their effect on a typical asset; the line is what each "
        f"{facts.period}'s returns say, the band holds 90 %. Each is called after the portfolio "
        "it moves with most, with the correlation in brackets."
    )
    return paragraph(told) + f'<div class="grid">{"".join(pictures)}</div>' + _profile(facts)


def _profile(facts: Facts) -> str:
    profile = facts.profile
    known = [str(v) for v in profile["known_factor"].values] if "known" in profile else []
    columns = [Column("Factor", numeric=False), *(Column(name) for name in known)]
    if known:
        columns.append(Column("R² %", "variance that the known factors explain together"))
    columns.append(Column("Closest characteristic portfolios", numeric=False))
    body = []
    for k in range(profile.sizes[FACTOR]):
        row: list[str | Cell] = [f"Factor {int(profile[FACTOR].values[k])}"]
        if known:
            row += [number(float(v)) for v in profile["known"].values[k]]
            row.append(percent(float(profile["r2"].values[k]), 0))
        near = profile["managed"].isel({FACTOR: k}).to_series().dropna()
        order = near.abs().sort_values(ascending=False).index[:3]
        row.append(", ".join(f"{name} {number(float(near[name]))}" for name in order))
        body.append(row)
    source = (
        f"Correlations over {int(profile['known_months'])} months with the factors of K. R. "
        "French's data library (MktRF the market, SMB small minus big, HML value minus growth, "
        "Mom winners minus losers), "
        if known
        else "Correlations "
    )
    return table("profile", "What the factors move with", columns, body) + paragraph(
        f"{source}and over {int(profile['months'])} {facts.period}s with portfolios that are long "
        "a characteristic (constant: about equal weights)."
    )


def calibration(facts: Facts) -> str:
    """Show how forecasts did in months that the weights had not seen."""
    told = paragraph(words.judged_on(facts))
    if facts.judged is None:
        return told
    tested = facts.judged.backtest
    pooled = tested["pooled"].to_dataset()
    pictures = [
        figure(
            charts.pit_histogram(pooled),
            "Flat is right; a hump means intervals too wide, a bowl too narrow. Grey: 95 % band "
            "from resampling blocks of time.",
        ),
        figure(
            charts.coverage_curve(tested[ASSET].to_dataset()["pit"]),
            "On the diagonal is right; above it intervals are too wide.",
        ),
    ]
    if len(facts.judged.by_year) > 1:
        pictures.append(
            figure(charts.coverage_years(facts.judged.by_year), "90 % intervals, year by year.")
        )
    return told + f'<div class="grid">{"".join(pictures)}</div>' + _backtest(tested, facts)


def _backtest(tested: xr.DataTree, facts: Facts) -> str:
    columns = [
        Column("What", numeric=False),
        Column("Tail %"),
        Column(f"{facts.period.capitalize()}s"),
        Column("Losses beyond VaR %"),
        Column("Kupiec p", "exact, adjusted for several portfolios (Holm)"),
        Column("Christoffersen p", "conditional coverage, adjusted"),
        Column("ES test p", "Acerbi and Szekely, one-sided, adjusted"),
        Column("Verdict", numeric=False),
    ]
    body = []
    pooled, books = tested["pooled"].to_dataset(), tested["portfolio"].to_dataset()
    for tail in pooled["tail"].values:
        one = pooled.sel(tail=tail)
        body.append(
            [
                "All assets pooled",
                percent(float(tail), 0),
                str(int(one["n_months"])),
                f"{percent(float(one['rate']), 2)} (s.e. {percent(float(one['rate_se']), 2)})",
                number(float(one["rate_p_simulated"]), 3),
                "–",
                number(float(one["z2_p"]), 3),
                str(one["verdict"].item()),
            ]
        )
        for name in books["portfolio"].values:
            one = books.sel(tail=tail, portfolio=name)
            tests = ("kupiec_p_exact_holm", "conditional_p_holm", "z2_p_holm")
            body.append(
                [
                    str(name),
                    percent(float(tail), 0),
                    str(int(one["n_months"])),
                    f"{percent(float(one['rate']), 2)} ({int(one['exceptions'])})",
                    *(number(float(one[test]), 3) for test in tests),
                    str(one["verdict"].item()),
                ]
            )
    return table("backtest", "Value at risk and expected shortfall, tested", columns, body) + (
        paragraph(
            "A small p rejects the forecast; the verdict names the tests that did. “Too few months "
            "to tell” means that losses twice as frequent as promised would more likely than not "
            "go unnoticed. Pooled figures allow for assets that move together in a period."
        )
    )


def comparison(facts: Facts) -> str:
    """Show the same months forecast by IPCA and by EWMA."""
    if facts.judged is None:
        return paragraph("No comparison: there is nothing to compare on.")
    judged = facts.judged
    linear = (
        "IPCA maps the same characteristics to exposures by a linear map, with as many factors and "
        f"a constant, fitted to the same past by least squares. Same {facts.period}s, same cells, "
        "one period ahead."
    )
    simple = (
        "EWMA knows returns alone: an exponentially weighted covariance of the same past, and one "
        f"scale for all assets that follows every {facts.period}; returns are Student-t."
    )
    return _beside("versus", "IPCA", linear, judged.measures, judged.missing) + _beside(
        "versus-ewma", "EWMA", simple, judged.risk, judged.risk_missing
    )


def _beside(key: str, rival: str, meaning: str, measures: Sequence[Measure], missing: str) -> str:
    """Table of one rival's scores beside the model's."""
    if not measures:
        return paragraph(f"No comparison with {rival}: {missing}")
    columns = [
        Column("Measure", numeric=False),
        Column("This model"),
        Column(rival),
        Column("Difference"),
        Column("Verdict", numeric=False),
    ]
    body = []
    for each in measures:
        scale, digits = each.scale, 3 if each.scale == 1 else 2

        def told(value: float, error: float, scale: float = scale, digits: int = digits) -> str:
            return f"{number(scale * value, digits)} (s.e. {number(scale * error, digits)})"

        body.append(
            [
                each.label,
                told(each.own, each.own_error),
                told(each.other, each.other_error),
                told(each.difference, each.difference_error),
                each.verdict,
            ]
        )
    return (
        paragraph(meaning)
        + table(key, f"This model beside {rival}", columns, body)
        + listing([f"{each.label}: {each.meaning}." for each in measures])
    )


def closing(facts: Facts) -> str:
    """List what not to conclude, and what it takes to make the page again."""
    attrs = facts.fit.attrs
    versions = json.loads(str(attrs.get("versions", "{}")))
    lines = {
        "Training seed": str(attrs.get("seed", "")),
        "Fingerprint of the training data": str(attrs.get("data_fingerprint", "")),
        "Draws and their seed": f"{facts.num_samples}, {facts.seed}",
        "Characteristics": ", ".join(str(v) for v in facts.panel[CHARACTERISTIC].values),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Source of the panel": str(facts.panel.attrs.get("source", "not stated")),
    }
    terms = "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in lines.items())
    try:
        config = json.dumps(json.loads(str(attrs.get("config", "{}"))), indent=1)
    except ValueError:
        config = str(attrs.get("config", ""))
    return (
        listing(words.caveats(facts))
        + f"<details><summary>To make this page again</summary><dl>{terms}</dl>"
        + f'<pre tabindex="0">{escaped(config)}</pre></details>'
    )
