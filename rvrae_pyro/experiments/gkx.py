"""Monte Carlo of Gu, Kelly and Xiu (2021), with their published table and an oracle."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.atomic import write_bytes
from rvrae_pyro.baselines.ipca import IPCA
from rvrae_pyro.errors import ConfigError, check_choice, check_count
from rvrae_pyro.experiments.comparison_report import PAGE, failure_table, reject_foreign, write_csv
from rvrae_pyro.experiments.competitors import (
    COMPETITORS,
    BaselineEntrant,
    Entrant,
    check_distinct,
    enter_all,
)
from rvrae_pyro.experiments.forecast_tree import (
    FORECASTS,
    MEAN,
    build_outlook,
    observed_returns,
    refit,
)
from rvrae_pyro.experiments.grid import (
    Cell,
    Failure,
    Job,
    Result,
    SimulatedGKX,
    failed,
    hold,
    run_grid,
)
from rvrae_pyro.experiments.metrics import METRICS
from rvrae_pyro.experiments.result_tables import long_table, to_markdown
from rvrae_pyro.fitting.parallel import Submits
from rvrae_pyro.names import FACTOR
from rvrae_pyro.predictive.storage import tree_of

GKX_TABLE: Final[dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]]] = {
    "linear": {
        "PCA": ((3.5, 4.7, 5.5, 6.3, 7.1, 7.8), (0.17, 0.10, 0.04, 0.01, -0.01, -0.03)),
        "IPCA": ((18.6, 32.2, 40.7, 41.0, 41.4, 41.7), (2.20, 2.93, 3.33, 3.32, 3.32, 3.32)),
        "CA0": ((15.6, 26.7, 33.7, 33.5, 33.4, 33.2), (2.04, 2.84, 3.17, 3.14, 3.12, 3.13)),
        "CA": ((17.6, 30.3, 38.1, 37.7, 37.3, 37.1), (2.11, 2.93, 3.27, 3.29, 3.26, 3.26)),
        "CA2": ((17.7, 29.2, 36.8, 36.5, 36.3, 35.9), (2.10, 2.85, 3.22, 3.22, 3.23, 3.22)),
        "CA3": ((17.6, 25.6, 30.0, 29.5, 26.3, 23.4), (2.06, 2.57, 2.89, 2.86, 2.58, 2.39)),
    },
    "nonlinear": {
        "PCA": ((3.4, 5.1, 6.0, 6.6, 7.3, 7.9), (0.15, 0.19, 0.15, 0.12, 0.10, 0.09)),
        "IPCA": ((11.0, 11.4, 11.9, 12.3, 12.7, 13.1), (0.84, 0.82, 0.81, 0.80, 0.79, 0.79)),
        "CA0": ((8.5, 8.2, 7.9, 7.6, 7.4, 7.2), (0.80, 0.76, 0.77, 0.76, 0.72, 0.70)),
        "CA": ((15.0, 24.6, 31.8, 32.0, 31.9, 31.8), (1.83, 2.31, 2.70, 2.70, 2.71, 2.73)),
        "CA2": ((15.7, 23.5, 30.9, 31.8, 30.2, 28.2), (1.95, 2.24, 2.73, 2.80, 2.69, 2.53)),
        "CA3": ((15.9, 15.6, 14.6, 14.0, 11.2, 9.2), (1.77, 1.43, 1.32, 1.26, 1.06, 0.86)),
    },
}
"""Gu, Kelly and Xiu (2021), Journal of Econometrics 222, Table 6: total and predictive R2 in %
for 1 to 6 factors, means of 100 repetitions, by case and competitor (CA is their CA1)."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """The true loadings of a simulated panel, factors by least squares: the ceiling.

    Needs the variable ``true_beta`` (time, asset, factor); nothing is learnt.
    """

    name: str = "Oracle"

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the kind; there are no settings."""
        return {"kind": "Oracle"}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Oracle:
        """Check that the truth is there."""
        if "true_beta" not in train:
            raise ConfigError(
                "the oracle needs the variable 'true_beta' of a simulated panel; got none. Leave "
                "it out on data whose truth is not known."
            )
        return self

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :func:`~rvrae_pyro.experiments.forecast_tree`."""
        returns = observed_returns(panel)
        beta = panel["true_beta"].reset_coords(drop=True)
        beta = beta.assign_coords({FACTOR: np.arange(1, beta.sizes[FACTOR] + 1)})
        nothing, one = xr.zeros_like(returns.fillna(0.0)), xr.ones_like(returns.fillna(0.0))
        factors = refit(returns, beta)
        forecasts = build_outlook(
            returns,
            nothing,
            times,
            alpha=nothing,
            beta=beta,
            idio_scale=one,
            factors=factors,
            fitted=xr.dot(beta, factors, dim=FACTOR, optimize=True),
        )
        forecasts[MEAN] = forecasts["mean_ols"]
        return tree_of({FORECASTS: forecasts}, {"kind": "Oracle"})


GKX_MODELS: Final = ("IPCA", "CA", "CA2", "FactorVAE", "RVRAE")
"""Default competitors; CA is the published CA1."""

_METRICS: Final = (
    "total_r2", "total_r2_ols", "predictive_r2", "predictive_r2_running", "predictive_r2_ols",
)  # fmt: skip
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
            write_bytes(page, self._markdown().encode())
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
    check_choice("case", case, GKX_TABLE)
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
        reject_foreign(folder, _TITLE)
    with hold(folder):
        results, failures = run_grid(
            jobs,
            unplanned,
            name=f"{case} case",
            folder=folder,
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
