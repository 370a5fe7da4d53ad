"""Draws of the weights from their posterior, for forecasts that integrate over them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rvrae_pyro.errors import check_count
from rvrae_pyro.models.rvrae import RVRAE
from rvrae_pyro.nn.seeding import seeded

__all__ = [
    "block_sizes",
    "chain_seed",
    "drawn_weights",
    "fixed_models",
    "in_double",
    "weight_labels",
]

_LEAST, _A_BLOCK = 20, 50


def in_double(model: RVRAE) -> RVRAE:
    """Copy a model in double precision: prediction is cheap, and rounding must not steer it."""
    return copy.deepcopy(model).double().eval()


def block_sizes(model: RVRAE, num_samples: int) -> list[int]:
    """Draws for every draw of the weights.

    Weights at their MAP are one block. A posterior is integrated over by one draw of the weights
    for every 50 draws, and no fewer than 20 where there are as many draws; blocks differ in size
    by one at the most.
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

    One empty draw, with ``seed`` itself, where weights are at their MAP. The draws depend on the
    seed and their number in the sequence, not on any panel: they know what training knew and
    nothing of the months that are filtered later.
    """
    if not precise.drawn_sites:
        yield {}, seed
        return
    for number in range(num_draws):
        key = _derived_seed(f"{seed}|{number}|weights")
        with seeded(key):
            weights = precise.draw_weights()
        yield weights, key


def chain_seed(seed: int, chain: int) -> int:
    """Seed of an ensemble member's draws: independent streams, the first member's is ``seed``."""
    return seed if chain == 0 else _derived_seed(f"{seed}|{chain}|chain")


def _derived_seed(stamp: str) -> int:
    return int.from_bytes(hashlib.blake2b(stamp.encode(), digest_size=8).digest(), "big") >> 1


def fixed_models(model: RVRAE, n_blocks: int, seed: int) -> list[tuple[RVRAE, int]]:
    """Models in double precision with weights drawn from their posterior, and their seeds."""
    precise = in_double(model)
    drawn = drawn_weights(precise, n_blocks, seed)
    return [(precise.at(weights) if weights else precise, key) for weights, key in drawn]


def weight_labels(sizes: Sequence[int]) -> np.ndarray:
    """Return the number of the weight draw behind every draw."""
    return np.repeat(np.arange(len(sizes)), sizes)
