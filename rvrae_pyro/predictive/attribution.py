"""Mean forecasts split by factor, and their slopes in each characteristic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHARACTERISTIC, FACTOR, TIME
from rvrae_pyro.predictive.filtering import FilteredStates
from rvrae_pyro.predictive.months import factor_coord

__all__ = ["INTERCEPT", "attribute", "differentiate"]

INTERCEPT: Final = 0
"""Label of the intercept beside the factors 1 to K."""


def attribute(
    batch: Batch, states: FilteredStates, months: Sequence[int], rotation: np.ndarray | None = None
) -> xr.DataArray:
    """Split the mean forecast by factor.

    See :meth:`rvrae_pyro.fitting.fit.Fit.attribution`. ``rotation`` (factor, reference), as
    ``rv.diagnostics.align`` finds it, turns factors, and loadings by its inverse, beforehand.
    """
    rows = list(months)
    expected, beta = states.expected[rows], states.cross.beta[rows]
    if rotation is not None:
        turn = torch.as_tensor(rotation, dtype=beta.dtype, device=beta.device)
        expected, beta = expected @ turn, beta @ torch.linalg.inv(turn).mT
    parts = beta * expected.unsqueeze(-2)
    labels = factor_coord(parts.shape[-1])
    if states.cross.alpha is not None:
        parts = torch.cat([states.cross.alpha[rows].unsqueeze(-1), parts], dim=-1)
        labels = np.append(INTERCEPT, labels)
    return xr.DataArray(
        _listed_only(parts, batch, rows),
        coords={TIME: batch.times[rows], ASSET: batch.assets, FACTOR: labels},
        dims=(TIME, ASSET, FACTOR),
        name="attribution",
        attrs={"long_name": "part of the mean forecast", "units": "1"},
    )


def differentiate(
    model: RVRAE, batch: Batch, states: FilteredStates, months: Sequence[int]
) -> xr.DataArray:
    """Differentiate the mean forecast with respect to the characteristics of its own row.

    See :meth:`rvrae_pyro.fitting.fit.Fit.sensitivity`.
    """
    rows, expected = list(months), states.expected
    with torch.no_grad():
        _, before = model.loadings.online(batch, rows)
    slopes = [_month_slopes(model, batch, t, before.get(t, ()), expected[t]) for t in rows]
    return xr.DataArray(
        _listed_only(torch.stack(slopes), batch, rows),
        coords={TIME: batch.times[rows], ASSET: batch.assets, CHARACTERISTIC: batch.names},
        dims=(TIME, ASSET, CHARACTERISTIC),
        name="sensitivity",
        attrs={"long_name": "mean forecast per unit of characteristic", "units": "1"},
    )


def _month_slopes(
    model: RVRAE, batch: Batch, t: int, state: tuple[Tensor, ...], expected: Tensor
) -> Tensor:
    """Slopes (n_assets, n_characteristics) of one month; what came before it stays fixed."""
    month = batch.window(t, t + 1, {"loadings": state}, every_asset=True)
    inputs = month.characteristics.clone().requires_grad_(True)
    month = dataclasses.replace(month, characteristics=inputs)
    with torch.enable_grad():
        mean = model.loadings(month)[0] @ expected
        if model.likelihood.alpha is not None:
            mean = mean + model.likelihood.alpha(month)[0]
        total = (mean * month.listed[0]).sum() * model.return_scale
        (slopes,) = torch.autograd.grad(total, inputs, allow_unused=True)
    return torch.zeros_like(inputs[0]) if slopes is None else slopes[0]


def _listed_only(values: Tensor, batch: Batch, rows: list[int]) -> np.ndarray:
    hidden = values.masked_fill(~batch.listed[rows].unsqueeze(-1), torch.nan)
    answer: np.ndarray = hidden.detach().cpu().numpy()
    return answer
