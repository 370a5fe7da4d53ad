"""Tables and texts of the page, section by section, as data for the templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR
from rvrae_pyro.report import words
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.held_out import Measure
from rvrae_pyro.report.portfolio_tables import PORTFOLIO
from rvrae_pyro.report.tables import Cell, Column, Interval, Table, number, percent

MOST_ROWS: Final = 1000
"""Rows of the ranking; of a longer one both ends are shown."""

NAMED: Final = {"good": "passed", "look": "look", "bad": "failed"}
_TEXT: Final = Column("", numeric=False)


def view_of(facts: Facts) -> dict[str, Any]:
    """Return everything that the templates show, but for the pictures."""
    kind, sentence = words.trust(facts)
    return {
        "verdict": {"kind": kind, "name": NAMED[kind], "sentence": sentence},
        "short": words.in_short(facts),
        "fitted": words.fitted_on(facts),
        "findings": [
            {
                "kind": each.verdict,
                "name": NAMED[each.verdict],
                "question": each.question,
                "answer": each.answer,
                "remedy": each.remedy,
            }
            for each in facts.check.findings
        ],
        "books": _books(facts),
        "parts": _parts(facts),
        "parts_note": _parts_note(facts),
        "scenarios": _scenarios(facts),
        "horizons": _horizons(facts),
        "changed": _changed(facts),
        "moved": _moved(facts),
        "ranking": _ranking(facts),
        "ranking_note": words.on_ranks(facts),
        "cut": len(facts.ranking) > MOST_ROWS,
        "half": MOST_ROWS // 2,
        "total": len(facts.ranking),
        "fall": percent(facts.fall),
        "groups": _groups(facts),
        "made_of": _made_of(facts),
        "sensitivity": _sensitivity(facts),
        "dead": words.dead_factors(facts),
        "profile": _profile(facts),
        "profile_note": _profile_note(facts),
        "judged_on": words.judged_on(facts),
        "backtest": None if facts.judged is None else _backtest(facts),
        "by_year": None if facts.judged is None else _by_year(facts),
        "rivals": _rivals(facts),
        "caveats": words.caveats(facts),
        "again": _again(facts),
        "config": _config(facts),
        "period": facts.period,
    }


def _numbers(columns: Sequence[tuple[str, str]]) -> list[Column]:
    return [Column(head, meaning) for head, meaning in columns]


def _books(facts: Facts) -> Table:
    columns = [
        Column("Portfolio", numeric=False),
        *_numbers(
            [
                ("Mean %", ""),
                ("Sd %", "standard deviation"),
                ("VaR 5 %", "loss exceeded with probability 5 %, in %"),
                ("ES 5 %", "mean loss beyond it, in %"),
                ("VaR 1 %", ""),
                ("ES 1 %", ""),
                ("P(loss) %", "probability of an excess return below zero"),
                ("Common %", "share of the variance that comes from the factors"),
            ]
        ),
    ]
    rows = []
    for name in facts.books[PORTFOLIO].values:
        one = facts.books.sel({PORTFOLIO: name})
        at = [one[kind].sel(tail=tail) for tail in (0.05, 0.01) for kind in ("var", "es")]
        rows.append(
            [
                str(name),
                *(percent(value, 2) for value in (one["mean"], one["sd"], *at)),
                percent(one["prob_loss"], 0),
                percent(one["factor_var"] / one["sd"] ** 2, 0),
            ]
        )
    caption = f"Risk of portfolios over {words.the(words.ahead(facts))}"
    return Table("portfolios", caption, columns, rows)


def _parts(facts: Facts) -> Table:
    shown = facts.parts.head(10)
    names = words.labels(facts)
    biggest = max(float(shown["part"].abs().max()), 1e-12)
    rows: list[list[str | Cell]] = [
        [
            names[str(asset)],
            percent(row["weight"], 2),
            percent(row["part"], 2),
            Cell(bar=100 * row["part"] / biggest, sort=float(row["part"])),
            percent(row["sd_part"], 2),
        ]
        for asset, row in shown.iterrows()
    ]
    columns = [
        Column("Asset", numeric=False),
        Column("Weight %"),
        Column("Part of ES %"),
        Column("", numeric=False),
        Column("Part of sd %"),
    ]
    caption = (
        f"Where the 5 % expected shortfall of {words.inside(facts.held)} comes from: "
        f"{words.largest(len(shown))}"
    )
    return Table("parts", caption, columns, rows)


def _parts_note(facts: Facts) -> str:
    shown = facts.parts.head(10)
    return (
        f"Parts add up to 100 % over all {len(facts.parts)} assets; these {len(shown)} carry "
        f"{percent(shown['part'].sum(), 0)} % with {percent(shown['weight'].sum(), 0)} % of the "
        "weight."
    )


def _scenarios(facts: Facts) -> Table:
    one = facts.books.sel({PORTFOLIO: facts.held})
    rows = [
        ["No scenario", "", *_three(one["mean"], one["sd"], one["var"].sel(tail=0.05))],
        *(
            [str(name), percent(row["given"], 1, sign=True), *_three(*row[["mean", "sd", "var"]])]
            for name, row in facts.scenarios.iterrows()
        ),
    ]
    columns = [
        Column("If", numeric=False),
        Column("Its return %", "two standard deviations from its mean"),
        Column("Mean %"),
        Column("Sd %"),
        Column("VaR 5 %", "loss exceeded with probability 5 %, in %"),
    ]
    return Table("scenarios", f"Scenarios for {words.inside(facts.held)}", columns, rows)


def _horizons(facts: Facts) -> Table | None:
    if facts.horizons.empty:
        return None
    rows = [
        [
            str(step),
            *_three(*row[["mean", "sd", "var", "es"]]),
            percent(row["prob_loss"], 0),
        ]
        for step, row in facts.horizons.iterrows()
    ]
    columns = [
        Column(f"{facts.period.capitalize()}s", numeric=False),
        *map(Column, ("Mean %", "Sd %", "VaR 5 %", "ES 5 %", "P(loss) %")),
    ]
    caption = f"{facts.held}, bought now and held: compounded excess return"
    return Table("horizons", caption, columns, rows)


def _three(*values: Any) -> list[str]:
    return [percent(value, 2) for value in values]


def _changed(facts: Facts) -> Table | None:
    if facts.before is None or facts.changed.empty:
        return None
    labels = {"mean": "Mean %", "sd": "Sd %", "var": "VaR 5 %", "es": "ES 5 %"}
    rows = [
        [
            labels[str(kind)],
            percent(row["before"], 2),
            percent(row["now"], 2),
            percent(row["now"] - row["before"], 2, sign=True),
        ]
        for kind, row in facts.changed.iterrows()
    ]
    columns = [_TEXT, *(Column(words.day(t, facts.period)) for t in (facts.before, facts.live))]
    caption = f"Forecast of {words.inside(facts.held)}, since the last {facts.period}"
    return Table("changed", caption, [*columns, Column("Change")], rows)


def _moved(facts: Facts) -> Table | None:
    if facts.before is None or facts.moved.empty:
        return None
    names = words.labels(facts)
    rows = [
        [
            names.get(str(asset), str(asset)),
            percent(row["sd_before"], 2),
            percent(row["sd_now"], 2),
            percent(row["sd_now"] - row["sd_before"], 2, sign=True),
            percent(row["mean_before"], 2),
            percent(row["mean_now"], 2),
        ]
        for asset, row in facts.moved.head(5).iterrows()
    ]
    columns = [
        Column("Asset", numeric=False),
        *map(Column, ("Sd % before", "Sd % now", "Change", "Mean % before", "Mean % now")),
    ]
    caption = f"Assets whose risk changed most since {words.day(facts.before, facts.period)}"
    return Table("moved", caption, columns, rows)


def _ranking(facts: Facts) -> Table:
    rows = facts.ranking
    if not facts.ranked:
        rows = rows.sort_values("sd", kind="stable", ignore_index=True)
    if len(rows) > MOST_ROWS:
        rows = pd.concat([rows[: MOST_ROWS // 2], rows[-MOST_ROWS // 2 :]])
    ends = (float(rows["q05"].min()), float(rows["q95"].max()))
    extra = [name for name in ("group", "industry", "sector") if name in rows.columns][:1]
    rank = [Column("Rank", "1 is the highest mean forecast")] if facts.ranked else []
    columns = [
        Column("Asset", numeric=False),
        *rank,
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
    body = [_ranked(row, facts.ranked, extra, ends) for _, row in rows.iterrows()]
    order = "mean forecast" if facts.ranked else "risk, lowest first"
    caption = f"Assets by {order}, {words.day(facts.live, facts.period)}"
    return Table("ranking", caption, columns, body, sortable=True)


def _ranked(
    row: pd.Series, ranked: bool, extra: list[str], ends: tuple[float, float]
) -> list[str | Cell]:
    width = max(ends[1] - ends[0], 1e-12)
    zero, left, right, middle = (
        100 * (value - ends[0]) / width for value in (0.0, row["q05"], row["q95"], row["mean"])
    )
    digits = {"prob_loss": 0, "factor_share": 0}
    numbers = ("q05", "q95", "sd", "var_05", "es_05", "prob_loss", "factor_share", "fall")
    rank = [Cell(str(int(row["rank"])), int(row["rank"]))] if ranked else []
    return [
        words.label(row),
        *rank,
        *(str(row[name]) for name in extra),
        _figure(row["mean"], 2),
        Cell(
            sort=float(row["q95"] - row["q05"]),
            interval=Interval(zero, left, right - left, middle),
        ),
        *(_figure(row[name], digits.get(name, 2)) for name in numbers),
    ]


def _figure(value: float, digits: int) -> Cell:
    return Cell(number(100 * value, digits), f"{100 * value:.6g}")


def _groups(facts: Facts) -> Table | None:
    if facts.groups is None:
        return None
    rows = [
        [
            str(name),
            str(int(row["assets"])),
            percent(row["weight"], 1),
            percent(row["part"], 1),
            percent(row["mean"], 2),
            percent(row["sd"], 2),
            percent(row["var"], 2),
        ]
        for name, row in facts.groups.iterrows()
    ]
    columns = [
        Column(str(facts.groups.index.name).capitalize(), numeric=False),
        Column("Assets"),
        Column("Weight %", f"in {words.inside(facts.held)}"),
        Column("Part of ES %", f"in that of {words.inside(facts.held)}, 5 %"),
        Column("Mean %", "of the group with equal weights"),
        Column("Sd %", "of the group with equal weights"),
        Column("VaR 5 %", "of the group with equal weights"),
    ]
    caption = (
        f"By {facts.groups.index.name}: share in {words.inside(facts.held)}, and each group by "
        "itself with equal weights"
    )
    return Table("by-group", caption, columns, rows)


def _made_of(facts: Facts) -> Table:
    parts = facts.attribution
    if facts.ranked:
        order = [each for each in facts.ranking[ASSET] if each in parts.index]
        shown = order if len(order) <= 10 else [*order[:5], *order[-5:]]
        which = "the highest and the lowest"
    else:
        shown = [str(each) for each in facts.parts.index if each in parts.index][:10]
        which = f"{words.largest(len(shown))} of {words.inside(facts.held)}"
    heads = ["Intercept" if name == "intercept" else f"Factor {name}" for name in parts.columns]
    names = words.labels(facts)
    rows = [
        [
            names[asset],
            *(percent(value, 2, sign=True) for value in parts.loc[asset]),
            percent(parts.loc[asset].sum(), 2, sign=True),
        ]
        for asset in shown
    ]
    columns = [Column("Asset", numeric=False), *map(Column, heads), Column("Sum")]
    caption = f"Mean forecasts by factor, in %: {which}"
    return Table("made-of", caption, columns, rows)


def _sensitivity(facts: Facts) -> Table:
    slopes = facts.sensitivity.head(10)
    # against the spread of returns: noise must not fill the column
    full = max(float(slopes["effect"].max()), 0.02 * float(facts.ranking["sd"].median()), 1e-12)
    rows: list[list[str | Cell]] = [
        [
            str(name),
            percent(row["slope"], 3, sign=True),
            percent(row["effect"], 3),
            Cell(bar=100 * row["effect"] / full, sort=float(row["effect"])),
        ]
        for name, row in slopes.iterrows()
    ]
    columns = [
        Column("Characteristic", numeric=False),
        Column("Slope %", "mean change of the forecast per unit of the characteristic"),
        Column("Effect %", "typical size: slope times the characteristic's spread"),
        Column("", numeric=False),
    ]
    caption = f"Characteristics that mean forecasts answer to: {words.strongest(len(slopes))}"
    return Table("sensitivity", caption, columns, rows)


def _profile(facts: Facts) -> Table:
    profile = facts.profile
    known = [str(v) for v in profile["known_factor"].values] if "known" in profile else []
    columns = [Column("Factor", numeric=False), *map(Column, known)]
    if known:
        columns.append(Column("R² %", "variance that the known factors explain together"))
    columns.append(Column("Closest characteristic portfolios", numeric=False))
    rows = []
    for k in facts.alive:
        row = [f"Factor {int(profile[FACTOR].values[k])}"]
        if known:
            row += [number(float(v)) for v in profile["known"].values[k]]
            row.append(percent(profile["r2"].values[k], 0))
        near = profile["managed"].isel({FACTOR: k}).to_series().dropna()
        order = near.abs().sort_values(ascending=False).index[:3]
        row.append(", ".join(f"{name} {number(float(near[name]))}" for name in order))
        rows.append(row)
    return Table("profile", "What the factors move with", columns, rows)


def _profile_note(facts: Facts) -> str:
    profile = facts.profile
    source = "Correlations "
    if "known" in profile:
        source = (
            f"Correlations over {int(profile['known_months'])} months with the factors of K. R. "
            "French's data library (MktRF the market, SMB small minus big, HML value minus growth, "
            "Mom winners minus losers), "
        )
    return (
        f"{source}and over {int(profile['months'])} {facts.period}s with portfolios that are long "
        "a characteristic (constant: about equal weights)."
    )


def _backtest(facts: Facts) -> Table:
    assert facts.judged is not None  # the caller has looked
    tested = facts.judged.backtest
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
    rows = []
    pooled, books = tested["pooled"].to_dataset(), tested[PORTFOLIO].to_dataset()
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
        for name in books[PORTFOLIO].values:
            one = books.sel({"tail": tail, PORTFOLIO: name})
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


def _by_year(facts: Facts) -> Table | None:
    assert facts.judged is not None  # the caller has looked
    table = facts.judged.by_year
    if len(table) < 2:
        return None
    rows = [
        [
            str(int(row["year"])),
            str(int(row["months"])),
            percent(row["coverage"], 0),
            percent(row["below"], 1),
        ]
        for _, row in table.iterrows()
    ]
    columns = [
        Column("Year", numeric=False),
        Column(f"{facts.period.capitalize()}s"),
        Column("Inside 90 % intervals, %"),
        Column("Below the 5 % quantile, %"),
    ]
    return Table("by-year", "Coverage by year", columns, rows)


def _rivals(facts: Facts) -> list[dict[str, Any]]:
    if facts.judged is None:
        return []
    judged = facts.judged
    linear = (
        "IPCA maps the same characteristics to exposures by a linear map, with as many factors and "
        f"a constant, fitted to the same past by least squares. Same {facts.period}s, same "
        "observations, one period ahead."
    )
    simple = (
        "EWMA knows returns alone: an exponentially weighted covariance of the same past, and one "
        f"scale for all assets that follows every {facts.period}; returns are Student-t."
    )
    cases = (
        ("versus", "IPCA", linear, judged.measures, judged.missing),
        ("versus-ewma", "EWMA", simple, judged.risk, judged.risk_missing),
    )
    return [
        {
            "name": name,
            "meaning": meaning,
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
        told = [
            f"{number(each.scale * value, digits)} (s.e. {number(each.scale * error, digits)})"
            for value, error in pairs
        ]
        rows.append([each.label, *told, each.verdict])
    columns = [
        Column("Measure", numeric=False),
        *map(Column, ("This model", rival, "Difference")),
        Column("Verdict", numeric=False),
    ]
    return Table(key, f"This model beside {rival}", columns, rows)


def _again(facts: Facts) -> dict[str, str]:
    attrs = facts.fit.attrs
    versions = json.loads(str(attrs.get("versions", "{}")))
    return {
        "Training seed": str(attrs.get("seed", "")),
        "Hash of the training data": str(attrs.get("data_fingerprint", "")),
        "Draws and their seed": f"{facts.num_samples}, {facts.seed}",
        "Characteristics": ", ".join(str(v) for v in facts.panel[CHARACTERISTIC].values),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Source of the panel": str(facts.panel.attrs.get("source", "not stated")),
    }


def _config(facts: Facts) -> str:
    text = str(facts.fit.attrs.get("config", "{}"))
    try:
        return json.dumps(json.loads(text), indent=1)
    except ValueError:
        return text
