"""Common variation of returns by principal axis, and what moves the loadings."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.models.cross_section import CrossSection
from rvrae_pyro.models.loadings import Augmented
from rvrae_pyro.models.rvrae import RVRAE

__all__ = ["AXIS", "common_variation"]

AXIS = "axis"


@torch.no_grad()
def common_variation(
    model: RVRAE, batch: Batch, predicted: Tensor, cross: CrossSection
) -> xr.Dataset:
    r"""Judge loadings B and factor covariance S together, free of rotation and scale.

    The nonzero eigenvalues of :math:`B S B'` relative to the idiosyncratic variances D are those
    of :math:`S^{1/2} B' D^{-1} B S^{1/2}`; an axis with eigenvalue :math:`\lambda` lets a month's
    returns carry :math:`\tfrac12 \log(1 + \lambda)` nats of information on the factors.

    Parameters
    ----------
    model : RVRAE
        In the batch's floating type.
    batch : Batch
    predicted : Tensor of shape (n_times, num_samples, n_factors)
        Draws of each month's factors given the months before.
    cross : CrossSection
        Loadings and scales of the batch.

    Returns
    -------
    Dataset
        ``information`` (axis,): nats per month, mean over months with two listed assets or more,
        largest first. ``moved``: share of the learned loadings' part of the common variance,
        :math:`\sum_{it} \beta_{it}' S_t \beta_{it}`, that goes away (or comes in) when every
        characteristic is set to its month's mean over the listed assets; 0 if there is none.

    Notes
    -----
    Only the learned loadings of ``rv.loadings.Augmented`` are judged: its other factors are the
    characteristics themselves. Cost O(T N K^2) and two passes through the loadings.
    """
    loadings = model.loadings
    learned = loadings.learned if isinstance(loadings, Augmented) else loadings
    n_factors = int(learned.n_factors)
    listed = batch.listed.unsqueeze(-1)
    centred = predicted[..., :n_factors] - predicted[..., :n_factors].mean(1, keepdim=True)
    covariance = centred.mT @ centred / predicted.shape[1]
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    beta = torch.where(listed, cross.beta[..., :n_factors], 0.0) @ root
    scaled = beta / model.likelihood.deviation(cross.scale).unsqueeze(-1)
    power = torch.linalg.eigvalsh(scaled.mT @ scaled).clamp_min(0.0).flip(-1)
    enough = batch.listed.sum(1) > 1
    information = 0.5 * torch.log1p(power[enough]).mean(0)
    moved = _moved(model, batch, root, n_factors)
    return xr.Dataset(
        {"information": (AXIS, information.cpu().numpy()), "moved": ((), moved)},
        {AXIS: np.arange(1, n_factors + 1)},
    )


def _moved(model: RVRAE, batch: Batch, root: Tensor, n_factors: int) -> float:
    """Share of the common variance that depends on the characteristics' differences."""
    listed = batch.listed.unsqueeze(-1)
    x = torch.where(listed, batch.characteristics, 0.0)
    mean = x.sum(1, keepdim=True) / listed.sum(1, keepdim=True).clamp_min(1)
    level = dataclasses.replace(batch, characteristics=torch.where(listed, mean, 0.0))
    own, same = (
        torch.where(listed, model.loadings.online(each)[0][..., :n_factors], 0.0) @ root
        for each in (batch, level)
    )
    total = float(own.square().sum())
    return float((own - same).square().sum()) / total if total > 0.0 else 0.0
