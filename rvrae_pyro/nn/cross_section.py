"""Products of a month's loadings: along factors for each asset, along assets for each factor.

Loadings (..., n_assets, n_factors) are tall, and a matrix library is slow at tall matrices with
few columns. Seen from the side, as few rows that are long, the same products take a tenth of
the time; that is all that these functions are for.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["along_assets", "along_factors", "spread_of"]


def along_factors(beta: Tensor, factors: Tensor) -> Tensor:
    """Compute ``B f``, of shape (*batch, n_assets), from factors (*batch, n_factors)."""
    return (factors.unsqueeze(-2) @ beta.mT).squeeze(-2)


def along_assets(beta: Tensor, values: Tensor) -> Tensor:
    """Compute ``B' v``, of shape (*batch, n_factors), from values (*batch, n_assets)."""
    return (values.unsqueeze(-2) @ beta).squeeze(-2)


def spread_of(beta: Tensor, covariance: Tensor) -> Tensor:
    """Compute the diagonal of ``B S B'``, of shape (*batch, n_assets), S symmetric.

    The sum over factors is a product with ones: a reduction over a short axis is slower still.
    """
    across = beta.mT
    ones = beta.new_ones(1, beta.shape[-1])
    return (ones @ ((covariance @ across) * across)).squeeze(-2)
