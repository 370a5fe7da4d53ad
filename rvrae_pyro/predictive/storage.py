"""Trees on disk: files written atomically, and draws streamed block by block and resumed."""

from __future__ import annotations

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
    """Draws that come a few months at a time.

    Attributes
    ----------
    blocks : callable
        Yields consecutive blocks, all but the first n for an argument n. The same blocks
        whenever it is called.
    attrs : mapping
        Attributes of the tree.
    identity : mapping
        Whatever else the draws hang on, as JSON types: months, their number, weights. What an
        earlier run left half done is gone on with only if both are its own.
    """

    blocks: Callable[[int], Iterator[Block]]
    attrs: Mapping[str, str | int]
    identity: Mapping[str, object]


def assemble(drawing: Drawing, out: str | os.PathLike[str] | None) -> xr.DataTree:
    """Join blocks of months to one tree.

    Parameters
    ----------
    drawing : Drawing
    out : path or None
        A ``.zarr`` folder to stream to; the tree is then opened lazily from it. None keeps
        everything in memory.

    Raises
    ------
    ConfigError
        If ``out`` is not a .zarr path, holds something else than draws, or cannot be written.
    CheckpointError
        If another run writes there.

    Notes
    -----
    Months are written to a hidden folder beside ``out``, which takes its place at the end. A
    run that was killed or interrupted leaves it behind; the same one then goes on after the
    last block that was complete, to the same bits, and another one begins anew. So it is where
    the disk refuses; any other error leaves nothing behind.
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
            kept = " Months that are done are kept: make room, and the same call goes on."
        raise ConfigError(f"`out` {str(path)!r} cannot be written: {error}.{kept}") from error
    finally:
        with suppress(OSError):
            folder.rmdir()  # which a folder with something to go on with refuses
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
    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(drawing.attrs)
    return tree


def _to_disk(drawing: Drawing, folder: Path, path: Path) -> None:
    """Write what is still to be written of a drawing to a folder, and then put it in place."""
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
    """Write a group of a block behind those before it; ``sizes`` says how long each one is."""
    dim, plain = _growing(dataset), _fixed_width(dataset)
    if group not in sizes:
        plain.to_zarr(store, group=group, mode="a", consolidated=False)
    elif dim is not None:
        plain.to_zarr(store, group=group, append_dim=dim, consolidated=False)
    sizes[group] = sizes.get(group, 0) + (0 if dim is None else dataset.sizes[dim])


def _left_over(store: Path, record: Path, known: object) -> tuple[dict[str, int], int]:
    """Sizes of the groups, and number of blocks, that an earlier run of the same draws left.

    What it wrote of a further block is cut off. Nothing is taken over from a run of other draws,
    or where the disk does not hold what the record says.
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
    """Give text coordinates zarr's own string type, which appends whatever its width."""
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
