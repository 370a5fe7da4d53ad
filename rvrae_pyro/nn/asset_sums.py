"""Products of a month's loadings: along factors for each asset, along assets for each factor.

Loadings (..., n_assets, n_factors) are tall, and a matrix library is slow at tall matrices with
few columns. Seen from the side, as few rows that are long, the same products take a tenth of
the time, forward and backward; that is all that these functions are for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def along_factors(beta: Tensor, factors: Tensor) -> Tensor:
    """Compute ``B f``, of shape (*batch, n_assets), from factors (*batch, n_factors).

    Particles that only the factors have are rows of one product; loadings are not repeated.
    """
    particles = factors.shape[: max(0, factors.ndim - beta.ndim + 1)]
    if not particles:
        return (factors.unsqueeze(-2) @ beta.mT).squeeze(-2)
    rows = factors.reshape(-1, *factors.shape[len(particles) :]).movedim(0, -2)
    product = (rows @ beta.mT).movedim(-2, 0)
    return product.reshape(*particles, *product.shape[1:])


def along_assets(beta: Tensor, values: Tensor) -> Tensor:
    """Compute ``B' v``, of shape (*batch, n_factors), from values (*batch, n_assets)."""
    if not torch.is_grad_enabled():
        return _AlongAssets.forward(beta, values)
    product: Tensor = _AlongAssets.apply(beta, values)  # type: ignore[no-untyped-call]
    return product


def information(beta: Tensor, weight: Tensor) -> Tensor:
    """Compute ``B' diag(w) B`` from weights (*batch, n_assets): (*batch, n_factors, n_factors)."""
    if not torch.is_grad_enabled():
        return _Information.forward(beta, weight)
    product: Tensor = _Information.apply(beta, weight)  # type: ignore[no-untyped-call]
    return product


def spread_of(beta: Tensor, covariance: Tensor) -> Tensor:
    """Compute the diagonal of ``B S B'``, of shape (*batch, n_assets), S symmetric."""
    return _inner(covariance @ beta.mT, beta)


def _inner(across: Tensor, beta: Tensor) -> Tensor:
    """Sum products over factors, for each asset; by ones, as a sum over a short axis is slow."""
    ones = beta.new_ones(1, beta.shape[-1])
    return (ones @ (across * beta.mT)).squeeze(-2)


class _AlongAssets(torch.autograd.Function):
    """``B' v``; autograd's own derivative by ``B`` is a product with tall matrices."""

    generate_vmap_rule = True

    @staticmethod
    def forward(beta: Tensor, values: Tensor) -> Tensor:
        return (values.unsqueeze(-2) @ beta).squeeze(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        beta, values = ctx.saved_tensors
        by_beta = by_values = None
        if ctx.needs_input_grad[0]:
            by_beta = (above.unsqueeze(-1) * values.unsqueeze(-2)).mT.sum_to_size(beta.shape)
        if ctx.needs_input_grad[1]:
            by_values = along_factors(beta, above).sum_to_size(values.shape)
        return by_beta, by_values


class _Information(torch.autograd.Function):
    """``B' diag(w) B``; both derivatives share a product that autograd would make twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(beta: Tensor, weight: Tensor) -> Tensor:
        return (beta * weight.unsqueeze(-1)).mT @ beta

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        beta, weight = ctx.saved_tensors
        across = (above + above.mT) @ beta.mT
        by_beta = by_weight = None
        if ctx.needs_input_grad[0]:
            by_beta = (across * weight.unsqueeze(-2)).mT.sum_to_size(beta.shape)
        if ctx.needs_input_grad[1]:
            by_weight = (0.5 * _inner(across, beta)).sum_to_size(weight.shape)
        return by_beta, by_weight
