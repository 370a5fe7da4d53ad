"""Trees on disk: files written atomically, and draws streamed block by block and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from rvrae_pyro.atomic import only_run, put, remove, replacing, write_bytes
from rvrae_pyro.data.io import check_replaceable
from rvrae_pyro.errors import CheckpointError, ConfigError
from rvrae_pyro.names import OBS, TIME

Block = Mapping[str, xr.Dataset]
"""Groups of a few months; the first dimension of ``GROWING`` that a group has is appended to."""

GROWING = (OBS, TIME)

_RECORD = "record.json"


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws that come a few months at a time."""

    # yields consecutive blocks, all but the first n for an argument n; the same at every call
    blocks: Callable[[int], Iterator[Block]]
    attrs: Mapping[str, str | int]  # attributes of the tree
    # what else determines the draws, as JSON types: months, their number, weights. An interrupted
    # run is resumed only if both match
    identity: Mapping[str, object]


def tree_of(groups: Mapping[str, Any], attrs: Mapping[Any, Any]) -> xr.DataTree:
    """Make a tree of groups, with attributes."""
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree


def assemble(drawing: Drawing, out: str | os.PathLike[str] | None) -> xr.DataTree:
    """Join blocks of months to one tree, in memory or in a ``.zarr`` folder, opened lazily.

    Months are written to a hidden folder next to ``out``, which takes its place at the end. After a
    kill, an interrupt or an I/O error it stays, and the same call resumes after the last complete
    block, to the same bits; other draws start again. Any other error removes it.

    Raises
    ------
    ConfigError
        If ``out`` is not a .zarr path, holds something else than draws, or cannot be written.
    CheckpointError
        If another run writes there.
    """
    if out is None:
        return _in_memory(drawing)
    path = Path(out)
    if path.suffix != ".zarr":
        raise ConfigError(f"`out` must end in .zarr; got {str(path)!r}.")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"`out` {str(path)!r} is a file, not a folder; choose another name.")
    check_replaceable(path, "tree", "out", ConfigError)
    folder = path.with_name(f".{path.stem}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_run(folder):
            _to_disk(drawing, folder, path)
    except OSError as error:
        kept = ""
        if (folder / _RECORD).exists():
            kept = " Months that are done are kept: make room and repeat the call."
        raise ConfigError(f"`out` {str(path)!r} cannot be written: {error}.{kept}") from error
    finally:
        with suppress(OSError):
            folder.rmdir()  # raises if there is something to resume
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def _growing(dataset: xr.Dataset) -> str | None:
    return next((dim for dim in GROWING if dim in dataset.dims), None)


def _in_memory(drawing: Drawing) -> xr.DataTree:
    parts: dict[str, list[xr.Dataset]] = {}
    for block in drawing.blocks(0):
        for group, dataset in block.items():
            parts.setdefault(group, []).append(dataset)
    groups = {}
    for group, datasets in parts.items():
        dim = _growing(datasets[0])
        if dim is None or len(datasets) == 1:
            groups[group] = datasets[0]
        else:
            groups[group] = xr.concat(datasets, dim, data_vars="minimal", join="exact")
    return tree_of(groups, drawing.attrs)


def _to_disk(drawing: Drawing, folder: Path, path: Path) -> None:
    """Write the remaining blocks of a drawing to a folder, and put it in place."""
    store, record = folder / "draws.zarr", folder / _RECORD
    try:
        known = {"attrs": dict(drawing.attrs), **drawing.identity}
        sizes, done = _left_over(store, record, json.loads(json.dumps(known)))
        if not done:
            remove(record)
            remove(store)
            xr.Dataset(attrs=dict(drawing.attrs)).to_zarr(store, consolidated=False)
        for number, block in enumerate(drawing.blocks(done), done + 1):
            for group, dataset in block.items():
                _append(store, group, dataset, sizes)
            content = json.dumps({"identity": known, "done": number, "sizes": sizes})
            write_bytes(record, content.encode())
        put(store, path)
        remove(record)
    except Exception as error:  # raised again: it only decides what stays
        if not (isinstance(error, OSError) and record.exists()):
            remove(record)
            remove(store)
        raise


def _append(store: Path, group: str, dataset: xr.Dataset, sizes: dict[str, int]) -> None:
    """Append a group of a block; ``sizes`` has the length of each."""
    dim, plain = _growing(dataset), _fixed_width(dataset)
    if group not in sizes:
        plain.to_zarr(store, group=group, mode="a", consolidated=False)
    elif dim is not None:
        plain.to_zarr(store, group=group, append_dim=dim, consolidated=False)
    sizes[group] = sizes.get(group, 0) + (0 if dim is None else dataset.sizes[dim])


def _left_over(store: Path, record: Path, known: object) -> tuple[dict[str, int], int]:
    """Sizes of the groups, and number of complete blocks, that an earlier run of the draws left.

    An incomplete block is cut off. Nothing is taken from other draws or a damaged folder.
    """
    import zarr

    try:
        kept = json.loads(record.read_text())
        if kept["identity"] != known:
            return {}, 0
        sizes = {str(group): int(size) for group, size in kept["sizes"].items()}
        for group, size in sizes.items():
            for _, array in zarr.open_group(store, path=group, mode="r+").arrays():
                _cut(array, size)
        return sizes, int(kept["done"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, 0


def _cut(array: Any, size: int) -> None:
    """Shorten an array of a store to ``size`` along the dimension that it grows along, if any."""
    dims = array.metadata.dimension_names or ()
    dim = next((dim for dim in GROWING if dim in dims), None)
    if dim is None:
        return
    axis = dims.index(dim)
    if array.shape[axis] < size:
        raise ValueError(f"{array.name} is shorter than its record says")
    array.resize(tuple(size if i == axis else n for i, n in enumerate(array.shape)))


def _fixed_width(dataset: xr.Dataset) -> xr.Dataset:
    """Give text coordinates zarr's own string type, which appends text of any width."""
    text = {
        name: (coord.dims, coord.to_numpy().astype(np.dtypes.StringDType()))
        for name, coord in dataset.coords.items()
        if coord.dtype.kind in "UO"
    }
    return dataset.assign_coords(text)


_SUFFIXES: Final = (".nc", ".zarr")


def encode_attrs(attrs: Mapping[Any, object]) -> dict[str, str | int | float]:
    """Keep text and numbers; turn everything else (None, bool, nested) into JSON text."""
    encoded: dict[str, str | int | float] = {}
    for name, value in attrs.items():
        plain = value.item() if isinstance(value, np.generic) else value
        known = isinstance(plain, str | int | float) and not isinstance(plain, bool)
        encoded[str(name)] = plain if known else to_json(plain)  # type: ignore[assignment]
    return encoded


def to_json(value: object) -> str:
    """JSON text of mappings, dataclasses, arrays and plain values, keys sorted."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: object) -> object:
    """Turn what JSON does not know into what it does."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def write_tree(tree: xr.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a tree to a netCDF file or a zarr folder, atomically.

    Parameters
    ----------
    tree : DataTree
        Lazily loaded draws are streamed.
    path : path
        Ending in ``.nc`` or ``.zarr``; an existing one is replaced.

    Returns
    -------
    Path

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
    # fixed-width text has no place in the specification of zarr's third version
    text = np.dtypes.StringDType() if zarr else np.dtype(object)
    portable = tree.map_over_datasets(lambda dataset: _portable(dataset, text))
    portable.attrs = encode_attrs(tree.attrs)
    try:
        with replacing(target) as new:
            if zarr:
                portable.to_zarr(new, consolidated=False)  # not a thing of zarr's version 3
            else:
                portable.to_netcdf(new, engine="netcdf4")
    except (OSError, RuntimeError) as error:  # netCDF raises RuntimeError on a full disk
        raise ConfigError(f"`path` {str(target)!r} cannot be written: {error}.") from error
    return target


def _check_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix not in _SUFFIXES:
        raise ConfigError(f"`path` must end in {' or '.join(_SUFFIXES)}; got {str(target)!r}.")
    return target


def _portable(dataset: xr.Dataset, text: Any) -> xr.Dataset:
    """Drop the encoding of earlier files; text and attributes as the format knows them."""
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
        Text as fixed-width unicode, dates in nanoseconds.

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
            "It is damaged or of another format; write it again."
        ) from error
    if load:
        tree.close()
    attrs = dict(tree.attrs)
    tree = tree.map_over_datasets(_canonical)
    tree.attrs = attrs
    return tree


def _canonical(dataset: xr.Dataset) -> xr.Dataset:
    """Fixed-width text and nanoseconds for every coordinate."""
    for name, coordinate in dataset.coords.items():
        if coordinate.dtype.kind in "TO":
            dataset = dataset.assign_coords({name: _as_text(coordinate, np.dtype(str))})
        elif coordinate.dtype.kind == "M" and coordinate.dtype != np.dtype("datetime64[ns]"):
            dataset = dataset.assign_coords({name: coordinate.astype("datetime64[ns]")})
    dims = dataset.attrs.get("sample_dims")
    if isinstance(dims, str):  # the one list that ArviZ itself reads back from attributes
        dataset.attrs["sample_dims"] = json.loads(dims)
    return dataset
