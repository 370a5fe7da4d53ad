"""Several fits as chains: stacked arrays, aligned factors, joined draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.names import CHAIN, FACTOR, FACTORS
from rvrae_pyro.predictive.storage import Block, Drawing

REFERENCE: Final = "reference"
"""Dim of the factors of the reference."""


def rotate(values: xr.DataArray, rotation: xr.DataArray, *, loadings: bool = False) -> xr.DataArray:
    """Apply the rotations of :func:`rvrae_pyro.diagnostics.align` to factors or loadings.

    Parameters
    ----------
    values : DataArray (..., factor)
        Factors f, which become ``f A``; or loadings B, which become ``B A^-T``. With a dim
        ``chain`` where ``rotation`` has one.
    rotation : DataArray (chain, factor, reference) or (factor, reference)
    loadings : bool

    Returns
    -------
    DataArray
        Dims and order of ``values``.

    Raises
    ------
    ShapeError
        If ``values`` lacks a dim of the rotation.
    """
    needed = [dim for dim in rotation.dims if dim != REFERENCE]
    absent = [dim for dim in needed if dim not in values.dims]
    if absent:
        raise ShapeError(f"`values` must have dims {needed}; got {values.dims}, without {absent}.")
    matrix = rotation.transpose(..., FACTOR, REFERENCE)
    if loadings:
        inverse = np.linalg.inv(matrix.to_numpy()).swapaxes(-1, -2)
        matrix = matrix.copy(data=inverse)
    turned: xr.DataArray = xr.dot(values, matrix, dim=FACTOR).rename({REFERENCE: FACTOR})
    turned = turned.transpose(*values.dims).astype(values.dtype)
    turned.attrs, turned.name = dict(values.attrs), values.name
    return turned


def stack_arrays(arrays: Sequence[xr.DataArray]) -> xr.DataArray:
    """Concatenate one array per chain along ``chain``, numbered from 0."""
    joined = xr.concat(arrays, CHAIN, join="exact", combine_attrs="override")
    return joined.assign_coords({CHAIN: np.arange(joined.sizes[CHAIN])})


def stack_datasets(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Concatenate all variables of one dataset per chain along ``chain``."""
    names = datasets[0].data_vars
    return xr.Dataset({name: stack_arrays([each[name] for each in datasets]) for name in names})


def join_drawings(drawings: Sequence[Drawing], rotation: xr.DataArray | None) -> Drawing:
    """Join draws of the same months, one per chain, block by block, in the reference's factors.

    Without a ``rotation`` the single chain of a fit.
    """
    if rotation is None:
        return drawings[0]

    def blocks(done: int) -> Iterator[Block]:
        for parts in zip(*(one.blocks(done) for one in drawings), strict=True):
            yield {
                name: _join_group(name, [part[name] for part in parts], rotation)
                for name in parts[0]
            }

    identity = {
        "members": [dict(one.identity) for one in drawings],
        "rotation": rotation.to_numpy().tolist(),
    }
    return Drawing(blocks, drawings[0].attrs, identity)


def _join_group(name: str, each: Sequence[xr.Dataset], rotation: xr.DataArray) -> xr.Dataset:
    """Join one group: draws and constants by chain, observed data once."""
    if name == "observed_data":
        return each[0]
    variables = {}
    for key in each[0].data_vars:
        joined = stack_arrays([one[key] for one in each])
        if key == FACTORS and FACTOR in joined.dims:  # a density by month in `log_prior`
            joined = rotate(joined, rotation)
        elif key in ("beta", "beta_by_weights"):
            joined = rotate(joined, rotation, loadings=True)
        variables[key] = joined
    return xr.Dataset(variables, attrs=each[0].attrs)
