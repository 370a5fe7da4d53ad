"""The conditional autoencoder: its network, its penalty, what it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from rvrae_pyro.baselines import ConditionalAutoencoder, TrainConfig
from rvrae_pyro.baselines.autoencoder import Network
from rvrae_pyro.data import managed_portfolios, split
from rvrae_pyro.data.simulators import simulate_gkx
from rvrae_pyro.evaluation import total_r2
from tests.baselines.helpers import SHORT, market, parts


@pytest.mark.parametrize("hidden", [(), (32,), (32, 16), (32, 16, 8)])
def test_layers_are_those_of_the_paper(hidden):
    network = Network(10, 3, hidden)
    linear = [m.out_features for m in network.beta if isinstance(m, nn.Linear)]
    assert linear == [*hidden, 3]
    assert [type(m) for m in network.beta].count(nn.BatchNorm1d) == len(hidden)
    assert [type(m) for m in network.beta].count(nn.ReLU) == len(hidden)
    assert network.factors.weight.shape == (3, 11)  # a constant among the portfolios


def test_factors_are_a_linear_map_of_managed_portfolios():
    panel = market()
    model = ConditionalAutoencoder(2, (4,), n_members=1, config=SHORT).fit(*parts(panel)[:2])
    portfolios = managed_portfolios(panel).values
    factors = model.factors(panel).values
    known = ~np.isnan(factors).any(1)
    design = np.column_stack([np.ones(known.sum()), portfolios[known]])
    fit = design @ np.linalg.lstsq(design, factors[known], rcond=None)[0]
    np.testing.assert_allclose(fit, factors[known], atol=1e-10)


def test_ca0_loadings_are_linear_in_characteristics():
    panel = market()
    model = ConditionalAutoencoder(2, (), n_members=1, config=SHORT).fit(*parts(panel)[:2])
    beta = model.loadings(panel).values.reshape(-1, 2)
    x = panel.characteristics.values.reshape(-1, 4)
    known = ~np.isnan(x).any(1)
    design = np.column_stack([np.ones(known.sum()), x[known]])
    fit = design @ np.linalg.lstsq(design, beta[known], rcond=None)[0]
    np.testing.assert_allclose(fit, beta[known], atol=1e-10)


def test_penalty_counts_weights_and_no_biases():
    network = Network(3, 1, (2,)).requires_grad_(False)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(-1.0)
    assert float(network.absolute_weights()) == 3 * 2 + 2 + 4


def test_absolute_weights_shrink_with_their_price():
    panel = market()
    totals = []
    for l1 in (0.0, 0.3):
        config = TrainConfig(max_epochs=40, learning_rate=0.01, months=4)
        model = ConditionalAutoencoder(2, (4,), n_members=1, l1=l1, config=config)
        model.fit(parts(panel).train)
        totals.append(float(model._members[0].absolute_weights().detach()))
    assert totals[1] < 0.5 * totals[0]


def test_training_rows_are_the_observed_ones_only():
    """A return that is not observed is as good as an asset that is not there."""
    panel = market()
    train, valid, test = parts(panel)
    gone = train.copy(deep=True)
    gone["characteristics"].values[np.isnan(gone.returns.values)] = np.nan
    settings = {"n_members": 1, "config": SHORT}
    first = ConditionalAutoencoder(2, (4,), **settings).fit(train, valid).predict(test)
    second = ConditionalAutoencoder(2, (4,), **settings).fit(gone, valid).predict(test)
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.statistical
def test_hidden_layer_finds_the_nonlinear_loadings():
    # published: CA1 31.8, CA0 7.9, IPCA 11.9 (K = 3, means over draws with an s.d. of 2 to 3).
    # No linear map of portfolios sees the factor of c1 c2, so factors are refitted, as IPCA's are
    found = []
    for seed in range(3):
        train, valid, test = split(simulate_gkx("nonlinear", seed=seed), 60, 60, 60)
        model = ConditionalAutoencoder(3, n_members=2).fit(train, valid)
        found.append(100 * float(total_r2(test.returns, model.reconstruct(test, "ols"))))
    assert np.mean(found) > 29.8
