"""Checks of a panel, and which of its cells are listed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.calendar import check_frequency, last_days, skipped_rows
from rvrae_pyro.data.chunks import row_blocks
from rvrae_pyro.errors import ConfigError, PanelError, warn_user
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


def raise_problems(subject: str, problems: Sequence[str], several: str = "has {} problems") -> None:
    """Raise one ``PanelError`` that lists every problem; return if there is none.

    ``several`` follows the subject where there is more than one, with their number.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise PanelError(f"{subject}: {problems[0]}")
    listing = "\n".join(f"  {i}. {text}" for i, text in enumerate(problems, 1))
    raise PanelError(f"{subject} {several.format(len(problems))}:\n{listing}")


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
    values = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    return xr.DataArray(
        scan_cells(values).listed,
        dims=(TIME, ASSET),
        coords={k: v for k, v in coords.items() if CHARACTERISTIC not in v.dims},
        name="listed",
    )


@dataclass
class CellScan:
    """Listed and incomplete cells of a panel's characteristics.

    Attributes
    ----------
    listed : bool array of shape (n_times, n_assets)
        Cells with at least one characteristic.
    present, infinite_names : bool array of shape (n_characteristics,)
        Characteristics with at least one value; those that are infinite somewhere.
    infinite : bool array of shape (n_times, n_assets), or None
        Cells with an infinite characteristic; None without any.
    n_missing : int
        Characteristics that listed cells lack.
    holes : list of (time, asset) positions
        The first three listed cells that lack any.
    largest : float
        Largest absolute value; 0 without any.
    """

    listed: NDArray[np.bool_]
    present: NDArray[np.bool_]
    infinite_names: NDArray[np.bool_]
    infinite: NDArray[np.bool_] | None = None
    n_missing: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    largest: float = 0.0


def scan_cells(characteristics: xr.DataArray | xr.Variable) -> CellScan:
    """Scan characteristics (time, asset, characteristic) once, in memory or on disk."""
    n_times, n_assets, n = characteristics.shape
    scan = CellScan(np.empty((n_times, n_assets), bool), np.zeros(n, bool), np.zeros(n, bool))
    for first, block in row_blocks(characteristics):
        for t, month in enumerate(block, first):
            missing = np.isnan(month)
            scan.listed[t] = listed = ~missing.all(axis=-1)
            scan.present |= ~missing.all(axis=0)
            lacking = missing.sum(axis=-1) * listed
            scan.n_missing += int(lacking.sum())
            scan.holes += [(t, int(i)) for i in np.flatnonzero(lacking)[: 3 - len(scan.holes)]]
            size = np.abs(month)
            scan.largest = max(scan.largest, float(np.fmax.reduce(size, axis=None, initial=0.0)))
            if scan.largest == np.inf:
                if scan.infinite is None:
                    scan.infinite = np.zeros(scan.listed.shape, bool)
                infinite = np.isinf(month)
                scan.infinite[t] = infinite.any(axis=-1)
                scan.infinite_names |= infinite.any(axis=0)
        del block  # or it would stay while the next is read
    return scan


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


def validate_panel(panel: xr.Dataset, *, returns_required: bool = True) -> CellScan:
    """Do as :func:`check_panel`, without its warnings, and return the scan of the cells."""
    if not isinstance(panel, xr.Dataset):
        raise PanelError(
            f"`panel` must be an xarray.Dataset; got {type(panel).__name__}. "
            "Make one from a long table with from_frame."
        )
    raise_problems("`panel`", list(_structure_problems(panel)))
    scan = scan_cells(panel.variables[CHARACTERISTICS])
    problems = [
        *_label_problems(panel),
        *_return_problems(panel, returns_required),
        *_characteristic_problems(panel, scan),
        *_other_problems(panel),
    ]
    raise_problems("`panel`", problems)
    return scan


def _structure_problems(panel: xr.Dataset) -> Iterator[str]:
    for name, dims in _DIMS.items():
        if name not in panel.variables:
            if name in _REQUIRED:
                have = ", ".join(map(str, panel.data_vars)) or "none"
                yield f"no variable `{name}`; the variables are: {have}."
            continue
        variable = panel.variables[name]
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
        if dim in panel.dims and dim not in panel.indexes:
            yield f"dimension `{dim}` has no labels; add them with assign_coords."


def _label_problems(panel: xr.Dataset) -> Iterator[str]:
    for dim in (ASSET, CHARACTERISTIC, FEATURE):
        if dim not in panel.coords:
            continue
        labels = panel.indexes[dim]
        # the index has cached most of it
        plain = labels.inferred_type == "string" and not labels.hasnans and "" not in labels
        bad = [] if plain else [v for v in labels.tolist() if not isinstance(v, str) or not v]
        if bad:
            yield (
                f"`{dim}` labels must be non-empty strings; got {first_three(map(repr, bad))}. "
                "from_frame turns ids into strings."
            )
        if not labels.is_unique:
            repeated = labels[labels.duplicated()].unique()
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
    times = panel.variables[TIME].values
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
    stamps = cast(pd.DatetimeIndex, panel.indexes[TIME])  # of datetime64, as was seen above
    days = np.datetime_as_string(times, "D")
    if frequency == "monthly":
        off = times != last_days(times)
        if off.any():
            yield (
                f"dates of `time` must be month ends; got {first_three(days[off])}. "
                "from_frame moves any day of a month to its end."
            )
    if not stamps.is_unique:
        repeated = days[stamps.duplicated()]
        yield f"repeated dates of `time`: {first_three(repeated)}. Keep one row of each."
    if not stamps.is_monotonic_increasing:
        back = np.flatnonzero(np.diff(times) < np.timedelta64(0, "ns")) + 1
        yield f"`time` is not sorted, it goes back at {first_three(days[back])}. Use sortby."
    if stamps.is_monotonic_increasing and stamps.is_unique:
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
    dates = panel.variables[TIME].values[rows[:3]].astype("datetime64[D]")
    assets = panel.variables[ASSET].values[columns[:3]]
    labels = [f"{day} {asset}" for day, asset in zip(dates, assets, strict=True)]
    return first_three(labels, len(rows))


def _other_problems(panel: xr.Dataset) -> Iterator[str]:
    if WEIGHT in panel:
        weight = panel.variables[WEIGHT].values
        bad = np.isinf(weight) | (weight < 0)
        if bad.any():
            yield f"`weight` must be finite and not negative; it is not at {_cells(panel, bad)}."
    if RISK_FREE in panel:
        days = panel.variables[TIME].values.astype("datetime64[D]")
        bad = np.isinf(panel.variables[RISK_FREE].values)
        if bad.any():
            yield f"`risk_free` is infinite at {first_three(days[bad])}."
    if CONTEXT in panel:
        values = panel.variables[CONTEXT].values
        bad = ~np.isfinite(values).all(axis=0)
        if bad.any():
            names = panel.indexes[FEATURE][bad]
            yield (
                f"`context` has NaN or infinite values in {first_three(names)}. "
                "Fill them with earlier values, as market_context does."
            )


def _return_problems(panel: xr.Dataset, required: bool) -> Iterator[str]:
    returns = panel.variables[RETURNS].values
    n_finite = sum(int(np.isfinite(row).sum()) for row in returns)
    n_large = sum(int((np.abs(row) > _PERCENT_MEDIAN).sum()) for row in returns)
    if any(np.isinf(row).any() for row in returns):
        yield f"`returns` are infinite at {_cells(panel, np.isinf(returns))}. Set them to NaN."
    if not n_finite:
        if required:
            yield "`returns` holds no observed return. Check the column and the dates."
    # half of them must be large for the median to be; only then is it worth a copy of them all
    elif 2 * n_large >= n_finite:
        known = returns[np.isfinite(returns)]
        median = float(np.median(np.abs(known)))
        if median <= _PERCENT_MEDIAN:
            return
        remedy = "Divide by 100; on the command line, add --percent."
        if (known > 0).mean() > 0.99:
            remedy += " If they are 1 plus the return, subtract 1; prices need their changes."
        yield (
            f"`returns` look like percent: the median absolute return is {median:.3g}, "
            f"so decimals are expected (0.01 for 1 %). {remedy}"
        )


def _characteristic_problems(panel: xr.Dataset, scan: CellScan) -> Iterator[str]:
    names = panel.indexes[CHARACTERISTIC]
    if scan.infinite is not None:
        yield (
            f"infinite characteristics in {first_three(names[scan.infinite_names])}, at "
            f"{_cells(panel, scan.infinite)}. Set them to NaN."
        )
    if not scan.present.all():
        yield (
            f"characteristics without a single value: {first_three(names[~scan.present])}. "
            "Drop them, or look where they were lost."
        )
    if scan.largest > 1.0 and panel.attrs.get("transform") == "rank":
        yield (
            "the attribute `transform` is rank, yet characteristics leave [-1, 1]. "
            "Set it to 'none' and use rank_characteristics."
        )


def _warn_below_minus_one(panel: xr.Dataset) -> None:
    returns = panel.variables[RETURNS].values
    if any((row < -1.0).any() for row in returns):
        at = _cells(panel, returns < -1.0)
        warn_user(
            f"`returns` are below -1 at {at}: more than everything was lost. "
            "Look for bad prices or percent returns."
        )
