"""Sequence networks: windows without copies, attention and its prior by hand."""

import numpy as np
import pytest
import torch

from rvrae_pyro.baselines.alstm import Network as Attentive
from rvrae_pyro.baselines.network_training import last_months, over_buckets, target_months
from rvrae_pyro.baselines.transformer import Network as Encoder
from rvrae_pyro.data import to_batch
from tests.baselines.helpers import market


@pytest.fixture(scope="module")
def batch():
    return to_batch(market(), dtype=torch.float64)


def test_windows_are_views_where_every_asset_is_listed(batch):
    full = batch.select(batch.listed.all(0))
    block, first = target_months(full, 8, 12, 5)
    assert first == 4
    assert block.n_times == 8
    start = full.characteristics.untyped_storage().data_ptr()
    assert block.characteristics.untyped_storage().data_ptr() == start
    block, assets = last_months(batch, 2, 5)
    assert block.n_times == 3
    assert bool(batch.listed[2, assets].all())
    assert len(assets) == int(batch.listed[2].sum())


def test_sequences_start_at_the_first_listed_month_and_skip_gaps(batch):
    lengths = {}

    def read(inputs, months):
        for column in range(inputs.shape[1]):
            lengths[tuple(months[:, column].tolist())] = inputs[:, column]
        order = torch.arange(len(inputs)).double().reshape(-1, 1, 1)
        return order.expand(*inputs.shape[:2], 1)

    position = over_buckets(batch, read, 1).squeeze(-1)
    expected = (batch.listed.cumsum(0) - 1).double() * batch.listed
    torch.testing.assert_close(position, expected)


def test_recurrent_features_equal_one_asset_at_a_time(batch):
    network = Attentive(4, 6, 2, window=4).double()
    forecast = network(batch)
    for i in range(batch.n_assets):
        months = batch.listed[:, i].nonzero().squeeze(-1)
        states, _ = network.rnn(network.embed(batch.characteristics[months, i]).unsqueeze(1))
        states = states.squeeze(1)
        scores = network.score(states).squeeze(-1)
        for j, t in enumerate(months.tolist()):
            near = [m for m in range(j + 1) if t - int(months[m]) < 4]
            weights = scores[near].softmax(0)
            context = (weights.unsqueeze(1) * states[near]).sum(0)
            expected = network.head(torch.cat([states[j], context]))
            torch.testing.assert_close(forecast[t, i], expected.squeeze(-1))


def test_locality_prior_is_gaussian_at_several_scales(batch):
    network = Encoder(4, 8, 1, n_heads=4, window=8)
    layer = network.layers[0]
    np.testing.assert_allclose(layer.log_scale.detach().exp(), [8, 4, 2, 1])
    age = torch.arange(5).unsqueeze(1) - torch.arange(5)
    prior = layer.prior(age).detach()
    assert prior.shape == (4, 5, 5)
    np.testing.assert_allclose(prior[2, 4, 1], -9 / (2 * 2.0**2))
    assert not prior.diagonal(dim1=1, dim2=2).any()
    assert layer.log_scale.requires_grad


def test_attention_layer_by_hand(batch):
    network = Encoder(4, 8, 1, n_heads=2, window=3).double()
    layer, n_times = network.layers[0], batch.n_times
    forecast = network(batch)
    for i in range(0, batch.n_assets, 3):
        x = network.embed(batch.characteristics[:, i])
        query, key, value = layer.project(x).chunk(3, dim=1)
        for t in batch.listed[:, i].nonzero().squeeze(-1).tolist():
            seen = [s for s in range(max(0, t - 2), t + 1) if batch.listed[s, i]]
            heads = []
            for h in range(2):
                part = slice(4 * h, 4 * h + 4)
                sigma = layer.log_scale[h].exp()
                logits = torch.stack(
                    [
                        query[t, part] @ key[s, part] / 2 - (t - s) ** 2 / (2 * sigma**2)
                        for s in seen
                    ]
                )
                heads.append(logits.softmax(0) @ value[seen][:, part])
            y = layer.after_mix(x[t] + layer.mix(torch.cat(heads)))
            y = layer.after_feed(y + layer.feed(y))
            torch.testing.assert_close(forecast[t, i], network.head(y).squeeze(-1))
    assert n_times == len(forecast)


def test_orthogonal_heads_cost_nothing():
    network = Encoder(4, 4, 1, n_heads=2, window=4).requires_grad_(False)
    layer = network.layers[0]
    with torch.no_grad():
        layer.project.weight[8:] = torch.eye(4)
    assert float(layer.overlap()) == pytest.approx(0.0)
    with torch.no_grad():
        layer.project.weight[8:] = torch.ones(4, 4)
    assert float(layer.overlap()) == pytest.approx(2.0)
    assert float(network.overlap()) == pytest.approx(2.0)


def test_gradients_are_finite_with_gaps_and_padding(batch):
    for network in (Attentive(4, 6, 1, 3), Encoder(4, 8, 2, 2, 3)):
        loss = network.double()(batch)[batch.observed].square().sum()
        loss.backward()
        for weight in network.parameters():
            assert weight.grad is not None
            assert bool(torch.isfinite(weight.grad).all())
