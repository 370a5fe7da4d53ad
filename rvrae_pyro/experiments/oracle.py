"""The ceiling of a simulated panel: its true loadings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.experiments.forecast_tree import (
    FORECASTS,
    MEAN,
    build_outlook,
    observed_returns,
    refit,
    tree_of,
)
from rvrae_pyro.names import FACTOR


@dataclass(frozen=True, eq=False)
class Oracle:
    """The true loadings of a simulated panel, factors by least squares: the ceiling.

    Needs the variable ``true_beta`` (time, asset, factor); nothing is learnt.
    """

    name: str = "Oracle"

    def describe(self, panel: xr.Dataset) -> dict[str, Any]:
        """Return the kind; there are no settings."""
        return {"kind": "Oracle"}

    def fit(self, train: xr.Dataset, valid: xr.Dataset | None, seed: int) -> Oracle:
        """Check that the truth is there."""
        if "true_beta" not in train:
            raise ConfigError(
                "the oracle needs the variable 'true_beta' of a simulated panel; got none. Leave "
                "it out on data whose truth is not known."
            )
        return self

    def outlook(
        self, panel: xr.Dataset, times: np.ndarray, num_samples: int, seed: int
    ) -> xr.DataTree:
        """Forecast and fit some months; see :func:`~rvrae_pyro.experiments.forecast_tree`."""
        returns = observed_returns(panel)
        beta = panel["true_beta"].reset_coords(drop=True)
        beta = beta.assign_coords({FACTOR: np.arange(1, beta.sizes[FACTOR] + 1)})
        nothing, one = xr.zeros_like(returns.fillna(0.0)), xr.ones_like(returns.fillna(0.0))
        factors = refit(returns, beta)
        forecasts = build_outlook(
            returns,
            nothing,
            times,
            alpha=nothing,
            beta=beta,
            idio_scale=one,
            factors=factors,
            fitted=xr.dot(beta, factors, dim=FACTOR, optimize=True),
        )
        forecasts[MEAN] = forecasts["mean_ols"]
        return tree_of({FORECASTS: forecasts}, {"kind": "Oracle"})
