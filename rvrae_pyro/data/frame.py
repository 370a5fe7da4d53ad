"""Long tables to panels and back."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from pandas.api import types as pdt

from rvrae_pyro.data.build import build_panel
from rvrae_pyro.data.cells import Columns, Grid, delay, stack
from rvrae_pyro.data.dates import Frequency, check_frequency, next_row
from rvrae_pyro.data.panel import (
    check_panel,
    first_three,
    listed,
    raise_problems,
)
from rvrae_pyro.data.rates import excess_returns
from rvrae_pyro.errors import ConfigError, PanelError, RvraeWarning
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)

__all__ = ["from_frame", "to_frame"]

Floats = NDArray[np.floating[Any]]

_RATES: Final = frozenset({"rf", "risk_free", "riskfree", "risk-free", "rfree", "risk_free_rate"})
"""Names of a risk-free rate, in small letters."""


def from_frame(
    frame: pd.DataFrame,
    *,
    time: str = "date",
    asset: str = "asset",
    returns: str = "ret",
    characteristics: Sequence[str] | None = None,
    risk_free: "str | pd.Series[Any] | None" = None,
    excess: bool = False,
    lag: int = 0,
    weight: str | None = None,
    frequency: Frequency = "monthly",
    dayfirst: bool | None = None,
    date_format: str | None = None,
) -> xr.Dataset:
    """Turn a long table, one row a (date, asset), into a panel.

    Parameters
    ----------
    frame : DataFrame
        Rows in any order. Columns, not the index, hold dates and assets.
    time : str
        Column of dates: datetimes, Periods, whole numbers YYYYMM or YYYYMMDD, or text with the
        year first, of any dtype (floats, objects and categories, too). Any day of a month
        becomes the month's last day (of a week: its Sunday).
    asset : str
        Column of ids; whole numbers become strings.
    returns : str
        Column of simple returns, decimal (0.01 is 1 %). A row without a return is live:
        it is forecast and never trains.
    characteristics : sequence of str, optional
        By default every other numeric column. Text columns that never change within an
        asset become coordinates of ``asset``.
    risk_free : str or Series, optional
        Decimal rate a period: a column, or a Series indexed by date. It is subtracted
        from the returns unless ``excess``.
    excess : bool
        Whether the returns are excess returns already. Without a risk-free rate and
        without ``excess=True`` the returns are taken as they are, with a warning: one
        often forgets the rate, and one often means it.
    lag : {0, 1}
        0: characteristics and weight are known at the end of the period *before* the
        row's return. 1: the row of t holds what is known at the *end of t*; they
        move on by one calendar period within the asset, and a row without returns is
        appended: the live one. The first row then has returns and nothing known, so
        that nothing is listed in it.
    weight : str, optional
        Column of market values, timed like the characteristics.
    frequency : {"monthly", "weekly", "daily"}
    dayfirst : bool, optional
        Order of text dates such as 03/04/2010: True for day/month/year, False for
        month/day/year. Default: such text raises.
    date_format : str, optional
        ``strptime`` format of the dates, such as "%d-%b-%y".

    Returns
    -------
    Dataset
        Checked by ``check_panel``; the attribute ``lag`` states the shift, which a fit compares
        with later panels. Time and assets sorted, characteristics in the order
        of the columns. Returns are float64. Characteristics are float32 if every column
        is float32 or float16, which is exact and halves a large panel, else float64.

    Raises
    ------
    PanelError
        Listing every problem of the table: missing columns, unreadable or missing dates,
        repeated (date, asset), text where numbers belong, missing risk-free rates, and
        all that ``check_panel`` finds.
    ConfigError
        If ``lag`` or ``frequency`` is none of the choices.

    Warns
    -----
    RvraeWarning
        If nothing says that the returns are excess, a column is left out, one named like a
        risk-free rate is about to become a characteristic, or the rate looks annual.

    Notes
    -----
    The panel is dense: memory is n_times x n_assets x n_characteristics values.

    Examples
    --------
    >>> table = pd.DataFrame(
    ...     {
    ...         "date": ["2020-01-15", "2020-01-15", "2020-02-03"],
    ...         "asset": [10001, 10002, 10001],
    ...         "ret": [0.01, -0.02, 0.03],
    ...         "size": [1.0, 2.0, 1.5],
    ...     }
    ... )
    >>> panel = from_frame(table, excess=True)
    >>> panel["asset"].values.tolist()
    ['10001', '10002']
    >>> str(panel["time"].values[0])[:10]
    '2020-01-31'
    """
    if lag not in (0, 1) or isinstance(lag, bool):
        raise ConfigError(f"`lag` must be 0 or 1; got {lag!r}. Shift longer lags yourself.")
    check_frequency(frequency)
    rate_column = risk_free if isinstance(risk_free, str) else None
    columns = _find_columns(frame, time, asset, returns, characteristics, weight, rate_column)
    _warn_of_rates(frame, risk_free, excess, characteristics)
    grid = Grid(frame, columns, frequency, dayfirst=dayfirst, date_format=date_format)
    raw = grid.dense(returns, np.dtype(np.float64))
    values = stack(grid, frame, columns.characteristics)
    size = None if weight is None else grid.dense(weight, np.dtype(np.float64))
    times = grid.times
    rate: Floats | pd.Series[Any] | None
    rate = grid.one_a_row(rate_column) if rate_column is not None else risk_free  # type: ignore[assignment]
    if lag == 1:
        times = np.append(times, next_row(times[-1], frequency))
        raw = np.pad(raw, ((0, 1), (0, 0)), constant_values=np.nan)
        values = delay(values)
        size = None if size is None else delay(size)
        if isinstance(rate, np.ndarray):
            rate = np.append(rate, np.nan)
    net, aligned, kind = excess_returns(raw, rate, excess, times=times, frequency=frequency)
    panel = build_panel(
        net,
        values,
        time=times,
        asset=grid.assets,
        characteristic=np.array(columns.characteristics, dtype=str),
        weight=size,
        risk_free=aligned,
        asset_coords={name: grid.one_an_asset(name) for name in columns.labels},
        frequency=frequency,
        return_kind=kind,
    )
    # a table of to_frame knows whether its rows were shifted before
    panel.attrs["lag"] = max(lag, int(frame.attrs.get("lag", 0)))
    check_panel(panel)
    return panel


def _warn_of_rates(
    frame: pd.DataFrame, risk_free: object, excess: bool, characteristics: Sequence[str] | None
) -> None:
    """Warn where a column that is named like a risk-free rate would become a characteristic."""
    if risk_free is not None or characteristics is not None or not isinstance(frame, pd.DataFrame):
        return
    names = [c for c in frame.columns if isinstance(c, str) and c.lower() in _RATES]
    if names:
        use = "excess=True, risk_free=" if excess else "risk_free="
        warnings.warn(
            f"column {names[0]!r} becomes a characteristic, as every numeric column that is not "
            f"named; if it is the risk-free rate, pass {use}{names[0]!r}.",
            RvraeWarning,
            stacklevel=3,
        )


def _find_columns(
    frame: pd.DataFrame,
    time: str,
    asset: str,
    returns: str,
    characteristics: Sequence[str] | None,
    weight: str | None,
    risk_free: str | None,
) -> Columns:
    """Give every column its part, or list all that is wrong with them."""
    roles = {"time": time, "asset": asset, "returns": returns}
    roles |= {} if weight is None else {"weight": weight}
    roles |= {} if risk_free is None else {"risk_free": risk_free}
    _check_columns(frame, roles, characteristics)
    rest = [c for c in frame.columns if c not in roles.values()]
    numeric = [c for c in rest if _is_numeric(frame[c])]
    chosen = numeric if characteristics is None else list(characteristics)
    labels, left_out = _split_text(frame, asset, [c for c in rest if c not in {*numeric, *chosen}])
    numbers = [returns, *chosen, *(v for v in (weight, risk_free) if v is not None)]
    problems = [_not_numeric(frame[c]) for c in numbers if not _is_numeric(frame[c])]
    if not chosen:
        problems.append(
            "no characteristics: no numeric column is left beside dates, assets and returns."
        )
    if any(not isinstance(c, str) for c in chosen):
        problems.append(f"column names must be strings; got {first_three(chosen)}.")
    raise_problems("`frame`", problems)
    if left_out:
        warnings.warn(
            f"columns left out, neither numeric nor constant within an asset: "
            f"{first_three(left_out)}.",
            RvraeWarning,
            stacklevel=3,
        )
    return Columns(time, asset, returns, chosen, labels, weight, risk_free)


def _check_columns(
    frame: pd.DataFrame, roles: Mapping[str, str], characteristics: Sequence[str] | None
) -> None:
    """Raise if the columns asked for are not there, once each."""
    if not isinstance(frame, pd.DataFrame):
        raise PanelError(f"`frame` must be a pandas.DataFrame; got {type(frame).__name__}.")
    if isinstance(characteristics, str):
        raise PanelError(f"`characteristics` must be a list of columns; got {characteristics!r}.")
    problems = [] if len(frame) else ["it is empty: no rows."]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        problems.append(f"repeated columns: {first_three(repeated)}. Rename or drop them.")
    have = first_three(frame.columns)
    for role, name in roles.items():
        if name in frame.index.names:
            problems.append(f"{name!r} is in the index; use frame.reset_index().")
        elif name not in frame.columns:
            problems.append(f"no column {name!r} for `{role}`; columns: {have}. Pass {role}=...")
    wanted = list(characteristics or [])
    absent = [c for c in wanted if c not in frame.columns]
    if absent:
        problems.append(
            f"no columns for `characteristics`: {first_three(absent)}; columns: {have}."
        )
    twice = [c for i, c in enumerate(wanted) if c in roles.values() or c in wanted[:i]]
    if twice:
        problems.append(f"columns asked for twice: {first_three(twice)} in `characteristics`.")
    raise_problems("`frame`", problems)


def _is_numeric(column: "pd.Series[Any]") -> bool:
    return pdt.is_numeric_dtype(column.dtype) and not pdt.is_complex_dtype(column.dtype)


def _not_numeric(column: "pd.Series[Any]") -> str:
    numbers = pd.to_numeric(column.astype("object"), errors="coerce")
    bad = column[numbers.isna() & column.notna()]
    shown = first_three(map(repr, bad.head(3)), len(bad)) if len(bad) else repr(column.iloc[0])
    return (
        f"column {column.name!r} must be numeric; it has dtype {column.dtype} with "
        f"values such as {shown}. Convert it with pandas.to_numeric."
    )


def _split_text(
    frame: pd.DataFrame, asset: str, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Tell text columns that are constant within an asset from the rest."""
    labels: list[str] = []
    left_out: list[str] = []
    for name in names:
        column = frame[name]
        text = pdt.is_string_dtype(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype)
        steady = text and bool((column.groupby(frame[asset], observed=True).nunique() <= 1).all())
        taken = name in {TIME, ASSET, CHARACTERISTIC, RETURNS, CHARACTERISTICS, WEIGHT, RISK_FREE}
        (labels if steady and not taken else left_out).append(name)
    return labels, left_out


def to_frame(panel: xr.Dataset) -> pd.DataFrame:
    """Turn a panel into a long table that ``from_frame(..., excess=True)`` turns back.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    DataFrame
        One row for each cell that is listed or has a return, by date, then asset, in the
        panel's order. Columns ``date``, ``asset``, ``ret`` (excess), the characteristics,
        and where the panel has them ``weight``, ``risk_free`` and text coordinates of the
        assets.

    Notes
    -----
    A table has no place for attributes, ``context`` or labels without a single value:
    ``write_panel`` keeps them. The frame's ``attrs`` keep ``lag``, so that a panel made of the
    table again states how its source was read.
    """
    check_panel(panel, returns_required=False)
    keep = listed(panel).values | ~np.isnan(panel[RETURNS].values)
    rows, columns = np.nonzero(keep)
    data: dict[str, Any] = {
        "date": panel[TIME].values[rows],
        "asset": panel[ASSET].values[columns],
        "ret": panel[RETURNS].values[keep],
    }
    values = panel[CHARACTERISTICS].values[keep]
    extra: dict[str, Any] = {}
    if WEIGHT in panel:
        extra[WEIGHT] = panel[WEIGHT].values[keep]
    if RISK_FREE in panel:
        extra[RISK_FREE] = panel[RISK_FREE].values[rows]
    for name, coord in panel.coords.items():
        if name != ASSET and coord.dims == (ASSET,) and coord.dtype.kind == "U":
            extra[str(name)] = coord.values[columns]
    names = [str(v) for v in panel[CHARACTERISTIC].values]
    clash = [v for v in names if v in data or v in extra]
    if clash:
        raise PanelError(
            f"`panel`: characteristics named like other columns: {first_three(clash)}."
        )
    data |= {name: values[:, k] for k, name in enumerate(names)}
    frame = pd.DataFrame(data | extra)
    if "lag" in panel.attrs:
        frame.attrs["lag"] = panel.attrs["lag"]
    return frame
