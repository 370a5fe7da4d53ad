"""Assembling draws month by month, in memory or streamed to disk, where a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro.atomic import only_run, put, remove, write_bytes
from rvrae_pyro.data.io import check_replaceable
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import OBS, TIME

__all__ = ["Block", "Drawing", "assemble"]

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
