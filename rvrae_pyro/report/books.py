"""Portfolios that anybody could hold: known before the month, made from the forecast."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from rvrae_pyro.names import ASSET, CHAIN, DRAW, RETURNS, TIME

__all__ = ["BEST", "EQUAL", "SPREAD", "fifths", "standard_books"]

EQUAL: Final = "Equal weights"
BEST: Final = "Best fifth by mean"
SPREAD: Final = "Best fifth less worst fifth"
_SHARE: Final = 0.2


def fifths(mean: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Give equal weights to the fifth with the highest means, and to that with the lowest.

    Parameters
    ----------
    mean : DataArray (time, asset)
        NaN where there is no forecast. At least one asset is in each fifth; ties go by position.

    Returns
    -------
    high, low : DataArray (time, asset)
        Each sums to one, 0 in months without a forecast.
    """
    values = mean.transpose(TIME, ASSET).values
    count = np.isfinite(values).sum(axis=1, keepdims=True)
    size = np.maximum(1, np.floor(_SHARE * count))
    up = np.where(np.isfinite(values), values, np.inf).argsort(axis=1, kind="stable")
    place = up.argsort(axis=1, kind="stable")
    known = np.isfinite(values)
    like = mean.transpose(TIME, ASSET)
    low = like.copy(data=np.where(known & (place < size), 1.0 / size, 0.0))
    high = like.copy(data=np.where(known & (place >= count - size), 1.0 / size, 0.0))
    return high, low


def standard_books(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """Weights (time, asset) by name: equal, the best fifth, and the best less the worst."""
    mean = tree["predictions"].to_dataset()[RETURNS].mean((CHAIN, DRAW))
    known = mean.notnull()
    equal = (known / known.sum(ASSET)).fillna(0.0)
    high, low = fifths(mean)
    return {EQUAL: equal, BEST: high, SPREAD: high - low}
