"""Recurrent networks over an unbalanced panel: every asset starts at its own first month."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

_together: ContextVar[bool] = ContextVar("months_together", default=False)


@contextmanager
def together() -> Iterator[None]:
    """Let passes without gradient compute months together, as passes with gradient do.

    Equal to month by month up to rounding, and to that extent an early month depends on how many
    follow it: good enough to judge a state of training, not for a forecast.
    """
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


def months_apart() -> bool:
    """Test whether months are computed one by one, so that no bit depends on how many follow."""
    return not (torch.is_grad_enabled() or _together.get())


class Bucket(NamedTuple):
    """Assets of similar length, each left-aligned at its first listed month.

    Attributes
    ----------
    assets : int64 Tensor of shape (n,)
        Positions of the assets.
    cells : int64 Tensor of shape (length, n)
        Flat positions ``time * n_assets + asset`` of the listed cells, in time order; 0 after an
        asset's last listed month.
    targets : int64 Tensor of shape (length * n,)
        Where the output of each of them belongs: the same flat positions, and the position
        after the last cell for the padding.
    """

    assets: Tensor
    cells: Tensor
    targets: Tensor


def pack_buckets(listed: Tensor, n_buckets: int = 16) -> list[Bucket]:
    """Group assets by their number of listed months.

    Months in which an asset is not listed are skipped: its state waits until it is back.

    Parameters
    ----------
    listed : bool Tensor of shape (n_times, n_assets)
    n_buckets : int
        At most this many groups; fewer where lengths are few.

    Returns
    -------
    list of Bucket
        Each listed cell is in exactly one bucket. Costs O(n_times n_assets).
    """
    n_assets = listed.shape[1]
    lengths = listed.sum(0)
    alive = lengths.nonzero().squeeze(-1)
    if alive.numel() == 0:
        return []
    order = alive[torch.argsort(lengths[alive], stable=True)]
    position = listed.cumsum(0) - 1
    buckets = []
    for assets in _split(order, lengths[order], n_buckets):
        longest = int(lengths[assets[-1]])
        columns = torch.full((n_assets,), -1, device=listed.device)
        columns[assets] = torch.arange(assets.numel(), device=listed.device)
        time, asset = listed.index_select(1, assets).nonzero(as_tuple=True)
        asset = assets[asset]
        outside = listed.numel()
        targets = torch.full((longest, assets.numel()), outside, device=listed.device)
        targets[position[time, asset], columns[asset]] = time * n_assets + asset
        cells = targets.masked_fill(targets == outside, 0)
        buckets.append(Bucket(assets, cells, targets.reshape(-1)))
    return buckets


def _split(order: Tensor, lengths: Tensor, n_buckets: int) -> Sequence[Tensor]:
    """Cut assets sorted by length where it jumps past equal steps of the range of lengths."""
    shortest, longest = int(lengths[0]), int(lengths[-1])
    if shortest == longest:
        return [order]
    edges = torch.linspace(shortest, longest, n_buckets + 1, device=lengths.device)[1:-1]
    cuts = torch.searchsorted(lengths.to(edges.dtype), edges, right=True).unique().tolist()
    bounds = [0, *[c for c in cuts if 0 < c < order.numel()], order.numel()]
    return [order[a:b] for a, b in itertools.pairwise(bounds)]


def rnn_weights(rnn: nn.RNNBase) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights and biases of a one-layer recurrent network, as torch's cells take them."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_in, w_state, b_in, b_state = (getattr(rnn, name) for name in names)
    return w_in, w_state, b_in, b_state


def under_vmap(*tensors: Tensor) -> bool:
    """Whether ``torch.vmap`` has a dimension of a tensor, which no branch may then look into."""
    return any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)


def gru_step(gru: nn.GRU, inputs: Tensor, hidden: Tensor) -> Tensor:
    """One step of a gated recurrent unit, of shape (n, size); also under ``torch.vmap``.

    torch's own cell has no batching rule; written out it costs three times as much.
    """
    weights = rnn_weights(gru)
    if not under_vmap(inputs, hidden):
        return torch.gru_cell(inputs, hidden, *weights)
    w_in, w_state, b_in, b_state = weights
    by_input = (inputs @ w_in.mT + b_in).chunk(3, -1)
    by_state = (hidden @ w_state.mT + b_state).chunk(3, -1)
    reset, update = (torch.sigmoid(x + h) for x, h in zip(by_input[:2], by_state[:2], strict=True))
    fresh = torch.tanh(by_input[2] + reset * by_state[2])
    return fresh + update * (hidden - fresh)


def by_month(layer: nn.Module, months: Tensor) -> Tensor:
    """Apply a layer to every month (n_times, size), without gradient to each month alone.

    A matrix product of many months rounds otherwise than one of few, so filters, which take no
    gradient, work month by month: no bit of a month then depends on how many follow it.
    """
    if not months_apart():
        at_once: Tensor = layer(months)
        return at_once
    return torch.stack([layer(month) for month in months.unbind(0)])


def run_lstm_online(
    lstm: nn.LSTM,
    inputs: Tensor,
    listed: Tensor,
    state: tuple[Tensor, Tensor],
    starts: Sequence[int] = (),
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Run one LSTM layer month by month over the listed assets.

    The arithmetic of a month involves that month's listed rows and nothing else, so output up
    to a month is bit-equal with any later months; the bucketed run agrees to rounding.

    Parameters
    ----------
    lstm : nn.LSTM
        One layer, one direction.
    inputs : Tensor of shape (n_times, n_assets, n_inputs)
    listed : bool Tensor of shape (n_times, n_assets)
    state : pair of Tensor of shape (n_assets, hidden)
        Hidden and cell state before the first month.
    starts : sequence of int
        Months whose incoming state is wanted; ``n_times`` is the state at the end.

    Returns
    -------
    output : Tensor of shape (n_times, n_assets, hidden)
        0 where not listed.
    states : dict
        For each month of ``starts`` the state before it.
    """
    weights = rnn_weights(lstm)
    hidden, cell = state
    output, states = hidden.new_zeros(inputs.shape[0], *hidden.shape), {}
    wanted = set(starts)
    for t in range(inputs.shape[0]):
        if t in wanted:
            states[t] = (hidden, cell)
        rows = listed[t].nonzero().squeeze(-1)
        h, c = torch.lstm_cell(inputs[t, rows], (hidden[rows], cell[rows]), *weights)
        hidden = hidden.index_copy(0, rows, h)
        cell = cell.index_copy(0, rows, c)
        output[t].index_copy_(0, rows, h)
    if inputs.shape[0] in wanted:
        states[inputs.shape[0]] = (hidden, cell)
    return output, states
