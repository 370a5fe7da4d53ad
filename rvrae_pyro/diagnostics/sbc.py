"""Simulation-based calibration: of the guide, of parameters, and of functionals of the forecast."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.diagnostics.psis import HasModel, matched, model_of
from rvrae_pyro.errors import ConfigError, check_count, check_number
from rvrae_pyro.inference.importance import guide_paths, path_log_likelihood
from rvrae_pyro.inference.refinement import refine
from rvrae_pyro.models import exact
from rvrae_pyro.models.random_weights import Weights
from rvrae_pyro.models.rvrae import RVRAE, require_model
from rvrae_pyro.names import CHAIN, DRAW, FACTOR, FACTORS, TIME
from rvrae_pyro.nn.seeding import seeded
from rvrae_pyro.predictive.months import factor_coord, load, pick_months
from rvrae_pyro.predictive.simulate import simulate
from rvrae_pyro.predictive.storage import tree_of
from rvrae_pyro.predictive.weight_draws import draw_posterior, in_double, label_parameter

_BINS = 10


def sbc(
    fit: HasModel | RVRAE,
    panel: xr.Dataset,
    num_datasets: int = 200,
    num_samples: int = 99,
    seed: int = 0,
    *,
    kl_weight: float = 1.0,
    times: object | None = None,
) -> xr.DataTree:
    """Rank what the model drew among the guide's draws, over many simulated panels.

    Parameters
    ----------
    fit : Fit or RVRAE
        Model and guide at their current weights; one member of an ensemble at a time.
    panel : xarray.Dataset
        Its characteristics, listing and context; its returns are replaced by simulated ones in
        every listed cell. A dozen months suffice.
    num_datasets : int
        Simulated panels.
    num_samples : int
        Draws of the guide per panel: ranks run from 0 to this number.
    seed : int
    kl_weight : float
        KL weight of guides that adapt to it, as ``Conjugate`` does.
    times : label, slice or list, optional
        Months whose factors are ranked. Default: the first, middle and last.

    Returns
    -------
    DataTree
        ``prior_sbc``: probability integral transforms (rank + 1/2) / (num_samples + 1) of
        ``factors`` (chain, draw, time, factor) and ``log_likelihood`` (chain, draw), a draw for
        every simulated panel: ``arviz_plots.plot_ecdf_pit(tree)`` plots them. ``ranks``: the
        ranks themselves. ``uniformity``: see :func:`uniformity`.

    Raises
    ------
    ConfigError
        If a number is below 1, ``kl_weight`` not above 0, or ``fit`` an ensemble.

    Notes
    -----
    Uniform ranks mean that the guide's posterior is the model's, averaged over simulated data:
    ranks piled up at both ends come from a posterior that is too narrow, a hump from one that is
    too wide, a slope from a biased one. They do not test the model on real returns. A filtering
    guide that ignores later months is exact in the last month alone. Costs num_datasets passes of
    the guide.

    Everything is conditional on one value of the weights, the mean where they have a posterior
    (attribute ``weights``): ranks are of the factors only.
    :func:`rvrae_pyro.diagnostics.psis_weights` judges the guide of the weights.

    References
    ----------
    Talts et al. (2018), arXiv 1804.06788; Yao et al. (2018), ICML; Säilynoja, Bürkner and
    Vehtari (2022), Statistics and Computing 32; Modrák et al. (2023), Bayesian Analysis
    (log likelihood as a test quantity).
    """
    for name, value in (("num_datasets", num_datasets), ("num_samples", num_samples)):
        check_count(name, value)
    check_number("kl_weight", kl_weight, "(0, inf)")
    model = model_of(fit)
    batch, precise = load(model, matched(fit, panel)), in_double(model)
    months = _months(batch, times)
    codes, returns, _ = simulate(precise, batch, num_datasets, seed, fixed=True)
    with torch.no_grad():  # the characteristics, hence the loadings, are those of every panel
        beta, _ = precise.loadings.online(batch)
    ranks: dict[str, list[np.ndarray]] = {FACTORS: [], "log_likelihood": []}
    for i in range(num_datasets):
        data = dataclasses.replace(batch, returns=returns[i], observed=batch.listed)
        with torch.no_grad():
            cross = precise.parts.cross_section(data, beta)
        paths = guide_paths(precise, data, num_samples, seed * 1_000_003 + i, kl_weight, cross)
        truth = precise.decoder(codes[i], None)
        ranks[FACTORS].append(_rank(paths.factors[:, months], truth[months]))
        fit_of_truth = path_log_likelihood(precise, data, codes[i : i + 1], cross).sum()
        ranks["log_likelihood"].append(_rank(paths.log_likelihood.sum(-1), fit_of_truth))
    dims: dict[str, tuple[str, ...]] = {FACTORS: (TIME, FACTOR), "log_likelihood": ()}
    coords = {TIME: batch.times[months], FACTOR: np.asarray(factor_coord(model.n_factors))}
    weights = "posterior mean" if model.drawn_sites else "as they are"
    attrs = {"seed": seed, "kl_weight": kl_weight, "weights": weights}
    return rank_tree(ranks, dims, coords, num_samples, attrs)


def uniformity(ranks: xr.DataArray, num_samples: int) -> xr.Dataset:
    """Test ranks over simulated panels for uniformity.

    Parameters
    ----------
    ranks : DataArray (chain, draw, ...)
        Whole numbers from 0 to ``num_samples``.
    num_samples : int

    Returns
    -------
    Dataset
        ``p_value`` (...): chi-squared over ten classes of ranks. ``spread`` (...): variance of
        the ranks over that of uniform ones: above 1 the posterior is too narrow, below 1 too
        wide. ``bias`` (...): mean rank less that of uniform ones, in standard errors.
    """
    from scipy import stats

    flat = ranks.stack(sample=(CHAIN, DRAW)).transpose(..., "sample")
    values, size = flat.to_numpy(), flat.sizes["sample"]
    n_classes = min(_BINS, num_samples + 1)
    classes = (values * n_classes) // (num_samples + 1)
    # number of ranks in each class
    whole = np.bincount((np.arange(num_samples + 1) * n_classes) // (num_samples + 1))
    expected = size * whole / (num_samples + 1)
    counts = np.stack([(classes == k).sum(-1) for k in range(n_classes)], -1)
    statistic = ((counts - expected) ** 2 / expected).sum(-1)
    p_value = np.asarray(stats.chi2.sf(statistic, n_classes - 1))
    variance = ((num_samples + 1) ** 2 - 1) / 12.0
    bias = (values.mean(-1) - num_samples / 2.0) / np.sqrt(variance / size)
    spread = ((values - num_samples / 2.0) ** 2).mean(-1) / variance
    like = flat.isel(sample=0, drop=True).drop_vars((CHAIN, DRAW), errors="ignore")
    return xr.Dataset(
        {
            "p_value": like.copy(data=p_value),
            "spread": like.copy(data=spread),
            "bias": like.copy(data=bias),
        }
    )


def _months(batch: Batch, times: object | None) -> Sequence[int]:
    if times is not None:
        return pick_months(batch, times)
    last = batch.n_times - 1
    return sorted({0, last // 2, last})


def _rank(draws: Tensor, truth: Tensor) -> np.ndarray:
    """Count the draws below the truth, over the first axis."""
    return (draws < truth).sum(0).cpu().numpy()


def rank_tree(
    ranks: Mapping[str, Sequence[np.ndarray]],
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, np.ndarray],
    num_samples: int,
    attrs: Mapping[str, object],
) -> xr.DataTree:
    """Put ranks, one array per simulated panel, into a tree with tests of their uniformity."""
    size = len(next(iter(ranks.values())))
    sample = {CHAIN: [0], DRAW: np.arange(size)}
    counted = xr.Dataset(
        {
            name: ((CHAIN, DRAW, *dims[name]), np.stack(values)[None])
            for name, values in ranks.items()
        },
        coords={**sample, **coords},
    )
    tests = {name: uniformity(counted[name], num_samples) for name in dims}
    judged = {
        f"{figure}_{name}": tests[name][figure]
        for name in dims
        for figure in ("p_value", "spread", "bias")
    }
    groups = {
        "prior_sbc": (counted + 0.5) / (num_samples + 1),
        "ranks": counted,
        "uniformity": xr.Dataset(judged),
    }
    return tree_of(groups, {"num_samples": num_samples, **attrs})


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
    >>> parts = {"loadings": rv.loadings.Linear(1, 1), "likelihood": rv.likelihoods.Normal()}
    >>> model = rv.RVRAE(1, 1, factor_prior=prior, **parts)
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
    batch, precise = load(model, panel), in_double(model)
    guide = precise.parts.weight_guide
    _, returns, drawn = simulate(precise, batch, num_datasets, seed)
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
            values = draw_posterior(fresh, num_samples)[1]
        truth = {site.name: drawn[site.name][i : i + 1] for site in guide.parameters_}
        everything = {n: torch.cat([truth[n], values[n]]) for n in values}
        functionals = _functionals(precise, data, beta, everything)
        for name, each in {**everything, **functionals}.items():
            ranks[name].append(_rank(each[1:], each[:1]))
    dims: dict[str, tuple[str, ...]] = {}
    coords: dict[str, np.ndarray] = {}
    for name in names:
        shape = ranks[name][0].shape
        dims[name], known = label_parameter(precise, name, shape)
        coords |= known
    return rank_tree(ranks, dims, coords, num_samples, {"seed": seed, "num_draws": num_draws})


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
