"""A linear Gaussian market whose parameters are known, and the model that draws it."""

import numpy as np
import torch
import xarray as xr

import rvrae_pyro as rv
from tests.helpers import fixed_loadings

UNIT = 0.05


def known_panel(n_assets: int, n_times: int, n_factors: int, **settings: float) -> xr.Dataset:
    """Simulate returns of the usual size."""
    return rv.data.simulate_linear_gaussian(n_assets, n_times, n_factors, **settings)


def known_model(
    n_factors: int,
    *,
    phi: float = 0.9,
    q: float = 0.5,
    guide: rv.guides.Guide | None = None,
    factor_prior: rv.priors.FactorPrior | None = None,
    likelihood: rv.likelihoods.Likelihood | None = None,
) -> rv.RVRAE:
    """Build the model that ``simulate_linear_gaussian`` draws from by default."""
    prior = factor_prior or rv.priors.AR1(n_factors)
    likelihood = likelihood or rv.likelihoods.Normal()
    model = rv.RVRAE(
        n_factors,
        n_factors,
        loadings=fixed_loadings(n_factors),
        factor_prior=prior,
        likelihood=likelihood,
        guide=guide,
    ).double()
    with torch.no_grad():
        model.return_scale.fill_(UNIT)
        if isinstance(prior, rv.priors.AR1):
            prior.unbounded_coefficient.fill_(float(np.arctanh(phi)))
            prior.log_scale.fill_(0.5 * float(np.log(q)))
        likelihood.scale.log_scale.fill_(0.0)
    return model


def freeze(model: rv.RVRAE, *, but: str = "") -> rv.RVRAE:
    """Keep all weights as they are, save those of one part."""
    for name, weight in model.parts.named_parameters():
        weight.requires_grad_(bool(but) and name.startswith(but))
    return model


class Holder:
    """The least that diagnostics ask of a fit."""

    def __init__(self, model: rv.RVRAE) -> None:
        self.model = model
