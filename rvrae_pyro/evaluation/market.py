"""Five statistics of a whole market, of data or of every draw of a model."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.data.rounding import constant, rounding
from rvrae_pyro.data.timeline import in_time_order
from rvrae_pyro.errors import ShapeError
from rvrae_pyro.evaluation.matching import Array, check_array, sample_dims, to_wide
from rvrae_pyro.names import ASSET, TIME

_NAMES = {
    "cross_sectional_sd": "mean over months of the standard deviation across assets",
    "market_volatility": "standard deviation over months of the equally weighted return",
    "kurtosis": "excess kurtosis of all returns pooled",
    "top_eigenvalue_share": "share of the largest eigenvalue of the assets' second moments",
    "market_autocorrelation": "first autocorrelation of squared market returns",
}


def market_statistics(returns: xr.DataArray) -> xr.Dataset:
    """Describe a market in five numbers, for prior and posterior predictive checks.

    Parameters
    ----------
    returns : DataArray of dims (time, asset), or (obs,) with coordinates ``time`` and ``asset``
        Decimal returns, NaN where not observed. Dims ``chain`` and ``draw`` are kept: one
        answer for every draw. Hold draws and data against each other over the same cells.

    Returns
    -------
    Dataset
        Of the dims ``chain`` and ``draw`` of ``returns``, or scalars:

        - ``cross_sectional_sd``: mean over months of the standard deviation across assets, in
          return units (months with two returns or more);
        - ``market_volatility``: standard deviation over months of the equally weighted return;
        - ``kurtosis``: excess kurtosis of all returns pooled, 0 for Normal ones;
        - ``top_eigenvalue_share``: largest eigenvalue of the assets' second moments over their
          sum, each asset in units of its standard deviation, missing cells at its mean;
        - ``market_autocorrelation``: first autocorrelation of the squared deviations of the
          equally weighted return from its mean: volatility clusters make it positive.

        A statistic is NaN where it is not defined: fewer than two assets in a month, three months.

    Notes
    -----
    Knows all months. Costs O(n_times n_assets min(n_times, n_assets)) per draw.
    """
    check_array(returns, "returns")
    wide = in_time_order(to_wide(returns), "returns")
    check_array(wide, "returns", TIME, ASSET)
    samples = sample_dims(wide)
    further = [dim for dim in wide.dims if dim not in (*samples, TIME, ASSET)]
    if further:
        raise ShapeError(
            f"`returns` must have dims (time, asset) and at most chain and draw; got {further} "
            "too. Select one entry of each."
        )
    wide = wide.transpose(*samples, TIME, ASSET)
    relative = rounding(wide)
    shape = tuple(wide.sizes[dim] for dim in samples)
    found = np.empty((len(_NAMES), *shape))
    for place in np.ndindex(*shape):
        found[(slice(None), *place)] = _describe(
            np.asarray(wide[place].values, dtype=np.float64), relative
        )
    coords = {dim: wide[dim] for dim in samples if dim in wide.coords}
    return xr.Dataset(
        {
            name: (samples, values, {"long_name": text})
            for (name, text), values in zip(_NAMES.items(), found, strict=True)
        },
        coords=coords,
    )


def _describe(returns: Array, relative: float) -> tuple[float, float, float, float, float]:
    """All statistics of one (n_times, n_assets) table, in the order of their names."""
    seen = ~np.isnan(returns)
    counts = seen.sum(1)
    filled = np.where(seen, returns, 0.0)
    market = filled.sum(1)[counts > 0] / counts[counts > 0]
    return (
        _spread(filled, seen),
        float(market.std(ddof=1)) if market.size > 1 else np.nan,
        _kurtosis(returns[seen], relative),
        _top_share(filled, seen, ~constant(returns, axis=0, relative=relative)),
        _clustering(market, relative),
    )


def _spread(filled: Array, seen: Array) -> float:
    several = seen.sum(1) > 1
    if not several.any():
        return np.nan
    filled, seen = filled[several], seen[several]
    counts = seen.sum(1)
    centre = filled.sum(1) / counts
    squares = (seen * (filled - centre[:, None]) ** 2).sum(1)
    return float(np.sqrt(squares / (counts - 1)).mean())


def _kurtosis(values: Array, relative: float) -> float:
    if constant(values, relative=relative):
        return np.nan
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()
    return float((deviation**4).mean() / (deviation**2).mean() ** 2 - 3.0)


def _top_share(filled: Array, seen: Array, moves: NDArray[np.bool_]) -> float:
    filled, seen = filled[:, moves], seen[:, moves]
    counts = np.maximum(seen.sum(0), 1)
    deviation = seen * (filled - filled.sum(0) / counts)
    if deviation.shape[1] < 2:
        return np.nan
    deviation = deviation / np.abs(deviation).max(0)
    deviation = deviation / np.sqrt((deviation**2).sum(0) / counts)
    # the eigenvalues of the smaller of the two cross-products; the larger only adds zeros
    wide = deviation.shape[1] > deviation.shape[0]
    gram = deviation @ deviation.T if wide else deviation.T @ deviation
    return float(np.linalg.eigvalsh(gram)[-1] / np.trace(gram))


def _clustering(market: Array, relative: float) -> float:
    if market.size < 3 or constant(market, relative=relative):
        return np.nan
    apart = market - market.mean()
    size = np.abs(apart).max()
    squares = (apart / size) ** 2
    # rounding of the market, as a share of its spread
    if constant(squares, relative=2.0 * relative * np.abs(market).max() / size):
        return np.nan
    deviation = squares - squares.mean()
    return float((deviation[1:] * deviation[:-1]).sum() / (deviation**2).sum())
