"""Assembling draws month by month, in memory or streamed to disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from rvrae_pyro.atomic import replacing
from rvrae_pyro.data.stores import check_replaceable
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import OBS, TIME

__all__ = ["assemble"]

Block = Mapping[str, xr.Dataset]
"""Groups of a few months; the first dimension of ``GROWING`` that a group has is appended to."""

GROWING = (OBS, TIME)


def assemble(
    blocks: Iterable[Block], attrs: Mapping[str, str | int], out: str | os.PathLike[str] | None
) -> xr.DataTree:
    """Join blocks of months to one tree.

    Parameters
    ----------
    blocks : iterable of mapping from group name to Dataset
        Consecutive months; consumed one at a time.
    attrs : mapping
        Attributes of the tree.
    out : path or None
        A ``.zarr`` folder to stream to; the tree is then opened lazily from it. None keeps
        everything in memory.

    Raises
    ------
    ConfigError
        If ``out`` is not a .zarr path, holds something else than draws, or cannot be written.
    """
    if out is None:
        return _in_memory(blocks, attrs)
    path = Path(out)
    if path.suffix != ".zarr":
        raise ConfigError(f"`out` must end in .zarr; got {str(path)!r}.")
    check_replaceable(path, "tree", "out", ConfigError)
    try:
        with replacing(path) as temporary:
            _stream(blocks, attrs, temporary)
    except OSError as error:
        raise ConfigError(f"`out` {str(path)!r} cannot be written: {error}.") from error
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def _growing(dataset: xr.Dataset) -> str | None:
    return next((dim for dim in GROWING if dim in dataset.dims), None)


def _in_memory(blocks: Iterable[Block], attrs: Mapping[str, str | int]) -> xr.DataTree:
    parts: dict[str, list[xr.Dataset]] = {}
    for block in blocks:
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
    tree.attrs.update(attrs)
    return tree


def _stream(blocks: Iterable[Block], attrs: Mapping[str, str | int], path: Path) -> None:
    xr.Dataset(attrs=dict(attrs)).to_zarr(path, consolidated=False)
    seen: set[str] = set()
    for block in blocks:
        for group, dataset in block.items():
            dim = _growing(dataset)
            plain = _fixed_width(dataset)
            if group not in seen:
                plain.to_zarr(path, group=group, mode="a", consolidated=False)
            elif dim is not None:
                plain.to_zarr(path, group=group, append_dim=dim, consolidated=False)
            seen.add(group)


def _fixed_width(dataset: xr.Dataset) -> xr.Dataset:
    """Give text coordinates zarr's own string type, which appends whatever its width."""
    text = {
        name: (coord.dims, coord.to_numpy().astype(np.dtypes.StringDType()))
        for name, coord in dataset.coords.items()
        if coord.dtype.kind in "UO"
    }
    return dataset.assign_coords(text)
