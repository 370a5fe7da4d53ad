"""Inputs per unit of what training saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Centre and scale features by constants taken once from training rows.

    The constants are buffers: they are saved with the weights and no gradient reaches them. Until
    they are set features pass unchanged.

    Parameters
    ----------
    n_features : int
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.center: Tensor
        self.spread: Tensor
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))

    @torch.no_grad()
    def take(self, rows: Tensor) -> None:
        """Set the constants to mean and standard deviation of rows (n_rows, n_features).

        A feature that hardly moves keeps a spread of 1.
        """
        if not len(rows):
            return
        spread = rows.std(0, correction=0)
        still = spread <= 1e-6 * (1.0 + rows.mean(0).abs())
        self.center.copy_(rows.mean(0))
        self.spread.copy_(torch.where(still, torch.ones_like(spread), spread))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (*batch, n_features) in units of their spread."""
        return (features - self.center) / self.spread
