"""What the factor prior's hidden state was: regimes and log variances, filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import FACTOR, LOG_VARIANCE, REGIME, REGIME_PROBABILITY, TIME
from rvrae_pyro.predictive.beliefs import Beliefs
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["prior_state"]

_DIMS = {REGIME_PROBABILITY: REGIME, LOG_VARIANCE: FACTOR}


def prior_state(
    model: RVRAE, batch: Batch, beliefs: Sequence[Beliefs], attrs: Mapping[str, str | int]
) -> xr.Dataset:
    """Average the prior's readings over the particles that know returns up to the month.

    See :meth:`rvrae_pyro.fitting.fit.Fit.prior_state`. Names are those of the prior's
    ``reading``; one of a prior of your own has the dim ``<name>_dim``.
    """
    if not beliefs[0].readings:
        raise ConfigError(
            f"`factor_prior` {type(model.factor_prior).__name__} has a state without a reading; "
            "rv.priors.RegimeSwitching and StochasticVolatility have one, and so has a prior of "
            "your own with a method `reading(state)`. For the factors use fit.factors(panel)."
        )
    values: dict[str, tuple[tuple[str, str], np.ndarray]] = {}
    coords: dict[str, np.ndarray] = {TIME: batch.times}
    for name in beliefs[0].readings:
        draws = torch.cat([each.readings[name] for each in beliefs], 1)
        dim = _DIMS.get(name, f"{name}_dim")
        values[name] = ((TIME, dim), draws.mean(1).cpu().numpy())
        values[f"{name}_sd"] = ((TIME, dim), draws.std(1, correction=0).cpu().numpy())
        coords[dim] = factor_coord(draws.shape[-1])
    return xr.Dataset(values, coords=coords, attrs=dict(attrs))
