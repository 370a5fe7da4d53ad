"""Grid of fits of a comparison: what to run, and running it past fits that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro.atomic import only_run
from rvrae_pyro.data.batch import to_light_batch
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.data.sources import InMemory
from rvrae_pyro.data.splits import Split
from rvrae_pyro.data.splits import split as cut_panel
from rvrae_pyro.errors import CheckpointError, ConfigError, FitError, PanelError
from rvrae_pyro.experiments.competitors import Entrant
from rvrae_pyro.experiments.jobs import Cell, Job, Result, read_result, run_job, write_result
from rvrae_pyro.experiments.metrics import Rules
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.names import ASSET, RETURNS, TIME
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
    """Run cells, save each as soon as it is done, and continue past failures.

    Parameters
    ----------
    jobs : mapping from Cell to Job
    folder : Path, optional
        Where numbers are kept; existing results are not computed again.
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


_RANK_METRICS = ("rank_ic", "rank_icir", "rank_ic_running", "rank_icir_running")
_LEAST = 3  # pairs of a rank correlation


def plan(
    everyone: list[Entrant],
    entrants: list[Entrant],
    study: xr.Dataset,
    parts: Split,
    seeds: list[int],
    drawn: Mapping[tuple[int, int], tuple[str, ...]],
    num_samples: int,
    rules: Rules,
) -> tuple[dict[Cell, Job], list[Failure]]:
    """One job per fit, those with all assets first, and those that cannot even be described."""
    source, mark = InMemory(study), fingerprint(study)
    n_train, n_valid = parts.train.sizes[TIME], parts.valid.sizes[TIME]

    def job(entrant: Entrant, seed: int, names: tuple[str, ...]) -> Job:
        metrics = _RANK_METRICS if names else None
        return Job(entrant, source, n_train, n_valid, seed, names, num_samples, rules, metrics)

    jobs = [job(entrant, seed, ()) for seed in seeds for entrant in everyone]
    jobs += [job(e, seed, names) for (_, seed), names in drawn.items() for e in entrants]
    named: dict[Cell, Job] = {}
    failures = []
    for each in jobs:
        try:
            named[each.cell(study, mark)] = each
        except Exception as error:  # a user's own function may raise anything
            failures.append(
                failed(Cell(each.entrant.name, each.seed, len(each.omitted), ""), error)
            )
    return named, failures


def cut(panel: xr.Dataset, split: object) -> Split:
    """Cut a panel by ``split``, in any of the forms that ``compare`` takes.

    Raises
    ------
    ConfigError
        If ``split`` has none of them.
    PanelError
        If it does not fit the panel.
    """
    if isinstance(split, Split):
        return split
    if isinstance(split, Mapping):
        split = tuple(split.get(name) for name in ("train", "valid", "test"))
    if not isinstance(split, tuple | list) or len(split) != 3:
        raise ConfigError(
            "`split` must be (train, valid, test): counts of rows, fractions or dates, or what "
            f"rv.data.split returns; got {split!r}."
        )
    return cut_panel(panel, *split)


def study_months(panel: xr.Dataset, parts: Split) -> xr.Dataset:
    """Months from the first training month to the last test month, with no gap between parts."""
    times = [part[TIME].values for part in parts]
    study = panel.sel({TIME: slice(times[0][0], times[-1][-1])})
    if not np.array_equal(study[TIME].values, np.concatenate(times)):
        raise ConfigError(
            "`split` must leave no months between its parts here: filters run through them all. "
            "Let each part begin where the one before it ends."
        )
    return study


def check_study(study: xr.Dataset, parts: Split) -> None:
    """Reject, before any fit, panels that no model could be fitted to or scored on.

    Raises
    ------
    PanelError
        If listed cells lack characteristics, or fewer than two test months have a return: no
        standard error could be given.
    """
    to_light_batch(study)
    seen = parts.test[RETURNS].notnull().any(ASSET)
    if int(seen.sum()) < 2:
        raise PanelError(
            "`split` must leave at least two test months with a return, or there is no standard "
            f"error; got {int(seen.sum())} of {parts.test.sizes[TIME]}. Choose a longer test span."
        )


def omit_counts(omit: object, parts: Split) -> list[int]:
    """Return how many assets to leave out of training, checked, each once and in order.

    Raises
    ------
    ConfigError
        If one is no whole number, or leaves too few assets to score or to train on.
    """
    several = isinstance(omit, Iterable) and not isinstance(omit, str)
    counts: list[Any] = list(omit) if several else [omit]  # type: ignore[call-overload]
    most = len(candidates(parts)) - 2
    if counts and most < _LEAST:
        raise ConfigError(
            f"`omit` needs at least {_LEAST + 2} assets with returns in training and test months: "
            f"{_LEAST} for a rank correlation and two to train on; got {most + 2}."
        )
    for count in counts:
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not whole or not _LEAST <= count <= most:
            raise ConfigError(
                f"`omit` must hold whole numbers from {_LEAST} (for a rank correlation) to {most} "
                "(assets with returns in training and test months, less two to train on); got "
                f"{count!r}."
            )
    return sorted({int(count) for count in counts})


def candidates(parts: Split) -> list[str]:
    """Return the assets with returns in both training and test months, ordered by label."""
    train, test = (
        set(part[ASSET].values[part[RETURNS].transpose(TIME, ASSET).notnull().any(TIME).values])
        for part in (parts.train, parts.test)
    )
    return sorted(map(str, train & test))


def draw_omitted(parts: Split, count: int, seed: int) -> tuple[str, ...]:
    """Draw the assets of a seed that are left out, from those that can be scored."""
    rng = np.random.default_rng([seed, count])
    return tuple(sorted(rng.choice(candidates(parts), count, replace=False).tolist()))
