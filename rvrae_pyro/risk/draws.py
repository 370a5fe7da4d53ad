"""A forecast's draws: reading them, one step of several, and the losses in their tails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.errors import ConfigError, ShapeError, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    COMPOUNDED_RETURNS,
    DRAW,
    FACTOR,
    FACTORS,
    MEMBER,
    RETURNS,
    STEP,
    TIME,
    WEIGHT_DRAW,
)
from rvrae_pyro.predictive.storage import tree_of

Array = NDArray[np.float64]

MIXED = "`predictions/returns` must be NaN in all draws of a cell or in none; some cells mix them."
_BY_WEIGHTS = "beta_by_weights"
_MEANS = ("mean_by_weights", "mean")
_FEW = 10  # draws expected in a tail, below which its estimates are rough


@dataclass(frozen=True)
class Forecast:
    """Draws and, where the tree has them, what splits their variance."""

    returns: xr.DataArray  # (chain, draw, time, asset)
    factors: xr.DataArray | None  # (chain, draw, time, factor)
    beta: xr.DataArray | None  # (chain, time, asset, factor), chain of length 1 if shared
    beta_by_weights: xr.DataArray | None = None  # (member, time, asset, factor)
    expected: xr.DataArray | None = None  # (member, time, asset), means free of the draws' noise

    @property
    def member(self) -> NDArray[np.int64]:
        """Member of each draw, from 0: (chain, draw).

        Members are chains, or within each chain the draws of the weights behind its draws.
        """
        return _members(self.returns)

    @property
    def n_members(self) -> int:
        """Number of members."""
        return int(self.member.max()) + 1

    @property
    def beta_by_member(self) -> xr.DataArray | None:
        """Loadings (member, time, asset, factor), of length 1 if all share them."""
        if self.beta_by_weights is not None or self.beta is None:
            return self.beta_by_weights
        return self.beta.rename({CHAIN: MEMBER})

    @property
    def n_draws(self) -> int:
        """Draws of all chains."""
        return self.returns.sizes[CHAIN] * self.returns.sizes[DRAW]

    @property
    def listed(self) -> xr.DataArray:
        """Cells with a forecast: bool (time, asset)."""
        return self.returns.isel({CHAIN: 0, DRAW: 0}, drop=True).notnull()

    def month(self, t: int) -> Array:
        """Draws of month number ``t``, chains pooled: (n_draws, n_assets), NaN if unlisted.

        Raises
        ------
        ShapeError
            If an asset is NaN in some draws only.
        """
        draws = self.returns.isel({TIME: t}).values.astype(np.float64)
        draws = draws.reshape(-1, draws.shape[-1])
        some = np.isnan(draws).any(axis=0)
        if (some & ~np.isnan(draws).all(axis=0)).any():
            raise ShapeError(MIXED)
        return draws


def read_forecast(tree: xr.DataTree) -> Forecast:
    """Find the draws in the tree, and what splits their variance, in one order of dims."""
    group = getattr(tree, "children", {}).get("predictions")
    if group is None or RETURNS not in group.data_vars:
        raise ShapeError(
            "`tree` must be a DataTree whose group 'predictions' has a variable 'returns'; got "
            f"{type(tree).__name__} with groups {list(getattr(tree, 'children', {}))}. "
            "A forecast has one."
        )
    if STEP in group.dims:
        raise ShapeError(
            "`tree` is a forecast over several periods, and a single one is needed. Take one step: "
            "rv.risk.at_step(tree, step)."
        )
    predictions = in_time_order(group.to_dataset(), "tree")
    returns = _ordered(predictions[RETURNS], (CHAIN, DRAW, TIME, ASSET), "predictions/returns")
    if 0 in returns.shape:
        raise ShapeError(f"`predictions/returns` must not be empty; got {dict(returns.sizes)}.")
    constant = tree.children.get("predictions_constant_data")
    expected = None if constant is None else _expected(constant.to_dataset(), returns)
    if FACTORS not in predictions or constant is None or "beta" not in constant.data_vars:
        return Forecast(returns, None, None, expected=expected)
    factors = _ordered(predictions[FACTORS], (CHAIN, DRAW, TIME, FACTOR), "predictions/factors")
    known = in_time_order(constant.to_dataset(), "tree")
    beta = known["beta"]
    if CHAIN not in beta.dims:
        beta = beta.expand_dims(CHAIN)
    beta = _ordered(beta, (CHAIN, TIME, ASSET, FACTOR), "predictions_constant_data/beta")
    _fits(factors, returns, (CHAIN, DRAW, TIME), "predictions/factors")
    dims = (TIME, ASSET) if beta.sizes[CHAIN] == 1 else (CHAIN, TIME, ASSET)
    _fits(beta, returns, dims, "predictions_constant_data/beta")
    _fits(beta, factors, (FACTOR,), "predictions_constant_data/beta")
    if _BY_WEIGHTS not in known or WEIGHT_DRAW not in returns.coords:
        return Forecast(returns, factors, beta, expected=expected)
    each = _by_member(known, _BY_WEIGHTS, returns, (TIME, ASSET, FACTOR))
    forecast = Forecast(returns, factors, beta, each, expected)
    if each.sizes[MEMBER] != forecast.n_members:
        raise ShapeError(
            f"`predictions_constant_data/{_BY_WEIGHTS}` holds loadings of {each.sizes[MEMBER]} "
            f"members and `predictions` draws of {forecast.n_members}. Select the same from both."
        )
    return forecast


def _expected(constant: xr.Dataset, returns: xr.DataArray) -> xr.DataArray | None:
    """Read expected returns of every member; None where the tree does not hold them all."""
    n_members = int(_members(returns).max()) + 1
    for name in _MEANS:
        if name in constant:
            means = _by_member(constant, name, returns, (TIME, ASSET))
            if len(means) == n_members:
                return means.rename("expected")
    return None


def _members(returns: xr.DataArray) -> NDArray[np.int64]:
    """Give members numbers: chains, times draws of the weights where these are labelled."""
    n_chains, n_draws = returns.sizes[CHAIN], returns.sizes[DRAW]
    block = np.zeros((n_chains, n_draws), np.int64)
    if WEIGHT_DRAW in returns.coords:
        labels = returns[WEIGHT_DRAW].broadcast_like(returns.isel({TIME: 0, ASSET: 0}))
        block = np.unique(labels.transpose(CHAIN, DRAW).values, return_inverse=True)[1]
        block = block.reshape(n_chains, n_draws)
    return np.arange(n_chains)[:, None] * (int(block.max()) + 1) + block


def _by_member(
    constant: xr.Dataset, name: str, returns: xr.DataArray, dims: tuple[str, ...]
) -> xr.DataArray:
    """Join chains and draws of the weights to one dimension, in the order of the members."""
    values, where = constant[name], f"predictions_constant_data/{name}"
    for dim in (WEIGHT_DRAW, CHAIN):
        values = values if dim in values.dims else values.expand_dims(dim)
    values = _ordered(values, (CHAIN, WEIGHT_DRAW, *dims), where)
    _fits(values, returns, (TIME, ASSET), where)
    coords = {dim: values[dim] for dim in dims if dim in values.coords}
    return xr.DataArray(values.values.reshape(-1, *values.shape[2:]), coords, (MEMBER, *dims))


def _ordered(values: xr.DataArray, dims: tuple[str, ...], name: str) -> xr.DataArray:
    if set(values.dims) != set(dims):
        raise ShapeError(f"`{name}` must have dims {dims}; got {values.dims}.")
    return values.transpose(*dims)


def _fits(values: xr.DataArray, other: xr.DataArray, dims: tuple[str, ...], name: str) -> None:
    """Raise unless sizes and labels agree with those of ``other`` along ``dims``."""
    for dim in dims:
        if not np.array_equal(values[dim].values, other[dim].values):
            raise ShapeError(
                f"`{name}` has other labels along {dim!r} than `{other.name}`: "
                f"{values.sizes[dim]} and {other.sizes[dim]} of them. Select the same from both."
            )


def check_tails(
    tail: float | Sequence[float], n_draws: int, *, some_empty: bool = False
) -> tuple[float, ...]:
    """Return the tails as numbers; called directly by the public function that warns.

    A tail that holds no draw is an error; with ``some_empty`` only if no other one holds any.
    """
    tails = tuple(np.atleast_1d(np.asarray(tail, dtype=float)).tolist())
    if not tails or any(not 0 < each < 1 for each in tails) or len(set(tails)) < len(tails):
        raise ConfigError(f"`tail` must hold different numbers in (0, 1); got {tail!r}.")
    least = min(tails)
    empty = is_empty(least, n_draws)
    if empty and not (some_empty and not is_empty(max(tails), n_draws)):
        raise ConfigError(
            f"`tail` {least:g} holds none of {n_draws} draws; forecast with num_samples="
            f"{math.ceil(_FEW / least)} or more, or ask for a larger tail."
        )
    if least * n_draws < _FEW - 1e-9:
        fate = "left NaN" if empty else "rough"
        warn_user(
            f"only {least * n_draws:g} of {n_draws} draws are expected in the tail {least:g}, so "
            f"its VaR and ES are {fate}; {math.ceil(_FEW / least)} draws give {_FEW}"
        )
    return tails


def is_empty(tail: float, n_draws: int) -> bool:
    """Test whether a tail holds less than one draw."""
    return tail * n_draws < 1 - 1e-9


def tail_share(size: int, tail: float) -> Array:
    """Weights of the lowest draws, in order, in the tail mean: equal, the last one in part."""
    count = tail * size
    whole = math.floor(count + 1e-9)  # 0.05 * 1000 is 50, give or take rounding
    share = np.full(whole, 1.0 / count)
    rest = count - whole
    return np.append(share, rest / count) if rest > 1e-9 else share


def tail_losses(draws: Array, tails: tuple[float, ...]) -> tuple[Array, Array]:
    """VaR and ES of draws whose last axis is the sample, stacked along a leading tail axis."""
    size = draws.shape[-1]
    shares = [tail_share(size, tail) for tail in tails]
    deepest = max(len(share) for share in shares)
    lowest = np.partition(draws, deepest - 1, axis=-1)[..., :deepest]
    lowest.sort(axis=-1)
    at_risk = [-lowest[..., len(share) - 1] for share in shares]
    shortfall = [-(lowest[..., : len(share)] * share).sum(axis=-1) for share in shares]
    return np.stack(at_risk), np.stack(shortfall)


def tail_limits(draws: Array, tails: tuple[float, ...]) -> Array:
    """First draw above each tail, stacked along a leading tail axis; infinite where none is left.

    A draw strictly below it is a loss beyond the VaR of the other draws.
    """
    size = draws.shape[-1]
    counts = [len(tail_share(size, tail)) for tail in tails]
    inside = sorted({count for count in counts if count < size})
    limits = np.full((len(tails), *draws.shape[:-1]), np.inf)
    if inside:
        ranked = np.partition(draws, inside, axis=-1)
        for k, count in enumerate(counts):
            if count < size:
                limits[k] = ranked[..., count]
    return limits


def exceeds(returns: Array, var: Array, slack: Array | float = 0.0) -> NDArray[np.bool_]:
    """Test whether losses are strictly larger than VaR, by more than ``slack`` for rounding."""
    return returns < -var - slack


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


def months_of(tree: xr.DataTree, months: Any) -> xr.DataTree:
    """Months of a tree; attributes are kept."""
    groups = {}
    for name, node in tree.children.items():
        data = node.to_dataset()
        groups[str(name)] = data.sel({TIME: months}) if TIME in data.dims else data
    return tree_of(groups, tree.attrs)


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
    return tree_of(groups, tree.attrs)


def centred(tree: xr.DataTree) -> xr.DataTree:
    """Shift the draws of every asset and period to the expected return that the tree holds.

    The mean of the draws has a sampling error; ``predictions_constant_data/mean`` has none from
    the noise of returns. Spread and dependence stay as drawn, and returns of several periods are
    compounded again. A tree without expected returns is returned as it is.
    """
    constant = tree.children.get(_CONSTANT)
    if constant is None or "mean" not in constant.data_vars:
        return tree
    groups = {name: group.to_dataset() for name, group in tree.children.items()}
    drawn = groups[_PREDICTIONS]
    returns, expected = drawn[RETURNS], constant["mean"]
    if CHAIN in expected.dims:
        expected = expected.mean(CHAIN)
    shift = expected - returns.mean((CHAIN, DRAW), skipna=False)
    moved = (returns + shift).astype(returns.dtype).transpose(*returns.dims)
    drawn = drawn.assign({RETURNS: moved.assign_attrs(returns.attrs)})
    if COMPOUNDED_RETURNS in drawn:
        # a draw below -1 is a total loss
        whole = (1.0 + moved).clip(min=0.0).cumprod(STEP, skipna=False) - 1.0
        like = drawn[COMPOUNDED_RETURNS]
        drawn[COMPOUNDED_RETURNS] = whole.transpose(*like.dims).assign_attrs(like.attrs)
    return tree_of({**groups, _PREDICTIONS: drawn}, tree.attrs)


def over_steps(tree: xr.DataTree, function: Callable[[xr.DataTree], xr.DataTree]) -> xr.DataTree:
    """Apply a function to every step, of its own return and of the compounded one.

    Groups of the function's results have a dim ``step`` after ``time``; variables of the compounded
    returns are called ``compounded_*``.
    """
    steps = steps_of(tree)
    own, compounded = (
        [function(at_step(tree, step, compounded=kind)) for step in steps] for kind in (False, True)
    )

    def stacked(each: list[xr.DataTree], path: str) -> xr.Dataset:
        nodes = [{node.path: node for node in one.subtree}[path] for one in each]
        return _join_steps([node.to_dataset(inherit=False) for node in nodes], steps)

    groups = {}
    for path in own[0].groups:
        of_own = stacked(own, path)
        of_whole = stacked(compounded, path).drop_vars(_OWN_ONLY, errors="ignore")
        renamed = of_whole.rename({name: f"{_COMPOUNDED}{name}" for name in of_whole.data_vars})
        groups[path] = of_own.merge(renamed, combine_attrs="override", compat="no_conflicts")
    return tree_of(groups, own[0].attrs)


def _join_steps(each: list[xr.Dataset], steps: list[int]) -> xr.Dataset:
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
