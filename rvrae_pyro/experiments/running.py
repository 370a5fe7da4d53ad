"""Running the cells of a comparison: kept as they are done, past those that fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rvrae_pyro.atomic import only_run
from rvrae_pyro.errors import CheckpointError, FitError
from rvrae_pyro.experiments.cells import Cell, Job, Result, read_result, run_job, write_result
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.progress import progress_bar


@dataclass(frozen=True)
class Failure:
    """A cell that did not come to an end.

    Attributes
    ----------
    cell : Cell
    message : str
        The error's class and text.
    """

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
    """Run cells, keep each as soon as it is done, and go on past those that fail.

    Parameters
    ----------
    jobs : mapping from Cell to Job
    folder : Path, optional
        Where numbers are kept; what is there already is not run again.
    n_jobs : int
        Processes; 1 runs in this one.
    executor : Submits, optional
        Takes the jobs instead; it is not shut down.
    on_done : callable, optional
        Told every cell that is finished, failed or found.

    Returns
    -------
    results : dict from Cell to Result
    failures : list of Failure
        In the order of ``jobs``.

    Raises
    ------
    CheckpointError
        On an I/O error; those that are written already are kept.
    """
    results: dict[Cell, Result] = {}
    failures: dict[Cell, Failure] = {}
    tell = on_done or (lambda cell: None)
    todo: dict[Cell, Job] = {}
    for cell, job in jobs.items():
        found = None if folder is None else read_result(folder, cell)
        if found is None:
            todo[cell] = job
        else:
            results[cell] = found
            tell(cell)
    for cell, outcome in outcomes(run_job, todo, n_jobs=n_jobs, executor=executor):
        if isinstance(outcome, Exception):
            failures[cell] = failed(cell, outcome)
        else:
            results[cell] = outcome
            if folder is not None:
                _keep(folder, cell, outcome)
        tell(cell)
    return results, [failures[cell] for cell in jobs if cell in failures]


def _keep(folder: Path, cell: Cell, result: Result) -> None:
    try:
        write_result(folder, cell, result)
    except OSError as error:
        raise CheckpointError(
            f"{str(folder)!r} cannot be written: {error}. The fits that are in it are kept; make "
            "room and run again to go on."
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
    """Run cells as :func:`run_cells` does, under a bar; results come in the order of ``jobs``.

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
            folder=folder,
            n_jobs=n_jobs,
            executor=executor,
            on_done=lambda cell: show(advance=1, note=f"{cell.model}, seed {cell.seed}"),
        )
    failures = unplanned + failures
    if not results:
        raise FitError(f"every fit failed; the first said: {failures[0].message}")
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
    """Put an error into words."""
    text = " ".join(str(error).split())
    return Failure(cell, f"{type(error).__name__}: {text}" if text else type(error).__name__)
