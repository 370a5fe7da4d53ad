"""Priors over network weights.

Each is a density on an absolute scale: it does not know how many months or assets there are,
so twice the data halve its pull, as Bayes has it. With ``inference="map"`` the log density is
added by the trainer and not by the pair, whose ELBO therefore stays a bound on the evidence
given the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from rvrae_pyro.errors import ConfigError

__all__ = ["GroupLog", "Laplace", "Normal", "WeightMatrices", "WeightPrior", "weight_matrices"]


@dataclass(frozen=True)
class WeightMatrices:
    """Weight matrices of a network that a prior may act on.

    Attributes
    ----------
    inputs : sequence of Tensor of shape (n_outputs, n_characteristics)
        First layers: column p holds all that the network can see of characteristic p.
    others : sequence of Tensor
        Hidden, recurrent and output weights. Biases are in neither list.
    """

    inputs: Sequence[Tensor]
    others: Sequence[Tensor]


class WeightPrior(Protocol):
    """A density over weight matrices."""

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        ...


def weight_matrices(part: nn.Module) -> WeightMatrices:
    """Find a part's weight matrices.

    A part may say itself by a method ``weight_matrices()``. Otherwise parameters of two or more
    dimensions count, those with ``n_characteristics`` columns as inputs.
    """
    own = getattr(part, "weight_matrices", None)
    if own is not None:
        matrices: WeightMatrices = own()
        return matrices
    columns = getattr(part, "n_characteristics", None)
    tables = [p for p in part.parameters() if p.ndim >= 2]
    return WeightMatrices(
        [p for p in tables if p.shape[-1] == columns], [p for p in tables if p.shape[-1] != columns]
    )


@dataclass(frozen=True)
class GroupLog:
    """Heavy-tailed prior that switches whole characteristics off.

    ``log p = -strength * [sum_p log(1 + |w_p| / scale) + elementwise * (|W_in|_1 + |W_out|_1)]``
    with ``w_p`` the column of characteristic p: a generalised double-Pareto density, grouped by
    characteristic. Proper while ``strength`` exceeds the size of a group.

    Parameters
    ----------
    strength : float
        Absolute; 24 to 240 did well on panels from 12,000 to 240,000 cells.
    scale : float
        Norm of a column below which it counts as noise.
    elementwise : float
        Share of a Laplace term on every weight.
    """

    strength: float = 36.0
    scale: float = 0.1
    elementwise: float = 0.3

    def __post_init__(self) -> None:
        _require_positive(strength=self.strength, scale=self.scale)
        if self.elementwise < 0:
            raise ConfigError(f"`elementwise` must be at least 0; got {self.elementwise}.")

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        penalty = self.elementwise * _total([w.abs().sum() for w in tables])
        for w in matrices.inputs:
            # the tiny constant keeps the gradient finite at a column that is exactly zero
            norms = (w.square().sum(0) + 1e-12).sqrt()
            penalty = penalty + torch.log1p(norms / self.scale).sum()
        return -self.strength * penalty


@dataclass(frozen=True)
class Normal:
    """Independent ``Normal(0, scale)`` on every weight.

    Parameters
    ----------
    scale : float
        Standard deviation of a weight.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale)

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        return -0.5 * _total([(w / self.scale).square().sum() for w in tables])


@dataclass(frozen=True)
class Laplace:
    """Independent ``Laplace(0, scale)`` on every weight: an L1 penalty.

    Parameters
    ----------
    scale : float
        Mean absolute value of a weight.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale)

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        return -_total([w.abs().sum() for w in tables]) / self.scale


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"`{name}` must be above 0; got {value}.")
