"""Characteristics of assets from their own past returns, and statistics of windows of returns."""

from typing import Final, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rvrae_pyro.data.calendar import Frequency
from rvrae_pyro.data.rounding import constant
from rvrae_pyro.errors import PanelError

Floats: TypeAlias = NDArray[np.float64]

_SPANS: Final[dict[Frequency, tuple[int, int]]] = {
    "monthly": (1, 12),
    "weekly": (4, 52),
    "daily": (21, 252),
}
"""Rows of a month and of a year."""


def past_characteristics(returns: Floats, frequency: Frequency = "monthly") -> dict[str, Floats]:
    """Make characteristics of every row from returns of the rows before it.

    Parameters
    ----------
    returns : array of shape (n_times, n_assets)
        Simple decimal returns; NaN where there is none.
    frequency : {"monthly", "weekly", "daily"}

    Returns
    -------
    dict from name to array of shape (n_times + 1, n_assets)
        The last row follows the returns: the live one. NaN where history is too short, and in all
        rows of an asset without a return in the row before: it is not listed there.
        Characteristics without a single value are left out.

    Raises
    ------
    PanelError
        If there is no return, or none of the windows has enough of them.

    Notes
    -----
    In months before month t: ``mom_1m`` (reversal), ``mom_6m``, ``mom_12m`` and ``mom_36m`` as in
    :func:`momenta`; ``vol_12m`` standard deviation and ``maxret_12m`` maximum over t-12 .. t-1;
    ``beta_36m`` slope on the equal-weight mean of all assets over t-36 .. t-1. Momenta need
    every month of their window, the others half of them. In weekly and daily panels a month is 4
    weeks or 21 days, and a year 52 weeks or 252 days.
    """
    returns = np.ascontiguousarray(returns)  # one memory layout, so that sums are bit-equal
    month, year = _SPANS[frequency]
    n_times, n_assets = returns.shape
    features = momenta(returns, month, year)
    seen = ~np.isnan(returns)
    total = np.nansum(returns, axis=1)
    market = total / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)
    names = ("vol_12m", "maxret_12m", "beta_36m")
    features |= {name: np.full((n_times + 1, n_assets), np.nan) for name in names}
    for row in range(1, n_times + 1):
        past = returns[max(0, row - year) : row]
        half = enough(past, year // 2)
        features["vol_12m"][row] = np.where(half, np.sqrt(variance(past, 1)), np.nan)
        features["maxret_12m"][row] = np.where(half, np.fmax.reduce(past), np.nan)
        window = slice(max(0, row - 3 * year), row)
        slope = regression(returns[window], market[window])[0]
        features["beta_36m"][row] = np.where(enough(returns[window], 3 * year // 2), slope, np.nan)
    recent = np.vstack([np.zeros((1, n_assets), dtype=bool), seen])
    known = {name: np.where(recent, values, np.nan) for name, values in features.items()}
    found = {name: values for name, values in known.items() if not np.isnan(values).all()}
    if not found:
        raise PanelError(
            "`returns` holds no observed return, or not enough for any characteristic. Check the "
            "column and the dates."
        )
    return found


def momenta(returns: Floats, month: int = 1, year: int = 12) -> dict[str, Floats]:
    """Compound past returns: row t, of n_times + 1, knows rows before t.

    ``mom_1m`` over t-1; ``mom_6m`` and ``mom_12m`` over t-6 (t-12) .. t-2; ``mom_36m`` over
    t-36 .. t-13. NaN where any return is missing. ``month`` and ``year`` are numbers of rows.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        past = windows(np.log1p(returns), 3 * year)
    last = windows(returns, 1)[..., 0] if month == 1 else np.expm1(past[..., -month:].sum(axis=-1))
    return {
        "mom_1m": last,
        "mom_6m": np.expm1(past[..., -year // 2 : -month].sum(axis=-1)),
        "mom_12m": np.expm1(past[..., -year:-month].sum(axis=-1)),
        "mom_36m": np.expm1(past[..., :-year].sum(axis=-1)),
    }


def windows(values: Floats, length: int) -> Floats:
    """View the ``length`` rows before each row, the live one included.

    Shape (n_times + 1, n_assets, length): row t ends with t-1; NaN before the data.
    """
    padded = np.vstack([np.full((length, values.shape[1]), np.nan), values])
    return sliding_window_view(padded, length, axis=0)


def enough(window: Floats, least: int) -> NDArray[np.bool_]:
    """Test which columns have ``least`` values or more."""
    return np.asarray((~np.isnan(window)).sum(axis=0) >= least)


def mean(window: Floats) -> Floats:
    """Mean of the values of each column; NaN where there is none."""
    count = (~np.isnan(window)).sum(axis=0)
    return np.asarray(np.nansum(window, axis=0) / np.where(count, count, np.nan))


def variance(window: Floats, freedom: int = 0) -> Floats:
    """Variance of the values of each column, divided by their number less ``freedom``."""
    count = (~np.isnan(window)).sum(axis=0) - freedom
    square = np.nansum((window - mean(window)) ** 2, axis=0)
    return np.asarray(square / np.where(count > 0, count, np.nan))


def regression(returns: Floats, market: Floats) -> tuple[Floats, Floats]:
    """Slope and residual standard deviation of each asset's returns on the market's."""
    paired = np.where(np.isnan(returns), np.nan, market[:, None])
    excess, moves = returns - mean(returns), paired - mean(paired)
    spread = np.nansum(moves**2, axis=0)
    moving = ~constant(1.0 + paired, axis=0)
    slope = np.nansum(excess * moves, axis=0) / np.where(moving, spread, np.nan)
    count = (~np.isnan(returns)).sum(axis=0) - 2
    square = np.nansum((excess - slope * moves) ** 2, axis=0)
    return slope, np.sqrt(square / np.where(count > 0, count, np.nan)) + 0.0 * slope
