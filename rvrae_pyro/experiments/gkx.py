"""Monte Carlo of Gu, Kelly and Xiu (2021), with their published table and an oracle."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.experiments.comparison_report import (
    PAGE,
    failure_table,
    refuse_foreign,
    write_csv,
    write_text,
)
from rvrae_pyro.experiments.competitor_registry import COMPETITORS, check_distinct, enter_all
from rvrae_pyro.experiments.competitors import BaselineEntrant, Entrant
from rvrae_pyro.experiments.grid import Failure, failed, hold, run_grid
from rvrae_pyro.experiments.jobs import Cell, Job, Result, SimulatedGKX
from rvrae_pyro.experiments.metrics import METRICS
from rvrae_pyro.experiments.oracle import Oracle
from rvrae_pyro.experiments.published import GKX_TABLE
from rvrae_pyro.experiments.result_tables import long_table, to_markdown
from rvrae_pyro.fitting.parallel import Submits

GKX_MODELS: Final = ("IPCA", "CA", "CA2", "FactorVAE", "RVRAE")
"""Default competitors; CA is the published CA1."""

_METRICS: Final = (
    "total_r2",
    "total_r2_ols",
    "predictive_r2",
    "predictive_r2_running",
    "predictive_r2_ols",
)
# the published total R2 takes IPCA's factors, which are those of least squares, and the
# autoencoders' own
_SPANS: Final = (60, 60)
_TITLE: Final = "# Gu-Kelly-Xiu simulation"
# IPCA by name is without the constant that real panels want and the published table has not
_COMPETITORS: Final = {**COMPETITORS, "IPCA": lambda k: BaselineEntrant("IPCA", IPCA(k))}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Results of :func:`benchmark_gkx`.

    Attributes
    ----------
    results : DataFrame
        One row a repetition, model and metric: ``model``, ``rep``, ``metric``, ``estimate``,
        ``standard_error`` (over months), natural units.
    table : DataFrame
        ``model``, ``metric``, ``estimate`` (mean over repetitions), ``standard_error`` (over
        repetitions; over months where there is one), ``share`` of the oracle's, ``published``
        (NaN where there is none), ``n_reps``; R2 in %.
    failures : list of Failure
    case : str
    info : dict
    """

    results: pd.DataFrame
    table: pd.DataFrame
    failures: list[Failure]
    case: str
    info: dict[str, object]

    def readable(self) -> pd.DataFrame:
        """Lay the table out for people, one row per model: "estimate (s.e.) [published]"."""
        lines = []
        for model in dict.fromkeys(self.table["model"]):
            mine = self.table[self.table["model"] == model].set_index("metric")
            line = {"Model": model}
            for metric in _METRICS:
                line[METRICS[metric].label] = _text(mine, metric)
            lines.append(line)
        return pd.DataFrame(lines)

    def write(self, out: str | os.PathLike[str]) -> Path:
        """Write ``table.csv``, ``results.csv``, ``report.md``; return the Markdown page.

        Raises
        ------
        ConfigError
            If the folder cannot be written.
        """
        folder = Path(out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(self.table, folder / "table.csv")
            write_csv(self.results, folder / "results.csv")
            write_csv(failure_table(self.failures), folder / "failures.csv")
            page = folder / PAGE
            write_text(page, self._markdown())
        except OSError as error:
            raise ConfigError(f"`out` {str(out)!r} cannot be written: {error}.") from error
        return page

    def _markdown(self) -> str:
        info = self.info
        lines = [
            f"{_TITLE}, {self.case} case",
            "",
            f"{info['reps']} repetitions, {info['n_factors']} factors (3 are true), 60 / 60 / 60 "
            f"months, 200 assets, 50 characteristics; seeds from {info['seed']}; "
            f"{info['seconds_of_fits']} s of fits. Standard errors over repetitions in "
            "parentheses; in brackets the published figure, a mean of 100 other repetitions.",
            "",
            to_markdown(self.readable()),
            "",
            "OLS factors: re-solved across assets with the month's returns, as the published IPCA "
            "does; the published autoencoders use their own factors.",
            "",
        ]
        return "\n".join(lines)


def _text(rows: pd.DataFrame, metric: str) -> str:
    if metric not in rows.index:
        return "–"
    mean, error, printed = (
        float(rows[name][metric]) for name in ("estimate", "standard_error", "published")
    )
    return f"{mean:.2f} ({error:.2f})" + ("" if printed != printed else f" [{printed:g}]")


def benchmark_gkx(
    case: Literal["linear", "nonlinear"] = "nonlinear",
    reps: int = 1,
    n_factors: int = 3,
    models: object = GKX_MODELS,
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    num_samples: int = 500,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> Benchmark:
    """Run the Gu-Kelly-Xiu Monte Carlo.

    Parameters
    ----------
    case : {"linear", "nonlinear"}
    reps : int
        Repetitions, each a separate market; the published table has 100.
    n_factors : int
        Of the models; 3 are true.
    models : as in :func:`~rvrae_pyro.experiments.model_comparison.compare`
        IPCA by name has no constant here, as in the published table.
    seed : int
        Seed of the first repetition; the others count on. Models take the same seed.
    out : path, optional
        A folder for tables and one file per fit; fits found there are taken over.
    num_samples : int
        Particles of RVRAE's filter.
    n_jobs, executor, progress
        As in :func:`~rvrae_pyro.experiments.model_comparison.compare`.
    sizes : mapping, optional
        ``n_assets``, ``n_characteristics`` other than the published 200 and 50.

    Returns
    -------
    Benchmark
        With the row "Oracle": true loadings, factors by least squares, on the same draws.

    Raises
    ------
    ConfigError
        For an unknown case or model, or a count that is not a whole number of at least 1.
    FitError
        If every single fit failed.
    CheckpointError
        If another run writes to ``out``, or an I/O error occurs; fits that are there are kept.

    References
    ----------
    Gu, Kelly and Xiu (2021), Autoencoder asset pricing models, Journal of Econometrics 222,
    section 4 and Table 6.
    """
    if case not in GKX_TABLE:
        raise ConfigError(f"`case` must be one of {', '.join(GKX_TABLE)}; got {case!r}.")
    for name, value in (("reps", reps), ("n_factors", n_factors), ("n_jobs", n_jobs)):
        check_count(name, value)
    check_count("num_samples", num_samples)
    check_count("seed", seed, 0)
    entrants = [Oracle(), *enter_all(models, n_factors, _COMPETITORS)]
    check_distinct(entrants)
    began = time.perf_counter()
    jobs, unplanned = _plan(entrants, case, range(seed, seed + reps), num_samples, sizes or {})
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_foreign(folder, _TITLE)
    with hold(folder):
        results, failures = run_grid(
            jobs,
            unplanned,
            name=f"{case} case",
            folder=None if folder is None else folder / "cells",
            n_jobs=n_jobs,
            executor=executor,
            progress=progress,
        )
        found = _summarise(results, failures, case, n_factors)
        found.info.update(
            reps=reps,
            n_factors=n_factors,
            seed=seed,
            seconds=round(time.perf_counter() - began, 1),
            seconds_of_fits=round(sum(r.seconds for r in results.values()), 1),
        )
        if folder is not None:
            found.write(folder)
        return found


def _plan(
    entrants: list[Entrant], case: str, seeds: range, num_samples: int, sizes: Mapping[str, int]
) -> tuple[dict[Cell, Job], list[Failure]]:
    jobs: dict[Cell, Job] = {}
    failures = []
    for seed in seeds:
        source = SimulatedGKX(case, seed, **sizes)
        # models are described by the shape of their panel, which a small one has as well
        shape = SimulatedGKX(case, seed, 10, 2, source.n_characteristics).load()
        for entrant in entrants:
            job = Job(entrant, source, *_SPANS, seed, num_samples=num_samples, metrics=_METRICS)
            try:
                jobs[job.cell(shape, repr(source))] = job
            except Exception as error:  # a user's own function may raise anything
                failures.append(failed(Cell(entrant.name, seed, 0, ""), error))
    return jobs, failures


def _summarise(
    results: Mapping[Cell, Result], failures: list[Failure], case: str, n_factors: int
) -> Benchmark:
    long = long_table(results).rename(columns={"seed": "rep"}).drop(columns="omitted")
    oracle = long[long["model"] == "Oracle"].groupby("metric")["estimate"].mean()
    rows = []
    for (model, metric), group in long.groupby(["model", "metric"], sort=False):
        mean, count = float(group["estimate"].mean()), len(group)
        many = count > 1
        error = (
            group["estimate"].std(ddof=1) / count**0.5 if many else group["standard_error"].mean()
        )
        ceiling = float(oracle.get(metric, float("nan")))
        published = _published(case, str(model), str(metric), n_factors)
        share = mean / ceiling if ceiling else float("nan")
        rows.append((model, metric, 100 * mean, 100 * error, share, published, count))
    columns = ["model", "metric", "estimate", "standard_error", "share", "published", "n_reps"]
    return Benchmark(long, pd.DataFrame(rows, columns=columns), failures, case, {})


def _published(case: str, model: str, metric: str, n_factors: int) -> float:
    rows = GKX_TABLE[case]
    place = {"total_r2": 0, "predictive_r2_running": 1}
    if model not in rows or metric not in place or n_factors > len(rows[model][0]):
        return float("nan")
    return rows[model][place[metric]][n_factors - 1]
