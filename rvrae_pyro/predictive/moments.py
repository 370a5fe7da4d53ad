"""First two moments of next month's returns, one set for every draw of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.names import ASSET, CHAIN, FACTOR, OTHER_FACTOR, TIME
from rvrae_pyro.nn.cross_section import along_factors
from rvrae_pyro.predictive.members import Member
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["idio_variance", "label_moments", "moments"]


def moments(members: Sequence[Member], batch: Batch, months: Sequence[int]) -> xr.Dataset:
    """Collect what each member says of the months' mean and covariance.

    See :meth:`rvrae_pyro.fitting.fit.Fit.moments`.
    """
    rows = list(months)
    hidden = ~batch.listed[rows]
    each = [_of_member(member, rows, hidden) for member in members]
    sizes = [member.beliefs.predicted.shape[1] for member in members]
    return label_moments(each, batch, rows, sizes)


def label_moments(
    each: Sequence[Mapping[str, np.ndarray]], batch: Batch, rows: list[int], sizes: Sequence[float]
) -> xr.Dataset:
    """Put together what members say of some months.

    Parameters
    ----------
    each : sequence of mapping
        Of every member ``mean`` and ``idio_var`` (n_rows, n_assets), ``beta`` (n_rows, n_assets,
        n_factors) and ``factor_cov`` (n_rows, n_factors, n_factors).
    batch : Batch
    rows : list of int
        Positions of the months.
    sizes : sequence of float
        In proportion to the members' shares.
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
def idio_variance(member: Member, rows: Sequence[int] | slice = slice(None)) -> Tensor:
    """Idiosyncratic variances (n_rows, n_assets), averaged over the draws of their level."""
    beliefs = member.beliefs
    variance = member.model.likelihood.deviation(beliefs.cross.scale[rows]).square()
    if beliefs.level is None:
        return variance
    return variance * (2.0 * beliefs.level[rows]).exp().mean(-1, keepdim=True)


def _of_member(member: Member, rows: list[int], hidden: Tensor) -> dict[str, np.ndarray]:
    """Moments of one member, over its own draws of the factors; NaN where ``hidden``."""
    beliefs = member.beliefs
    beta, draws = beliefs.cross.beta[rows], beliefs.predicted[rows]
    expected = draws.mean(1)
    centred = draws - expected.unsqueeze(1)
    mean = along_factors(beta, expected)
    if beliefs.cross.alpha is not None:
        mean = mean + beliefs.cross.alpha[rows]
    cells = {"mean": mean, "idio_var": idio_variance(member, rows)}
    found = {name: values.masked_fill(hidden, torch.nan) for name, values in cells.items()}
    found["beta"] = beta.masked_fill(hidden.unsqueeze(-1), torch.nan)
    found["factor_cov"] = centred.mT @ centred / draws.shape[1]
    return {name: values.detach().cpu().numpy() for name, values in found.items()}
