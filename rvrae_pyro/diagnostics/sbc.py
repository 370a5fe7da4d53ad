"""Simulation-based calibration: whether the guide recovers what the model has drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.diagnostics.subject import HasModel, matched, model_of
from rvrae_pyro.errors import check_count, check_number
from rvrae_pyro.inference.importance import guide_paths, path_log_likelihood
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, DRAW, FACTOR, FACTORS, TIME
from rvrae_pyro.predictive.months import factor_coord, load, pick_months
from rvrae_pyro.predictive.simulate import simulate
from rvrae_pyro.predictive.weight_draws import in_double

__all__ = ["sbc", "uniformity"]

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
        Model and guide, with their weights as they are; one member of an ensemble at a time.
    panel : xarray.Dataset
        Its characteristics, listing and context; its returns are replaced by simulated ones,
        one in every listed cell. A dozen months will do.
    num_datasets : int
        Simulated panels, each with factors and returns of its own.
    num_samples : int
        Draws of the guide a panel: ranks run from 0 to this number.
    seed : int
    kl_weight : float
        KL weight under which the guide answers; only a guide that adapts to it, as
        ``Conjugate`` does, then changes. A trained guide answers as it was trained.
    times : label, slice or list, optional
        Months whose factors are ranked; the first, middle and last unless told.

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
    Uniform ranks mean that the guide's posterior is the model's, averaged over data that the
    model makes up: ranks piled up at both ends come from a posterior that is too narrow, a
    hump from one that is too wide, a slope from a biased one. They do not say that the model
    is right about real returns. A filtering guide that ignores the months to come is exact
    in the last month alone. Costs num_datasets passes of the guide.

    Everything is conditional on one value of the model's weights, the mean where they have a
    posterior, in the simulated panels and in the guide alike (attribute ``weights``): ranks are
    of the factors only. The guide of the weights is no function of the returns; to rank weights
    it would have to be trained anew on every simulated panel, from weights drawn from their
    prior. :func:`rvrae_pyro.diagnostics.psis_weights` judges it on the panel at hand.

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
    batch, device = load(model, matched(fit, panel))
    precise = in_double(model).to(device)
    months = _months(batch, times)
    codes, returns = simulate(precise, batch, num_datasets, seed)
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
    tree = _tree(ranks, batch.times[months], model.n_factors, num_samples, seed, kl_weight)
    tree.attrs["weights"] = "posterior mean" if model.drawn_sites else "as they are"
    return tree


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
    # as many ranks fall in a class as there are whole numbers that it holds
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
    ranks: np.ndarray = (draws < truth).sum(0).cpu().numpy()
    return ranks


def _tree(
    ranks: Mapping[str, Sequence[np.ndarray]],
    times: np.ndarray,
    n_factors: int,
    num_samples: int,
    seed: int,
    kl_weight: float,
) -> xr.DataTree:
    dims: dict[str, tuple[str, ...]] = {FACTORS: (TIME, FACTOR), "log_likelihood": ()}
    coords = {TIME: times, FACTOR: np.asarray(factor_coord(n_factors))}
    tree = rank_tree(ranks, dims, coords, num_samples)
    tree.attrs.update(seed=seed, num_samples=num_samples, kl_weight=kl_weight)
    return tree


def rank_tree(
    ranks: Mapping[str, Sequence[np.ndarray]],
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, np.ndarray],
    num_samples: int,
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
    return xr.DataTree.from_dict(
        {
            "prior_sbc": (counted + 0.5) / (num_samples + 1),
            "ranks": counted,
            "uniformity": xr.Dataset(judged),
        }
    )
