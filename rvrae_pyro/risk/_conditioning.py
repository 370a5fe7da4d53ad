"""How factors and returns follow what is given, under a low-rank covariance."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from rvrae_pyro.errors import ConfigError, ShapeError
from rvrae_pyro.names import FACTOR
from rvrae_pyro.risk._draws import Array
from rvrae_pyro.risk._weights import PORTFOLIO, Weights, first, read_weights
from rvrae_pyro.risk.covariance import FactorCovariance

Shocks: TypeAlias = Mapping[object, float]


def factor_rows(labels: xr.DataArray, factors: Shocks) -> Array:
    """Rows (condition, factor) that pick the factors named."""
    index = pd.Index(labels.values)
    unknown = [label for label in factors if label not in index]
    if unknown:
        raise ConfigError(
            f"`factors` must name factors of the forecast, {index.tolist()}; got {first(unknown)}."
        )
    rows: Array = np.eye(len(index))[index.get_indexer(list(factors))]
    return rows


def one_portfolio(weights: Weights, listed: xr.DataArray) -> xr.DataArray:
    held = read_weights(weights, listed)
    if held.sizes[PORTFOLIO] > 1:
        raise ShapeError(
            f"`weights` must be one portfolio; got {held.sizes[PORTFOLIO]}. Select one."
        )
    return held.isel({PORTFOLIO: 0}, drop=True)


class Gains:
    """Covariances of factors and returns with what is given, and what they imply."""

    def __init__(self, cov: FactorCovariance, factors: Shocks, held: xr.DataArray | None) -> None:
        rows = factor_rows(cov.beta[FACTOR], factors)
        square = cov.factor_cov.values
        on_factors = np.broadcast_to(rows, (len(square), *rows.shape))
        with_factors = square @ on_factors.mT
        beta = np.nan_to_num(cov.beta.values)
        with_returns = beta @ with_factors
        between = on_factors @ with_factors
        if held is not None:
            weights = held.values[..., None]
            exposure = beta.mT @ weights
            noise = np.nan_to_num(cov.idio_var.values)[..., None] * weights
            last_factors = square @ exposure
            last_returns = beta @ last_factors + noise
            cross = on_factors @ last_factors
            own = weights.mT @ last_returns
            between = np.concatenate(
                [
                    np.concatenate([between, cross], axis=-1),
                    np.concatenate([cross.mT, own], axis=-1),
                ],
                axis=-2,
            )
            with_factors = np.concatenate([with_factors, last_factors], axis=-1)
            with_returns = np.concatenate([with_returns, last_returns], axis=-1)
        sd = np.sqrt(np.diagonal(between, axis1=-2, axis2=-1))
        if not (sd > 0).all():
            raise ConfigError("What is given must have risk in every month; some has none.")
        correlation = between / (sd[..., :, None] * sd[..., None, :])
        if (np.linalg.eigvalsh(correlation)[..., 0] < 1e-10).any():
            raise ConfigError("The conditions must not determine each other; drop one of them.")
        self.sd, self.between = sd, between
        self.with_factors, self.with_returns = with_factors, with_returns
        self.factors = with_factors @ np.linalg.inv(between)  # (time, factor, condition)
        self.returns = with_returns @ np.linalg.inv(between)  # (time, asset, condition)

    def distance(self, surprise: Array) -> Array:
        """Mahalanobis distance (time,) of a surprise (time, condition)."""
        solved = np.linalg.solve(self.between, surprise[..., None])[..., 0]
        distance: Array = np.sqrt((surprise * solved).sum(axis=-1))
        return distance
