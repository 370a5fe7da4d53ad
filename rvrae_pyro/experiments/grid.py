"""Grid of fits of a comparison: descriptions, result files, and running it past failures."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro._version import __version__
from rvrae_pyro.atomic import only_run, replacing
from rvrae_pyro.data.simulators import simulate_gkx
from rvrae_pyro.errors import CheckpointError, FitError
from rvrae_pyro.experiments.competitors import Entrant
from rvrae_pyro.experiments.forecast_tree import Fitted, forecast_tree
from rvrae_pyro.experiments.metrics import Rules, Scores, score
from rvrae_pyro.fitting.parallel import Source, Submits, one_thread, outcomes
from rvrae_pyro.names import ASSET, RETURNS, TIME
from rvrae_pyro.progress import progress_bar

_LAYOUT = 2


@dataclass(frozen=True)
class SimulatedGKX:
    """A repetition of the Gu-Kelly-Xiu simulation, drawn where it is used."""

    case: str
    seed: int
    n_assets: int = 200
    n_times: int = 180
    n_characteristics: int = 50

    def load(self) -> xr.Dataset:
        """Draw the panel."""
        return simulate_gkx(
            self.case,  # type: ignore[arg-type]
            self.n_assets,
            self.n_times,
            self.n_characteristics,
            self.seed,
        )


@dataclass(frozen=True)
class Cell:
    """Identity of a fit: competitor, seed, number of omitted assets, and a hash of its inputs.

    Omitted assets are left out of training and are the only ones scored; 0 for none.
    """

    model: str
    seed: int
    omitted: int
    key: str

    @property
    def file_name(self) -> str:
        """Name of its file: readable, and different for different keys."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.lower()).strip("-")
        return f"{slug}-seed{self.seed}-omit{self.omitted}-{self.key[:16]}.json"


@dataclass(frozen=True, eq=False)
class Job:
    """Inputs of one fit of a comparison, for another process."""

    entrant: Entrant
    source: Source
    n_train: int  # rows of the panel that train and validate; the rest is the test span
    n_valid: int  # rows of the panel that train and validate; the rest is the test span
    seed: int
    # assets whose returns the competitor never sees, and the only ones scored if any
    omitted: tuple[str, ...] = ()
    num_samples: int = 1000
    rules: Rules = field(default_factory=Rules)
    metrics: tuple[str, ...] | None = None

    def cell(self, panel: xr.Dataset, fingerprint: str) -> Cell:
        """Name the cell and hash what its numbers depend on."""
        content = {
            "layout": _LAYOUT,
            "version": __version__,
            "entrant": self.entrant.describe(panel.isel({TIME: slice(self.n_train)})),
            "data": fingerprint,
            "split": [self.n_train, self.n_valid],
            "seed": self.seed,
            "omitted": list(self.omitted),
            "num_samples": self.num_samples,
            "rules": [self.rules.quantile, self.rules.cost, self.rules.periods],
            "metrics": self.metrics,
        }
        return Cell(self.entrant.name, self.seed, len(self.omitted), hash_of(content))


def hash_of(content: object) -> str:
    """Hash what the numbers of a fit depend on."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Result:
    """Scores of a cell, wall time of fit and scores, and attributes of the fit."""

    scores: Scores
    seconds: float
    attrs: dict[str, Any]


def run_job(job: Job) -> Result:
    """Fit, forecast and score one cell, on one thread; see :func:`fit_job`."""
    return fit_job(job)[2]


def fit_job(job: Job) -> tuple[Fitted, xr.DataTree, Result]:
    """Fit, forecast and score one cell, on one thread; also the fit and its tree of forecasts.

    Notes
    -----
    Omitted assets are dropped from training and validation. In the panel that is forecast their
    returns are hidden in every month, test months too, so that nothing is known of them but
    their characteristics.
    """
    started = time.perf_counter()
    with one_thread():
        panel = job.source.load()
        end = job.n_train + job.n_valid
        train, valid = panel.isel({TIME: slice(job.n_train)}), None
        if job.n_valid:
            valid = panel.isel({TIME: slice(job.n_train, end)})
        shown = panel
        returns = panel[RETURNS].isel({TIME: slice(end, None)})
        if job.omitted:
            names = list(job.omitted)
            train = train.drop_sel({ASSET: names})
            valid = None if valid is None else valid.drop_sel({ASSET: names})
            shown = panel.assign({RETURNS: panel[RETURNS].where(~panel[ASSET].isin(names))})
            returns = returns.sel({ASSET: names})
        fitted = job.entrant.fit(train, valid, job.seed)
        tree = forecast_tree(fitted, shown, panel[TIME].values[end:], job.num_samples, job.seed)
        scores = score(tree, returns, job.rules, job.metrics)
    attrs = {str(k): v for k, v in tree.attrs.items()}
    return fitted, tree, Result(scores, time.perf_counter() - started, attrs)


def write_result(folder: Path, cell: Cell, result: Result) -> Path:
    """Keep a cell's numbers in a file of a folder, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "key": cell.key,
        "model": cell.model,
        "seed": cell.seed,
        "omitted": cell.omitted,
        "seconds": result.seconds,
        "times": result.scores.times,
        "estimates": {k: _plain(v) for k, v in result.scores.estimates.items()},
        "monthly": {k: _plain(v) for k, v in result.scores.monthly.items()},
        "attrs": result.attrs,
    }
    path = folder / cell.file_name
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    return path


def read_result(folder: Path, cell: Cell) -> Result | None:
    """Read a cell's numbers; None if there are none, or the file is damaged or foreign."""
    try:
        content = json.loads((folder / cell.file_name).read_text(encoding="utf-8"))
        if content["key"] != cell.key:
            return None
        scores = Scores(
            {k: (_number(v[0]), _number(v[1])) for k, v in content["estimates"].items()},
            {k: [_number(x) for x in v] for k, v in content["monthly"].items()},
            list(content["times"]),
        )
        return Result(scores, float(content["seconds"]), dict(content["attrs"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _plain(values: tuple[float, ...] | list[float]) -> list[float | None]:
    return [float(x) if math.isfinite(x) else None for x in values]


def _number(value: float | None) -> float:
    return float(np.nan) if value is None else float(value)


@dataclass(frozen=True)
class Failure:
    """A cell that failed, with the class and text of its error."""

    cell: Cell
    message: str


def run_cells(
    jobs: Mapping[Cell, Job],
    *,
    folder: Path | None = None,
    n_jobs: int = 1,
    executor: Submits | None = None,
    on_done: Callable[[Cell], None] | None = None,
) -> tuple[dict[Cell, Result], list[Failure]]:
    """Run cells, save each in ``folder`` as soon as it is done, and continue past failures.

    Existing results are not computed again. ``on_done`` is called with every cell that is
    finished, failed or found. Failures come in the order of ``jobs``.

    Raises
    ------
    CheckpointError
        On an I/O error; those that are written already are kept.
    """
    results: dict[Cell, Result] = {}
    failures: dict[Cell, Failure] = {}
    report = on_done or (lambda cell: None)
    todo: dict[Cell, Job] = {}
    for cell, job in jobs.items():
        found = None if folder is None else read_result(folder, cell)
        if found is None:
            todo[cell] = job
        else:
            results[cell] = found
            report(cell)
    for cell, outcome in outcomes(run_job, todo, n_jobs=n_jobs, executor=executor):
        if isinstance(outcome, Exception):
            failures[cell] = failed(cell, outcome)
        else:
            results[cell] = outcome
            if folder is not None:
                _keep(folder, cell, outcome)
        report(cell)
    return results, [failures[cell] for cell in jobs if cell in failures]


def _keep(folder: Path, cell: Cell, result: Result) -> None:
    try:
        write_result(folder, cell, result)
    except OSError as error:
        raise CheckpointError(
            f"{str(folder)!r} cannot be written: {error}. The fits that are in it are kept; make "
            "room and rerun to resume."
        ) from error


def run_grid(
    jobs: Mapping[Cell, Job],
    unplanned: list[Failure],
    *,
    name: str,
    folder: Path | None,
    n_jobs: int,
    executor: Submits | None,
    progress: bool,
) -> tuple[dict[Cell, Result], list[Failure]]:
    """Run cells as :func:`run_cells` does, under a bar, and keep them in ``folder / "cells"``.

    Results come in the order of ``jobs``.

    Raises
    ------
    FitError
        If every single fit failed, ``unplanned`` ones included.
    CheckpointError
        As :func:`run_cells`.
    """
    with progress_bar(name, len(jobs), progress) as show:
        results, failures = run_cells(
            jobs,
            folder=None if folder is None else folder / "cells",
            n_jobs=n_jobs,
            executor=executor,
            on_done=lambda cell: show(advance=1, note=f"{cell.model}, seed {cell.seed}"),
        )
    failures = unplanned + failures
    if not results:
        raise FitError(f"every fit failed; the first error: {failures[0].message}")
    return {cell: results[cell] for cell in jobs if cell in results}, failures


def hold(folder: Path | None) -> AbstractContextManager[None]:
    """Hold a folder of results against another run; nothing without a folder.

    Raises
    ------
    CheckpointError
        If another run holds it, or it cannot be written.
    """
    return nullcontext() if folder is None else only_run(folder)


def failed(cell: Cell, error: Exception) -> Failure:
    """Describe an error."""
    text = " ".join(str(error).split())
    return Failure(cell, f"{type(error).__name__}: {text}" if text else type(error).__name__)
