"""One rule for the ids of assets, in every reader and dtype."""

import datetime
import math
import re
from collections.abc import Hashable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
