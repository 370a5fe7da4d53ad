"""Walk-forward evaluation: repeated refits, forecasts joined."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from rvrae_pyro.data.sources import InMemory, Source
from rvrae_pyro.data.splits import Split
from rvrae_pyro.data.splits import walk_forward as cut_forward
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.experiments.competitor_registry import find_entrant
from rvrae_pyro.experiments.competitors import Entrant, FactoryEntrant, as_entrant
from rvrae_pyro.experiments.forecast_tree import forecast_tree
from rvrae_pyro.fitting.parallel import Submits, outcomes
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.names import RETURNS, TIME


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
    seed: int = 0,
    num_samples: int = 1000,
    n_factors: int = 5,
    n_jobs: int = 1,
    executor: Submits | None = None,
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
        Rows of the first training span, and of every validation and test span.
    step : int, optional
        Rows between two refits. Default: ``test``, so that every month is forecast once.
        12 months make yearly refits.
    expanding : bool
        Training spans begin with the panel and grow; False rolls them.
    partial : bool
        Keep a last test span shorter than ``test``.
    config : FitConfig, optional
        Of an RVRAE.
    seed : int
        Every refit and its draws take it: the joined draws are those of ``Fit.forecast``.
    num_samples : int
        Predictive draws.
    n_factors : int
        Of a model given by name.
    n_jobs : int
        Processes. More than 1 needs a script whose top level is safe to import, and gives every
        refit one thread.
    executor : object with ``submit``, optional
        As in :mod:`concurrent.futures`, or what :func:`~rvrae_pyro.experiments.connect` gives:
        takes the refits instead.

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
        If a count is not a whole number of at least 1, ``step`` exceeds ``test``, or ``model``
        is nothing that can take part.

    Notes
    -----
    Information set: the forecast of month t knows returns up to t-1, and weights from a refit
    whose validation months end before t. Factors of different refits are identified up to
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
    source, refits = InMemory(panel), {}
    for number, cut in enumerate(cuts):
        months = cut.test[TIME].values
        if number + 1 < len(cuts):
            months = months[months < cuts[number + 1].test[TIME].values[0]]
        ends = tuple((part[TIME].values[0], part[TIME].values[-1]) for part in cut[:2])
        refits[number] = _Refit(entrant, source, ends, months, num_samples, seed)
    found: dict[int, xr.DataTree] = {}
    with closing(outcomes(_run_refit, refits, n_jobs=n_jobs, executor=executor)) as running:
        for number, outcome in running:
            if isinstance(outcome, Exception):
                raise outcome
            found[number] = outcome
    joined = _join([_number(found[number], number) for number in refits])
    records = [
        {"attrs": dict(found[number].attrs), **_spans(cut), "seed": seed}
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


@dataclass(frozen=True, eq=False)
class _Refit:
    """One refit and the months it forecasts."""

    entrant: Entrant
    source: Source
    spans: tuple[tuple[np.datetime64, np.datetime64], ...]
    months: np.ndarray
    num_samples: int
    seed: int


def _run_refit(job: _Refit) -> xr.DataTree:
    panel = job.source.load()
    train, valid = (panel.sel({TIME: slice(*span)}) for span in job.spans)
    fitted = job.entrant.fit(train, valid, job.seed)
    seen = panel.sel({TIME: slice(job.spans[0][0], job.months[-1])})
    tree = forecast_tree(fitted, seen, job.months, job.num_samples, job.seed)
    observed = panel[[RETURNS]].sel({TIME: job.months}).reset_coords(drop=True)
    tree["observed_data"] = xr.DataTree(observed)
    return tree


def _spans(cut: Split) -> dict[str, list[str]]:
    return {
        name: [str(part[TIME].values[k])[:10] for k in (0, -1)]
        for name, part in zip(("train", "valid", "test"), cut, strict=True)
    }


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
