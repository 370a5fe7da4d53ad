"""Plain tables of other programs: their ids, numbers and text, and the files that hold them."""

import datetime
import math
import os
import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pandas.api import types as pdt

from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError

_WHOLE: Final = re.compile(r"([+-]?\d+)\.0*")
_EXACT: Final = {"float16": 2.0**11, "float32": 2.0**24}
"""Largest whole number up to which a type holds all of them; 2**53 for the others."""


def asset_ids(values: "pd.Series[Any] | pd.Index", source: str) -> NDArray[np.object_]:
    """Write ids as text: 10001, 10001.0, '10001' and '10001.0' are one id.

    Parameters
    ----------
    values : Series or Index
        Ids of any dtype: text, integers, floats, decimals, categories, pandas' nullable and
        Arrow types.
    source : str
        Where they are from, for error messages, such as "column 'permno'".

    Returns
    -------
    array of str or None
        None where the id is missing: NaN, None, NaT, pandas.NA or empty text. Text such as "NA",
        "NULL" or "nan" is a ticker. White space around an id is removed.

    Raises
    ------
    PanelError
        If numbers have fractions or are too large for their type, or the values are dates.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.DatetimeTZDtype | pd.PeriodDtype) or dtype.kind in "mM":
        raise PanelError(f"{source} holds dates where ids are expected. Swap the columns?")
    plain: Any = values
    if not isinstance(dtype, np.dtype | pd.CategoricalDtype):
        plain = values.astype(object).to_numpy()
    try:
        codes, found = pd.factorize(plain)
    except TypeError as error:
        raise PanelError(f"{source} holds objects that are no ids: {error}.") from error
    limit = _EXACT.get(str(dtype).lower(), 2.0**53)
    texts = np.array([*(_text(v, limit, source) for v in found), None], dtype=object)
    return texts[codes]  # -1, a missing id, is the last


def _text(value: Hashable, limit: float, source: str) -> str | None:
    """Write one id as text; None if it is empty."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        text = value.strip().strip("\ufeff").strip()
        whole = _WHOLE.fullmatch(text)
        return (whole[1] if whole else text) or None
    if isinstance(value, datetime.date | pd.Period | np.datetime64):
        raise PanelError(
            f"{source} holds dates, such as {value!s}, where ids are expected. Swap the columns?"
        )
    if isinstance(value, Real | Decimal) and not isinstance(value, Integral | np.bool_):
        number = float(value)
        if not math.isfinite(number):
            return None
        if number != int(number):
            raise PanelError(
                f"{source} holds {value}, a number with a fraction, where ids are expected. Name "
                "the column of ids, or convert it to text."
            )
        if isinstance(value, float | np.floating) and abs(number) > limit:
            raise PanelError(
                f"{source} holds {number:.0f}, too large a float to be exact: different ids may "
                "have become one. Read the column as integers or text."
            )
        return str(int(value))
    return str(value)


MISSING: Final = frozenset(
    {"", ".", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a"}
    | {"nan", "null", "-NaN", "-nan", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}
)
"""Marks of a missing number in files of pandas, R, SAS, Stata, SQL and spreadsheets."""

_CRSP: Final = frozenset({*"ABCDEPST", *(f".{letter}" for letter in "ABCDEPST")})
"""CRSP's codes for a return that does not exist: letters, in SAS files behind a dot."""

_FORMS: Final = (
    (r"[\u2212\u2012\u2013\u2014\ufe63\uff0d]", "a typeset minus; write '-'"),
    (r"^\(.*\)$", "brackets for losses; write '-0.05' for '(0.05)'"),
    (r"%", "per cent signs; write 0.05 for '5%'"),
    (r"\d,\d", "commas; write 0.05 for '0,05' and 1234 for '1,234'"),
    (r"\d[\s\u00a0\u202f]\d", "spaces within numbers"),
)


def is_numeric(column: "pd.Series[Any]") -> bool:
    """Return whether a column has numbers that a panel can hold."""
    return pdt.is_numeric_dtype(column.dtype) and not pdt.is_complex_dtype(column.dtype)


def is_text(column: "pd.Series[Any]") -> bool:
    """Return whether a column may hold text, or objects of any kind."""
    return pdt.is_object_dtype(column.dtype) or pdt.is_string_dtype(column.dtype)


def numbers_of(column: "pd.Series[Any]", none: frozenset[str] = MISSING) -> "pd.Series[Any] | None":
    """Read text as numbers, NaN where the text is one of ``none``, the marks of a missing number.

    None where any of it is neither a number nor missing, or there is no number at all.
    """
    if is_numeric(column):
        return column
    if pdt.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.PeriodDtype):
        return None
    numbers, bad = _read(column, none)
    return None if bad.any() or not numbers.notna().any() else numbers


def returns_of(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Read returns, in which CRSP's letters for a return that does not exist are missing.

    The column as it is where other text is among them.
    """
    found = numbers_of(column, MISSING | _CRSP)
    return column if found is None else found


def _read(
    column: "pd.Series[Any]", none: frozenset[str]
) -> "tuple[pd.Series[Any], pd.Series[bool]]":
    """Convert to numbers; mark text that is neither a number nor missing."""
    text = column.astype(object).map(lambda v: v.strip() if isinstance(v, str) else v)
    missing = text.isna() | text.isin(none)
    numbers = pd.to_numeric(text.mask(missing, None), errors="coerce").astype("float64")
    return numbers, numbers.isna() & ~missing


def not_numeric(column: "pd.Series[Any]") -> str:
    """Describe the values of a column that are no numbers: how many, which form, the remedy."""
    _, bad = _read(column, MISSING | _CRSP)
    if not bad.any():
        _, bad = _read(column, frozenset())
    rows = column[bad]
    shown = first_three(map(repr, rows.head(3)), len(rows)) if len(rows) else repr(column.iloc[0])
    forms = [
        text for form, text in _FORMS if any(re.search(form, str(v).strip()) for v in rows.head(99))
    ]
    hint = f" They have {'; '.join(forms)}." if forms else ""
    return (
        f"column {column.name!r} must be numeric; it has dtype {column.dtype} with "
        f"values such as {shown}.{hint} Convert it with pandas.to_numeric."
    )


def require_numeric(values: "pd.Series[Any]", source: str) -> "pd.Series[Any]":
    """Read returns given with a file, or raise a ``PanelError`` that counts the others."""
    found = returns_of(values)
    if not is_numeric(found):
        raise PanelError(f"{source}: {not_numeric(values)}")
    return found


_ROWS: Final = 500_000  # of a csv file held at a time
_TAIL: Final = 1 << 16  # bytes at the end of a file that are searched for its last line


def read_plain(
    path: Path, *, asset: str, time: str, returns: str | None, header: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a whole table, ``.parquet``, or else csv text, compressed or not.

    Ids and labels stay as they are written: "NA" is a ticker or a country. A column of which all
    text is numbers or marks of missing ones is read as numbers; returns may have CRSP's letters for
    a missing one in addition. Any other text stays. ``asset``, ``time`` and ``returns`` are the
    columns of ids, dates and returns, where the file has them. ``header`` names the columns of a
    csv file whose first row is data. Raises ``PanelError`` if the file is missing or damaged, or
    columns share a name.
    """
    names = header if header is not None or _is_parquet(path) else column_names(path)
    roles = {"asset": asset, "time": time, "returns": returns}
    pieces = read_in_pieces(path, names, **roles, rows=None, header=header)  # type: ignore[arg-type]
    return read_rest(list(pieces))


def read_in_pieces(
    path: Path,
    usecols: Sequence[str] | None,
    *,
    asset: str,
    time: str,
    returns: str | None,
    rows: int | None = _ROWS,
    header: Sequence[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Read a table in pieces of ``rows`` rows, as :func:`read_plain` does; None: as one piece.

    A parquet file comes as one piece. :func:`read_rest` joins the pieces, in which columns of
    numbers may be text where all of them are missing.
    """
    with _damage_explained(path):
        columns = None if usecols is None else list(usecols)
        opened: Any
        if _is_parquet(path):
            opened = nullcontext([_without_index(pd.read_parquet(path, columns=columns))])
        else:
            opened = pd.read_csv(
                path,
                header="infer" if header is None else None,
                names=None if header is None else list(header),
                usecols=columns,
                # ids keep their leading zeros
                dtype={name: "str" for name in (asset, returns) if name is not None},
                keep_default_na=False,
                na_values=[""],
                low_memory=False,  # one type for a column, not one for each of its parts
                chunksize=rows,
            )
            opened = opened if rows is not None else nullcontext([opened])
        with opened as parts:
            for part in parts:
                yield _read_text(part, asset, time, returns, typed=_is_parquet(path))


def read_rest(pieces: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join pieces, and read as numbers what only the whole of a column shows to be some."""
    if len(pieces) == 1:
        return pieces[0]
    frame = pd.concat(pieces, ignore_index=True)
    torn = [name for name in frame if any(p[name].dtype != pieces[0][name].dtype for p in pieces)]
    for name in torn:
        numbers = numbers_of(frame[name])
        if numbers is not None:
            frame[name] = numbers
    return frame


def _read_text(
    frame: pd.DataFrame, asset: str, time: str, returns: str | None, *, typed: bool
) -> pd.DataFrame:
    """Convert text to numbers and missing values; in typed files only text of returns."""
    for name in frame.columns:
        column = frame[name]
        if name == asset or not is_text(column):
            continue
        if name == time:
            frame[name] = column.mask(column.isin(MISSING), None)
        elif name == returns:
            frame[name] = returns_of(column)
        elif not typed:
            numbers = numbers_of(column)
            if numbers is not None:
                frame[name] = numbers
    return frame


def column_names(path: Path) -> list[str]:
    """Read the names of a file's columns; those without a name are 'Unnamed: 0' and so on.

    Raises ``PanelError`` if the file is missing or damaged, columns share a name, or the header
    cannot be that of a long table separated by commas.
    """
    with _damage_explained(path):
        if _is_parquet(path):
            names = [str(name) for name in pq.read_schema(path).names]
            return [name for name in names if not name.startswith("__index_level_")]
        names = [name.strip("\ufeff") for name in _words(path, 0)]
        second = _words(path, 1)
    if len(names) == 1 and (mark := next((c for c in ";\t|" if c in names[0]), None)):
        raise PanelError(
            f"cannot read {path}: its columns are separated by {mark!r}, not by commas. Read it "
            f"with pandas.read_csv(path, sep={mark!r}), with decimal=',' if its numbers have "
            "commas, and call from_frame."
        )
    if len(second) > len(names):
        raise PanelError(
            f"cannot read {path}: it is damaged or no table (the header names {len(names)} columns "
            f"and the row below has {len(second)} values). Name every column."
        )
    if path.suffix.lower() == ".csv" and _is_cut_off(path, len(names)):
        raise PanelError(
            f"cannot read {path}: it is damaged: the last line has fewer values than there are "
            "columns. Copy or write it again."
        )
    known = [name for name in names if name]
    repeated = sorted({name for name in known if known.count(name) > 1})
    if repeated:
        raise PanelError(
            f"cannot read {path}: repeated columns: {first_three(repeated)}. "
            + (
                "It has two rows of names, as a download of yfinance: read it with "
                "pandas.read_csv(path, header=[0, 1], index_col=0) and call from_prices."
                if second[:1] and second[0] in ("Ticker", "Price", "Date", "")
                else "Rename or drop them."
            )
        )
    return [name or f"Unnamed: {k}" for k, name in enumerate(names)]


def _words(path: Path, line: int) -> list[str]:
    """Read the words of the first or second line of a csv file; none where there is no line."""
    try:
        read = pd.read_csv(
            path, header=None, skiprows=line, nrows=1, dtype="str", keep_default_na=False
        )
    except pd.errors.EmptyDataError:
        if line == 0:
            raise
        return []
    return [str(v) for v in read.iloc[0]]


def _is_cut_off(path: Path, width: int) -> bool:
    """Return whether the last line ends within a row, as that of a file copied in part does."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL))
        tail = file.read()
    if tail.endswith((b"\n", b"\r")):
        return False
    last = tail.replace(b"\r", b"\n").rpartition(b"\n")[2]
    return last.count(b",") < width - 1 and len(last) < min(end, _TAIL)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Make columns of an index that has names."""
    named = any(name is not None for name in frame.index.names)
    return frame.reset_index() if named else frame


@contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PanelError:
        raise
    except FileNotFoundError as error:
        raise PanelError(f"cannot read {path}: it is missing. Check the path.") from error
    except UnicodeError as error:
        raise PanelError(
            f"cannot read {path}: it is damaged or no text in UTF-8 ({error}). Save it as UTF-8, "
            "or read it with pandas.read_csv(path, encoding=...) and call from_frame."
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PanelError(
            f"cannot read {path}: it is damaged or no table ({text}). Write it again."
        ) from error
