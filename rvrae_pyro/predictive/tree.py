"""Arrays of draws, labelled group by group in the ArviZ schema."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import arviz_base as azb
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    CHARACTERISTIC,
    CHARACTERISTICS,
    CONTEXT,
    DECODED_FACTORS,
    FACTOR,
    FACTORS,
    FEATURE,
    LOG_VARIANCE,
    LOG_VOLATILITY,
    OBS,
    REGIME,
    REGIME_PROBABILITY,
    RETURNS,
    TIME,
    WEIGHT,
)
from rvrae_pyro.predictive.storage import encode_attrs, tree_of

Array = NDArray[Any]

LATENTS: Final = "latents"

# Dims after chain and draw, for every name of the project; the first of fitting number is taken.
DIMS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    RETURNS: ((OBS,), (TIME, ASSET)),
    FACTORS: ((TIME, FACTOR),),
    DECODED_FACTORS: ((TIME, FACTOR),),
    LATENTS: ((TIME, FACTOR),),
    LOG_VARIANCE: ((TIME, FACTOR),),
    LOG_VOLATILITY: ((TIME,),),
    REGIME_PROBABILITY: ((TIME, REGIME),),
    "beta": ((TIME, ASSET, FACTOR),),
    "alpha": ((TIME, ASSET),),
    "idio_scale": ((TIME, ASSET),),
    "listed": ((TIME, ASSET),),
    WEIGHT: ((TIME, ASSET),),
    CHARACTERISTICS: ((TIME, ASSET, CHARACTERISTIC),),
    CONTEXT: ((TIME, FEATURE),),
    "lp": ((), (TIME,)),
    "log_q": ((), (TIME,)),
}
# The plates of the model: their place in a site is known, counted from its event dims.
PLATES: Final = (TIME, ASSET)
_OVER_CELLS: Final = ("posterior_predictive", "log_likelihood", "observed_data")


def build_tree(
    groups: Mapping[str, Mapping[str, ArrayLike] | xr.Dataset],
    *,
    coords: Mapping[str, ArrayLike],
    observed: ArrayLike | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, object] | None = None,
) -> xr.DataTree:
    """Label arrays group by group and join them to one tree.

    Parameters
    ----------
    groups : mapping from group name to mapping from variable to array
        Group names of the ArviZ schema. Arrays start with (chain, draw), save in groups
        with ``data`` in their name, which have no sample dims or ``chain`` alone (members
        that differ). A Dataset is taken as it is, lazily loaded or not.
    coords : mapping from dim to labels
        At least ``time`` and ``asset`` where they occur; ``factor`` counts from 1 if absent.
    observed : bool array of shape (n_times, n_assets), optional
        Cells with a return. ``returns`` in ``posterior_predictive``, ``log_likelihood`` and
        ``observed_data`` then run along ``obs``, month by month, with coordinates ``time`` and
        ``asset`` along it; arrays that end in (n_times, n_assets) are reduced to these cells.
    dims : mapping from variable to dims, optional
        Dims after the sample dims, for variables that the package does not know.
    attrs : mapping, optional
        Attributes of the tree; other values than text and numbers become JSON.

    Returns
    -------
    DataTree
        ArviZ schema. No ``created_at``: the same arrays give the same tree.

    Raises
    ------
    ShapeError
        If an array does not have the size of its labels, or its dims are unknown.

    Notes
    -----
    ArviZ drops no missing cells: a NaN in ``log_likelihood`` makes its elpd NaN, one in
    ``observed_data`` its probability integral transform 0. Hence ``obs``.
    """
    mask = None if observed is None else np.asarray(to_numpy(observed), dtype=bool)
    labels = {name: to_numpy(values) for name, values in coords.items()}
    known = {**DIMS, **{name: (tuple(each),) for name, each in (dims or {}).items()}}
    if mask is not None:
        _check_mask(mask, labels)
    nodes = {}
    for group, variables in groups.items():
        if isinstance(variables, xr.Dataset):
            nodes[group] = variables
            continue
        arrays = {name: to_numpy(values) for name, values in variables.items()}
        if mask is not None and group in _OVER_CELLS:
            wide = 2 if "data" in group else 4
            arrays = {n: x[..., mask] if _is_wide(x, mask, wide) else x for n, x in arrays.items()}
        nodes[group] = _dataset(group, arrays, known, labels, mask)
    return tree_of(nodes, encode_attrs(attrs or {}))


def label_months(name: str, values: Array) -> tuple[tuple[str, ...], Array]:
    """Dims from ``time`` on, and values, of a quantity (..., n_times, size) of the factor prior.

    A user-defined one has the dim ``<name>_dim``.
    """
    dims = DIMS.get(name, ((TIME, f"{name}_dim"),))[0]
    return dims, values if len(dims) == 2 else values.squeeze(-1)


def to_numpy(values: Any) -> Array:
    """Array of anything, a tensor on any device included; torch is not imported."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def _check_mask(mask: Array, labels: Mapping[str, Array]) -> None:
    expected = tuple(len(labels[dim]) for dim in PLATES if dim in labels)
    if mask.shape != expected:
        raise ShapeError(
            f"`observed` must have shape (n_times, n_assets) = {expected}, as in `coords`; "
            f"got {mask.shape}."
        )
    if not mask.any():
        raise ShapeError("`observed` must mark at least one cell; pass None where there is none.")


def _is_wide(values: Array, mask: Array, n_dims: int) -> bool:
    return values.ndim == n_dims and values.shape[-2:] == mask.shape


def _dataset(
    group: str,
    arrays: Mapping[str, Array],
    known: Mapping[str, tuple[tuple[str, ...], ...]],
    labels: Mapping[str, Array],
    mask: Array | None,
) -> xr.Dataset:
    """One group through ArviZ, dims and coordinates given for each variable."""
    constant = "data" in group
    coords = dict(labels)
    if mask is not None:
        coords[OBS] = np.arange(int(mask.sum()))
    found: dict[str, list[str]] = {}
    for name, values in arrays.items():
        where = f"{group}/{name}"
        if not constant and values.ndim < 2:
            raise ShapeError(f"`{where}` must start with (chain, draw); got shape {values.shape}.")
        inner = values.shape if constant else values.shape[2:]
        found[name] = _find_dims(where, inner, known.get(name), constant)
        for dim, size in zip(found[name], inner, strict=True):
            if dim == FACTOR:
                coords.setdefault(FACTOR, np.arange(1, size + 1))
            if dim in coords and len(coords[dim]) != size:
                raise ShapeError(
                    f"`{where}` has shape {values.shape}: its dim {dim!r} is {size} long, but "
                    f"there are {len(coords[dim])} labels for it."
                )
    used = {dim for each in found.values() for dim in each}
    coords = {dim: values for dim, values in coords.items() if dim in used}
    tree = azb.from_dict(
        {group: dict(arrays)},
        dims=found,
        pred_dims=found,
        coords=coords,
        pred_coords=coords,
        check_conventions=False,
    )
    dataset: xr.Dataset = tree[group].to_dataset()
    for name in ("created_at", "sample_dims"):  # not repeatable; a list, and inferred anyway
        dataset.attrs.pop(name, None)
    if OBS in used and mask is not None:
        time, asset = np.nonzero(mask)
        cells = {TIME: (OBS, labels[TIME][time]), ASSET: (OBS, labels[ASSET][asset])}
        dataset = dataset.assign_coords(cells)
    return dataset


def _find_dims(
    where: str, shape: tuple[int, ...], known: tuple[tuple[str, ...], ...] | None, constant: bool
) -> list[str]:
    """Dims of an array by its name and number of dims."""
    name = where.split("/")[-1]
    if known is None:
        return [f"{name}_dim_{i}" for i in range(len(shape))]
    whole = [*known, *((CHAIN, *dims) for dims in known if constant)]
    for dims in whole:
        if len(dims) == len(shape):
            return list(dims)
    choices = " or ".join(str(dims) for dims in known)
    raise ShapeError(
        f"`{where}` must have dims {choices}{'' if constant else ' after (chain, draw)'}; got "
        f"{len(shape)} of sizes {shape}. Name other dims through `dims`."
    )
