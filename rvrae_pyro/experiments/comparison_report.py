"""Page, tables and figures of a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from rvrae_pyro import displays
from rvrae_pyro.atomic import write_bytes
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.forecast_tree import Fitted
from rvrae_pyro.experiments.grid import Cell, Failure, Result
from rvrae_pyro.experiments.metrics import METRICS
from rvrae_pyro.experiments.result_tables import (
    NOT_COMPARABLE,
    PAPER_METRICS,
    PAPER_RANK,
    TABLES,
    skill_alarms,
    to_markdown,
    wide,
    with_printed,
)
from rvrae_pyro.names import ASSET, TIME
from rvrae_pyro.plots.style import canvas, dress, save_picture

PAGE: Final = "report.md"
TITLE: Final = "# Comparison"

_CAVEATS = (
    "Standard errors: Newey-West over the test months, pooled with the spread over seeds. One span "
    "of test months is one history: differences of less than two standard errors mean little.",
    "Assets that left the market before the data were collected are missing from many panels "
    "(survivorship), which flatters every model.",
)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Results of ``rv.experiments.compare`` and ``rv.experiments.swap``.

    Attributes
    ----------
    results : DataFrame
        One row per fit and metric: ``model``, ``omitted``, ``seed``, ``metric``, ``estimate``,
        ``standard_error`` over months, natural units.
    tables : dict from number to DataFrame
        "1" to "5": ``model``, ``omitted``, ``metric``, ``estimate``, ``standard_error`` for
        months and seeds together, ``seed_sd``, ``n_seeds``; see
        ``TABLES``. "5" is empty without an ablation.
    p_values : DataFrame
        Diebold-Mariano tests of log score and CRPS against ``reference``.
    monthly : dict from Cell to Result
        All that each fit left, monthly scores included.
    failures : list of Failure
    reference : str
    info : dict
        Spans, seeds, versions, run time, data fingerprint.
    scores : Dataset or None
        Joint log scores by ``model``, best first, as :func:`rvrae_pyro.evaluation.compare` has
        them: ``log_score``, ``difference`` to the best with ``difference_error`` (which contains
        the filter's Monte-Carlo error), ``p_value``, stacking ``weight``, ``log_scores`` by month.
        None where fewer than two models have a distribution.
    statistics : Dataset or None
        Of ``swap``: predictive statistics (model, statistic) of the test months: ``observed``,
        ``mean``, ``sd``, ``p_value`` and ``p_value_error`` one step ahead, and ``prior_mean``,
        ``prior_sd``, ``prior_p_value`` of the untrained model.
    sensitivity : Dataset or None
        Of ``swap`` on request: :func:`rvrae_pyro.evaluation.psense` by model.
    fits : dict from name to fitted model
        Of ``swap``.
    """

    results: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    p_values: pd.DataFrame
    monthly: dict[Cell, Result]
    failures: list[Failure]
    reference: str
    info: dict[str, object]
    scores: xr.Dataset | None = None
    statistics: xr.Dataset | None = None
    sensitivity: xr.Dataset | None = None
    fits: Mapping[str, Fitted] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Log scores by model, best first; nats per month. Empty without ``scores``."""
        if self.scores is None:
            return pd.DataFrame(index=pd.Index([], name="model"))
        frame: pd.DataFrame = self.scores.drop_dims(TIME).to_dataframe()
        if self.sensitivity is not None:
            moved = self.sensitivity["sensitivity"].median([TIME, ASSET]).to_series()
            frame["sensitivity"] = moved.reindex(frame.index)
        return frame

    def plot(self, **options: Any) -> Any:
        """Draw the log scores with errors of their differences; see ``rv.plots.comparison``.

        Parameters
        ----------
        **options
            Of ``rv.plots.comparison``: ``kind``, ``reference``, ``ax``, ``style``.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ConfigError
            If fewer than two models have a distribution.
        """
        if self.scores is None:
            raise ConfigError(
                "there is nothing to plot: fewer than two models have a distribution. Their "
                "point scores are in `results`."
            )
        from rvrae_pyro import plots

        return plots.comparison(self.scores, **options)

    def _shown(self) -> pd.DataFrame:
        """Return the table as text, for people."""
        rows = []
        for name, row in self.table.iterrows():
            best = row["difference"] == 0
            shown = {
                "model": str(name),
                "log score": f"{row['log_score']:.2f}",
                "less the best": "" if best else f"{row['difference']:.2f}",
                "s.e.": "" if best else f"{row['difference_error']:.2f}",
                "of it filter": f"{row['filter_error']:.2f}",
                "stacking weight": f"{row['weight']:.2f}",
            }
            if "sensitivity" in row:
                shown["sensitivity"] = f"{row['sensitivity']:.2f}"
            rows.append(shown)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Count models and seeds."""
        models = list(dict.fromkeys(self.results["model"]))
        seeds = self.results["seed"].nunique()
        failed = f", {len(self.failures)} failed" if self.failures else ""
        first = f"Comparison({', '.join(map(str, models))}; {seeds} seed(s){failed})"
        if self.scores is None:
            return first
        names, second = list(self.table.index), self.table.iloc[1]
        return (
            f"{first}\n  best log score: {names[0]}, {-second['difference']:.2f} nats per month "
            f"(s.e. {second['difference_error']:.2f}) above {names[1]}"
        )

    def _repr_html_(self) -> str:
        """Show log scores, predictive statistics, tables that have rows, and failed fits."""
        parts = []
        if self.scores is not None:
            months = f"{self.scores.attrs['n_times']} months"
            parts.append(_titled(f"Joint log score, nats per month, {months}", self._shown()))
        if self.statistics is not None:
            parts.append(
                _titled("Predictive statistics of the months", show_statistics(self.statistics))
            )
        tables = [_titled(title, table) for _, title, table in self.readable()]
        parts += [displays.fold("Other scores", "".join(tables))] if parts and tables else tables
        if self.failures:
            failed = [f"{each.cell.model}: {each.message}" for each in self.failures]
            parts.append(displays.fold(f"{len(failed)} fits failed", displays.listing(failed)))
        return displays.card("Comparison", *parts)

    def readable(self, *, published: bool = False) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Yield number, title and text of every table that has rows.

        Parameters
        ----------
        published : bool
            Only tables 1 to 3 with the columns of the paper, with its printed figures.
        """
        for number, rows in self.tables.items():
            metrics = PAPER_METRICS.get(number) if published else None
            if not rows.empty and (metrics or not published):
                shown = wide(rows, number, published=published, metrics=metrics)
                yield number, TABLES[number].title, shown

    def write(self, out: str | os.PathLike[str]) -> Path:
        """Write tables (CSV and Markdown) and figures to a folder; return the Markdown page.

        Raises
        ------
        ConfigError
            If the folder cannot be written.
        """
        return write_report(self, Path(out))


def show_statistics(statistics: xr.Dataset) -> pd.DataFrame:
    """Lay out predictive statistics for people: one row per statistic, columns by model."""
    columns: dict[str, pd.Series] = {}
    names = statistics["statistic"].values
    first = statistics["observed"].to_series().groupby("statistic", sort=False).first()
    columns["observed"] = first.reindex(names).map("{:.3f}".format)
    for model in statistics["model"].values:
        one = statistics.sel(model=model)
        for label, kind in (("prior", "prior_"), ("one step ahead", "")):
            mean, sd = one[f"{kind}mean"].values, one[f"{kind}sd"].values
            text = [
                f"{a:.3f} ({b:.3f})" if np.isfinite(a) else "-"
                for a, b in zip(mean, sd, strict=True)
            ]
            columns[f"{model}, {label}"] = pd.Series(text, names)
        columns[f"{model}, p"] = one["p_value"].to_series().map("{:.2f}".format)
    return pd.DataFrame(columns).rename_axis("statistic").reset_index()


def _titled(title: str, table: pd.DataFrame) -> str:
    return f"<p>{escape(title)}</p>{displays.grid(list(map(str, table.columns)), table.values)}"


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write tables, tests and figures; see :meth:`Comparison.write`."""
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        write_csv(comparison.results, out / "results.csv")
        write_csv(comparison.p_values, out / "p_values.csv")
        write_csv(failure_table(comparison.failures), out / "failures.csv")
        for number, table in comparison.tables.items():
            write_csv(with_printed(table), out / f"table{number}.csv")
            picture = out / "figures" / f"table{number}.png"
            if table.empty:
                picture.unlink(missing_ok=True)  # of an earlier run into this folder
            else:
                save_picture(draw_table(table, TABLES[number].title), picture)
        page = out / PAGE
        write_bytes(page, markdown(comparison).encode())
    except OSError as error:
        raise ConfigError(f"`out` {str(out)!r} cannot be written: {error}.") from error
    return page


def reject_foreign(folder: Path, title: str) -> None:
    """Reject a folder whose page is not of this kind, before it is written over.

    Raises
    ------
    ConfigError
        If there is a page with another title.
    """
    page = folder / PAGE
    if page.is_file():
        with page.open(encoding="utf-8", errors="replace") as file:
            found = file.readline().strip()
        if not found.startswith(title):
            raise ConfigError(
                f"`out` {str(folder)!r} holds results of another kind, {found.lstrip('# ')!r}; "
                "choose another folder."
            )


def markdown(comparison: Comparison) -> str:
    """All tables as one page of Markdown."""
    lines = [TITLE, "", *_facts(comparison), ""]
    for number, rows in comparison.tables.items():
        if rows.empty:
            continue
        table = TABLES[number]
        picture = f"![Table {number}](figures/table{number}.png)"
        lines += [f"## Table {number}. {table.title}", "", to_markdown(wide(rows, number)), ""]
        lines += [table.note, *_printed_note(number), "", picture, ""]
        if number == "4":
            lines += _tests(comparison)
    alarms = skill_alarms(comparison.results)
    if alarms:
        lines += ["## Too good to be true", "", *(f"- {each}" for each in alarms), ""]
    if comparison.failures:
        lines += ["## Fits that failed", "", to_markdown(failure_table(comparison.failures)), ""]
    lines += ["## How to read it", "", *(f"- {each}" for each in _CAVEATS), ""]
    return "\n".join(lines)


def _facts(comparison: Comparison) -> list[str]:
    info = comparison.info
    parts = [name for name in ("train", "valid", "test") if name in info]
    spans = [f"{name} {' to '.join(info[name])}" for name in parts]  # type: ignore[arg-type]
    return [
        f"- Months: {', '.join(spans)}; {info['n_assets']} assets.",
        f"- Seeds {info['seeds']}, {info['n_factors']} factors, {info['num_samples']} draws, costs "
        f"{1e4 * float(info['cost']):g} basis points, legs of {info['quantile']:.0%}.",  # type: ignore[arg-type]
        f"- {len(comparison.monthly)} fits, {info['seconds_of_fits']} s in all, "
        f"{len(comparison.failures)} failed. This run took {info['seconds']} s.",
        f"- Data {str(info['data_fingerprint'])[:16]}; versions {info['versions']}.",
    ]


def _printed_note(number: str) -> list[str]:
    if number in ("1", "2"):
        return ["", f"[printed]: {NOT_COMPARABLE}"]
    if number == "3":
        cells = "; ".join(f"{m} omitted {ic} ({ir})" for m, (ic, ir) in PAPER_RANK.items())
        return ["", f"Printed for RVRAE, Rank IC (ICIR): {cells}. {NOT_COMPARABLE}"]
    return []


def _tests(comparison: Comparison) -> list[str]:
    if comparison.p_values.empty:
        return []
    shown = comparison.p_values.assign(
        difference=[f"{x:.4f}" for x in comparison.p_values["difference"]],
        standard_error=[f"{x:.4f}" for x in comparison.p_values["standard_error"]],
        p_value=[f"{x:.3g}" for x in comparison.p_values["p_value"]],
    )
    return [
        f"Diebold-Mariano: {comparison.reference} less the other model. Above 0 favours "
        f"{comparison.reference} for the log score, below 0 for CRPS (both in natural units).",
        "",
        to_markdown(shown),
        "",
    ]


def failure_table(failures: Sequence[Failure]) -> pd.DataFrame:
    """Lay out one row per failed fit."""
    rows = [(f.cell.model, f.cell.seed, f.cell.omitted, f.message) for f in failures]
    return pd.DataFrame(rows, columns=["model", "seed", "omitted", "message"])


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, atomically."""
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


_COLUMNS: Final = 3


def draw_table(rows: pd.DataFrame, title: str) -> Figure:
    """Draw every metric of a table, models from top to bottom, with two standard errors."""
    metrics = list(dict.fromkeys(rows["metric"]))
    several = rows["omitted"].nunique() > 1
    names = [_name(row, several) for row in rows.itertuples()]
    order = list(dict.fromkeys(names))
    rows = rows.assign(name=names)
    n_rows = -(-len(metrics) // _COLUMNS)
    on = canvas(
        None,
        "light",
        len(metrics),
        columns=min(_COLUMNS, len(metrics)),
        size=(11.0, 1.2 + n_rows * (1.1 + 0.24 * len(order))),
        sharey=True,
    )
    theme = on.theme
    on.figure.suptitle(f"{title} (bars: two standard errors)", fontsize=12.5, color=theme.text)
    for metric, axes in zip(metrics, on.axes, strict=True):
        mine = rows[(rows["metric"] == metric) & np.isfinite(rows["estimate"])]
        scale = METRICS[metric].scale
        estimate = scale * mine["estimate"]
        error = scale * mine["standard_error"].fillna(0.0)
        place = [order.index(name) for name in mine["name"]]
        axes.errorbar(
            estimate, place, xerr=2.0 * error, fmt="o", color=theme.colour(0), ms=4.5, linewidth=1.4
        )
        axes.axvline(0.0, color=theme.muted, linewidth=0.6)
        dress(axes, theme, "", METRICS[metric].label, "", grid="x")
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.5, -0.5)
        if not mine.empty and estimate.abs().min() > 20:
            # far from zero the line there would flatten the differences
            low, high = (estimate - 2.5 * error).min(), (estimate + 2.5 * error).max()
            room = 0.05 * (high - low) + 1e-9
            axes.set_xlim(low - room, high + room)
    return on.figure


def _name(row: object, several: bool) -> str:
    model, omitted = str(row.model), row.omitted  # type: ignore[attr-defined]
    return f"{model}, {omitted} omitted" if several else model
