"""Filtered summaries of the factor prior's hidden state: regimes and log variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import TIME
from rvrae_pyro.predictive.filtering import FilteredDraw
from rvrae_pyro.predictive.months import factor_coord
from rvrae_pyro.predictive.tree import label_months

__all__ = ["summarise_state"]


def summarise_state(
    chain: Sequence[FilteredDraw], batch: Batch, attrs: Mapping[str, str | int]
) -> xr.Dataset:
    """Average the prior's named quantities over particles that know returns up to the month.

    See :meth:`rvrae_pyro.fitting.fit.Fit.prior_state`. Names are those of the prior's
    ``reading``; one of a user-defined prior has the dim ``<name>_dim``.
    """
    each = [draw.states.state_summary for draw in chain]
    if not each[0]:
        raise ConfigError(
            f"`factor_prior` {type(chain[0].model.factor_prior).__name__} has a state without a "
            "reading; rv.priors.RegimeSwitching, StochasticVolatility and CommonVolatility have "
            "one, and so has a user-defined prior with a method `reading(state)`. For the factors "
            "use fit.factors(panel)."
        )
    values: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coords: dict[str, np.ndarray] = {TIME: batch.times}
    for name in each[0]:
        draws = torch.cat([summary[name] for summary in each], 1)
        dims, mean = label_months(name, draws.mean(1).cpu().numpy())
        sd = label_months(name, draws.std(1, correction=0).cpu().numpy())[1]
        values |= {name: (dims, mean), f"{name}_sd": (dims, sd)}
        coords |= {dim: factor_coord(draws.shape[-1]) for dim in dims if dim != TIME}
    return xr.Dataset(values, coords=coords, attrs=dict(attrs))
