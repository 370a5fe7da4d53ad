"""Independent fits and their panels: here, in processes, or wherever an executor takes them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import xarray as xr

from rvrae_pyro.atomic import scratch_folder
from rvrae_pyro.data.io import read_panel, write_panel


class Source(Protocol):
    """Source of a panel."""

    def load(self) -> xr.Dataset:
        """Return the panel."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """A panel that travels with the job."""

    panel: xr.Dataset

    def load(self) -> xr.Dataset:
        """Return the panel."""
        return self.panel


@dataclass(frozen=True)
class OnDisk:
    """A panel in a file that all processes see; each reads it once.

    The path is absolute, as processes may work in other folders.
    """

    path: str

    def load(self) -> xr.Dataset:
        """Read the panel."""
        return _read_once(self.path)


_read_once = lru_cache(maxsize=2)(read_panel)  # the training and the validation months of a fit


Key = TypeVar("Key", bound=Hashable)
Job = TypeVar("Job")
Answer = TypeVar("Answer")

_TURN = threading.Lock()


class Submits(Protocol):
    """An executor as in :mod:`concurrent.futures`; see ``rv.experiments.connect`` for dask."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``fn(*args)`` somewhere and return a future."""
        ...


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the same numbers in any process, and no contention for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class InTurn(Generic[Job, Answer]):
    """A function of a job that runs on one thread, one call at a time within a process.

    Pyro's stack of handlers and torch's random stream belong to the process; two fits at once, in
    threads of an executor, would mix them.
    """

    fn: Callable[[Job], Answer]

    def __call__(self, job: Job) -> Answer:
        """Run it."""
        with _TURN, one_thread():
            return self.fn(job)


def outcomes(
    fn: Callable[[Job], Answer],
    jobs: Mapping[Key, Job],
    *,
    n_jobs: int = 1,
    executor: Submits | None = None,
) -> Generator[tuple[Key, Answer | Exception], None, None]:
    """Run a function over jobs; yield answers, or what was raised, as they come.

    Parameters
    ----------
    fn : callable
        At the top level of a module, so that other processes find it.
    jobs : mapping from key to a dataclass
        Fields that hold an ``InMemory`` panel are sent once to each process, not with each job.
    n_jobs : int
        Processes; 1 runs in this one, with its threads. With more a fit has one thread.
    executor : Submits, optional
        Takes the jobs instead; it is not shut down.

    Yields
    ------
    key, answer : pair
        Every key once. A process that dies takes others' jobs along; these are run again.

    Notes
    -----
    Closing the generator cancels the jobs that have not begun and ends its processes at once.
    """
    if executor is not None:
        yield from _submitted(InTurn(fn), jobs, executor)
    elif n_jobs == 1 or len(jobs) < 2:
        run = fn if n_jobs == 1 else InTurn(fn)
        for key, job in jobs.items():
            try:
                answer: Answer | Exception = run(job)
            except Exception as error:  # a user-defined model may raise anything
                answer = error
            yield key, answer
    else:
        with scratch_folder() as scratch:
            shared = _share(jobs, scratch)
            yield from _in_processes(InTurn(fn), shared, min(n_jobs, len(jobs)))


def panels_of(job: Any) -> dict[str, InMemory]:
    """Return the fields of a job that hold a panel."""
    held = {field.name: getattr(job, field.name) for field in fields(job)}
    return {name: value for name, value in held.items() if isinstance(value, InMemory)}


def _submitted(
    fn: Callable[[Job], Answer], jobs: Mapping[Key, Job], executor: Submits
) -> Iterator[tuple[Key, Answer | Exception]]:
    """Yield outcomes in the order in which they come."""
    done: queue.SimpleQueue[tuple[Key, Any]] = queue.SimpleQueue()
    waiting: dict[Key, Any] = {}  # kept, since dask forgets a task whose last future is gone
    for key, job in jobs.items():
        try:
            future = executor.submit(fn, job)
        except Exception as error:  # a pool that broke while jobs were handed to it
            yield key, error
        else:
            waiting[key] = future
            future.add_done_callback(lambda future, key=key: done.put((key, future)))
    while waiting:
        key, future = done.get()
        del waiting[key]
        try:
            yield key, future.result()
        except Exception as error:
            yield key, error


def _in_processes(
    fn: Callable[[Job], Answer], jobs: Mapping[Key, Job], n_jobs: int
) -> Iterator[tuple[Key, Answer | Exception]]:
    alone: dict[Key, Job] = {}
    with _pool(n_jobs) as pool:
        for key, outcome in _submitted(fn, jobs, pool):
            if isinstance(outcome, BrokenProcessPool):
                alone[key] = jobs[key]
            else:
                yield key, outcome
    # a process died and took others along; one at a time, only the culprit fails again
    for key, job in alone.items():
        with _pool(1) as pool:
            yield from _submitted(fn, {key: job}, pool)


@contextmanager
def _pool(n_jobs: int) -> Iterator[ProcessPoolExecutor]:
    # spawned, not forked: a forked child of a process that uses threads may hang
    context = multiprocessing.get_context("spawn")
    held, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(n_jobs, mp_context=context, initializer=_end_with, initargs=(held,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    else:
        pool.shutdown()
    finally:
        ours.close()
        held.close()


def _end_with(held: Connection) -> None:
    """End a worker as soon as the other end of a pipe is closed.

    The process that started it was then killed, or stopped waiting for its answer.
    """
    threading.Thread(target=_follow, args=(held,), daemon=True).start()


def _follow(held: Connection) -> None:
    try:
        held.poll(None)
    finally:  # some systems raise at a broken pipe
        os._exit(1)


def _share(jobs: Mapping[Key, Job], folder: Path) -> dict[Key, Job]:
    """Put panels into files, so that each process reads one once."""
    files: dict[int, OnDisk] = {}
    shared = {}
    for key, job in jobs.items():
        elsewhere = {}
        for name, source in panels_of(job).items():
            if id(source) not in files:
                path = folder / f"panel{len(files)}.nc"
                write_panel(source.panel, path)
                files[id(source)] = OnDisk(str(path))
            elsewhere[name] = files[id(source)]
        shared[key] = replace(job, **elsewhere) if elsewhere else job  # type: ignore[type-var]
    return shared
