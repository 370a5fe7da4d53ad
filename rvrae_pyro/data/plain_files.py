"""Plain tables in .csv and .parquet files, read without pandas' guesses at ids and labels."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow.parquet as pq

from rvrae_pyro.data.readable import MISSING, is_text, numbers_of, returns_of
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError

_ROWS: Final = 500_000  # of a csv file held at a time
_TAIL: Final = 1 << 16  # bytes at the end of a file that are searched for its last line


def read_plain(path: Path, *, asset: str, time: str, returns: str | None) -> pd.DataFrame:
    """Read a whole table.

    Parameters
    ----------
    path : path
        ``.parquet``, or else csv text, compressed or not.
    asset, time, returns : str
        Columns of ids, dates and returns, where the file has them.

    Returns
    -------
    DataFrame
        Ids and labels as text, as they are written: "NA" is a ticker or a country. A column of
        which all text is numbers or marks of missing ones is read as numbers; returns may have
        CRSP's letters for a missing one besides. Any other text stays.

    Raises
    ------
    PanelError
        If the file is missing or damaged, or columns share a name.
    """
    names = None if _is_parquet(path) else column_names(path)
    pieces = read_in_pieces(path, names, asset=asset, time=time, returns=returns, rows=None)
    return read_rest(list(pieces))


def read_in_pieces(
    path: Path,
    usecols: Sequence[str] | None,
    *,
    asset: str,
    time: str,
    returns: str | None,
    rows: int | None = _ROWS,
) -> Iterator[pd.DataFrame]:
    """Read a table in pieces of ``rows`` rows, as :func:`read_plain` does; None: as one piece.

    A parquet file comes as one piece. Columns of numbers may be text in a piece where all of them
    are missing: :func:`read_rest` joins the pieces.
    """
    with _damage_explained(path):
        columns = None if usecols is None else list(usecols)
        opened: Any
        if _is_parquet(path):
            opened = nullcontext([_without_index(pd.read_parquet(path, columns=columns))])
        else:
            opened = pd.read_csv(
                path,
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

    Raises
    ------
    PanelError
        If the file is missing or damaged, columns share a name, or the header cannot be that of a
        long table separated by commas.
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
