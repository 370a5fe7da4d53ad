"""Moments of next month's returns, and summaries of the factor prior's hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import ASSET, CHAIN, FACTOR, OTHER_FACTOR, TIME
from rvrae_pyro.predictive.filtering import FilteredDraw
from rvrae_pyro.predictive.months import factor_coord
from rvrae_pyro.predictive.tree import label_months


def moments(chain: Sequence[FilteredDraw], batch: Batch, months: Sequence[int]) -> xr.Dataset:
    """Mean and covariance of the months' returns under each draw of the weights.

    See :meth:`rvrae_pyro.fitting.fit.Fit.moments`.
    """
    rows = list(months)
    hidden = ~batch.listed[rows]
    each = [_moments_of(draw, rows, hidden) for draw in chain]
    sizes = [draw.states.predicted.shape[1] for draw in chain]
    return label_moments(each, batch, rows, sizes)


def label_moments(
    each: Sequence[Mapping[str, np.ndarray]], batch: Batch, rows: list[int], sizes: Sequence[float]
) -> xr.Dataset:
    """Label the moments of some months (positions ``rows``), by member, with shares by ``sizes``.

    Of every member ``mean`` and ``idio_var`` (n_rows, n_assets), ``beta`` (n_rows, n_assets,
    n_factors) and ``factor_cov`` (n_rows, n_factors, n_factors).
    """
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    dims = {
        "mean": (CHAIN, TIME, ASSET),
        "beta": (CHAIN, TIME, ASSET, FACTOR),
        "factor_cov": (CHAIN, TIME, FACTOR, OTHER_FACTOR),
        "idio_var": (CHAIN, TIME, ASSET),
    }
    labels = factor_coord(stacked["beta"].shape[-1])
    data = xr.Dataset(
        {name: (dims[name], values) for name, values in stacked.items()},
        coords={
            CHAIN: np.arange(len(each)),
            TIME: batch.times[rows],
            ASSET: batch.assets,
            FACTOR: labels,
            OTHER_FACTOR: labels,
        },
    )
    data["share"] = (CHAIN, np.array(sizes, dtype=np.float64) / sum(sizes))
    return data


@torch.no_grad()
def idio_variance(draw: FilteredDraw, rows: Sequence[int] | slice = slice(None)) -> Tensor:
    """Idiosyncratic variances (n_rows, n_assets), averaged over the draws of their level."""
    states = draw.states
    variance = draw.model.likelihood.deviation(states.cross.scale[rows]).square()
    if states.level is None:
        return variance
    return variance * (2.0 * states.level[rows]).exp().mean(-1, keepdim=True)


def _moments_of(draw: FilteredDraw, rows: list[int], hidden: Tensor) -> dict[str, np.ndarray]:
    """Moments under one draw of the weights, over its own factors; NaN where ``hidden``."""
    states = draw.states
    cells = {"mean": states.expected_returns(rows), "idio_var": idio_variance(draw, rows)}
    found = {name: values.masked_fill(hidden, torch.nan) for name, values in cells.items()}
    found["beta"] = states.cross.beta[rows].masked_fill(hidden.unsqueeze(-1), torch.nan)
    found["factor_cov"] = states.expected_covariance[rows]
    return {name: values.detach().cpu().numpy() for name, values in found.items()}


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
