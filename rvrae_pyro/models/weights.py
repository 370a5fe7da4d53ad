"""Priors over network weights.

Each is a density on an absolute scale: it does not know how many months or assets there are,
so twice the data halve its pull, as Bayes has it.

With ``inference="map"`` the log density is added by the trainer and not by the pair, whose ELBO
therefore stays a bound on the evidence given the weights. With ``inference="posterior"`` the
weights of feed-forward layers are latents: Pyro sites of the model, with a mean-field guide.
Recurrent weights stay at their MAP either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from rvrae_pyro.errors import ConfigError, check_choice, check_number
from rvrae_pyro.models.kinds import describe_kind
from rvrae_pyro.models.weight_densities import GroupLogMatrix, HierarchicalMatrix, HorseshoeMatrix

__all__ = [
    "GroupLog",
    "Hierarchical",
    "Horseshoe",
    "Inference",
    "Laplace",
    "Normal",
    "WeightMatrices",
    "WeightPrior",
    "check_weights",
    "weight_matrices",
]

Inference = Literal["map", "posterior"]
"""What is done about the weights: one best value, or a distribution over them."""


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
    """A density over weight matrices.

    One that also has ``inference = "posterior"`` and a method ``distribution(weight, is_input)``,
    the normalised density of one matrix of the shape of ``weight`` as a Pyro distribution with
    no batch dimension, makes latents of feed-forward weights.
    """

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        ...


def check_weights(slot: str, value: object) -> None:
    """Raise unless a value is a weight prior or None.

    Raises
    ------
    ConfigError
        Naming slot, what came, and the choices.
    """
    is_class = isinstance(value, type)
    if value is None or (not is_class and callable(getattr(value, "log_density", None))):
        return
    remedy = f"Choose among {', '.join(_CHOICES)}, or None."
    if is_class and hasattr(value, "log_density"):
        remedy = f"Pass an instance, e.g. rv.weights.{value.__name__}(). {remedy}"  # type: ignore[attr-defined]
    raise ConfigError(
        f"`{slot}` must be a weight prior, with a method `log_density`; got "
        f"{describe_kind(value)}. {remedy}"
    )


_NAMES = ("GroupLog", "Hierarchical", "Horseshoe", "Laplace", "Normal")
_CHOICES = tuple(f"rv.weights.{name}()" for name in _NAMES)


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
        Share of a Laplace term on every weight; above 0 it makes the density proper whatever
        the size of a group.
    inference : {"map", "posterior"}
        One best value, or a mean-field posterior of feed-forward weights.
    """

    strength: float = 36.0
    scale: float = 0.1
    elementwise: float = 0.3
    inference: Inference = "map"

    def __post_init__(self) -> None:
        _require_positive(strength=self.strength, scale=self.scale)
        check_choice("inference", self.inference, ("map", "posterior"))
        check_number("elementwise", self.elementwise, "[0, inf)")

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        penalty = self.elementwise * _total([w.abs().sum() for w in tables])
        for w in matrices.inputs:
            # the tiny constant keeps the gradient finite at a column that is exactly zero
            norms = (w.square().sum(0) + 1e-12).sqrt()
            penalty = penalty + torch.log1p(norms / self.scale).sum()
        return -self.strength * penalty

    def distribution(self, weight: Tensor, is_input: bool) -> dist.TorchDistribution:
        """Normalised density of one matrix; draws come from its scale mixture.

        Raises
        ------
        ConfigError
            If there is none: hidden weights without an elementwise term, or columns of
            ``strength`` weights or more without it.
        """
        rows = weight.numel() // max(1, weight.shape[-1])
        if self.elementwise == 0 and (not is_input or self.strength <= rows):
            raise ConfigError(
                "GroupLog with `elementwise` 0 is no proper density of "
                f"{'groups of ' + str(rows) if is_input else 'hidden'} weights, so it has no "
                "draws and no posterior. Give it `elementwise` above 0, or for groups a "
                "`strength` above their size."
            )
        if is_input:
            return GroupLogMatrix(weight, self.strength, self.scale, self.elementwise)
        spread = weight.new_full((), 1.0 / (self.strength * self.elementwise))
        return _elementwise(dist.Laplace(torch.zeros_like(spread), spread), weight)


@dataclass(frozen=True)
class Horseshoe:
    r"""Regularised horseshoe, grouped by characteristic.

    .. math::
        w_p \sim N(0, v_p I), \quad 1/v_p = 1/(\tau\lambda_p)^2 + 1/\text{slab}^2, \quad
        \lambda_p \sim C^+(0, 1), \quad \tau \sim C^+(0, \text{scale}),

    for the column of characteristic p, with both scales integrated out on a grid; Laplace for
    hidden and output weights. Unlike :class:`GroupLog` it learns from the data how many
    characteristics matter (:math:`\tau`), and leaves those that do nearly alone (slab).

    Parameters
    ----------
    scale : float
        Global scale: a weight of a characteristic that does not stand out.
    slab : float
        Largest scale of a weight.
    floor : float
        Smallest local scale. Without one the density has a pole at zero, and the MAP would be
        zero whatever the data say.
    others : float
        Scale of a Laplace prior on hidden and output weights.
    inference : {"map", "posterior"}
        One best value, or a mean-field posterior of feed-forward weights.

    References
    ----------
    Piironen and Vehtari (2017), Electronic Journal of Statistics 11, eqs. (2.8) and (2.9).
    """

    scale: float = 0.02
    slab: float = 1.0
    floor: float = 0.1
    others: float = 0.1
    inference: Inference = "map"

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale, slab=self.slab, others=self.others)
        check_number("floor", self.floor, "(0, 1)", "1 is a typical local scale.")
        check_choice("inference", self.inference, ("map", "posterior"))

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        columns = [self.distribution(w, True).log_prob(w) for w in matrices.inputs]
        absolute = [-w.abs().sum() / self.others for w in matrices.others]
        return _total([*columns, *absolute])

    def distribution(self, weight: Tensor, is_input: bool) -> dist.TorchDistribution:
        """Normalised density of one matrix; its draws are scales first, then weights."""
        if is_input:
            return HorseshoeMatrix(weight, self.scale, self.slab, self.floor)
        spread = weight.new_full((), self.others)
        return _elementwise(dist.Laplace(torch.zeros_like(spread), spread), weight)


@dataclass(frozen=True)
class Normal:
    """Independent ``Normal(0, scale)`` on every weight.

    Parameters
    ----------
    scale : float
        Standard deviation of a weight.
    inference : {"map", "posterior"}
        One best value, or a mean-field posterior of feed-forward weights.
    """

    scale: float = 1.0
    inference: Inference = "map"

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale)
        check_choice("inference", self.inference, ("map", "posterior"))

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        return -0.5 * _total([(w / self.scale).square().sum() for w in tables])

    def distribution(self, weight: Tensor, is_input: bool) -> dist.TorchDistribution:
        """Normalised density of one matrix."""
        spread = weight.new_full((), self.scale)
        return _elementwise(dist.Normal(torch.zeros_like(spread), spread), weight)


@dataclass(frozen=True)
class Laplace:
    """Independent ``Laplace(0, scale)`` on every weight: an L1 penalty.

    Parameters
    ----------
    scale : float
        Mean absolute value of a weight.
    inference : {"map", "posterior"}
        One best value, or a mean-field posterior of feed-forward weights.
    """

    scale: float = 0.1
    inference: Inference = "map"

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale)
        check_choice("inference", self.inference, ("map", "posterior"))

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density up to a constant, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        return -_total([w.abs().sum() for w in tables]) / self.scale

    def distribution(self, weight: Tensor, is_input: bool) -> dist.TorchDistribution:
        """Normalised density of one matrix."""
        spread = weight.new_full((), self.scale)
        return _elementwise(dist.Laplace(torch.zeros_like(spread), spread), weight)


@dataclass(frozen=True)
class Hierarchical:
    r"""Normal effects whose scale, one per column, is learned.

    .. math:: w_{ik} \sim N(0, \tau_k^2), \qquad \tau_k \sim N^+(0, \sigma^2),

    with :math:`\tau_k` integrated out. The prior of what is particular to an asset
    (:class:`~rvrae_pyro.models.loadings.AssetEffects`,
    :class:`~rvrae_pyro.models.scales.AssetScale`).

    Parameters
    ----------
    scale : float
        Median of :math:`\tau_k`, 0.674 of :math:`\sigma`.

    Notes
    -----
    Always with a posterior (``inference = "posterior"``): the density has a pole at zero, where
    its maximum would put all effects. A half-Cauchy scale is wider than what is known: effects on
    a log scale would multiply an asset's risk by more than :math:`10^{20}` in some prior draws.

    References
    ----------
    Gelman (2006), Bayesian Analysis 1: priors of hierarchical scales.
    """

    scale: float = 0.3
    inference: ClassVar[Inference] = "posterior"

    def __post_init__(self) -> None:
        _require_positive(scale=self.scale)

    def log_density(self, matrices: WeightMatrices) -> Tensor:
        """Log density, a scalar."""
        tables = [*matrices.inputs, *matrices.others]
        return _total([self.distribution(w, False).log_prob(w) for w in tables])

    def distribution(self, weight: Tensor, is_input: bool) -> dist.TorchDistribution:
        """Normalised density of one matrix; its draws are scales first, then effects."""
        return HierarchicalMatrix(weight, self.scale)


def _elementwise(one: dist.TorchDistribution, weight: Tensor) -> dist.TorchDistribution:
    """Spread the density of one weight over a matrix."""
    matrix: dist.TorchDistribution = one.expand(weight.shape).to_event(weight.ndim)
    return matrix


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        check_number(name, value, "(0, inf)")
