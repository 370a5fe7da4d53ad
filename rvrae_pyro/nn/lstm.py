"""One LSTM layer over assets of unequal length, without a step or a byte for padding.

Rows come packed by position: the first listed month of every asset, then the second of every
asset that has one, and so on, longest asset first. A step's rows are then a prefix of the step
before it, and nothing is gathered inside the loop. Forward and backward pass take 0.43 of the time
of the same loop through autograd (1,000 assets x 240 months x 46 characteristics, one thread).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from rvrae_pyro.nn.sequences import rnn_weights

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


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
        Hidden state after each row. Keeps ``6 hidden`` numbers a row for the gradient, ``2 hidden``
        of a large panel, and nothing without one. Differentiable once on a CPU.
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
    """From torch's order (input, forget, cell, output) to (-2 cell, input, forget, output).

    Every gate is then a sigmoid, and those that the cell state depends on are adjacent.
    """
    enter, forget, cell, leave = weight.chunk(4)
    return torch.cat([-2.0 * cell, enter, forget, leave])


# Rows that are worked on at once outside of the recursion: few enough to stay in the cache.
_ROWS = 4096


# Numbers of gates (a quarter of a gigabyte in float32) above which a backward pass computes them
# again, a block at once, instead of keeping them: about a tenth more time, a quarter less memory.
_GATES = 2**26


def _blocks(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut consecutive steps into blocks of about the same number of rows."""
    blocks: list[tuple[int, ...]] = []
    block: list[int] = []
    for n in counts:
        block.append(n)
        if sum(block) >= _ROWS:
            blocks.append(tuple(block))
            block = []
    return [*blocks, tuple(block)] if block else blocks


class PackedLSTM(torch.autograd.Function):
    """Forward and backward pass of a packed LSTM, written out.

    Next to a graph of one node an operation this saves the nodes; next to the fused kernels of
    a library it saves the padding and the derivative by the inputs, which are data. Everything
    outside the recursion is computed for a block of steps at once.

    ``tanh(x) = 1 - 2 sigmoid(-2 x)``, and torch's sigmoid takes a fifth of the time of its tanh
    on a CPU. So there are sigmoids only, and cell states ``c`` are walked as ``d = -2 c``: with
    gates s (of -2 times the argument of the new value's tanh), i, f, o the step is
    ``d = f d + 4 i s - 2 i`` and ``h = o - 2 o sigmoid(d)``.
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
        """Hidden states (n_rows, hidden); then, to keep, d of every block, and maybe gates."""
        size = w_state.shape[1]
        output = rows.new_empty(rows.shape[0], size)
        into, onward = w_in.t().contiguous(), w_state.t().contiguous()
        blocks = _blocks(counts)
        sizes = [sum(block) for block in blocks]
        doubled, cells, gates = -2.0 * cell, [], []
        for block, x, after in zip(blocks, rows.split(sizes), output.split(sizes), strict=True):
            together = torch.addmm(bias, x, into)
            after_each, kept = after.split(block), rows.new_empty(x.shape[0], size)
            steps = zip(block, together.split(block), after_each, kept.split(block), strict=True)
            for n, gate, then, stay in steps:
                new, enter, forget, leave = (
                    gate.addmm_(hidden[:n], onward).sigmoid_().split(size, 1)
                )
                torch.mul(forget, doubled[:n], out=stay).addcmul_(enter, new, value=4.0)
                doubled = stay.sub_(enter, alpha=2.0)
                torch.sigmoid(doubled, out=then)
                hidden = torch.addcmul(leave, leave, then, value=-2.0, out=then)
            if keep:
                cells.append(kept)
            if keep and rows.shape[0] * w_state.shape[0] <= _GATES:
                gates.append(together)
        return output, *cells, *gates

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the backward pass reads; cells and gates have no gradient."""
        *operands, counts, _ = inputs
        ctx.counts = counts
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*operands, *output)

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
        """Walk back through the blocks, and through the steps of each."""
        if above is None:
            return (None,) * 8
        rows, hidden, cell, w_in, w_state, bias, output, *kept = ctx.saved_tensors
        blocks = _blocks(ctx.counts)
        sizes = [sum(block) for block in blocks]
        cells, gates = kept[: len(blocks)], kept[len(blocks) :]
        hiddens, inputs, aboves = output.split(sizes), rows.split(sizes), above.split(sizes)
        d_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        # inputs by gates: a product whose last side is a multiple of a register's width is faster
        d_w_in, d_w_state = (w.new_zeros(w.shape[::-1]) for w in (w_in, w_state))
        d_bias = w_in.new_zeros(w_in.shape[0])
        nothing = rows.new_zeros(0, w_state.shape[1])
        carried, first = (nothing, nothing), (hidden, -2.0 * cell)
        for i in range(len(blocks) - 1, -1, -1):
            # the last step of the block before, or the states before the first row
            last = None if i == 0 else blocks[i - 1][-1]
            starts = first if last is None else (hiddens[i - 1][-last:], cells[i - 1][-last:])
            states = _before(blocks[i], hiddens[i], starts[0])
            opened = gates[i] if gates else _gates(inputs[i], states, w_in, w_state, bias)
            slopes = _slopes(opened, cells[i], _before(blocks[i], cells[i], starts[1]))
            d_gates, carried = _back(blocks[i], slopes, aboves[i], w_state, carried)
            d_w_state.addmm_(states.t(), d_gates)
            d_w_in.addmm_(inputs[i].t(), d_gates)
            d_bias += d_gates.sum(0)
            if d_rows is not None:
                torch.mm(d_gates, w_in, out=d_rows.split(sizes)[i])
        d_hidden, d_doubled = carried
        weights = d_w_in.t(), d_w_state.t(), d_bias
        return d_rows, d_hidden, -2.0 * d_doubled, *weights, None, None


def _gates(rows: Tensor, states: Tensor, w_in: Tensor, w_state: Tensor, bias: Tensor) -> Tensor:
    """Compute the gates of a block's rows (n_rows, 4 hidden) given the states before each."""
    return torch.addmm(bias, rows, w_in.t()).addmm_(states, w_state.t()).sigmoid_()


def _before(block: tuple[int, ...], states: Tensor, start: Tensor) -> Tensor:
    """States before every row of a block, from those after its rows and before its first."""
    steps = (start, *states.split(block)[:-1])
    return torch.cat([state[:n] for n, state in zip(block, steps, strict=True)])


def _slopes(gates: Tensor, cells: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute derivatives of a block's steps, each step separately; d is -2 c.

    Returns
    -------
    gates : Tensor of shape (n_rows, 4 hidden)
        Of d by what enters the first three gates, of the hidden state by what enters the fourth.
    squashed : Tensor of shape (n_rows, hidden)
        Of the hidden state by d.
    forget : Tensor of shape (n_rows, hidden)
        Of d by the one before.
    """
    new, enter, forget, leave = gates.chunk(4, 1)
    slopes, after = torch.empty_like(gates), cells.sigmoid()
    by_new, by_enter, by_forget, by_leave = slopes.chunk(4, 1)
    torch.mul(enter, 4.0, out=by_new)
    torch.sub(new, 0.5, out=by_enter).mul_(4.0)
    by_forget.copy_(before)
    torch.mul(after, -2.0, out=by_leave).add_(1.0)
    _sigmoid_backward(slopes, gates, grad_input=slopes)
    return slopes, _sigmoid_backward(-2.0 * leave, after, grad_input=after), forget


def _back(
    block: tuple[int, ...],
    slopes: tuple[Tensor, Tensor, Tensor],
    above: Tensor,
    w_state: Tensor,
    carried: tuple[Tensor, Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Gradients by what enters a block's gates, and by the states h and d before the block.

    ``carried`` are those by the states after it. Overwrites the first of the slopes.
    """
    by_gates = slopes[0].view(len(above), 4, w_state.shape[1])
    each = [table.split(block) for table in (by_gates, *slopes[1:], above)]
    d_hidden, d_cell = carried
    for gate, squashed, forget, own in list(zip(*each, strict=True))[::-1]:
        n, later = own.shape[0], d_hidden.shape[0]
        if later == n:
            d_hidden = d_hidden.add_(own)
            d_cell = d_cell.addcmul_(d_hidden, squashed)
        else:
            whole = own.clone()
            whole[:later] += d_hidden
            total = whole * squashed
            total[:later] += d_cell
            d_hidden, d_cell = whole, total
        gate[:, :3].mul_(d_cell.unsqueeze(1))
        gate[:, 3].mul_(d_hidden)
        d_cell, d_hidden = d_cell * forget, gate.flatten(1) @ w_state
    return slopes[0], (d_hidden, d_cell)
