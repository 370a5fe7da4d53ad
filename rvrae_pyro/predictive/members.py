"""Draws of the weights, and what each says of the factors: the members of a forecast."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count
from rvrae_pyro.inference.smc import smc_filter
from rvrae_pyro.models import exact
from rvrae_pyro.models.parts import CrossSection
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.seeding import seeded
from rvrae_pyro.predictive.beliefs import Beliefs, believe, in_double

__all__ = [
    "Member",
    "believe_each",
    "block_sizes",
    "drawn_weights",
    "evidence_by_weights",
    "fixed_models",
    "weight_labels",
]

_LEAST, _A_BLOCK = 20, 50


@dataclass(frozen=True)
class Member:
    """One draw of the weights and what it says; the only one where weights are at their MAP.

    Attributes
    ----------
    model : RVRAE
        In double precision, with the weights drawn.
    beliefs : Beliefs
        With this member's share of the draws.
    seed : int
        Seed of all that is drawn given these weights.
    """

    model: RVRAE
    beliefs: Beliefs
    seed: int


def block_sizes(model: RVRAE, num_samples: int) -> list[int]:
    """Draws for every draw of the weights.

    Weights at their MAP are one block. A posterior is integrated over by one draw of the weights
    for every 50 draws, and no fewer than 20 where there are as many draws; blocks differ in size
    by one at the most.
    """
    check_count("num_samples", num_samples)
    if not model.weight_sites:
        return [num_samples]
    n_blocks = min(num_samples, max(_LEAST, num_samples // _A_BLOCK))
    return [num_samples // n_blocks + (b < num_samples % n_blocks) for b in range(n_blocks)]


def drawn_weights(
    precise: RVRAE, num_draws: int, seed: int
) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
    """Draw weights by site from their posterior, each with a seed of its own.

    One empty draw, with ``seed`` itself, where weights are at their MAP. The draws depend on the
    seed and their number in the sequence, not on any panel: they know what training knew and
    nothing of the months that are filtered later.
    """
    if not precise.weight_sites:
        yield {}, seed
        return
    for number in range(num_draws):
        stamp = f"{seed}|{number}|weights".encode()
        key = int.from_bytes(hashlib.blake2b(stamp, digest_size=8).digest(), "big") >> 1
        with seeded(key):
            weights = precise.draw_weights()
        yield weights, key


def fixed_models(model: RVRAE, n_blocks: int, seed: int) -> list[tuple[RVRAE, int]]:
    """Models in double precision with weights drawn from their posterior, and their seeds."""
    precise = in_double(model)
    drawn = drawn_weights(precise, n_blocks, seed)
    return [(precise.at(weights) if weights else precise, key) for weights, key in drawn]


def believe_each(
    model: RVRAE,
    batch: Batch,
    num_samples: int,
    seed: int,
    cross: Callable[[RVRAE], CrossSection],
) -> list[Member]:
    """Filter a batch under every draw of the weights.

    Parameters
    ----------
    model : RVRAE
    batch : Batch
        In double precision.
    num_samples : int
        Draws of all members together. Each filter runs with as many particles as if it were
        alone, and keeps its share.
    seed : int
    cross : callable
        Gives loadings and scales of a model; the batch need not hold the characteristics.

    Returns
    -------
    list of Member
        Costs a filter, a copy of the weights and the loadings of all months for each.
    """
    sizes = block_sizes(model, num_samples)
    members = []
    for (fixed, key), size in zip(fixed_models(model, len(sizes), seed), sizes, strict=True):
        beliefs = believe(fixed, batch, num_samples, key, cross(fixed))
        members.append(Member(fixed, _first(beliefs, size), key))
    return members


@torch.no_grad()
def evidence_by_weights(
    model: RVRAE,
    batch: Batch,
    num_draws: int,
    num_samples: int,
    seed: int,
    cross: Callable[[RVRAE], CrossSection] | None = None,
) -> torch.Tensor:
    """Log evidence (n_draws, n_times) of every month under each of ``num_draws`` weights.

    Parameters as for :func:`believe_each`; ``num_samples`` are particles of each filter, which
    an exact model does without. One row where weights have no posterior.
    """
    check_count("by_weights", num_draws)
    rows = []
    precise = in_double(model)
    fixed = copy.deepcopy(precise)
    for weights, key in drawn_weights(precise, num_draws, seed):
        for name, value in weights.items():
            fixed.parts.get_parameter(name).copy_(value)
        known = fixed.parts.online_cross_section(batch) if cross is None else cross(fixed)
        if exact.is_exact(fixed):
            rows.append(exact.filtered(fixed, batch, known).log_evidence)
        else:
            rows.append(smc_filter(fixed, batch, num_samples, key, cross=known).log_evidence)
    return torch.stack(rows)


def weight_labels(sizes: Sequence[int]) -> np.ndarray:
    """Tell which draw of the weights is behind every draw."""
    return np.repeat(np.arange(len(sizes)), sizes)


def _first(beliefs: Beliefs, size: int) -> Beliefs:
    """Keep some draws of every month; they come in random order and equally weighted."""
    if size == beliefs.predicted.shape[1]:
        return beliefs
    level = beliefs.level
    return dataclasses.replace(
        beliefs,
        predicted=beliefs.predicted[:, :size].clone(),
        predicted_log_prior=beliefs.predicted_log_prior[:, :size].clone(),
        filtered=beliefs.filtered[:, :size].clone(),
        smoothed=beliefs.smoothed[:, :size].clone(),
        predicted_codes=beliefs.predicted_codes[:, :size].clone(),
        level=None if level is None else level[:, :size].clone(),
        readings={name: draws[:, :size].clone() for name, draws in beliefs.readings.items()},
    )
