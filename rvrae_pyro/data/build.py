"""Assembly of a panel in canonical form."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from rvrae_pyro.names import (
    ASSET,
    CHARACTERISTIC,
    CHARACTERISTICS,
    RETURNS,
    RISK_FREE,
    TIME,
    WEIGHT,
)


def _unicode(values: NDArray[Any]) -> NDArray[Any]:
    """Turn object or variable-width strings into fixed-width unicode; leave the rest."""
    if values.dtype.kind in "OT" and values.size and all(isinstance(v, str) for v in values.flat):
        # numpy cannot infer the width when it casts variable-width strings
        return np.array(values.tolist(), dtype=str).reshape(values.shape)
    return (
        np.empty(values.shape, "<U1") if values.dtype.kind in "OT" and not values.size else values
    )


def canonical(panel: xr.Dataset) -> xr.Dataset:
    """Give every label its canonical dtype, so that equal panels have equal dtypes.

    String coordinates become fixed-width unicode and dates ``datetime64[ns]``, from any
    dtype of pandas or of a file format. Values are not copied.
    """
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

    Parameters
    ----------
    returns : array of shape (n_times, n_assets)
        Simple excess returns over (t-1, t], decimal.
    characteristics : array of shape (n_times, n_assets, n_characteristics)
        Known at the end of t-1.
    time, asset, characteristic : arrays of labels
    weight : array of shape (n_times, n_assets), optional
        Known at the end of t-1.
    risk_free : array of shape (n_times,), optional
        Decimal per period.
    asset_coords : mapping of str to array of shape (n_assets,), optional
        Further labels of the assets, such as an industry.
    frequency, return_kind, transform, source : str
        Attributes of the panel.

    Returns
    -------
    Dataset
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
