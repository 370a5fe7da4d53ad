"""One LSTM layer over assets of unequal length, without a step or a byte for padding.

Rows come packed by position: the first listed month of every asset, then the second of every
asset that has one, and so on, longest asset first. A step's rows are then a prefix of the step
before it, and nothing is gathered inside the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from rvrae_pyro.nn.sequences import rnn_weights

__all__ = ["PackedLSTM", "run_lstm_packed"]

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def run_lstm_packed(
    lstm: nn.LSTM, rows: Tensor, counts: Sequence[int], state: tuple[Tensor, Tensor]
) -> Tensor:
    """Run an LSTM layer over packed rows.

    Parameters
    ----------
    lstm : nn.LSTM
        One layer, one direction.
    rows : Tensor of shape (n_rows, n_inputs)
        Inputs, position by position, the longest asset first in each.
    counts : sequence of int
        Rows of every position, never rising; they add up to ``n_rows``.
    state : pair of Tensor of shape (counts[0], hidden)
        Hidden and cell state of every asset before its first row.

    Returns
    -------
    Tensor of shape (n_rows, hidden)
        Hidden state after each row. Keeps ``6 hidden`` numbers a row for the gradient and
        nothing without one. Differentiable once on a CPU.
    """
    if not counts:
        return rows.new_zeros(0, lstm.hidden_size)
    hidden, cell = state
    if not rows.is_cpu:
        sizes = torch.tensor(counts, dtype=torch.int64)
        fast, _ = lstm(PackedSequence(rows, sizes), (hidden.unsqueeze(0), cell.unsqueeze(0)))
        output: Tensor = fast.data
        return output
    w_in, w_state, b_in, b_state = (_gates_in_order(w) for w in rnn_weights(lstm))
    operands = (rows, hidden, cell, w_in, w_state, b_in + b_state)
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in operands)
    ran: Sequence[Tensor] = PackedLSTM.apply(*operands, tuple(counts), keep)  # type: ignore[no-untyped-call]
    return ran[0]


def _gates_in_order(weight: Tensor) -> Tensor:
    """From torch's order (input, forget, cell, output) to one with the sigmoids side by side."""
    enter, forget, cell, leave = weight.chunk(4)
    return torch.cat([enter, forget, leave, cell])


class PackedLSTM(torch.autograd.Function):
    """Forward and backward pass of a packed LSTM, step by step, written out.

    Next to a graph of one node an operation this saves the nodes; next to the fused kernels of
    a library it saves the padding and the derivative by the inputs, which are data.
    """

    @staticmethod
    def forward(
        rows: Tensor,
        hidden: Tensor,
        cell: Tensor,
        w_in: Tensor,
        w_state: Tensor,
        bias: Tensor,
        counts: tuple[int, ...],
        keep: bool,
    ) -> tuple[Tensor, ...]:
        """Hidden states (n_rows, hidden); then, to keep, the cells and gates of every step."""
        size = w_state.shape[1]
        output = rows.new_empty(rows.shape[0], size)
        into, onward = w_in.t().contiguous(), w_state.t().contiguous()
        cells, gates = [], []
        for n, x, after in zip(counts, rows.split(counts), output.split(counts), strict=True):
            gate = torch.mm(x, into).add_(bias).addmm_(hidden[:n], onward)
            gate[:, : 3 * size].sigmoid_()
            enter, forget, leave, new = gate.split(size, 1)
            new.tanh_()
            cell = torch.mul(forget, cell[:n]).addcmul_(enter, new)
            hidden = torch.tanh(cell, out=after).mul_(leave)
            if keep:
                cells.append(cell)
                gates.append(gate)
        return output, *cells, *gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward pass reads; cells and gates have no gradient of their own."""
        *operands, counts, _ = inputs
        ctx.counts = counts
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*operands[:-1], *output)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], *operands: Any) -> tuple[Any, Any]:
        """Run once for each entry; a run that none of them reaches is made once by torch."""
        runs = [
            PackedLSTM.apply(  # type: ignore[no-untyped-call]
                *(
                    each.select(dim, i) if isinstance(dim, int) else each
                    for each, dim in zip(operands, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(each) for each in zip(*runs, strict=True))
        return stacked, (0,) * len(stacked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Walk back through the steps."""
        if above is None:
            return (None,) * 8
        rows, hidden, cell, w_in, w_state, output, *kept = ctx.saved_tensors
        counts, size = ctx.counts, w_state.shape[1]
        steps = len(counts)
        cells, gates = [cell, *kept[:steps]], kept[steps:]
        hiddens, inputs = [hidden, *output.split(counts)], rows.split(counts)
        d_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        d_inputs = None if d_rows is None else d_rows.split(counts)
        d_w_in, d_w_state = torch.zeros_like(w_in), torch.zeros_like(w_state)
        d_bias = w_in.new_zeros(w_in.shape[0])
        # gradients by the gates and by the states after the step, over and over in one place
        d_gates, d_cells = rows.new_empty(counts[0], 4 * size), rows.new_empty(counts[0], size)
        d_hidden, d_cell = rows.new_zeros(0, size), rows.new_zeros(0, size)
        aboves = above.split(counts)
        for t in range(steps - 1, -1, -1):
            n, later, gate, d_gate = counts[t], d_hidden.shape[0], gates[t], d_gates[: counts[t]]
            enter, forget, leave, new = gate.split(size, 1)
            d_enter, d_forget, d_leave, d_new = d_gate.split(size, 1)
            squashed, d = cells[t + 1].tanh(), d_cells[:n].copy_(aboves[t])
            d[:later] += d_hidden
            torch.mul(d, squashed, out=d_leave)
            _tanh_backward(d.mul_(leave), squashed, grad_input=d)
            d[:later] += d_cell
            torch.mul(d, new, out=d_enter)
            torch.mul(d, cells[t][:n], out=d_forget)
            torch.mul(d, enter, out=d_new)
            both, sigmoids = d_gate[:, : 3 * size], gate[:, : 3 * size]
            _sigmoid_backward(both, sigmoids, grad_input=both)
            _tanh_backward(d_new, new, grad_input=d_new)
            d_cell, d_hidden = torch.mul(d, forget), torch.mm(d_gate, w_state)
            d_w_state.addmm_(d_gate.t(), hiddens[t][:n])
            d_w_in.addmm_(d_gate.t(), inputs[t])
            d_bias += d_gate.sum(0)
            if d_inputs is not None:
                torch.mm(d_gate, w_in, out=d_inputs[t])
        return d_rows, d_hidden, d_cell, d_w_in, d_w_state, d_bias, None, None
