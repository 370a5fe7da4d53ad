"""Transformer whose attention prefers near months, at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rvrae_pyro.baselines.network_training import SequenceForecaster, TrainConfig, training_of
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import ConfigError, check_count, check_number


class _Layer(nn.Module):
    """Attention with a Gaussian locality prior, then a feed-forward layer."""

    def __init__(self, size: int, scales: Sequence[float], inner: int) -> None:
        super().__init__()
        self.n_heads = len(scales)
        self.log_scale = nn.Parameter(torch.tensor(scales, dtype=torch.float64).log())
        self.project = nn.Linear(size, 3 * size)
        self.mix = nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, inner), nn.ReLU(), nn.Linear(inner, size))
        self.after_mix, self.after_feed = nn.LayerNorm(size), nn.LayerNorm(size)

    def prior(self, age: Tensor) -> Tensor:
        """Log prior (n_heads, T, T) of attending over ``age`` (T, T) months."""
        scale = self.log_scale.exp().reshape(-1, 1, 1)
        return -age.to(scale.dtype).square() / (2.0 * scale.square())

    def forward(self, x: Tensor, age: Tensor, allowed: Tensor) -> Tensor:
        """Return (n, T, size) for x (n, T, size) and the mask allowed (n, T, T)."""
        n, length, size = x.shape
        parts = self.project(x).reshape(n, length, 3, self.n_heads, size // self.n_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        bias = self.prior(age).unsqueeze(0).masked_fill(~allowed.unsqueeze(1), -torch.inf)
        mixed = functional.scaled_dot_product_attention(query, key, value, bias)
        x = self.after_mix(x + self.mix(mixed.transpose(1, 2).reshape(n, length, size)))
        out: Tensor = self.after_feed(x + self.feed(x))
        return out

    def overlap(self) -> Tensor:
        """Squared distance of the heads' value maps from being orthogonal to each other."""
        value = self.project.weight.chunk(3)[2].reshape(self.n_heads, -1)
        value = functional.normalize(value, dim=1)
        identity = torch.eye(self.n_heads, dtype=value.dtype, device=value.device)
        return (value @ value.mT - identity).square().sum()


class Network(nn.Module):
    """Input layer, encoder layers, linear read-out of the month itself.

    Parameters
    ----------
    n_characteristics, size, n_layers, n_heads, window : int
    """

    def __init__(
        self, n_characteristics: int, size: int, n_layers: int, n_heads: int, window: int
    ) -> None:
        super().__init__()
        self.window = window
        scales = [max(1.0, window / 2.0**head) for head in range(n_heads)]
        self.embed = nn.Linear(n_characteristics, size)
        self.layers = nn.ModuleList(_Layer(size, scales, 2 * size) for _ in range(n_layers))
        self.head = nn.Linear(size, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Return forecasts (n_times, n_assets); those of unlisted cells have no meaning."""
        position = torch.arange(batch.n_times, device=batch.returns.device)
        age = position.unsqueeze(1) - position
        # an unlisted month sees itself, so that its row of weights is not empty
        known = batch.listed.mT.unsqueeze(1) | (age == 0)
        allowed = (age >= 0) & (age < self.window) & known
        x = self.embed(batch.characteristics.transpose(0, 1))
        for layer in self.layers:
            x = layer(x, age, allowed)
        forecast: Tensor = self.head(x).squeeze(-1).mT
        return forecast

    def overlap(self) -> Tensor:
        """Sum over layers of the heads' overlap."""
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        return torch.stack([layer.overlap() for layer in layers]).sum()


class Transformer(SequenceForecaster):
    r"""Transformer encoder with a Gaussian prior on the distance of months.

    .. math:: \mathrm{softmax}\big(Q K' / \sqrt d + B^{(h)}\big) V, \quad
        B^{(h)}_{ij} = -(i - j)^2 / (2 \sigma_h^2)

    with a learned :math:`\sigma_h` for each head, at first the window, half of it, a quarter, ...

    Parameters
    ----------
    size : int
        Width of the model, a multiple of ``n_heads``.
    n_layers, n_heads : int
    window : int
        Months of history each layer attends to.
    orthogonality : float
        Weight of the penalty on heads with similar value maps.
    config : TrainConfig, optional

    Notes
    -----
    Position enters through the prior alone, and attention looks back only, so that neighbouring
    windows share their computation. The paper's splitter for trading gaps is for intraday bars
    and left out. Minimises the squared error of returns. A forecaster only: no factors, hence
    no total R2, and no predictive distribution.

    References
    ----------
    Ding, Wu, Sun, Guo and Guo (2020), Hierarchical multi-scale Gaussian transformer for stock
    movement prediction, IJCAI, sections 3.2 to 3.4.
    """

    def __init__(
        self,
        size: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        window: int = 12,
        *,
        orthogonality: float = 0.01,
        config: TrainConfig | None = None,
    ) -> None:
        default = TrainConfig(learning_rate=3e-4, months=12, weight_decay=1e-3)
        super().__init__(window, training_of(config, default))
        self.size = check_count("size", size)
        self.n_layers = check_count("n_layers", n_layers)
        self.n_heads = check_count("n_heads", n_heads)
        if size % n_heads:
            raise ConfigError(
                f"`size` must be a multiple of `n_heads`; got {size} and {n_heads}. Use "
                f"{math.ceil(size / n_heads) * n_heads}."
            )
        self.orthogonality = check_number("orthogonality", orthogonality, "[0, inf)")

    def _build(self, n_characteristics: int) -> nn.Module:
        return Network(n_characteristics, self.size, self.n_layers, self.n_heads, self.window)

    def _penalty(self, network: nn.Module) -> Tensor | float:
        if not self.orthogonality:
            return 0.0
        assert isinstance(network, Network)
        return self.orthogonality * network.overlap()
