"""Numbers and text of files that other programs wrote."""

import re
from typing import Any, Final

import pandas as pd
from pandas.api import types as pdt

from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError

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
    """Read text as numbers, or return None if any of it is neither a number nor missing.

    Parameters
    ----------
    column : Series
    none : frozenset of str
        Marks of a missing number.

    Returns
    -------
    Series of float or None
        NaN where a number is missing. None also where there is no number at all.
    """
    if is_numeric(column):
        return column
    if pdt.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.PeriodDtype):
        return None
    numbers, bad = _read(column, none)
    return None if bad.any() or not numbers.notna().any() else numbers


def returns_of(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Read returns, in which CRSP's letters for a return that does not exist are missing.

    Returns
    -------
    Series
        Floats; the column as it is where any of its text is neither a number, nor a mark of a
        missing one, nor such a letter.
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
