"""A panel as a flat table with a header, so that .parquet and .csv lose nothing.

The table has one row for each (date, asset) with a value and is what a person or another
program reads. All that a table cannot hold stands in the header, as JSON: every label in
order, dtypes, attributes, and the variables that are not by (time, asset).
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.build import canonical
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError
from rvrae_pyro.names import ASSET, CHARACTERISTICS, RETURNS, TIME

FORMAT_KEY: Final = "rvrae-panel"
"""Where a file holds the header: a key of Parquet's metadata, the first line of a CSV."""

_VERSION: Final = 1
_DATE, _ASSET, _RETURN = "date", "asset", "ret"
_INFINITE: Final = {np.inf: "inf", -np.inf: "-inf"}


def to_table(panel: xr.Dataset) -> tuple[pa.Table, str]:
    """Turn a checked panel into a table and its header.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    table : pyarrow.Table
        Columns ``date``, ``asset``, ``ret``, the characteristics by name, then any other
        variable by (time, asset); a third dimension is written ``variable[label]``.
        Missing values are null.
    header : str
        JSON on one line.

    Raises
    ------
    PanelError
        If two columns would have one name.
    """
    cells = [n for n, v in panel.data_vars.items() if v.dims[:2] == (TIME, ASSET) and v.ndim <= 3]
    first = [n for n in (RETURNS, CHARACTERISTICS) if n in cells]
    cells = [*first, *(n for n in cells if n not in first)]
    keep = _rows_to_keep(panel, [str(n) for n in cells])
    rows, columns = np.nonzero(keep)
    data: dict[str, Any] = {
        _DATE: pa.array(panel[TIME].values).take(pa.array(rows)),
        _ASSET: pa.DictionaryArray.from_arrays(
            pa.array(columns.astype(np.int32)), pa.array(panel[ASSET].values.astype(object))
        ),
    }
    layout: dict[str, Any] = {}
    for name in cells:
        values = panel[name].values[keep]
        names = _column_names(panel, str(name))
        clash = [c for c in names if c in data]
        if clash:
            raise PanelError(f"`panel`: two columns would be named {first_three(clash)}. Rename.")
        flat = values.reshape(len(rows), len(names))
        data |= {c: pa.array(flat[:, k], from_pandas=True) for k, c in enumerate(names)}
        layout[str(name)] = {**_describe(panel[name]), "columns": names}
    header = {
        "version": _VERSION,
        "rows": len(rows),
        "order": [str(n) for n in panel.data_vars],
        "attrs": panel.attrs,
        "cells": layout,
        "arrays": {str(n): _encode(panel[n]) for n in panel.data_vars if n not in cells},
        "coords": {str(n): _encode(c) for n, c in panel.coords.items()},
    }
    return pa.table(data), json.dumps(header, allow_nan=False)


def _rows_to_keep(panel: xr.Dataset, names: list[str]) -> NDArray[np.bool_]:
    """Mark the cells with a value; all, where a variable has no missing value to leave out."""
    shape = panel.sizes[TIME], panel.sizes[ASSET]
    if any(panel[n].dtype.kind != "f" for n in names):
        return np.ones(shape, bool)
    keep = np.zeros(shape, bool)
    for name in names:
        missing = np.isnan(panel[name].values)
        keep |= ~(missing if missing.ndim == 2 else missing.all(axis=2))
    return keep


def _column_names(panel: xr.Dataset, name: str) -> list[str]:
    variable = panel[name]
    if name == RETURNS:
        return [_RETURN]
    if variable.ndim == 2:
        return [name]
    dim = variable.dims[2]
    labels = panel[dim].values if dim in panel.coords else np.arange(panel.sizes[dim])
    return [str(v) if name == CHARACTERISTICS else f"{name}[{v}]" for v in labels]


def _describe(array: xr.DataArray) -> dict[str, Any]:
    dtype = "str" if array.dtype.kind in "UT" else str(array.dtype)
    return {"dims": list(array.dims), "dtype": dtype, "attrs": array.attrs}


def _encode(array: xr.DataArray) -> dict[str, Any]:
    """Write an array as JSON: NaN and NaT as null, infinities as text, dates as ISO."""
    values = array.values
    flat: list[Any]
    if values.dtype.kind == "M":
        flat = [None if np.isnat(v) else str(v) for v in values.ravel()]
    elif values.dtype.kind == "f":
        flat = [None if np.isnan(v) else _INFINITE.get(v, v) for v in values.ravel().astype(float)]
        flat = [float(v) if isinstance(v, np.floating) else v for v in flat]
    elif values.dtype.kind in "UTbiu":
        flat = values.ravel().tolist()
    else:
        raise PanelError(
            f"`panel`: `{array.name}` has dtype {values.dtype}, which no table holds. Convert it "
            "to numbers, dates or strings."
        )
    return {**_describe(array), "shape": list(values.shape), "values": flat}


def _decode(entry: Mapping[str, Any]) -> xr.Variable:
    values = entry["values"]
    if entry["dtype"].startswith("datetime64"):
        flat = np.array(["NaT" if v is None else v for v in values], dtype=entry["dtype"])
    elif entry["dtype"].startswith("float"):
        flat = np.array([np.nan if v is None else float(v) for v in values]).astype(entry["dtype"])
    else:
        flat = np.array(values, dtype=entry["dtype"])
    return xr.Variable(entry["dims"], flat.reshape(entry["shape"]), attrs=entry["attrs"])


def from_table(table: pa.Table, header: str) -> xr.Dataset:
    """Turn a table and its header back into the panel, exactly.

    Parameters
    ----------
    table : pyarrow.Table
        Its rows may have been reordered.
    header : str
        As ``to_table`` wrote it.

    Returns
    -------
    Dataset
        Unchecked.

    Raises
    ------
    PanelError
        If the header is damaged or of another version, or does not fit the table.
    """
    try:
        content = json.loads(header)
        if content["version"] != _VERSION:
            raise PanelError(
                f"the header has version {content['version']}; this package reads {_VERSION}. "
                "Write the file again with this version."
            )
        if content["rows"] != table.num_rows:
            raise PanelError(
                f"the header tells of {content['rows']} rows; there are {table.num_rows}. The file "
                "is damaged or was edited: write it again, or delete the header."
            )
        coords = {name: _decode(entry) for name, entry in content["coords"].items()}
        variables = {name: _decode(entry) for name, entry in content["arrays"].items()}
        layout = content["cells"]
        cell = _cells(table, coords)
        for name, entry in layout.items():
            variables[name] = _spread(table, entry, cell, coords)
        variables = {name: variables[name] for name in content["order"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, PanelError):
            raise
        raise PanelError(f"header and table do not belong together: {error!r}.") from error
    return canonical(xr.Dataset(variables, coords=coords, attrs=content["attrs"]))


def _cells(
    table: pa.Table, coords: Mapping[str, xr.Variable]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the row and column of the grid that each row of the table fills."""
    dates = pd.DatetimeIndex(table.column(_DATE).to_pandas()).as_unit("ns")
    assets = table.column(_ASSET).cast(pa.string()).to_pandas()
    rows = pd.DatetimeIndex(coords[TIME].values).get_indexer(dates)
    columns = pd.Index(coords[ASSET].values).get_indexer(pd.Index(assets))
    unknown = np.flatnonzero((rows < 0) | (columns < 0))
    if len(unknown):
        cells = [f"({dates[i]:%Y-%m-%d}, {assets[i]})" for i in unknown[:3]]
        raise PanelError(
            f"rows with labels that the header does not know: {first_three(cells, len(unknown))}. "
            "Delete the header to have the table read as it is."
        )
    count = np.bincount(rows * len(coords[ASSET]) + columns)
    repeated = np.flatnonzero(count > 1)
    if len(repeated):
        days = coords[TIME].values[repeated[:3] // len(coords[ASSET])].astype("datetime64[D]")
        names = coords[ASSET].values[repeated[:3] % len(coords[ASSET])]
        cells = [f"({d}, {a})" for d, a in zip(days, names, strict=True)]
        raise PanelError(f"repeated (date, asset): {first_three(cells, len(repeated))}.")
    return rows, columns


def _spread(
    table: pa.Table,
    entry: Mapping[str, Any],
    cell: tuple[NDArray[np.intp], NDArray[np.intp]],
    coords: Mapping[str, xr.Variable],
) -> xr.Variable:
    dtype, names = np.dtype(entry["dtype"]), entry["columns"]
    empty: Any = np.nan if dtype.kind == "f" else 0
    grid = np.full((len(coords[TIME]), len(coords[ASSET]), len(names)), empty, dtype)
    for k, name in enumerate(names):
        column = table.column(name)
        if dtype.kind == "f":
            column = column.cast(pa.float64() if column.type != pa.float32() else pa.float32())
        grid[cell[0], cell[1], k] = column.to_numpy()
    shape = grid if len(entry["dims"]) == 3 else grid[:, :, 0]
    return xr.Variable(entry["dims"], shape, attrs=entry["attrs"])
