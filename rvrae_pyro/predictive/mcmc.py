"""Draws, densities and diagnostics of a finished MCMC run, by chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro.infer import MCMC
from torch import Tensor

from rvrae_pyro.errors import ConfigError
from rvrae_pyro.names import RETURNS

Array = NDArray[Any]


@dataclass(frozen=True)
class Chains:
    """A run of MCMC; every array starts with (chain, draw)."""

    samples: dict[str, Tensor]
    # log density of each latent site, summed over all but the sample dims and, for sites of the
    # `time` plate, the months: (chain, draw) or (chain, draw, time)
    log_prior: dict[str, Array] = field(default_factory=dict)
    log_likelihood: Array | None = None  # of the returns, (chain, draw, time, asset)
    sample_stats: dict[str, Array] = field(default_factory=dict)  # `diverging` (chain, draw)


def read_chains(mcmc: MCMC) -> Chains:
    """Read a run of MCMC and score its draws under its model, one evaluation of it per draw.

    A kernel built on ``potential_fn`` has no model: its draws have no densities.

    Raises
    ------
    ConfigError
        If the run holds no draws.
    """
    if not isinstance(mcmc, MCMC):
        raise ConfigError(
            "`samples` must be a mapping from site to array, as Predictive returns it, or an MCMC; "
            f"got {type(mcmc).__name__}."
        )
    if not getattr(mcmc, "_samples", None):
        raise ConfigError("`samples` is an MCMC without draws. Call its run(batch) first.")
    samples: dict[str, Tensor] = mcmc.get_samples(group_by_chain=True)
    size = next(iter(samples.values())).shape[:2]
    stats = {"diverging": _diverging(mcmc, (int(size[0]), int(size[1])))}
    model = getattr(mcmc.kernel, "model", None)
    if model is None:
        return Chains(samples, sample_stats=stats)
    scored = [
        [
            _score(model, {name: draws[c, d] for name, draws in samples.items()}, mcmc)
            for d in range(size[1])
        ]
        for c in range(size[0])
    ]
    stacked = {
        name: np.stack([np.stack([one[name] for one in chain]) for chain in scored])
        for name in scored[0][0]
    }
    likelihood = stacked.pop(RETURNS, None)
    return Chains(samples, stacked, likelihood, stats)


def _diverging(mcmc: MCMC, size: tuple[int, int]) -> Array:
    """Which draws ended in a divergent transition."""
    found = np.zeros(size, dtype=bool)
    # diagnostics() also splits chains for r-hat, which takes four draws of each
    kept: list[Any] = mcmc._diagnostics[: size[0]]
    for chain, record in enumerate(kept):
        found[chain, [int(draw) for draw in (record or {}).get("divergences", ())]] = True
    return found


@torch.no_grad()
def _score(model: Any, draw: Mapping[str, Tensor], mcmc: MCMC) -> dict[str, Array]:
    """Log densities of one draw: of each latent by month, of the returns by cell."""
    given = pyro.poutine.condition(model, data=dict(draw))
    trace = pyro.poutine.trace(given).get_trace(*(mcmc._args or ()), **(mcmc._kwargs or {}))
    trace.compute_log_prob()
    found = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or (name not in draw and name != RETURNS):
            continue
        density: Tensor = site["log_prob"]
        if name == RETURNS:
            found[name] = density.reshape(density.shape[-2:])
        elif any(frame.name == "time" for frame in site["cond_indep_stack"]):
            found[name] = density.reshape(density.shape[-2:]).sum(-1)
        else:
            found[name] = density.sum()
    return {name: density.cpu().numpy() for name, density in found.items()}
