"""Draws of weights and interpretable parameters from their posterior."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from rvrae_pyro.errors import ConfigError, check_count
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.names import CHAIN, CHARACTERISTIC, DRAW, FACTOR, REGIME, RETURNS, WEIGHT_DRAW
from rvrae_pyro.nn.seeding import derived_seed, seeded
from rvrae_pyro.predictive.months import factor_coord, sample_coords
from rvrae_pyro.predictive.storage import tree_of

_LEAST, _A_BLOCK = 20, 50


def in_double(model: RVRAE) -> RVRAE:
    """Copy a model in double precision, in evaluation mode."""
    return copy.deepcopy(model).double().eval()


def block_sizes(model: RVRAE, num_samples: int) -> list[int]:
    """Numbers of draws by draw of the weights: one of these for every 50 draws, at least 20.

    One block where weights are at their MAP. Sizes differ by one at most.
    """
    check_count("num_samples", num_samples)
    if not model.drawn_sites:
        return [num_samples]
    n_blocks = min(num_samples, max(_LEAST, num_samples // _A_BLOCK))
    return [num_samples // n_blocks + (b < num_samples % n_blocks) for b in range(n_blocks)]


def drawn_weights(
    precise: RVRAE, num_draws: int, seed: int
) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
    """Draw weights by site from their posterior, each with a seed of its own.

    One empty draw, with ``seed`` itself, where weights are at their MAP. Draws depend on the seed
    and their number in the sequence, not on any panel.
    """
    if not precise.drawn_sites:
        yield {}, seed
        return
    for number in range(num_draws):
        key = derived_seed(f"{seed}|{number}|weights")
        with seeded(key):
            weights = precise.draw_weights()
        yield weights, key


def chain_seed(seed: int, chain: int) -> int:
    """Seed of an ensemble member's draws: independent streams, the first member's is ``seed``."""
    return seed if chain == 0 else derived_seed(f"{seed}|{chain}|chain")


def fixed_models(model: RVRAE, n_blocks: int, seed: int) -> list[tuple[RVRAE, int]]:
    """Models in double precision with weights drawn from their posterior, and their seeds."""
    precise = in_double(model)
    drawn = drawn_weights(precise, n_blocks, seed)
    return [(precise.at(weights) if weights else precise, key) for weights, key in drawn]


def sample_labels(sizes: Sequence[int]) -> dict[str, object]:
    """Label one chain of draws, ``sizes`` of each draw of the weights, one after another."""
    labels: dict[str, object] = {**sample_coords(sum(sizes))}
    if len(sizes) > 1:
        labels[WEIGHT_DRAW] = (DRAW, np.repeat(np.arange(len(sizes)), sizes))
    return labels


@torch.no_grad()
def parameter_tree(
    models: Sequence[RVRAE], num_samples: int, seed: int, attrs: Mapping[str, str | int]
) -> xr.DataTree:
    """Draw interpretable parameters of each chain's model from their posterior and their prior.

    See :meth:`rvrae_pyro.fitting.fit.Fit.posterior`.
    """
    num_samples, seed = check_count("num_samples", num_samples), check_count("seed", seed, 0)
    if not models[0].hyper_sites:
        raise ConfigError(
            "`posterior` needs an interpretable parameter with a prior; all are numbers. Fit a "
            'model with one, as model.with_priors({"factor_prior.scale": dist.Gamma(2., 2.)}).'
        )
    names = json.loads(str(attrs.get("characteristics", "null")))
    groups: dict[str, list[xr.Dataset]] = {}
    for chain, model in enumerate(models):
        with seeded(chain_seed(seed, chain)):
            drawn = _draw(in_double(model), num_samples)
        for group, values in drawn.items():
            labelled = _labelled(model, values, names, chain)
            groups.setdefault(group, []).append(labelled)
    joined = {
        group: xr.concat(each, CHAIN) if len(each) > 1 else each[0]
        for group, each in groups.items()
    }
    return tree_of(joined, {**attrs, "draw_seed": seed})


def draw_posterior(model: RVRAE, num_samples: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw parameters from their guide: in unconstrained space, and by site (draw, *shape)."""
    guide = model.parts.weight_guide
    mean, root = guide.moments(model.parts)
    noise = torch.randn(num_samples, len(mean), dtype=mean.dtype, device=mean.device)
    free = mean + noise @ root.mT
    return free, guide.split(free)


def label_parameter(
    model: RVRAE, name: str, shape: Sequence[int], characteristics: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Dims of a parameter by the name of its site, with coordinates of those that are known."""
    dims, coords = [], {}
    for i, size in enumerate(shape):
        last, of_factors = i == len(shape) - 1, name.startswith("factor_prior.")
        if of_factors and last and size == model.n_factors:
            dims.append(FACTOR)
            coords[FACTOR] = np.asarray(factor_coord(size))
        elif of_factors and len(shape) == 2 and i == 0:
            dims.append(REGIME)
        elif name.startswith("likelihood.alpha.") and size == model.n_characteristics:
            dims.append(CHARACTERISTIC)
            if characteristics is not None and len(characteristics) == size:
                coords[CHARACTERISTIC] = np.asarray(characteristics)
        else:
            dims.append(f"{name}_dim_{i}")
    return tuple(dims), coords


def _draw(model: RVRAE, num_samples: int) -> dict[str, dict[str, Tensor]]:
    """Draws by group and site, each (num_samples, *shape)."""
    parts, guide = model.parts, model.parts.weight_guide
    size = torch.Size((num_samples,))
    free, posterior = draw_posterior(model, num_samples)
    prior = {site.name: site.prior(parts).expand(size).sample() for site in guide.parameters_}
    log_prior = {
        site.name: site.prior(parts).log_prob(posterior[site.name]) for site in guide.parameters_
    }
    # the likelihood of all returns that the guide implies: posterior over prior, up to a constant
    mean, root = guide.moments(parts)
    law = torch.distributions.MultivariateNormal(mean, scale_tril=root)
    implied = law.log_prob(free) - guide.log_joint_prior(parts, free)
    return {
        "posterior": posterior,
        "prior": prior,
        "log_prior": log_prior,
        "log_likelihood": {RETURNS: implied},
    }


def _labelled(
    model: RVRAE, values: Mapping[str, Tensor], names: Sequence[str] | None, chain: int
) -> xr.Dataset:
    coords: dict[str, object] = {CHAIN: [chain]}
    variables = {}
    for name, value in values.items():
        dims, known = label_parameter(model, name, value.shape[1:], names)
        variables[name] = ((CHAIN, DRAW, *dims), value.unsqueeze(0).cpu().numpy())
        coords[DRAW] = np.arange(len(value))
        coords |= known
    return xr.Dataset(variables, coords=coords)
