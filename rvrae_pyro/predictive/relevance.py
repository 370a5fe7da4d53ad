"""How much each characteristic moves the loadings and scales of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.inference.particle_filter import month_random
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, CHARACTERISTIC, DRAW
from rvrae_pyro.predictive.months import load, sample_coords
from rvrae_pyro.predictive.weight_draws import fixed_models

__all__ = ["relevance_of", "typical_batch"]

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
        batch, _ = load(model, panel)
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


def typical_batch(model: RVRAE, seed: int) -> Batch:
    """Make a panel of ranks: uniform on [-1, 1] in the first month and kept from there on."""
    size = (_ASSETS, model.n_characteristics)
    with month_random(seed, _EPOCH, "relevance"):
        ranks = 2.0 * torch.rand(size, dtype=torch.float64) - 1.0
    device = model.return_scale.device
    months = np.datetime64("2000-01", "M") + np.arange(_MONTHS).astype("timedelta64[M]")
    listed = torch.ones(_MONTHS, _ASSETS, dtype=torch.bool, device=device)
    n_context = max(int(getattr(part, "n_context", 0)) for part in model.parts.modules())
    context = torch.zeros(_MONTHS, n_context, dtype=torch.float64, device=device)
    return Batch(
        returns=torch.zeros(_MONTHS, _ASSETS, dtype=torch.float64, device=device),
        observed=torch.zeros_like(listed),
        listed=listed,
        characteristics=ranks.to(device).expand(_MONTHS, *size).contiguous(),
        context=context if n_context else None,
        times=months.astype("datetime64[ns]"),
        assets=np.array([f"A{i:03d}" for i in range(_ASSETS)]),
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
    root: np.ndarray = mean.sqrt().cpu().numpy()
    return root
