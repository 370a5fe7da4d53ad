"""Assembly of panels: excess returns, and labels and attributes in canonical form."""

from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from pandas.api import types as pdt

from rvrae_pyro.data.calendar import PERIODS_PER_YEAR, Frequency, period_ends
from rvrae_pyro.data.validation import first_three
from rvrae_pyro.errors import PanelError, warn_user
from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)

Floats = NDArray[np.floating[Any]]
_PERCENT_MEDIAN: Final = 0.05
_HIGH_YEARLY: Final = 0.144
"""1.2 % per month: the median month of 1980-82, the dearest years of US bills, is below."""


def _unicode(values: NDArray[Any]) -> NDArray[Any]:
    """Turn object or variable-width strings into fixed-width unicode; leave the rest."""
    if values.dtype.kind in "OT" and values.size and all(isinstance(v, str) for v in values.flat):
        # numpy cannot infer the width when it casts variable-width strings
        return np.array(values.tolist(), dtype=str).reshape(values.shape)
    return (
        np.empty(values.shape, "<U1") if values.dtype.kind in "OT" and not values.size else values
    )


def canonical(panel: xr.Dataset) -> xr.Dataset:
    """Give every label its canonical dtype, fixed-width text or dates in ns; values are kept."""
    changed: dict[Hashable, Any] = {}
    for name, coord in panel.coords.items():
        values = np.asarray(coord.values)
        if values.dtype.kind == "M":
            values = values.astype("datetime64[ns]")
        changed[name] = xr.Variable(coord.dims, _unicode(values), attrs=coord.attrs)
    return panel.assign_coords(changed)


def build_panel(
    returns: ArrayLike,
    characteristics: ArrayLike,
    *,
    time: ArrayLike,
    asset: ArrayLike,
    characteristic: ArrayLike,
    weight: ArrayLike | None = None,
    risk_free: ArrayLike | None = None,
    asset_coords: Mapping[str, ArrayLike] | None = None,
    frequency: str = "monthly",
    return_kind: str = "simple excess",
    transform: str = "none",
    source: str = "",
) -> xr.Dataset:
    """Assemble arrays into a panel with canonical labels and attributes, unchecked.

    ``returns`` (n_times, n_assets) are excess and decimal; ``characteristics`` (n_times, n_assets,
    n_characteristics) and ``weight`` (n_times, n_assets) are known at the end of t-1; ``risk_free``
    (n_times,) is per period; ``asset_coords`` are further labels of the assets, such as an
    industry.
    """
    variables: dict[str, Any] = {
        RETURNS: ((TIME, ASSET), returns, {"long_name": "simple excess return", "units": "1"}),
        CHARACTERISTICS: ((TIME, ASSET, CHARACTERISTIC), characteristics),
    }
    if weight is not None:
        variables[WEIGHT] = ((TIME, ASSET), weight)
    if risk_free is not None:
        variables[RISK_FREE] = ((TIME,), risk_free, {"units": "1"})
    coords: dict[str, Any] = {TIME: time, ASSET: asset, CHARACTERISTIC: characteristic}
    for name, values in (asset_coords or {}).items():
        coords[name] = ((ASSET,), np.asarray(values))
    attrs = {
        "frequency": frequency,
        "return_kind": return_kind,
        "lag_convention": "row t holds characteristics known at the end of t-1",
        "transform": transform,
        "source": source,
    }
    return canonical(xr.Dataset(variables, coords=coords, attrs=attrs))


def excess_returns(
    raw: Floats,
    rate: "Floats | pd.Series[Any] | None",
    excess: bool,
    *,
    times: NDArray[np.datetime64],
    frequency: Frequency,
) -> tuple[Floats, Floats | None, str]:
    """Subtract the risk-free rate where it is still in the returns.

    Parameters
    ----------
    raw : array of shape (n_times, n_assets)
        Returns over (t-1, t], decimal.
    rate : array of shape (n_times,), Series by date, or None
        Decimal per period.
    excess : bool
        Whether ``raw`` is in excess of the rate already.
    times : datetime64 array of shape (n_times,)
    frequency : {"monthly", "weekly", "daily"}

    Returns
    -------
    net : array of shape (n_times, n_assets)
    rate : array of shape (n_times,) or None
        Aligned with ``times``; NaN only in rows without a return.
    kind : str
        For the panel's attribute ``return_kind``.
    """
    if rate is None:
        if not excess:
            warn_user(
                "the returns are taken as excess returns: nothing was subtracted. Pass "
                "risk_free=... to subtract a rate, or excess=True if they are excess already."
            )
        return raw, None, "simple excess" if excess else "simple, taken as excess"
    aligned = rate if isinstance(rate, np.ndarray) else _align_rate(rate, times, frequency)
    bare = ~np.isfinite(aligned) & np.isfinite(raw).any(axis=1)
    if bare.any():
        days = times[bare].astype("datetime64[D]")
        raise PanelError(
            f"`risk_free` has no rate for {first_three(days)}, where returns are observed. "
            "Complete the series or cut the returns to its span."
        )
    _check_size(aligned[np.isfinite(aligned)], frequency)
    return (raw if excess else raw - aligned[:, None]), aligned, "simple excess"


def _check_size(known: Floats, frequency: Frequency) -> None:
    """Reject a rate that must be in percent; warn of one that few markets have ever paid."""
    if not known.size:
        return
    median, periods = float(np.median(np.abs(known))), PERIODS_PER_YEAR[frequency]
    if median > _PERCENT_MEDIAN:
        raise PanelError(
            f"`risk_free` looks like percent: its median is {median:.3g} per period, decimals are "
            f"expected (0.002 for 0.2 %). Divide by 100, or an annual rate by {periods}."
        )
    if median > _HIGH_YEARLY / periods:
        warn_user(
            f"`risk_free` looks like an annual rate: its median is {median:.3g} per period, or "
            f"{median * periods:.0%} per year, and a rate per period is expected in a {frequency} "
            f"panel. If it is annual, divide it by {periods}."
        )


def _align_rate(
    rate: "pd.Series[Any]", times: NDArray[np.datetime64], frequency: Frequency
) -> Floats:
    if not isinstance(rate, pd.Series):
        raise PanelError(
            f"`risk_free` must be a column name or a Series by date, such as pd.Series(rate, "
            f"index=months); got {type(rate).__name__}."
        )
    if not pdt.is_numeric_dtype(rate.dtype):
        raise PanelError(f"`risk_free` must be numeric; its dtype is {rate.dtype}.")
    if isinstance(rate.index, pd.RangeIndex):
        raise PanelError(
            "`risk_free` must be indexed by date; its index only counts rows. "
            "Use table.set_index('date')['rf']."
        )
    try:
        ends = period_ends(rate.index, frequency)
    except (ValueError, TypeError, OverflowError) as error:
        raise PanelError(f"`risk_free` must be indexed by date: {error}.") from error
    series = pd.Series(rate.to_numpy(dtype=np.float64, na_value=np.nan), index=ends)
    repeated = ends[ends.duplicated()]
    if len(repeated):
        raise PanelError(
            f"`risk_free` has several rates for {first_three(repeated.strftime('%Y-%m-%d'))}. "
            f"One per row of a {frequency} panel is expected."
        )
    return series.reindex(pd.DatetimeIndex(times)).to_numpy()
