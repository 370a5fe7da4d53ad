"""What every simulator shares: ranks, labels, the panel itself."""

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.dates import last_days
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    CONTEXT,
    FACTOR,
    FEATURE,
    RETURNS,
    TIME,
)

Array = NDArray[np.float64]


def month_ends(n_times: int, start: str = "2000-01") -> NDArray[np.datetime64]:
    """Month-end days of ``n_times`` consecutive months from ``start`` (``YYYY-MM``), in ns."""
    try:
        first = np.datetime64(start, "M")
    except ValueError as error:
        raise ConfigError(f"`start` must be a month such as '2000-01'; got {start!r}.") from error
    return last_days(first + np.arange(n_times)).astype("datetime64[ns]")


def cross_sectional_ranks(values: Array) -> Array:
    """Rank each month's finite values to (-1, 1): 2 rank / (N_t + 1) - 1, NaN kept.

    Parameters
    ----------
    values : array of shape (n_times, n_assets, n_characteristics)
        Continuous, so that ties have probability zero and need no rule.

    Notes
    -----
    Uses one month at a time. Cost O(T N P log N).
    """
    ranks = values.argsort(axis=1).argsort(axis=1) + 1.0  # NaN sorts last
    count = np.isfinite(values).sum(axis=1, keepdims=True)
    return np.where(np.isfinite(values), 2.0 * ranks / (count + 1.0) - 1.0, np.nan)


def _labels(prefix: str, count: int) -> list[str]:
    width = len(str(count - 1))
    return [f"{prefix}{i:0{width}d}" for i in range(count)]


def make_panel(
    returns: Array,
    characteristics: Array,
    *,
    truth: Mapping[str, tuple[tuple[str, ...], Array]],
    parameters: Mapping[str, object],
    source: str,
    transform: str,
    start: str,
    context: Mapping[str, Array] | None = None,
) -> xr.Dataset:
    """Assemble the panel, with the truth beside the data and its parameters as JSON."""
    n_times, n_assets, n_characteristics = characteristics.shape
    panel = xr.Dataset(
        {
            RETURNS: ((TIME, ASSET), returns),
            CHARACTERISTICS: ((TIME, ASSET, CHARACTERISTIC), characteristics),
            **truth,
        },
        coords={
            TIME: month_ends(n_times, start),
            ASSET: _labels("A", n_assets),
            CHARACTERISTIC: _labels("c", n_characteristics),
            FACTOR: 1 + np.arange(next(v.shape[-1] for d, v in truth.values() if d[-1] == FACTOR)),
        },
        attrs={
            "frequency": "monthly",
            "return_kind": "simple excess",
            "lag_convention": "row t holds characteristics known at the end of t-1",
            "transform": transform,
            "source": source,
            "parameters": json.dumps(dict(parameters), sort_keys=True),
        },
    )
    if context is not None:
        panel[CONTEXT] = ((TIME, FEATURE), np.stack(list(context.values()), axis=-1))
        panel = panel.assign_coords({FEATURE: list(context)})
    panel[RETURNS].attrs["units"] = "1"
    return panel
