"""The checks of a panel, and which of its cells are listed."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.blocks import cached_blocks, pieces
from rvrae_pyro.data.dates import check_frequency, month_end, skipped_rows
from rvrae_pyro.errors import ConfigError, PanelError, RvraeWarning
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    CONTEXT,
    FEATURE,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)

__all__ = [
    "Marks",
    "check_panel",
    "first_three",
    "listed",
    "mark_cells",
    "raise_problems",
    "validate_panel",
]

_DIMS: Final[dict[str, tuple[str, ...]]] = {
    RETURNS: (TIME, ASSET),
    CHARACTERISTICS: (TIME, ASSET, CHARACTERISTIC),
    CONTEXT: (TIME, FEATURE),
    WEIGHT: (TIME, ASSET),
    RISK_FREE: (TIME,),
}
_REQUIRED: Final = (RETURNS, CHARACTERISTICS)
_PERCENT_MEDIAN: Final = 0.5


def first_three(labels: Iterable[object], count: int | None = None) -> str:
    """Write the first three of ``labels`` and how many there are."""
    items = list(labels)
    count = len(items) if count is None else count
    shown = ", ".join(str(v) for v in items[:3])
    return f"{shown}{', ...' if count > 3 else ''} ({count} in all)"


def raise_problems(subject: str, problems: Sequence[str]) -> None:
    """Raise one ``PanelError`` that lists every problem; return if there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise PanelError(f"{subject}: {problems[0]}")
    listing = "\n".join(f"  {i}. {text}" for i, text in enumerate(problems, 1))
    raise PanelError(f"{subject} has {len(problems)} problems:\n{listing}")


def listed(panel: xr.Dataset) -> xr.DataArray:
    """Mark the cells with at least one characteristic.

    Parameters
    ----------
    panel : Dataset

    Returns
    -------
    DataArray of bool, dims (time, asset)
        Depends on characteristics only, all known at the end of t-1; never on whether a
        return was observed, which would look ahead.
    """
    coords = panel[CHARACTERISTICS].coords
    return xr.DataArray(
        mark_cells(panel).listed,
        dims=(TIME, ASSET),
        coords={k: v for k, v in coords.items() if CHARACTERISTIC not in v.dims},
        name="listed",
    )


class Marks(NamedTuple):
    """What a panel's characteristics say of its cells.

    Attributes
    ----------
    listed : bool array of shape (n_times, n_assets)
        Cells with at least one characteristic.
    n_missing : int
        Characteristics that listed cells lack.
    holes : list of (time, asset) positions
        The first three listed cells that lack any.
    """

    listed: NDArray[np.bool_]
    n_missing: int
    holes: list[tuple[int, int]]


def mark_cells(panel: xr.Dataset) -> Marks:
    """Look once through the characteristics for listed cells and for what these lack."""
    values = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    rows, n = np.empty(values.shape[:2], bool), values.shape[-1]
    n_missing, holes = 0, list[tuple[int, int]]()
    ones = np.ones(n, values.dtype)
    # in small blocks: a panel-sized mask of booleans would be the largest temporary here
    for first, block in cached_blocks(values):
        here = rows[first : first + len(block)]
        absent = np.isnan(block)
        # sums by a product: reductions along a short last axis are slow
        with np.errstate(invalid="ignore", over="ignore"):
            np.logical_not(np.isnan(block @ ones), out=here)
        if np.count_nonzero(absent) == n * np.count_nonzero(~here):
            del block  # cells have all or nothing, as nearly always
            continue
        missing = absent.astype(np.float32) @ np.ones(n, np.float32)
        np.less(missing, n, out=here)
        lacking = missing * here
        if lacking.any():
            n_missing += int(lacking.sum())
            found = np.argwhere(lacking)[: 3 - len(holes)]
            holes += [(first + int(t), int(i)) for t, i in found]
        del block  # or the one that it is part of would stay while the next is read
    return Marks(rows, n_missing, holes)


def check_panel(panel: xr.Dataset, *, returns_required: bool = True) -> None:
    """Raise one error that lists everything wrong with a panel.

    Parameters
    ----------
    panel : Dataset
        See the data page for the variables, dimensions and attributes of a panel.
    returns_required : bool, default True
        False lets a panel pass that holds no return at all, such as the live month alone.

    Raises
    ------
    PanelError
        Naming each problem, the first three dates or assets at fault, their number, and
        what to do.

    Warns
    -----
    RvraeWarning
        If a return is below -1, which an unlevered asset cannot have.

    Notes
    -----
    A skipped month is a problem, and so is a skipped week in a weekly panel; a daily
    panel has holidays and need only be sorted. Reads every value once: O(T N P).
    """
    validate_panel(panel, returns_required=returns_required)
    _warn_below_minus_one(panel)


def validate_panel(panel: xr.Dataset, *, returns_required: bool = True) -> None:
    """Do as :func:`check_panel` and keep quiet about what is odd but usable."""
    if not isinstance(panel, xr.Dataset):
        raise PanelError(
            f"`panel` must be an xarray.Dataset; got {type(panel).__name__}. "
            "Make one from a long table with from_frame."
        )
    problems = list(_structure_problems(panel))
    if not problems:
        problems += _label_problems(panel)
        problems += _value_problems(panel, returns_required)
    raise_problems("`panel`", problems)


def _structure_problems(panel: xr.Dataset) -> Iterator[str]:
    for name, dims in _DIMS.items():
        if name not in panel.variables:
            if name in _REQUIRED:
                have = ", ".join(map(str, panel.data_vars)) or "none"
                yield f"no variable `{name}`; the variables are: {have}."
            continue
        variable = panel[name]
        if variable.dims != dims:
            yield (
                f"`{name}` must have dims {dims}; got {variable.dims}. "
                "Rename or transpose them with xarray."
            )
        elif 0 in variable.shape:
            yield f"`{name}` is empty: its shape is {variable.shape}."
        elif variable.dtype.kind != "f":
            yield (
                f"`{name}` must be of a float dtype; got {variable.dtype}. "
                f"Convert it with .astype(float), missing values to NaN."
            )
    for dim in (TIME, ASSET, CHARACTERISTIC, FEATURE):
        if dim in panel.dims and dim not in panel.coords:
            yield f"dimension `{dim}` has no labels; add them with assign_coords."


def _label_problems(panel: xr.Dataset) -> Iterator[str]:
    for dim in (ASSET, CHARACTERISTIC, FEATURE):
        if dim not in panel.coords:
            continue
        labels = panel.indexes[dim]
        bad = [v for v in labels.tolist() if not isinstance(v, str) or not v]
        if bad:
            yield (
                f"`{dim}` labels must be non-empty strings; got {first_three(map(repr, bad))}. "
                "from_frame turns ids into strings."
            )
        repeated = labels[labels.duplicated()].unique()
        if len(repeated):
            yield f"repeated `{dim}` labels: {first_three(repeated)}. Keep one of each."
    yield from _time_problems(panel)
    for name in [None, *panel.variables]:
        attrs = panel.attrs if name is None else panel.variables[name].attrs
        odd = [k for k, v in attrs.items() if not isinstance(v, str | int | float)]
        if odd:
            owner = "the panel" if name is None else f"`{name}`"
            yield (
                f"attributes of {owner} must be strings or numbers; {first_three(odd)} "
                "are not. Encode nested ones with json.dumps."
            )


def _time_problems(panel: xr.Dataset) -> Iterator[str]:
    times = panel[TIME].values
    if times.dtype.kind != "M":
        yield f"`time` must be datetime64; got {times.dtype}. from_frame reads dates."
        return
    try:
        frequency = check_frequency(panel.attrs.get("frequency", "monthly"))
    except ConfigError as error:
        yield f"{error} Set panel.attrs['frequency']."
        return
    missing = np.isnat(times)
    if missing.any():
        yield f"{missing.sum()} dates of `time` are missing (NaT). Drop or date those rows."
        return
    stamps = pd.DatetimeIndex(times)
    days = np.datetime_as_string(times, "D")
    if frequency == "monthly":
        off = stamps != month_end(stamps)
        if off.any():
            yield (
                f"dates of `time` must be month ends; got {first_three(days[off])}. "
                "from_frame moves any day of a month to its end."
            )
    repeated = stamps.duplicated()
    if repeated.any():
        yield f"repeated dates of `time`: {first_three(days[repeated])}. Keep one row of each."
    if not stamps.is_monotonic_increasing:
        back = np.flatnonzero(np.diff(times) < np.timedelta64(0, "ns")) + 1
        yield f"`time` is not sorted, it goes back at {first_three(days[back])}. Use sortby."
    if stamps.is_monotonic_increasing and not repeated.any():
        yield from _gap_problems(times, days, panel.attrs.get("frequency", "monthly"))


def _gap_problems(times: NDArray[Any], days: NDArray[Any], frequency: str) -> Iterator[str]:
    gaps = skipped_rows(times, check_frequency(frequency))
    if gaps:
        unit = "months" if frequency == "monthly" else "weeks"
        yield (
            f"`time` skips {unit}: {first_three(gaps)}. Add the missing {unit} "
            "(all NaN where nothing is known) or cut the panel at the gap."
        )
    if frequency == "weekly":
        off = np.flatnonzero(np.diff(times) % np.timedelta64(7, "D") != np.timedelta64(0, "D")) + 1
        if len(off):
            yield (
                f"`time` is not in steps of seven days at {first_three(days[off])}. "
                "from_frame(..., frequency='weekly') moves any day of a week to its end."
            )


def _cells(panel: xr.Dataset, at: NDArray[np.bool_]) -> str:
    """Name the first three cells where ``at`` (time, asset) is true, and their number."""
    rows, columns = np.nonzero(at)
    dates = panel[TIME].values[rows[:3]].astype("datetime64[D]")
    assets = panel[ASSET].values[columns[:3]]
    labels = [f"{day} {asset}" for day, asset in zip(dates, assets, strict=True)]
    return first_three(labels, len(rows))


def _value_problems(panel: xr.Dataset, returns_required: bool) -> Iterator[str]:
    yield from _return_problems(panel, returns_required)
    yield from _characteristic_problems(panel)
    if WEIGHT in panel:
        weight = panel[WEIGHT].values
        bad = np.isinf(weight) | (weight < 0)
        if bad.any():
            yield f"`weight` must be finite and not negative; it is not at {_cells(panel, bad)}."
    if RISK_FREE in panel:
        days = panel[TIME].values.astype("datetime64[D]")
        bad = np.isinf(panel[RISK_FREE].values)
        if bad.any():
            yield f"`risk_free` is infinite at {first_three(days[bad])}."
    if CONTEXT in panel:
        values = panel[CONTEXT].values
        bad = ~np.isfinite(values).all(axis=0)
        if bad.any():
            names = panel.indexes[FEATURE][bad]
            yield (
                f"`context` has NaN or infinite values in {first_three(names)}. "
                "Fill them with what was known at the time; market_context does."
            )


def _return_problems(panel: xr.Dataset, required: bool) -> Iterator[str]:
    returns = panel[RETURNS].values
    n_finite = n_large = 0
    any_infinite = False
    for some in pieces(returns):
        finite = np.isfinite(returns[some])
        n_finite += int(finite.sum())
        n_large += int((finite & (np.abs(returns[some]) > _PERCENT_MEDIAN)).sum())
        any_infinite |= bool(np.isinf(returns[some]).any())
    if any_infinite:
        yield f"`returns` are infinite at {_cells(panel, np.isinf(returns))}. Set them to NaN."
    if not n_finite:
        if required:
            yield "`returns` holds no observed return. Check the column and the dates."
    # half of them must be large for the median to be; only then is it worth a copy of them all
    elif 2 * n_large >= n_finite and (median := _median_size(returns)) > _PERCENT_MEDIAN:
        yield (
            f"`returns` look like percent: the median absolute return is {median:.3g}, "
            "so decimals are expected (0.01 for 1 %). Divide by 100."
        )


def _median_size(returns: NDArray[Any]) -> float:
    """Median absolute finite return."""
    return float(np.median(np.abs(returns[np.isfinite(returns)])))


def _characteristic_problems(panel: xr.Dataset) -> Iterator[str]:
    values = panel[CHARACTERISTICS]
    names = panel.indexes[CHARACTERISTIC]
    infinite = np.zeros(values.shape[:2], bool)
    infinite_names = np.zeros(len(names), bool)
    present = np.zeros(len(names), bool)
    outside = 0.0
    for first, block in cached_blocks(values):
        largest = float(np.fmax.reduce(np.abs(block), axis=None, initial=0.0))
        if np.isinf(largest):
            bad = np.isinf(block)
            infinite[first : first + len(block)] = bad.any(axis=-1)
            infinite_names |= bad.any(axis=(0, 1))
        if not present.all():  # mostly settled by the first months
            present |= ~np.isnan(block).all(axis=(0, 1))
        outside = max(outside, largest)
        del block
    if infinite_names.any():
        yield (
            f"infinite characteristics in {first_three(names[infinite_names])}, at "
            f"{_cells(panel, infinite)}. Set them to NaN."
        )
    if not present.all():
        yield (
            f"characteristics without a single value: {first_three(names[~present])}. "
            "Drop them, or look where they were lost."
        )
    if panel.attrs.get("transform") == "rank" and outside > 1.0:
        yield (
            "the attribute `transform` says rank, yet characteristics leave [-1, 1]. "
            "Set it to 'none' and use rank_characteristics."
        )


def _warn_below_minus_one(panel: xr.Dataset) -> None:
    returns = panel[RETURNS].values
    if any((returns[some] < -1.0).any() for some in pieces(returns)):
        at = _cells(panel, returns < -1.0)
        warnings.warn(
            f"`returns` are below -1 at {at}: more than everything was lost. "
            "Look for bad prices or percent returns.",
            RvraeWarning,
            stacklevel=3,
        )
