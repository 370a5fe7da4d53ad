"""Features per unit of what training saw."""

import torch

from rvrae_pyro.nn.standardise import Standardise


def test_training_rows_get_mean_zero_and_spread_one() -> None:
    rows = 20.0 + 5.0 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    layer = Standardise(3)
    torch.testing.assert_close(layer(rows), rows)
    layer.take(rows)
    out = layer(rows)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(3))


def test_a_constant_feature_becomes_zero_and_no_row_changes_nothing() -> None:
    layer = Standardise(1)
    layer.take(torch.full((9, 1), 7.0))
    assert layer(torch.tensor([7.0])).item() == 0.0
    layer.take(torch.empty(0, 1))
    assert layer.center.item() == 7.0


def test_constants_are_saved_and_not_trained() -> None:
    layer = Standardise(2)
    assert set(layer.state_dict()) == {"center", "spread"}
    assert not list(layer.parameters())
