"""Trees on disk: netCDF or zarr, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.atomic import replacing
from rvrae_pyro.data.io import check_replaceable
from rvrae_pyro.errors import CheckpointError, ConfigError

__all__ = ["encode_attrs", "read_tree", "write_tree"]

_SUFFIXES: Final = (".nc", ".zarr")


def encode_attrs(attrs: Mapping[Any, object]) -> dict[str, str | int | float]:
    """Keep text and numbers; turn everything else (None, bool, nested) into JSON text."""
    encoded: dict[str, str | int | float] = {}
    for name, value in attrs.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, str | int | float) and not isinstance(plain, bool):
            encoded[str(name)] = plain
        else:
            encoded[str(name)] = json.dumps(plain, sort_keys=True, default=_plain)
    return encoded


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def write_tree(tree: xr.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a tree to a netCDF file or a zarr folder, whole or not at all.

    Parameters
    ----------
    tree : DataTree
        Lazily loaded draws are streamed.
    path : path
        Ending in ``.nc`` or ``.zarr``; an existing one is replaced. Written beside its place
        first, then moved there, so that no reader ever sees half of it.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    ConfigError
        For another suffix, a folder that does not exist, holds something else than a tree, or
        cannot be written.
    """
    target = _check_path(path)
    if not isinstance(tree, xr.DataTree):
        raise ConfigError(f"`tree` must be an xarray.DataTree; got {type(tree).__name__}.")
    if not target.parent.is_dir():
        raise ConfigError(f"`path` {str(target)!r} is in a folder that does not exist: make it.")
    zarr = target.suffix == ".zarr"
    if zarr:
        check_replaceable(target, "tree", "path", ConfigError)
    portable = tree.map_over_datasets(_portable_zarr if zarr else _portable_netcdf)
    portable.attrs = encode_attrs(tree.attrs)
    try:
        with replacing(target) as new:
            if zarr:
                portable.to_zarr(new, consolidated=False)  # not a thing of zarr's version 3
            else:
                portable.to_netcdf(new, engine="netcdf4")
    except (OSError, RuntimeError) as error:  # netCDF tells of a full disk as a RuntimeError
        raise ConfigError(f"`path` {str(target)!r} cannot be written: {error}.") from error
    return target


def _check_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix not in _SUFFIXES:
        raise ConfigError(f"`path` must end in {' or '.join(_SUFFIXES)}; got {str(target)!r}.")
    return target


def _portable_zarr(dataset: xr.Dataset) -> xr.Dataset:
    # fixed-width text has no place in the specification of zarr's third version
    return _portable(dataset, np.dtypes.StringDType())


def _portable_netcdf(dataset: xr.Dataset) -> xr.Dataset:
    return _portable(dataset, np.dtype(object))


def _portable(dataset: xr.Dataset, text: Any) -> xr.Dataset:
    """Drop what an earlier file left behind; text and attributes as the format knows them."""
    clean = dataset.drop_encoding()
    for name in [name for name, each in clean.variables.items() if each.dtype.kind in "UT"]:
        clean = clean.assign({name: _as_text(clean[name], text)})
    clean.attrs = encode_attrs(dataset.attrs)
    for name in clean.variables:
        clean[name].attrs = encode_attrs(dataset[name].attrs)
    return clean


def _as_text(array: xr.DataArray, dtype: Any) -> xr.Variable:
    values = np.array(array.values.tolist(), dtype=dtype)
    return xr.Variable(array.dims, values, array.attrs)


def read_tree(path: str | os.PathLike[str], *, load: bool = True) -> xr.DataTree:
    """Read a tree that :func:`write_tree` wrote, or any netCDF or zarr tree.

    Parameters
    ----------
    path : path
        Ending in ``.nc`` or ``.zarr``.
    load : bool
        Read everything now and close the file. Otherwise draws are read when used, from a
        file that stays open until ``tree.close()``.

    Returns
    -------
    DataTree
        Text as fixed-width unicode, dates in nanoseconds, whatever the format.

    Raises
    ------
    ConfigError
        For another suffix.
    CheckpointError
        If it is missing, damaged or of another format.
    """
    source = _check_path(path)
    if not source.exists():
        raise CheckpointError(f"There is no {str(source)!r}; check the path.")
    try:
        if source.suffix == ".zarr":
            tree = xr.open_datatree(source, engine="zarr", consolidated=False)
        else:
            tree = xr.open_datatree(source, engine="netcdf4")
        if load:
            tree.load()
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{str(source)!r} cannot be read as a {source.suffix} tree: {error}. "
            "It is damaged or of another format; write it anew."
        ) from error
    if load:
        tree.close()
    attrs = dict(tree.attrs)
    tree = tree.map_over_datasets(_canonical)
    tree.attrs = attrs
    return tree


def _canonical(dataset: xr.Dataset) -> xr.Dataset:
    """Fixed-width text and nanoseconds for every coordinate, in whatever form it was kept."""
    for name, coordinate in dataset.coords.items():
        if coordinate.dtype.kind in "TO":
            dataset = dataset.assign_coords({name: _as_text(coordinate, np.dtype(str))})
        elif coordinate.dtype.kind == "M" and coordinate.dtype != np.dtype("datetime64[ns]"):
            dataset = dataset.assign_coords({name: coordinate.astype("datetime64[ns]")})
    dims = dataset.attrs.get("sample_dims")
    if isinstance(dims, str):  # the one list that ArviZ itself reads back from attributes
        dataset.attrs["sample_dims"] = json.loads(dims)
    return dataset
