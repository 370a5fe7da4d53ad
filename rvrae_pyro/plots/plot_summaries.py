"""Quantities that the pictures show, from factors, draws and returns."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rvrae_pyro.evaluation.density import pit as _pit
from rvrae_pyro.names import ASSET, CHAIN, DRAW, FACTOR, TIME

Floats = NDArray[np.floating[Any]]
_ENDS: Final = (0.05, 0.95)


def principal_factors(beta: xr.DataArray, factors: xr.DataArray) -> xr.Dataset:
    r"""Turn factors to their principal axes, in units of return.

    Factors are identified up to a linear map. With :math:`M` the mean of
    :math:`\beta \beta'` over listed cells, :math:`g = M^{1/2} f` has
    :math:`|g|^2 = \mathrm{mean}_i (\beta_i' f)^2`; the axes are those of the second moments of
    the posterior means of :math:`g`, largest first, with loadings that are positive on average.

    Parameters
    ----------
    beta : DataArray (time, asset, factor)
        NaN where not listed.
    factors : DataArray (chain, draw, time, factor)

    Returns
    -------
    Dataset
        ``mean``, ``low`` and ``high`` (5 % and 95 %) (time, factor): the root mean square effect
        on the assets' returns, decimal; ``share`` (factor) of the common variation.
    """
    loads = beta.transpose(TIME, ASSET, FACTOR).values.reshape(-1, beta.sizes[FACTOR])
    loads = loads[~np.isnan(loads).any(axis=1)]
    values, vectors = np.linalg.eigh(loads.T @ loads / len(loads))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = factors.transpose(CHAIN, DRAW, TIME, FACTOR).values
    scaled = draws.reshape(-1, *draws.shape[2:]) @ root
    mean = scaled.mean(axis=0)
    power, axes = np.linalg.eigh(mean.T @ mean / len(mean))
    power, axes = np.maximum(power[::-1], 0.0), axes[:, ::-1]
    # mean loadings on the new axes
    axes = axes * np.where((loads.mean(axis=0) @ np.linalg.pinv(root.T)) @ axes < 0, -1.0, 1.0)
    turned = scaled @ axes
    low, high = np.quantile(turned, _ENDS, axis=0)
    over = (TIME, FACTOR)
    return xr.Dataset(
        {
            "mean": (over, turned.mean(axis=0)),
            "low": (over, low),
            "high": (over, high),
            "share": (FACTOR, power / power.sum()),
        },
        coords={TIME: factors[TIME].values, FACTOR: factors[FACTOR].values},
    )


@dataclass(frozen=True)
class Calibration:
    """Where returns fall among their predictive draws.

    Attributes
    ----------
    edges, heights : arrays
        Histogram of the probability integral transform; 1 is uniform.
    heights_band : array of shape (2, n_bins)
        Where 95 % of such histograms lie if the forecasts are right.
    levels, covered : arrays
        Nominal and actual coverage of central intervals.
    covered_band : array of shape (2, n_levels)
    n_months, n_returns : int
    """

    edges: Floats
    heights: Floats
    heights_band: Floats
    levels: Floats
    covered: Floats
    covered_band: Floats
    n_months: int
    n_returns: int


def calibrate(returns: xr.DataArray, draws: xr.DataArray, n_bins: int = 10) -> Calibration:
    """Compare returns with their predictive distribution.

    Parameters
    ----------
    returns : DataArray (time, asset)
    draws : DataArray (chain, draw, time, asset)
        One step ahead, joint over the assets of a month.

    Notes
    -----
    Assets of a month move together, so that cells are far from independent. The bands therefore
    come from the joint draws themselves: each draw takes the returns' place once.
    """
    sample = draws.stack(sample=(CHAIN, DRAW), create_index=False).transpose("sample", TIME, ASSET)
    known = (returns.notnull() & sample.isel(sample=0).notnull()).transpose(TIME, ASSET).values
    pit = _pit(returns, draws).transpose(TIME, ASSET).values[known]
    drawn = sample.values[:, known]
    ranks = drawn.argsort(axis=0).argsort(axis=0)
    replicated = (ranks + 0.5) / len(drawn)
    edges, levels = np.linspace(0.0, 1.0, n_bins + 1), np.linspace(0.02, 0.98, 49)

    def heights(values: Floats) -> Floats:
        count = np.histogram(values, edges)[0]
        return count * n_bins / values.size

    def covered(values: Floats) -> Floats:
        width = np.sort(2.0 * np.abs(values - 0.5))
        return np.searchsorted(width, levels, side="right") / values.size

    def band(replicates: list[Floats]) -> Floats:
        ends: Floats = np.quantile(np.stack(replicates), (0.025, 0.975), axis=0)
        return ends

    return Calibration(
        edges,
        heights(pit),
        band([heights(each) for each in replicated]),
        levels,
        covered(pit),
        band([covered(each) for each in replicated]),
        int(known.any(axis=1).sum()),
        int(known.sum()),
    )


def typical_size(returns: xr.DataArray, draws: xr.DataArray) -> xr.Dataset:
    """Root mean square return over the assets of a month: predicted before it, and realised.

    Parameters
    ----------
    returns : DataArray (time, asset)
    draws : DataArray (chain, draw, time, asset)

    Returns
    -------
    Dataset
        ``realised``, and ``median``, ``low``, ``high`` (5 % and 95 %) of the prediction (time,).
    """
    size: xr.DataArray = (draws.where(returns.notnull()) ** 2).mean(ASSET) ** 0.5
    ends = {"low": _ENDS[0], "median": 0.5, "high": _ENDS[1]}
    dataset = xr.Dataset(
        {name: size.quantile(q, (CHAIN, DRAW)).drop_vars("quantile") for name, q in ends.items()}
    )
    return dataset.assign(realised=(returns**2).mean(ASSET) ** 0.5)
