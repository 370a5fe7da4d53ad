"""Simulation-based calibration of interpretable parameters and of functionals of the forecast."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.diagnostics.sbc import rank_tree
from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.inference.refinement import refine
from rvrae_pyro.models import exact
from rvrae_pyro.models.random_weights import Weights
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.nn.seeding import seeded
from rvrae_pyro.predictive.months import load
from rvrae_pyro.predictive.simulate import simulate_with_draws
from rvrae_pyro.predictive.weight_draws import in_double, label_parameter

__all__ = ["sbc_forecast"]

PORTFOLIO_SD, TAIL_PROBABILITY = "portfolio_sd", "tail_probability"


@torch.no_grad()
def sbc_forecast(
    model: RVRAE,
    panel: xr.Dataset,
    num_datasets: int = 50,
    num_samples: int = 99,
    num_draws: int = 1000,
    seed: int = 0,
) -> xr.DataTree:
    """Rank parameters, and functionals of the forecast, that the model drew among their posterior.

    Each simulated panel has parameters drawn from their prior. Their posterior is found as by
    ``rv.fit`` (:func:`rvrae_pyro.inference.refine`), from all months but the last, and the last
    month is forecast under every draw. Marginal deviations of the parameters can be right while
    their dependence is wrong; functionals of the forecast are of all of them together.

    Parameters
    ----------
    model : RVRAE
        With interpretable parameters that have priors, and an evidence in closed form. Weights
        and parameters without a prior are as they are.
    panel : xarray.Dataset
        Its characteristics, listing and context; its returns are replaced.
    num_datasets : int
        Simulated panels.
    num_samples : int
        Posterior draws per panel: ranks run from 0 to this number.
    num_draws : int
        Draws per round of importance sampling.
    seed : int

    Returns
    -------
    DataTree
        ``prior_sbc``, ``ranks`` and ``uniformity`` as of :func:`rvrae_pyro.diagnostics.sbc`, with
        one variable per site, and ``portfolio_sd`` (standard deviation of the equally weighted
        return of the last month, given the months before) and ``tail_probability`` (of a loss
        beyond 1.645 standard deviations of that portfolio's earlier returns).

    Raises
    ------
    ConfigError
        If no parameter has a prior, or the evidence has no closed form.

    Notes
    -----
    Costs one call of ``refine`` per panel.

    References
    ----------
    Talts et al. (2018), arXiv 1804.06788; Modrak et al. (2023), Bayesian Analysis: functionals of
    data and parameters as test quantities.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> import rvrae_pyro as rv
    >>> panel = rv.data.simulate_linear_gaussian(4, 12, 1)
    >>> prior = rv.priors.AR1(1, coefficient=dist.Uniform(-1.0, 1.0))
    >>> model = rv.RVRAE(
    ...     1,
    ...     1,
    ...     loadings=rv.loadings.Linear(1, 1),
    ...     factor_prior=prior,
    ...     likelihood=rv.likelihoods.Normal(),
    ... )
    >>> tree = rv.diagnostics.sbc_forecast(model, panel, 2, num_samples=19, num_draws=100)
    >>> sorted(tree["ranks"].data_vars)
    ['factor_prior.coefficient', 'portfolio_sd', 'tail_probability']
    """
    require_model(model)
    for name, value in (("num_datasets", num_datasets), ("num_samples", num_samples)):
        check_count(name, value)
    if not model.hyper_sites or not exact.is_exact(model):
        raise ConfigError(
            "`model` must have interpretable parameters with priors and an evidence in closed "
            f"form (rv.likelihoods.Normal, a linear Gaussian prior); got {model!r}. Use "
            "rv.diagnostics.sbc for its factors."
        )
    batch, device = load(model, panel)
    precise = in_double(model).to(device)
    guide = precise.parts.weight_guide
    _, returns, drawn = simulate_with_draws(precise, batch, num_datasets, seed)
    beta, _ = precise.loadings.online(batch)
    names = (*precise.hyper_sites, PORTFOLIO_SD, TAIL_PROBABILITY)
    ranks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    last = batch.n_times - 1
    for i in range(num_datasets):
        observed = batch.listed.clone()
        observed[last] = False
        data = dataclasses.replace(batch, returns=returns[i], observed=observed)
        fresh = precise.at({})
        fresh.parts.weight_guide.reset()
        key = seed * 1_000_003 + i
        refine(fresh, data.window(0, last, every_asset=True), num_draws, seed=key)
        with seeded(key):
            values = _draws(fresh, num_samples)
        truth = {site.name: drawn[site.name][i : i + 1] for site in guide.parameters_}
        everything = {n: torch.cat([truth[n], values[n]]) for n in values}
        functionals = _functionals(precise, data, beta, everything)
        for name, each in {**everything, **functionals}.items():
            ranks[name].append((each[1:] < each[:1]).sum(0).cpu().numpy())
    dims: dict[str, tuple[str, ...]] = {}
    coords: dict[str, np.ndarray] = {}
    for name in names:
        shape = ranks[name][0].shape
        dims[name], known = label_parameter(precise, name, shape)
        coords |= known
    tree = rank_tree(ranks, dims, coords, num_samples)
    tree.attrs.update(seed=seed, num_samples=num_samples, num_draws=num_draws)
    return tree


def _draws(model: RVRAE, num_samples: int) -> dict[str, Tensor]:
    """Draws (num_samples, *shape) of the guide by site."""
    guide = model.parts.weight_guide
    mean, root = guide.moments(model.parts)
    noise = torch.randn(num_samples, len(mean), dtype=mean.dtype, device=mean.device)
    return guide.split(mean + noise @ root.mT)


def _functionals(
    model: RVRAE, data: Batch, beta: Tensor, values: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Compute functionals (n,) of the last month's equally weighted return."""
    last = data.n_times - 1
    share = data.listed[last].to(beta.dtype)
    share = share / share.sum().clamp_min(1.0)
    past = data.returns[:last] * data.observed[:last]
    earlier = past.sum(-1) / data.observed[:last].sum(-1).clamp_min(1)
    loss = -1.645 * earlier.std()

    def one(given: Weights) -> tuple[Tensor, Tensor]:
        cross = model.parts.cross_section(data, beta, given)
        moments = exact.filtered(model, data, cross, given)
        exposure = share @ cross.beta[last]
        mean = exposure @ moments.predicted_mean[last]
        if cross.alpha is not None:
            mean = mean + share @ cross.alpha[last]
        idio = (share * cross.scale[last]).square().sum()
        return mean, (exposure @ moments.predicted_covariance[last] @ exposure + idio).sqrt()

    mean, deviation = torch.vmap(one)(values)
    tail = 0.5 * torch.erfc(-(loss - mean) / (deviation * math.sqrt(2.0)))
    return {PORTFOLIO_SD: deviation, TAIL_PROBABILITY: tail}
