"""Forecasts over several periods, one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.names import (
    CHAIN,
    COMPOUNDED_RETURNS,
    DRAW,
    FACTOR,
    FACTORS,
    RETURNS,
    STEP,
    TIME,
)

__all__ = [
    "at_step",
    "cumulated_factors",
    "has_steps",
    "n_draws_of",
    "over_steps",
    "steps_of",
    "take_paths",
]

_PREDICTIONS: Final = "predictions"
_CONSTANT: Final = "predictions_constant_data"
_COMPOUNDED: Final = "compounded_"
_OWN_ONLY: Final = ("weights", "exposure", "factor_var", "idio_var")
"""Variables without a counterpart for compounded returns, which are not linear in factors."""


def has_steps(tree: object) -> bool:
    """Test whether a tree is a forecast over several periods."""
    children = getattr(tree, "children", {})
    return _PREDICTIONS in children and STEP in children[_PREDICTIONS].dims


def n_draws_of(tree: xr.DataTree) -> int:
    """Count the draws of a forecast, all chains."""
    sizes = tree.children[_PREDICTIONS].sizes
    return int(sizes.get(CHAIN, 1) * sizes.get(DRAW, 1))


def steps_of(tree: xr.DataTree) -> list[int]:
    """Return the steps of a forecast over several periods."""
    return [int(step) for step in _drawn(tree).indexes[STEP]]


def _drawn(tree: xr.DataTree) -> xr.Dataset:
    return tree.children[_PREDICTIONS].to_dataset()


def at_step(tree: xr.DataTree, step: int, *, compounded: bool = True) -> xr.DataTree:
    """Take one step of a forecast over several periods, as a forecast of single periods.

    Parameters
    ----------
    tree : DataTree
        From ``fit.forecast(panel, horizon=h)``: variables of ``predictions`` have a dim ``step``.
    step : int
        1 to h.
    compounded : bool
        True for the return compounded from the first step to this one; False for the return of
        this step's own period.

    Returns
    -------
    DataTree
        Without ``step``, for every function that takes a forecast of single periods. Compounded
        returns are not linear in factors, so that factors and loadings are left out.

    Raises
    ------
    ShapeError
        If the tree has no ``step``.
    ConfigError
        If it has no such step.

    Examples
    --------
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(8, 12, 2)
    >>> fit = rv.fit(rv.RVRAE(2, 2), panel, config=rv.FitConfig(max_steps=4), progress=False)
    >>> paths = fit.forecast(panel, num_samples=200, times=panel.time[-1], horizon=3)
    >>> quarter = rv.risk.at_step(paths, 3)
    >>> rv.risk.summarize(quarter, tail=0.05)["es"].dims
    ('tail', 'time', 'asset')
    """
    if not has_steps(tree):
        raise ShapeError(
            "`tree` must be a forecast over several periods, whose 'predictions' have a dim "
            "'step'. Make one with fit.forecast(panel, horizon=h)."
        )
    steps = steps_of(tree)
    if isinstance(step, bool) or step not in steps:
        raise ConfigError(
            f"`step` must be one of the steps of the forecast, {steps[0]} to {steps[-1]}; got "
            f"{step!r}."
        )
    drawn = _drawn(tree).sel({STEP: step}, drop=True)
    if compounded:
        groups = {_PREDICTIONS: drawn[[COMPOUNDED_RETURNS]].rename({COMPOUNDED_RETURNS: RETURNS})}
    else:
        groups = {_PREDICTIONS: drawn.drop_vars(COMPOUNDED_RETURNS, errors="ignore")}
        if _CONSTANT in tree.children:
            groups[_CONSTANT] = tree.children[_CONSTANT].to_dataset().sel({STEP: step}, drop=True)
    result = xr.DataTree.from_dict(groups)
    result.attrs.update(tree.attrs)
    return result


def over_steps(tree: xr.DataTree, function: Callable[[xr.DataTree], xr.DataTree]) -> xr.DataTree:
    """Apply a function to every step, of its own return and of the compounded one.

    Parameters
    ----------
    tree : DataTree
        A forecast over several periods.
    function : callable
        From a forecast of single periods to a tree.

    Returns
    -------
    DataTree
        Groups of the function's results with a dim ``step`` after ``time``; variables of the
        compounded returns are called ``compounded_*``.
    """
    steps = steps_of(tree)
    own, compounded = (
        [function(at_step(tree, step, compounded=kind)) for step in steps] for kind in (False, True)
    )

    def stacked(each: list[xr.DataTree], path: str) -> xr.Dataset:
        nodes = [{node.path: node for node in one.subtree}[path] for one in each]
        return _stacked([node.to_dataset(inherit=False) for node in nodes], steps)

    groups = {}
    for path in own[0].groups:
        of_own = stacked(own, path)
        of_whole = stacked(compounded, path).drop_vars(_OWN_ONLY, errors="ignore")
        renamed = of_whole.rename({name: f"{_COMPOUNDED}{name}" for name in of_whole.data_vars})
        groups[path] = of_own.merge(renamed, combine_attrs="override", compat="no_conflicts")
    result = xr.DataTree.from_dict(groups)
    result.attrs.update(own[0].attrs)
    return result


def _stacked(each: list[xr.Dataset], steps: list[int]) -> xr.Dataset:
    """Concatenate along ``step``, which follows ``time``; variables without time are unchanged."""
    varying = [name for name, values in each[0].data_vars.items() if TIME in values.dims]
    fixed = each[0][[name for name in each[0].data_vars if name not in varying]]
    if not varying:
        return fixed
    joined = xr.concat(
        [one[varying] for one in each], STEP, join="exact", combine_attrs="override"
    ).assign_coords({STEP: np.asarray(steps)})
    for name in varying:
        values = joined[name]
        if name == "weights":  # those of the origin, for all steps
            joined[name] = values.isel({STEP: 0}, drop=True)
            continue
        rest = [dim for dim in values.dims if dim != STEP]
        rest.insert(rest.index(TIME) + 1, STEP)
        joined[name] = values.transpose(*rest)
    return joined.assign(fixed.data_vars)


def cumulated_factors(tree: xr.DataTree, step: int) -> xr.DataArray | None:
    """Sum of the factors (chain, draw, time, factor) over the steps up to one; None without."""
    drawn = in_time_order(_drawn(tree), "source")
    if FACTORS not in drawn:
        return None
    summed = drawn[FACTORS].sel({STEP: slice(None, step)}).sum(STEP)
    return summed.transpose(CHAIN, DRAW, TIME, FACTOR)


def take_paths(tree: xr.DataTree, order: np.ndarray) -> xr.Dataset:
    """Take draws of whole paths by position among all chains' (draw, time)."""
    drawn = in_time_order(_drawn(tree), "source")
    drawn = drawn.drop_vars([c for c in drawn.coords if DRAW in drawn[c].dims and c != DRAW])
    taken = {}
    for name, values in drawn.data_vars.items():
        lead = (CHAIN, DRAW, TIME)
        values = values.transpose(*lead, ...)
        flat = values.values.reshape(-1, *values.shape[2:])
        index = order.reshape(*order.shape, *([1] * (flat.ndim - 2)))
        chosen = np.take_along_axis(flat, index, axis=0)
        taken[name] = values.copy(data=chosen.reshape(values.shape))
    return xr.Dataset(taken, attrs=drawn.attrs)
