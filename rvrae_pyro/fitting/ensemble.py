"""Fits of one model that differ in their seeds."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xarray as xr
from torch import nn

from rvrae_pyro.data.sources import InMemory, Source
from rvrae_pyro.errors import ConfigError, check_count, check_seeds
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.members import META, Ensemble
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.fitting.training import fit
from rvrae_pyro.fitting.training import load as load_fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.rvrae import RVRAE

__all__ = ["Ensemble", "fit_ensemble", "load"]


def fit_ensemble(
    make_model: Callable[[], RVRAE],
    train: xr.Dataset,
    valid: xr.Dataset | None = None,
    *,
    seeds: int | Iterable[int] = range(10),
    config: FitConfig | None = None,
    progress: bool = True,
    n_jobs: int = 1,
    executor: Submits | None = None,
) -> Ensemble:
    """Fit the same model from several seeds; members are the chains of all draws that follow.

    Parameters
    ----------
    make_model : callable
        Called without arguments for every member; returns a new, untrained model.
    train, valid : xarray.Dataset
        As for ``rv.fit``.
    seeds : int or iterable of int
        One a member, all different; a number stands for as many, from 0 on. A seed sets
        starting weights and the order of months.
    config : FitConfig, optional
    progress : bool
        Show a progress bar on a terminal, one a member; none where others fit them.
    n_jobs : int
        Processes. More than 1 needs a script whose top level is safe to import, and gives every
        member one thread.
    executor : object with ``submit``, optional
        As in :mod:`concurrent.futures`, or what ``rv.experiments.connect`` gives: takes the fits
        instead.

    Returns
    -------
    Ensemble

    Raises
    ------
    ConfigError
        Without a seed, with a seed twice, or if ``make_model`` returns a model it had returned
        before or one that shares weights with it, one that was trained, or anything but a model.
    FitError
        If a member's fit fails, as ``rv.fit`` does; the others are given up.

    Notes
    -----
    Differences between members show how much of a forecast hangs on the optimiser's start: a
    lower bound on what is unknown about the weights, as all members see the same data. Costs
    as many fits as there are seeds.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive uncertainty
    estimation using deep ensembles, NIPS.
    """
    if isinstance(make_model, type | nn.Module) or not callable(make_model):
        raise ConfigError(
            "`make_model` must be a function that builds a model; got "
            f"{describe_kind(make_model)}. Pass one, e.g. lambda: rv.RVRAE(n_characteristics, "
            "n_factors)."
        )
    chosen = check_seeds(seeds)
    check_count("n_jobs", n_jobs)
    here = executor is None and n_jobs == 1
    months = InMemory(train), None if valid is None else InMemory(valid)
    jobs: dict[int, _Member] = {}
    for seed in chosen:
        model = make_model()
        _check_new(model, [job.model for job in jobs.values()])
        jobs[seed] = _Member(model, *months, config, seed, progress and here)
    fits: dict[int, Fit] = {}
    with closing(outcomes(_fit_member, jobs, n_jobs=n_jobs, executor=executor)) as running:
        for seed, outcome in running:
            if isinstance(outcome, Exception):
                raise outcome
            fits[seed] = outcome
    return Ensemble.of([fits[seed] for seed in chosen], train)


@dataclass(frozen=True, eq=False)
class _Member:
    """All that a process needs to fit a member."""

    model: RVRAE
    train: Source
    valid: Source | None
    config: FitConfig | None
    seed: int
    progress: bool


def _fit_member(job: _Member) -> Fit:
    valid = None if job.valid is None else job.valid.load()
    return fit(
        job.model,
        job.train.load(),
        valid,
        config=job.config,
        seed=job.seed,
        progress=job.progress,
    ).uninterrupted()


def load(
    path: str | os.PathLike[str], model: RVRAE | None = None, *, config: FitConfig | None = None
) -> Fit | Ensemble:
    """Read a fit or an ensemble that its ``save`` wrote, or a checkpoint's best state.

    Parameters
    ----------
    path : path
        The folder.
    model : RVRAE, optional
        A model built as the saved one was; needed only where a part is not one of ours. Its
        weights are filled in. For an ensemble every member gets a copy.
    config : FitConfig, optional
        The configuration it was fitted with; needed only where a schedule is not one of ours.

    Returns
    -------
    Fit or Ensemble
        What was saved.

    Raises
    ------
    CheckpointError
        If the folder is missing, damaged, foreign or of a newer version, or needs ``model``.
    """
    if (Path(path) / META).exists():
        make = None if model is None else partial(copy.deepcopy, model)
        return Ensemble.load(path, make, config=config)
    return load_fit(path, model, config=config)


def _check_new(model: object, others: Sequence[RVRAE]) -> None:
    if not isinstance(model, RVRAE):
        raise ConfigError(f"`make_model` must return an rv.RVRAE; got {type(model).__name__}.")
    weights = {id(weight) for other in others for weight in other.parameters()}
    if not model.untrained or any(id(weight) in weights for weight in model.parameters()):
        raise ConfigError(
            "`make_model` must build a new model at every call; it returned one that is trained "
            "already, or has weights of one before. Build it inside: make_model=lambda: "
            "rv.RVRAE(...)."
        )
