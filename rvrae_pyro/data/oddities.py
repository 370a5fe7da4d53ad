"""Warnings, before any fit, of valid panels that are most likely wrong."""

import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.lookahead import evenly, find_lookahead, named_like_a_lead
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import warn_user
from rvrae_pyro.names import ASSET, CHARACTERISTIC, CHARACTERISTICS, RETURNS, TIME, WEIGHT

Floats = NDArray[np.floating[Any]]

_CODES: Final = (
    *(-66.0, -77.0, -88.0, -99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -9999.0, -9999.99),
    *(-99999.0, -999999.0, 99.99, 999.0, 999.99, 9999.0, 9999.99, 99999.0, 999999.0),
)
"""Codes of missing values at CRSP, in French's library, in surveys and archives."""

_PERCENT: Final = 0.5
_UNIT: Final = 50.0
"""Factor from which on a lasting jump of the median size is taken for a change of unit."""
_FEW: Final = 3
_ENOUGH: Final = 6


def warn_of_oddities(panel: xr.Dataset, returns: str) -> None:
    """Warn of everything that :func:`find_oddities` finds, a warning each."""
    for text in find_oddities(panel, returns):
        warn_user(text)


def find_oddities(panel: xr.Dataset, returns: str = RETURNS) -> list[str]:
    """List properties of a valid panel that are most likely errors.

    Parameters
    ----------
    panel : Dataset
        One that passes ``check_panel``.
    returns : str
        Name of the column that the returns are from, for the messages.

    Returns
    -------
    list of str
        A sentence or two each, which names the column and the remedy. Empty for nearly all panels
        in order.

    Notes
    -----
    Looks for: characteristics that know the return of their row (:mod:`lookahead`); codes of
    missing values read as numbers; returns in percent in some months or for some assets;
    characteristics whose median size jumps 50-fold for good; returns that are persistent, repeated
    or mostly zero; assets, months and characteristics that are copies of others; ids that differ by
    case or leading zeros only; assets with rows at a lower frequency.
    """
    values = np.asarray(panel[RETURNS].transpose(TIME, ASSET).values, np.float64)
    found: list[str] = []
    if named_like_a_lead(returns) and returns.lower() not in ("target", "label", "y"):
        found.append(
            f"the column of returns, {returns!r}, is named like a later return. A row is dated by "
            "its return: move the dates on by one period, and keep lag=0. read_jkp does so."
        )
    found += find_lookahead(panel)
    found += _codes_in_returns(values, returns)
    found += _mixed_units(panel, values, returns)
    found += _no_returns(values, returns)
    found += _copies(panel, values, returns)
    found += _similar_ids(panel, values)
    found += _sparse_assets(panel, values)
    found += _codes_in_characteristics(panel)
    found += _broken_units(panel)
    found += _copied_characteristics(panel)
    return found


def _codes_in_returns(values: Floats, name: str) -> Iterator[str]:
    """Report a value far from the others that comes again and again, on one side only."""
    seen = values[np.isfinite(values)]
    if len(seen) < 20:
        return
    middle = np.median(seen)
    spread = 1.4826 * np.median(np.abs(seen - middle))
    found, counts = np.unique(seen, return_counts=True)
    suspicious: list[tuple[float, int]] = []
    far = (counts >= 2) & (np.abs(found - middle) >= 3.0 * spread)
    most = np.argsort(-counts * far, kind="stable")[: min(20, int(far.sum()))]
    for value, count in zip(found[most], counts[most], strict=True):
        code = _is_code(value) or _is_code(100.0 * value)
        distance = abs(value - middle)
        if value == -1.0 or spread == 0 or distance < (3.0 if code else 6.0) * spread:
            continue  # -1 is a total loss
        if count < (2 if code else _FEW):
            continue
        # the end of a tail, or the bound of clipped values, has others before it
        along = (seen - middle) * np.sign(value - middle) / distance
        near = (along > 0.7) & (along < 1.3) if code else along > 0.5
        if count > 2 * (near.sum() - count):
            suspicious.append((float(value), int(count)))
    sides = {value > middle for value, _ in suspicious}
    clipped = (
        len(sides) == 2
        and len(suspicious) == 2
        and not any(_is_code(v) or _is_code(100.0 * v) for v, _ in suspicious)
    )
    if suspicious and not clipped:  # winsorised returns repeat the lowest and the highest
        shown = ", ".join(f"{value:g} ({count} times)" for value, count in suspicious[:3])
        yield (
            f"column {name!r} repeats a value far from the others: {shown}. If it marks a "
            "missing return, set it to NaN."
        )


def _is_code(value: float) -> bool:
    return any(abs(value - code) <= 1e-6 * abs(code) for code in _CODES)


def _mixed_units(panel: xr.Dataset, values: Floats, name: str) -> Iterator[str]:
    """Report months or assets whose returns look like percent while the others do not."""
    size = np.abs(np.where(np.isfinite(values), values, np.nan))
    for axis, dim, least in ((1, TIME, 5), (0, ASSET, _ENOUGH)):
        middle, known = _medians(size, axis), np.isfinite(size).sum(axis=axis)
        odd = (known >= least) & (middle > _PERCENT)
        if odd.any() and not odd.all():
            labels = panel[dim].values[odd]
            shown = labels.astype("datetime64[D]") if dim == TIME else labels
            yield (
                f"column {name!r} looks like percent on {first_three(shown)}: the median absolute "
                f"return there is above {_PERCENT:g}. Divide these by 100."
            )
            return
    largest = np.nanmax(size) if np.isfinite(size).any() else 0.0
    if largest > 50.0:
        row, column = np.unravel_index(np.nanargmax(size), size.shape)
        day = panel[TIME].values[row].astype("datetime64[D]")
        yield (
            f"column {name!r} has a return of {values[row, column]:g} on {day} for "
            f"{panel[ASSET].values[column]}: {100 * values[row, column]:.0f} %. Check its unit."
        )


def _medians(size: Floats, axis: int) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without any
        return np.asarray(np.nanmedian(size, axis=axis))


def _no_returns(values: Floats, name: str) -> Iterator[str]:
    """Report values that are persistent, repeated or zero, as those of returns are not."""
    seen = np.isfinite(values)
    pair = seen[1:] & seen[:-1]
    if seen.sum() >= 50 and (values[seen] == 0).mean() >= 0.4:
        yield (
            f"column {name!r} is 0 in {(values[seen] == 0).mean():.0%} of its cells. If these are "
            "missing returns, set them to NaN."
        )
        return
    if pair.sum() < 50:
        return
    now, before = values[1:], values[:-1]
    again = (now[pair] == before[pair]) & (now[pair] != 0)
    if again.mean() > 0.1:
        yield (
            f"column {name!r} repeats the value of the row before in {again.mean():.0%} of its "
            "cells: prices or returns that were filled forward. Set the copies to NaN."
        )
        return
    rows = [np.flatnonzero(both) for both in pair]
    rows_used = [i for i, both in enumerate(rows) if len(both) >= 5]
    if len(rows_used) >= 5:
        masked = [np.where(pair, v, np.nan)[rows_used] for v in (now, before)]
        ranked = [pd.DataFrame(v).rank(axis=1) for v in masked]
        across = ranked[0].corrwith(ranked[1], axis=1).dropna()
        mean, error = across.mean(), across.std() / np.sqrt(max(len(across), 1))
        if len(across) >= 5 and mean >= 0.6 and mean >= 5.0 * error:
            yield (
                f"column {name!r} is persistent: its rank correlation with the row before is "
                f"{mean:.2f}. Returns are not; levels, characteristics and returns over several "
                "periods are."
            )


def _copies(panel: xr.Dataset, values: Floats, name: str) -> Iterator[str]:
    """Report assets, and months, whose returns are those of another."""
    filled = np.where(np.isfinite(values), values, np.inf)  # NaN equals nothing
    enough = (np.isfinite(values) & (values != 0)).sum(axis=0) >= _ENOUGH
    columns = np.flatnonzero(enough)
    if len(columns) > 1:
        keys = pd.Series([filled[:, k].tobytes() for k in columns])
        twice = columns[keys.duplicated().to_numpy()]
        if len(twice):
            yield (
                f"column {name!r}: assets with the returns of another asset, in every row: "
                f"{first_three(panel[ASSET].values[twice])}. Keep one of each."
            )
    both = np.isfinite(values[1:]) & np.isfinite(values[:-1]) & (values[1:] != 0)
    equal = (both & (values[1:] == values[:-1])).sum(axis=1)
    rows = np.flatnonzero((both.sum(axis=1) >= 5) & (equal > 0.9 * both.sum(axis=1)))
    if len(rows) and len(rows) < 0.5 * len(values):
        days = panel[TIME].values[rows + 1].astype("datetime64[D]")
        yield (
            f"column {name!r} repeats the whole row before on {first_three(days)}. Remove the copy."
        )


def _similar_ids(panel: xr.Dataset, values: Floats) -> Iterator[str]:
    """Report ids that differ by case or leading zeros only and never appear in one row."""
    ids = [str(v) for v in panel[ASSET].values]
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(ids):
        groups.setdefault(name.casefold().lstrip("0"), []).append(k)
    seen = np.isfinite(values)
    found = [
        " and ".join(repr(ids[k]) for k in group)
        for group in groups.values()
        if len(group) > 1 and seen[:, group].sum(axis=1).max() <= 1
    ]
    if found:
        yield (
            "assets whose ids differ by case or leading zeros only, and which never have a return "
            f"in one row: {first_three(found)}. If they are one asset, write its id in one way."
        )


def _copied_characteristics(panel: xr.Dataset) -> Iterator[str]:
    """Report characteristics with the values of another."""
    part = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    block = np.asarray(part[evenly(len(part), 12)].values, np.float64)
    first: dict[bytes, int] = {}
    twins: list[str] = []
    names = [str(name) for name in panel[CHARACTERISTIC].values]
    for k, name in enumerate(names):
        x = block[:, :, k]
        if len(np.unique(x[np.isfinite(x)])) < _ENOUGH:
            continue  # rare dummies and constants may agree by chance
        other = first.setdefault(np.where(np.isfinite(x), x, np.inf).tobytes(), k)
        # some rows agree; do all?
        if other != k and np.array_equal(part[:, :, k], part[:, :, other], equal_nan=True):
            twins.append(f"{name!r} (as {names[other]!r})")
    if twins:
        yield f"characteristics with the values of another: {', '.join(twins)}. Keep one of each."


def _sparse_assets(panel: xr.Dataset, values: Floats) -> Iterator[str]:
    """Report assets whose rows are all several periods apart."""
    if len(values) < 3 * _ENOUGH:
        return
    odd: list[str] = []
    steps: set[int] = set()
    for k in range(values.shape[1]):
        rows = np.flatnonzero(np.isfinite(values[:, k]))
        gaps = np.diff(rows)
        step = int(np.gcd.reduce(gaps)) if len(rows) > _ENOUGH else 1
        if step > 1:  # also where some of its returns are missing
            odd.append(str(panel[ASSET].values[k]))
            steps.add(step)
    if odd:
        yield (
            f"assets with a return every {min(steps)} rows only: {first_three(odd)}. Theirs are of "
            "a lower frequency than the panel's: the return of several periods does not belong on "
            "the row of one."
        )


def _broken_units(panel: xr.Dataset) -> Iterator[str]:
    """Report characteristics whose size jumps once and for all, as where a unit changes."""
    part = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    if len(part) < 2 * _ENOUGH:
        return
    size = np.abs(np.asarray(part[:, evenly(part.shape[1], 200)].values, np.float64))
    for k, name in enumerate(panel[CHARACTERISTIC].values):
        x = np.where(size[:, :, k] > 0, size[:, :, k], np.nan)
        rows = np.flatnonzero(np.isfinite(x).sum(axis=1) >= 5)
        if len(rows) < 2 * _ENOUGH:
            continue
        middle = np.log(_medians(x[rows], 1))
        steps = np.diff(middle)
        at = int(np.argmax(np.abs(steps)))
        rest = np.delete(np.abs(steps), at)
        before, after = middle[: at + 1], middle[at + 1 :]
        if min(len(before), len(after)) < 3 or np.abs(steps[at]) < np.log(_UNIT):
            continue
        jump = abs(float(np.median(after) - np.median(before)))
        if jump > np.log(_UNIT) and rest.max() < 0.5 * np.abs(steps[at]):
            day = panel[TIME].values[rows[at + 1]].astype("datetime64[D]")
            yield (
                f"characteristic {str(name)!r} is {np.exp(jump):.3g} times "
                f"{'larger' if steps[at] > 0 else 'smaller'} from {day} on, in the median. If its "
                "unit changes there, use one."
            )


def _codes_in_characteristics(panel: xr.Dataset) -> Iterator[str]:
    """Report codes of missing values that are far from a characteristic's other values."""
    part = panel[CHARACTERISTICS].transpose(TIME, ASSET, CHARACTERISTIC)
    found: list[str] = []
    block = np.asarray(part[evenly(len(part), 120), evenly(part.shape[1], 1000)].values, float)
    named = [(str(v), block[:, :, k]) for k, v in enumerate(panel[CHARACTERISTIC].values)]
    if WEIGHT in panel:
        named.append((WEIGHT, np.asarray(panel[WEIGHT].values, np.float64)))
    for name, x in named:
        seen = x[np.isfinite(x)]
        for code in (seen.min(), seen.max()) if len(seen) else ():
            here = seen == code
            if not (_is_code(code) or _is_code(100.0 * code)) or not _FEW <= here.sum() < len(seen):
                continue
            rest = seen[~here]
            low, high = np.quantile(rest, (0.01, 0.99))
            if min(abs(code - rest.min()), abs(code - rest.max())) > 0.5 * (high - low):
                found.append(f"{name!r} ({code:g}, {here.sum()} times)")
                break
    if found:
        yield (
            f"characteristics with a value that marks a missing one elsewhere: "
            f"{', '.join(found)}. If it does here, set it to NaN."
        )
