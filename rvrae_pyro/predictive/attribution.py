"""Mean forecasts by factor and by characteristic; relevance of each characteristic."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import ASSET, CHAIN, CHARACTERISTIC, DRAW, FACTOR, TIME
from rvrae_pyro.predictive.filtering import FilteredStates
from rvrae_pyro.predictive.months import factor_coord, load, sample_coords
from rvrae_pyro.predictive.weight_draws import fixed_models

INTERCEPT: Final = 0
"""Label of the intercept; factors are 1 to K."""


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
    return hidden.detach().cpu().numpy()


_ASSETS, _MONTHS, _PROBES = 200, 12, 4
_PATHS = {"idio_relevance": "likelihood.scale", "alpha_relevance": "likelihood.alpha"}
_EPOCH = np.datetime64("2000-01-31", "ns")


def relevance_of(
    model: RVRAE, panel: xr.Dataset | None, names: Sequence[str], num_draws: int, seed: int
) -> xr.DataTree:
    """Root mean square slope of loadings and scales in each characteristic, by weight draw.

    See :meth:`rvrae_pyro.fitting.fit.Fit.relevance`. ``names`` are those of the characteristics
    where there is no panel.
    """
    if panel is None:
        batch = typical_batch(model, seed)
    else:
        batch = load(model, panel)
        names = batch.names.tolist()
    drawn = [fixed for fixed, _ in fixed_models(model, num_draws, seed)]
    slopes = {"relevance": [_slopes(fixed, batch, "loadings", seed) for fixed in drawn]}
    others = {"idio_relevance": model.likelihood.scale, "alpha_relevance": model.likelihood.alpha}
    for name, part in others.items():
        if part is not None and any(p.ndim >= 2 for p in part.parameters()):
            slopes[name] = [_slopes(fixed, batch, _PATHS[name], seed) for fixed in drawn]
    over = (CHAIN, DRAW, CHARACTERISTIC)
    data = {name: (over, np.stack(each)[None]) for name, each in slopes.items()}
    squares = data["relevance"][1] ** 2
    total = squares.sum(-1, keepdims=True)
    data["share"] = (over, np.divide(squares, total, out=np.zeros_like(squares), where=total > 0))
    coords = {**sample_coords(len(drawn)), CHARACTERISTIC: list(names)}
    posterior = xr.Dataset(data, coords=coords)
    texts = {
        "relevance": "root mean square slope of the loadings, all factors together",
        "share": "share in the sum of squared slopes of the loadings",
        "idio_relevance": "root mean square slope of the log idiosyncratic scale",
        "alpha_relevance": "root mean square slope of alpha",
    }
    for variable in posterior.data_vars:
        posterior[variable].attrs["long_name"] = texts[str(variable)]
    if not model.weight_sites:
        posterior.attrs["note"] = (
            "a point estimate: weights are at their MAP, so one draw; build the parts with "
            "weights=rv.weights...(inference='posterior') for a posterior"
        )
    return xr.DataTree.from_dict({"posterior": posterior})


def typical_batch(model: RVRAE, seed: int, assets: Sequence[str] | None = None) -> Batch:
    """Make a panel of ranks: uniform on [-1, 1] in the first month and kept from there on.

    ``assets`` are labels. Default: 200 assets without effects of their own.
    """
    labels = np.array([f"A{i:03d}" for i in range(_ASSETS)] if assets is None else assets)
    size = (len(labels), model.n_characteristics)
    with month_random(seed, _EPOCH, "relevance"):
        ranks = 2.0 * torch.rand(size, dtype=torch.float64) - 1.0
    device = model.return_scale.device
    months = np.datetime64("2000-01", "M") + np.arange(_MONTHS).astype("timedelta64[M]")
    listed = torch.ones(_MONTHS, len(labels), dtype=torch.bool, device=device)
    n_context = max(int(getattr(part, "n_context", 0)) for part in model.parts.modules())
    context = torch.zeros(_MONTHS, n_context, dtype=torch.float64, device=device)
    return Batch(
        returns=torch.zeros(listed.shape, dtype=torch.float64, device=device),
        observed=torch.zeros_like(listed),
        listed=listed,
        characteristics=ranks.to(device).expand(_MONTHS, *size).contiguous(),
        context=context if n_context else None,
        times=months.astype("datetime64[ns]"),
        assets=labels,
        names=np.arange(model.n_characteristics).astype(str),
    )


def _slopes(model: RVRAE, batch: Batch, path: str, seed: int) -> np.ndarray:
    """Root mean square slopes (n_characteristics,), characteristics of all months moved at once.

    Random signs over months and outputs make one backward pass give all squared slopes without
    bias (Hutchinson): the cross terms have mean zero.
    """
    shift = torch.zeros_like(batch.characteristics[0]).requires_grad_()
    total = torch.zeros_like(shift)
    with torch.enable_grad(), month_random(seed, _EPOCH, f"probes of {path}"):
        listed = batch.listed.unsqueeze(-1)
        moved = dataclasses.replace(
            batch, characteristics=batch.characteristics + torch.where(listed, shift, 0.0)
        )
        output = model.parts.get_submodule(path)(moved)
        output = output.reshape(*output.shape[:2], -1) * listed
        for _ in range(_PROBES):
            signs = torch.where(torch.rand_like(output) < 0.5, -1.0, 1.0)
            (slope,) = torch.autograd.grad(
                (output * signs).sum(), shift, retain_graph=True, allow_unused=True
            )
            total = total if slope is None else total + slope.square().detach()
    mean: Tensor = total.sum(0) / (_PROBES * batch.listed.sum().clamp_min(1))
    return mean.sqrt().cpu().numpy()
