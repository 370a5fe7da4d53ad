"""The comparison: who, on which months, with which seeds; its tables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
import xarray as xr

from rvrae_pyro import _html
from rvrae_pyro.data.dates import periods_per_year
from rvrae_pyro.data.fingerprint import fingerprint
from rvrae_pyro.data.splits import Split
from rvrae_pyro.errors import ConfigError, check_count, check_seeds
from rvrae_pyro.experiments.cells import Cell, Result
from rvrae_pyro.experiments.entrants import Entrant
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
    """Results of :func:`compare`.

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
    """

    results: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    p_values: pd.DataFrame
    monthly: dict[Cell, Result]
    failures: list[Failure]
    reference: str
    info: dict[str, object]

    def __repr__(self) -> str:
        """Count what was compared."""
        models = list(dict.fromkeys(self.results["model"]))
        seeds = self.results["seed"].nunique()
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Comparison({', '.join(map(str, models))}; {seeds} seed(s){failed})"

    def _repr_html_(self) -> str:
        """Show the tables that have rows, and the fits that failed."""
        parts = [
            f"<p>{escape(title)}</p>{_html.grid(list(map(str, table.columns)), table.values)}"
            for _, title, table in self.readable()
        ]
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
        comparison = _summarise(results, failures, names, variants)
        comparison.info.update(
            _spans(parts),
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


def _summarise(
    results: dict[Cell, Result], failures: list[Failure], names: list[str], variants: list[str]
) -> Comparison:
    long = long_table(results)
    pool = pooled(long)
    # a dash for what a model does not define is decided by what its fits left
    reference = RVRAE_NAME if RVRAE_NAME in names else names[0]
    tables = {number: select(pool, number, names) for number in TABLES if number != "5"}
    standards = [name for name in (RVRAE_NAME, PAPER_NAME) if name in names]
    tables["5"] = select(pool, "5", [*standards, *variants] if variants else [])
    versions = next(iter(results.values())).attrs.get("versions", "")
    tests = compare_densities(results, reference, [*names, *variants])
    info: dict[str, object] = {"versions": versions}
    return Comparison(long, tables, tests, results, failures, reference, info)


def _ablations(entrants: list[Entrant], n_factors: int) -> list[Entrant]:
    if RVRAE_NAME not in [entrant.name for entrant in entrants]:
        raise ConfigError(
            f"`ablation` needs the model {RVRAE_NAME!r}, which its variants are held against; add "
            "it to `models`."
        )
    return [make(n_factors) for make in ABLATIONS.values()]


def _spans(parts: Split) -> dict[str, list[str]]:
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
