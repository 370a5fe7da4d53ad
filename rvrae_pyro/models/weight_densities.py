"""Densities of a whole weight matrix, with the sampler and the constant that a Pyro site needs.

Both group the weights by column, one column a characteristic, and both are scale mixtures: a
column's scale is drawn first and its weights given the scale. The mixing integral is
one-dimensional, so it is done by the trapezoidal rule on a fixed grid of log scales, once.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

_Shape = torch.Size | list[int] | tuple[int, ...]

_UPPER_QUARTILE = 0.6744897501960817
"""Of the standard normal, so the median of a half-Normal with scale 1."""


class _Columns(TorchDistribution):
    """Base of densities over matrices (*rows, n_columns) whose columns are exchangeable.

    Parameters
    ----------
    like : Tensor of shape (*rows, n_columns)
        Gives shape, floating type and device.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch declares it so)
    has_rsample = False

    def __init__(self, like: Tensor) -> None:
        self._like = like.detach().new_empty(())
        super().__init__(torch.Size(), like.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Every real matrix."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: _Shape, _instance: Any = None) -> _Columns:
        """Add independent copies on the left; the object itself for its own shape."""
        batch_shape = torch.Size(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        expanded = copy.copy(self)
        expanded._batch_shape = batch_shape
        return expanded

    def sample(self, sample_shape: _Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw matrices, in double precision before they are rounded to the site's type."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            drawn = self._draw(shape, self._n_rows, self.event_shape[-1])
        return drawn.to(self._like).reshape(shape + self.event_shape)

    @property
    def _n_rows(self) -> int:
        return math.prod(self.event_shape[:-1])

    def _flat(self, value: Tensor) -> Tensor:
        """Reshape matrices to (*batch, rows, columns)."""
        batch = value.shape[: value.ndim - len(self.event_shape)]
        return value.reshape(*batch, self._n_rows, self.event_shape[-1])

    def _draw(self, shape: torch.Size, n_rows: int, n_columns: int) -> Tensor:
        """Draw matrices (*shape, n_rows, n_columns)."""
        raise NotImplementedError

    def _normal(self, columns: Tensor, variance: Tensor) -> Tensor:
        """Log densities (*batch, n_columns, n_nodes) of Normal columns at every variance."""
        squares = columns.square().sum(-2).unsqueeze(-1)
        return -0.5 * (squares / variance + self._n_rows * (2.0 * math.pi * variance).log())

    def _draw_normal(self, scale: Tensor, n_rows: int) -> Tensor:
        """Draw Normal columns (*shape, n_rows, n_columns) with scales (*shape, n_columns)."""
        *shape, n_columns = scale.shape
        noise = torch.randn(
            *shape, n_rows, n_columns, dtype=torch.float64, device=self._like.device
        )
        return scale.unsqueeze(-2).to(self._like.device) * noise


class GroupLogMatrix(_Columns):
    """``p(W) ∝ exp(-strength [sum_p log(1 + |w_p| / scale) + elementwise |W|_1])``.

    Parameters
    ----------
    like : Tensor
    strength, scale, elementwise : float
        See :class:`rvrae_pyro.models.weights.GroupLog`.

    Notes
    -----
    ``(1 + r / a)^-s`` is a mixture of ``exp(-v r^2)`` over v (a gamma mixture of Lévy laws), and
    given v the weights of a column are independent. So both the constant and exact draws come
    from one integral over v.
    """

    def __init__(self, like: Tensor, strength: float, scale: float, elementwise: float) -> None:
        super().__init__(like)
        self.strength, self.scale, self.elementwise = strength, scale, elementwise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of whole matrices, with its constant."""
        columns = self._flat(value)
        # the tiny constant keeps the gradient finite at a column that is exactly zero
        norms = (columns.square().sum(-2) + 1e-12).sqrt()
        penalty = torch.log1p(norms / self.scale).sum(-1)
        penalty = penalty + self.elementwise * columns.abs().sum((-1, -2))
        log_z = self._table().log_z
        log_prob: Tensor = -self.strength * penalty - columns.shape[-1] * log_z
        return log_prob.expand(self.batch_shape) if log_prob.ndim == 0 else log_prob

    def _table(self) -> _GroupLogTable:
        return group_log_table(self._n_rows, self.strength, self.scale, self.elementwise)

    def _draw(self, shape: torch.Size, n_rows: int, n_columns: int) -> Tensor:
        table = self._table()
        which = torch.multinomial(
            table.probability, shape.numel() * n_columns, replacement=True
        ).to(self._like.device)
        v = table.v.to(self._like.device)[which].reshape(*shape, 1, n_columns)
        v = v.expand(*shape, n_rows, n_columns)
        size = _half_normal_tail(self.strength * self.elementwise / (2.0 * v).sqrt())
        sign = torch.where(torch.rand_like(v) < 0.5, -1.0, 1.0)
        return sign * size / (2.0 * v).sqrt()


class HorseshoeMatrix(_Columns):
    r"""Regularised horseshoe of each column, local and global scales integrated out.

    .. math::
        W_{jp} \sim N(0, v_p), \quad
        1/v_p = 1/(\tau\lambda_p)^2 + 1/\text{slab}^2, \quad
        \lambda_p \sim C^+(0, 1), \quad \tau \sim C^+(0, \text{scale}),

    with both half-Cauchy laws cut to the range of a grid.

    Parameters
    ----------
    like : Tensor
    scale, slab, floor : float
        See :class:`rvrae_pyro.models.weights.Horseshoe`.
    """

    def __init__(self, like: Tensor, scale: float, slab: float, floor: float) -> None:
        super().__init__(like)
        self.scale, self.slab, self.floor = scale, slab, floor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of whole matrices; costs O(n_weights + 700 n_columns)."""
        table, columns = self._table(), self._flat(value)
        normal = self._normal(columns, table.variance.to(columns))
        # window j of the scales belongs to node j of tau
        windows = normal.unfold(-1, table.log_local.numel(), table.stride)
        given_tau = torch.logsumexp(windows + table.log_local.to(columns), -1).sum(-2)
        log_prob = torch.logsumexp(given_tau + table.log_global.to(columns), -1)
        return log_prob.expand(self.batch_shape) if log_prob.ndim == 0 else log_prob

    def _table(self) -> _HorseshoeTable:
        return horseshoe_table(self.scale, self.slab, self.floor)

    def _draw(self, shape: torch.Size, n_rows: int, n_columns: int) -> Tensor:
        table = self._table()
        tau = torch.multinomial(table.log_global.exp(), shape.numel(), replacement=True)
        local = torch.multinomial(
            table.log_local.exp(), shape.numel() * n_columns, replacement=True
        )
        node = tau.reshape(*shape, 1) * table.stride + local.reshape(*shape, n_columns)
        return self._draw_normal(table.variance[node].sqrt(), n_rows)


class HierarchicalMatrix(_Columns):
    r"""Normal columns, each with a half-Normal scale that is integrated out on a grid.

    .. math:: W_{jk} \sim N(0, \tau_k^2), \quad \tau_k \sim N^+(0, \sigma^2), \quad
        \text{median}(\tau_k) = \text{scale}

    Parameters
    ----------
    like : Tensor
    scale : float
        See :class:`rvrae_pyro.models.weights.Hierarchical`.
    """

    def __init__(self, like: Tensor, scale: float) -> None:
        super().__init__(like)
        self.scale = scale

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of whole matrices; costs O(n_weights + 120 n_columns)."""
        table, columns = hierarchical_table(self.scale), self._flat(value)
        normal = self._normal(columns, table.variance.to(columns))
        log_prob = torch.logsumexp(normal + table.log_probability.to(columns), -1).sum(-1)
        return log_prob.expand(self.batch_shape) if log_prob.ndim == 0 else log_prob

    def _draw(self, shape: torch.Size, n_rows: int, n_columns: int) -> Tensor:
        table = hierarchical_table(self.scale)
        node = torch.multinomial(
            table.log_probability.exp(), shape.numel() * n_columns, replacement=True
        )
        return self._draw_normal(table.variance[node].sqrt().reshape(*shape, n_columns), n_rows)


class _HierarchicalTable(NamedTuple):
    variance: Tensor
    log_probability: Tensor


@lru_cache(maxsize=64)
def hierarchical_table(scale: float) -> _HierarchicalTable:
    """Variances and log probabilities of half-Normal scales, from scale / 1000 to 10 scale."""
    step = 0.05
    low, high = math.ceil(math.log(1000.0) / step), math.ceil(math.log(10.0) / step)
    log_tau = step * torch.arange(-low, high + 1, dtype=torch.float64)
    squares = (2.0 * log_tau).exp()
    log_probability = torch.log_softmax(log_tau - 0.5 * (_UPPER_QUARTILE**2) * squares, 0)
    return _HierarchicalTable(scale**2 * squares, log_probability)


class _GroupLogTable(NamedTuple):
    log_z: float
    v: Tensor
    probability: Tensor


class _HorseshoeTable(NamedTuple):
    variance: Tensor
    log_local: Tensor
    log_global: Tensor
    stride: int


@lru_cache(maxsize=64)
def group_log_table(
    n_rows: int, strength: float, scale: float, elementwise: float
) -> _GroupLogTable:
    """Log constant of a column, and the law of its mixing precision v on a grid.

    Returns
    -------
    log_z : float
        Log of the integral of ``(1 + |w| / scale)^-strength exp(-strength elementwise |w|_1)``
        over columns of ``n_rows`` weights.
    v, probability : Tensor of shape (n_nodes,)
        Given v, weights have density proportional to
        ``exp(-v w^2 - strength elementwise |w|)``.
    """
    step = 0.05
    log_v = torch.arange(-40.0, 30.0, step, dtype=torch.float64)
    log_g = torch.arange(-12.0, 9.0, 0.02, dtype=torch.float64)
    g, v = log_g.exp(), log_v.exp()
    exponent = (strength + 1.0) * log_g - g - g.square() / (4.0 * scale**2 * v.unsqueeze(-1))
    log_mixing = (
        torch.logsumexp(exponent, -1)
        + math.log(0.02)
        - 1.5 * log_v
        - math.log(2.0 * math.sqrt(math.pi) * scale)
        - math.lgamma(strength)
    )
    rate = strength * elementwise / (2.0 * v.sqrt())
    # erfcx(x) ~ 1 / (x sqrt(pi)); torch's own is exact wherever it does not matter
    log_one = 0.5 * (math.log(math.pi) - log_v) + torch.special.erfcx(rate).log()
    terms = log_mixing + n_rows * log_one + log_v + math.log(step)
    log_z = torch.logsumexp(terms, 0)
    probability = (terms - log_z).exp()
    keep = probability > 1e-14
    return _GroupLogTable(float(log_z), v[keep], probability[keep])


@lru_cache(maxsize=64)
def horseshoe_table(scale: float, slab: float, floor: float) -> _HorseshoeTable:
    """Variances on a grid of ``tau * lambda``, and log probabilities of lambda and tau.

    The grids are even in the log: lambda from ``floor`` to 200, tau from scale / 20 to 20 scale.
    """
    step, stride = 0.125, 4
    n_local = math.ceil(math.log(200.0 / floor) / step) + 1
    n_global = 13
    log_local = math.log(floor) + step * torch.arange(n_local, dtype=torch.float64)
    log_tau = step * stride * (torch.arange(n_global, dtype=torch.float64) - n_global // 2)
    n_nodes = n_local + stride * (n_global - 1)
    first = math.log(scale) + float(log_tau[0]) + math.log(floor)
    log_spread = first + step * torch.arange(n_nodes, dtype=torch.float64)
    variance = 1.0 / ((-2.0 * log_spread).exp() + slab**-2)
    return _HorseshoeTable(variance, _log_half_cauchy(log_local), _log_half_cauchy(log_tau), stride)


def _log_half_cauchy(log_x: Tensor) -> Tensor:
    """Log probabilities of the nodes of an even grid in log x."""
    return torch.log_softmax(log_x - torch.log1p((2.0 * log_x).exp()), 0)


def _half_normal_tail(threshold: Tensor) -> Tensor:
    """Draw ``x - threshold`` for a standard normal x given ``x > threshold``."""
    u = torch.rand_like(threshold).clamp_min(1e-300)
    near = threshold.clamp_max(25.0)
    inside = -torch.special.ndtri(u * torch.special.ndtr(-near)) - near
    # far out the tail is exponential
    outside = -u.log() / threshold.clamp_min(1.0)
    return torch.where(threshold > 25.0, outside, inside).clamp_min(0.0)
