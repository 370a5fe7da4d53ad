"""Panels in files: .parquet, .csv, .nc and .zarr, exact in both directions."""

import json
import os
from collections.abc import Callable, Hashable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import xarray as xr

from rvrae_pyro.atomic import replacing
from rvrae_pyro.data.build import canonical
from rvrae_pyro.data.chunks import is_lazy
from rvrae_pyro.data.frame import from_frame
from rvrae_pyro.data.plain_files import read_plain
from rvrae_pyro.data.stores import check_replaceable
from rvrae_pyro.data.tables import FORMAT_KEY, from_table, to_table
from rvrae_pyro.data.validation import check_panel
from rvrae_pyro.errors import PanelError
from rvrae_pyro.names import ASSET, CHARACTERISTICS, TIME

_CSV_MARK: Final = f"# {FORMAT_KEY} "
_JSON_MARK: Final = "json:"
# what the readers and writers below raise for damaged files, full disks and bad values
_FILE_ERRORS: Final = (OSError, RuntimeError, ValueError, EOFError)


def read_panel(
    path: str | os.PathLike[str],
    *,
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> xr.Dataset:
    """Read a panel from a file, its kind told by the suffix.

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
        If a table does not say that its returns are excess returns.
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
    """Write a panel to a file, its kind told by the suffix.

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
