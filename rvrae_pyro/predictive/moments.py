"""First two moments of next month's returns, one set for every draw of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.names import ASSET, FACTOR, MEMBER, OTHER_FACTOR, TIME
from rvrae_pyro.nn.cross_section import along_factors
from rvrae_pyro.predictive.members import Member
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["idio_variance", "moments"]


def moments(members: Sequence[Member], batch: Batch, months: Sequence[int]) -> xr.Dataset:
    """Collect what each member says of the months' mean and covariance.

    See :meth:`rvrae_pyro.fitting.fit.Fit.moments`.
    """
    rows = list(months)
    hidden = ~batch.listed[rows]
    each = [_of_member(member, rows, hidden) for member in members]
    stacked = {name: np.stack([one[name] for one in each]) for name in each[0]}
    sizes = np.array([member.beliefs.predicted.shape[1] for member in members], dtype=np.float64)
    dims = {
        "mean": (MEMBER, TIME, ASSET),
        "beta": (MEMBER, TIME, ASSET, FACTOR),
        "factor_cov": (MEMBER, TIME, FACTOR, OTHER_FACTOR),
        "idio_var": (MEMBER, TIME, ASSET),
    }
    labels = factor_coord(members[0].model.n_factors)
    data = xr.Dataset(
        {name: (dims[name], values) for name, values in stacked.items()},
        coords={
            MEMBER: np.arange(len(members)),
            TIME: batch.times[rows],
            ASSET: batch.assets,
            FACTOR: labels,
            OTHER_FACTOR: labels,
        },
    )
    data["share"] = (MEMBER, sizes / sizes.sum())
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
