"""Products of loadings against the same products as anyone would write them."""

from __future__ import annotations

import pytest
import torch

from rvrae_pyro.nn.asset_sums import along_assets, along_factors, information, spread_of


def _normal(*shape):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# batch shapes of loadings and of what meets them; particles may be on either side
BATCHES = [
    ((), ()),
    ((4,), (4,)),
    ((2, 4), (4,)),
    ((4,), (2, 4)),
    ((4,), (3, 2, 4)),
    ((), (2,)),
    ((2, 1), (2, 4)),
    ((1,), (2, 4)),
]


@pytest.mark.parametrize(("of_beta", "of_other"), BATCHES)
def test_equal_the_textbook_products(of_beta, of_other):
    beta, values, factors = _normal(*of_beta, 6, 3), _normal(*of_other, 6), _normal(*of_other, 3)
    root = _normal(*of_other, 3, 3)
    covariance = root @ root.mT
    for ours, theirs in [
        (along_factors(beta, factors), (beta @ factors.unsqueeze(-1)).squeeze(-1)),
        (along_assets(beta, values), (beta.mT @ values.unsqueeze(-1)).squeeze(-1)),
        (information(beta, values), beta.mT @ torch.diag_embed(values) @ beta),
        (spread_of(beta, covariance), (beta @ covariance @ beta.mT).diagonal(dim1=-2, dim2=-1)),
    ]:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("of_beta", "of_other"), BATCHES)
@pytest.mark.parametrize("product", [along_assets, information])
def test_gradients_are_exact_once_and_twice(product, of_beta, of_other):
    operands = (_normal(*of_beta, 5, 2).requires_grad_(), _normal(*of_other, 5).requires_grad_())
    assert torch.autograd.gradcheck(product, operands, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(product, operands)


@pytest.mark.parametrize("product", [along_assets, information])
def test_runs_under_vmap(product):
    beta, values = _normal(3, 5, 2), _normal(3, 5)
    together = torch.func.vmap(product)(beta, values)
    torch.testing.assert_close(together, product(beta, values))


def test_loadings_are_not_repeated_for_every_particle():
    beta, factors = _normal(4, 50, 3), _normal(200, 4, 3)
    largest = max(beta.numel(), factors.numel(), 200 * 4 * 50)
    with torch.profiler.profile(profile_memory=True) as seen:
        along_factors(beta, factors)
    assert max(event.cpu_memory_usage for event in seen.events()) <= 8 * largest


def test_a_month_without_assets_says_nothing():
    beta, values = _normal(2, 0, 3), _normal(2, 0)
    assert not along_assets(beta, values).any()
    assert not information(beta, values).any()
