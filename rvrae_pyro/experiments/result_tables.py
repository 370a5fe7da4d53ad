"""From the numbers of single fits to tables with standard errors, next to the paper's figures."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.diagnostics.check_panel import SUSPECT, judge_skill
from rvrae_pyro.evaluation import compare, diebold_mariano
from rvrae_pyro.evaluation.comparison import ESS, FILTER_ERROR
from rvrae_pyro.experiments.competitors import PAPER_NAME
from rvrae_pyro.experiments.forecast_tree import EVIDENCE_ERROR, LOG_EVIDENCE
from rvrae_pyro.experiments.grid import Cell, Result
from rvrae_pyro.experiments.metrics import METRICS
from rvrae_pyro.names import TIME

NOT_COMPARABLE: Final = (
    "Printed in arXiv 2403.02500: other data (CRSP and Compustat, 5,682 stocks, 2000-2020, not "
    "public), other months, no standard errors. Not comparable, and not targets."
)

PAPER_TABLE: Final[dict[str, dict[str, float]]] = {
    "IPCA": {
        "total_r2": 18.32,
        "predictive_r2_running": 0.36,
        "sharpe_gross": 0.86,
        "sharpe_net": 0.64,
    },
    "CA": {
        "total_r2": 17.52,
        "predictive_r2_running": 0.74,
        "sharpe_gross": 1.12,
        "sharpe_net": 0.96,
    },
    "FactorVAE": {
        "total_r2": 18.71,
        "predictive_r2_running": 0.92,
        "sharpe_gross": 1.92,
        "sharpe_net": 1.43,
    },
    "ALSTM": {
        "total_r2": 20.33,
        "predictive_r2_running": 0.91,
        "sharpe_gross": 2.15,
        "sharpe_net": 2.01,
    },
    "Transformer": {
        "total_r2": 19.23,
        "predictive_r2_running": 1.46,
        "sharpe_gross": 12.03,
        "sharpe_net": 1.92,
    },
    PAPER_NAME: {
        "total_r2": 20.06,
        "predictive_r2_running": 1.57,
        "sharpe_gross": 2.26,
        "sharpe_net": 2.03,
    },
}
"""By competitor and metric, in the unit of the tables. Total R2 of ALSTM and Transformer has no
meaning for pure forecasters; a Sharpe ratio of 12.03 is presumably a slip for 2.03."""

PAPER_RANK: Final[dict[int, tuple[float, float]]] = {
    50: (0.055, 0.295),
    100: (0.053, 0.361),
    150: (0.053, 0.363),
}
"""Rank IC and Rank ICIR of the paper's RVRAE by number of omitted stocks."""


@dataclass(frozen=True)
class Table:
    """A table of the comparison."""

    title: str
    metrics: tuple[str, ...]  # keys of :data:`~rvrae_pyro.experiments.metrics.METRICS`, its columns
    note: str  # remarks for the reader


_DASH = "A dash: not defined for that model."

TABLES: Final[Mapping[str, Table]] = {
    "1": Table(
        "Total and predictive R2",
        (
            "total_r2",
            "total_r2_gls",
            "total_r2_ols",
            "predictive_r2",
            "predictive_r2_running",
            "predictive_r2_ols",
        ),
        "Against zero, not demeaned. Total R2 knows the month's own returns; GLS and OLS re-solve "
        "its factors across assets, which also fits noise. ALSTM and Transformer forecast only: "
        f"they have no factors and no total R2. {_DASH}",
    ),
    "2": Table(
        "Long-short deciles, annualised Sharpe ratio",
        ("sharpe_gross", "sharpe_net", "turnover", "sharpe_gross_running", "sharpe_net_running"),
        "Equal weights; net of 30 basis points on every unit traded, drifted weights included, "
        f"unless the run states otherwise. {_DASH}",
    ),
    "3": Table(
        "Rank IC and ICIR of assets that training never saw",
        ("rank_ic", "rank_icir", "rank_ic_running", "rank_icir_running"),
        "Per seed, `omitted` assets are drawn, dropped from training, their returns hidden in "
        "every month, and scored alone in the test months. Omitted 0: all assets, all trained on. "
        f"ICIR is monthly, not annualised. {_DASH}",
    ),
    "4": Table(
        "Predictive distributions",
        ("log_score", "crps", "coverage", "exceedance"),
        "Log score: joint density of each month's returns given the months before. ALSTM and "
        f"Transformer give no distribution. {_DASH}",
    ),
    "5": Table(
        "Ablation: one change each against RVRAE",
        (
            "total_r2",
            "predictive_r2",
            "predictive_r2_running",
            "rank_ic",
            "rank_ic_running",
            "log_score",
            "crps",
            "coverage",
        ),
        "RVRAE: latent prior, a code per step, summed KL, LSTM with feed-forward path. The mean KL "
        "is not a bound on the evidence.",
    ),
}
"""Every table by its number."""

_PRINTED_RANKS: Final = ("rank_ic", "rank_icir")

PAPER_METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    # forecasters have no running mean of factors, so the model's own R2 is shown in addition
    "1": ("total_r2", "predictive_r2_running", "predictive_r2"),
    "2": ("sharpe_gross", "sharpe_net"),
    "3": _PRINTED_RANKS,
}
"""Columns of the paper's own tables, by number."""


def long_table(results: Mapping[Cell, Result]) -> pd.DataFrame:
    """Lay out one row per fit and metric.

    ``model``, ``omitted``, ``seed``, ``metric``, ``estimate``, ``standard_error`` (over months), in
    natural units.
    """
    rows = [
        (cell.model, cell.omitted, cell.seed, metric, *numbers)
        for cell, result in results.items()
        for metric, numbers in result.scores.estimates.items()
    ]
    columns = ["model", "omitted", "seed", "metric", "estimate", "standard_error"]
    return pd.DataFrame(rows, columns=columns)


def pooled(long: pd.DataFrame) -> pd.DataFrame:
    r"""Average over seeds, with a standard error for months and seeds together.

    .. math:: \mathrm{se}^2 = (\tfrac1S \sum_s \mathrm{se}_s)^2 + \mathrm{sd}^2 / S

    ``model``, ``omitted``, ``metric``, ``estimate``, ``standard_error``, ``seed_sd`` (NaN for one
    seed), ``n_seeds``, of a table as :func:`long_table` returns it.

    All seeds are scored on the same months, so their sampling errors hardly average out: the
    first term takes them as perfectly correlated, which is the upper bound. The second is what
    another set of seeds would change, and is left out for a single seed.
    """
    rows = []
    for (model, omitted, metric), group in long.groupby(["model", "omitted", "metric"], sort=False):
        group = group[np.isfinite(group["estimate"])]  # skip seeds without a number
        values, errors = group["estimate"], group["standard_error"]
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        between = 0.0 if math.isnan(spread) else spread**2 / len(values)
        error = math.sqrt(float(errors.mean()) ** 2 + between)
        rows.append((model, omitted, metric, float(values.mean()), error, spread, len(values)))
    columns = ["model", "omitted", "metric", "estimate", "standard_error", "seed_sd", "n_seeds"]
    return pd.DataFrame(rows, columns=columns)


def select(pool: pd.DataFrame, number: str, models: Sequence[str]) -> pd.DataFrame:
    """Rows of a table, models and metrics in its order."""
    table = TABLES[number]
    rows = pool[pool["metric"].isin(table.metrics) & pool["model"].isin(models)]
    if number != "3":
        rows = rows[rows["omitted"] == 0]
    order = {name: k for k, name in enumerate(models)}
    rank = {name: k for k, name in enumerate(table.metrics)}
    place = rows.assign(m=rows["model"].map(order), k=rows["metric"].map(rank))
    chosen = place.sort_values(["omitted", "m", "k"], kind="stable").drop(columns=["m", "k"])
    return chosen.reset_index(drop=True)


def skill_alarms(pool: pd.DataFrame) -> list[str]:
    """Name models, baselines among them, whose skill is too good to be true, a sentence each.

    Of a table as :func:`pooled` or :func:`long_table` returns it, whose fits are averaged.
    """
    rows = pool[(pool["omitted"] == 0) & pool["metric"].isin(["predictive_r2", "rank_ic"])]
    means = rows.groupby(["model", "metric"], sort=False)[["estimate", "standard_error"]].mean()
    found = []
    for model in rows["model"].unique():
        figures: list[float] = []
        for metric in ("predictive_r2", "rank_ic"):
            known = (model, metric) in means.index
            figures += means.loc[(model, metric)].fillna(0.0).tolist() if known else [0.0, 0.0]
        r2, r2_error, ic, ic_error = figures
        if judge_skill(r2, r2_error, ic, ic_error) != "good":
            found.append(
                f"{model}: predictive R2 {100 * r2:.1f} % (s.e. {100 * r2_error:.1f}), rank "
                f"correlation {ic:.2f} (s.e. {ic_error:.2f}). {SUSPECT}"
            )
    return found


def wide(
    rows: pd.DataFrame, number: str, *, published: bool = True, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Lay out the rows of :func:`select` by model, cells as "estimate (standard error)".

    ``published`` adds columns with the paper's printed figures; ``metrics`` defaults to all.
    """
    table = TABLES[number]
    keys = list(dict.fromkeys(zip(rows["omitted"], rows["model"], strict=True)))
    found = {
        (row["omitted"], row["model"], row["metric"]): row for row in rows.to_dict(orient="records")
    }
    lines = []
    for omitted, model in keys:
        line: dict[str, str] = {"Model": model}
        if number == "3":
            line["Omitted"] = str(omitted)
        for metric in table.metrics if metrics is None else metrics:
            name = METRICS[metric].label
            line[name] = _text(found.get((omitted, model, metric)), metric)
            printed = any(metric in row for row in PAPER_TABLE.values())
            if published and number in ("1", "2") and printed:
                line[f"{name} [printed]"] = str(PAPER_TABLE.get(model, {}).get(metric, ""))
            if published and number == "3" and metric in _PRINTED_RANKS:
                line[f"{name} [printed]"] = _printed_rank(model, int(omitted), metric)
        lines.append(line)
    return pd.DataFrame(lines)


def with_printed(rows: pd.DataFrame) -> pd.DataFrame:
    """Add a column with the paper's printed figures, in natural units; NaN where there is none.

    They are of other data and no targets, as the column's name states.
    """
    printed = [
        _printed_figure(str(row["model"]), int(row["omitted"]), str(row["metric"]))
        for row in rows.to_dict(orient="records")
    ]
    return rows.assign(printed_not_comparable=np.array(printed, dtype=float))


def _printed_figure(model: str, omitted: int, metric: str) -> float:
    if omitted == 0:
        return PAPER_TABLE.get(model, {}).get(metric, math.nan) / METRICS[metric].scale
    ranks = dict(zip(_PRINTED_RANKS, PAPER_RANK.get(omitted, ()), strict=False))
    return ranks.get(metric, math.nan) if model == PAPER_NAME else math.nan


def _printed_rank(model: str, omitted: int, metric: str) -> str:
    figures = PAPER_RANK.get(omitted) if model == PAPER_NAME else None
    return "" if figures is None else f"{figures[_PRINTED_RANKS.index(metric)]:.3f}"


def _text(cell: Mapping[Hashable, Any] | None, metric: str) -> str:
    if cell is None or not math.isfinite(cell["estimate"]):
        return "–"
    scale = METRICS[metric].scale
    digits = 3 if scale == 1.0 else 2
    estimate, error = scale * cell["estimate"], scale * cell["standard_error"]
    apart = f"{error:.{digits}f}" if math.isfinite(error) else "–"
    return f"{estimate:.{digits}f} ({apart})"


def compare_densities(
    results: Mapping[Cell, Result], reference: str, models: Sequence[str]
) -> pd.DataFrame:
    """Test monthly log scores and CRPS of every model against those of a reference.

    ``model``, ``score``, ``difference`` (reference less model; above 0 favours the reference for
    the log score, below 0 for CRPS), ``standard_error``, ``p_value`` (Diebold-Mariano with
    Newey-West, two-sided), ``n_times``. Scores are averaged over seeds first.
    """
    columns = ["model", "score", "difference", "standard_error", "p_value", "n_times"]
    rows = []
    for name in ("log_score", "crps"):
        series = {model: _monthly(results, model, name) for model in models}
        mine = series.get(reference)
        for model, theirs in series.items():
            if model == reference or mine is None or theirs is None:
                continue
            test = diebold_mariano(mine, theirs)
            numbers = [float(test[v]) for v in ("difference", "standard_error", "p_value")]
            rows.append((model, name, *numbers, int(test["n_times"])))
    return pd.DataFrame(rows, columns=columns)


def compare_evidence(results: Mapping[Cell, Result], models: Sequence[str]) -> xr.Dataset | None:
    """Compare monthly log scores, averaged over seeds, by :func:`rvrae_pyro.evaluation.compare`.

    None where fewer than two models have a density in two months with returns or more.
    """
    scores = {}
    for model in models:
        series = _monthly(results, model, LOG_EVIDENCE)
        if series is None:
            continue
        extra = {}
        errors = _each(results, model, EVIDENCE_ERROR)
        if errors:
            squares = sum(error**2 for error in errors)
            extra[FILTER_ERROR] = (TIME, (squares**0.5 / len(errors)).data)
            sizes = xr.concat(_each(results, model, ESS), "seed").min("seed")
            extra[ESS] = (TIME, sizes.data)
        kept = series.assign_coords(extra).dropna(TIME)
        if kept.sizes[TIME] > 1:
            scores[model] = kept
    return compare(scores) if len(scores) > 1 else None


def _monthly(results: Mapping[Cell, Result], model: str, name: str) -> xr.DataArray | None:
    """Average a model's monthly scores over its seeds."""
    found = _each(results, model, name)
    return sum(found[1:], found[0]) / len(found) if found else None


def _each(results: Mapping[Cell, Result], model: str, name: str) -> list[xr.DataArray]:
    """Monthly scores of every seed."""
    return [
        xr.DataArray(
            result.scores.monthly[name],
            coords={TIME: np.array(result.scores.times, dtype="datetime64[ns]")},
            dims=TIME,
        )
        for cell, result in results.items()
        if cell.model == model and cell.omitted == 0 and name in result.scores.monthly
    ]


def to_markdown(table: pd.DataFrame) -> str:
    """Lay out a table in Markdown, numbers to the right."""
    columns = [str(name) for name in table.columns]
    rule = [":---", *["---:"] * (len(columns) - 1)]
    body = [
        [str(value).replace("|", r"\|").replace("\n", " ") for value in row]
        for row in table.itertuples(index=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, rule, *body])
