"""Recurrent network with attention over its own past states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rvrae_pyro.baselines.network_training import (
    SequenceForecaster,
    TrainConfig,
    over_buckets,
    training_of,
)
from rvrae_pyro.data.batch import Batch
from rvrae_pyro.errors import check_count


class Network(nn.Module):
    """Input layer, recurrent layers, attention over time, linear read-out.

    Parameters
    ----------
    n_characteristics, hidden, n_layers, window : int
    """

    def __init__(self, n_characteristics: int, hidden: int, n_layers: int, window: int) -> None:
        super().__init__()
        self.window, self.hidden = window, hidden
        self.embed = nn.Sequential(nn.Linear(n_characteristics, hidden), nn.Tanh())
        self.rnn = nn.GRU(hidden, hidden, n_layers)
        inner = max(1, hidden // 2)
        self.score = nn.Sequential(
            nn.Linear(hidden, inner), nn.Tanh(), nn.Linear(inner, 1, bias=False)
        )
        self.head = nn.Linear(2 * hidden, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Return forecasts (n_times, n_assets), 0 where not listed."""
        return over_buckets(batch, self._read, 1).squeeze(-1)

    def _read(self, inputs: Tensor, months: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(inputs))
        weights = self.attention(states, months)
        context = torch.bmm(weights, states.transpose(0, 1)).transpose(0, 1)
        read_out: Tensor = self.head(torch.cat([states, context], dim=-1))
        return read_out

    def attention(self, states: Tensor, months: Tensor) -> Tensor:
        """Weights (n, length, length) of each month's row on the last ``window`` months."""
        scores = self.score(states).squeeze(-1).mT.unsqueeze(1)
        position = torch.arange(len(months), device=months.device)
        past = position.unsqueeze(1) >= position
        age = months.mT.unsqueeze(2) - months.mT.unsqueeze(1)
        allowed = past & (age < self.window)
        weights: Tensor = scores.expand_as(age).masked_fill(~allowed, -torch.inf).softmax(-1)
        return weights


class ALSTM(SequenceForecaster):
    """Attentive recurrent network: a forecast from the last state and a weighted mean of states.

    Parameters
    ----------
    hidden : int
        Size of the recurrent state; attention has an inner layer of half of it.
    n_layers : int
        Recurrent layers (gated recurrent units).
    window : int
        Months of history.
    config : TrainConfig, optional

    Notes
    -----
    Minimises the squared error of returns. A forecaster only: it has no factors, hence no
    total R2, and no predictive distribution. Cost O(T N hidden^2) per epoch and layer, times
    (months + window - 1) / months for the history of a step's target months.

    References
    ----------
    Feng et al. (2019), Enhancing stock movement prediction with adversarial training, IJCAI,
    section 3.1; layers and sizes as in the public Qlib library.
    """

    def __init__(
        self,
        hidden: int = 64,
        n_layers: int = 2,
        window: int = 12,
        *,
        config: TrainConfig | None = None,
    ) -> None:
        super().__init__(window, training_of(config, TrainConfig(months=24)))
        self.hidden = check_count("hidden", hidden)
        self.n_layers = check_count("n_layers", n_layers)

    def _build(self, n_characteristics: int) -> nn.Module:
        return Network(n_characteristics, self.hidden, self.n_layers, self.window)
