"""Sections of the page on the forecast: summary, portfolios, assets, and what it is made of."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from rvrae_pyro.models.asset_labels import labels_of
from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR, TIME
from rvrae_pyro.report.facts import Facts
from rvrae_pyro.report.portfolio_tables import EQUAL, PORTFOLIO
from rvrae_pyro.report.tables import (
    Cell,
    Column,
    Figures,
    Interval,
    Table,
    day,
    inside,
    number,
    percent,
    table_of,
)
from rvrae_pyro.report.validation_sections import against_ewma, against_ipca, happened, judged_on

MOST_ROWS: Final = 1000
"""Rows of the ranking; of a longer one both ends are shown."""

_VAR: Final = "loss exceeded with probability 5 %, in %"
_COMMON: Final = "share of the variance that comes from the factors"
_LOSS: Final = "probability of an excess return below zero"


def forecast_sections(facts: Facts) -> dict[str, Any]:
    """Return what the templates show of the forecast, but for the pictures."""
    return {
        "short": _in_short(facts),
        "fitted": _fitted_on(facts),
        "portfolios": _portfolios(facts),
        "parts": _parts(facts),
        "parts_note": _parts_note(facts),
        "scenarios": _scenarios(facts),
        "horizons": _horizons(facts),
        "changed": _changed(facts),
        "moved": _moved(facts),
        "ranking": _ranking(facts),
        "ranking_note": _on_ranks(facts),
        "cut": len(facts.ranking) > MOST_ROWS,
        "half": MOST_ROWS // 2,
        "total": len(facts.ranking),
        "fall": percent(facts.fall),
        "groups": _groups(facts),
        "made_of": _made_of(facts),
        "sensitivity": _sensitivity(facts),
        "dead": _dead_factors(facts),
        "profile": _profile(facts),
        "profile_note": _profile_note(facts),
        "period": facts.period,
    }


def _in_short(facts: Facts) -> list[str]:
    """Sum the page up in a few sentences."""
    table, period = facts.ranking, facts.period
    best, worst = table.iloc[0], table.iloc[-1]
    equal = facts.portfolios.sel(portfolio=EQUAL)
    mean, sd, var, es = (_percent(v) for v in _figures(equal))
    means = (
        f"The range of mean forecasts is {_percent(best['mean'] - worst['mean'])}, against "
        f"{_percent(table['sd'].median())} of typical risk. {_on_ranks(facts)}"
    )
    lines = [
        f"An equally weighted portfolio of all {len(table)} assets: mean {mean}, standard "
        f"deviation {sd}. In one {period} of twenty it should lose more than {var}, and then {es} "
        "on average."
    ]
    if facts.ranked:
        first, last = facts.labels[str(best[ASSET])], facts.labels[str(worst[ASSET])]
        means += (
            f" Highest mean: {first}, {_percent(best['mean'])}; lowest: {last}, "
            f"{_percent(worst['mean'])}."
        )
    if facts.held != EQUAL:
        top = facts.parts.head(1)
        mean, sd, var, _ = (
            _percent(v) for v in _figures(facts.portfolios.sel(portfolio=facts.held))
        )
        lines.insert(
            0,
            f"{facts.held}: mean {mean}, standard deviation {sd}; in one {period} of twenty a loss "
            f"of more than {var}. The largest part of its tail risk, "
            f"{percent(top['part'].iloc[0], 0)} %, is {facts.labels[str(top.index[0])]}.",
        )
    lines.append(means)
    if not facts.waiting:
        lines.insert(1, happened(facts))
    if facts.judged is None:
        return [*lines, judged_on(facts)]
    pit = facts.judged.backtest["asset"].to_dataset()["pit"].values
    within = float((np.abs(pit[np.isfinite(pit)] - 0.5) <= 0.45).mean())
    months = f"In {len(facts.spans.judged)} {period}s of the test, which training has not seen"
    if facts.spans.kind == "valid":
        months = (
            f"In {len(facts.spans.judged)} {period}s after those of training, "
            f"{len(facts.spans.valid)} of which decided when it stopped"
        )
    lines.append(f"{months}, 90 % intervals held {percent(within, 0)} % of the returns.")
    return [*lines, against_ipca(facts.judged), against_ewma(facts.judged)]


def _figures(portfolio: Any) -> list[float]:
    """Mean, standard deviation, and VaR and ES at 5 %."""
    tail = portfolio.sel(tail=0.05)
    return [float(portfolio["mean"]), float(portfolio["sd"]), float(tail["var"]), float(tail["es"])]


def _percent(value: float) -> str:
    return f"{percent(value, 1)} %"


def _fitted_on(facts: Facts) -> str:
    """Summarise the model and the panels of fit and report."""
    model, panel, attrs, period = facts.fit.model, facts.panel, facts.fit.attrs, facts.period
    trained = facts.fit.kl_total[TIME].values
    count = panel.sizes[CHARACTERISTIC]
    exposures = f"how {count} characteristics of each asset map to its exposures"
    if labels_of(model.loadings) is not None:
        exposures = (
            f"the exposures of each asset, as effects by asset in addition to a map from {count} "
            "characteristics"
        )
    text = (
        f"A dynamic factor model (RVRAE) with {model.n_factors} latent factors learned {exposures},"
        f" from {day(trained[0], period)} to {day(trained[-1], period)}, {len(trained)} {period}s "
        f"and {int(attrs.get('n_train_returns', 0)):,} returns."
    )
    if int(attrs.get("n_valid_returns", 0)):
        until = np.datetime64(str(attrs.get("last_seen_month", str(trained[-1])[:10])))
        text += f" Later {period}s, to {day(until, period)}, decided when to stop learning."
    months = panel[TIME].values
    return (
        f"{text} The panel of this report holds {panel.sizes[ASSET]} assets from "
        f"{day(months[0], period)} to {day(months[-1], period)}; {len(facts.ranking)} are listed "
        f"in {day(facts.live, period)}."
    )


def _portfolios(facts: Facts) -> Table:
    found = facts.portfolios
    tails = {
        f"{kind}_{100 * tail:.0f}": found[kind].sel(tail=tail).values
        for tail in (0.05, 0.01)
        for kind in ("var", "es")
    }
    single = {name: found[name].values for name in ("mean", "sd", "prob_loss")}
    common = (found["factor_var"] / found["sd"] ** 2).values
    frame = pd.DataFrame({**single, **tails, "common": common}, found[PORTFOLIO].values)
    figures = [
        Figures("Mean %", "mean"),
        Figures("Sd %", "sd", meaning="standard deviation"),
        Figures("VaR 5 %", "var_5", meaning=_VAR),
        Figures("ES 5 %", "es_5", meaning="mean loss beyond it, in %"),
        Figures("VaR 1 %", "var_1"),
        Figures("ES 1 %", "es_1"),
        Figures("P(loss) %", "prob_loss", 0, _LOSS),
        Figures("Common %", "common", 0, _COMMON),
    ]
    ahead = f"the {facts.ahead}" if facts.waiting else facts.ahead
    caption = f"Risk of portfolios over {ahead}"
    return table_of(frame, "portfolios", caption, "Portfolio", figures)


def _parts(facts: Facts) -> Table:
    shown = facts.parts.head(10)
    figures = [
        Figures("Weight %", "weight"),
        Figures("Part of ES %", "part"),
        Figures("", "part", full=max(float(shown["part"].abs().max()), 1e-12)),
        Figures("Part of sd %", "sd_part"),
    ]
    caption = (
        f"Where the 5 % expected shortfall of {inside(facts.held)} comes from: {len(shown)} "
        "largest parts"
    )
    return table_of(shown, "parts", caption, "Asset", figures, facts.labels)


def _parts_note(facts: Facts) -> str:
    shown = facts.parts.head(10)
    return (
        f"Parts add up to 100 % over all {len(facts.parts)} assets; these {len(shown)} carry "
        f"{percent(shown['part'].sum(), 0)} % with {percent(shown['weight'].sum(), 0)} % of the "
        "weight."
    )


def _scenarios(facts: Facts) -> Table:
    figures = [
        Figures("Its return %", "given", 1, "two standard deviations from its mean", sign=True),
        Figures("Mean %", "mean"),
        Figures("Sd %", "sd"),
        Figures("VaR 5 %", "var", meaning=_VAR),
    ]
    caption = f"Scenarios for {inside(facts.held)}"
    found = table_of(facts.scenarios, "scenarios", caption, "If", figures)
    now = [percent(value, 2) for value in _figures(facts.portfolios.sel(portfolio=facts.held))[:3]]
    return Table(found.name, caption, found.columns, [["No scenario", "", *now], *found.rows])


def _horizons(facts: Facts) -> Table | None:
    if facts.horizons.empty:
        return None
    figures = [
        Figures("Mean %", "mean"),
        Figures("Sd %", "sd"),
        Figures("VaR 5 %", "var"),
        Figures("ES 5 %", "es"),
        Figures("P(loss) %", "prob_loss", 0),
    ]
    caption = f"{facts.held}, bought now and held: compounded excess return"
    head = f"{facts.period.capitalize()}s"
    return table_of(facts.horizons, "horizons", caption, head, figures)


def _changed(facts: Facts) -> Table | None:
    if facts.before is None or facts.changed.empty:
        return None
    frame = facts.changed.assign(change=facts.changed["now"] - facts.changed["before"])
    figures = [
        Figures(day(facts.before, facts.period), "before"),
        Figures(day(facts.live, facts.period), "now"),
        Figures("Change", "change", sign=True),
    ]
    caption = f"Forecast of {inside(facts.held)}, since the last {facts.period}"
    kinds = {"mean": "Mean %", "sd": "Sd %", "var": "VaR 5 %", "es": "ES 5 %"}
    return table_of(frame, "changed", caption, "", figures, kinds)


def _moved(facts: Facts) -> Table | None:
    if facts.before is None or facts.moved.empty:
        return None
    frame = facts.moved.assign(change=facts.moved["sd_now"] - facts.moved["sd_before"]).head(5)
    figures = [
        Figures("Sd % before", "sd_before"),
        Figures("Sd % now", "sd_now"),
        Figures("Change", "change", sign=True),
        Figures("Mean % before", "mean_before"),
        Figures("Mean % now", "mean_now"),
    ]
    caption = f"Assets whose risk changed most since {day(facts.before, facts.period)}"
    return table_of(frame, "moved", caption, "Asset", figures, facts.labels)


def _on_ranks(facts: Facts) -> str:
    """State whether the order of the means is informative."""
    if facts.judged is None:
        return "Nothing has tested the order of these means, so they are not ranked."
    found = facts.judged.rank_ic
    figures = (
        f"rank correlation with the returns of {len(facts.spans.judged)} {facts.period}s: "
        f"{number(float(found['estimate']))}, s.e. {number(float(found['standard_error']))}"
    )
    if facts.ranked:
        return f"Their order has been worth something ({figures})."
    return f"Their order cannot be distinguished from chance, so they are not ranked ({figures})."


def _ranking(facts: Facts) -> Table:
    """Rank assets by mean forecast, or list them by risk where means are not ranked."""
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
        Column("P(loss) %", _LOSS),
        Column("Common %", _COMMON),
        Column("In a fall %", f"mean if equal weights return {percent(facts.fall)} %"),
    ]
    body = [_ranked(row, facts, extra, ends) for _, row in rows.iterrows()]
    order = "mean forecast" if facts.ranked else "risk, lowest first"
    caption = f"Assets by {order}, {day(facts.live, facts.period)}"
    return Table("ranking", caption, columns, body, sortable=True)


def _ranked(
    row: pd.Series, facts: Facts, extra: list[str], ends: tuple[float, float]
) -> list[str | Cell]:
    width = max(ends[1] - ends[0], 1e-12)
    zero, left, right, middle = (
        100 * (value - ends[0]) / width for value in (0.0, row["q05"], row["q95"], row["mean"])
    )

    def figure(name: str) -> Cell:
        digits = 0 if name in ("prob_loss", "factor_share") else 2
        return Cell(percent(row[name], digits), f"{100 * row[name]:.6g}")

    rank = [Cell(str(int(row["rank"])), int(row["rank"]))] if facts.ranked else []
    numbers = ("q05", "q95", "sd", "var_05", "es_05", "prob_loss", "factor_share", "fall")
    return [
        facts.labels[str(row[ASSET])],
        *rank,
        *(str(row[name]) for name in extra),
        figure("mean"),
        Cell(
            sort=float(row["q95"] - row["q05"]), interval=Interval(zero, left, right - left, middle)
        ),
        *map(figure, numbers),
    ]


def _groups(facts: Facts) -> Table | None:
    if facts.groups is None:
        return None
    held, kind = inside(facts.held), str(facts.groups.index.name)
    alone = "of the group with equal weights"
    figures = [
        Figures("Assets", "assets", None),
        Figures("Weight %", "weight", 1, f"in {held}"),
        Figures("Part of ES %", "part", 1, f"in that of {held}, 5 %"),
        Figures("Mean %", "mean", meaning=alone),
        Figures("Sd %", "sd", meaning=alone),
        Figures("VaR 5 %", "var", meaning=alone),
    ]
    caption = f"By {kind}: share in {held}, and each group by itself with equal weights"
    return table_of(facts.groups, "by-group", caption, kind.capitalize(), figures)


def _made_of(facts: Facts) -> Table:
    parts = facts.attribution
    if facts.ranked:
        order = [each for each in facts.ranking[ASSET] if each in parts.index]
        shown = order if len(order) <= 10 else [*order[:5], *order[-5:]]
        which = "the highest and the lowest"
    else:
        shown = [str(each) for each in facts.parts.index if each in parts.index][:10]
        which = f"{len(shown)} largest parts of {inside(facts.held)}"
    figures = [
        Figures("Intercept" if name == "intercept" else f"Factor {name}", name, sign=True)
        for name in parts.columns
    ]
    frame = parts.loc[shown].assign(sum=parts.loc[shown].sum(axis=1))
    labels = facts.factors[FACTOR].values
    dead = [name for name in parts.columns if name in np.delete(labels, facts.alive).tolist()]
    if dead:
        figures = [each for each in figures if each.key not in dead]
        frame["others"] = frame[dead].sum(axis=1)
        figures.append(Figures("Other factors", "others", sign=True))
    caption = f"Mean forecasts by factor, in %: {which}"
    figures.append(Figures("Sum", "sum", sign=True))
    return table_of(frame, "made-of", caption, "Asset", figures, facts.labels)


def _sensitivity(facts: Facts) -> Table:
    slopes = facts.sensitivity.head(10)
    # against the spread of returns: noise must not fill the column
    full = max(float(slopes["effect"].max()), 0.02 * float(facts.ranking["sd"].median()), 1e-12)
    figures = [
        Figures(
            "Slope %",
            "slope",
            3,
            "mean change of the forecast per unit of the characteristic",
            sign=True,
        ),
        Figures("Effect %", "effect", 3, "typical size: slope times the characteristic's spread"),
        Figures("", "effect", full=full),
    ]
    caption = f"Characteristics that mean forecasts answer to: {len(slopes)} strongest"
    return table_of(slopes, "sensitivity", caption, "Characteristic", figures)


def _dead_factors(facts: Facts) -> str:
    """Name the factors that carry next to nothing; empty if there are none."""
    names = [str(int(v)) for v in facts.factors["factor"].values]
    dead = [name for k, name in enumerate(names) if k not in facts.alive]
    if not dead:
        return ""
    less = "less than half a percent of the common variation"
    if len(dead) == 1:
        return f"Factor {dead[0]} carries {less} and is not shown."
    which = f"{', '.join(dead[:-1])} and {dead[-1]}"
    return f"Factors {which} carry {less} each and are not shown."


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
