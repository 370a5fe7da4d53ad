"""Running many cells: here, in processes, or wherever an executor takes them."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rvrae_pyro.data.io import write_panel
from rvrae_pyro.experiments.cells import (
    Cell,
    InMemory,
    Job,
    OnDisk,
    Result,
    read_result,
    run_job,
    write_result,
)

__all__ = ["Failure", "Submits", "failed", "run_cells"]


class Future(Protocol):
    """What an executor hands back at once."""

    def result(self) -> Any:
        """Wait for the value, or raise what was raised."""
        ...

    def add_done_callback(self, fn: Callable[[Any], object]) -> Any:
        """Call ``fn`` with the future when it is done."""
        ...


class Submits(Protocol):
    """An executor as in :mod:`concurrent.futures`; see ``rv.experiments.connect`` for dask."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``fn(*args)`` somewhere and return a future."""
        ...


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
    for cell, outcome in _outcomes(todo, n_jobs, executor):
        if isinstance(outcome, Exception):
            failures[cell] = failed(cell, outcome)
        else:
            results[cell] = outcome
            if folder is not None:
                write_result(folder, cell, outcome)
        tell(cell)
    return results, [failures[cell] for cell in jobs if cell in failures]


Outcome = tuple[Cell, Result | Exception]


def _outcomes(jobs: Mapping[Cell, Job], n_jobs: int, executor: Submits | None) -> Iterator[Outcome]:
    if executor is not None:
        yield from _submitted(jobs, executor)
    elif n_jobs == 1 or len(jobs) < 2:
        for cell, job in jobs.items():
            try:
                yield cell, run_job(job)
            except Exception as error:  # whatever a model of the user's own may raise
                yield cell, error
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield from _in_processes(_share(jobs, Path(scratch)), n_jobs)


def _submitted(jobs: Mapping[Cell, Job], executor: Submits) -> Iterator[Outcome]:
    """Yield outcomes in the order in which they come."""
    done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
    waiting = []  # kept, since dask forgets a task whose last future is gone
    for cell, job in jobs.items():
        try:
            future = executor.submit(run_job, job)
        except Exception as error:  # a pool that broke while cells were handed to it
            yield cell, error
        else:
            waiting.append(future)
            future.add_done_callback(partial(_put, done, cell))
    for _ in waiting:
        cell, future = done.get()
        try:
            yield cell, future.result()
        except Exception as error:
            yield cell, error


def _put(done: queue.SimpleQueue[tuple[Cell, Any]], cell: Cell, future: Any) -> None:
    done.put((cell, future))


def _in_processes(jobs: Mapping[Cell, Job], n_jobs: int) -> Iterator[Outcome]:
    alone: dict[Cell, Job] = {}
    with _pool(n_jobs) as pool:
        for cell, outcome in _submitted(jobs, pool):
            if isinstance(outcome, BrokenProcessPool):
                alone[cell] = jobs[cell]
            else:
                yield cell, outcome
    # a process died and took others along; one at a time, only the culprit fails again
    for cell, job in alone.items():
        with _pool(1) as pool:
            yield from _submitted({cell: job}, pool)


@contextmanager
def _pool(n_jobs: int) -> Iterator[ProcessPoolExecutor]:
    # spawned, not forked: a forked child of a process that uses threads may hang
    pool = ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _share(jobs: Mapping[Cell, Job], folder: Path) -> dict[Cell, Job]:
    """Put panels into files, so that each process reads one once."""
    files: dict[int, OnDisk] = {}
    shared = {}
    for cell, job in jobs.items():
        source = job.source
        if isinstance(source, InMemory):
            if id(source) not in files:
                path = folder / f"panel{len(files)}.nc"
                write_panel(source.panel, path)
                files[id(source)] = OnDisk(str(path))
            job = replace(job, source=files[id(source)])
        shared[cell] = job
    return shared


def failed(cell: Cell, error: Exception) -> Failure:
    """Put an error into words."""
    text = str(error).strip().splitlines()
    return Failure(cell, f"{type(error).__name__}: {text[0]}" if text else type(error).__name__)
