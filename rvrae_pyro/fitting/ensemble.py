"""Ensembles: fits of one model that differ in their seeds, and whose members are chains."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr
from torch import nn

from rvrae_pyro import displays
from rvrae_pyro.atomic import replacing
from rvrae_pyro.diagnostics.alignment import align
from rvrae_pyro.diagnostics.check import Check, check_members
from rvrae_pyro.errors import CheckpointError, ConfigError, check_count, check_seeds
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.parallel import InMemory, Source, Submits, outcomes
from rvrae_pyro.fitting.results import Results
from rvrae_pyro.fitting.saved import damaged, read_meta, reject_foreign
from rvrae_pyro.fitting.training import fit
from rvrae_pyro.fitting.training import load as load_fit
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN
from rvrae_pyro.predictive.chains import stack_arrays
from rvrae_pyro.predictive.filtered import Filtered
from rvrae_pyro.predictive.storage import write_tree

META: Final = "ensemble.json"
"""Name of the file that marks the folder of an ensemble."""

_ROTATION: Final = "rotation.nc"


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Results):
    """Fits of one model from several seeds, with the methods of ``Fit`` and a chain per member.

    Attributes
    ----------
    members : tuple of Fit
    alignment : Dataset
        As from ``rv.diagnostics.align`` on the training months' factor means: ``rotation``
        (chain, factor, reference), ``before``, ``agreement``, ``misfit``. Results are in
        the first member's coordinates; no later month takes part in finding them.
    """

    members: tuple[Fit, ...]
    alignment: xr.Dataset

    @classmethod
    def of(cls, members: Sequence[Fit], train: xr.Dataset, num_samples: int = 200) -> Ensemble:
        """Make an ensemble of fits that exist already.

        Parameters
        ----------
        members : sequence of Fit
            Of models with the same number of factors.
        train : xarray.Dataset
            Months on which their factors are aligned: the training months.
        num_samples : int
            Draws behind the factor means that are aligned.
        """
        if not members:
            raise ConfigError("`members` must hold at least one fit; got none.")
        sizes = {member.model.n_factors for member in members}
        if len(sizes) > 1:
            raise ConfigError(
                f"`members` must have the same number of factors; got {sorted(sizes)}."
            )
        means = [member.factors(train, "filtered", num_samples)["mean"] for member in members]
        chains = np.arange(len(members))
        found = align(xr.concat(means, CHAIN).assign_coords({CHAIN: chains}), freedom="linear")
        keep = found[["rotation", "before", "agreement", "misfit"]]
        return cls(tuple(members), keep)

    def __repr__(self) -> str:
        """Summarise the members."""
        seeds = ", ".join(str(member.seed) for member in self.members)
        last = self.members[0].attrs.get("last_seen_month", "an unknown month")
        return (
            f"Ensemble({len(self.members)} members of {self.members[0].model.n_factors} factors, "
            f"seeds {seeds}; saw data to {last})"
        )

    def _repr_html_(self) -> str:
        """Show the members as a table, with the model folded."""
        agreement = self.alignment["agreement"].mean("factor").to_numpy()
        rows = [
            (str(chain), member.seed, member.stopped, member.best_step, float(agreement[chain]))
            for chain, member in enumerate(self.members)
        ]
        head = ("chain", "seed", "stopped", "kept step", "factor correlation with chain 0")
        model = self.members[0].model
        folded = displays.fold(repr(model).partition("\n")[0], model._repr_html_())
        return displays.card(
            f"Ensemble of {len(self.members)} members", displays.grid(head, rows), folded
        )

    @property
    def _records(self) -> tuple[Fit, ...]:
        return self.members

    @property
    def rotation(self) -> xr.DataArray:
        """Map of each member's factors to the first member's, (chain, factor, reference)."""
        return self.alignment["rotation"]

    @property
    def provenance(self) -> dict[str, str | int]:
        """Attributes of all results: the first member's, and the seeds of all."""
        seeds = json.dumps([member.seed for member in self.members])
        return {**self.members[0].attrs, "seeds": seeds, "n_members": len(self.members)}

    def check(self, panel: xr.Dataset | Filtered | None = None, num_particles: int = 1000) -> Check:
        """Report the worst member's findings, and how far the members agree.

        Parameters as for :meth:`Fit.check`.
        """
        if panel is None:
            pages = [member.check() for member in self.members]
            return check_members(pages, self.alignment, None)
        filtered = panel
        if not isinstance(filtered, Filtered):
            filtered = self.filter(filtered, num_particles, self.members[0].seed)
        filtered.require_models([member.model for member in self.members])
        each = filtered.by_member()
        pages = [m.check(one) for m, one in zip(self.members, each, strict=True)]
        fitted = stack_arrays([one.reconstruct() for one in each])
        return check_members(pages, self.alignment, fitted)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all members to a folder, each as :meth:`Fit.save` does, atomically.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, or holds something that is not an ensemble.
        """
        target = Path(path)
        reject_foreign(target, (META,), "an ensemble")
        try:
            with replacing(target) as temporary:
                temporary.mkdir(parents=True)
                for i, member in enumerate(self.members):
                    member.save(temporary / f"member_{i:03d}")
                write_tree(xr.DataTree(self.alignment), temporary / _ROTATION)
                meta = {"package": "rvrae_pyro", "format": 1, "n_members": len(self.members)}
                (temporary / META).write_text(json.dumps(meta))
        except (OSError, ConfigError) as error:
            raise CheckpointError(f"`path` {str(target)!r} cannot be written: {error}.") from error
        return target

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        make_model: Callable[[], RVRAE] | None = None,
        *,
        config: FitConfig | None = None,
    ) -> Ensemble:
        """Read an ensemble that :meth:`save` wrote.

        Parameters
        ----------
        path : path
        make_model : callable, optional
            As for ``fit_ensemble``; needed only for user-defined parts.
        config : FitConfig, optional
            As for :func:`load`.

        Raises
        ------
        CheckpointError
            If the folder is missing, damaged, or of a newer version.
        """
        folder = Path(path)
        meta = read_meta(folder, META, "ensemble", 1)
        try:
            n_members = int(meta["n_members"])
            with xr.open_dataset(folder / _ROTATION) as opened:
                alignment = opened.load()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(folder, error) from error
        folders = [folder / f"member_{i:03d}" for i in range(n_members)]
        members = [
            load_fit(each, None if make_model is None else make_model(), config=config)
            for each in folders
        ]
        return cls(tuple(members), alignment)


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
        One per member, all different; a number means as many, from 0 on. A seed sets
        starting weights and the order of months.
    config : FitConfig, optional
    progress : bool
        Show a progress bar per member on a terminal; none in other processes.
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
        If a member's fit fails, as ``rv.fit`` does; the others are cancelled.

    Notes
    -----
    Differences between members show how much of a forecast depends on the optimiser's start: a
    lower bound on the uncertainty of the weights, as all members see the same data. Costs
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
    """Inputs of one member's fit, for another process."""

    model: RVRAE
    train: Source
    valid: Source | None
    config: FitConfig | None
    seed: int
    progress: bool


def _fit_member(job: _Member) -> Fit:
    valid = None if job.valid is None else job.valid.load()
    return fit(
        job.model, job.train.load(), valid, config=job.config, seed=job.seed, progress=job.progress
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
        A model built as the saved one was; needed only for user-defined parts. Its weights are
        filled in. For an ensemble every member gets a copy.
    config : FitConfig, optional
        The configuration it was fitted with; needed only for a user-defined schedule.

    Returns
    -------
    Fit or Ensemble

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
