"""The packed LSTM against torch's own, asset by asset."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rvrae_pyro.data.batch import pack
from rvrae_pyro.nn.lstm import run_lstm_packed

MASKS = st.integers(0, 2**31).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(0, 8), st.integers(1, 6))
)


def random_mask(seed: int, n_times: int, n_assets: int) -> torch.Tensor:
    """Random cells, with gaps and assets that are never listed."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n_times, n_assets, generator=rng) < torch.rand(n_assets, generator=rng)


@given(MASKS)
def test_rows_are_the_listed_cells_each_asset_in_time_order(drawn):
    listed = random_mask(*drawn)
    cells, counts, assets = pack(listed)
    n_assets = listed.shape[1]
    expected = listed.reshape(-1).nonzero().squeeze(-1)
    assert torch.equal(cells.sort().values, expected)
    assert list(counts) == sorted(counts, reverse=True)
    for position, rows in enumerate(cells.split(counts)):
        assert torch.equal(rows % n_assets, assets[: len(rows)])
        before = torch.stack([listed[: c // n_assets, c % n_assets].sum() for c in rows])
        assert bool((before == position).all())


def test_a_panel_without_gaps_is_not_reordered():
    cells, counts, assets = pack(torch.ones(5, 3, dtype=torch.bool))
    assert torch.equal(cells, torch.arange(15))
    assert counts == (3,) * 5
    assert torch.equal(assets, torch.arange(3))


def by_asset(lstm, x, listed, state):
    """Torch's own layer over each asset's listed months."""
    output = x.new_zeros(*listed.shape, lstm.hidden_size)
    for i in range(listed.shape[1]):
        months = listed[:, i].nonzero().squeeze(-1)
        if len(months):
            start = tuple(s[i].reshape(1, 1, -1) for s in state)
            ran = lstm(x[months, i].unsqueeze(1), start)[0].squeeze(1)
            output = output.index_put((months, torch.tensor(i)), ran)
    return output


@pytest.mark.parametrize("seed", range(4))
def test_values_and_all_gradients_are_those_of_torchs_layer(seed):
    torch.manual_seed(seed)
    listed = random_mask(seed, 9, 7)
    lstm = torch.nn.LSTM(3, 5).double()
    x = torch.randn(9, 7, 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(9, 7, 5, dtype=torch.float64)
    wanted = (x, *state, *lstm.parameters())
    expected = by_asset(lstm, x, listed, state)
    slopes = torch.autograd.grad((expected * weight).sum(), wanted)

    cells, counts, assets = pack(listed)
    start = (state[0][assets], state[1][assets])
    rows = run_lstm_packed(lstm, x.reshape(63, 3)[cells], counts, start)
    got = torch.zeros(63, 5, dtype=torch.float64).index_copy(0, cells, rows).reshape(9, 7, 5)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad((got * weight).sum(), wanted)
    for slope, other in zip(found, slopes, strict=True):
        torch.testing.assert_close(slope, other, rtol=0, atol=1e-11)


def test_a_run_without_gradient_says_the_same_bits():
    torch.manual_seed(0)
    lstm, rows, state = torch.nn.LSTM(3, 5), torch.randn(9, 3), (torch.zeros(4, 5),) * 2
    with torch.no_grad():
        plain = run_lstm_packed(lstm, rows, (4, 3, 2), state)
    assert torch.equal(plain, run_lstm_packed(lstm, rows, (4, 3, 2), state))


def test_no_rows_give_no_states():
    nothing = run_lstm_packed(torch.nn.LSTM(3, 5), torch.zeros(0, 3), (), (torch.zeros(0, 5),) * 2)
    assert nothing.shape == (0, 5)


def test_many_weights_at_once_are_run_one_by_one():
    torch.manual_seed(0)
    lstm, rows, state = torch.nn.LSTM(3, 5), torch.randn(9, 3), (torch.zeros(4, 5),) * 2
    scale = torch.tensor([1.0, 0.5])

    def scaled(factor):
        return run_lstm_packed(lstm, rows * factor, (4, 3, 2), state)

    many = torch.vmap(scaled)(scale)
    one_by_one = torch.stack([scaled(factor) for factor in scale])
    torch.testing.assert_close(many, one_by_one)


def test_many_blocks_of_steps_say_what_one_says(monkeypatch):
    torch.manual_seed(0)
    lstm, counts = torch.nn.LSTM(3, 5).double(), (6, 6, 5, 3, 3, 1)
    rows = torch.randn(sum(counts), 3, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(sum(counts), 5, dtype=torch.float64)
    wanted = (rows, *state, *lstm.parameters())
    answers = []
    for n_rows, n_gates in ((4096, 1000), (8, 1000), (1, 1000), (4096, 0), (8, 0)):
        monkeypatch.setattr("rvrae_pyro.nn.lstm._ROWS", n_rows)
        monkeypatch.setattr("rvrae_pyro.nn.lstm._GATES", n_gates)  # 0: computed anew
        output = run_lstm_packed(lstm, rows, counts, state)
        answers.append((output, *torch.autograd.grad((output * weight).sum(), wanted)))
    for other in answers[1:]:
        for got, expected in zip(other, answers[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_weights_may_be_given_from_outside():
    """As ``torch.func.functional_call`` does, whose weights are no parameters."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 4)

        def forward(self, rows, state):
            return run_lstm_packed(self.lstm, rows, (3, 2), state)

    wrapped, rows, state = Wrapped(), torch.randn(5, 3), (torch.zeros(3, 4), torch.zeros(3, 4))
    weights = {name: w.detach().clone() for name, w in wrapped.named_parameters()}
    given = torch.func.functional_call(wrapped, weights, (rows, state))
    assert torch.equal(given, wrapped(rows, state))
