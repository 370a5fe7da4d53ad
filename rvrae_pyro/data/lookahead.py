"""Characteristics that contain the return of their row: by name, value or change."""

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.names import CHARACTERISTIC, CHARACTERISTICS, RETURNS

Floats = NDArray[np.floating[Any]]

_LEADS: Final = frozenset(
    {"lead", "leads", "led", "fwd", "forward", "next", "future", "fut", "ahead", "tomorrow"}
    | {"subsequent", "following", "f", "tp1"}
)
_RETURNS: Final = frozenset(
    {"ret", "rets", "retx", "retadj", "return", "returns", "rtn", "xret", "exret", "exc"}
    | {"excess", "alpha", "pnl", "perf", "performance"}
)
_TARGETS: Final = frozenset(
    {"target", "targets", "label", "labels", "y", "true", "ytrue", "outcome", "response"}
    | {"dependent"}
)
_HORIZON: Final = re.compile(r"^(\d+|m|mo|mon|month|months|d|w|q|h|k|t|p|plus|lag|simple|log)$")

_ROWS: Final = 36  # rows of a panel that are inspected
_ASSETS: Final = 500
_EQUAL_SHARE: Final = 0.3
_TRACKS: Final = 0.5
_MARKET_TRACKS: Final = 0.8
_STALE: Final = 0.9
_DEVIATIONS: Final = 5.0


def named_like_a_lead(name: str) -> bool:
    """Return whether a column is named like a later return, or a target.

    >>> [named_like_a_lead(name) for name in ("ret_exc_lead1m", "fwd_ret", "target", "fwd_pe")]
    [True, True, True, False]
    """
    parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    words = re.findall(r"[a-z]+|\d+", parts)
    rest = [word for word in words if not _HORIZON.match(word)]
    if rest and all(word in _TARGETS for word in rest):
        return True
    if any(word in _RETURNS for word in words) and "on" not in words:  # but return on equity
        if re.search(r"(?<![a-z])t_?(p|plus)_?\d|(?<![a-z])plus_?\d|\+\s*\d", parts):
            return True
        return any(word in _LEADS or word in _TARGETS - {"y"} for word in words)
    return any(_glued(word) for word in words)


def _glued(word: str) -> bool:
    """Return whether a word is a lead and a return without anything between, such as 'fwdret'."""
    leads = _LEADS - {"f"} | {"target"}
    return any(
        (word.startswith(lead) and word.removeprefix(lead) in _RETURNS)
        or (word.endswith(lead) and word.removesuffix(lead) in _RETURNS)
        for lead in leads
    )


def find_lookahead(panel: xr.Dataset) -> list[str]:
    """Name the characteristics that contain the return of their row, or a later one.

    Parameters
    ----------
    panel : Dataset
        One that passes ``check_panel``. At most 36 rows and 500 assets of it are read, evenly
        spaced.

    Returns
    -------
    list of str
        One sentence for each kind of finding, which names the characteristics.

    Notes
    -----
    A characteristic is reported if it equals the return of its row or the one after in 30 % of the
    cells, or if the mean over months of its rank correlation with one of these, with the return
    compounded over 3 or 12 rows from its own on, or between its change since the row before and
    the return of its row, is 0.5 or more in size, 5 standard deviations of independent ranks, and
    4 standard errors. One that is the same for all assets is compared with the mean
    return of the row in time. Data known before a return do not come near these values.
    """
    names = [str(name) for name in panel[CHARACTERISTIC].values]
    named = [name for name in names if named_like_a_lead(name)]
    found: dict[str, list[str]] = {}
    if named:
        found["are named like a later return or a target"] = named
    sample = _Sample.of(panel)
    if sample is not None:
        for k, name in enumerate(names):
            finding = sample.finding(k)
            if finding is not None:
                found.setdefault(finding, []).append(name)
    remedy = "drop them, or pass lag=1 if the row of t holds data known at the end of t."
    if panel.attrs.get("lag") == 1:
        remedy = "drop them, as lag=1 has moved them on by one row already."
    return [
        f"characteristics {finding}: {', '.join(map(repr, some))}. A characteristic must be known "
        f"before the return of its row: {remedy}"
        if finding != _OLD
        else f"characteristics {finding}: {', '.join(map(repr, some))}. Pass lag=0 if the table "
        "holds them on the row of the return that they predict."
        for finding, some in found.items()
    ]


_SAME: Final = "equal the return of their own row"
_NEXT: Final = "equal the return of the row after theirs"
_OWN_TRACK: Final = "track the return of their own row"
_NEXT_TRACK: Final = "track the return of the row after theirs"
_LONG_TRACK: Final = "track the return over several rows from theirs on"
_CHANGE: Final = "change with the return of their own row, at whose end alone they are known"
_MARKET: Final = "track the mean return of their own row"
_OLD: Final = "change with the return of two rows before, a row later than they could"


@dataclass(frozen=True)
class _Sample:
    """Some rows of a panel, and the returns that their characteristics must not know.

    ``values`` and ``before`` (n_rows, n_assets, n_characteristics) are of the rows and of those
    before; ``own``, ``later`` and ``two_before`` (n_rows, n_assets) returns of the rows, of those
    after them, and of two rows before; ``quarter`` and ``year`` returns compounded over 3 and 12
    rows, in rows that far apart, NaN in the others.
    """

    values: Floats
    before: Floats
    own: Floats
    later: Floats
    two_before: Floats
    quarter: Floats
    year: Floats

    @classmethod
    def of(cls, panel: xr.Dataset) -> "_Sample | None":
        returns = np.asarray(panel[RETURNS].transpose("time", "asset").values, np.float64)
        seen = np.flatnonzero(np.isfinite(returns).any(axis=1))
        if not len(seen):
            return None
        rows = seen[evenly(len(seen), _ROWS)]
        assets = evenly(returns.shape[1], _ASSETS)
        part = panel[CHARACTERISTICS].transpose("time", "asset", "characteristic")
        part = part[:, assets]
        padded = np.pad(returns[:, assets], ((2, 12), (0, 0)), constant_values=np.nan)
        at = rows + 2
        return cls(
            values=np.asarray(part[rows].values, np.float64),
            before=np.where(
                (rows > 0)[:, None, None],
                np.asarray(part[np.maximum(rows - 1, 0)].values, np.float64),
                np.nan,
            ),
            own=padded[at],
            later=padded[at + 1],
            two_before=padded[at - 2],
            quarter=_compounded(padded, at, 3),
            year=_compounded(padded, at, 12),
        )

    def finding(self, k: int) -> str | None:
        """Describe what characteristic ``k`` knows of returns; None if nothing shows."""
        x = self.values[:, :, k]
        same = _same_for_all(x)
        if same is not None:
            return _MARKET if self._tracks_market(same) else None
        for target, text in ((self.own, _SAME), (self.later, _NEXT)):
            if _equal(x, target):
                return text
        for target, text in (
            (self.own, _OWN_TRACK),
            (self.later, _NEXT_TRACK),
            (self.quarter, _LONG_TRACK),
            (self.year, _LONG_TRACK),
        ):
            if _tracks(x, target, _TRACKS):
                return text
        change = _change(x, self.before[:, :, k])
        if _tracks(change, self.own, _TRACKS):
            return _CHANGE
        return _OLD if _tracks(change, self.two_before, _STALE) else None

    def _tracks_market(self, same: Floats) -> bool:
        count = np.isfinite(self.own).sum(axis=1)
        market = np.nansum(self.own, axis=1) / np.where(count, count, np.nan)
        seen = np.isfinite(same) & np.isfinite(market)
        if seen.sum() < 12:
            return False
        rho = _correlation(_ranks(same[seen][None]), _ranks(market[seen][None]))[0]
        return bool(abs(rho) >= max(_MARKET_TRACKS, 4.0 / np.sqrt(seen.sum() - 1)))


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Up to ``most`` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _compounded(returns: Floats, at: NDArray[np.intp], length: int) -> Floats:
    """Compound returns over ``length`` rows, from those of ``at`` that are as far apart."""
    windows = np.stack([returns[at + step] for step in range(length)])
    out: Floats = np.prod(1.0 + windows, axis=0) - 1.0
    last = -length
    for i, row in enumerate(at):
        if row - last < length:
            out[i] = np.nan
        else:
            last = row
    return out


def _same_for_all(x: Floats) -> Floats | None:
    """Value of each row if nearly all rows have one value for all assets; else None."""
    known = np.isfinite(x)
    several = known.sum(axis=1) >= 2
    if not several.any():
        return None
    low = np.where(known, x, np.inf).min(axis=1)
    high = np.where(known, x, -np.inf).max(axis=1)
    flat = (low == high)[several]
    return np.where(known.any(axis=1), low, np.nan) if flat.mean() >= 0.9 else None


def _equal(x: Floats, target: Floats) -> bool:
    both = np.isfinite(x) & np.isfinite(target) & (target != 0)
    if both.sum() < 10:
        return False
    gap = np.abs(x[both] - target[both])
    return bool((gap <= 1e-6 * np.abs(target[both])).mean() >= _EQUAL_SHARE)


def _change(x: Floats, before: Floats) -> Floats:
    """Change since the row before, relative where all values are above zero."""
    known = np.concatenate([x[np.isfinite(x)], before[np.isfinite(before)]])
    if len(known) and (known > 0).all():
        return np.asarray(np.log(x) - np.log(before))
    return np.asarray(x - before)


def _tracks(x: Floats, target: Floats, least: float) -> bool:
    both = np.isfinite(x) & np.isfinite(target)
    count = both.sum(axis=1)
    rows = count >= 2
    if not rows.any():
        return False
    n = count[rows]
    pair = [_ranks(np.where(both, v, np.nan)[rows]) for v in (x, target)]
    rho = _correlation(*pair)
    known = np.isfinite(rho)
    rho, n = rho[known], n[known]
    if not len(rho):
        return False
    mean, freedom = abs(float(rho.mean())), float((n - 1).sum())
    if len(rho) < 6:
        return bool(mean >= 0.97 and freedom >= 12)
    error = float(rho.std(ddof=1)) / np.sqrt(len(rho))
    return bool(mean >= max(least, _DEVIATIONS / np.sqrt(freedom)) and mean >= 4.0 * error)


def _ranks(x: Floats) -> Floats:
    return pd.DataFrame(x).rank(axis=1).to_numpy()


def _correlation(x: Floats, y: Floats) -> Floats:
    """Correlation of each row over the columns that both have; NaN where one is constant."""
    x, y = (v - np.nanmean(v, axis=1, keepdims=True) for v in (x, y))
    size = np.sqrt(np.nansum(x * x, axis=1) * np.nansum(y * y, axis=1))
    return np.asarray(np.nansum(x * y, axis=1) / np.where(size > 0, size, np.nan))
