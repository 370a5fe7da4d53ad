"""Walk-forward evaluation: repeated refits, forecasts joined."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import xarray as xr

from rvrae_pyro._version import __version__
from rvrae_pyro.data.panel_match import fingerprint
from rvrae_pyro.data.splits import walk_forward as cut_forward
from rvrae_pyro.errors import ConfigError, ShapeError, check_count
from rvrae_pyro.experiments.competitors import (
    Entrant,
    FactoryEntrant,
    as_entrant,
    find_entrant,
    model_entrant,
)
from rvrae_pyro.experiments.forecast_tree import forecast_tree
from rvrae_pyro.experiments.grid import hash_of, hold
from rvrae_pyro.experiments.refit_files import RefitFiles
from rvrae_pyro.fitting.fit import Fit
from rvrae_pyro.fitting.parallel import InMemory, Source, Submits, outcomes
from rvrae_pyro.fitting.saved import describe_config
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.models.identity import own_identity
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.names import RETURNS, TIME
from rvrae_pyro.progress import progress_bar

_LAYOUT = 1


def walk_forward(
    panel: xr.Dataset,
    model: object,
    *,
    train: int,
    valid: int,
    test: int = 12,
    step: int | None = None,
    expanding: bool = True,
    partial: bool = True,
    config: FitConfig | None = None,
    warm_start: bool | FitConfig = False,
    seed: int = 0,
    num_samples: int = 1000,
    n_factors: int = 5,
    checkpoint: str | os.PathLike[str] | None = None,
    n_jobs: int = 1,
    executor: Submits | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Refit again and again as months go by, and join the forecasts between the refits.

    Parameters
    ----------
    panel : Dataset
        Prepared as for a fit: ranked, with context if a model reads it.
    model : RVRAE, baseline, callable, entrant or name
        Untrained; every refit starts from a copy. A callable gets the training panel and
        returns per model, so that its sizes may depend on it.
    train, valid, test : int
        Rows of the first training span, and of every validation and test span. Without validation
        (0) nothing stops training early, and its last months are trained on.
    step : int, optional
        Rows between two refits. Default: ``test``, so that every month is forecast once.
        12 months make yearly refits.
    expanding : bool
        Training spans begin with the panel and grow; False rolls them.
    partial : bool
        Keep a last test span shorter than ``test``.
    config : FitConfig, optional
        Of an RVRAE.
    warm_start : bool or FitConfig
        Start every refit of an RVRAE but the first from the first fit, the earliest in time, so
        that they still run in parallel. True trains them with :meth:`FitConfig.warm` of
        ``config``; a FitConfig is used as it is. Effects by asset map by label; those of assets
        that the first fit does not know start from the prior. Default: every refit starts from
        ``seed``.
    seed : int
        Every refit and its draws take it: the joined draws are those of ``Fit.forecast``.
    num_samples : int
        Predictive draws.
    n_factors : int
        Of a model given by name.
    checkpoint : path, optional
        Folder that keeps every refit as soon as it is done, and the first fit of a warm start. The
        same call again takes them over, for the result of an uninterrupted run; of a longer panel
        only new refits are run.
    n_jobs, executor, progress
        As in :func:`~rvrae_pyro.experiments.compare`, for refits; each has one thread.

    Returns
    -------
    DataTree
        By month, each from the last refit before it: ``predictions`` (``returns``, ``factors``)
        and ``predictions_constant_data`` as ``Fit.forecast`` gives them, where the model has a
        predictive distribution; ``forecasts`` with ``mean`` and, of factor models,
        ``mean_running``, ``mean_ols``, ``fitted``, ``fitted_gls``, ``fitted_ols``,
        ``log_evidence``; ``observed_data`` with ``returns`` (time, asset), NaN where not seen.
        The coordinate ``refit`` along ``time`` numbers the refits; attribute ``refits`` (JSON)
        holds the spans and attributes of each.

    Raises
    ------
    PanelError
        If the panel is too short for one span.
    ConfigError
        If a count is not a whole number of at least 1, ``step`` exceeds ``test``, ``model``
        is nothing that can take part, or ``warm_start`` is given and ``model`` is no RVRAE or
        changes its parts or sizes between refits.
    CheckpointError
        If another run writes to ``checkpoint``, or an I/O error occurs; refits that are there are
        kept.

    Notes
    -----
    Information set: the forecast of month t knows returns up to t-1, and weights from a refit
    whose validation months end before t; the first fit, from which warm refits start, saw none
    later than the first validation span. Factors of different refits are identified up to
    rotation: join ``beta`` and ``factors`` within a month, not factors over time. With
    ``step`` below ``test`` the later refit's forecast of a month is kept.
    """
    entrant = _enter(model, config, n_factors)
    gap = test if step is None else step
    if isinstance(gap, int) and isinstance(test, int) and gap > test:
        raise ConfigError(
            f"`step` must be at most `test`, {test}, or months between the refits would have no "
            f"forecast; got {gap}."
        )
    cuts = list(cut_forward(panel, train, valid, test, gap, expanding=expanding, partial=partial))
    check_count("n_jobs", n_jobs)
    warm = _warm_config(warm_start, entrant, cuts[0].train)
    source, refits = InMemory(panel), {}
    for number, cut in enumerate(cuts):
        months = cut.test[TIME].values
        if number + 1 < len(cuts):
            months = months[months < cuts[number + 1].test[TIME].values[0]]
        ends = tuple(_ends(part) for part in cut[:2])
        refits[number] = _Refit(entrant, source, ends, months, num_samples, seed, warm)
    folder = None if checkpoint is None else Path(checkpoint)
    with hold(folder), progress_bar("refitting", len(refits), progress) as show:
        runner = _Runner(
            files=None if folder is None else RefitFiles(folder),
            n_jobs=n_jobs,
            executor=executor,
            show=show,
        )
        found = runner.run(refits)
    joined = _join([_number(found[number], number) for number in refits])
    records = [
        {
            "attrs": dict(found[number].attrs),
            **{name: _ends(part) for name, part in cut._asdict().items()},
            "seed": seed,
        }
        for number, cut in enumerate(cuts)
    ]
    joined.attrs.update(model=entrant.name, seed=seed, refits=json.dumps(records))
    return joined


def _enter(model: object, config: FitConfig | None, n_factors: int) -> Entrant:
    if not isinstance(model, str):
        return as_entrant(model, config=config)
    named = find_entrant(model, check_count("n_factors", n_factors))
    if config is None:
        return named
    if not isinstance(named, FactoryEntrant):
        raise ConfigError(
            f"`config` is of an RVRAE; {named.name} has settings in its constructor. Pass the "
            "baseline itself instead of its name."
        )
    return replace(named, config=config)


def _warm_config(
    warm_start: bool | FitConfig, entrant: Entrant, panel: xr.Dataset
) -> FitConfig | None:
    """Return the configuration of warm refits; None for cold ones."""
    if not isinstance(warm_start, bool | FitConfig):
        raise ConfigError(
            f"`warm_start` must be True, False or an rv.FitConfig of the refits; got "
            f"{describe_kind(warm_start)}."
        )
    if warm_start is False:
        return None
    first = model_entrant(entrant, panel)
    return (first.config or FitConfig()).warm() if warm_start is True else warm_start


Ends: TypeAlias = tuple[str, str]
"""First and last day of a span."""


@dataclass(frozen=True, eq=False)
class _Refit:
    """One refit and the months it forecasts.

    ``warm`` is the configuration of refits that start from ``first``; the refit that has ``warm``
    and no ``first`` is the first one.
    """

    entrant: Entrant
    source: Source
    spans: tuple[Ends | None, ...]
    months: np.ndarray
    num_samples: int
    seed: int
    warm: FitConfig | None = None
    first: Fit | None = None

    def panels(self) -> tuple[xr.Dataset, xr.Dataset | None, xr.Dataset]:
        """Training, validation if any, and all months up to the last forecast."""
        panel = self.source.load()
        train, valid = (
            None if span is None else panel.sel({TIME: slice(*span)}) for span in self.spans
        )
        assert train is not None
        return train, valid, panel.sel({TIME: slice(train[TIME].values[0], self.months[-1])})

    def key(self, first: str | None) -> str:
        """Hash what the numbers depend on.

        Parameters
        ----------
        first : str, optional
            Key of the refit that this one starts from.
        """
        train, _, seen = self.panels()
        warm = None if first is None or self.warm is None else self.warm
        content = {
            "layout": _LAYOUT,
            "versions": [__version__, torch.__version__],
            "entrant": self.entrant.describe(train),
            "data": fingerprint(seen),
            "spans": [*map(str, self.spans), *self.months[[0, -1]].astype(str)],
            "num_samples": self.num_samples,
            "seed": self.seed,
            "warm": None if warm is None else [first, describe_config(warm), own_identity(warm)],
        }
        return hash_of(content)


def _run_refit(job: _Refit) -> tuple[xr.DataTree, Fit | None]:
    """Fit and forecast; also the fit where others are to start from it."""
    train, valid, seen = job.panels()
    if job.first is None:
        fitted = job.entrant.fit(train, valid, job.seed)
    else:
        warm = model_entrant(job.entrant, train).warm(job.first, job.warm)
        try:
            fitted = warm.fit(train, valid, job.seed)
        except ShapeError as error:
            raise ConfigError(
                "`warm_start` needs the same parts and sizes in all refits; `model` made others "
                f"for training months from {str(train[TIME].values[0])[:10]} to "
                f"{str(train[TIME].values[-1])[:10]} than for the first. Pass one untrained model "
                "instead."
            ) from error
    tree = forecast_tree(fitted, seen, job.months, job.num_samples, job.seed)
    observed = seen[[RETURNS]].sel({TIME: job.months}).reset_coords(drop=True)
    tree["observed_data"] = xr.DataTree(observed)
    kept = fitted if job.warm is not None and job.first is None else None
    return tree, kept if isinstance(kept, Fit) else None


@dataclass(frozen=True, eq=False)
class _Runner:
    """Run refits, take over those that are in a folder, and keep each as soon as it is done."""

    files: RefitFiles | None
    n_jobs: int
    executor: Submits | None
    show: Callable[..., None]

    def run(self, refits: Mapping[int, _Refit]) -> dict[int, xr.DataTree]:
        """Return the forecasts of all refits, the first of which others may start from."""
        keys: dict[int, str] = {}
        found: dict[int, xr.DataTree] = {}
        if self.files is not None:
            keys[0] = refits[0].key(None)
            keys |= {n: job.key(keys[0]) for n, job in refits.items() if n}
            kept = {n: self.files.read(key) for n, key in keys.items()}
            found = {n: tree for n, tree in kept.items() if tree is not None}
        self.show(advance=len(found))
        todo = {n: job for n, job in refits.items() if n not in found}
        if refits[0].warm is not None and todo:
            first = self._first(refits[0], keys.get(0), found)
            todo = {n: replace(job, first=first) for n, job in todo.items() if n}
        self._run(todo, keys, found)
        return found

    def _first(self, job: _Refit, key: str | None, found: dict[int, xr.DataTree]) -> Fit | None:
        """Return the first fit: read where its forecasts are there, too, or fitted."""
        if self.files is not None and key is not None and 0 in found:
            model = model_entrant(job.entrant, job.panels()[0])
            kept = self.files.read_fit(key, model)
            if kept is not None:
                return kept
        return self._run({0: job}, {} if key is None else {0: key}, found)[0]

    def _run(
        self, jobs: Mapping[int, _Refit], keys: Mapping[int, str], found: dict[int, xr.DataTree]
    ) -> dict[int, Fit | None]:
        """Add the forecasts of some refits to those found; return fits that others start from."""
        fits: dict[int, Fit | None] = {}
        runs = outcomes(_run_refit, jobs, n_jobs=self.n_jobs, executor=self.executor)
        with closing(runs) as running:
            for number, outcome in running:
                if isinstance(outcome, Exception):
                    raise outcome
                tree, fits[number] = outcome
                if self.files is not None:
                    self.files.keep(keys[number], tree, fits[number])
                if number not in found:
                    self.show(advance=1, note=f"to {str(jobs[number].months[-1])[:7]}")
                found[number] = tree
        return fits


def _ends(part: xr.Dataset) -> Ends | None:
    """First and last day of a part; None where it has no row."""
    times = part[TIME].values
    return (str(times[0])[:10], str(times[-1])[:10]) if len(times) else None


def _number(tree: xr.DataTree, number: int) -> dict[str, xr.Dataset]:
    groups = {name: node.to_dataset() for name, node in tree.children.items()}
    return {
        name: group.assign_coords(refit=(TIME, np.full(group.sizes[TIME], number)))
        for name, group in groups.items()
    }


def _join(trees: list[dict[str, xr.Dataset]]) -> xr.DataTree:
    groups = {
        name: xr.concat(
            [tree[name] for tree in trees],
            TIME,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="outer",
            combine_attrs="override",
        )
        for name in trees[0]
    }
    return xr.DataTree.from_dict(groups)
