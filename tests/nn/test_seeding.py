"""Streams of one's own draw what torch.manual_seed draws, and leave the caller's alone."""

import pytest
import torch

from rvrae_pyro.nn.seeding import seeded


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_draws_are_those_of_manual_seed(seed: int) -> None:
    with seeded(seed):
        drawn = torch.randn(5), torch.distributions.Gamma(2.0, 1.0).sample((5,))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.randn(5), torch.distributions.Gamma(2.0, 1.0).sample((5,))
    assert all(map(torch.equal, drawn, expected))


def test_the_callers_stream_goes_on_also_after_an_error() -> None:
    with seeded(3):
        expected = torch.rand(4)
    with seeded(3):
        first = torch.rand(2)
        with pytest.raises((RuntimeError, NotImplementedError)), seeded(9), seeded(11):
            torch.rand(100, dtype=torch.int64)
        assert torch.equal(torch.cat([first, torch.rand(2)]), expected)
