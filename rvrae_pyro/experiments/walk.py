"""Refits as time goes on, forecasts joined."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from rvrae_pyro.data.splits import Split
from rvrae_pyro.data.splits import walk_forward as cut_forward
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.entrants import Entrant, as_entrant
from rvrae_pyro.experiments.registry import find_entrant
from rvrae_pyro.inference.config import FitConfig
from rvrae_pyro.names import RETURNS, TIME

__all__ = ["walk_forward"]


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
) -> xr.DataTree:
    """Refit again and again as months go by, and join the forecasts between the refits.

    Parameters
    ----------
    panel : Dataset
        Prepared as for a fit: ranked, with context if a model reads it.
    model : RVRAE, baseline, callable, entrant or name
        Untrained; every refit starts anew from a copy. A callable gets the training panel and
        returns a model, so that its sizes may depend on it.
    train, valid, test : int
        Rows of the first training span, and of every validation and test span.
    step : int, optional
        Rows between two refits: ``test`` unless told, so that every month is forecast once.
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
    entrant = find_entrant(model, n_factors) if isinstance(model, str) else _enter(model, config)
    gap = test if step is None else step
    if isinstance(gap, int) and isinstance(test, int) and gap > test:
        raise ConfigError(
            f"`step` must be at most `test`, {test}, or months between the refits would have no "
            f"forecast; got {gap}."
        )
    cuts = list(cut_forward(panel, train, valid, test, gap, expanding=expanding, partial=partial))
    trees, records = [], []
    for number, cut in enumerate(cuts):
        months = cut.test[TIME].values
        if number + 1 < len(cuts):
            months = months[months < cuts[number + 1].test[TIME].values[0]]
        tree = _one_refit(panel, entrant, cut, months, num_samples, seed)
        records.append({"attrs": dict(tree.attrs), **_spans(cut), "seed": seed})
        trees.append(_number(tree, number))
    joined = _join(trees)
    joined.attrs.update(model=entrant.name, seed=seed, refits=json.dumps(records))
    return joined


def _enter(model: object, config: FitConfig | None) -> Entrant:
    return as_entrant(model, config=config)


def _one_refit(
    panel: xr.Dataset,
    entrant: Entrant,
    cut: Split,
    months: np.ndarray,
    num_samples: int,
    seed: int,
) -> xr.DataTree:
    fitted = entrant.fit(cut.train, cut.valid, seed)
    seen = panel.sel({TIME: slice(cut.train[TIME].values[0], months[-1])})
    tree = fitted.outlook(seen, months, num_samples, seed)
    observed = cut.test[[RETURNS]].sel({TIME: months}).reset_coords(drop=True)
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
