"""Roles of a long table's columns: dates, ids, returns, characteristics, labels, and none."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.api import types as pdt

from rvrae_pyro.data.plain_tables import asset_ids, is_numeric, is_text, not_numeric
from rvrae_pyro.data.validation import first_three, raise_problems
from rvrae_pyro.errors import PanelError, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHAIN,
    CHARACTERISTIC,
    CHARACTERISTICS,
    CONTEXT,
    DRAW,
    FACTOR,
    FACTORS,
    FEATURE,
    OBS,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)

_PARTS: Final = frozenset(
    {TIME, ASSET, CHARACTERISTIC, RETURNS, CHARACTERISTICS, CONTEXT, FEATURE, WEIGHT, RISK_FREE}
    | {"date", "ret"}
)
"""Names of parts of a panel, and of the columns that `to_frame` writes."""

_DIMENSIONS: Final = _PARTS | {FACTOR, FACTORS, CHAIN, DRAW, OBS}
"""Names that a label of the assets cannot have."""

_RATES: Final = frozenset({"rf", "riskfree", "risk-free", "rfree", "risk_free_rate"})
"""Names of a risk-free rate, in small letters."""

_COUNTERS: Final = frozenset(
    {"index", "level_0", "row", "rows", "rownames", "row_names", "rowid", "row_id", "x", "v1"}
    | {"obs", "...1", "_n_"}
)
"""Names that programs give to the numbers of the rows, in small letters."""
_MANY: Final = 50  # rows from which any column of whole numbers that counts them is no accident

_CODES: Final = frozenset(
    re.findall(
        r"\S+",
        """
        permno permco lpermno gvkey iid cusip ncusip isin sedol figi cik secid ticker
        year month day yyyymm yyyymmdd yearmonth eom datadate
        sic siccd sic2 hsiccd sich naics gics ggroup gind gsector gsubind ff49
        shrcd exchcd hexcd crsp_shrcd crsp_exchcd comp_exchg shrcls
        """,
    )
)
"""Ids, dates and codes in the tables of CRSP, Compustat and others, in small letters."""

_WIDE: Final = 3
"""Columns of numbers, and none of ids, from which a table with a row per date looks wide."""

_DATES: Final = frozenset({"date", "time", "datetime", "month", "eom", "day", "timestamp"})


@dataclass(frozen=True)
class Columns:
    """Roles of the columns of a table."""

    time: str
    asset: str
    returns: str
    characteristics: list[str]
    labels: list[str]
    weight: str | None
    risk_free: str | None


def index_to_columns(frame: pd.DataFrame, time: str, asset: str) -> pd.DataFrame:
    """Make columns of a (date, id) or (id, date) index; any other index stays.

    Levels of other names than ``time`` and ``asset``, or of none, take these where one of them
    holds dates; raises ``PanelError`` where nothing shows which.
    """
    if not isinstance(frame, pd.DataFrame):
        raise PanelError(f"`frame` must be a pandas.DataFrame; got {type(frame).__name__}.")
    if frame.columns.nlevels > 1:
        named = [f"{name!r}" if name else "no name" for name in frame.columns.names]
        examples = first_three(map(repr, frame.columns))
        raise PanelError(
            f"`frame`: its columns have {frame.columns.nlevels} levels ({', '.join(named)}): "
            f"{examples}. One row for each (date, asset) and one level are expected. For prices, "
            "as yfinance downloads them, call from_prices; for other wide tables from_wide."
        )
    if frame.index.nlevels != 2 or {time, asset} <= set(frame.columns):
        return frame
    names = list(frame.index.names)
    if set(names) == {time, asset}:
        return frame.reset_index()
    if time in frame.columns or asset in frame.columns:
        return frame
    levels = [frame.index.get_level_values(k).unique() for k in (0, 1)]
    kinds = [
        isinstance(level, pd.DatetimeIndex | pd.PeriodIndex)
        or pdt.infer_dtype(level) in ("date", "datetime", "datetime64", "period")
        for level in levels
    ]
    by_name = [name == time or (isinstance(name, str) and name.lower() in _DATES) for name in names]
    found = kinds if sum(kinds) == 1 else by_name
    if sum(found) != 1:
        raise PanelError(
            f"`frame`: no columns {time!r} and {asset!r}, and nothing shows which level of the "
            f"index {names} holds dates. Name its levels {time!r} and {asset!r}, or use "
            "frame.reset_index() and pass time=... and asset=..."
        )
    return frame.reset_index(names=[time, asset] if found[0] else [asset, time])


def find_columns(
    frame: pd.DataFrame,
    *,
    time: str,
    asset: str,
    returns: str,
    characteristics: Sequence[str] | None,
    weight: str | None,
    risk_free: str | None,
    has_rate: bool,
    excess: bool,
) -> tuple[pd.DataFrame, Columns]:
    """Give every column its part, or raise a ``PanelError`` that lists all that is wrong with them.

    Arguments are those of ``from_frame``; ``risk_free`` is the name of a column, and ``has_rate``
    tells whether there is a rate, as a column or a Series. Returns the table, with numbers where a
    column of objects holds nothing else; without characteristics where it has dates, ids, returns
    and labels only. Warns of columns that are left out, and of ids, codes or
    rates about to become characteristics.
    """
    chosen = None if characteristics is None else list(characteristics)
    if weight is None and WEIGHT in frame.columns and WEIGHT not in (chosen or ()):
        weight = WEIGHT
    if RISK_FREE in frame.columns and not has_rate and RISK_FREE not in (chosen or ()):
        if not excess:
            raise PanelError(
                f"the table has a column {RISK_FREE!r} without stating whether `{returns}` is in "
                "excess of it. Pass risk_free='risk_free' to subtract it, with excess=True if it "
                "is subtracted already, or drop the column."
            )
        risk_free = RISK_FREE
    roles = {"time": time, "asset": asset, "returns": returns}
    roles |= {} if weight is None else {"weight": weight}
    roles |= {} if risk_free is None else {"risk_free": risk_free}
    _check_columns(frame, roles, characteristics)
    rest = [c for c in frame.columns if c not in roles.values()]
    frame = _objects_to_numbers(frame, [c for c in frame.columns if c not in (time, asset)])
    counters = [c for c in rest if c not in (chosen or ()) and _counts_rows(frame[c])]
    rest = [c for c in rest if c not in counters]
    numeric = [c for c in rest if is_numeric(frame[c])]
    if chosen is None:
        chosen = numeric
        _warn_of_rates(numeric, has_rate or risk_free is not None, excess)
        _warn_of_codes(numeric)
    text = [c for c in rest if c not in {*numeric, *chosen}]
    labels, left_out = _split_text(frame, asset, text)
    numbers = [returns, *chosen, *(v for v in (weight, risk_free) if v is not None)]
    problems = [not_numeric(frame[c]) for c in numbers if not is_numeric(frame[c])]
    if not chosen and characteristics is not None:
        problems.append(
            "`characteristics` is empty. Name columns, or leave it out: they are then all other "
            "numeric columns, or made from past returns where there is none."
        )
    elif not chosen and left_out:
        problems.append(
            "no characteristics: no numeric column is left after dates, assets and returns, and "
            f"{first_three(left_out)} hold no numbers. Convert these columns, or drop them: "
            "characteristics are then made from past returns, as by characteristics_from_returns."
        )
    if any(not isinstance(c, str) for c in chosen):
        problems.append(f"column names must be strings; got {first_three(chosen)}.")
    parts = [c for c in chosen if characteristics is None and c in _PARTS]
    if parts:
        problems.append(
            f"columns named like parts of a panel: {first_three(map(repr, parts))}. Rename or drop "
            "them, or choose the characteristics with characteristics=[...]."
        )
    dimensions = [c for c in labels if c in _DIMENSIONS]
    if dimensions:
        problems.append(
            f"labels of assets named like parts of a panel: {first_three(map(repr, dimensions))}. "
            "Rename or drop these columns."
        )
    raise_problems("`frame`", problems)
    _warn_of_left_out(frame, counters, left_out)
    return frame, Columns(time, asset, returns, chosen, labels, weight, risk_free)


def _check_columns(
    frame: pd.DataFrame, roles: Mapping[str, str], characteristics: Sequence[str] | None
) -> None:
    """Raise unless every requested column exists once."""
    if isinstance(characteristics, str):
        raise PanelError(f"`characteristics` must be a list of columns; got {characteristics!r}.")
    if not {roles["asset"], roles["returns"]} & set(frame.columns):
        _raise_if_wide(frame, roles["time"])
    problems = [] if len(frame) else ["it is empty: no rows."]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        problems.append(f"repeated columns: {first_three(repeated)}. Rename or drop them.")
    have = first_three(frame.columns)
    for role, name in roles.items():
        if name in frame.index.names:
            problems.append(f"{name!r} is in the index; use frame.reset_index().")
        elif name not in frame.columns:
            hint = _nearest(name, frame.columns)
            problems.append(
                f"no column {name!r} for `{role}`; columns: {have}.{hint} Pass {role}=..."
            )
    wanted = list(characteristics or [])
    absent = [c for c in wanted if c not in frame.columns]
    if absent:
        problems.append(
            f"no columns for `characteristics`: {first_three(absent)}; columns: {have}."
        )
    # market values may be both a characteristic and the weight
    taken = {name for role, name in roles.items() if role != "weight"}
    twice = [c for i, c in enumerate(wanted) if c in taken or c in wanted[:i]]
    if twice:
        problems.append(
            f"columns named twice: {first_three(twice)} in `characteristics`. Name each once, "
            "and none that is the date, the asset, the return or the rate."
        )
    parts = list(roles.values())
    shared = sorted({name for name in parts if parts.count(name) > 1})
    if shared:
        problems.append(f"one column for two roles: {first_three(map(repr, shared))}.")
    raise_problems("`frame`", problems)


def _raise_if_wide(frame: pd.DataFrame, time: str) -> None:
    """Raise if the table looks like one row per date and one column per asset."""
    numbers = [c for c in frame.columns if is_numeric(frame[c])]
    dates: Any = frame.index
    if isinstance(dates, pd.DatetimeIndex | pd.PeriodIndex):
        others = list(frame.columns)
    else:
        first = time if time in frame.columns else frame.columns[0] if frame.shape[1] else None
        if first is None or (is_numeric(frame[first]) and _counts_rows(frame[first])):
            return
        dates, others = frame[first], [c for c in frame.columns if c != first]
    if len(others) < _WIDE or set(others) - set(numbers) or not dates.is_unique:
        return
    raise PanelError(
        f"`frame` looks wide: a row per date and {len(others)} columns of numbers, such as "
        f"{first_three(map(repr, others))}; one row for each (date, asset) is expected. With "
        "dates as its index, pass such a table of returns to rv.data.characteristics_from_returns, "
        "or with tables of characteristics to rv.data.from_wide. On the command line, add --wide."
    )


def _nearest(name: str, columns: pd.Index) -> str:
    """Point to a column whose name differs by little more than case or white space."""
    plain = {str(c).strip().strip("\ufeff").lower(): c for c in columns}
    close = difflib.get_close_matches(name.strip().lower(), plain, n=1, cutoff=0.8)
    return f" There is {plain[close[0]]!r}." if close else ""


def _objects_to_numbers(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Turn columns of Python's numbers, such as a database gives, into floats."""
    kinds = ("decimal", "floating", "integer", "mixed-integer-float", "empty")
    objects = [c for c in names if isinstance(c, str) and frame[c].dtype == object]
    found = [c for c in objects if pdt.infer_dtype(frame[c], skipna=True) in kinds]
    return frame.assign(**{c: frame[c].astype("float64") for c in found}) if found else frame


def _counts_rows(column: "pd.Series[Any]") -> bool:
    """Return whether a column only numbers the rows, or is the nameless one of a csv file."""
    name = str(column.name).strip().lower()
    if name == "" or name.startswith("unnamed:"):
        return True
    named = name in _COUNTERS
    if not (named or len(column) >= _MANY) or not is_numeric(column):
        return False
    if column.isna().any() or pdt.is_bool_dtype(column.dtype):
        return False
    values = column.to_numpy(dtype=np.float64)
    if not all((part == np.round(part)).all() for part in (values[:_MANY], values)):
        return False
    # part of the rows of a file, in the file's order, need not begin at its first
    if named and (np.diff(values) > 0).all():
        return True
    low, span = values.min(), values.max() - values.min()
    return low in (0.0, 1.0) and span == len(values) - 1 and len(np.unique(values)) == len(values)


def _split_text(
    frame: pd.DataFrame, asset: str, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Separate text columns that are constant within an asset from the rest."""
    if not names:
        return [], []
    ids = asset_ids(frame[asset], f"`frame`: column {asset!r}")
    labels: list[str] = []
    left_out: list[str] = []
    for name in names:
        column = frame[name]
        text = is_text(column) or isinstance(column.dtype, pd.CategoricalDtype)
        steady = text and bool((column.groupby(ids, observed=True).nunique() <= 1).all())
        (labels if steady and isinstance(name, str) else left_out).append(name)
    return labels, left_out


def _warn_of_rates(numeric: Sequence[str], has_rate: bool, excess: bool) -> None:
    """Warn where a column that is named like a risk-free rate becomes a characteristic."""
    names = [c for c in numeric if isinstance(c, str) and c.lower() in _RATES]
    if names and not has_rate:
        use = "excess=True, risk_free=" if excess else "risk_free="
        warn_user(
            f"column {names[0]!r} becomes a characteristic, as every numeric column that is not "
            f"named; if it is the risk-free rate, pass {use}{names[0]!r}."
        )


def _warn_of_codes(numeric: Sequence[str]) -> None:
    """Warn where ids, dates or codes become characteristics."""
    names = [c for c in numeric if isinstance(c, str) and c.lower() in _CODES]
    if names:
        warn_user(
            f"columns that look like ids, dates or codes become characteristics: "
            f"{', '.join(map(repr, names))}. Drop them, or pass characteristics=[...]."
        )


def _warn_of_left_out(
    frame: pd.DataFrame, counters: Sequence[str], left_out: Sequence[str]
) -> None:
    if counters:
        warn_user(
            "columns left out, as they have no name or number the rows: "
            f"{', '.join(map(repr, counters))}."
        )
    if not left_out:
        return
    spoilt = [c for c in left_out if _nearly_numeric(frame[c])]
    other = [c for c in left_out if c not in spoilt]
    for name in spoilt:
        text = not_numeric(frame[name]).removeprefix(f"column {name!r} must be numeric; it ")
        warn_user(f"column {name!r} is left out: some of it is no number; it {text}")
    if other:
        shown = ", ".join(map(str, other[:12])) + (", ..." if len(other) > 12 else "")
        warn_user(
            "columns left out, neither numeric nor constant within an asset: "
            f"{shown} ({len(other)} in all)."
        )


def _nearly_numeric(column: "pd.Series[Any]") -> bool:
    """Return whether a column of text is numbers but for some that cannot be read."""
    if not is_text(column):
        return False
    some = column.dropna()
    readable = pd.to_numeric(some.astype(object), errors="coerce").notna()
    digits = some.astype(str).str.contains(r"\d", regex=True)
    return bool(readable.any() and not readable.all() and (readable | digits).mean() > 0.5)
