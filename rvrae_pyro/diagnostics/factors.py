"""Diagnostics of the factors."""

from __future__ import annotations

import xarray as xr

from rvrae_pyro.errors import ShapeError
from rvrae_pyro.names import TIME

__all__ = ["active_units"]


def active_units(means: xr.DataArray, threshold: float = 0.01) -> xr.DataArray:
    """Which factors the posterior uses: those whose mean varies over time.

    Parameters
    ----------
    means : DataArray (time, factor)
        Posterior means of the latent codes, of order one.
    threshold : float
        Smallest variance over time that counts.

    Returns
    -------
    DataArray (factor,)
        True where the variance over time exceeds the threshold.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016), section 5.
    """
    if TIME not in means.dims:
        raise ShapeError(f"`means` must have a dimension {TIME!r}; got {means.dims}.")
    return means.var(TIME) > threshold
