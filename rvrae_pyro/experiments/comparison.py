"""The comparison: who, on which months, with which seeds; its tables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro import _html
from rvrae_pyro.data.dates import periods_per_year
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.data.splits import Split
from rvrae_pyro.errors import ConfigError, check_count, check_seeds
from rvrae_pyro.experiments.cells import Cell, Result
from rvrae_pyro.experiments.entrants import Entrant
from rvrae_pyro.experiments.forecast_tree import Fitted
from rvrae_pyro.experiments.planning import (
    check_study,
    cut,
    draw_omitted,
    omit_counts,
    plan,
    study_months,
)
from rvrae_pyro.experiments.published import PAPER_NAME
from rvrae_pyro.experiments.registry import (
    ABLATIONS,
    RVRAE_NAME,
    check_distinct,
    enter_all,
    names_all,
)
from rvrae_pyro.experiments.report import TITLE, refuse_foreign, write_report
from rvrae_pyro.experiments.running import Failure, hold, run_grid
from rvrae_pyro.experiments.scoring import Rules
from rvrae_pyro.experiments.tables import (
    PAPER_METRICS,
    TABLES,
    compare_densities,
    compare_evidence,
    long_table,
    pooled,
    select,
    wide,
)
from rvrae_pyro.fitting.parallel import Submits
from rvrae_pyro.names import ASSET, TIME

_LEAST_DRAWS = 200


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Results of :func:`compare` and :func:`swap`.

    Attributes
    ----------
    results : DataFrame
        One row a fit and metric: ``model``, ``omitted``, ``seed``, ``metric``, ``estimate``,
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
        Of :func:`swap`: predictive statistics (model, statistic) of the test months: ``observed``,
        ``mean``, ``sd``, ``p_value`` and ``p_value_error`` one step ahead, and ``prior_mean``,
        ``prior_sd``, ``prior_p_value`` of the untrained model.
    sensitivity : Dataset or None
        Of :func:`swap` on request: :func:`rvrae_pyro.evaluation.psense` by model.
    fits : dict from name to fitted model
        Of :func:`swap`.
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
        """Log scores by model, best first; nats per month. Empty without :attr:`scores`."""
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
        """Count what was compared."""
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
        parts += [_html.fold("Other scores", "".join(tables))] if parts and tables else tables
        if self.failures:
            failed = [f"{each.cell.model}: {each.message}" for each in self.failures]
            parts.append(_html.fold(f"{len(failed)} fits failed", _html.listing(failed)))
        return _html.card("Comparison", *parts)

    def readable(self, *, published: bool = False) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Yield number, title and text of every table that has rows.

        Parameters
        ----------
        published : bool
            Only tables 1 to 3 with the columns of the paper, and what it printed beside them.
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
    return f"<p>{escape(title)}</p>{_html.grid(list(map(str, table.columns)), table.values)}"


def compare(
    panel: xr.Dataset,
    models: object = "all",
    *,
    split: Split | tuple[object, object, object] | Mapping[str, object],
    seeds: int | Sequence[int] = 1,
    omit: Sequence[int] = (),
    out: str | os.PathLike[str] | None = None,
    n_factors: int = 5,
    ablation: bool | None = None,
    num_samples: int = 1000,
    rules: Rules | None = None,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare models on the same panel, months, labels and seeds.

    Parameters
    ----------
    panel : Dataset
        Prepared as for a fit: ranked, with ``context`` if RVRAE shall read it.
    models : str, model, iterable of these, or mapping from name to model
        ``"all"`` (IPCA, CA, FactorVAE, ALSTM, Transformer, RVRAE, RVRAE (paper), EWMA,
        MultivariateT, EWMAMixture), names, and untrained RVRAEs, baselines, callables that make
        them from the training panel, or objects with ``name``, ``describe`` and ``fit``.
    split : Split, or (train, valid, test) as ``rv.data.split`` takes them
    seeds : int or sequence of int
        How many, from 0 on, or which.
    omit : sequence of int
        For Table 3: how many assets to leave out of training, once each seed.
    out : path, optional
        A folder for tables, figures and one file a fit. A second run with the same folder
        takes over the fits that are there.
    n_factors : int
        Of models given by name.
    ablation : bool, optional
        Also fit the variants of Table 5; unless told, if ``models`` names ``"all"``.
    num_samples : int
        Predictive draws; also the particles of RVRAE's filter.
    rules : Rules, optional
        Legs and costs of the portfolios.
    n_jobs : int
        Processes. More than 1 needs a script whose top level is safe to import.
    executor : object with ``submit``, optional
        As in :mod:`concurrent.futures`, or what :func:`~rvrae_pyro.experiments.connect` gives:
        takes the fits instead.
    progress : bool
        Show a bar on a terminal.

    Returns
    -------
    Comparison

    Raises
    ------
    ConfigError
        For an unknown model, a bad seed or count, or more omitted assets than can be left out.
    PanelError
        If the split does not fit the panel, characteristics are missing in listed cells, or
        fewer than two test months have a return.
    FitError
        If every single fit failed.
    CheckpointError
        If another run writes to ``out``, or the disk refuses; fits that are there are kept.

    Notes
    -----
    Fits are on the training months, stopped by the validation months, scored once on the test
    months; month t's forecast knows returns before t only. Whatever raises is recorded in
    ``failures``, and the others go on. Seeds of a model that has no randomness (IPCA) give the
    same numbers.
    """
    began = time.perf_counter()
    entrants = enter_all(models, check_count("n_factors", n_factors))
    wanted = names_all(models) if ablation is None else ablation
    extra = _ablations(entrants, n_factors) if wanted else []
    check_distinct([*entrants, *extra])
    numbers = check_seeds(seeds)
    check_count("n_jobs", n_jobs)
    if check_count("num_samples", num_samples) < _LEAST_DRAWS:
        raise ConfigError(
            f"`num_samples` must be at least {_LEAST_DRAWS}, or the 5 % tail holds too few draws; "
            f"got {num_samples}."
        )
    parts = cut(panel, split)
    study = study_months(panel, parts)
    check_study(study, parts)
    drawn = {(m, s): draw_omitted(parts, m, s) for m in omit_counts(omit, parts) for s in numbers}
    rules = (rules or Rules()).over(periods_per_year(panel))
    folder = None if out is None else _check_out(Path(out))
    jobs, unplanned = plan(
        [*entrants, *extra], entrants, study, parts, numbers, drawn, num_samples, rules
    )
    with hold(folder):
        results, failures = run_grid(
            jobs,
            unplanned,
            name="comparing",
            folder=None if folder is None else folder / "cells",
            n_jobs=n_jobs,
            executor=executor,
            progress=progress,
        )
        names, variants = ([e.name for e in each] for each in (entrants, extra))
        comparison = summarise(results, failures, names, variants)
        comparison.info.update(
            spans(parts),
            seeds=numbers,
            omit=sorted({m for m, _ in drawn}),
            n_factors=n_factors,
            num_samples=num_samples,
            n_assets=int(study.sizes[ASSET]),
            cost=rules.cost,
            quantile=rules.quantile,
            data_fingerprint=fingerprint(study),
            seconds=round(time.perf_counter() - began, 1),
            seconds_of_fits=round(sum(r.seconds for r in results.values()), 1),
        )
        if folder is not None:
            comparison.write(folder)
        return comparison


def summarise(
    results: dict[Cell, Result], failures: list[Failure], names: list[str], variants: list[str]
) -> Comparison:
    """Put the results of all fits into tables; ``variants`` are those of Table 5."""
    long = long_table(results)
    pool = pooled(long)
    # a dash for what a model does not define is decided by what its fits left
    reference = RVRAE_NAME if RVRAE_NAME in names else names[0]
    tables = {number: select(pool, number, names) for number in TABLES if number != "5"}
    standards = [name for name in (RVRAE_NAME, PAPER_NAME) if name in names]
    tables["5"] = select(pool, "5", [*standards, *variants] if variants else [])
    versions = next(iter(results.values())).attrs.get("versions", "")
    everyone = [*names, *variants]
    tests = compare_densities(results, reference, everyone)
    info: dict[str, object] = {"versions": versions}
    scores = compare_evidence(results, everyone)
    return Comparison(long, tables, tests, results, failures, reference, info, scores)


def _ablations(entrants: list[Entrant], n_factors: int) -> list[Entrant]:
    if RVRAE_NAME not in [entrant.name for entrant in entrants]:
        raise ConfigError(
            f"`ablation` needs the model {RVRAE_NAME!r}, which its variants are held against; add "
            "it to `models`."
        )
    return [make(n_factors) for make in ABLATIONS.values()]


def spans(parts: Split) -> dict[str, list[str]]:
    """First and last day of each part."""
    named = zip(("train", "valid", "test"), parts, strict=True)
    return {name: [str(part[TIME].values[k])[:10] for k in (0, -1)] for name, part in named}


def _check_out(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"`out` {str(path)!r} cannot be made: {error}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"`out` {str(path)!r} cannot be written: no permission.")
    refuse_foreign(path, TITLE)
    return path
