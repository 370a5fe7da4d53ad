"""Panels in files: .parquet, .csv, .nc and .zarr, exact in both directions.

Tables hold one row for each (date, asset) with a value. Everything that a table cannot hold is in
its header, as JSON: all labels in order, dtypes, attributes, and variables that are not by
(time, asset).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.atomic import replacing
from rvrae_pyro.data.build import canonical
from rvrae_pyro.data.chunks import is_lazy
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.plain_tables import read_plain
from rvrae_pyro.data.validation import check_panel, first_three
from rvrae_pyro.errors import PanelError, RvraeError
from rvrae_pyro.names import ASSET, CHARACTERISTICS, RETURNS, TIME

FORMAT_KEY: Final = "rvrae-panel"
"""Place of the header in a file: a key of Parquet's metadata, the first line of a CSV."""

_CSV_MARK: Final = f"# {FORMAT_KEY} "
_JSON_MARK: Final = "json:"
# errors of the readers and writers below for damaged files, full disks and bad values
_FILE_ERRORS: Final = (OSError, RuntimeError, ValueError, EOFError)

_VERSION: Final = 1
_DATE, _ASSET, _RETURN = "date", "asset", "ret"
_INFINITE: Final = {np.inf: "inf", -np.inf: "-inf"}
_CALLED: Final = {"panel": "a panel", "tree": "draws"}
_OWN: Final = {"zarr.json", ".zgroup", ".zattrs", ".zmetadata"}
"""Files of zarr itself, in either version of its format."""


def read_panel(
    path: str | os.PathLike[str], *, dayfirst: bool | None = None, date_format: str | None = None
) -> xr.Dataset:
    """Read a panel from a file; the suffix gives its kind.

    Parameters
    ----------
    path : str or path
        ``.parquet``, ``.csv``, ``.nc`` or ``.zarr``. A file of ``write_panel`` gives back the
        same panel. Any other table is read by ``from_frame`` with its defaults: columns
        ``date``, ``asset`` and ``ret``. Ids and labels are taken as they are written: "NA" is a
        ticker, or a country.
    dayfirst, date_format
        Reading of text dates in other tables; see ``from_frame``.

    Returns
    -------
    Dataset
        Checked by ``check_panel``. In memory, but for the characteristics of a ``.zarr`` panel
        where dask is installed (extra ``scale``): they stay on disk until they are read, and
        ``rank_characteristics``, ``managed_portfolios``, ``rv.fit`` and ``Fit.forecast`` take
        them piece by piece.

    Raises
    ------
    PanelError
        If the file is missing, damaged, of an unknown suffix, or holds no valid panel.

    Warns
    -----
    RvraeWarning
        If a table does not state that its returns are excess returns.
    """
    path = Path(path)
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".nc": _read_netcdf}
    read = _choose(path, {**readers, ".zarr": _read_zarr})
    folder = path.suffix.lower() == ".zarr"
    if not (path.is_dir() if folder else path.is_file()):
        what = "does not exist"
        if path.exists():
            what = "is a file" if folder else "is a folder"
        raise PanelError(f"cannot read {path}: it {what}. Check the path.")
    try:
        reading = {"dayfirst": dayfirst, "date_format": date_format}
        panel: xr.Dataset = read(path, reading)
        check_panel(panel, returns_required=False)
    except PanelError as error:
        if str(error).startswith(f"cannot read {path}"):
            raise
        raise PanelError(f"{path}: {error}") from error
    except _FILE_ERRORS as error:
        raise PanelError(
            f"cannot read {path}: it is damaged or no {path.suffix} file ({_short(error)}). "
            "Write it again."
        ) from error
    return panel


def write_panel(panel: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a panel to a file; the suffix gives its kind.

    Values, dtypes, labels (also of rows and assets without a value), coordinates and
    attributes come back from ``read_panel`` as they were. ``.parquet`` and ``.csv`` are
    ordinary long tables for other programs, one row a cell with a value.

    Parameters
    ----------
    panel : Dataset
    path : str or path
        ``.parquet``, ``.csv``, ``.nc`` or ``.zarr``. What exists is replaced at the end: a
        failure leaves it as it was. A panel on disk goes to ``.zarr`` piece by piece.

    Raises
    ------
    PanelError
        If the panel fails ``check_panel``, the suffix is unknown, a folder holds something else
        than a panel, or the file cannot be written.
    """
    path = Path(path)
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".nc": _write_netcdf}
    write = _choose(path, {**writers, ".zarr": _write_zarr})
    check_panel(panel, returns_required=False)
    if write is _write_zarr:
        check_replaceable(path, "panel", "path", PanelError)
    panel = canonical(panel)
    try:
        with replacing(path) as temporary:
            write(panel, temporary)
    except PanelError:
        raise
    except _FILE_ERRORS as error:
        raise PanelError(
            f"cannot write {path}: {_short(error)}. Check the folder and its permissions."
        ) from error


def _choose(path: Path, table: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    try:
        return table[path.suffix.lower()]
    except KeyError:
        raise PanelError(
            f"{path}: unknown suffix {path.suffix!r}; use one of {', '.join(table)}."
        ) from None


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _write_parquet(panel: xr.Dataset, path: Path) -> None:
    table, header = to_table(panel)
    table = table.replace_schema_metadata({FORMAT_KEY: header})
    pq.write_table(table, path, compression="zstd")


def _read_parquet(path: Path, reading: Mapping[str, Any]) -> xr.Dataset:
    header = (pq.read_schema(path).metadata or {}).get(FORMAT_KEY.encode())
    if header is None:
        return _from_any(path, reading)
    return from_table(pq.read_table(path), header.decode())


def _write_csv(panel: xr.Dataset, path: Path) -> None:
    table, header = to_table(panel)
    index = table.column_names.index("date")
    dates = pd.DatetimeIndex(table.column("date").to_pandas())
    exact = bool((dates != dates.normalize()).any())
    text = np.datetime_as_string(dates.to_numpy(), unit="ns" if exact else "D")
    table = table.set_column(index, "date", pa.array(text.astype(object)))
    with path.open("wb") as file:
        file.write(f"{_CSV_MARK}{header}\n".encode())
        pacsv.write_csv(table, file)


def _read_csv(path: Path, reading: Mapping[str, Any]) -> xr.Dataset:
    with path.open("rb") as file:
        line = file.readline()
        if not line.startswith(_CSV_MARK.encode()):
            return _from_any(path, reading)
        begin = file.tell()
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            raise PanelError("it is damaged: the last line has no end. Write it again.")
        file.seek(begin)
        header = line.decode()[len(_CSV_MARK) :]
        layout = json.loads(header).get("cells", {})
        types = {
            column: pa.from_numpy_dtype(np.dtype(entry["dtype"]))
            for entry in layout.values()
            for column in entry["columns"]
        }
        options = pacsv.ConvertOptions(
            column_types=types | {"asset": pa.string(), "date": pa.string()},
            null_values=[""],
            strings_can_be_null=False,
        )
        table = pacsv.read_csv(file, convert_options=options)
    dates = pd.to_datetime(table.column("date").to_pandas(), format="ISO8601")
    table = table.set_column(table.column_names.index("date"), "date", pa.array(dates))
    return from_table(table, header)


def _from_any(path: Path, reading: Mapping[str, Any]) -> xr.Dataset:
    """Read a table that ``write_panel`` did not write."""
    return from_frame(read_plain(path, asset=ASSET, time="date", returns="ret"), **reading)


def _write_netcdf(panel: xr.Dataset, path: Path) -> None:
    panel = panel.copy()
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in panel.variables.items():
        variable.attrs = {k: _encode_attr(v) for k, v in variable.attrs.items()}
        variable.encoding = {}
        if variable.dtype.kind == "f" and variable.ndim > 1:
            encoding[str(name)] = {"zlib": True, "complevel": 1}
        if variable.dtype.kind == "M":
            stamps = pd.DatetimeIndex(variable.values.ravel())
            unit = "days" if (stamps == stamps.normalize()).all() else "nanoseconds"
            encoding[str(name)] = {"units": f"{unit} since 1970-01-01", "dtype": "int64"}
    panel.attrs = {k: _encode_attr(v) for k, v in panel.attrs.items()}
    panel.to_netcdf(path, engine="netcdf4", encoding=encoding)


def _read_netcdf(path: Path, _: Mapping[str, Any]) -> xr.Dataset:
    return _decoded(canonical(xr.load_dataset(path, engine="netcdf4")))


def _write_zarr(panel: xr.Dataset, path: Path) -> None:
    panel = panel.drop_encoding()
    chunks = {TIME: 12, ASSET: 4096}
    if is_lazy(panel):
        panel = panel.chunk(chunks)
    for name, variable in panel.variables.items():
        variable.attrs = {k: _encode_attr(v) for k, v in variable.attrs.items()}
        if variable.dtype.kind == "U":
            # fixed-width text has no place in the specification of zarr's third version
            text = variable.values.astype(np.dtypes.StringDType())
            panel = panel.assign_coords({name: (variable.dims, text, variable.attrs)})
    panel.attrs = {k: _encode_attr(v) for k, v in panel.attrs.items()}
    encoding: dict[Hashable, dict[str, Any]] = {
        TIME: {"units": "nanoseconds since 1970-01-01", "dtype": "int64"}
    }
    for name, array in panel.data_vars.items():
        if array.chunks is None:
            sizes = [min(chunks.get(str(d), n), n) for d, n in array.sizes.items()]
            encoding[name] = {"chunks": tuple(sizes)}
    panel.to_zarr(path, encoding=encoding, consolidated=False)


def _read_zarr(path: Path, _: Mapping[str, Any]) -> xr.Dataset:
    lazily: dict[str, int] | None = {} if find_spec("dask") else None
    panel = xr.open_zarr(path, chunks=lazily, consolidated=False)
    if CHARACTERISTICS not in panel:
        panel = panel.load()
    panel = panel.assign(
        {name: array.load() for name, array in panel.items() if name != CHARACTERISTICS}
    )
    return _decoded(canonical(panel if lazily is not None else panel.load()))


def _decoded(panel: xr.Dataset) -> xr.Dataset:
    """Attributes as they were before :func:`_encode_attr`, and nothing of the file's own."""
    for variable in panel.variables.values():
        variable.attrs = {k: _decode_attr(v) for k, v in variable.attrs.items()}
        variable.encoding = {}
    panel.attrs = {k: _decode_attr(v) for k, v in panel.attrs.items()}
    panel.encoding = {}
    return panel


def _encode_attr(value: object) -> object:
    """Write what netCDF has no type for as JSON text."""
    plain = isinstance(value, str) and not value.startswith(_JSON_MARK)
    if plain or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return _JSON_MARK + json.dumps(value)


def _decode_attr(value: Any) -> Any:
    if isinstance(value, str):
        return json.loads(value[len(_JSON_MARK) :]) if value.startswith(_JSON_MARK) else value
    return value.item() if isinstance(value, np.generic) else value


def to_table(panel: xr.Dataset) -> tuple[pa.Table, str]:
    """Turn a checked panel into a table and its header, JSON on one line.

    Columns ``date``, ``asset``, ``ret``, the characteristics by name, then any other variable by
    (time, asset); a third dimension is written ``variable[label]``. Missing values are null. Raises
    ``PanelError`` if two columns would have one name.
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
    """Turn a table and its header back into the panel, exactly; rows may have been reordered.

    Raises ``PanelError`` if the header is damaged or of another version, or does not fit the table.
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
                f"the header states {content['rows']} rows; there are {table.num_rows}. The file "
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


def check_replaceable(
    path: Path, kind: Literal["panel", "tree"], argument: str, error: type[RvraeError]
) -> None:
    """Raise ``error`` unless a zarr folder would replace an earlier one of its kind only.

    A panel has arrays of returns and characteristics, a tree of draws groups only. The path may not
    exist, or be an empty folder; ``argument`` is its name in messages.
    """
    if not path.is_dir() or not any(path.iterdir()):
        return
    arrays, groups = _nodes(path)
    known = {RETURNS, CHARACTERISTICS} <= arrays if kind == "panel" else groups and not arrays
    if not known or {child.name for child in path.iterdir()} - _OWN - arrays - groups:
        raise error(
            f"`{argument}` {str(path)!r} holds something that is not {_CALLED[kind]}; choose "
            "another folder, or remove it first."
        )


def _nodes(path: Path) -> tuple[set[str], set[str]]:
    """Names of the arrays and groups in a store; none in a folder that is no store."""
    import zarr

    try:
        store = zarr.open_group(path, mode="r")
        return set(store.array_keys()), set(store.group_keys())
    except (OSError, ValueError):
        return set(), set()
